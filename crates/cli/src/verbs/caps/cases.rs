//! A file of cases: requests, responses to them, and what is expected.

use std::collections::BTreeMap;

use freehold_model::Timestamp;
use freehold_policy::{Policy, Problem, Reason, RuleName, nearest};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::request::{Message, Request, Response};

/// The most cases of a file.
const CASES_MAX: usize = 10_000;
/// The most problems that are told.
const PROBLEMS_MAX: usize = 100;
/// The most rules that are named where one is not known.
const NAMES_SHOWN: usize = 20;
/// What is refused before any rule is asked.
const PATH_AMBIGUOUS: &str = "path_ambiguous";

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
    request: Spanned<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    content_type: Option<String>,
    /// A text as it is; anything else as JSON.
    body: Option<serde_json::Value>,
    response: Option<WrittenResponse>,
    #[serde(default)]
    subject: Subject,
    expect: Spanned<String>,
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

/// Reads a file of cases for a policy, whose rules they may name.
///
/// # Errors
/// Everything that is wrong with it; what is not of the form is the only problem.
pub(super) fn read(text: &str, policy: &Policy) -> Result<Vec<Case>, Vec<Problem>> {
    let options = serde_saphyr::options! { with_snippet: false };
    let written: Vec<Written> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| vec![malformed(&error)])?;
    if written.is_empty() {
        return Err(vec![problem(Location::UNKNOWN, "there is no case in it")]);
    }
    if written.len() > CASES_MAX {
        return Err(vec![problem(Location::UNKNOWN, format!("more than {CASES_MAX} cases"))]);
    }
    let (mut cases, mut problems) = (Vec::new(), Vec::new());
    let rules = policy.rules();
    for written in written {
        match case(written, &rules) {
            Ok(case) => cases.push(case),
            Err(problem) if problems.len() < PROBLEMS_MAX => problems.push(problem),
            Err(_) => {}
        }
    }
    if problems.is_empty() { Ok(cases) } else { Err(problems) }
}

fn problem(at: Location, message: impl Into<String>) -> Problem {
    Problem { line: at.line(), column: at.column(), path: String::new(), message: message.into() }
}

/// What is no file of cases, in the words that problems of capabilities have.
fn malformed(error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error as E;
    let message = match error {
        E::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field `{field}`; {}", near(field, expected, "the fields are"))
        }
        E::SerdeMissingField { field, .. } => format!("`{field}` is missing"),
        E::SerdeInvalidType { unexpected, expected, .. } => {
            format!("expected {expected}, found {unexpected}")
        }
        E::Unexpected { expected, .. } if expected.contains("sequence") => {
            "expected a list of cases, each beginning with `- request:`".to_owned()
        }
        other => {
            let said = other.to_string();
            let said = said.lines().next().unwrap_or("not YAML");
            // The place is told beside it.
            said.rsplit_once(" at line ").map_or(said, |(said, _)| said).to_owned()
        }
    };
    problem(error.location().unwrap_or(Location::UNKNOWN), message)
}

/// The known name that was meant, or all of them.
fn near(given: &str, known: &[&str], all: &str) -> String {
    match nearest(given, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("{all} `{}`", known.join("`, `")),
    }
}

fn case(written: Written, rules: &[(&RuleName, bool)]) -> Result<Case, Problem> {
    let Written { request, headers, content_type, body, response, subject, expect } = written;
    let (at, request) = (request.referenced, request.value);
    expectation(&expect.value, rules).map_err(|message| problem(expect.referenced, message))?;
    let (method, url) = request
        .split_once(' ')
        .ok_or_else(|| problem(at, format!("`{request}`: expected a method and a URL")))?;
    let in_case = |message: String| problem(at, format!("`{request}`: {message}"));
    let of_request = message(&headers, content_type, body).map_err(in_case)?;
    let parsed = match Request::parse(method, url, of_request) {
        Err(refusal) if refusal.starts_with("deny ") => Err(refusal),
        parsed => Ok(parsed.map_err(in_case)?),
    };
    let response = match response {
        Some(WrittenResponse { status, headers, content_type, body }) => {
            Some(Response { status, message: message(&headers, content_type, body).map_err(in_case)? })
        }
        None => None,
    };
    Ok(Case { name: request, request: parsed, response, subject, expect: expect.value })
}

/// Why the text is nothing that can be decided: a slip would be taken for another decision than the expected one.
fn expectation(text: &str, rules: &[(&RuleName, bool)]) -> Result<(), String> {
    let (effect, rest) = text.split_once(' ').unwrap_or((text, ""));
    let denies = match effect {
        "allow" => false,
        "deny" => true,
        _ => return Err(format!("`{text}`: it begins with `allow` or `deny`")),
    };
    if rest.is_empty() {
        return Ok(());
    }
    if !denies {
        let rule = rest.strip_suffix(" after approval").unwrap_or(rest);
        return known_rule(rule, rules, false);
    }
    let (reason, by) = rest.split_once(' ').map_or((rest, None), |(reason, by)| (reason, Some(by)));
    let reasons: Vec<&str> = [PATH_AMBIGUOUS]
        .into_iter()
        .chain(Reason::ALL.iter().filter(|one| **one != Reason::RuleMatched).map(|one| one.as_str()))
        .collect();
    if !reasons.contains(&reason) {
        return Err(format!("there is no reason `{reason}`; {}", near(reason, &reasons, "there are")));
    }
    match by.map(|by| (by, by.strip_prefix("by "))) {
        None => Ok(()),
        Some((_, Some(rule))) => known_rule(rule, rules, reason == Reason::DeniedByRule.as_str()),
        Some((other, None)) => Err(format!("`{other}`: behind a reason stands `by` and a rule")),
    }
}

/// Whether there is such a rule, which denies or allows as is said.
fn known_rule(given: &str, rules: &[(&RuleName, bool)], denies: bool) -> Result<(), String> {
    let mut names = Vec::new();
    for (name, rule_denies) in rules {
        let name = format!("{}/{}", name.capability, name.rule);
        if name == given && *rule_denies != denies {
            let does = if denies { "allows, and denies nothing" } else { "denies, and allows nothing" };
            return Err(format!("the rule `{given}` {does}"));
        }
        if *rule_denies == denies {
            names.push(name);
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.contains(&given) {
        return Ok(());
    }
    let hint = match nearest(given, names.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => listed(&names),
    };
    Err(format!("there is no rule `{given}`; {hint}"))
}

/// The names, as many as can be read.
fn listed(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMES_SHOWN);
    let shown = names[..names.len() - more].join("`, `");
    match (names.is_empty(), more) {
        (true, _) => "there are none of its effect".to_owned(),
        (false, 0) => format!("there are `{shown}`"),
        (false, more) => format!("there are `{shown}` and {more} more"),
    }
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
