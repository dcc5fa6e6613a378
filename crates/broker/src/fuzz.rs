//! Entrances for the fuzz targets (`fuzz/`); no part of the API.

use bytes::Bytes;
use http::{Response, header};

use crate::{fault::Fault, token};

/// What a token endpoint answers: the status in three digits, a line with its wish to be asked later, and a body. A token that
/// is taken can be sent in a header, and an issuer's wish to wait is followed within bounds.
pub fn token_answer(bytes: &[u8]) {
    let Some((status, rest)) = bytes.split_at_checked(3) else { return };
    let status = std::str::from_utf8(status).ok().and_then(|status| status.parse::<u16>().ok());
    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    let answer = Response::builder()
        .status(status.unwrap_or(200))
        .header(header::RETRY_AFTER, &rest[..end])
        .body(Bytes::copy_from_slice(rest.get(end + 1..).unwrap_or_default()));
    let Ok(answer) = answer else { return };
    match token::tokens(&answer) {
        Ok(tokens) => {
            assert!(answer.status().is_success(), "a token of an answer that refuses");
            assert!(
                http::HeaderValue::from_str(&tokens.access_token).is_ok() && !tokens.access_token.is_empty(),
                "a token that cannot be sent"
            );
            assert!(tokens.refresh_token.is_none_or(|token| !token.is_empty()), "an empty token");
        }
        Err(Fault::Passing { retry_after: Some(wait), .. }) => {
            assert!(wait.as_secs() <= token::RETRY_AFTER_SECONDS_MAX, "waits without bound");
        }
        Err(_) => {}
    }
}
