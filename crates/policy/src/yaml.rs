//! YAML as a tree whose nodes know where they stand, so that every problem of a document is reported with its place.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{
    Error, Spanned,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

use crate::parse::Problem;

/// A value and its place, lines and columns counted from 1.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) line: u64,
    pub(crate) column: u64,
}

#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    /// Keys in the order written, doubles included.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What to call it in a message.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads one document; the problem is the first thing that is not YAML.
pub(crate) fn read(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! {
        // What stands in one place and counts in another, or without end, nobody can review.
        budget: serde_saphyr::budget! { max_anchors: 0, max_aliases: 0 },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options).map(Node::from).map_err(|error| {
        if let Some(problem) = tab(text) {
            return problem;
        }
        let place = error.location();
        let message = error.to_string();
        let message = match &error {
            Error::Budget { breach: BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. }, .. } => {
                "anchors and aliases (`&name`, `*name`) have no place here; a text that begins so stands in quotes"
            }
            _ => message.lines().next().unwrap_or("not YAML"),
        };
        // The place is told beside it.
        let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
        Problem {
            line: place.map_or(0, |place| place.line()),
            column: place.map_or(0, |place| place.column()),
            path: String::new(),
            message: format!("{message}{}", quoting(message)),
        }
    })
}

/// A line that a tab indents. YAML's own words blame the line before.
fn tab(text: &str) -> Option<Problem> {
    (1..).zip(text.lines()).find_map(|(line, of)| {
        let column = of.find(|c: char| c != ' ').filter(|&at| of[at..].starts_with('\t'))?;
        let message = "a tab does not indent in YAML: use spaces".to_owned();
        Some(Problem { line, column: column as u64 + 1, path: String::new(), message })
    })
}

/// What to do about the slips that YAML's own words do not explain: texts that want quotes.
fn quoting(message: &str) -> &'static str {
    const HINTS: &[(&str, &str)] = &[
        ("unknown anchor", "; a text that begins with `*` or `&` stands in quotes: \"*.example.com\""),
        (
            "after double-quoted scalar",
            "; an expression that begins with a quote stands whole in quotes of the other kind",
        ),
        (
            "after single-quoted scalar",
            "; an expression that begins with a quote stands whole in quotes of the other kind",
        ),
        ("mapping values are not allowed", "; a text that holds `: ` stands in quotes"),
        ("parsing a flow", "; in `{...}` and `[...]` a text that holds one of `,[]{}` stands in quotes"),
    ];
    HINTS.iter().find(|(said, _)| message.contains(said)).map_or("", |(_, hint)| hint)
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        let place = spanned.referenced;
        Self { value: spanned.value, line: place.line(), column: place.column() }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("this is no number"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element::<Spanned<Value>>()? {
            list.push(item.into());
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = access.next_entry::<Spanned<Value>, Spanned<Value>>()? {
            map.push((key.into(), value.into()));
        }
        Ok(Value::Map(map))
    }
}
