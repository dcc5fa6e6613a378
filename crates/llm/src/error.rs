//! What goes wrong between agent and model, and when to try again.
//!
//! Invariant: no error text holds a key; bodies of refusals are cut to a few hundred characters.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use freehold_model::event::TurnErrorCode;

/// How often a call is tried again after a rate limit, an overload or a lost connection.
pub const RETRIES_MAX: u32 = 8;
/// How often a call is tried again after an answer that does not parse.
pub const GARBAGE_RETRIES_MAX: u32 = 2;
/// How often a call is tried again when the way to the provider fails as it is configured.
pub const MISLED_RETRIES_MAX: u32 = 1;
/// The pause before the first retry; it doubles with each.
pub const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The longest pause we choose ourselves.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest `retry-after` that is waited for; a provider that asks for more is not asked again.
pub const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 429: too many requests or tokens.
    #[error("the provider limits the rate: {message}")]
    RateLimited {
        /// How long the provider asks to wait.
        after: Option<Duration>,
        /// What it said.
        message: String,
    },
    /// A 5xx, an overload, a connection that failed, was cut or stalled.
    #[error("the provider is not available: {message}")]
    Unavailable {
        /// How long the provider asks to wait.
        after: Option<Duration>,
        /// What happened.
        message: String,
        /// The failure of the connection, if it was one.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The conversation does not fit the model; compaction may help.
    #[error("the conversation is too long for the model: {message}")]
    ContextTooLong {
        /// What the provider said.
        message: String,
    },
    /// The provider refuses this request, and will again.
    #[error("the provider refused the request with status {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// Policy denies the way to the provider.
    #[error("the way to the provider is denied: {message}; {advice}")]
    Denied {
        /// The reason egress gave.
        message: String,
        /// What the operator can do.
        advice: &'static str,
    },
    /// The way to the provider leads nowhere as it is configured; waiting does not mend it.
    #[error("the provider cannot be reached as it is configured: {message}; {advice}")]
    Misled {
        /// What egress met.
        message: String,
        /// What the operator can do.
        advice: &'static str,
    },
    /// The provider rejects the credential.
    #[error(
        "the provider rejects the credential with status {status}: {message}; check the key in the provider's credential, and \
         what it is allowed"
    )]
    Unauthorized {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The answer is not what the wire allows.
    #[error("the provider's answer does not parse: {message}")]
    Garbage {
        /// What does not parse.
        message: String,
    },
    /// The roots of trust cannot be read.
    #[error("failed to read the roots of trust from `{path}`: {message}")]
    Roots {
        /// The PEM file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// TLS cannot be set up.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client or its request cannot be made.
    #[error("failed to make the HTTP request")]
    Http(#[source] reqwest::Error),
    /// The request cannot be written as JSON.
    #[error("failed to write the request")]
    Request(#[source] serde_json::Error),
}

impl Error {
    /// How long to wait before retry number `attempt` (from 1) of the same call; `None` when trying again is of no use
    /// or has been done often enough.
    pub fn pause(&self, attempt: u32) -> Option<Duration> {
        // Many pods that meet one overload must not come back together; any bits will do.
        self.pause_with(attempt, RandomState::new().hash_one(attempt).to_le_bytes()[0])
    }

    fn pause_with(&self, attempt: u32, jitter: u8) -> Option<Duration> {
        let (retries, after) = match self {
            Self::RateLimited { after, .. } | Self::Unavailable { after, .. } => (RETRIES_MAX, *after),
            Self::Garbage { .. } => (GARBAGE_RETRIES_MAX, None),
            Self::Misled { .. } => (MISLED_RETRIES_MAX, None),
            Self::ContextTooLong { .. }
            | Self::Refused { .. }
            | Self::Denied { .. }
            | Self::Unauthorized { .. }
            | Self::Roots { .. }
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Request(_) => (0, None),
        };
        if attempt > retries || after.is_some_and(|after| after > RETRY_AFTER_MAX) {
            return None;
        }
        let doubled =
            PAUSE_FIRST.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
        let ours = doubled.min(PAUSE_MAX);
        // Between half of it and all of it.
        let spread = ours / 2 + ours / 2 * u32::from(jitter) / 255;
        Some(after.map_or(spread, |after| after.saturating_add(spread / 4)))
    }

    /// The code a turn fails with when this error is its last word.
    pub const fn turn_error_code(&self) -> TurnErrorCode {
        match self {
            Self::RateLimited { .. } => TurnErrorCode::ProviderRateLimited,
            Self::Unavailable { .. } | Self::Garbage { .. } => TurnErrorCode::ProviderUnavailable,
            Self::ContextTooLong { .. } => TurnErrorCode::RequestTooLarge,
            Self::Refused { .. } => TurnErrorCode::ProviderRefused,
            Self::Denied { .. } | Self::Misled { .. } | Self::Unauthorized { .. } => {
                TurnErrorCode::ProviderMisconfigured
            }
            Self::Roots { .. } | Self::Tls(_) | Self::Http(_) | Self::Request(_) => {
                TurnErrorCode::ProcessingError
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(after: Option<Duration>) -> Error {
        Error::RateLimited { after, message: String::new() }
    }

    #[test]
    fn pauses_double_to_a_ceiling_and_end() {
        let pauses: Vec<_> =
            (1..=RETRIES_MAX + 1).map(|attempt| limited(None).pause_with(attempt, 255)).collect();
        let expected = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map(Duration::from_millis);
        assert_eq!(pauses, expected.map(Some).into_iter().chain([None]).collect::<Vec<_>>());
        assert_eq!(limited(None).pause_with(1, 0), Some(Duration::from_millis(250)));
    }

    #[test]
    fn the_providers_wish_is_the_least_wait_and_too_long_a_one_ends_it() {
        let wish = Duration::from_secs(7);
        assert!(limited(Some(wish)).pause(1).unwrap() >= wish);
        assert_eq!(limited(Some(RETRY_AFTER_MAX + wish)).pause(1), None);
    }

    #[test]
    fn garbage_is_tried_again_less_often_and_refusals_never() {
        let garbage = Error::Garbage { message: String::new() };
        assert!(garbage.pause(GARBAGE_RETRIES_MAX).is_some());
        assert_eq!(garbage.pause(GARBAGE_RETRIES_MAX + 1), None);
        let (message, advice) = (String::new(), "");
        assert_eq!(Error::Denied { message: message.clone(), advice }.pause(1), None);
        let misled = Error::Misled { message, advice };
        assert!(misled.pause(MISLED_RETRIES_MAX).is_some_and(|pause| pause <= PAUSE_FIRST));
        assert_eq!(misled.pause(MISLED_RETRIES_MAX + 1), None);
    }
}
