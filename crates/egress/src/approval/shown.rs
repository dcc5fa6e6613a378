//! What people are shown of a held request: decoded, bounded, and without what may be a secret.
//!
//! What is left out is said by name, never in silence: a header or parameter without a value, a body that is not whole, a
//! mark that something was cut, the kind and size of a value. Values of headers are shown where the header is on a list of
//! those that carry no secrets; values in the query, in forms and in JSON are hidden where their name sounds like a secret's.
//! Nothing is looked for in other text.

use std::borrow::Cow;

use freehold_model::approval::{Body, Field, Shown};
use freehold_policy::ReadBody;
use http::{HeaderMap, header, request::Parts};
use serde_json::Value;

use crate::headers::single;

/// Bytes of a body that are read, and shown at most.
pub(crate) const BODY_BYTES_MAX: usize = 32 * 1024;
/// Query parameters and headers that are shown, of each.
const FIELDS_MAX: usize = 100;
/// Characters of one value that are shown.
const VALUE_CHARS_MAX: usize = 1_024;
/// Characters of a path that are shown.
const PATH_CHARS_MAX: usize = 4_096;

/// Headers whose values are shown, beside those that begin with one of [`PREFIXES`]. Those that stay behind, such as `Host`, are
/// not there to be shown.
const HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "anthropic-beta",
    "anthropic-version",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-range",
    "content-type",
    "depth",
    "destination",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "openai-beta",
    "origin",
    "overwrite",
    "prefer",
    "range",
    "soapaction",
    "te",
    "user-agent",
    "x-amz-target",
    "x-github-api-version",
    "x-requested-with",
];
const PREFIXES: &[&str] = &["accept-", "grpc-", "mcp-protocol-"];

/// What names of secrets have in them, without hyphens and underscores and in lowercase.
const SECRETIVE: &[&str] = &[
    "accesskey",
    "apikey",
    "assertion",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "sessionid",
    "signature",
    "token",
];
/// Names of secrets that are words of their own.
const SECRETIVE_WORDS: &[&str] = &["auth", "pass", "pin", "sas", "sid", "sig"];

/// What was read of a body before asking.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_whole: bool,
    pub(crate) trailers: Option<&'a HeaderMap>,
}

/// What is shown of a request, whose path is given in normal form.
pub(crate) fn shown(parts: &Parts, destination: String, path: &str, body: Seen<'_>) -> Shown {
    let mut cut = Cut(false);
    let query = parts.uri.query().unwrap_or_default();
    let query = url::form_urlencoded::parse(query.as_bytes());
    let query = cut.fields(query.map(|(name, value)| {
        // In a query a key opens something; in JSON it mostly names something.
        let is_secret = is_secretive(&name) || name.eq_ignore_ascii_case("key");
        field(name.into_owned(), value, !is_secret)
    }));
    let headers = cut.headers(&parts.headers);
    let trailers = body.trailers.map(|trailers| cut.headers(trailers)).unwrap_or_default();
    let path = cut.text(path, PATH_CHARS_MAX);
    let body = shown_body(&parts.headers, body, &mut cut);
    Shown {
        method: cut.text(parts.method.as_str(), VALUE_CHARS_MAX),
        destination,
        path,
        query,
        headers,
        body,
        trailers,
        is_cut: cut.0,
    }
}

/// A value, or how long it is.
fn field(name: String, value: Cow<'_, str>, is_shown: bool) -> Field {
    let hidden_chars = (!is_shown).then(|| length(&value));
    Field { name, value: is_shown.then(|| value.into_owned()), hidden_chars }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.chars().count()).unwrap_or(u64::MAX)
}

/// Whether something was cut.
struct Cut(bool);

impl Cut {
    fn text(&mut self, text: &str, chars_max: usize) -> String {
        match text.char_indices().nth(chars_max) {
            None => text.to_owned(),
            Some((end, _)) => {
                self.0 = true;
                format!("{}…", &text[..end])
            }
        }
    }

    fn headers(&mut self, headers: &HeaderMap) -> Vec<Field> {
        self.fields(headers.iter().map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            field(name.as_str().to_owned(), value, is_plain_header(name.as_str()))
        }))
    }

    fn fields(&mut self, mut fields: impl Iterator<Item = Field>) -> Vec<Field> {
        let shown = fields.by_ref().take(FIELDS_MAX).map(|field| Field {
            name: self.text(&field.name, VALUE_CHARS_MAX),
            value: field.value.map(|value| self.text(&value, VALUE_CHARS_MAX)),
            hidden_chars: field.hidden_chars,
        });
        let shown = shown.collect();
        self.0 |= fields.next().is_some();
        shown
    }
}

fn shown_body(headers: &HeaderMap, seen: Seen<'_>, cut: &mut Cut) -> Option<Body> {
    let Seen { bytes, is_whole, .. } = seen;
    if bytes.is_empty() && is_whole {
        return None;
    }
    let head = &bytes[..bytes.len().min(BODY_BYTES_MAX)];
    let is_shown_whole = is_whole && head.len() == bytes.len();
    cut.0 |= !is_shown_whole;
    // With two of them, what is a form here may be JSON to the server: nothing of it is hidden then.
    let media = single(headers, &header::CONTENT_TYPE);
    let is_coded = headers.contains_key(header::CONTENT_ENCODING);
    let read = (is_shown_whole && !is_coded).then(|| ReadBody::new(media, head));
    let json = read.as_ref().and_then(ReadBody::value).cloned().map(|mut value| {
        hide(&mut value);
        value
    });
    // Bytes that are no text are not shown as one; a character at the cut is no reason.
    let text = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => std::str::from_utf8(&head[..error.valid_up_to()]).ok(),
        Err(_) => None,
    };
    let text = text.filter(|text| json.is_none() && !is_coded && !text.contains('\0')).map(str::to_owned);
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    Some(Body { bytes: length, is_whole: is_shown_whole, json, text })
}

/// Hides the values of names that sound like secrets, however deep, and says of what kind and size they are: who decides
/// sees that more than a secret may stand there. What was read is nested to a limit.
fn hide(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if is_secretive(name) && !value.is_null() {
                    *value = Value::String(format!("[not shown: {}]", kind_and_size(value)));
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn kind_and_size(value: &Value) -> String {
    let characters = || length(&value.to_string());
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Number(_) => format!("a number of {} characters", characters()),
        Value::String(text) => format!("text of {} characters", length(text)),
        Value::Array(_) => format!("a list of {} characters", characters()),
        Value::Object(_) => format!("an object of {} characters", characters()),
    }
}

fn is_plain_header(name: &str) -> bool {
    HEADERS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_secretive(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    // Models' requests count tokens; one alone is a secret.
    let plain = plain.to_ascii_lowercase().replace("tokens", "");
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    SECRETIVE.iter().any(|part| plain.contains(part))
        || words().any(|word| SECRETIVE_WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret)))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::json;

    use super::*;

    fn of(request: http::request::Builder, body: &[u8]) -> Shown {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        shown(&parts, "api.test".to_owned(), "/a", Seen { bytes: body, is_whole: true, trailers: None })
    }

    fn values(fields: &[Field]) -> Vec<(&str, Option<&str>)> {
        fields.iter().map(|field| (field.name.as_str(), field.value.as_deref())).collect()
    }

    #[test]
    fn headers_are_named_and_their_values_shown_when_they_carry_no_secret() {
        let request = Request::post("/a?q=a%20b&api_key=canary&key=canary&X-Amz-Signature=canary")
            .header("content-type", "text/plain")
            .header("authorization", "Bearer canary")
            .header("cookie", "canary")
            .header("x-custom", "canary");
        let shown = of(request, b"hello");
        assert_eq!(
            values(&shown.headers),
            [
                ("content-type", Some("text/plain")),
                ("authorization", None),
                ("cookie", None),
                ("x-custom", None)
            ]
        );
        assert_eq!(
            values(&shown.query),
            [("q", Some("a b")), ("api_key", None), ("key", None), ("X-Amz-Signature", None)]
        );
        assert!(!format!("{shown:?}").contains("canary"));
        let hidden: Vec<_> = shown.headers.iter().map(|field| field.hidden_chars).collect();
        assert_eq!(hidden, [None, Some(13), Some(6), Some(6)]);
        let body = shown.body.unwrap();
        assert_eq!((body.bytes, body.is_whole, body.text.as_deref()), (5, true, Some("hello")));
    }

    #[test]
    fn json_and_forms_are_decoded_and_what_sounds_like_a_secret_is_hidden() {
        let json = br#"{"title":"a","auth":{"x":"canary"},"list":[{"accessToken":"canary","n":1}],"author":"b","max_tokens":5}"#;
        let shown = of(Request::post("/a").header("content-type", "application/json"), json);
        let body = shown.body.unwrap();
        assert!(body.text.is_none());
        let expected = json!({"title": "a", "auth": "[not shown: an object of 14 characters]", "author": "b",
            "max_tokens": 5, "list": [{"accessToken": "[not shown: text of 6 characters]", "n": 1}]});
        assert_eq!(body.json, Some(expected));
        let form = Request::post("/a").header("content-type", "application/x-www-form-urlencoded");
        let body = of(form, b"to=ann%40x.test&client_secret=canary").body.unwrap();
        assert_eq!(
            body.json,
            Some(json!({"to": ["ann@x.test"], "client_secret": "[not shown: a list of 10 characters]"}))
        );
    }

    #[test]
    fn what_servers_could_read_in_two_ways_is_shown_as_it_is() {
        let json = br#"{"amount": 1, "amount": 1000}"#;
        let body = of(Request::post("/a").header("content-type", "application/json"), json).body.unwrap();
        assert_eq!((body.json, body.text.as_deref()), (None, std::str::from_utf8(json).ok()));
    }

    #[test]
    fn a_body_of_two_types_is_shown_as_it_is() {
        let body = br#"{"token":"x=1","delete":"everything"}"#;
        let request = Request::post("/a")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("content-type", "application/json");
        let body = of(request, body).body.unwrap();
        assert_eq!(body.text.as_deref(), Some(r#"{"token":"x=1","delete":"everything"}"#));
    }

    #[test]
    fn what_is_too_long_is_cut_and_said_to_be() {
        let long = "a".repeat(BODY_BYTES_MAX + 1);
        let shown = of(Request::post("/a").header("content-type", "application/json"), long.as_bytes());
        let body = shown.body.unwrap();
        assert_eq!((shown.is_cut, body.is_whole, body.bytes), (true, false, BODY_BYTES_MAX as u64 + 1));
        assert_eq!(body.text.unwrap().len(), BODY_BYTES_MAX);
        let many = (0..=FIELDS_MAX).fold(Request::get("/a"), |request, n| request.header("accept", n));
        let shown = of(many, b"");
        assert_eq!((shown.is_cut, shown.headers.len()), (true, FIELDS_MAX));
        assert!(shown.body.is_none());
    }

    #[test]
    fn bytes_that_are_no_text_are_counted_only() {
        let shown = of(Request::post("/a"), &[0xff, 0xfe, 0, 1]);
        let body = shown.body.unwrap();
        assert_eq!((body.bytes, body.text, body.json), (4, None, None));
    }
}
