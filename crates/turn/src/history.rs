//! What is remembered of the turns of a session, for the session view.

use freehold_model::{TaskId, Timestamp, event::Usage};

/// The most turns remembered; older ones are in the durable record.
pub const TASK_HISTORY_MAX: usize = 200;

/// How a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnRecord {
    /// Its task.
    pub task_id: TaskId,
    /// How it stands.
    pub status: TurnStatus,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Model calls so far.
    pub iterations: u32,
    /// Tokens so far.
    pub usage: Usage,
    /// Why it failed or was cancelled.
    pub error: Option<String>,
}
