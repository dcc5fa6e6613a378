//! Rows of activity and audit as people read them. Pure: rows in, text out.
//!
//! What a pod or a model wrote is made harmless before it is shown; details that are absent leave a gap, never an error.

use std::collections::HashMap;

use freehold_client::api::audit::AuditEvent;
use freehold_model::{
    Timestamp,
    audit::{Decision, EventType},
};
use serde_json::Value;

use crate::{
    output::{BAD, BOLD, DIM, GOOD, NOTE, seconds},
    text::{COLUMNS, cut, excerpt, line, wrap},
};

/// Columns left of the text: a step's number, or nothing.
const GUTTER: usize = 5;

/// How much is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Detail {
    /// Lines of a tool's output.
    pub output_lines: usize,
    /// Lines of what a tool is given.
    pub input_lines: usize,
}

impl Detail {
    /// For following by the way.
    pub const SHORT: Self = Self { output_lines: 8, input_lines: 1 };
    /// For watching.
    pub const FULL: Self = Self { output_lines: 14, input_lines: 12 };
}

/// Turns the rows of one task into blocks of text.
#[derive(Debug)]
pub(crate) struct Progress {
    detail: Detail,
    began: Option<Timestamp>,
    iteration_began: Option<Timestamp>,
    step: u64,
    /// Names of the tools that run, by call.
    tools: HashMap<String, String>,
    /// Requests shown: allowed, denied.
    pub allowed: u32,
    /// Requests shown that were denied.
    pub denied: u32,
}

impl Progress {
    pub fn new(detail: Detail) -> Self {
        Self {
            detail,
            began: None,
            iteration_began: None,
            step: 0,
            tools: HashMap::new(),
            allowed: 0,
            denied: 0,
        }
    }

    /// The text of one more row; empty when there is nothing to say.
    pub fn render(&mut self, row: &AuditEvent) -> String {
        let began = *self.began.get_or_insert(row.timestamp);
        let at = row.timestamp.duration_since(began).as_secs_f64().max(0.0);
        match row.event_type {
            EventType::TaskSubmitted => moment(at, "task submitted"),
            EventType::TaskDelivered => moment(at, "task handed to the agent"),
            EventType::TaskStarted => moment(at, "agent began"),
            EventType::WorkspaceCreated => moment(at, "workspace created"),
            EventType::WorkspaceStatusChanged => {
                let (from, to) = status_change(row);
                moment(at, &format!("workspace {} {DIM}(was {}){DIM:#}", line(&to, 20), line(&from, 20)))
            }
            EventType::TaskCancelRequested => moment(at, "cancel requested"),
            EventType::CompactionStarted => moment(at, "compacting the conversation"),
            EventType::CompactionCompleted => moment(at, "conversation compacted"),
            EventType::IterationStarted => {
                self.iteration_began = Some(row.timestamp);
                self.step(row)
            }
            EventType::IterationCompleted => self.iteration(row),
            EventType::IterationRetrying => retrying(row),
            EventType::ToolStarted => self.tool_started(row),
            EventType::ToolCompleted => self.tool_completed(row),
            EventType::PolicyDecision => self.decision(row),
            EventType::ApprovalRequested => approval_requested(row),
            EventType::ApprovalDecided | EventType::ApprovalRevoked => {
                format!("{}\n", indented(&approval_ended(row)).trim_end())
            }
            EventType::TaskCompleted => completed(row, at),
            _ => String::new(),
        }
    }

    /// The head of a step, under which everything belongs until the next.
    fn step(&mut self, row: &AuditEvent) -> String {
        self.step = number_of(row, "iteration").unwrap_or(self.step + 1);
        format!("\n{BOLD}{:>3}{BOLD:#}  {DIM}asking the model{DIM:#}\n", self.step)
    }

    fn iteration(&mut self, row: &AuditEvent) -> String {
        let began = self.iteration_began.take();
        let mut out = if began.is_none() { self.step(row) } else { String::new() };
        let model = text_of(row, "model").map_or_else(|| "the model".to_owned(), |model| line(&model, 40));
        let failed = row.detail.as_ref().and_then(|detail| detail.get("success")?.as_bool()) == Some(false);
        let took = began.map(|began| row.timestamp.duration_since(began).as_secs_f64());
        if failed {
            let why = text_of(row, "error").or_else(|| row.reason.clone()).unwrap_or_default();
            out.push_str(&indented(&format!("{BAD}the model could not answer:{BAD:#}")));
            out.extend(wrap(&why, COLUMNS - GUTTER).iter().map(|part| indented(part)));
        } else if let Some(took) = took.filter(|took| *took >= 0.0) {
            out.push_str(&indented(&format!("{DIM}{model} answered in {}{DIM:#}", seconds(took))));
        }
        for text in text_of(row, "text").iter().flat_map(|text| wrap(text, COLUMNS - GUTTER)) {
            out.push_str(&indented(&text));
        }
        out
    }

    fn tool_started(&mut self, row: &AuditEvent) -> String {
        let tool = line(&text_of(row, "tool").unwrap_or_else(|| "tool".to_owned()), 30);
        if let Some(id) = text_of(row, "tool_call_id") {
            self.tools.insert(id, tool.clone());
        }
        let arguments = arguments(row);
        let (head, body) = call(&tool, &arguments);
        let head = cut(&head, COLUMNS - GUTTER - tool.len() - 4);
        let mut out = indented(&format!("{NOTE}▸ {tool}{NOTE:#}  {head}"));
        if let (Some(body), true) = (body, self.detail.input_lines > 1) {
            out.extend(block(&body, self.detail.input_lines, "│"));
        }
        out
    }

    fn tool_completed(&mut self, row: &AuditEvent) -> String {
        let id = text_of(row, "tool_call_id").unwrap_or_default();
        self.tools.remove(&id);
        let status = text_of(row, "status").unwrap_or_default();
        let took =
            number_of(row, "duration_ms").map(|ms| format!(" {}", milliseconds(ms))).unwrap_or_default();
        let mut out = String::new();
        if let Some(result) = text_of(row, "result").filter(|result| !result.trim().is_empty()) {
            out.extend(block(&result, self.detail.output_lines, "│"));
        }
        let mark = match status.as_str() {
            "success" | "" => format!("{GOOD}✓{GOOD:#}"),
            other => format!("{BAD}✗ {}{BAD:#}", line(other, 20)),
        };
        out.push_str(&indented(&format!("{mark}{DIM}{took}{DIM:#}")));
        out
    }

    fn decision(&mut self, row: &AuditEvent) -> String {
        let is_allowed = row.decision == Some(Decision::Allow);
        // A name that resolves is not news: what happens to the request is.
        if is_allowed && row.policy_type.as_deref() == Some("dns") {
            return String::new();
        }
        *(if is_allowed { &mut self.allowed } else { &mut self.denied }) += 1;
        let mark = if is_allowed { format!("{GOOD}allowed{GOOD:#}") } else { format!("{BAD}denied {BAD:#}") };
        let request = cut(&request(row), COLUMNS - GUTTER - 9);
        let mut why = Vec::new();
        why.extend(row.capability_name.as_ref().map(|name| format!("rule {name}")));
        why.extend(row.reason.as_deref().map(|reason| match advice(reason) {
            Some(advice) => format!("{reason}: {advice}"),
            None => reason.to_owned(),
        }));
        why.extend(
            (!row.auth_applied.is_empty()).then(|| format!("injected {}", row.auth_applied.join(", "))),
        );
        why.extend(causes(row));
        why.extend(row.latency_ms.map(milliseconds));
        let why = line(&why.join(" · "), COLUMNS - GUTTER - 9);
        if request.chars().count() + why.chars().count() + 11 <= COLUMNS - GUTTER {
            return indented(format!("{mark}  {request}  {DIM}{why}{DIM:#}").trim_end());
        }
        indented(&format!("{mark}  {request}")) + &indented(&format!("         {DIM}{why}{DIM:#}"))
    }
}

/// What stood in a request's way: credentials, transforms and counters by name, the place in its body, the upstream.
fn causes(row: &AuditEvent) -> Vec<String> {
    let named = row.auth_failures.iter().chain(&row.transforms_failed).chain(&row.budget_ceilings);
    let reason = row.reason.as_deref().unwrap_or_default();
    // A name whose reason is the row's own needs no second telling.
    let said =
        |(name, why): (&String, &String)| if why == reason { name.clone() } else { format!("{name}: {why}") };
    let mut causes: Vec<String> = named.map(said).collect();
    causes.extend(text_of(row, "body"));
    causes.extend(text_of(row, "upstream_error").map(|error| format!("no answer: {error}")));
    causes
}

/// That a request waits for a person, and what this person may say.
fn approval_requested(row: &AuditEvent) -> String {
    let id = line(&text_of(row, "approval_id").unwrap_or_default(), 60);
    let request = cut(&request(row), COLUMNS - GUTTER - 9);
    let mut out = indented(&format!("{NOTE}waits{NOTE:#}    {request}"));
    let rule = format!(
        "rule {}/{} · a person decides:",
        row.capability_name.as_deref().unwrap_or_default(),
        text_of(row, "rule").unwrap_or_default()
    );
    out.push_str(&indented(&format!("         {DIM}{}{DIM:#}", line(&rule, COLUMNS - GUTTER - 9))));
    for verb in ["show", "approve", "deny"] {
        out.push_str(&indented(&format!("         freehold approvals {verb} {id}")));
    }
    out
}

/// What became of a request that waited.
pub(crate) fn approval_ended(row: &AuditEvent) -> String {
    let status = line(&text_of(row, "status").unwrap_or_default(), 20);
    let style = if status == "approved" { GOOD } else { BAD };
    let mut why = Vec::new();
    why.extend(text_of(row, "until").filter(|_| status == "approved").map(|until| format!("until {until}")));
    why.extend(text_of(row, "abandonment"));
    why.extend(text_of(row, "comment"));
    let why = line(&why.join(" · "), COLUMNS);
    let request = cut(&request(row), COLUMNS - GUTTER - 11);
    format!("{style}{status:9}{style:#}  {request}  {DIM}{why}{DIM:#}")
}

/// What the operator can do about a denial whose reason does not say it.
pub(crate) fn advice(reason: &str) -> Option<&'static str> {
    (reason == "address_forbidden")
        .then_some("the address is an inside one, allow it by the server's egress.hosts")
}

/// Why the model did not answer, whole, and when it is asked again.
fn retrying(row: &AuditEvent) -> String {
    let attempt = number_of(row, "attempt").unwrap_or(1);
    let wait = number_of(row, "wait_ms").map(milliseconds).unwrap_or_default();
    let mut out = indented(&format!(
        "{BAD}the model did not answer{BAD:#} {DIM}attempt {attempt}, the next one in {wait}{DIM:#}"
    ));
    let why = text_of(row, "error").unwrap_or_default();
    out.extend(wrap(&why, COLUMNS - GUTTER).iter().map(|text| indented(text)));
    out
}

fn completed(row: &AuditEvent, at: f64) -> String {
    let status = text_of(row, "status").unwrap_or_else(|| "ended".to_owned());
    let style = if status == "completed" { GOOD } else { BAD };
    let mut facts = Vec::new();
    facts.extend(
        number_of(row, "iterations")
            .map(|steps| format!("{steps} step{}", if steps == 1 { "" } else { "s" })),
    );
    facts.push(number_of(row, "duration_ms").map_or_else(|| seconds(at), milliseconds));
    let usage = row.detail.as_ref().and_then(|detail| detail.get("usage"));
    let tokens = |name| usage.and_then(|usage| usage.get(name)?.as_u64());
    if let (Some(input), Some(output)) = (tokens("input_tokens"), tokens("output_tokens")) {
        facts.push(format!("{input} tokens in, {output} out"));
    }
    let mut out =
        format!("\n{style}{BOLD}{}{BOLD:#}{style:#}  {DIM}{}{DIM:#}\n", line(&status, 20), facts.join(" · "));
    let reason = text_of(row, "reason").or_else(|| row.reason.clone());
    if let Some(reason) = reason.filter(|reason| !reason.is_empty() && status != "completed") {
        out.extend(wrap(&reason, COLUMNS - GUTTER).iter().map(|text| indented(text)));
    }
    out
}

/// One line that says what a row is about, cut for a terminal.
pub(crate) fn summary(row: &AuditEvent) -> String {
    summary_of(row, 60)
}

/// One line of at most so many characters that says what a row is about.
pub(crate) fn summary_of(row: &AuditEvent, columns: usize) -> String {
    let text = |name: &str| text_of(row, name).unwrap_or_default();
    let said = match row.event_type {
        EventType::PolicyDecision => {
            let decision = row.decision.map(Decision::as_str).unwrap_or_default();
            let why = row.reason.as_deref().unwrap_or_default();
            format!("{decision} {} {why} {}", request(row), causes(row).join(", "))
        }
        EventType::IterationCompleted => text("text"),
        EventType::IterationRetrying => format!("attempt {} {}", text("attempt"), text("error")),
        EventType::ToolStarted => {
            let tool = text("tool");
            format!("{tool} {}", call(&tool, &arguments(row)).0)
        }
        EventType::ToolCompleted => format!("{} {} {}", text("tool"), text("status"), text("result")),
        EventType::WorkspaceStatusChanged => {
            let (from, to) = status_change(row);
            format!("{from} -> {to}")
        }
        EventType::TaskCompleted => format!("{} {}", text("status"), text("reason")),
        EventType::ApprovalRequested => format!("{} {}", text("approval_id"), request(row)),
        EventType::ApprovalDecided | EventType::ApprovalRevoked => {
            format!("{} {} {}", text("status"), text("approval_id"), request(row))
        }
        _ => row.detail.as_ref().map(brief).unwrap_or_default(),
    };
    line(&said, columns)
}

/// The statuses before and after; a change that somebody asked for calls the latter `to`.
fn status_change(row: &AuditEvent) -> (String, String) {
    let to = text_of(row, "status").or_else(|| text_of(row, "to"));
    (text_of(row, "from").unwrap_or_default(), to.unwrap_or_default())
}

fn brief(detail: &Value) -> String {
    match detail {
        Value::Object(fields) => {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            fields
                .iter()
                .map(|(name, value)| format!("{name}={}", plain(value)))
                .collect::<Vec<_>>()
                .join(" ")
        }
        other => other.to_string(),
    }
}

fn request(row: &AuditEvent) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    let wire = if row.policy_type.as_deref() == Some("dns") { "DNS " } else { "" };
    line(&format!("{wire}{} {}{}", part(&row.method), part(&row.destination), part(&row.path)), 400)
}

/// A tool's arguments: the agent sends them as the text the model wrote.
fn arguments(row: &AuditEvent) -> Value {
    let arguments =
        row.detail.as_ref().and_then(|detail| detail.get("arguments")).cloned().unwrap_or_default();
    match arguments.as_str() {
        Some(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
        None => arguments,
    }
}

/// A call's head line, and what it carries along.
fn call(tool: &str, arguments: &Value) -> (String, Option<String>) {
    let text = |name: &str| arguments.get(name).and_then(Value::as_str);
    let path = || text("path").map(|path| line(path, 200));
    let (head, body) = match tool {
        "bash" => {
            (text("command").map(|command| line(command, 400)), text("command").filter(|c| c.contains('\n')))
        }
        "read_file" => (path(), None),
        "write_file" => (path(), text("content")),
        "edit_file" => {
            let change = |old: &str, new: &str| {
                format!("- {}\n+ {}", old.replace('\n', "\n- "), new.replace('\n', "\n+ "))
            };
            let old = text("old").or_else(|| text("old_text")).or_else(|| text("old_string"));
            let new = text("new").or_else(|| text("new_text")).or_else(|| text("new_string"));
            let body = old.zip(new).map(|(old, new)| change(old, new));
            return (path().unwrap_or_default(), body);
        }
        "web_fetch" => {
            let method = text("method").unwrap_or("GET");
            (text("url").map(|url| line(&format!("{method} {url}"), 400)), None)
        }
        _ => (None, None),
    };
    let head = head.unwrap_or_else(|| {
        if arguments.is_null() { String::new() } else { line(&arguments.to_string(), 400) }
    });
    (head, body.map(str::to_owned))
}

fn text_of(row: &AuditEvent, name: &str) -> Option<String> {
    match row.detail.as_ref()?.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn number_of(row: &AuditEvent, name: &str) -> Option<u64> {
    row.detail.as_ref()?.get(name)?.as_u64()
}

fn milliseconds(ms: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a duration to show")]
    seconds(ms as f64 / 1000.0)
}

fn moment(at: f64, what: &str) -> String {
    format!("{DIM}{:>9}{DIM:#}  {what}\n", seconds(at))
}

fn indented(text: &str) -> String {
    if text.is_empty() { "\n".to_owned() } else { format!("{:GUTTER$}{text}\n", "") }
}

fn block<'a>(text: &str, lines: usize, bar: &'a str) -> impl Iterator<Item = String> + use<'a> {
    excerpt(text, lines, COLUMNS - GUTTER - 4)
        .into_iter()
        .map(move |text| indented(&format!("  {DIM}{bar}{DIM:#} {text}")))
}

#[cfg(test)]
mod tests;
