//! GraphQL: the operation that a request's body asks for, with the fields at its top.
//!
//! Only as much of the language is read as that needs. What is not understood, or where a server might run another operation
//! than the one that was looked at (a batch, several operations without a name), is no operation.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use crate::{
    names::folded,
    path::{is_plain_query, unescaped_field},
};

/// The longest document that is read, in bytes.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// The most fields at the top of an operation, each name once.
const FIELDS_MAX: usize = 1_000;
/// How deep selections may be nested in what is read.
const DEPTH_MAX: usize = 32;

/// What names an operation that the server knows already, and that some run in the place of the one that is written out.
const REFERENCES: [&str; 10] = [
    "id",
    "doc_id",
    "docid",
    "documentid",
    "document_id",
    "queryid",
    "query_id",
    "operationid",
    "operation_id",
    "persistedquery",
];
/// Parameters of a URL that some servers take before what stands in the body.
const PARAMETERS: [&str; 4] = ["query", "operationname", "variables", "extensions"];

/// Whether a server may find another operation in the query of a request's URL than in its body.
pub(crate) fn is_in_url(query: &str) -> bool {
    let mut names =
        query.split('&').map(|pair| folded(&unescaped_field(pair.split('=').next().unwrap_or(pair))));
    !is_plain_query(query)
        || names.any(|name| PARAMETERS.contains(&name.trim()) || REFERENCES.contains(&name.trim()))
}

/// Whether a body, or its extensions, refer to an operation that the server knows.
fn has_reference(body: &serde_json::Map<String, Json>) -> bool {
    body.iter().any(|(name, value)| {
        let name = folded(name);
        let inner = value.as_object().filter(|_| name == "extensions");
        !value.is_null() && REFERENCES.contains(&&*name)
            || inner.is_some_and(|inner| inner.keys().any(|name| REFERENCES.contains(&&*folded(name))))
    })
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    kind: &'static str,
    name: String,
    /// Each once, in the order in which they first stand there.
    fields: Vec<String>,
}

impl Operation {
    /// The operation of a body, if it is one.
    pub(crate) fn read(body: &Json) -> Option<Self> {
        let body = body.as_object().filter(|body| !has_reference(body))?;
        let text = body.get("query")?.as_str().filter(|text| text.len() <= DOCUMENT_BYTES_MAX)?;
        let wanted = match body.get("operationName") {
            None | Some(Json::Null) => None,
            Some(name) => Some(name.as_str()?).filter(|name| !name.is_empty()),
        };
        let document = Document::read(text)?;
        let mut fitting =
            document.operations.iter().filter(|one| wanted.is_none_or(|wanted| one.name == wanted));
        let (found, None) = (fitting.next()?, fitting.next()) else { return None };
        let mut fields = Vec::new();
        document.fields(&found.set, &mut fields)?;
        let fields = fields.into_iter().map(str::to_owned).collect();
        Some(Self { kind: found.kind, name: found.name.to_owned(), fields })
    }

    /// `query`, `mutation` or `subscription`.
    pub(crate) const fn kind(&self) -> &'static str {
        self.kind
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn fields(&self) -> &[String] {
        &self.fields
    }
}

#[derive(Default)]
struct Document<'t> {
    operations: Vec<Definition<'t>>,
    fragments: HashMap<&'t str, Vec<Selected<'t>>>,
}

struct Definition<'t> {
    kind: &'static str,
    name: &'t str,
    set: Vec<Selected<'t>>,
}

/// What stands at the top of a selection; what stands in inline fragments stands there too.
enum Selected<'t> {
    Field(&'t str),
    Fragment(&'t str),
}

impl<'t> Document<'t> {
    fn read(text: &'t str) -> Option<Self> {
        let (mut document, mut tokens) = (Self::default(), Tokens { rest: text });
        while let Some(token) = tokens.next()? {
            match token {
                Token::Mark('{') => {
                    let set = tokens.selection()?;
                    document.operations.push(Definition { kind: "query", name: "", set });
                }
                Token::Name("fragment") => {
                    let name = tokens.name()?;
                    (tokens.name()? == "on").then_some(())?;
                    tokens.name()?;
                    tokens.until_set()?;
                    let set = tokens.selection()?;
                    document.fragments.insert(name, set).is_none().then_some(())?;
                }
                Token::Name(kind) => {
                    let kind = ["query", "mutation", "subscription"].into_iter().find(|one| *one == kind)?;
                    let mut ahead = tokens.clone();
                    let name = if let Some(Token::Name(name)) = ahead.next()? {
                        tokens = ahead;
                        name
                    } else {
                        ""
                    };
                    tokens.until_set()?;
                    let set = tokens.selection()?;
                    document.operations.push(Definition { kind, name, set });
                }
                _ => return None,
            }
        }
        Some(document)
    }

    /// The fields of a selection, those of the fragments that it names included.
    fn fields(&self, set: &[Selected<'t>], found: &mut Vec<&'t str>) -> Option<()> {
        let (mut seen, mut waiting) = (HashSet::new(), vec![set.iter()]);
        let mut known: HashSet<&str> = HashSet::new();
        while let Some(set) = waiting.last_mut() {
            match set.next() {
                None => {
                    waiting.pop();
                }
                Some(Selected::Field(field)) if known.insert(field) => {
                    (found.len() < FIELDS_MAX).then_some(())?;
                    found.push(field);
                }
                Some(Selected::Field(_)) => {}
                Some(Selected::Fragment(name)) => {
                    let fragment = self.fragments.get(name)?;
                    if seen.insert(*name) {
                        waiting.push(fragment.iter());
                    }
                }
            }
        }
        Some(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'t> {
    Name(&'t str),
    Mark(char),
    Spread,
    /// A number or a text: nothing that is looked at.
    Value,
}

/// The tokens of a document. In all its methods `None` is what is no GraphQL.
#[derive(Clone)]
struct Tokens<'t> {
    rest: &'t str,
}

impl<'t> Tokens<'t> {
    /// The next token; `Some(None)` at the end.
    fn next(&mut self) -> Option<Option<Token<'t>>> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n', ',', '\u{feff}']);
            let Some(comment) = self.rest.strip_prefix('#') else { break };
            self.rest = &comment[comment.find(['\n', '\r']).unwrap_or(comment.len())..];
        }
        let Some(first) = self.rest.chars().next() else { return Some(None) };
        let token = match first {
            '{' | '}' | '(' | ')' | '[' | ']' | ':' | '=' | '!' | '|' | '&' | '@' | '$' => {
                self.rest = &self.rest[1..];
                Token::Mark(first)
            }
            '.' => {
                self.rest = self.rest.strip_prefix("...")?;
                Token::Spread
            }
            '"' => {
                self.text()?;
                Token::Value
            }
            '-' | '0'..='9' => {
                let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
                self.rest = self.rest.trim_start_matches(is_part);
                Token::Value
            }
            _ if first.is_ascii_alphabetic() || first == '_' => {
                let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
                self.rest = rest;
                Token::Name(name)
            }
            _ => return None,
        };
        Some(Some(token))
    }

    /// A text in quotes, or in three of them.
    fn text(&mut self) -> Option<()> {
        if let Some(mut block) = self.rest.strip_prefix("\"\"\"") {
            loop {
                let end = block.find("\"\"\"")?;
                let is_escaped = block[..end].ends_with('\\');
                block = &block[end + 3..];
                if !is_escaped {
                    self.rest = block;
                    return Some(());
                }
            }
        }
        let mut is_escaped = false;
        for (at, c) in self.rest.char_indices().skip(1) {
            match c {
                '\n' | '\r' => return None,
                '"' if !is_escaped => {
                    self.rest = &self.rest[at + 1..];
                    return Some(());
                }
                _ => is_escaped = c == '\\' && !is_escaped,
            }
        }
        None
    }

    fn name(&mut self) -> Option<&'t str> {
        match self.next()?? {
            Token::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Takes all up to and with the `{` of a selection: variables and directives with what stands in their parentheses.
    fn until_set(&mut self) -> Option<()> {
        loop {
            match self.next()?? {
                Token::Mark('{') => return Some(()),
                Token::Mark('(') => self.skip(')')?,
                Token::Mark('@') | Token::Name(_) => {}
                _ => return None,
            }
        }
    }

    /// Takes all up to and with the mark that closes what is open.
    fn skip(&mut self, close: char) -> Option<()> {
        let mut open = vec![close];
        while let Some(wanted) = open.last() {
            match self.next()?? {
                Token::Mark(mark) if mark == *wanted => {
                    open.pop();
                }
                Token::Mark('{') => open.push('}'),
                Token::Mark('(') => open.push(')'),
                Token::Mark('[') => open.push(']'),
                Token::Mark('}' | ')' | ']') => return None,
                _ => {}
            }
            if open.len() > DEPTH_MAX {
                return None;
            }
        }
        Some(())
    }

    /// The top of a selection whose `{` is taken.
    fn selection(&mut self) -> Option<Vec<Selected<'t>>> {
        // Inline fragments stand in each other; each `}` closes one, and the last the selection.
        let (mut set, mut open) = (Vec::new(), 1);
        while open > 0 {
            match self.next()?? {
                Token::Mark('}') => open -= 1,
                Token::Name(name) => {
                    let mut ahead = self.clone();
                    let field = if ahead.next()? == Some(Token::Mark(':')) {
                        *self = ahead;
                        self.name()?
                    } else {
                        name
                    };
                    set.push(Selected::Field(field));
                    self.rest_of_field()?;
                }
                Token::Spread => {
                    let mut ahead = self.clone();
                    match ahead.next()?? {
                        Token::Name(name) if name != "on" => {
                            *self = ahead;
                            set.push(Selected::Fragment(name));
                            self.directives()?;
                        }
                        _ => {
                            self.until_set()?;
                            open += 1;
                        }
                    }
                }
                _ => return None,
            }
            if open > DEPTH_MAX {
                return None;
            }
        }
        Some(set)
    }

    /// Arguments, directives and the selection of a field, each if there.
    fn rest_of_field(&mut self) -> Option<()> {
        let mut ahead = self.clone();
        if ahead.next()? == Some(Token::Mark('(')) {
            ahead.skip(')')?;
            *self = ahead;
        }
        self.directives()?;
        let mut ahead = self.clone();
        if ahead.next()? == Some(Token::Mark('{')) {
            ahead.skip('}')?;
            *self = ahead;
        }
        Some(())
    }

    fn directives(&mut self) -> Option<()> {
        loop {
            let mut ahead = self.clone();
            if ahead.next()? != Some(Token::Mark('@')) {
                return Some(());
            }
            ahead.name()?;
            *self = ahead.clone();
            if ahead.next()? == Some(Token::Mark('(')) {
                ahead.skip(')')?;
                *self = ahead;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(body: Json) -> Option<(String, String, String)> {
        let found = Operation::read(&body)?;
        Some((found.kind.to_owned(), found.name.clone(), found.fields.join(" ")))
    }

    #[test]
    fn an_operation_is_read_with_the_fields_at_its_top() {
        for (text, kind, name, fields) in [
            ("{ a b { c } a }", "query", "", "a b"),
            (
                "query Q($x: [Int!]! = [1], $y: T = {a: \"}\"}) @d(a: 1) { x: user(id: $x) @skip(if: true) { id } }",
                "query",
                "Q",
                "user",
            ),
            (
                "mutation M { ...F ... on T @d { deep } ... { plain } } fragment F on T { hidden ...G } fragment G on T { more ...F }",
                "mutation",
                "M",
                "hidden more deep plain",
            ),
            ("# {\n subscription { a(t: \"\"\"{ \\\"\"\" }\"\"\", u: \"\\\"}\") }", "subscription", "", "a"),
        ] {
            let expected = Some((kind.to_owned(), name.to_owned(), fields.to_owned()));
            assert_eq!(read(json!({"query": text})), expected, "{text}");
        }
        let two = "query A { a } mutation B { b }";
        let expected = ("mutation".to_owned(), "B".to_owned(), "b".to_owned());
        assert_eq!(read(json!({"query": two, "operationName": "B", "variables": {}})), Some(expected));
    }

    #[test]
    fn what_might_be_another_operation_is_none() {
        for body in [
            json!([{"query": "{ a }"}]),
            json!({"query": "query A { a } query B { b }"}),
            json!({"query": "query A { a } mutation A { b }", "operationName": "A"}),
            json!({"query": "query A { a }", "operationName": "B"}),
            json!({"query": "query A { a }", "operationName": 1}),
            json!({"query": "{ ...Missing }"}),
            json!({"query": "{ a"}),
            json!({"query": "{ a } }"}),
            json!({"query": "type A { a: B }"}),
            json!({"query": ["{ a }"]}),
            json!({"extensions": {"persistedQuery": {}}}),
            json!({"query": "{ a }", "extensions": {"persistedQuery": {"sha256Hash": "x"}}}),
            json!({"query": "{ a }", "id": "x"}),
            json!({"query": "{ a }", "documentId": "x"}),
            json!({"query": format!("{}{}", "{ a ".repeat(40), "}".repeat(40))}),
        ] {
            assert_eq!(read(body.clone()), None, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(text in "[ab{}():@$.\"\\\\#\n!=\\[\\],é]{0,60}") {
            let _ = Operation::read(&json!({"query": text}));
        }
    }
}
