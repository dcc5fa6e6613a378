//! From text to a checked [`Document`]. Every problem is found in one pass, each with its place.

use crate::{
    document::{AllowRule, Capability, Document, DomainPattern, Method, PathPattern},
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
    let mut checker = Checker::default();
    let document = checker.document(&root);
    if checker.problems.is_empty() { Ok(document) } else { Err(checker.problems) }
}

fn is_blank(text: &str) -> bool {
    text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---")
}

/// Collects problems on the way; what it returns counts only when it found none.
#[derive(Default)]
struct Checker {
    problems: Vec<Problem>,
    rules: usize,
}

/// The fields of a mapping that are known today, and those of a later version of the language.
struct Fields {
    known: &'static [&'static str],
    later: &'static [&'static str],
}

const CAPABILITY: Fields =
    Fields { known: &["name", "type", "allow"], later: &["deny", "transforms", "budgets"] };
const RULE: Fields = Fields {
    known: &["name", "domains", "methods", "paths", "allow_insecure"],
    later: &["when", "body", "response", "approval"],
};

impl Checker {
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
        let Some(allow) = find(fields, "allow") else {
            self.missing::<()>(node, path, "allow");
            return None;
        };
        let allow_path = format!("{path}.allow");
        let items = self.list(allow, &allow_path, RULES_MAX);
        self.rules += items.len();
        if self.rules > RULES_MAX {
            self.problem(allow, &allow_path, format!("more than {RULES_MAX} rules in the document"));
            return None;
        }
        let mut rules: Vec<AllowRule> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{allow_path}[{index}]");
            let Some(rule) = self.rule(item, &path) else { continue };
            if rule.name.is_some() && rules.iter().any(|other| other.name == rule.name) {
                self.problem(item, &path, "a second rule of this name in the capability");
            }
            rules.push(rule);
        }
        Some(Capability { name, allow: rules })
    }

    fn rule(&mut self, node: &Node, path: &str) -> Option<AllowRule> {
        let fields = self.fields(node, path, &RULE)?;
        let name = find(fields, "name").and_then(|value| self.name(value, &format!("{path}.name")));
        let domains = self.patterns(node, fields, path, "domains", DomainPattern::parse);
        let methods = self.patterns(node, fields, path, "methods", |text| {
            Method::parse(text).ok_or_else(|| {
                "not one of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS (in upper case)".to_owned()
            })
        });
        let paths = match find(fields, "paths") {
            Some(Node { value: Value::List(items), .. }) if items.is_empty() => Vec::new(),
            Some(_) => self.patterns(node, fields, path, "paths", PathPattern::parse),
            None => Vec::new(),
        };
        let allow_insecure = match find(fields, "allow_insecure") {
            None => false,
            Some(Node { value: Value::Bool(value), .. }) => *value,
            Some(value) => {
                self.problem(value, &format!("{path}.allow_insecure"), "expected `true` or `false`");
                false
            }
        };
        Some(AllowRule { name, domains, methods, paths, allow_insecure })
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
