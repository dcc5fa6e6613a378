//! The session's event log: the agent's journal, and the only source of the conversation.
//!
//! An event says what happened once; no event repeats the history, so that the cost of a step does not grow with it.
//! `sequence` is dense per session and given by the store when the event is committed. An agent that starts anew folds
//! these events and goes on where the log ends.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EventId, MessageId, RoleId, SessionId, Timestamp, TurnId, checkpoint::Checkpoint};

/// One immutable row of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionEvent {
    /// Its id, made by whoever observed the event; committing the same id again changes nothing.
    pub id: EventId,
    /// The conversation.
    pub session_id: SessionId,
    /// The position in the session, from 1; absent until committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it happened.
    pub ts: Timestamp,
    /// What it belongs to.
    #[serde(default)]
    pub context: Context,
    /// What happened: `type` and `data`.
    #[serde(flatten)]
    pub payload: Payload,
}

/// What an event belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Context {
    /// The turn, which has the UUID of its task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// The user message that began the turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_message_id: Option<MessageId>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Payload {
    /// The session ran for the first time.
    #[serde(rename = "session.started")]
    SessionStarted {
        /// The role.
        agent_id: RoleId,
        /// The model's name.
        model: String,
    },
    /// A user message came in.
    #[serde(rename = "input.message")]
    InputMessage {
        /// The message.
        message: Message,
    },
    /// The session went to work.
    #[serde(rename = "session.activated")]
    SessionActivated {
        /// The turn it works on.
        turn_id: TurnId,
    },
    /// A turn began.
    #[serde(rename = "turn.started")]
    TurnStarted {
        /// The turn.
        turn_id: TurnId,
        /// Its input.
        input_message_id: MessageId,
    },
    /// The model is about to be called.
    #[serde(rename = "reason.started")]
    ReasonStarted {
        /// The number of the model call in this turn, from 1.
        iteration: u32,
    },
    /// The model answered.
    #[serde(rename = "output.message.completed")]
    OutputMessageCompleted {
        /// The answer, tool calls included.
        message: Message,
        /// The model that answered.
        model: String,
        /// Tokens of this call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// Why it stopped.
        stop_reason: StopReason,
    },
    /// A model call failed, for the next answer or for a summary, and will be tried again.
    #[serde(rename = "llm.retrying")]
    LlmRetrying {
        /// The attempt that failed, from 1.
        attempt: u32,
        /// Why it failed.
        error: String,
        /// What kind of failure it is: the code of the turn, should no attempt succeed.
        error_code: TurnErrorCode,
        /// Milliseconds until the next attempt.
        wait_ms: u64,
    },
    /// The model call ended.
    #[serde(rename = "reason.completed")]
    ReasonCompleted {
        /// Whether there is an answer.
        success: bool,
        /// Why there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Tool calls in the answer.
        tool_call_count: u32,
        /// Milliseconds from request to end of the answer.
        duration_ms: u64,
        /// How often the call was tried.
        attempts: u32,
    },
    /// A tool is about to run. Once this is committed, the tool is never started for this call again.
    #[serde(rename = "tool.started")]
    ToolStarted {
        /// The call.
        tool_call: ToolCall,
    },
    /// A tool ended, in whichever way.
    #[serde(rename = "tool.completed")]
    ToolCompleted {
        /// The call's id.
        tool_call_id: String,
        /// The tool.
        tool_name: String,
        /// How it ended.
        status: ToolStatus,
        /// What the model is told.
        result: String,
        /// Milliseconds it ran.
        duration_ms: u64,
    },
    /// The conversation passed its limit and is being shortened.
    #[serde(rename = "context.compacting")]
    ContextCompacting {
        /// Tokens of context that passed the limit.
        context_tokens: u64,
        /// Messages before.
        messages_before: u32,
    },
    /// The conversation was shortened.
    #[serde(rename = "context.compacted")]
    ContextCompacted {
        /// What stands for the messages that were dropped.
        summary: String,
        /// The first message that stays after the summary; absent when none stays.
        first_kept_message_id: Option<MessageId>,
        /// Messages before.
        messages_before: u32,
        /// Messages after, the summary included.
        messages_after: u32,
        /// Tokens the summary cost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Usage>,
        /// What came before, apart from the conversation. With it, an agent that starts anew reads the journal from the
        /// first message that stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint: Option<Box<Checkpoint>>,
    },
    /// Shortening failed; the turn goes on or fails, as the next event says.
    #[serde(rename = "context.compaction.failed")]
    ContextCompactionFailed {
        /// Why.
        error: String,
    },
    /// The turn ended well.
    #[serde(rename = "turn.completed")]
    TurnCompleted {
        /// The turn.
        turn_id: TurnId,
        /// Model calls it took.
        iterations: u32,
        /// Milliseconds it took.
        duration_ms: u64,
        /// Tokens it used.
        usage: Usage,
        /// Why it ended.
        termination_reason: TerminationReason,
    },
    /// The turn failed.
    #[serde(rename = "turn.failed")]
    TurnFailed {
        /// The turn.
        turn_id: TurnId,
        /// What people are told.
        error: String,
        /// A stable code.
        error_code: TurnErrorCode,
    },
    /// The turn was cancelled.
    #[serde(rename = "turn.cancelled")]
    TurnCancelled {
        /// The turn.
        turn_id: TurnId,
        /// Why.
        reason: String,
    },
    /// The session has nothing to do.
    #[serde(rename = "session.idled")]
    SessionIdled {
        /// The turn that ended.
        turn_id: TurnId,
    },
}

impl Payload {
    /// The turn that the event says it begins or ends, goes to work on or rests from.
    pub const fn turn(&self) -> Option<TurnId> {
        match self {
            Self::SessionActivated { turn_id }
            | Self::TurnStarted { turn_id, .. }
            | Self::TurnCompleted { turn_id, .. }
            | Self::TurnFailed { turn_id, .. }
            | Self::TurnCancelled { turn_id, .. }
            | Self::SessionIdled { turn_id } => Some(*turn_id),
            Self::SessionStarted { .. }
            | Self::InputMessage { .. }
            | Self::ReasonStarted { .. }
            | Self::OutputMessageCompleted { .. }
            | Self::LlmRetrying { .. }
            | Self::ReasonCompleted { .. }
            | Self::ToolStarted { .. }
            | Self::ToolCompleted { .. }
            | Self::ContextCompacting { .. }
            | Self::ContextCompacted { .. }
            | Self::ContextCompactionFailed { .. } => None,
        }
    }

    /// The event's `type`.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::SessionStarted { .. } => "session.started",
            Self::InputMessage { .. } => "input.message",
            Self::SessionActivated { .. } => "session.activated",
            Self::TurnStarted { .. } => "turn.started",
            Self::ReasonStarted { .. } => "reason.started",
            Self::OutputMessageCompleted { .. } => "output.message.completed",
            Self::LlmRetrying { .. } => "llm.retrying",
            Self::ReasonCompleted { .. } => "reason.completed",
            Self::ToolStarted { .. } => "tool.started",
            Self::ToolCompleted { .. } => "tool.completed",
            Self::ContextCompacting { .. } => "context.compacting",
            Self::ContextCompacted { .. } => "context.compacted",
            Self::ContextCompactionFailed { .. } => "context.compaction.failed",
            Self::TurnCompleted { .. } => "turn.completed",
            Self::TurnFailed { .. } => "turn.failed",
            Self::TurnCancelled { .. } => "turn.cancelled",
            Self::SessionIdled { .. } => "session.idled",
        }
    }
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageRole {
    /// The person or program that gave the task.
    User,
    /// The model.
    Agent,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Who wrote it.
    pub role: MessageRole,
    /// What it says.
    pub content: Vec<ContentPart>,
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// The model wants a tool run.
    ToolCall(ToolCall),
    /// The model's reasoning. `replay` is what its provider wants back unchanged; it is never shown to readers.
    Reasoning {
        /// The readable part, may be empty.
        text: String,
        /// Opaque state for the provider.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replay: Option<Value>,
    },
}

/// A tool call of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id for it, unique in the turn.
    pub id: String,
    /// The tool, as the model named it; it may not exist.
    pub name: String,
    /// The arguments. A text that is not JSON is kept as a JSON string, and the tool refuses it.
    pub arguments: Value,
}

/// How a tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStatus {
    /// It did what was asked.
    Success,
    /// It ran and failed, or its arguments were refused.
    Error,
    /// It was stopped at its time limit.
    Timeout,
    /// It was cancelled.
    Cancelled,
    /// The agent died while it ran; how far it came is unknown.
    Interrupted,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It said all it had to say.
    EndTurn,
    /// It waits for tools.
    ToolUse,
    /// It reached its output limit.
    MaxTokens,
    /// It declined.
    Refusal,
}

/// Why a turn ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminationReason {
    /// The model said all it had to say.
    EndTurn,
    /// The model declined.
    Refusal,
}

/// Why a turn failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnErrorCode {
    /// `max_continuations` was reached.
    MaxIterations,
    /// `task_timeout_seconds` was reached.
    Timeout,
    /// The provider refused the request for good.
    ProviderRefused,
    /// The provider rejected the credential, policy denied the way to it, or the way leads nowhere.
    ProviderMisconfigured,
    /// The provider limited the rate for longer than the retries last.
    ProviderRateLimited,
    /// The provider could not be reached or did not answer properly for longer than the retries last.
    ProviderUnavailable,
    /// The conversation is too long even after compaction.
    RequestTooLarge,
    /// Something in the agent failed.
    ProcessingError,
}

/// Tokens of one or many model calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, those from the cache included.
    pub input_tokens: u64,
    /// Tokens written, reasoning included.
    pub output_tokens: u64,
    /// Tokens read from the provider's cache.
    #[serde(default)]
    pub cache_read_tokens: u64,
    /// Tokens written to the provider's cache.
    #[serde(default)]
    pub cache_creation_tokens: u64,
}

impl Usage {
    /// Adds `more`, stopping at the type's limit.
    pub const fn add(&mut self, more: &Self) {
        self.input_tokens = self.input_tokens.saturating_add(more.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(more.output_tokens);
        self.cache_read_tokens = self.cache_read_tokens.saturating_add(more.cache_read_tokens);
        self.cache_creation_tokens = self.cache_creation_tokens.saturating_add(more.cache_creation_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_a_type_and_data() {
        let event = SessionEvent {
            id: EventId::from_uuid(uuid::Uuid::nil()),
            session_id: SessionId::from_uuid(uuid::Uuid::nil()),
            sequence: Some(7),
            ts: Timestamp::UNIX_EPOCH,
            context: Context::default(),
            payload: Payload::ReasonStarted { iteration: 2 },
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], event.payload.type_name());
        assert_eq!(json["data"], serde_json::json!({"iteration": 2}));
        assert_eq!(serde_json::from_value::<SessionEvent>(json).unwrap(), event);
    }
}
