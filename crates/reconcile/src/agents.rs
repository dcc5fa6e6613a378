//! The agents' connections: handshake, journal, history, files, and questions to the agent.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use freehold_app::fleet::{Appended, Fleet, Place};
use freehold_model::{PodId, TaskId, WorkspaceId, event::SessionEvent};
use freehold_pod_api::{
    AGENT_INFO_CHARS_MAX, APPEND_EVENTS_MAX, AppendRefusal, CHUNK_BYTES_MAX, Connection, EVENT_BYTES_MAX,
    FromAgent, PAGE_EVENTS_MAX, PROTOCOL, Reader, RejectReason, ToAgent,
};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{orders, service::Error};

/// How long a new connection may take to say hello, in seconds.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the agent may take to answer a question, in seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Messages that wait to be written to one agent; who has more to say waits. A page of history may be as long as a frame,
/// so that few are much.
const OUTGOING_MAX: usize = 4;

/// How long the agent may take to read a message; one that does not is disconnected, and learns the rest when it connects
/// again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the reconciler waits for room among [`OUTGOING_MAX`]. It serves other workspaces too.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Questions to one agent that wait for an answer; more are refused.
const QUESTIONS_MAX: usize = 32;

/// The agent of a workspace cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the agent is not connected or does not answer")]
pub struct AgentUnreachable;

/// The connected agents of this process.
#[derive(Debug, Default)]
pub struct Agents {
    connected: Mutex<HashMap<WorkspaceId, Arc<Agent>>>,
}

#[derive(Debug)]
struct Agent {
    pod: PodId,
    /// Tells this connection from a later one of the same pod.
    connection: u64,
    outgoing: mpsc::Sender<ToAgent>,
    /// Ends the connection: something was not said, which the next welcome says.
    give_up: CancellationToken,
    questions: Mutex<HashMap<u64, oneshot::Sender<serde_json::Value>>>,
    next_question: AtomicU64,
}

impl Agents {
    /// Whether the agent of this pod is connected.
    pub fn is_connected(&self, workspace: WorkspaceId, pod: PodId) -> bool {
        self.get(workspace).is_some_and(|agent| agent.pod == pod)
    }

    /// Asks the agent for its session view.
    ///
    /// # Errors
    /// When the agent is not connected, or does not answer in [`ANSWER_TIMEOUT`].
    pub async fn session_view(&self, workspace: WorkspaceId) -> Result<serde_json::Value, AgentUnreachable> {
        let agent = self.get(workspace).ok_or(AgentUnreachable)?;
        let request = agent.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut questions = lock(&agent.questions);
            if questions.len() >= QUESTIONS_MAX {
                return Err(AgentUnreachable);
            }
            questions.insert(request, answer);
        }
        let asked = async {
            agent.outgoing.send(ToAgent::SessionView { request }).await.ok()?;
            answered.await.ok()
        };
        let view = timeout(ANSWER_TIMEOUT, asked).await.ok().flatten();
        lock(&agent.questions).remove(&request);
        view.ok_or(AgentUnreachable)
    }

    /// Asks the agent to end a task after its present step.
    ///
    /// # Errors
    /// When the agent is not connected; it will learn of the cancellation when it connects.
    pub async fn cancel(&self, workspace: WorkspaceId, task: TaskId) -> Result<(), AgentUnreachable> {
        self.send(workspace, ToAgent::Cancel { task_id: task }).await
    }

    /// Sends a message to the agent. One that leaves no room for it is disconnected.
    pub(crate) async fn send(
        &self,
        workspace: WorkspaceId,
        message: ToAgent,
    ) -> Result<(), AgentUnreachable> {
        let agent = self.get(workspace).ok_or(AgentUnreachable)?;
        match timeout(SEND_TIMEOUT, agent.outgoing.send(message)).await {
            Ok(sent) => sent.map_err(|_| AgentUnreachable),
            Err(_) => {
                agent.give_up.cancel();
                Err(AgentUnreachable)
            }
        }
    }

    fn get(&self, workspace: WorkspaceId) -> Option<Arc<Agent>> {
        lock(&self.connected).get(&workspace).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is behind these locks is valid at every point, so that a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves one connection until either side closes it.
pub(crate) async fn serve(
    fleet: &Fleet,
    agents: &Agents,
    place: Place,
    pod: PodId,
    stream: UnixStream,
    look_again: &(dyn Fn() + Send + Sync),
) -> Result<(), Error> {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let mut connection = Connection::new(stream);
    let hello = timeout(HELLO_TIMEOUT, connection.receive::<FromAgent>()).await;
    let Ok(Ok(Some(FromAgent::Hello { protocols, agent: info, pod_id }))) = hello else {
        return Err(Error::BadHandshake);
    };
    if pod_id != pod || !protocols.contains(&PROTOCOL) {
        let reason = format!("this is {pod}, and it speaks version {PROTOCOL}");
        connection.send(&ToAgent::Refused { reason }).await?;
        return Err(Error::BadHandshake);
    }
    if [&info.name, &info.version].into_iter().any(|text| text.chars().count() > AGENT_INFO_CHARS_MAX) {
        return Err(Error::BadHandshake);
    }
    let (outgoing, mut messages) = mpsc::channel(OUTGOING_MAX);
    let agent = Arc::new(Agent {
        give_up: CancellationToken::new(),
        pod,
        connection: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
        outgoing,
        questions: Mutex::default(),
        next_question: AtomicU64::new(1),
    });
    // The welcome goes out before anything else can: the agent is not in the table yet.
    let Some(ready) = fleet.agent_ready(place, pod).await? else {
        connection.send(&ToAgent::Refused { reason: "this pod is not wanted any more".to_owned() }).await?;
        return Ok(());
    };
    connection.send(&orders::welcome(place.workspace_id, ready)).await?;
    tracing::info!(workspace.id = %place.workspace_id, pod.id = %pod, agent.name = info.name, agent.version = info.version, "agent of {pod} connected");
    lock(&agents.connected).insert(place.workspace_id, Arc::clone(&agent));
    let _connected =
        Connected { agents, workspace: place.workspace_id, connection: agent.connection, look_again };
    look_again();

    let (mut reader, mut writer) = connection.split();
    let writing = async {
        while let Some(message) = messages.recv().await {
            timeout(WRITE_TIMEOUT, writer.send(&message)).await.map_err(|_| Error::NotReading)??;
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        read = read(fleet, &agent, place, &mut reader, look_again) => read,
        written = writing => written,
        () = agent.give_up.cancelled() => Err(Error::NotReading),
    }
}

/// Takes the agent out of the table when its connection ends, in whichever way.
struct Connected<'a> {
    agents: &'a Agents,
    workspace: WorkspaceId,
    connection: u64,
    look_again: &'a (dyn Fn() + Send + Sync),
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let mut connected = lock(&self.agents.connected);
        if connected.get(&self.workspace).is_some_and(|current| current.connection == self.connection) {
            connected.remove(&self.workspace);
        }
        drop(connected);
        (self.look_again)();
    }
}

async fn read(
    fleet: &Fleet,
    agent: &Agent,
    place: Place,
    reader: &mut Reader<UnixStream>,
    look_again: &(dyn Fn() + Send + Sync),
) -> Result<(), Error> {
    while let Some(message) = reader.receive::<FromAgent>().await? {
        let answer = match message {
            FromAgent::Hello { .. } => return Err(Error::BadHandshake),
            FromAgent::Append { request, session_id, events } => {
                if events.len() > APPEND_EVENTS_MAX || !events.iter().all(fits_a_page) {
                    return Err(Error::Oversized);
                }
                match fleet.append(place, session_id, events).await? {
                    Appended::Committed { sequences, turn_ended } => {
                        if turn_ended {
                            look_again();
                        }
                        Some(ToAgent::Appended { request, sequences })
                    }
                    Appended::TurnEnded => Some(refused(request, AppendRefusal::TurnEnded, None)),
                    Appended::UnknownSession => Some(refused(request, AppendRefusal::UnknownSession, None)),
                    // The turn did end: by this. Agents that are older than the limit know what to do with it.
                    Appended::TooLong { reason } => {
                        look_again();
                        Some(refused(request, AppendRefusal::TurnEnded, Some(reason)))
                    }
                }
            }
            FromAgent::History { request, session_id, after_sequence } => {
                let (events, more) =
                    fleet.history(place, session_id, after_sequence, PAGE_EVENTS_MAX).await?;
                Some(ToAgent::HistoryPage { request, events, more })
            }
            FromAgent::Fetch { request, upload_id, offset } => {
                let chunk = fleet.upload_chunk(place, upload_id, offset, CHUNK_BYTES_MAX).await?;
                Some(orders::chunk(request, chunk))
            }
            FromAgent::View { request, view } => {
                if let Some(asker) = lock(&agent.questions).remove(&request) {
                    // Whoever asked may have given up; then nobody wants the answer.
                    let _unwanted = asker.send(view);
                }
                None
            }
            FromAgent::Reject { task_id, reason } => {
                reject(fleet, place, task_id, reason).await?;
                look_again();
                None
            }
        };
        if let Some(answer) = answer {
            agent.outgoing.send(answer).await.map_err(|_| Error::Disconnected)?;
        }
    }
    Ok(())
}

const fn refused(request: u64, reason: AppendRefusal, detail: Option<String>) -> ToAgent {
    ToAgent::AppendRefused { request, reason, detail }
}

/// Whether an event can be read again. It may be longer than what came: numbers are written out.
fn fits_a_page(event: &SessionEvent) -> bool {
    serde_json::to_writer(Length(0), event).is_ok()
}

/// Counts bytes, up to [`EVENT_BYTES_MAX`].
struct Length(usize);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        if self.0 > EVENT_BYTES_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn reject(fleet: &Fleet, place: Place, task: TaskId, reason: RejectReason) -> Result<(), Error> {
    let reason = match reason {
        RejectReason::Busy => "the agent was busy with another task",
        RejectReason::FilesUnavailable => "the files of the task could not be put in place",
    };
    fleet.undeliverable(place, task, reason).await?;
    Ok(())
}
