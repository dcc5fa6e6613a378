//! What a journal said before a compaction, apart from the conversation: an agent that starts anew reads the journal from
//! the messages that stayed, and this tells it the rest.
//!
//! Invariant: bounded, however long the session is; whoever writes it keeps to limits of its own.

use serde::{Deserialize, Serialize};

use crate::{
    TaskId, Timestamp, TurnId,
    event::{Message, Usage},
};

/// What came before a compaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Model calls of the session.
    pub iterations: u64,
    /// Earlier compactions.
    pub compactions: u64,
    /// The newest turns, oldest first; the open one is the last.
    pub turns: Vec<TurnRecord>,
    /// The turn that is under way.
    pub open: OpenTurn,
    /// Messages that wait for their turn, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Message>,
}

/// A turn under way, between two model calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenTurn {
    /// The turn.
    pub turn_id: TurnId,
    /// What it works on.
    pub input: Message,
    /// When it began.
    pub started_at: Timestamp,
    /// Model calls so far.
    pub iterations: u32,
    /// Tokens so far.
    pub usage: Usage,
    /// The ids of its tool calls, sorted: no further call may have one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub call_ids: Vec<String>,
}

/// How a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TurnStatus {
    /// It is under way.
    Running,
    /// It ended well.
    Completed,
    /// It failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl TurnStatus {
    /// The status as the session view spells it, the same as a task's.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// Its task.
    pub task_id: TaskId,
    /// How it stands.
    pub status: TurnStatus,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Model calls so far.
    pub iterations: u32,
    /// Tokens so far.
    pub usage: Usage,
    /// Why it failed or was cancelled; the beginning of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
