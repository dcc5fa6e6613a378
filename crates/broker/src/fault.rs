//! What can go wrong with an issuer, told apart by what is to be done about it.

use std::time::Duration;

use crate::durable::Unreadable;

/// Why there is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The issuer refuses, and will go on to: somebody must consent again, or enter the credential anew.
    Terminal(&'static str),
    /// It may pass by itself.
    Passing {
        code: &'static str,
        /// When the issuer wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// What was asked is wrong, or the answer is; asking again at once would change nothing.
    Wrong(&'static str),
    /// The stored secret cannot be used.
    Unreadable,
}

impl Fault {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Terminal(code) | Self::Passing { code, .. } | Self::Wrong(code) => code,
            Self::Unreadable => "unreadable",
        }
    }
}

impl From<Unreadable> for Fault {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

/// Codes of issuers that say that they will go on refusing. The first nine are the standards', the others' names follow.
const TERMINAL: &[&str] = &[
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_request",
    "invalid_target",
    "access_denied",
    "consent_required",
    "interaction_required",
    "login_required",
    // GitHub, which answers 200 to say so.
    "bad_refresh_token",
    "bad_verification_code",
    "incorrect_client_credentials",
    "redirect_uri_mismatch",
    "unverified_user_email",
    // Slack.
    "bad_client_secret",
    "bad_redirect_uri",
    "code_already_used",
    "invalid_client_id",
    "invalid_code",
    "invalid_refresh_token",
    "token_revoked",
    // Google.
    "admin_policy_enforced",
    "disabled_client",
    "org_internal",
];

/// Codes of issuers that say that it passes.
const PASSING: &[&str] =
    &["temporarily_unavailable", "server_error", "slow_down", "ratelimited", "internal_error"];

/// The fault that an issuer's answer of this status and error code tells.
pub(crate) fn of(status: u16, error: Option<&str>, retry_after: Option<Duration>) -> Fault {
    let known = |codes: &[&'static str]| codes.iter().find(|code| Some(**code) == error).copied();
    if let Some(code) = known(PASSING) {
        return Fault::Passing { code, retry_after };
    }
    // Some say `invalid_grant` under 500, or refuse for a while under 400: the status of a passing fault goes first.
    match status {
        429 => Fault::Passing { code: "rate_limited", retry_after },
        500.. => Fault::Passing { code: "issuer_failed", retry_after },
        408 => Fault::Passing { code: "issuer_timeout", retry_after },
        _ => match (known(TERMINAL), error) {
            (Some(code), _) => Fault::Terminal(code),
            (None, Some(_)) => Fault::Wrong("refused"),
            (None, None) => Fault::Wrong("not_a_token_endpoint"),
        },
    }
}

/// A code that an issuer sent a person back with, where it is a known one.
pub(crate) fn known(error: &str) -> Option<&'static str> {
    TERMINAL.iter().chain(PASSING).find(|code| **code == error).copied()
}
