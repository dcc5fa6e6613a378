//! From text to a checked [`Document`]. Every problem is found in one pass, each with its place.

use std::collections::HashMap;

use crate::{
    cel::{Attribute, CelProblem},
    document::{Capability, Condition, Document, DomainPattern, Method, PathPattern, Rule},
    yaml::{self, Node, Value},
};

/// The longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// The most capabilities in a document.
pub const CAPABILITIES_MAX: usize = 1_000;
/// The most rules in a document.
pub const RULES_MAX: usize = 10_000;
/// The most domains, or paths, of one rule.
pub const PATTERNS_MAX: usize = 1_000;
/// The most conditions of one rule.
pub const CONDITIONS_MAX: usize = 32;
/// The most regular expressions in the conditions of a document; equal conditions count once.
pub const REGEXES_MAX: usize = 500;
/// Problems reported before giving up.
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
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(at_start(format!("longer than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let root = match yaml::read(text) {
        Ok(root) => root,
        // A text without any node (empty, or comments alone) says nothing and allows nothing.
        Err(_) if is_blank(text) => return Ok(Document::default()),
        Err(problem) => return Err(vec![problem]),
    };
    let mut checker =
        Checker { text, problems: Vec::new(), rules: 0, conditions: HashMap::new(), regexes: 0 };
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
    rules: usize,
    /// By what they say: an alias of YAML may repeat one without end.
    conditions: HashMap<String, Condition>,
    regexes: usize,
}

/// The fields of a mapping that are known today, and those of a later version of the language.
struct Fields {
    known: &'static [&'static str],
    later: &'static [&'static str],
}

const CAPABILITY: Fields =
    Fields { known: &["name", "type", "allow", "deny"], later: &["transforms", "budgets"] };
const ALLOW_RULE: Fields = Fields {
    known: &["name", "domains", "methods", "paths", "allow_insecure", "when"],
    later: &["body", "response", "approval"],
};
const DENY_RULE: Fields =
    Fields { known: &["name", "domains", "methods", "paths", "when"], later: &["body"] };

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
        Document { capabilities }
    }

    fn capability(&mut self, node: &Node, path: &str) -> Option<Capability> {
        let fields = self.fields(node, path, &CAPABILITY)?;
        let name = match find(fields, "name") {
            Some(value) => self.name(value, &format!("{path}.name")).unwrap_or_default(),
            None => self.missing(node, path, "name"),
        };
        match find(fields, "type") {
            Some(Node { value: Value::Text(kind), .. }) if kind == "http" => {}
            Some(value) => self.problem(value, &format!("{path}.type"), "the only type is `http`"),
            None => self.missing(node, path, "type"),
        }
        if find(fields, "allow").is_none() && find(fields, "deny").is_none() {
            self.missing::<()>(node, path, "allow");
            return None;
        }
        let mut names = Vec::new();
        let allow = self.rules(fields, path, Effect::Allow, &mut names)?;
        let deny = self.rules(fields, path, Effect::Deny, &mut names)?;
        Some(Capability { name, allow, deny })
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

    fn rule(&mut self, node: &Node, path: &str, effect: Effect) -> Option<Rule> {
        let fields =
            self.fields(node, path, if effect == Effect::Allow { &ALLOW_RULE } else { &DENY_RULE })?;
        let name = find(fields, "name").and_then(|value| self.name(value, &format!("{path}.name")));
        let domains = self.patterns(node, fields, path, "domains", DomainPattern::parse);
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
        let allow_insecure = match find(fields, "allow_insecure") {
            None => effect == Effect::Deny,
            Some(Node { value: Value::Bool(value), .. }) => *value,
            Some(value) => {
                self.problem(value, &format!("{path}.allow_insecure"), "expected `true` or `false`");
                false
            }
        };
        let when =
            find(fields, "when").map_or_else(Vec::new, |when| self.conditions(when, &format!("{path}.when")));
        Some(Rule { name, domains, methods, paths, allow_insecure, when })
    }

    /// One expression, or a list of them.
    fn conditions(&mut self, node: &Node, path: &str) -> Vec<Condition> {
        let single = std::slice::from_ref(node);
        let items =
            if let Value::Text(_) = node.value { single } else { self.list(node, path, CONDITIONS_MAX) };
        let mut conditions = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let path =
                if matches!(node.value, Value::Text(_)) { path.to_owned() } else { format!("{path}[{at}]") };
            let Value::Text(source) = &item.value else {
                self.problem(item, &path, format!("expected an expression, found {}", item.value.kind()));
                continue;
            };
            match self.condition(source) {
                Ok(condition) if self.regexes > REGEXES_MAX => {
                    drop(condition);
                    self.problem(
                        item,
                        &path,
                        format!("more than {REGEXES_MAX} regular expressions in the document"),
                    );
                    return conditions;
                }
                Ok(condition) => match later_attribute(&condition) {
                    Some(name) => self.problem(item, &path, format!("`{name}` is not supported yet")),
                    None => conditions.push(condition),
                },
                Err(problem) => self.expression_problem(item, &path, source, problem),
            }
        }
        conditions
    }

    fn condition(&mut self, source: &str) -> Result<Condition, CelProblem> {
        if let Some(known) = self.conditions.get(source) {
            return Ok(known.clone());
        }
        let condition = Condition::parse(source)?;
        self.regexes += condition.expression().regexes();
        self.conditions.insert(source.to_owned(), condition.clone());
        Ok(condition)
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

    /// The entries of a mapping with unknown, later and doubled keys reported.
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
            if fields.later.contains(&text.as_str()) {
                self.problem(key, path, format!("`{text}` is not supported yet"));
            } else if !fields.known.contains(&text.as_str()) {
                let known = fields.known.join("`, `");
                self.problem(key, path, format!("unknown field `{text}`; the fields are `{known}`"));
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

    fn missing<T: Default>(&mut self, node: &Node, path: &str, field: &str) -> T {
        self.problem(node, path, format!("`{field}` is missing"));
        T::default()
    }
}

/// What of an expression egress cannot tell yet.
fn later_attribute(condition: &Condition) -> Option<&'static str> {
    let later = |attribute: &&Attribute| {
        attribute.needs_request_body()
            || matches!(attribute, Attribute::RequestGrpcService | Attribute::RequestGrpcMethod)
    };
    condition.expression().attributes().iter().find(later).map(|attribute| attribute.name())
}

fn find<'a>(entries: &'a [(Node, Node)], name: &str) -> Option<&'a Node> {
    entries.iter().find(|(key, _)| is_text(key, name)).map(|(_, value)| value)
}

fn is_text(node: &Node, text: &str) -> bool {
    matches!(&node.value, Value::Text(other) if other == text)
}

/// `[A-Za-z][A-Za-z0-9_-]{0,63}`, as the contract has it.
fn is_identifier(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
