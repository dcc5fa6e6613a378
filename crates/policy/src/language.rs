//! The JSON Schema of the language itself, for editors and for those who write documents by program.
//!
//! It is made of the parser's own tables, and says what can be said of one field at a time. What goes beyond (names that are
//! used, expressions, globs) the parser alone tells: a document that it takes fits the schema, and not the other way round.

use serde_json::{Map, Value as Json, json};

use crate::{
    budget::LIMIT_MAX,
    cel::SOURCE_BYTES_MAX,
    fields::{CAPABILITY, Fields, Shape},
    parse::{CAPABILITIES_MAX, NAME_PATTERN},
};

/// The schema (2020-12) of a `caps.yaml`.
pub fn language_schema() -> Json {
    let mut definitions = Map::new();
    let capability = object(&CAPABILITY, &mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "caps.yaml",
        "description": "What a role's agents may reach: a list of capabilities",
        "type": ["array", "null"],
        "maxItems": CAPABILITIES_MAX,
        "items": capability,
        "$defs": definitions,
    })
}

/// A reference to a mapping, which is put among the definitions.
fn object(fields: &Fields, definitions: &mut Map<String, Json>) -> Json {
    if !definitions.contains_key(fields.title) {
        let mut properties = Map::new();
        for field in fields.fields {
            let mut shape = of(&field.shape, definitions);
            if let Json::Object(shape) = &mut shape {
                shape.insert("description".to_owned(), field.doc.into());
            }
            properties.insert(field.name.to_owned(), shape);
        }
        let required: Vec<_> =
            fields.fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
        let mut schema = json!({"type": "object", "additionalProperties": false, "properties": properties});
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        if !fields.at_least.is_empty() {
            schema["anyOf"] = fields.at_least.iter().map(|name| json!({"required": [name]})).collect();
        }
        definitions.insert(fields.title.to_owned(), schema);
    }
    json!({"$ref": format!("#/$defs/{}", fields.title)})
}

fn of(shape: &Shape, definitions: &mut Map<String, Json>) -> Json {
    match shape {
        Shape::Name => json!({"type": "string", "pattern": NAME_PATTERN}),
        Shape::Text(max) => json!({"type": "string", "minLength": 1, "maxLength": max}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::Bytes => json!({"type": "integer", "minimum": 0}),
        Shape::Amount => json!({"type": "number", "minimum": 0, "maximum": LIMIT_MAX}),
        Shape::Pattern(pattern) => json!({"type": "string", "pattern": pattern}),
        Shape::Status => json!({
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5]([0-9][0-9]|xx)$"},
            ],
        }),
        Shape::Expression => json!({"type": "string", "minLength": 1, "maxLength": SOURCE_BYTES_MAX}),
        Shape::List(item, max) => {
            json!({"type": "array", "items": of(item, definitions), "minItems": 1, "maxItems": max})
        }
        Shape::Any(item, max) => json!({"type": "array", "items": of(item, definitions), "maxItems": max}),
        Shape::OneOrMore(item, max) => {
            let one = of(item, definitions);
            json!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": max}]})
        }
        Shape::Names(item, max) => {
            let item = of(item, definitions);
            json!({"type": "object", "additionalProperties": item, "minProperties": 1, "maxProperties": max})
        }
        Shape::Object(fields) => object(fields, definitions),
        Shape::Schema => json!({"type": ["object", "boolean"]}),
    }
}
