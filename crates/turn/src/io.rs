//! What goes into a step and what comes out.

use std::time::Duration;

use freehold_model::{
    MessageId, TaskId,
    event::{Message, Payload, StopReason, ToolCall, ToolStatus, TurnErrorCode, Usage},
};

use crate::{Items, Settings};

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A task begins. Ignored while a turn is under way.
    Begin(Begin),
    /// The turn that the journal left open goes on. Ignored when there is none, or when it is under way already.
    Resume(Resume),
    /// Every batch up to this one is durable.
    Acknowledged {
        /// The batch.
        batch: u64,
    },
    /// The model answered.
    ModelAnswered(Answer),
    /// The model did not answer.
    ModelFailed(Failure),
    /// The delay asked for by [`Effect::Wait`] is over.
    WaitOver,
    /// The running tool ended.
    ToolEnded(ToolOutcome),
    /// Somebody wants the turn cancelled: the present step is finished first.
    CancelAsked,
    /// The present step outlasted the grace time of a cancellation.
    GraceOver,
    /// The task's time is up.
    TimeUp,
    /// The control plane no longer wants this turn: nothing more is journalled.
    GiveUp,
}

/// A new task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    /// The task.
    pub task_id: TaskId,
    /// The id of the input message, unless the journal holds the message already.
    pub message_id: MessageId,
    /// The prompt.
    pub text: String,
    /// How the turn runs.
    pub settings: Settings,
    /// Whether cancellation was asked for before it began.
    pub cancel_requested: bool,
}

/// How an interrupted turn goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// How the turn runs.
    pub settings: Settings,
    /// Whether cancellation was asked for meanwhile.
    pub cancel_requested: bool,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The message, tool calls included.
    pub message: Message,
    /// The model that answered.
    pub model: String,
    /// Tokens of this call.
    pub usage: Option<Usage>,
    /// Why it stopped.
    pub stop_reason: StopReason,
    /// Milliseconds from request to end of the answer.
    pub duration_ms: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: FailureKind,
    /// What people are told.
    pub message: String,
    /// The delay after which another attempt is of use; absent when none is.
    pub retry_in: Option<Duration>,
    /// Milliseconds from request to failure.
    pub duration_ms: u64,
}

/// Kinds of failures, by what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Too many requests.
    RateLimited,
    /// Not reached, overloaded, stalled, cut or garbage.
    Unavailable,
    /// The conversation is too long for the model: compacted, then tried again.
    TooLong,
    /// The credential was rejected, policy denied the way, or it leads nowhere.
    Misconfigured,
    /// The provider refused the request for good.
    Refused,
    /// Something of ours failed.
    Processing,
}

impl FailureKind {
    pub(crate) const fn error_code(self) -> TurnErrorCode {
        match self {
            Self::RateLimited => TurnErrorCode::ProviderRateLimited,
            Self::Unavailable => TurnErrorCode::ProviderUnavailable,
            Self::TooLong => TurnErrorCode::RequestTooLarge,
            Self::Misconfigured => TurnErrorCode::ProviderMisconfigured,
            Self::Refused => TurnErrorCode::ProviderRefused,
            Self::Processing => TurnErrorCode::ProcessingError,
        }
    }
}

/// How a tool ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutcome {
    /// In which way.
    pub status: ToolStatus,
    /// What the model is told.
    pub result: String,
    /// Milliseconds it ran.
    pub duration_ms: u64,
}

/// What to do, in the order given. At most one of a model call, a tool and a delay is under way at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append these events to the journal, in one piece, and report [`Input::Acknowledged`].
    Append {
        /// The number of the batch, rising.
        batch: u64,
        /// What happened.
        payloads: Vec<Payload>,
    },
    /// Call the model.
    CallModel(ModelRequest),
    /// Run a tool.
    RunTool(ToolCall),
    /// Report [`Input::WaitOver`] after this delay.
    Wait {
        /// How long.
        delay: Duration,
    },
    /// Stop the model call, tool or delay that is under way, and report nothing of it.
    Abort,
    /// The turn has ended, and its ending is durable.
    Finished(Outcome),
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRequest {
    /// What for.
    pub kind: RequestKind,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The conversation.
    pub items: Items,
}

/// What a model call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// The next answer; the tools are offered.
    Reason,
    /// A summary of the conversation; no tools.
    Compact,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Completed,
    /// Not well.
    Failed(TurnErrorCode),
    /// By cancellation.
    Cancelled,
}
