//! What a provider's refusal means: its status, headers and body, or the error in its stream, become an [`Error`].

use std::time::Duration;

use freehold_model::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use crate::Error;

/// The most characters of a provider's message that are kept.
const MESSAGE_CHARS_MAX: usize = 400;
/// The codes of egress in the body of its answer: it refused the request, or met no upstream.
const EGRESS_CODES: [&str; 2] = ["egress_denied", "egress_failed"];
/// How both vendors, and those who speak their wires, say that the conversation does not fit.
const TOO_LONG: [&str; 6] = [
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "exceeds the context window",
    "context_length_exceeded",
    "request_too_large",
];

/// The error of an answer with a failure status.
pub(crate) fn status_error(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Error {
    let after = retry_after(headers, now);
    match serde_json::from_slice::<Value>(body) {
        Ok(body) => error(status, after, body.get("error").unwrap_or(&body)),
        Err(_) => error(status, after, &Value::String(String::from_utf8_lossy(body).into_owned())),
    }
}

/// The error of an error object inside a stream, which has no status of its own.
pub(crate) fn in_stream_error(error_object: &Value) -> Error {
    let field = |name| error_object.get(name).and_then(Value::as_str).unwrap_or_default();
    let status = [field("type"), field("code")].into_iter().find_map(status_of).unwrap_or(500);
    error(status, None, error_object)
}

/// The HTTP status that goes with an error's type or code.
fn status_of(kind: &str) -> Option<u16> {
    Some(match kind {
        "invalid_request_error" | "invalid_prompt" | "context_length_exceeded" => 400,
        "authentication_error" | "invalid_api_key" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" | "model_not_found" => 404,
        "request_too_large" => 413,
        "rate_limit_error" | "rate_limit_exceeded" | "insufficient_quota" => 429,
        "overloaded_error" => 529,
        _ => return None,
    })
}

fn error(status: u16, after: Option<Duration>, object: &Value) -> Error {
    let field = |name| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (kind, code) = (field("type"), field("code"));
    let said = object.as_str().unwrap_or_else(|| field("message"));
    let said = if said.trim().is_empty() { "it gave no reason" } else { said.trim() };
    let message: String = said.chars().take(MESSAGE_CHARS_MAX).collect();
    let too_long = || TOO_LONG.iter().any(|mark| kind == *mark || code == *mark || said.contains(mark));
    if EGRESS_CODES.contains(&code) {
        return on_the_way(status, field("reason"), after, message);
    }
    match status {
        401 | 403 => Error::Unauthorized { status, message },
        413 => Error::ContextTooLong { message },
        400 | 422 if too_long() => Error::ContextTooLong { message },
        // Money does not come back by waiting.
        429 if code == "insufficient_quota" || kind == "insufficient_quota" => {
            Error::Refused { status, message }
        }
        429 => Error::RateLimited { after, message },
        408 | 409 | 500.. => Error::Unavailable { after, message, source: None },
        _ => Error::Refused { status, message },
    }
}

/// What egress answered in the provider's place, by its reason. What may pass by itself is waited for like an overload;
/// the rest needs the operator.
fn on_the_way(status: u16, reason: &str, after: Option<Duration>, message: String) -> Error {
    let denied = |advice| Error::Denied { message: message.clone(), advice };
    let misled = |advice| Error::Misled { message: message.clone(), advice };
    match reason {
        // The server puts these in force, or has yet to.
        "no_grant" | "no_token" | "token_expired" | "audit_unavailable" => {
            Error::Unavailable { after, message, source: None }
        }
        "upstream_unresolved" => {
            misled("correct the provider's `domain`, or the name service of the server's machine")
        }
        "upstream_tls" => misled("correct the provider's `domain`: what answers there speaks no TLS"),
        "upstream_untrusted" => misled(
            "correct the provider's `domain`, or name the authority of its certificate in the server's `egress.extra_roots`; \
             where it is named there and was made anew since, restart the server",
        ),
        "upstream_certificate" => misled(
            "correct the provider's `domain`: the certificate there is for another name, or out of date and to be renewed",
        ),
        "auth_unavailable" => denied(
            "check that the credential which the provider names exists and can be used; where the provider's `domain` was \
                 changed while the workspace ran, stop it and create another",
        ),
        "address_forbidden" => denied(
            "the provider's `domain` leads to an address inside: correct it, or name it in the server's `egress.hosts`",
        ),
        _ if status >= 500 => Error::Unavailable { after, message, source: None },
        _ => denied(advice(reason)),
    }
}

/// What the operator can do about a denial that does not pass by itself.
fn advice(reason: &str) -> &'static str {
    match reason {
        "budget_exceeded" => {
            "a budget has no more room: `freehold workspace budgets` shows which; wait for its next window, or raise its `limit`"
        }
        "budget_uncountable" => {
            "a budget cannot tell how much the request is: for money, give the model a price in the server's `[prices]`; \
             `budget_ceilings` of the row in the audit log names the counter and says why"
        }
        "approval_denied" => "a person was asked and denied it: `freehold approvals list` shows the decision",
        "approval_expired" | "approval_abandoned" | "approvals_full" => {
            "nobody decided in time: decide with `freehold approvals`, or take `approval: required` off the rule"
        }
        "transform_failed" => {
            "a transform could not change the request: `transforms_failed` of the row in the audit log says which and why"
        }
        "denied_by_rule"
        | "condition_not_met"
        | "body_invalid"
        | "body_unreadable"
        | "body_too_large"
        | "content_type_not_allowed" => {
            "correct the rule of the capabilities, of the role or its provider, which the row in the audit log names"
        }
        "control_plane_forbidden" => "the provider's `domain` is the control plane itself: correct it",
        _ => "check the provider's `kind` and `domain`, and the capabilities of the role",
    }
}

/// `retry-after-ms` in milliseconds, else `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let number = |text: &str, unit: f64| {
        let value = text.parse::<f64>().ok().filter(|value| *value >= 0.0)?;
        Duration::try_from_secs_f64(value * unit).ok()
    };
    if let Some(after) = text("retry-after-ms").and_then(|value| number(value, 0.001)) {
        return Some(after);
    }
    let value = text(RETRY_AFTER.as_str())?;
    number(value, 1.0).or_else(|| {
        let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
        Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.insert(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_time_to_wait_is_read_in_all_its_forms() {
        let now: Timestamp = "2015-10-21T07:27:30Z".parse().unwrap();
        for (pairs, expected) in [
            (&[("retry-after", "7")][..], Some(7_000)),
            (&[("retry-after", "0.5")][..], Some(500)),
            (&[("retry-after", "7"), ("retry-after-ms", "250")][..], Some(250)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")][..], Some(30_000)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT")][..], Some(0)),
            (&[("retry-after", "-1")][..], None),
            (&[("retry-after", "soon")][..], None),
            (&[("retry-after", "inf")][..], None),
            (&[][..], None),
        ] {
            let expected = expected.map(Duration::from_millis);
            assert_eq!(retry_after(&headers(pairs), now), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_denial_says_what_can_be_done_about_its_reason() {
        for (reason, advised) in [
            ("budget_uncountable", "`[prices]`"),
            ("budget_exceeded", "`freehold workspace budgets`"),
            ("auth_unavailable", "create another"),
            ("approval_expired", "`freehold approvals`"),
            ("condition_not_met", "audit log names"),
            ("domain_not_allowed", "`kind` and `domain`"),
        ] {
            let body =
                format!(r#"{{"error":{{"code":"egress_denied","message":"no","reason":"{reason}"}}}}"#);
            let error = status_error(403, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH);
            assert!(error.to_string().contains(advised), "{error}");
        }
    }

    #[test]
    fn each_refusal_has_its_class() {
        let class = |status, body: &str| {
            let error = status_error(status, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH);
            format!("{error:?}").split([' ', '{']).next().unwrap().to_owned()
        };
        for (status, body, expected) in [
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 209000 tokens > 200000 maximum"}}"#,
                "ContextTooLong",
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000"}}"#,
                "ContextTooLong",
            ),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 128000 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
                "ContextTooLong",
            ),
            (
                413,
                r#"{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
                "ContextTooLong",
            ),
            (
                400,
                r#"{"error":{"message":"Unknown parameter","type":"invalid_request_error","code":null}}"#,
                "Refused",
            ),
            (404, r#"{"type":"error","error":{"type":"not_found_error","message":"model: x"}}"#, "Refused"),
            (302, "", "Refused"),
            (
                401,
                r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
                "Unauthorized",
            ),
            (403, r#"{"type":"error","error":{"type":"permission_error","message":"no"}}"#, "Unauthorized"),
            (403, r#"{"error":{"code":"egress_denied","message":"no rule allows it"}}"#, "Denied"),
            (421, r#"{"error":{"code":"egress_denied","reason":"authority_mismatch"}}"#, "Denied"),
            (403, r#"{"error":{"code":"egress_denied","reason":"auth_unavailable"}}"#, "Denied"),
            (403, r#"{"error":{"code":"egress_denied","reason":"no_token"}}"#, "Unavailable"),
            (503, r#"{"error":{"code":"egress_denied","reason":"audit_unavailable"}}"#, "Unavailable"),
            (502, r#"{"error":{"code":"egress_failed","reason":"upstream_unresolved"}}"#, "Misled"),
            (502, r#"{"error":{"code":"egress_failed","reason":"upstream_tls"}}"#, "Misled"),
            (502, r#"{"error":{"code":"egress_failed","reason":"upstream_untrusted"}}"#, "Misled"),
            (502, r#"{"error":{"code":"egress_failed","reason":"upstream_certificate"}}"#, "Misled"),
            (502, r#"{"error":{"code":"egress_failed","reason":"upstream_unreachable"}}"#, "Unavailable"),
            (504, r#"{"error":{"code":"egress_failed","reason":"upstream_timeout"}}"#, "Unavailable"),
            (429, r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#, "RateLimited"),
            (
                429,
                r#"{"error":{"message":"no money","type":"insufficient_quota","code":"insufficient_quota"}}"#,
                "Refused",
            ),
            (
                529,
                r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
                "Unavailable",
            ),
            (502, "<html>bad gateway</html>", "Unavailable"),
            (408, "", "Unavailable"),
        ] {
            assert_eq!(class(status, body), expected, "{status} {body}");
        }
    }
}
