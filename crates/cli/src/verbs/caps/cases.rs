//! A file of cases: requests, responses to them, and what is expected.

use std::collections::BTreeMap;

use freehold_model::Timestamp;
use serde::Deserialize;

use super::request::{Message, Request, Response};

/// The most cases of a file.
const CASES_MAX: usize = 10_000;

/// Whose request it is, and when.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// What conditions see as `role.name`
    #[arg(long, value_name = "NAME")]
    pub(super) role: Option<String>,
    /// What conditions see as `workspace.id`
    #[arg(long, value_name = "ID")]
    pub(super) workspace: Option<String>,
    /// What conditions see as `task.id`; absent without it
    #[arg(long, value_name = "ID")]
    pub(super) task: Option<String>,
    /// What conditions see as `user.id`
    #[arg(long, value_name = "ID")]
    pub(super) user: Option<String>,
    /// What conditions see as `now`; the present time without it
    #[arg(long, value_name = "TIME")]
    pub(super) now: Option<Timestamp>,
}

/// A request and what is expected.
pub(super) struct Case {
    pub name: String,
    pub request: Result<Request, String>,
    pub response: Option<Response>,
    pub subject: Subject,
    pub expect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    content_type: Option<String>,
    /// A text as it is; anything else as JSON.
    body: Option<serde_json::Value>,
    response: Option<WrittenResponse>,
    #[serde(default)]
    subject: Subject,
    expect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenResponse {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    content_type: Option<String>,
    body: Option<serde_json::Value>,
}

/// Reads a file of cases.
///
/// # Errors
/// What is wrong with it, with its place.
pub(super) fn read(text: &str) -> Result<Vec<Case>, String> {
    let written: Vec<Written> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if written.is_empty() {
        return Err("there is no case in it".to_owned());
    }
    if written.len() > CASES_MAX {
        return Err(format!("more than {CASES_MAX} cases"));
    }
    written.into_iter().map(case).collect()
}

fn case(written: Written) -> Result<Case, String> {
    let Written { request, headers, content_type, body, response, subject, expect } = written;
    if !["allow", "deny"].contains(&expect.split(' ').next().unwrap_or_default()) {
        return Err(format!("`expect: {expect}`: it begins with `allow` or `deny`"));
    }
    let (method, url) =
        request.split_once(' ').ok_or_else(|| format!("`{request}`: expected a method and a URL"))?;
    let in_case = |problem: String| format!("`{request}`: {problem}");
    let of_request = message(&headers, content_type, body).map_err(in_case)?;
    let parsed = match Request::parse(method, url, of_request) {
        Err(refusal) if refusal.starts_with("deny ") => Err(refusal),
        parsed => Ok(parsed?),
    };
    let response = match response {
        Some(WrittenResponse { status, headers, content_type, body }) => {
            Some(Response { status, message: message(&headers, content_type, body).map_err(in_case)? })
        }
        None => None,
    };
    Ok(Case { name: request, request: parsed, response, subject, expect })
}

fn message(
    headers: &BTreeMap<String, String>,
    content_type: Option<String>,
    body: Option<serde_json::Value>,
) -> Result<Message, String> {
    let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let (body, kind) = match body {
        None => (Vec::new(), None),
        Some(serde_json::Value::String(text)) => (text.into_bytes(), None),
        Some(json) => {
            let is_given =
                headers.iter().any(|header| header.to_ascii_lowercase().starts_with("content-type:"));
            (json.to_string().into_bytes(), Some("application/json").filter(|_| !is_given))
        }
    };
    Message::new(&headers, content_type.as_deref().or(kind), body)
}
