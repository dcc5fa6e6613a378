//! JSON Schemas in a document: which keywords they may use, and what they may cost.
//!
//! A keyword that is not known is a problem, as a field is, and not a remark; so is one that costs more than its place shows.
//! References lead to `$defs` of the schema itself and never in a circle, so that what a schema may cost is known when it is
//! loaded: the number of its parts, each as often as it is referred to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::{Checker, SCHEMAS_MAX, find};
use crate::{
    schema::{BodySchema, SCHEMA_BYTES_MAX},
    suggest::suggest,
    yaml::{Node, Value},
};

/// The most parts of a schema: schemas in it, and items of its lists of values, with what is referred to counted as often as
/// it is.
pub const SCHEMA_PARTS_MAX: u64 = 2_000;
/// How deep a schema, and values in it, may be nested.
pub const SCHEMA_DEPTH_MAX: usize = 24;

/// The only version of JSON Schema there is here.
const VERSION: &str = "https://json-schema.org/draft/2020-12/schema";

/// What stands behind a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keyword {
    Schema,
    Schemas,
    /// Schemas by the names of properties.
    Named,
    /// Schemas by regular expressions.
    Matching,
    /// Schemas to refer to.
    Definitions,
    /// A schema that stands elsewhere.
    Reference,
    Regex,
    Format,
    Version,
    /// Any value; the schema of schemas checks it.
    Value,
}

const KEYWORDS: &[(&str, Keyword)] = &[
    ("$schema", Keyword::Version),
    ("$ref", Keyword::Reference),
    ("$defs", Keyword::Definitions),
    ("$comment", Keyword::Value),
    ("title", Keyword::Value),
    ("description", Keyword::Value),
    ("default", Keyword::Value),
    ("examples", Keyword::Value),
    ("deprecated", Keyword::Value),
    ("type", Keyword::Value),
    ("enum", Keyword::Value),
    ("const", Keyword::Value),
    ("allOf", Keyword::Schemas),
    ("anyOf", Keyword::Schemas),
    ("oneOf", Keyword::Schemas),
    ("not", Keyword::Schema),
    ("if", Keyword::Schema),
    ("then", Keyword::Schema),
    ("else", Keyword::Schema),
    ("properties", Keyword::Named),
    ("patternProperties", Keyword::Matching),
    ("additionalProperties", Keyword::Schema),
    ("propertyNames", Keyword::Schema),
    ("dependentSchemas", Keyword::Named),
    ("dependentRequired", Keyword::Value),
    ("required", Keyword::Value),
    ("minProperties", Keyword::Value),
    ("maxProperties", Keyword::Value),
    ("prefixItems", Keyword::Schemas),
    ("items", Keyword::Schema),
    ("contains", Keyword::Schema),
    ("minContains", Keyword::Value),
    ("maxContains", Keyword::Value),
    ("minItems", Keyword::Value),
    ("maxItems", Keyword::Value),
    ("uniqueItems", Keyword::Value),
    ("minimum", Keyword::Value),
    ("maximum", Keyword::Value),
    ("exclusiveMinimum", Keyword::Value),
    ("exclusiveMaximum", Keyword::Value),
    ("multipleOf", Keyword::Value),
    ("minLength", Keyword::Value),
    ("maxLength", Keyword::Value),
    ("pattern", Keyword::Regex),
    ("format", Keyword::Format),
];

/// Formats that are checked, each in time that grows with the text.
const FORMATS: &[&str] = &[
    "date",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "json-pointer",
    "time",
    "uri",
    "uri-reference",
    "uuid",
];

/// What is found on the way through a schema.
#[derive(Default)]
struct Found {
    /// Of the part that is gone through: its parts, and what it refers to.
    here: Part,
    definitions: BTreeMap<String, Part>,
    regexes: u64,
    names: BTreeSet<String>,
}

#[derive(Default)]
struct Part {
    parts: u64,
    references: Vec<String>,
}

impl Checker<'_> {
    pub(super) fn schema(&mut self, node: &Node, path: &str) -> Option<BodySchema> {
        let (problems, mut found) = (self.problems.len(), Found::default());
        let json = self.subschema(node, path, 0, &mut found)?;
        if self.problems.len() > problems {
            return None;
        }
        let text = json.to_string();
        if let Some(known) = self.schemas.get(&text) {
            return Some(known.clone());
        }
        if text.len() > SCHEMA_BYTES_MAX {
            self.problem(node, path, format!("longer than {SCHEMA_BYTES_MAX} bytes, written as JSON"));
            return None;
        }
        if self.schemas.len() >= SCHEMAS_MAX {
            self.problem(node, path, format!("more than {SCHEMAS_MAX} schemas in the document"));
            return None;
        }
        let parts = match whole(&found.here, &found.definitions, &mut Vec::new(), &mut BTreeMap::new()) {
            Ok(parts) if parts <= SCHEMA_PARTS_MAX => parts,
            Ok(parts) => {
                let message = format!(
                    "{parts} parts, which is above the limit of {SCHEMA_PARTS_MAX} (what is referred to counts each time)"
                );
                self.problem(node, path, message);
                return None;
            }
            Err(message) => {
                self.problem(node, path, message);
                return None;
            }
        };
        self.regexes(node, path, usize::try_from(found.regexes).unwrap_or(usize::MAX));
        let names = found.names.into_iter().collect();
        match BodySchema::compile(json, parts, found.regexes, names) {
            Ok(schema) => {
                self.schemas.insert(text, schema.clone());
                Some(schema)
            }
            Err((pointer, message)) => {
                let place = at_pointer(node, &pointer);
                let path = format!("{path}{}", pointer.replace('/', "."));
                self.problem(place, &path, message.lines().next().unwrap_or("no JSON Schema").to_owned());
                None
            }
        }
    }

    fn subschema(&mut self, node: &Node, path: &str, depth: usize, found: &mut Found) -> Option<Json> {
        found.here.parts = found.here.parts.saturating_add(1);
        if depth > SCHEMA_DEPTH_MAX {
            self.problem(node, path, format!("nested more than {SCHEMA_DEPTH_MAX} deep"));
            return None;
        }
        let entries = match &node.value {
            Value::Bool(value) => return Some(Json::Bool(*value)),
            Value::Map(entries) => entries,
            other => {
                self.problem(node, path, format!("expected a JSON Schema, found {}", other.kind()));
                return None;
            }
        };
        let mut schema = Map::new();
        for (key, value) in entries {
            let Value::Text(name) = &key.value else {
                self.problem(key, path, "a keyword must be text");
                continue;
            };
            let Some((_, keyword)) = KEYWORDS.iter().find(|(known, _)| known == name) else {
                let hint = suggest(
                    name,
                    KEYWORDS.iter().map(|(known, _)| *known),
                    "see the documentation for those there are",
                );
                self.problem(key, path, format!("no keyword `{name}` of JSON Schema is known here; {hint}"));
                continue;
            };
            let at = format!("{path}.{name}");
            let Some(value) = self.keyword(*keyword, value, &at, depth, found) else { continue };
            if schema.insert(name.clone(), value).is_some() {
                self.problem(key, path, format!("`{name}` is given twice"));
            }
        }
        Some(Json::Object(schema))
    }

    fn keyword(
        &mut self,
        keyword: Keyword,
        node: &Node,
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Option<Json> {
        match keyword {
            Keyword::Schema => self.subschema(node, path, depth + 1, found),
            Keyword::Schemas => {
                let mut schemas = Vec::new();
                for (at, item) in self.list(node, path, usize::MAX).iter().enumerate() {
                    schemas.extend(self.subschema(item, &format!("{path}[{at}]"), depth + 1, found));
                }
                Some(Json::Array(schemas))
            }
            Keyword::Named | Keyword::Matching | Keyword::Definitions => {
                self.named_schemas(keyword, node, path, depth, found)
            }
            Keyword::Reference => {
                let name = self.text(node, path, |text| {
                    let name = text.strip_prefix("#/$defs/").filter(|name| !name.contains(['/', '~', '%']));
                    name.map(str::to_owned).ok_or_else(|| {
                        "a reference leads to a part of this schema: `#/$defs/name`".to_owned()
                    })
                })?;
                let reference = format!("#/$defs/{name}");
                found.here.references.push(name);
                Some(Json::String(reference))
            }
            Keyword::Regex => {
                found.regexes += 1;
                self.value(node, path, depth, found)
            }
            Keyword::Format => self.text(node, path, |text| {
                let all = format!("there are `{}`", FORMATS.join("`, `"));
                let known = FORMATS.iter().find(|known| **known == text);
                known.map(|known| Json::String((*known).to_owned())).ok_or_else(|| {
                    format!(
                        "no format that is checked here; {}",
                        suggest(text, FORMATS.iter().copied(), &all)
                    )
                })
            }),
            Keyword::Version => self.text(node, path, |text| {
                let is_known = text.trim_end_matches('#') == VERSION;
                is_known
                    .then(|| Json::String(VERSION.to_owned()))
                    .ok_or_else(|| format!("the version is `{VERSION}`"))
            }),
            Keyword::Value => self.value(node, path, depth, found),
        }
    }

    fn named_schemas(
        &mut self,
        keyword: Keyword,
        node: &Node,
        path: &str,
        depth: usize,
        found: &mut Found,
    ) -> Option<Json> {
        if keyword == Keyword::Definitions && depth > 0 {
            self.problem(node, path, "`$defs` stand at the top of the schema");
            return None;
        }
        let Value::Map(entries) = &node.value else {
            self.problem(node, path, format!("expected a mapping, found {}", node.value.kind()));
            return None;
        };
        let mut schemas = Map::new();
        for (key, value) in entries {
            let Some(name) = self.text(key, path, |text| Ok(text.to_owned())) else { continue };
            let at = format!("{path}.{name}");
            match keyword {
                Keyword::Matching => found.regexes += 1,
                Keyword::Named => _ = found.names.insert(name.clone()),
                _ => {}
            }
            let outer = (keyword == Keyword::Definitions).then(|| std::mem::take(&mut found.here));
            let schema = self.subschema(value, &at, depth + 1, found);
            if let Some(outer) = outer {
                let part = std::mem::replace(&mut found.here, outer);
                found.definitions.insert(name.clone(), part);
            }
            if schemas.insert(name.clone(), schema?).is_some() {
                self.problem(key, path, format!("`{name}` is given twice"));
            }
        }
        Some(Json::Object(schemas))
    }

    /// A value as JSON.
    fn value(&mut self, node: &Node, path: &str, depth: usize, found: &mut Found) -> Option<Json> {
        if depth > SCHEMA_DEPTH_MAX {
            self.problem(node, path, format!("nested more than {SCHEMA_DEPTH_MAX} deep"));
            return None;
        }
        Some(match &node.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(number) => Json::Number(number.clone()),
            Value::Text(text) => Json::String(text.clone()),
            Value::List(items) => {
                found.here.parts = found.here.parts.saturating_add(items.len() as u64);
                let values: Option<Vec<_>> =
                    items.iter().map(|item| self.value(item, path, depth + 1, found)).collect();
                Json::Array(values?)
            }
            Value::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let name = self.text(key, path, |text| Ok(text.to_owned()))?;
                    let value = self.value(value, path, depth + 1, found)?;
                    if map.insert(name, value).is_some() {
                        self.problem(key, path, "a name is given twice");
                    }
                }
                Json::Object(map)
            }
        })
    }
}

/// The parts of a part with all that it refers to, each as often.
fn whole<'p>(
    part: &'p Part,
    definitions: &'p BTreeMap<String, Part>,
    way: &mut Vec<&'p str>,
    known: &mut BTreeMap<&'p str, u64>,
) -> Result<u64, String> {
    let mut parts = part.parts;
    for name in &part.references {
        let more = match known.get(name.as_str()) {
            Some(more) => *more,
            None if way.contains(&name.as_str()) => {
                return Err(format!("`#/$defs/{name}` refers to itself, so that its cost has no bound"));
            }
            None if way.len() > SCHEMA_DEPTH_MAX => return Err("references lead too deep".to_owned()),
            None => {
                let definition =
                    definitions.get(name).ok_or_else(|| format!("there is no `#/$defs/{name}`"))?;
                way.push(name);
                let more = whole(definition, definitions, way, known)?;
                way.pop();
                known.insert(name, more);
                more
            }
        };
        parts = parts.saturating_add(more);
    }
    Ok(parts)
}

/// The node at a JSON pointer, or the nearest above it.
fn at_pointer<'n>(node: &'n Node, pointer: &str) -> &'n Node {
    let mut at = node;
    for segment in pointer.split('/').skip(1) {
        let name = segment.replace("~1", "/").replace("~0", "~");
        let next = match &at.value {
            Value::Map(entries) => find(entries, &name),
            Value::List(items) => name.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        let Some(next) = next else { break };
        at = next;
    }
    at
}
