//! Sessions: conversations. Status, previews and usage are a fold over the session's events.

use crate::{
    MemberId, OrganizationId, RoleId, SessionId, Timestamp, WorkspaceId,
    event::{ContentPart, Payload, SessionEvent, Usage},
    slugs,
};

slugs! {
    /// Whether the agent is at work. There is no terminal status: a finished session is `idle` and has `finished_at`.
    Status {
        /// Created; nothing ran yet.
        Started => "started",
        /// A turn is running.
        Active => "active",
        /// Between turns.
        Idle => "idle",
    }
}

/// The most characters of a preview.
pub const PREVIEW_MAX: usize = 200;

/// One conversation with an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// Where it runs.
    pub workspace_id: WorkspaceId,
    /// The role, which the sessions API calls agent.
    pub role_id: RoleId,
    /// The creator of its workspace; absent for an API key.
    pub created_by: Option<MemberId>,
    /// A title for people.
    pub title: Option<String>,
    /// For organizing and filtering.
    pub tags: Vec<String>,
    /// What its events add up to.
    pub summary: Summary,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When it was closed, by `reset_session` or with its workspace.
    pub finished_at: Option<Timestamp>,
}

/// What a session's events add up to; kept beside the row so that reading it costs the same at any length.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// Whether a turn is running.
    pub status: Status,
    /// When the first turn began.
    pub started_at: Option<Timestamp>,
    /// The beginning of the first user message.
    pub preview: Option<String>,
    /// The beginning of the last assistant text.
    pub output_preview: Option<String>,
    /// Tokens used by all turns; absent until a model answered.
    pub usage: Option<Usage>,
    /// An agent that starts anew reads the journal after this sequence; what came before is in a checkpoint.
    #[serde(default)]
    pub journal_after: u64,
    /// How long the journal is.
    #[serde(default)]
    pub journal: JournalSize,
}

/// How long a journal is, in all and since the last task was handed over. Bytes are those of the events' payloads as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct JournalSize {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub bytes: u64,
    /// Events since the last task was handed over.
    pub task_events: u64,
    /// Bytes since the last task was handed over.
    pub task_bytes: u64,
}

impl JournalSize {
    /// Takes one more event of this many bytes into account.
    pub const fn add(&mut self, bytes: u64) {
        self.events = self.events.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
        self.task_events = self.task_events.saturating_add(1);
        self.task_bytes = self.task_bytes.saturating_add(bytes);
    }

    /// A task is handed over: what comes now counts as its own. Answers whether that changed anything.
    pub const fn begin_task(&mut self) -> bool {
        let changed = self.task_events > 0;
        (self.task_events, self.task_bytes) = (0, 0);
        changed
    }
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            status: Status::Started,
            started_at: None,
            preview: None,
            output_preview: None,
            usage: None,
            journal_after: 0,
            journal: JournalSize::default(),
        }
    }
}

impl Summary {
    /// Takes one more event into account. Events are applied in the order of their sequence, each once.
    pub fn apply(&mut self, event: &SessionEvent) {
        match &event.payload {
            Payload::InputMessage { message } => {
                if self.preview.is_none() {
                    self.preview = preview(&message.content);
                }
            }
            Payload::SessionActivated { .. } | Payload::TurnStarted { .. } => {
                self.status = Status::Active;
                self.started_at.get_or_insert(event.ts);
            }
            Payload::OutputMessageCompleted { message, usage, .. } => {
                if let Some(text) = preview(&message.content) {
                    self.output_preview = Some(text);
                }
                self.add_usage(usage.as_ref());
            }
            Payload::ContextCompacted { usage, .. } => self.add_usage(usage.as_ref()),
            Payload::TurnCompleted { .. }
            | Payload::TurnFailed { .. }
            | Payload::TurnCancelled { .. }
            | Payload::SessionIdled { .. } => self.status = Status::Idle,
            Payload::SessionStarted { .. }
            | Payload::ReasonStarted { .. }
            | Payload::ReasonCompleted { .. }
            | Payload::LlmRetrying { .. }
            | Payload::ToolStarted { .. }
            | Payload::ToolCompleted { .. }
            | Payload::ContextCompacting { .. }
            | Payload::ContextCompactionFailed { .. } => {}
        }
    }

    fn add_usage(&mut self, usage: Option<&Usage>) {
        if let Some(more) = usage {
            self.usage.get_or_insert_default().add(more);
        }
    }
}

/// The first text of a message, cut at [`PREVIEW_MAX`] characters.
fn preview(content: &[ContentPart]) -> Option<String> {
    content.iter().find_map(|part| match part {
        ContentPart::Text { text } if !text.trim().is_empty() => {
            Some(text.trim().chars().take(PREVIEW_MAX).collect())
        }
        ContentPart::Text { .. } | ContentPart::ToolCall { .. } | ContentPart::Reasoning { .. } => None,
    })
}
