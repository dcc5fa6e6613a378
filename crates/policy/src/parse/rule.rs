//! Rules: what they name, and what they ask of bodies and responses.

use super::{CONDITIONS_MAX, Checker, Effect, PATTERNS_MAX, PROBLEMS_MAX, Problem, find};
use crate::{
    address,
    body::{BODY_READ_BYTES_MAX, BodyRule},
    cel::{Place, Type},
    document::{Approval, Condition, DomainPattern, Method, PathPattern, Rule},
    fields::{ALLOW_RULE, BODY, DENIED_BODY, DENY_RULE, RESPONSE},
    media::MediaPattern,
    respond::{ResponseRule, StatusPattern},
    yaml::{Node, Value},
};

impl Checker<'_> {
    pub(super) fn rule(&mut self, node: &Node, path: &str, effect: Effect) -> Option<Rule> {
        let fields =
            self.fields(node, path, if effect == Effect::Allow { &ALLOW_RULE } else { &DENY_RULE })?;
        let name = find(fields, "name").and_then(|value| self.name(value, &format!("{path}.name")));
        let domains = self.patterns(node, fields, path, "domains", DomainPattern::parse);
        if effect == Effect::Allow {
            self.warn_of_closed(fields, path, &domains);
        }
        // What denies without naming methods denies all of them, also those that no rule can name.
        let methods = if effect == Effect::Deny && find(fields, "methods").is_none() {
            Vec::new()
        } else {
            self.patterns(node, fields, path, "methods", |text| {
                Method::parse(text).ok_or_else(|| {
                    "not one of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS (in upper case)".to_owned()
                })
            })
        };
        let paths = match find(fields, "paths") {
            Some(Node { value: Value::List(items), .. }) if items.is_empty() => Vec::new(),
            Some(_) => self.patterns(node, fields, path, "paths", PathPattern::parse),
            None => Vec::new(),
        };
        let allow_insecure = self.flag(fields, path, "allow_insecure", effect == Effect::Deny);
        let when = self.conditions(fields, path, Place::Request);
        let body = find(fields, "body").and_then(|body| self.body(body, &format!("{path}.body"), effect));
        let response = find(fields, "response")
            .and_then(|response| self.response(response, &format!("{path}.response")));
        let approval = match find(fields, "approval") {
            None => Approval::NotNeeded,
            Some(Node { value: Value::Text(word), .. }) if word == "required" => Approval::Required,
            Some(value) => {
                self.problem(value, &format!("{path}.approval"), "the only approval is `required`");
                Approval::NotNeeded
            }
        };
        Some(Rule { name, domains, methods, paths, allow_insecure, when, body, response, approval })
    }

    /// Warns of hosts that no rule opens by naming them.
    fn warn_of_closed(&mut self, fields: &[(Node, Node)], path: &str, domains: &[DomainPattern]) {
        let Some(Node { value: Value::List(items), .. }) = find(fields, "domains") else { return };
        // Where one is no host there are fewer domains than items, and the document is refused anyhow.
        for (index, (item, domain)) in items.iter().zip(domains).enumerate() {
            let Some(why) = address::closed(domain.host()) else { continue };
            if self.warnings.len() < PROBLEMS_MAX {
                let (line, column) = (item.line, item.column);
                let (path, message) =
                    (format!("{path}.domains[{index}]"), format!("`{}`: {why}", domain.host()));
                self.warnings.push(Problem { line, column, path, message });
            }
        }
    }

    fn body(&mut self, node: &Node, path: &str, effect: Effect) -> Option<BodyRule> {
        let known = if effect == Effect::Allow { &BODY } else { &DENIED_BODY };
        let fields = self.fields(node, path, known)?;
        self.not_empty(node, path, fields, known);
        let content_types = self.content_types(node, fields, path);
        let max_bytes = self.max_bytes(fields, path);
        let schema = find(fields, "schema").and_then(|schema| self.schema(schema, &format!("{path}.schema")));
        if let (Some(_), Some(max)) = (&schema, max_bytes.filter(|max| *max > BODY_READ_BYTES_MAX)) {
            let message = format!(
                "{max}: a body that is held against a schema has at most {BODY_READ_BYTES_MAX} bytes"
            );
            self.problem(find(fields, "max_bytes").unwrap_or(node), &format!("{path}.max_bytes"), message);
        }
        Some(BodyRule { content_types, max_bytes, schema })
    }

    fn response(&mut self, node: &Node, path: &str) -> Option<ResponseRule> {
        let fields = self.fields(node, path, &RESPONSE)?;
        self.not_empty(node, path, fields, &RESPONSE);
        let status = find(fields, "status")
            .map_or_else(Vec::new, |status| self.statuses(status, &format!("{path}.status")));
        let content_types = self.content_types(node, fields, path);
        let max_bytes = self.max_bytes(fields, path);
        let when = self.conditions(fields, path, Place::Response);
        Some(ResponseRule { status, content_types, max_bytes, when })
    }

    fn statuses(&mut self, node: &Node, path: &str) -> Vec<StatusPattern> {
        let mut statuses = Vec::new();
        for (at, item) in self.list(node, path, PATTERNS_MAX).iter().enumerate() {
            let text = match &item.value {
                Value::Text(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                other => other.kind().to_owned(),
            };
            match StatusPattern::parse(&text) {
                Ok(status) => statuses.push(status),
                Err(message) => self.problem(item, &format!("{path}[{at}]"), format!("`{text}`: {message}")),
            }
        }
        statuses
    }

    fn content_types(&mut self, node: &Node, fields: &[(Node, Node)], path: &str) -> Vec<MediaPattern> {
        match find(fields, "content_types") {
            Some(_) => self.patterns(node, fields, path, "content_types", MediaPattern::parse),
            None => Vec::new(),
        }
    }

    fn max_bytes(&mut self, fields: &[(Node, Node)], path: &str) -> Option<u64> {
        let node = find(fields, "max_bytes")?;
        let bytes = match &node.value {
            Value::Number(number) => number.as_u64(),
            _ => None,
        };
        if bytes.is_none() {
            self.problem(node, &format!("{path}.max_bytes"), "expected a whole number of bytes, from 0");
        }
        bytes
    }

    /// One expression, or a list of them, in the field `when`.
    fn conditions(&mut self, fields: &[(Node, Node)], path: &str, place: Place) -> Vec<Condition> {
        let Some(node) = find(fields, "when") else { return Vec::new() };
        let path = format!("{path}.when");
        if let Value::Text(_) = node.value {
            return self.formula(node, &path, place, &Type::Bool).into_iter().collect();
        }
        let items = self.list(node, &path, CONDITIONS_MAX);
        let mut conditions = Vec::new();
        for (at, item) in items.iter().enumerate() {
            conditions.extend(self.formula(item, &format!("{path}[{at}]"), place, &Type::Bool));
        }
        conditions
    }
}
