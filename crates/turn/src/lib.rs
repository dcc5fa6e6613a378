//! The agent loop as a pure step function: `step(state, input) -> effects`.
//!
//! ```text
//!  Begin | Resume
//!       |
//!       v            acknowledged              answered, no tools
//!  journalling ------------------> calling ------------------------> journalling --> resting
//!       ^  ^                        |   ^ |                            the ending
//!       |  |              failed    |   | | answered, tools
//!       |  |          retry later   v   | v
//!       |  |                     waiting  journalling --> acting (one tool after the other)
//!       |  +------------------------------------------------+
//!       +-- compaction, when the conversation passed its limit
//! ```
//!
//! Invariants:
//! - No I/O, clock or random source: time and ids come in with the inputs.
//! - **Journal first.** A model call or a tool is asked for only when the event that announces it (`reason.started`,
//!   `context.compacting`, `tool.started`) was acknowledged: between appending and acting lies [`Input::Acknowledged`].
//! - What the journal says is applied by one function, whether the event is new or folded after a restart, so that a
//!   resumed turn stands where the dead one stood. A tool that was started is never started again.
//! - A step costs the same at any length of the conversation; a request shares what the conversation has for good.
//! - Every call of the model has exactly one result in every later request.

mod clean;
mod compaction;
mod conversation;
mod history;
mod io;
mod items;
mod journal;
mod settings;
mod state;

pub use conversation::{Conversation, Item, ToolResult};
pub use freehold_model::checkpoint::{TurnRecord, TurnStatus};
pub use history::TASK_HISTORY_MAX;
pub use io::{
    Answer, Begin, Effect, Failure, FailureKind, Input, ModelRequest, Outcome, RequestKind, Resume,
    ToolOutcome,
};
pub use items::{Items, Iter};
pub use settings::{
    ANSWER_BYTES_MAX, CONTEXT_TOKENS_DEFAULT, EMPTY_ANSWER_DELAY, EMPTY_ANSWER_RETRIES_MAX,
    ITERATIONS_DEFAULT, MODEL_ATTEMPTS_MAX, Settings, TOOL_CALLS_MAX, TOOL_RESULT_BYTES_MAX,
};
pub use state::{Doing, State};
