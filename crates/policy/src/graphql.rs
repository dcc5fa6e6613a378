//! GraphQL: the operation that a request's body asks for, with the fields at its top.
//!
//! What is not understood, or where a server might run another operation than the one that was looked at (a batch, several
//! operations without a name, definitions that are no operations), is no operation.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
};

use apollo_parser::{
    Parser, SyntaxKind,
    cst::{CstNode, Definition, OperationDefinition, Selection, SelectionSet},
};
use serde_json::Value as Json;

use crate::{
    names::folded,
    query::{fields, is_unambiguous},
};

/// The longest document that is read, in bytes.
const DOCUMENT_BYTES_MAX: usize = 256 * 1024;
/// The most tokens of a document, what stands between them included.
const TOKENS_MAX: usize = 20_000;
/// The most fields at the top of an operation, each name once.
const FIELDS_MAX: usize = 1_000;
/// How deep selections and values may be nested.
const DEPTH_MAX: usize = 32;

/// What names an operation that the server knows already, and that some run in the place of the one that is written out;
/// beside them `id`, which whatever else has too.
const REFERENCES: [&str; 9] = [
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

fn is_reference(name: &str) -> bool {
    name == "id" || REFERENCES.contains(&name)
}

/// The names, in whatever case, by one of which a body that is not understood may be an operation to some server.
pub(crate) fn signs() -> impl Iterator<Item = &'static str> {
    PARAMETERS.into_iter().chain(REFERENCES)
}

/// Whether a server may find another operation in the query of a request's URL than in its body.
pub(crate) fn is_in_url(query: &str) -> bool {
    let names = |(name, _): (Cow<'_, str>, _)| {
        let name = folded(name.trim());
        PARAMETERS.contains(&&*name) || is_reference(&name)
    };
    !is_unambiguous(query) || fields(query).any(names)
}

/// Whether a body, or its extensions, refer to an operation that the server knows.
fn has_reference(body: &serde_json::Map<String, Json>) -> bool {
    body.iter().any(|(name, value)| {
        let name = folded(name);
        let inner = value.as_object().filter(|_| name == "extensions");
        !value.is_null() && is_reference(&name)
            || inner.is_some_and(|inner| inner.keys().any(|name| is_reference(&folded(name))))
    })
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    kind: &'static str,
    name: String,
    /// Each once, sorted; by their own names and not by aliases.
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
        let tree = Parser::new(text).recursion_limit(DEPTH_MAX).token_limit(TOKENS_MAX).parse();
        if tree.errors().len() > 0 {
            return None;
        }
        // The parser overlooks the end of a line right behind the `"` that begins a text.
        let mut tokens =
            tree.document().syntax().descendants_with_tokens().filter_map(|part| part.into_token());
        if tokens.any(|token| token.kind() == SyntaxKind::STRING && is_broken(token.text())) {
            return None;
        }
        let (mut operations, mut fragments) = (Vec::new(), HashMap::new());
        for definition in tree.document().definitions() {
            match definition {
                Definition::OperationDefinition(operation) => operations.push(operation),
                Definition::FragmentDefinition(fragment) => {
                    let name = fragment.fragment_name()?.name()?.text().to_string();
                    fragments.insert(name, fragment.selection_set()?).is_none().then_some(())?;
                }
                _ => return None,
            }
        }
        operations.retain(|one| wanted.is_none_or(|wanted| name(one) == wanted));
        let [found] = operations.as_slice() else { return None };
        let mut top = Top { fragments, walked: HashSet::new(), fields: BTreeSet::new() };
        top.walk(&found.selection_set()?)?;
        Some(Self { kind: kind(found)?, name: name(found), fields: top.fields.into_iter().collect() })
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

/// Whether a text goes over the end of a line, which only those in three quotes may.
fn is_broken(text: &str) -> bool {
    !text.starts_with("\"\"\"") && text.contains(['\n', '\r'])
}

fn kind(operation: &OperationDefinition) -> Option<&'static str> {
    let Some(kind) = operation.operation_type() else { return Some("query") };
    match (kind.query_token(), kind.mutation_token(), kind.subscription_token()) {
        (Some(_), None, None) => Some("query"),
        (None, Some(_), None) => Some("mutation"),
        (None, None, Some(_)) => Some("subscription"),
        _ => None,
    }
}

fn name(operation: &OperationDefinition) -> String {
    operation.name().map(|name| name.text().to_string()).unwrap_or_default()
}

/// Gathers the fields at the top.
struct Top {
    fragments: HashMap<String, SelectionSet>,
    walked: HashSet<String>,
    fields: BTreeSet<String>,
}

impl Top {
    fn walk(&mut self, set: &SelectionSet) -> Option<()> {
        // Not by recursion: fragments name each other in a chain as long as there are any.
        let mut waiting = vec![set.selections()];
        while let Some(selections) = waiting.last_mut() {
            match selections.next() {
                None => {
                    waiting.pop();
                }
                Some(Selection::Field(field)) => {
                    self.fields.insert(field.name()?.text().to_string());
                    (self.fields.len() <= FIELDS_MAX).then_some(())?;
                }
                Some(Selection::InlineFragment(inline)) => {
                    waiting.push(inline.selection_set()?.selections());
                }
                Some(Selection::FragmentSpread(spread)) => {
                    let name = spread.fragment_name()?.name()?.text().to_string();
                    let fragment = self.fragments.get(&name)?;
                    // Each is walked once, so that circles end.
                    if self.walked.insert(name) {
                        waiting.push(fragment.selections());
                    }
                }
            }
        }
        Some(())
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
                "deep hidden more plain",
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
            json!({"query": "{ a() }"}),
            json!({"query": "{ a { } }"}),
            json!({"query": "{ a(t: \"\n } mutation { b(t: \") }"}),
            json!({"query": "{ a(t: \"\r\") }"}),
            json!({"query": format!("{{ {} }}", "a ".repeat(TOKENS_MAX / 2))}),
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
