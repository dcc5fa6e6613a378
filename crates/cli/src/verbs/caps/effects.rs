//! What is done with a request that is allowed, a line each: what it waits for, what is changed and what it counts for.

use std::fmt::Write;

use freehold_policy::{
    Applied, Approval, Counter, Edits, Formula, MICROS_PER_USD, Permit, ResponseRule, RuleName, Transform,
    Unit,
    cel::{Fault, Scope, Work},
};

use crate::{
    output::{BOLD, DIM},
    text::harmless,
};

/// Everything that a permit says beside where the request may go.
pub(super) fn shown(permit: &Permit, scope: &dyn Scope) -> String {
    let mut text = String::new();
    let mut line = |what: &str, says: &str| {
        let _written = writeln!(text, "  {BOLD}{what}{BOLD:#}  {says}");
    };
    if permit.approval() == Approval::Required {
        line("approval", "a person must agree");
    }
    if let Some(max) = permit.body_max() {
        line("body", &format!("at most {max} bytes"));
    }
    if let Some(rule) = permit.response() {
        line("response", &harmless(&response(rule)));
    }
    let work = Work::default();
    for transform in permit.transforms() {
        line("transform", &title(&transform.name));
        for change in changes(transform, scope, &work) {
            line("         ", &harmless(&change));
        }
    }
    for one in permit.counters() {
        line("counts", &counter(one, scope, &work));
    }
    text
}

fn title(name: &RuleName) -> String {
    format!("{}/{} {DIM}({}){DIM:#}", name.capability, name.rule, name.origin.as_str())
}

fn response(rule: &ResponseRule) -> String {
    let mut parts = Vec::new();
    if !rule.status.is_empty() {
        parts.push(format!("status {}", joined(&rule.status)));
    }
    if !rule.content_types.is_empty() {
        parts.push(joined(&rule.content_types));
    }
    if let Some(max) = rule.max_bytes() {
        parts.push(format!("at most {max} bytes"));
    }
    parts.extend(rule.when.iter().map(|one| one.source().to_owned()));
    parts.join("; ")
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn changes(transform: &Transform, scope: &dyn Scope, work: &Work) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(credential) = &transform.credential {
        let over = if transform.overrides { ", over the client's own" } else { "" };
        lines.push(format!("puts on credential {credential}{over}"));
    }
    let or_denied = |value: Result<String, Fault>| {
        value.unwrap_or_else(|fault| format!("no value, so that the request is denied: {fault}"))
    };
    let text = |formula: &Formula| or_denied(formula.text(scope, work));
    let edits = |what: &str, edits: &Edits, lines: &mut Vec<String>| {
        lines.extend(edits.remove.iter().map(|name| format!("removes {what} {name}")));
        lines
            .extend(edits.set.iter().map(|(name, formula)| format!("sets {what} {name}: {}", text(formula))));
    };
    edits("header", &transform.headers, &mut lines);
    edits("parameter", &transform.query, &mut lines);
    lines.extend(transform.path.iter().map(|formula| format!("sets the path: {}", text(formula))));
    for (pointer, formula) in &transform.body.set {
        let value = or_denied(formula.json(scope, work).map(|value| value.to_string()));
        lines.push(format!("sets {pointer} of the body: {value}"));
    }
    for (name, formula) in &transform.body.form {
        lines.push(format!("sets field {name} of the form: {}", text(formula)));
    }
    if !transform.mask {
        lines.push("is not struck out of the response".to_owned());
    }
    lines
}

fn counter(counter: &Applied<Counter>, scope: &dyn Scope, work: &Work) -> String {
    let limit = match counter.unit {
        Unit::Usd => format!("{}.{:06} usd", counter.limit / MICROS_PER_USD, counter.limit % MICROS_PER_USD),
        unit => format!("{} {}", counter.limit, unit.as_str()),
    };
    let amount = match (counter.unit, counter.amount(scope, work)) {
        (Unit::Expression, Ok(amount)) => format!("{amount} of "),
        (Unit::Expression, Err(fault)) => format!("no value, so that the request is denied ({fault}), of "),
        (Unit::Requests, _) => "1 of ".to_owned(),
        _ => String::new(),
    };
    let window = counter.window.map(|window| format!(" in {window}")).unwrap_or_default();
    let beyond = counter.on_limit.as_str();
    format!("{}: {amount}{limit} per {}{window}, then {beyond}", title(&counter.name), counter.per.as_str())
}
