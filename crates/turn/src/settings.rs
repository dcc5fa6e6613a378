//! Limits of a turn.

use std::{sync::Arc, time::Duration};

/// The most model calls in a turn when neither task nor role says.
pub const ITERATIONS_DEFAULT: u32 = 200;

/// The most tokens of context before compaction when neither task nor role says.
pub const CONTEXT_TOKENS_DEFAULT: u64 = 120_000;

/// How often one model call is tried.
pub const MODEL_ATTEMPTS_MAX: u32 = 6;

/// The delay before the second attempt; it doubles from one attempt to the next.
pub const RETRY_DELAY_FIRST: Duration = Duration::from_millis(500);

/// The longest delay of our own choice between two attempts.
pub const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// The longest delay a provider may ask for; beyond it the call has failed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

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
    /// How often one model call is tried.
    pub attempts_max: u32,
    /// The names of the tools there are.
    pub tools: Arc<[&'static str]>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            iterations_max: ITERATIONS_DEFAULT,
            context_tokens_max: CONTEXT_TOKENS_DEFAULT,
            attempts_max: MODEL_ATTEMPTS_MAX,
            tools: Arc::new([]),
        }
    }
}

impl Settings {
    /// The delay after `attempts` failed attempts; `None` when there shall be no further one.
    pub(crate) fn delay(&self, attempts: u32, retry_after: Option<Duration>) -> Option<Duration> {
        if attempts >= self.attempts_max || retry_after.is_some_and(|asked| asked > RETRY_AFTER_MAX) {
            return None;
        }
        let doublings = attempts.saturating_sub(1).min(16);
        let own = RETRY_DELAY_FIRST.saturating_mul(1 << doublings).min(RETRY_DELAY_MAX);
        Some(own.max(retry_after.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_a_limit_and_respect_the_provider() {
        let settings = Settings { attempts_max: 100, ..Settings::default() };
        assert_eq!(settings.delay(1, None), Some(RETRY_DELAY_FIRST));
        assert_eq!(settings.delay(2, None), Some(RETRY_DELAY_FIRST * 2));
        assert_eq!(settings.delay(99, None), Some(RETRY_DELAY_MAX));
        assert_eq!(settings.delay(1, Some(Duration::from_secs(7))), Some(Duration::from_secs(7)));
        assert_eq!(settings.delay(1, Some(RETRY_AFTER_MAX * 2)), None);
        assert_eq!(settings.delay(100, None), None);
    }
}
