//! A control plane in memory, a scripted model, and the agent as a process of its own.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use freehold_model::{
    PodId, SessionId, TaskId, UploadId, WorkspaceId,
    event::{Payload, SessionEvent, ToolStatus},
    provider,
};
use freehold_pod_api::{
    AgentConfig, AppendRefusal, Connection, FromAgent, ModelBackend, PROTOCOL, SessionPosition, TaskOrder,
    ToAgent,
};
use freehold_sim_model::{Handle, Scenario};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{broadcast, watch},
    task::JoinHandle,
};
use uuid::Uuid;

/// How long anything may take to come true.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The most events in a page: small, so that paging is tried.
const PAGE: usize = 3;

#[derive(Default)]
pub struct Inner {
    pub events: Vec<SessionEvent>,
    pub task: Option<TaskOrder>,
    pub files: HashMap<UploadId, Vec<u8>>,
    pub views: Vec<Value>,
    pub rejects: usize,
    pub welcomes: usize,
    pub repeated: usize,
    pub refuse_appends: bool,
    pub journal_after: u64,
    /// After which sequence each page that was read began.
    pub pages: Vec<u64>,
    /// Break the connection after each append that is new, before it is answered.
    pub lose_answers: bool,
}

/// The control plane's side.
pub struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
    say: broadcast::Sender<ToAgent>,
    session_id: SessionId,
}

impl Shared {
    pub fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no test panics with the lock")
    }

    fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn position(&self, inner: &Inner) -> SessionPosition {
        SessionPosition {
            session_id: self.session_id,
            last_sequence: inner.events.len() as u64,
            journal_after: inner.journal_after,
        }
    }

    fn answer(&self, message: FromAgent) -> Option<ToAgent> {
        let mut inner = self.inner();
        match message {
            FromAgent::Hello { .. } => {
                inner.welcomes += 1;
                let session = self.position(&inner);
                let task = inner.task.clone().map(|order| Box::new(TaskOrder { session, ..order }));
                let workspace_id = WorkspaceId::from_uuid(Uuid::nil());
                let config = Box::new(config());
                Some(ToAgent::Welcome { protocol: PROTOCOL, workspace_id, config, session, task })
            }
            FromAgent::Append { request, events, .. } => {
                if inner.refuse_appends {
                    return Some(ToAgent::AppendRefused {
                        request,
                        reason: AppendRefusal::TurnEnded,
                        detail: None,
                    });
                }
                let sequences = events.into_iter().map(|event| append(&mut inner, event)).collect();
                Some(ToAgent::Appended { request, sequences })
            }
            FromAgent::History { request, after_sequence, .. } => {
                inner.pages.push(after_sequence);
                let after = usize::try_from(after_sequence).expect("small");
                let events: Vec<_> = inner.events.iter().skip(after).take(PAGE).cloned().collect();
                let more = after + events.len() < inner.events.len();
                Some(ToAgent::HistoryPage { request, events, more })
            }
            FromAgent::Fetch { request, upload_id, offset } => {
                use base64::Engine;
                let bytes = inner.files.get(&upload_id).cloned().unwrap_or_default();
                let offset = usize::try_from(offset).expect("small").min(bytes.len());
                let piece = &bytes[offset..bytes.len().min(offset + 10)];
                let end = offset + piece.len() == bytes.len();
                let base64 = base64::engine::general_purpose::STANDARD.encode(piece);
                Some(ToAgent::Chunk { request, base64, end })
            }
            FromAgent::View { view, .. } => {
                inner.views.push(view);
                None
            }
            FromAgent::Reject { .. } => {
                inner.rejects += 1;
                None
            }
        }
    }
}

fn append(inner: &mut Inner, mut event: SessionEvent) -> u64 {
    if let Some(index) = inner.events.iter().position(|known| known.id == event.id) {
        inner.repeated += 1;
        return index as u64 + 1;
    }
    let sequence = inner.events.len() as u64 + 1;
    event.sequence = Some(sequence);
    if matches!(
        event.payload,
        Payload::TurnCompleted { .. } | Payload::TurnFailed { .. } | Payload::TurnCancelled { .. }
    ) {
        inner.task = None;
    }
    if let Payload::ContextCompacted { first_kept_message_id, checkpoint: Some(_), .. } = &event.payload {
        let kept = inner.events.iter().position(|event| match &event.payload {
            Payload::InputMessage { message } | Payload::OutputMessageCompleted { message, .. } => {
                Some(message.id) == *first_kept_message_id
            }
            _ => false,
        });
        inner.journal_after = kept.unwrap_or(inner.events.len()) as u64;
    }
    inner.events.push(event);
    sequence
}

fn config() -> AgentConfig {
    AgentConfig {
        role: "tester".into(),
        description: None,
        environment: "development".into(),
        environment_description: None,
        model: ModelBackend {
            kind: provider::Kind::Anthropic,
            domain: "model.test".into(),
            model: "m".into(),
            config: std::collections::BTreeMap::new(),
        },
        thinking_effort: None,
        max_continuations: Some(20),
        max_context_tokens: None,
    }
}

async fn serve(shared: Arc<Shared>, stream: UnixStream) {
    let (mut reader, mut writer) = Connection::new(stream).split();
    let mut commands = shared.say.subscribe();
    loop {
        let answer = tokio::select! {
            message = reader.receive::<FromAgent>() => match message {
                Ok(Some(message)) => {
                    let before = shared.inner().events.len();
                    let answer = shared.answer(message);
                    let inner = shared.inner();
                    if inner.lose_answers && inner.events.len() > before {
                        drop(inner);
                        return shared.changed();
                    }
                    answer
                }
                Ok(None) | Err(_) => return,
            },
            Ok(command) = commands.recv() => Some(command),
        };
        if let Some(answer) = answer
            && writer.send(&answer).await.is_err()
        {
            return;
        }
        shared.changed();
    }
}

/// A pod with its surroundings.
pub struct Pod {
    pub folder: TempDir,
    pub shared: Arc<Shared>,
    pub model: Handle,
    pub environment: Vec<(String, String)>,
    pub agent: Option<Child>,
    /// Further arguments of the agent.
    pub arguments: Vec<&'static str>,
    /// What the agent is started by.
    pub wrapper: Vec<&'static str>,
    server: Option<JoinHandle<()>>,
}

impl Pod {
    /// A pod whose agent runs, with a model that follows `scenario`.
    pub async fn start(scenario: &Value) -> Self {
        let mut pod = Self::prepare(scenario).await;
        pod.start_server();
        pod.start_agent();
        pod
    }

    /// The same, with nothing running but the model.
    pub async fn prepare(scenario: &Value) -> Self {
        let scenario = Scenario::parse(&scenario.to_string()).expect("a scenario");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let model = freehold_sim_model::serve(listener, scenario, None).expect("a model");
        let shared = Arc::new(Shared {
            inner: Mutex::default(),
            changed: watch::Sender::new(0),
            say: broadcast::Sender::new(64),
            session_id: SessionId::from_uuid(Uuid::now_v7()),
        });
        let folder = tempfile::tempdir().expect("a folder");
        Self {
            folder,
            shared,
            model,
            environment: Vec::new(),
            agent: None,
            arguments: Vec::new(),
            wrapper: Vec::new(),
            server: None,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn start_server(&mut self) {
        let listener = UnixListener::bind(self.path("pod-api")).expect("a socket");
        let shared = self.shared.clone();
        self.server = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(shared.clone(), stream));
            }
        }));
    }

    /// Takes the control plane away, its connections with it.
    pub async fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        std::fs::remove_file(self.path("pod-api")).expect("the socket was there");
    }

    pub fn start_agent(&mut self) {
        let mut program = std::env::current_exe().expect("this test");
        program.pop();
        program.pop();
        program.push("examples/freehold-agent");
        let mut command = match self.wrapper.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = command
            .args(["agent", "--pod-api", "pod-api", "--data", "data", "--model-url"])
            .arg(format!("http://{}/", self.model.address()))
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .env("FREEHOLD_POD_ID", PodId::from_uuid(Uuid::nil()).to_string())
            .env("AGENT_SECRET", "hush")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .spawn()
            .expect("the example `freehold-agent` is built");
        self.agent = Some(child);
    }

    /// Whether this machine lets this user start anything by the wrapper.
    pub fn can_wrap(&self) -> bool {
        let tried = Command::new(self.wrapper[0])
            .args(&self.wrapper[1..])
            .arg("/bin/true")
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    }

    /// Kills the agent with a signal it cannot catch.
    pub fn kill_agent(&mut self) {
        let mut child = self.agent.take().expect("it runs");
        child.kill().expect("ours");
        child.wait().expect("ours");
    }

    /// Hands a task over.
    pub fn deliver(&self, change: impl FnOnce(&mut TaskOrder)) -> TaskId {
        let mut inner = self.shared.inner();
        let mut order = TaskOrder {
            task_id: TaskId::from_uuid(Uuid::now_v7()),
            session: self.shared.position(&inner),
            description: "do it".into(),
            thinking_effort: None,
            max_continuations: None,
            max_context_tokens: None,
            time_left_ms: 600_000,
            files: Vec::new(),
            cancel_requested: false,
        };
        change(&mut order);
        inner.task = Some(order.clone());
        let task_id = order.task_id;
        drop(inner);
        self.say(ToAgent::Deliver { task: Box::new(order) });
        task_id
    }

    pub fn say(&self, message: ToAgent) {
        let _ = self.shared.say.send(message);
    }

    /// Waits until `condition` holds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Inner) -> bool) {
        let mut changed = self.shared.changed.subscribe();
        let wait = async {
            while !condition(&self.shared.inner()) {
                changed.changed().await.expect("the sender lives");
            }
        };
        if tokio::time::timeout(WAIT_MAX, wait).await.is_err() {
            panic!("{what} did not come true; the journal: {:#?}", self.types());
        }
    }

    pub async fn until_welcome(&self, count: usize) {
        self.until("the welcome", |inner| inner.welcomes >= count).await;
    }

    pub async fn until_idle(&self, turns: usize) {
        self.until("the end of the turn", |inner| {
            inner.events.iter().filter(|event| matches!(event.payload, Payload::SessionIdled { .. })).count()
                >= turns
        })
        .await;
    }

    pub async fn until_tool_started(&self) {
        self.until("a started tool", |inner| {
            inner.events.iter().any(|event| matches!(event.payload, Payload::ToolStarted { .. }))
        })
        .await;
    }

    pub fn types(&self) -> Vec<&'static str> {
        self.shared.inner().events.iter().map(|event| event.payload.type_name()).collect()
    }

    /// Status and result of each tool call, in order.
    pub fn results(&self) -> Vec<(ToolStatus, String)> {
        let inner = self.shared.inner();
        let results = inner.events.iter().filter_map(|event| match &event.payload {
            Payload::ToolCompleted { status, result, .. } => Some((*status, result.clone())),
            _ => None,
        });
        results.collect()
    }

    pub fn last(&self, type_name: &str) -> Value {
        let inner = self.shared.inner();
        let event = inner.events.iter().rev().find(|event| event.payload.type_name() == type_name);
        serde_json::to_value(&event.expect("there is one").payload).expect("events serialize")["data"].clone()
    }

    /// Waits for a file that a tool makes.
    pub async fn until_file(&self, name: &str) -> String {
        let path = self.path(name);
        for _ in 0..WAIT_MAX.as_millis() / 5 {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text,
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        panic!("{name} did not appear")
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(mut child) = self.agent.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A call of a tool, for a scenario.
pub fn tool(name: &str, arguments: Value) -> Value {
    json!({"tool": {"name": name, "arguments": arguments}})
}

pub fn bash(command: &str) -> Value {
    tool("bash", json!({"command": command}))
}

/// A model that asks for these tools at once, if any, and then says `done`.
pub fn one_answer(calls: &[Value]) -> Value {
    let mut answers = vec![json!({"steps": [{"text": "done"}]})];
    if !calls.is_empty() {
        answers.insert(0, json!({"steps": calls}));
    }
    json!({"rules": [{"answers": answers}]})
}

/// Runs a task of one answer with these calls; returns the results.
pub async fn results_of(calls: &[Value]) -> Vec<(ToolStatus, String)> {
    let pod = Pod::start(&one_answer(calls)).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    pod.results()
}

/// Waits until a process is gone.
pub async fn until_gone(pid: &str) {
    let path = PathBuf::from("/proc").join(pid.trim()).join("status");
    for _ in 0..WAIT_MAX.as_millis() / 5 {
        match std::fs::read_to_string(&path) {
            Ok(status) if !status.contains("State:\tZ") => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(_) | Err(_) => return,
        }
    }
    panic!("process {pid} is still there")
}
