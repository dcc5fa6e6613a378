//! Limits of a turn.

use std::{sync::Arc, time::Duration};

/// The most model calls in a turn when neither task nor role says.
pub const ITERATIONS_DEFAULT: u32 = 200;

/// The most tokens of context before compaction when neither task nor role says.
pub const CONTEXT_TOKENS_DEFAULT: u64 = 120_000;

/// How often one model call is tried, whatever the failures say.
pub const MODEL_ATTEMPTS_MAX: u32 = 12;

/// How often an answer that says nothing is asked for again.
pub const EMPTY_ANSWER_RETRIES_MAX: u32 = 2;

/// The delay before an answer that said nothing is asked for again.
pub const EMPTY_ANSWER_DELAY: Duration = Duration::from_millis(500);

/// The most tool calls in one answer; an answer with more is no answer.
pub const TOOL_CALLS_MAX: usize = 64;

/// The most bytes of one answer. Escaped twice (message and `tool.started`) it still fits a pod-api frame.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024;

/// The most bytes of one tool result; the middle of a longer one is cut.
pub const TOOL_RESULT_BYTES_MAX: usize = 64 * 1024;

/// How one turn runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The most model calls.
    pub iterations_max: u32,
    /// The most tokens of context before compaction.
    pub context_tokens_max: u64,
    /// The names of the tools there are.
    pub tools: Arc<[&'static str]>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            iterations_max: ITERATIONS_DEFAULT,
            context_tokens_max: CONTEXT_TOKENS_DEFAULT,
            tools: Arc::new([]),
        }
    }
}
