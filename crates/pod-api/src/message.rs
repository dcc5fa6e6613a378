//! The messages, in both directions.

use std::collections::BTreeMap;

use freehold_model::{
    PodId, SessionId, TaskId, UploadId, WorkspaceId, event::SessionEvent, provider, role::ThinkingEffort,
};
use serde::{Deserialize, Serialize};

/// The only protocol version there is. Pods outlive upgrades, so the next one is negotiated by [`FromAgent::Hello`].
pub const PROTOCOL: u32 = 1;

/// The variable of the agent's environment that names its pod.
pub const POD_ID_VARIABLE: &str = "FREEHOLD_POD_ID";

/// The most events in one [`ToAgent::HistoryPage`].
pub const PAGE_EVENTS_MAX: usize = 256;

/// The most events in one [`FromAgent::Append`].
pub const APPEND_EVENTS_MAX: usize = 256;

/// The most bytes of one event, as JSON: it must fit a page of history by itself.
pub const EVENT_BYTES_MAX: usize = crate::FRAME_BYTES_MAX - 64 * 1024;

/// The most characters of an agent's name, and of its version.
pub const AGENT_INFO_CHARS_MAX: usize = 100;

/// The most bytes of a file in one [`ToAgent::Chunk`], before base64.
pub const CHUNK_BYTES_MAX: usize = 512 * 1024;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message on a connection.
    Hello {
        /// Versions of this protocol the agent speaks.
        protocols: Vec<u32>,
        /// Who speaks.
        agent: AgentInfo,
        /// The pod it was started in.
        pod_id: PodId,
    },
    /// Events that happened, in order. Answered by [`ToAgent::Appended`] or [`ToAgent::AppendRefused`].
    Append {
        /// Chosen by the agent, echoed in the answer.
        request: u64,
        /// The conversation.
        session_id: SessionId,
        /// The events, `sequence` absent.
        events: Vec<SessionEvent>,
    },
    /// Asks for events of a conversation. Answered by [`ToAgent::HistoryPage`].
    History {
        /// Chosen by the agent, echoed in the answer.
        request: u64,
        /// The conversation.
        session_id: SessionId,
        /// The last sequence the agent has; 0 for none.
        after_sequence: u64,
    },
    /// Asks for bytes of a file that came with a task. Answered by [`ToAgent::Chunk`].
    Fetch {
        /// Chosen by the agent, echoed in the answer.
        request: u64,
        /// The file.
        upload_id: UploadId,
        /// Where to begin, in bytes.
        offset: u64,
    },
    /// The answer to [`ToAgent::SessionView`].
    View {
        /// The control plane's number.
        request: u64,
        /// The session view: task history, iteration counters, context window use.
        view: serde_json::Value,
    },
    /// The agent cannot take a delivered task.
    Reject {
        /// The task.
        task_id: TaskId,
        /// Why.
        reason: RejectReason,
    },
}

/// What the control plane says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The answer to `Hello`. An agent that already has a configuration keeps it: only a restart changes a role's
    /// settings for a running pod.
    Welcome {
        /// The version both speak.
        protocol: u32,
        /// The workspace.
        workspace_id: WorkspaceId,
        /// How to work.
        config: Box<AgentConfig>,
        /// The current conversation.
        session: SessionPosition,
        /// The task that is under way, if any. An agent that does not know it takes it up from the journal; an agent
        /// that runs another one gives that up.
        task: Option<Box<TaskOrder>>,
    },
    /// The control plane will not speak with this agent.
    Refused {
        /// Why.
        reason: String,
    },
    /// Work to do. The agent begins by appending `turn.started`.
    Deliver {
        /// The task.
        task: Box<TaskOrder>,
    },
    /// Finish the present step of this task, then end it as cancelled.
    Cancel {
        /// The task.
        task_id: TaskId,
    },
    /// The events are durable.
    Appended {
        /// The agent's number.
        request: u64,
        /// The sequence of each event, in the order they came.
        sequences: Vec<u64>,
    },
    /// The events will never be accepted.
    AppendRefused {
        /// The agent's number.
        request: u64,
        /// Why.
        reason: AppendRefusal,
        /// The same in words, where there is more to say: which limit was reached.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// Events of a conversation, in order.
    HistoryPage {
        /// The agent's number.
        request: u64,
        /// At most [`PAGE_EVENTS_MAX`].
        events: Vec<SessionEvent>,
        /// Whether there are more after these.
        more: bool,
    },
    /// Bytes of a file.
    Chunk {
        /// The agent's number.
        request: u64,
        /// At most [`CHUNK_BYTES_MAX`] bytes, in base64; empty when the file is not there.
        base64: String,
        /// Whether the file ends here.
        end: bool,
    },
    /// Asks for the session view. Answered by [`FromAgent::View`].
    SessionView {
        /// Chosen by the control plane, echoed in the answer.
        request: u64,
    },
}

/// Who an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// A conversation and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPosition {
    /// The conversation.
    pub session_id: SessionId,
    /// The sequence of its last event; 0 when there is none.
    pub last_sequence: u64,
    /// An agent that starts anew needs the events after this sequence only: from there on lie the messages that the last
    /// compaction kept, and its checkpoint tells the rest.
    #[serde(default)]
    pub journal_after: u64,
}

/// How an agent works: its role, as it was when the pod was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentConfig {
    /// The role's name.
    pub role: String,
    /// The role's description.
    pub description: Option<String>,
    /// The environment's label.
    pub environment: String,
    /// What the role says of its environment.
    pub environment_description: Option<String>,
    /// The model backend.
    pub model: ModelBackend,
    /// How hard to think, where a task does not say.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in a task, where a task does not say.
    pub max_continuations: Option<u32>,
    /// The most tokens of context before compaction, where a task does not say.
    pub max_context_tokens: Option<u64>,
}

/// Where and how to call the model. The key is egress's affair: the agent sends a placeholder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelBackend {
    /// The wire format.
    pub kind: provider::Kind,
    /// The host, with a port when it is not 443.
    pub domain: String,
    /// The model's name at the provider.
    pub model: String,
    /// Settings of the kind.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// A task as the agent gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOrder {
    /// The task.
    pub task_id: TaskId,
    /// The conversation it belongs to; another than the agent's present one begins a new conversation.
    pub session: SessionPosition,
    /// The prompt.
    pub description: String,
    /// How hard to think.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls.
    pub max_continuations: Option<u32>,
    /// The most tokens of context before compaction.
    pub max_context_tokens: Option<u64>,
    /// Milliseconds the task may still run, what it has run before a restart taken off.
    pub time_left_ms: u64,
    /// Files to put under `/data/uploads/<task_id>/` before the turn begins.
    #[serde(default)]
    pub files: Vec<FileOrder>,
    /// Whether cancellation was asked for already.
    #[serde(default)]
    pub cancel_requested: bool,
}

/// A file that comes with a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOrder {
    /// What to fetch.
    pub upload_id: UploadId,
    /// The file's name: one harmless path component.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Why an agent cannot take a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// It runs another task.
    Busy,
    /// Its files could not be put in place.
    FilesUnavailable,
}

/// Why events are not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppendRefusal {
    /// The turn they belong to has ended; the agent gives it up.
    TurnEnded,
    /// The conversation is closed or not this workspace's.
    UnknownSession,
}
