//! A reconciler over real rows, with simulated pods, and agents that the test plays.

use std::{
    collections::{BTreeMap, HashSet},
    future::Future,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use freehold_access::Actor;
use freehold_app::{
    App, Outcome, Ports,
    fleet::{self, Fleet, JournalLimits, Place},
    ports::{
        AgentError, AgentPort, AuditSigner, ExecRequest, ExecStream, IssuerRefused, Issuers, NoWorkspaces,
        PackedSecret, Revocation, SealError, SecretFields, SecretSealer,
    },
    provider::ProviderNew,
    role::{RoleChange, RoleNew},
    task::{self, TaskNew},
    uploads::ObjectUploads,
};
use freehold_driver_sim::SimDriver;
use freehold_model::{
    EventId, MessageId, OrganizationId, PodId, RoleId, SessionId, TaskId, Timestamp, WorkspaceId,
    audit::AuditEvent,
    checkpoint::{Checkpoint, OpenTurn},
    credential::{self, Credential},
    event::{
        ContentPart, Context, Message, MessageRole, Payload, SessionEvent, StopReason, ToolStatus, Usage,
    },
    provider::Kind,
    secret::Holder,
    task::Task,
    workspace::Workspace,
};
use freehold_pod_api::{AgentInfo, Connection, FromAgent, PROTOCOL, TaskOrder, ToAgent};
use freehold_reconcile::{Gate, GateLinks, Options, Service};
use freehold_store::{AuditFilter, Database, Page, Store};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;
use tokio::{net::UnixStream, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The longest wait for anything.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A way out that leads nowhere: these pods have no listeners.
#[derive(Default)]
pub struct SimGate {
    /// Whose policy is in force.
    pub in_force: Mutex<HashSet<WorkspaceId>>,
}

#[async_trait]
impl Gate for SimGate {
    async fn open(&self, _: &fleet::Look, _: PodId, _: GateLinks) -> std::io::Result<()> {
        Ok(())
    }
    async fn attribute(&self, _: &fleet::Look, _: PodId, _: Option<TaskId>) -> std::io::Result<()> {
        Ok(())
    }
    async fn publish(&self, look: &fleet::Look) -> std::io::Result<()> {
        self.in_force.lock().unwrap().insert(look.workspace.id);
        Ok(())
    }
    async fn close(&self, workspace: WorkspaceId, _: PodId) {
        self.in_force.lock().unwrap().remove(&workspace);
    }
    fn forget(&self, _: WorkspaceId) {}
}

struct NoAgents;

#[async_trait]
impl AgentPort for NoAgents {
    async fn session_view(&self, _: &Workspace) -> Result<serde_json::Value, AgentError> {
        Err(AgentError::NotConnected)
    }
    async fn cancel(&self, _: &Workspace) -> Result<(), AgentError> {
        Ok(())
    }
    async fn exec(&self, _: &Workspace, _: ExecRequest) -> Result<ExecStream, AgentError> {
        Err(AgentError::NotConnected)
    }
}

struct NoSecrets;

#[async_trait]
impl SecretSealer for NoSecrets {
    async fn seal(&self, _: OrganizationId, _: Holder, _: &[u8]) -> Result<Vec<u8>, SealError> {
        Err(SealError::NotConfigured)
    }

    async fn discard(&self, _: OrganizationId, _: Holder, _: &[u8]) -> Result<(), SealError> {
        Err(SealError::NotConfigured)
    }

    fn reference(&self, _: &[u8]) -> Option<String> {
        None
    }
}

impl AuditSigner for NoSecrets {
    fn public_key(&self) -> [u8; 32] {
        [0; 32]
    }

    fn sign(&self, _: &[u8]) -> Vec<u8> {
        Vec::new()
    }
}

#[async_trait]
impl Issuers for NoSecrets {
    fn pack(&self, _: credential::Kind, _: SecretFields) -> Result<PackedSecret, BTreeMap<String, String>> {
        Err(BTreeMap::new())
    }

    async fn client_of(&self, _: &Credential, _: &[u8], _: &Credential) -> Result<Vec<u8>, SealError> {
        Err(SealError::NotConfigured)
    }

    fn authorization_url(&self, _: &Credential, _: &str, _: &str, _: &str) -> Option<String> {
        None
    }

    async fn exchange(
        &self,
        _: &Credential,
        _: Vec<u8>,
        _: &str,
        _: &str,
        _: &str,
    ) -> Result<Vec<u8>, IssuerRefused> {
        Err(IssuerRefused("offline"))
    }

    fn refusal(&self, _: &str) -> &'static str {
        "refused"
    }

    async fn revocation(&self, _: &Credential, _: &[u8]) -> Option<Revocation> {
        None
    }
}

pub struct World {
    pub app: App,
    pub fleet: Fleet,
    pub driver: Arc<SimDriver>,
    pub gate: Arc<SimGate>,
    pub owner: Arc<Actor>,
    pub role: RoleId,
    dir: TempDir,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(SimDriver::new().unwrap()).await
    }

    pub async fn with(driver: SimDriver) -> Self {
        Self::of(driver, JournalLimits::default()).await
    }

    pub async fn of(driver: SimDriver, journal: JournalLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::Sqlite { path: dir.path().join("store.db") };
        let store = Store::open(&freehold_store::Options::new(database)).unwrap();
        let uploads =
            Arc::new(ObjectUploads::new(Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap())));
        let settings = fleet::Settings { journal, ..fleet::Settings::default() };
        let fleet = Fleet::new(store.clone(), uploads.clone(), settings);
        let ports = Ports {
            agent: Arc::new(NoAgents),
            sealer: Arc::new(NoSecrets),
            uploads,
            counts: Arc::new(freehold_app::ports::NoCounts),
            signer: Arc::new(NoSecrets),
            issuers: Arc::new(NoSecrets),
            policy: Arc::new(NoWorkspaces),
        };
        let settings = freehold_app::Settings {
            task_timeout_seconds: 3600,
            idle_timeout_seconds: 0,
            public_url: "http://freehold.test".into(),
        };
        let app = App::new(store, ports, settings);
        let (kept, token) = std::sync::mpsc::channel();
        let keep = move |token: &freehold_app::Secret| {
            kept.send(token.expose().to_owned()).map_err(std::io::Error::other)
        };
        app.bootstrap("owner@example.test", keep).await.unwrap();
        let owner = app.authenticate(&token.recv().unwrap()).await.unwrap().unwrap();
        let role = role(&app, &owner).await;
        let driver = Arc::new(driver);
        let gate = Arc::new(SimGate::default());
        let (stop, running) = run(&fleet, &driver, &gate);
        Self { app, fleet, driver, gate, owner, role, dir, stop, running }
    }

    /// Goes on with a new reconciler after a [stop](Self::stop).
    pub fn go_on(&mut self) {
        (self.stop, self.running) = run(&self.fleet, &self.driver, &self.gate);
    }

    /// Ends the reconciler; what it has under way is finished.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        timeout(WAIT_MAX, &mut self.running).await.expect("the reconciler does not end").unwrap();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A task in a new workspace.
    pub async fn task(&self) -> Task {
        let place = task::Place { role_id: Some(self.role), ..task::Place::default() };
        done(self.app.task_create(&self.owner, place, work(Vec::new()), None).await.unwrap())
    }

    /// A further task in a workspace.
    pub async fn next_task(&self, workspace: WorkspaceId, files: Vec<task::File>) -> Task {
        done(self.app.task_submit(&self.owner, workspace, false, work(files), None).await.unwrap())
    }

    /// A further task, with which a new session begins.
    pub async fn task_in_new_session(&self, workspace: WorkspaceId) -> Task {
        done(self.app.task_submit(&self.owner, workspace, true, work(Vec::new()), None).await.unwrap())
    }

    pub async fn workspace(&self, id: WorkspaceId) -> Workspace {
        self.app.workspace_view(&self.owner, id).await.unwrap()
    }

    pub async fn task_now(&self, task: &Task) -> Task {
        self.app.task_view(&self.owner, task.workspace_id, task.id).await.unwrap()
    }

    pub async fn change_role(&self, change: RoleChange) {
        self.app.role_update(&self.owner, self.role, change).await.unwrap();
    }

    /// Waits until the workspace is as `fits` says.
    pub async fn workspace_when(&self, id: WorkspaceId, fits: impl Fn(&Workspace) -> bool) -> Workspace {
        until("the workspace", async || Some(self.workspace(id).await).filter(&fits)).await
    }

    /// Plays the agent of the pod that the workspace wants; answers the welcome too.
    pub async fn agent(&self, workspace: WorkspaceId) -> (Agent, Option<TaskOrder>) {
        let (pod, stream) = until("the pod", async || {
            let pod = self.workspace(workspace).await.pod_id?;
            Some((pod, self.driver.connect_agent(pod).ok()?))
        })
        .await;
        stream.set_nonblocking(true).unwrap();
        let connection = Connection::new(UnixStream::from_std(stream).unwrap());
        let mut agent = Agent { connection, pod, request: 0 };
        let info = AgentInfo { name: "played".into(), version: "1".into() };
        agent.send(FromAgent::Hello { protocols: vec![PROTOCOL], agent: info, pod_id: pod }).await;
        let ToAgent::Welcome { task, .. } = agent.receive().await else { panic!("not welcome") };
        (agent, task.map(|task| *task))
    }

    /// The workspace's rows of activity.
    pub async fn rows(&self, workspace: WorkspaceId) -> Vec<AuditEvent> {
        let page = Page::first(1000);
        let rows =
            self.app.workspace_activity_list(&self.owner, workspace, AuditFilter::default(), page).await;
        rows.unwrap().rows.into_iter().map(|row| row.event).collect()
    }

    pub fn place(&self, workspace: WorkspaceId) -> Place {
        Place { organization_id: self.owner.organization(), workspace_id: workspace }
    }
}

fn run(fleet: &Fleet, driver: &Arc<SimDriver>, gate: &Arc<SimGate>) -> (CancellationToken, JoinHandle<()>) {
    let options = Options { interval: Duration::from_millis(100), ..Options::default() };
    let service = Service::new(options, fleet.clone(), driver.clone(), gate.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn(service.run(stop.clone().cancelled_owned()));
    (stop, running)
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The agent of a pod, played by the test.
pub struct Agent {
    pub connection: Connection<UnixStream>,
    pub pod: PodId,
    request: u64,
}

impl Agent {
    pub async fn send(&mut self, message: FromAgent) {
        self.connection.send(&message).await.unwrap();
    }

    pub async fn receive(&mut self) -> ToAgent {
        let received = timeout(WAIT_MAX, self.connection.receive()).await.expect("nothing was said");
        received.unwrap().expect("the connection was closed")
    }

    /// The next task that is handed over.
    pub async fn order(&mut self) -> TaskOrder {
        loop {
            if let ToAgent::Deliver { task } = self.receive().await {
                return *task;
            }
        }
    }

    /// Appends events of the task's turn, which are committed.
    pub async fn append(&mut self, task: &Task, payloads: Vec<Payload>) {
        self.request += 1;
        let events = payloads.into_iter().map(|payload| event(task.session_id, task.id, payload)).collect();
        let append = FromAgent::Append { request: self.request, session_id: task.session_id, events };
        self.send(append).await;
        loop {
            match self.receive().await {
                ToAgent::Appended { request, .. } if request == self.request => return,
                ToAgent::AppendRefused { reason, .. } => panic!("refused: {reason:?}"),
                _ => {}
            }
        }
    }
}

/// An event of a task's turn.
pub fn event(session_id: SessionId, task: TaskId, payload: Payload) -> SessionEvent {
    SessionEvent {
        id: EventId::from_uuid(Uuid::now_v7()),
        session_id,
        sequence: None,
        ts: Timestamp::now(),
        context: Context { turn_id: Some(task.into()), input_message_id: None },
        payload,
    }
}

pub fn turn_started(task: &Task) -> Payload {
    Payload::TurnStarted { turn_id: task.id.into(), input_message_id: MessageId::from_uuid(Uuid::now_v7()) }
}

pub fn tool_completed(result: String) -> Payload {
    Payload::ToolCompleted {
        tool_call_id: "call".into(),
        tool_name: "bash".into(),
        status: ToolStatus::Success,
        result,
        duration_ms: 1,
    }
}

/// An answer of the model and its id.
pub fn said() -> (MessageId, Payload) {
    let id = MessageId::from_uuid(Uuid::now_v7());
    let content = vec![ContentPart::Text { text: "an answer".into() }];
    let message = Message { id, role: MessageRole::Agent, content };
    let model = "scripted".to_owned();
    (id, Payload::OutputMessageCompleted { message, model, usage: None, stop_reason: StopReason::EndTurn })
}

/// A compaction that keeps the conversation from this message on.
pub fn compacted(task: &Task, kept: MessageId) -> Payload {
    let input = Message { id: kept, role: MessageRole::User, content: Vec::new() };
    let open = OpenTurn {
        turn_id: task.id.into(),
        input,
        started_at: Timestamp::now(),
        iterations: 1,
        usage: Usage::default(),
        call_ids: Vec::new(),
    };
    Payload::ContextCompacted {
        summary: "so far".into(),
        first_kept_message_id: Some(kept),
        messages_before: 2,
        messages_after: 2,
        usage: None,
        checkpoint: Some(Box::new(Checkpoint {
            iterations: 1,
            compactions: 0,
            turns: Vec::new(),
            open,
            inputs: Vec::new(),
        })),
    }
}

pub fn turn_cancelled(task: &Task) -> Payload {
    Payload::TurnCancelled { turn_id: task.id.into(), reason: "the test says so".into() }
}

/// Waits for an answer of `probe`.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let waiting = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(WAIT_MAX, waiting).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

fn work(files: Vec<task::File>) -> TaskNew {
    TaskNew {
        description: "work".into(),
        thinking_effort: None,
        max_continuations: None,
        max_context_tokens: None,
        metadata: None,
        files,
    }
}

async fn role(app: &App, owner: &Actor) -> RoleId {
    let provider = ProviderNew {
        name: "models".into(),
        kind: Kind::Anthropic,
        domain: "models.test".into(),
        display_name: None,
        credential_name: None,
        default_model: Some("scripted".into()),
        capabilities: None,
        config: BTreeMap::new(),
    };
    let provider = done(app.provider_create(owner, provider, None).await.unwrap());
    let role = RoleNew { name: "worker".into(), provider_id: provider.id, rest: RoleChange::default() };
    done(app.role_create(owner, role, None).await.unwrap()).id
}

fn done<T>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Done(done) => done,
        Outcome::Replayed(_) => panic!("nothing is replayed here"),
    }
}
