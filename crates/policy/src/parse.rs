//! From text to a checked [`Document`]. Every problem is found in one pass, each with its place.

mod effects;
mod rule;
mod schema;

use std::collections::HashMap;

pub use schema::{SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX};

use crate::{
    cel::{CelProblem, Place, Type},
    document::{Capability, Document, Formula, Rule},
    fields::{CAPABILITY, Fields},
    provider::{self, PROVIDER_CAPABILITY},
    schema::BodySchema,
    suggest::suggest,
    yaml::{self, Node, Value},
};

/// The longest document, in characters.
pub const DOCUMENT_CHARS_MAX: usize = 262_144;
/// The most capabilities in a document.
pub const CAPABILITIES_MAX: usize = 1_000;
/// The most rules in a document.
pub const RULES_MAX: usize = 10_000;
/// The most domains, or paths, of one rule.
pub const PATTERNS_MAX: usize = 1_000;
/// The most conditions of one rule.
pub const CONDITIONS_MAX: usize = 32;
/// The most regular expressions in the expressions and schemas of a document; equal ones count once.
pub const REGEXES_MAX: usize = 500;
/// The most JSON Schemas of a document; equal ones count once.
pub const SCHEMAS_MAX: usize = 200;
/// The most transforms of a capability.
pub const TRANSFORMS_MAX: usize = 100;
/// The most counters of a capability.
pub const COUNTERS_MAX: usize = 50;
/// The most headers, parameters, places or fields that one part of a transform sets, or removes.
pub const EDITS_MAX: usize = 100;
/// The longest name of a header, a parameter, a field of a form or a credential, in characters.
pub const NAME_CHARS_MAX: usize = 256;
/// Names that authors give.
pub(crate) const NAME_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_-]{0,63}$";
/// Problems reported before giving up; and warnings.
const PROBLEMS_MAX: usize = 100;

/// What is wrong, where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Line, from 1; 0 when the place is unknown.
    pub line: u64,
    /// Column in characters, from 1; 0 when the place is unknown.
    pub column: u64,
    /// The field, such as `[0].allow[1].domains[0]`; empty for the document itself.
    pub path: String,
    /// What is wrong, for the author.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, column, path, message } = self;
        if path.is_empty() {
            write!(f, "{line}:{column}: {message}")
        } else {
            write!(f, "{line}:{column}: {path}: {message}")
        }
    }
}

/// Parses and checks a `caps.yaml`. Empty text is a document without capabilities.
///
/// # Errors
/// Every problem found, in the order of the text; a document that is not YAML has one.
pub fn parse(text: &str) -> Result<Document, Vec<Problem>> {
    let at_start = |message: String| vec![Problem { line: 1, column: 1, path: String::new(), message }];
    if text.chars().nth(DOCUMENT_CHARS_MAX).is_some() {
        return Err(at_start(format!("more than {DOCUMENT_CHARS_MAX} characters")));
    }
    let root = match yaml::read(text) {
        Ok(root) => root,
        // A text without any node (empty, or comments alone) says nothing and allows nothing.
        Err(_) if is_blank(text) => return Ok(Document::default()),
        Err(problem) => return Err(vec![problem]),
    };
    let mut checker = Checker {
        text,
        problems: Vec::new(),
        warnings: Vec::new(),
        rules: 0,
        formulas: HashMap::new(),
        regexes: 0,
        schemas: HashMap::new(),
    };
    let document = checker.document(&root);
    if checker.problems.is_empty() { Ok(document) } else { Err(checker.problems) }
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// Collects problems on the way; what it returns counts only when it found none.
struct Checker<'t> {
    text: &'t str,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    rules: usize,
    /// By what they say: many rules may say the same.
    formulas: HashMap<(String, Place, String), Formula>,
    regexes: usize,
    /// By what they say.
    schemas: HashMap<String, BodySchema>,
}

/// What a rule is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

impl Checker<'_> {
    fn problem(&mut self, node: &Node, path: &str, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            let (line, column) = (node.line, node.column);
            self.problems.push(Problem { line, column, path: path.to_owned(), message: message.into() });
        }
    }

    fn document(&mut self, root: &Node) -> Document {
        let items = match &root.value {
            Value::List(items) => items.as_slice(),
            Value::Null => &[],
            other => {
                self.problem(root, "", format!("expected a list of capabilities, found {}", other.kind()));
                &[]
            }
        };
        if items.len() > CAPABILITIES_MAX {
            self.problem(root, "", format!("more than {CAPABILITIES_MAX} capabilities"));
            return Document::default();
        }
        let mut capabilities: Vec<Capability> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("[{index}]");
            let Some(capability) = self.capability(item, &path) else { continue };
            if capabilities.iter().any(|other| other.name == capability.name) {
                self.problem(item, &path, format!("a second capability named `{}`", capability.name));
            }
            capabilities.push(capability);
        }
        Document { capabilities, warnings: std::mem::take(&mut self.warnings) }
    }

    fn capability(&mut self, node: &Node, path: &str) -> Option<Capability> {
        let fields = self.fields(node, path, &CAPABILITY)?;
        let name = match find(fields, "name") {
            Some(Node { value: Value::Text(text), .. }) if text == PROVIDER_CAPABILITY => text.clone(),
            Some(value) => self.name(value, &format!("{path}.name")).unwrap_or_default(),
            None => self.missing(node, path, "name"),
        };
        match find(fields, "type") {
            Some(Node { value: Value::Text(kind), .. }) if kind == "http" => {}
            Some(value) => self.problem(value, &format!("{path}.type"), "the only type is `http`"),
            None => self.missing(node, path, "type"),
        }
        if name == PROVIDER_CAPABILITY {
            for (key, _) in fields
                .iter()
                .filter(|(key, _)| ["allow", "deny", "transforms"].iter().any(|one| is_text(key, one)))
            {
                self.problem(key, path, "the platform's own capability takes `budgets` alone");
            }
            let budgets = self.budgets(fields, path, provider::RULES);
            return Some(Capability { name, budgets, ..Capability::default() });
        }
        if find(fields, "allow").is_none() && find(fields, "deny").is_none() {
            self.missing::<()>(node, path, "allow");
            return None;
        }
        let mut names = Vec::new();
        let allow = self.rules(fields, path, Effect::Allow, &mut names)?;
        let of_allow: Vec<&str> = allow.iter().filter_map(|rule| rule.name.as_deref()).collect();
        let deny = self.rules(fields, path, Effect::Deny, &mut names)?;
        let transforms = self.transforms(fields, path, &of_allow);
        let budgets = self.budgets(fields, path, &of_allow);
        Some(Capability { name, allow, deny, transforms, budgets })
    }

    /// The rules of a capability that allow, or deny; none where there is no such list. `names` are those it has so far.
    fn rules(
        &mut self,
        fields: &[(Node, Node)],
        path: &str,
        effect: Effect,
        names: &mut Vec<String>,
    ) -> Option<Vec<Rule>> {
        let field = if effect == Effect::Allow { "allow" } else { "deny" };
        let Some(list) = find(fields, field) else { return Some(Vec::new()) };
        let path = format!("{path}.{field}");
        let items = self.list(list, &path, RULES_MAX);
        self.rules += items.len();
        if self.rules > RULES_MAX {
            self.problem(list, &path, format!("more than {RULES_MAX} rules in the document"));
            return None;
        }
        let mut rules = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Some(rule) = self.rule(item, &path, effect) else { continue };
            if rule.name.as_ref().is_some_and(|name| names.contains(name)) {
                self.problem(item, &path, "a second rule of this name in the capability");
            }
            names.extend(rule.name.clone());
            rules.push(rule);
        }
        Some(rules)
    }

    /// An expression, of a type of value. `None` when there is a problem with it.
    fn formula(&mut self, node: &Node, path: &str, place: Place, wanted: &Type) -> Option<Formula> {
        let Value::Text(source) = &node.value else {
            self.problem(node, path, format!("expected an expression, found {}", node.value.kind()));
            return None;
        };
        let key = (source.clone(), place, wanted.to_string());
        if let Some(known) = self.formulas.get(&key) {
            return Some(known.clone());
        }
        match Formula::parse(source, place, wanted) {
            Ok(formula) => {
                self.regexes(node, path, formula.expression().regexes());
                self.formulas.insert(key, formula.clone());
                Some(formula)
            }
            Err(problem) => {
                self.expression_problem(node, path, source, problem);
                None
            }
        }
    }

    /// Counts regular expressions.
    fn regexes(&mut self, node: &Node, path: &str, count: usize) {
        let before = self.regexes;
        self.regexes += count;
        if before <= REGEXES_MAX && self.regexes > REGEXES_MAX {
            self.problem(node, path, format!("more than {REGEXES_MAX} regular expressions in the document"));
        }
    }

    /// Reports a problem where it stands in the document, as near as the way in which the text is written allows.
    fn expression_problem(&mut self, node: &Node, path: &str, source: &str, problem: CelProblem) {
        let before = &source[..problem.offset.min(source.len())];
        let (row, column) =
            (before.matches('\n').count(), before.rsplit('\n').next().unwrap_or("").chars().count());
        let wanted = source.lines().nth(row).unwrap_or("").trim_end();
        let from = usize::try_from(node.line).unwrap_or(0).saturating_sub(1) + row;
        // The line of the expression as it stands in the document: a text on several lines begins below its mark.
        let found = self.text.lines().enumerate().skip(from).take(2).find_map(|(line, text)| {
            let skip = if line + 1 == usize::try_from(node.line).unwrap_or(0) {
                node.column.saturating_sub(1)
            } else {
                0
            };
            let start: usize =
                text.chars().take(usize::try_from(skip).unwrap_or(0)).map(char::len_utf8).sum();
            let at = start + text[start..].find(wanted)?;
            Some((line + 1, text[..at].chars().count() + column + 1))
        });
        let place = found
            .filter(|_| !wanted.is_empty())
            .and_then(|(line, column)| Some((u64::try_from(line).ok()?, u64::try_from(column).ok()?)));
        let (line, column) = place.unwrap_or((node.line, node.column));
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { line, column, path: path.to_owned(), message: problem.message });
        }
    }

    /// A list of texts, at least one, each parsed by `parse`.
    fn patterns<T>(
        &mut self,
        rule: &Node,
        fields: &[(Node, Node)],
        path: &str,
        field: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(node) = find(fields, field) else { return self.missing(rule, path, field) };
        let path = format!("{path}.{field}");
        let mut parsed = Vec::new();
        for (index, item) in self.list(node, &path, PATTERNS_MAX).iter().enumerate() {
            let path = format!("{path}[{index}]");
            match &item.value {
                Value::Text(text) => match parse(text) {
                    Ok(pattern) => parsed.push(pattern),
                    Err(message) => self.problem(item, &path, format!("`{text}`: {message}")),
                },
                other => self.problem(item, &path, format!("expected text, found {}", other.kind())),
            }
        }
        parsed
    }

    fn list<'a>(&mut self, node: &'a Node, path: &str, max: usize) -> &'a [Node] {
        match &node.value {
            Value::List(items) if items.is_empty() => self.problem(node, path, "expected at least one"),
            Value::List(items) if items.len() > max => self.problem(node, path, format!("more than {max}")),
            Value::List(items) => return items,
            other => self.problem(node, path, format!("expected a list, found {}", other.kind())),
        }
        &[]
    }

    /// The entries of a mapping with unknown and doubled keys reported.
    fn fields<'a>(&mut self, node: &'a Node, path: &str, fields: &Fields) -> Option<&'a [(Node, Node)]> {
        let Value::Map(entries) = &node.value else {
            self.problem(node, path, format!("expected a mapping, found {}", node.value.kind()));
            return None;
        };
        for (index, (key, _)) in entries.iter().enumerate() {
            let Value::Text(text) = &key.value else {
                self.problem(key, path, "a field's name must be text");
                continue;
            };
            if !fields.names().any(|name| name == text) {
                let all: Vec<&str> = fields.names().collect();
                let hint = suggest(text, fields.names(), &format!("the fields are `{}`", all.join("`, `")));
                self.problem(key, path, format!("unknown field `{text}`; {hint}"));
            } else if entries[..index].iter().any(|(other, _)| is_text(other, text)) {
                self.problem(key, path, format!("`{text}` is given twice"));
            }
        }
        Some(entries)
    }

    fn name(&mut self, node: &Node, path: &str) -> Option<String> {
        let Value::Text(text) = &node.value else {
            self.problem(node, path, format!("expected text, found {}", node.value.kind()));
            return None;
        };
        if text.starts_with('_') {
            self.problem(node, path, "names that begin with `_` are reserved");
        } else if !is_identifier(text) {
            self.problem(node, path, "expected a letter and then up to 63 letters, digits, `_` or `-`");
        }
        Some(text.clone())
    }

    /// A text that is parsed by `parse`.
    fn text<T>(&mut self, node: &Node, path: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let Value::Text(text) = &node.value else {
            self.problem(node, path, format!("expected text, found {}", node.value.kind()));
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.problem(node, path, format!("`{text}`: {message}"));
                None
            }
        }
    }

    /// One of a few words, in a field that must be there.
    fn word<T>(
        &mut self,
        node: &Node,
        fields: &[(Node, Node)],
        path: &str,
        field: &'static str,
        words: &[&'static str],
        parse: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = find(fields, field) else {
            self.missing::<()>(node, path, field);
            return None;
        };
        let problem =
            |text: &str| suggest(text, words.iter().copied(), &format!("expected `{}`", words.join("`, `")));
        self.text(value, &format!("{path}.{field}"), |text| parse(text).ok_or_else(|| problem(text)))
    }

    fn flag(&mut self, fields: &[(Node, Node)], path: &str, field: &'static str, absent: bool) -> bool {
        match find(fields, field) {
            None => absent,
            Some(Node { value: Value::Bool(value), .. }) => *value,
            Some(value) => {
                self.problem(value, &format!("{path}.{field}"), "expected `true` or `false`");
                absent
            }
        }
    }

    /// The entries of a mapping by names of the author's; at least one.
    fn entries<'a>(&mut self, node: &'a Node, path: &str, max: usize) -> &'a [(Node, Node)] {
        match &node.value {
            Value::Map(entries) if entries.is_empty() => self.problem(node, path, "expected at least one"),
            Value::Map(entries) if entries.len() > max => {
                self.problem(node, path, format!("more than {max}"))
            }
            Value::Map(entries) => return entries,
            other => self.problem(node, path, format!("expected a mapping, found {}", other.kind())),
        }
        &[]
    }

    /// A mapping that says nothing is a slip.
    fn not_empty(&mut self, node: &Node, path: &str, entries: &[(Node, Node)], fields: &Fields) {
        let is_unknown = |key: &Node| !fields.names().any(|name| is_text(key, name));
        // What is not known has been reported, and may have been meant for it.
        if entries.iter().any(|(key, _)| is_unknown(key)) {
            return;
        }
        if !fields.at_least.iter().any(|name| find(entries, name).is_some()) {
            self.problem(
                node,
                path,
                format!("it says nothing: give it `{}`", fields.at_least.join("` or `")),
            );
        }
    }

    fn missing<T: Default>(&mut self, node: &Node, path: &str, field: &str) -> T {
        self.problem(node, path, format!("`{field}` is missing"));
        T::default()
    }
}

fn find<'a>(entries: &'a [(Node, Node)], name: &str) -> Option<&'a Node> {
    entries.iter().find(|(key, _)| is_text(key, name)).map(|(_, value)| value)
}

fn is_text(node: &Node, text: &str) -> bool {
    matches!(&node.value, Value::Text(other) if other == text)
}

/// [`NAME_PATTERN`], as the contract has it.
fn is_identifier(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
