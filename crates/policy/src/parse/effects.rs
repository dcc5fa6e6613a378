//! Transforms and budgets: what a capability does to the requests that it allows.

use std::collections::HashSet;

use super::{COUNTERS_MAX, Checker, EDITS_MAX, NAME_CHARS_MAX, RULES_MAX, TRANSFORMS_MAX, find};
use crate::{
    budget::{Counter, LIMIT_MAX, MICROS_PER_USD, OnLimit, Per, Unit, Window},
    cel::{Place, Type},
    document::Formula,
    fields::{AUTH, BODY_EDITS, COUNTER, Fields, HEADER_EDITS, QUERY_EDITS, TRANSFORM},
    media::is_token,
    suggest::suggest,
    transform::{BodyEdits, Edits, Pointer, Transform},
    yaml::{Node, Value},
};

/// Headers that are egress's: they say where a request goes, how long it is, or belong to one connection; and those by which
/// some servers let another request count than was decided on.
const HEADERS_KEPT: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

impl Checker<'_> {
    pub(super) fn transforms(
        &mut self,
        fields: &[(Node, Node)],
        path: &str,
        rules: &[&str],
    ) -> Vec<Transform> {
        let Some(node) = find(fields, "transforms") else { return Vec::new() };
        let path = format!("{path}.transforms");
        let mut transforms: Vec<Transform> = Vec::new();
        for (at, item) in self.list(node, &path, TRANSFORMS_MAX).iter().enumerate() {
            let path = format!("{path}[{at}]");
            let Some(transform) = self.transform(item, &path, rules) else { continue };
            if transforms.iter().any(|other| other.name == transform.name) {
                self.problem(item, &path, "a second transform of this name in the capability");
            }
            transforms.push(transform);
        }
        transforms
    }

    fn transform(&mut self, node: &Node, path: &str, rules: &[&str]) -> Option<Transform> {
        let fields = self.fields(node, path, &TRANSFORM)?;
        let name = match find(fields, "name") {
            Some(value) => self.name(value, &format!("{path}.name")).unwrap_or_default(),
            None => self.missing(node, path, "name"),
        };
        let applies_to = self.applies_to(fields, path, rules);
        let credential = find(fields, "auth").and_then(|auth| self.credential(auth, &format!("{path}.auth")));
        let headers = self.edits(fields, path, "headers", &HEADER_EDITS, header);
        let query = self.edits(fields, path, "query", &QUERY_EDITS, plain);
        let path_of_request =
            find(fields, "path").and_then(|value| self.path(value, &format!("{path}.path")));
        let body = find(fields, "body")
            .map_or_else(BodyEdits::default, |body| self.body_edits(body, &format!("{path}.body")));
        self.not_empty(node, path, fields, &TRANSFORM);
        Some(Transform {
            name,
            applies_to,
            credential,
            overrides: self.flag(fields, path, "override", false),
            mask: self.flag(fields, path, "mask", true),
            headers,
            query,
            path: path_of_request,
            body,
        })
    }

    fn credential(&mut self, node: &Node, path: &str) -> Option<String> {
        if let Value::Text(name) = &node.value {
            let name = plain(name).unwrap_or_else(|_| "NAME".to_owned());
            self.problem(
                node,
                path,
                format!("expected a mapping, found text; write `auth: {{credential: {name}}}`"),
            );
            return None;
        }
        let fields = self.fields(node, path, &AUTH)?;
        let Some(value) = find(fields, "credential") else { return self.missing(node, path, "credential") };
        self.text(value, &format!("{path}.credential"), |text| {
            // With one it stands for a single credential by its id, which the control plane alone says.
            if text.contains('@') {
                return Err("no credential's name has an `@`".to_owned());
            }
            plain(text)
        })
    }

    fn path(&mut self, node: &Node, path: &str) -> Option<Formula> {
        let formula = self.formula(node, path, Place::Transform, &Type::Text)?;
        if !formula.expression().secrets().is_empty() {
            self.problem(node, path, "a secret has no place in a path, which the audit log shows");
        }
        Some(formula)
    }

    /// What is set and removed, in a field that is a mapping of both.
    fn edits(
        &mut self,
        fields: &[(Node, Node)],
        path: &str,
        field: &'static str,
        known: &Fields,
        name: fn(&str) -> Result<String, String>,
    ) -> Edits {
        let Some(node) = find(fields, field) else { return Edits::default() };
        let path = format!("{path}.{field}");
        let Some(fields) = self.fields(node, &path, known) else { return Edits::default() };
        self.not_empty(node, &path, fields, known);
        let set = self.set(fields, &path, "set", &Type::Text, name);
        let mut remove = Vec::new();
        if let Some(list) = find(fields, "remove") {
            for (at, item) in self.list(list, &format!("{path}.remove"), EDITS_MAX).iter().enumerate() {
                let path = format!("{path}.remove[{at}]");
                let Some(name) = self.text(item, &path, name) else { continue };
                if remove.contains(&name) {
                    self.problem(item, &path, format!("`{name}` is removed twice"));
                } else if set.iter().any(|(other, _)| *other == name) {
                    self.problem(
                        item,
                        &path,
                        format!("`{name}` is set as well, which takes the place of what was there"),
                    );
                }
                remove.push(name);
            }
        }
        Edits { set, remove }
    }

    fn body_edits(&mut self, node: &Node, path: &str) -> BodyEdits {
        let Some(fields) = self.fields(node, path, &BODY_EDITS) else { return BodyEdits::default() };
        self.not_empty(node, path, fields, &BODY_EDITS);
        let set = self.set(fields, path, "set", &Type::Dyn, Pointer::parse);
        // One that stands in another's way would depend on the order.
        for (at, (pointer, _)) in set.iter().enumerate() {
            let within = |other: &Pointer| pointer.segments().starts_with(other.segments());
            let before = set[..at].iter().any(|(other, _)| within(other));
            if before || set[at + 1..].iter().any(|(other, _)| within(other)) {
                self.problem(
                    node,
                    &format!("{path}.set"),
                    format!("`{pointer}` is within another place that is set"),
                );
            }
        }
        BodyEdits { set, form: self.set(fields, path, "form", &Type::Text, plain) }
    }

    /// Expressions by name.
    fn set<N: PartialEq + std::fmt::Display>(
        &mut self,
        fields: &[(Node, Node)],
        path: &str,
        field: &'static str,
        wanted: &Type,
        name: fn(&str) -> Result<N, String>,
    ) -> Vec<(N, Formula)> {
        let Some(node) = find(fields, field) else { return Vec::new() };
        let path = format!("{path}.{field}");
        let mut set: Vec<(N, Formula)> = Vec::new();
        for (key, value) in self.entries(node, &path, EDITS_MAX) {
            let Some(name) = self.text(key, &path, name) else { continue };
            if set.iter().any(|(other, _)| *other == name) {
                self.problem(key, &path, format!("`{name}` is set twice"));
            }
            let at = format!("{path}.{name}");
            let Some(formula) = self.formula(value, &at, Place::Transform, wanted) else { continue };
            if matches!(formula.expression().result(), Type::Timestamp | Type::Duration) {
                self.problem(
                    value,
                    &at,
                    "a moment or a length of time is no value of JSON; use `string(...)`",
                );
            }
            set.push((name, formula));
        }
        set
    }

    pub(super) fn budgets(&mut self, fields: &[(Node, Node)], path: &str, rules: &[&str]) -> Vec<Counter> {
        let Some(node) = find(fields, "budgets") else { return Vec::new() };
        let path = format!("{path}.budgets");
        let (mut counters, mut names) = (Vec::new(), HashSet::new());
        for (key, value) in self.entries(node, &path, COUNTERS_MAX) {
            let Some(name) = self.name(key, &path) else { continue };
            if !names.insert(name.clone()) {
                self.problem(key, &path, format!("a second counter named `{name}`"));
            }
            let path = format!("{path}.{name}");
            counters.extend(self.counter(name, value, &path, rules));
        }
        counters
    }

    fn counter(&mut self, name: String, node: &Node, path: &str, rules: &[&str]) -> Option<Counter> {
        let fields = self.fields(node, path, &COUNTER)?;
        let unit = self.word(node, fields, path, "unit", Unit::WORDS, Unit::parse);
        let per = self.word(node, fields, path, "per", Per::WORDS, Per::parse);
        let on_limit = match find(fields, "on_limit") {
            Some(_) => self.word(node, fields, path, "on_limit", OnLimit::WORDS, OnLimit::parse),
            None => Some(OnLimit::Deny),
        };
        let amount = find(fields, "amount")
            .and_then(|amount| self.formula(amount, &format!("{path}.amount"), Place::Request, &Type::Int));
        match (unit, find(fields, "amount")) {
            (Some(Unit::Expression), None) => self.missing(node, path, "amount"),
            (Some(unit), Some(amount)) if unit != Unit::Expression => {
                let message = format!(
                    "`unit: {}` counts by itself; an `amount` is for `unit: expression`",
                    unit.as_str()
                );
                self.problem(amount, &format!("{path}.amount"), message);
            }
            _ => {}
        }
        let window = find(fields, "window")
            .and_then(|window| self.text(window, &format!("{path}.window"), Window::parse));
        let limit = match find(fields, "limit") {
            Some(limit) => self.quantity(limit, &format!("{path}.limit"), unit),
            None => self.missing(node, path, "limit"),
        };
        let warn_at =
            find(fields, "warn_at").and_then(|warn| self.quantity(warn, &format!("{path}.warn_at"), unit));
        if let (Some(limit), Some(warn)) = (limit, warn_at)
            && warn > limit
        {
            let place = find(fields, "warn_at").unwrap_or(node);
            self.problem(
                place,
                &format!("{path}.warn_at"),
                "it is above `limit`, where nothing is left to warn of",
            );
        }
        let applies_to = self.applies_to(fields, path, rules);
        let (unit, per, on_limit, limit) = (unit?, per?, on_limit?, limit?);
        Some(Counter { name, unit, amount, per, window, limit, warn_at, on_limit, applies_to })
    }

    /// A limit, in whole units; money in micro-dollars.
    fn quantity(&mut self, node: &Node, path: &str, unit: Option<Unit>) -> Option<u64> {
        let is_money = unit == Some(Unit::Usd);
        let found = match &node.value {
            Value::Number(number) if is_money => number.as_f64().and_then(micros),
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        let found = found.filter(|found| *found <= LIMIT_MAX);
        if found.is_none() {
            let (what, max) = if is_money {
                ("dollars with at most six digits behind the point", LIMIT_MAX / MICROS_PER_USD)
            } else {
                ("a whole number", LIMIT_MAX)
            };
            self.problem(node, path, format!("expected {what}, from 0 to {max}"));
        }
        found
    }

    /// Names of rules that there are.
    fn applies_to(&mut self, fields: &[(Node, Node)], path: &str, rules: &[&str]) -> Option<Vec<String>> {
        let node = find(fields, "applies_to")?;
        let path = format!("{path}.applies_to");
        let mut names: Vec<String> = Vec::new();
        for (at, item) in self.list(node, &path, RULES_MAX).iter().enumerate() {
            let path = format!("{path}[{at}]");
            let Some(name) = self.text(item, &path, |text| Ok(text.to_owned())) else { continue };
            if names.contains(&name) {
                self.problem(item, &path, format!("`{name}` is named twice"));
            } else if !rules.contains(&name.as_str()) {
                let all = match rules {
                    [] => "none of them has a name".to_owned(),
                    _ => format!("there are `{}`", rules.join("`, `")),
                };
                let hint = suggest(&name, rules.iter().copied(), &all);
                self.problem(item, &path, format!("no rule under `allow` is called `{name}`; {hint}"));
            }
            names.push(name);
        }
        Some(names)
    }
}

/// Dollars in micro-dollars, when they are whole ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn micros(dollars: f64) -> Option<u64> {
    let micros = dollars * 1e6;
    let whole = micros.round();
    // What is written with six digits is this near to a whole number, in the range that there is.
    let is_whole = (micros - whole).abs() <= whole.abs() * f64::EPSILON * 2.0;
    (is_whole && (0.0..=1e16).contains(&whole)).then_some(whole as u64)
}

/// The name of a header that a transform may touch, in lower case.
fn header(text: &str) -> Result<String, String> {
    let name = text.to_ascii_lowercase();
    if !is_token(&name) || name.len() > NAME_CHARS_MAX {
        return Err("not the name of a header".to_owned());
    }
    // Some servers take `_` for `-`.
    let plain = name.replace('_', "-");
    if HEADERS_KEPT.contains(&plain.as_str()) || plain.starts_with("x-forwarded-") {
        return Err("this header is egress's own, and no transform's".to_owned());
    }
    Ok(name)
}

/// The name of a parameter, a field or a credential.
fn plain(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().count() > NAME_CHARS_MAX || text.chars().any(char::is_control) {
        return Err(format!("expected 1 to {NAME_CHARS_MAX} characters, none of control"));
    }
    Ok(text.to_owned())
}
