//! The OpenAPI document at work: what is served, and what bodies and queries are checked by.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use freehold_api::{Body, Operation, openapi, operations, pattern_in_words};
use jsonschema::{Validator, error::ValidationErrorKind};
use serde_json::{Map, Value, json};

use crate::error::Failure;

/// The document and the validators made of it.
pub(crate) struct Document {
    /// The document as it is served.
    pub text: Bytes,
    validators: HashMap<String, Validator>,
    components: Value,
}

/// A schema of the document that is not one: a bug found at start.
#[derive(Debug, thiserror::Error)]
#[error("the schema `{name}` does not compile: {reason}")]
pub struct BadSchema {
    name: String,
    reason: String,
}

impl Document {
    pub fn new() -> Result<Self, BadSchema> {
        let document = openapi();
        let components = document["components"]["schemas"].clone();
        let mut validators = HashMap::new();
        let names =
            operations().flat_map(|operation| [body_schema(operation), query_schema(operation)]).flatten();
        for name in names {
            let schema = json!({
                "$ref": format!("#/components/schemas/{name}"), "components": { "schemas": components },
            });
            let validator = jsonschema::options()
                .should_validate_formats(true)
                .build(&schema)
                .map_err(|error| BadSchema { name: name.clone(), reason: error.to_string() })?;
            validators.insert(name, validator);
        }
        Ok(Self { text: document.to_string().into(), validators, components })
    }

    /// Checks a request's fields by the schema of this name; every bad one is told.
    pub fn check(&self, schema: &str, value: &Value) -> Result<(), Failure> {
        let Some(validator) = self.validators.get(schema) else {
            return Err(Failure::internal(format!("no schema `{schema}`")));
        };
        let mut fields = BTreeMap::new();
        for error in validator.iter_errors(value) {
            let path = error.instance_path().as_str().trim_start_matches('/').replace('/', ".");
            match error.kind() {
                ValidationErrorKind::Required { property } => {
                    fields
                        .insert(join(&path, property.as_str().unwrap_or_default()), "is required".to_owned());
                }
                ValidationErrorKind::AdditionalProperties { unexpected } => {
                    for name in unexpected {
                        fields.insert(join(&path, name), "is not a field of this request".to_owned());
                    }
                }
                // Values may be secret, so they are not repeated.
                kind => {
                    let name = if path.is_empty() { "body".to_owned() } else { path };
                    let words = match kind {
                        ValidationErrorKind::Pattern { pattern } => pattern_in_words(pattern),
                        ValidationErrorKind::Format { format } if format == "date-time" => {
                            Some("a time, e.g. `2026-01-31T12:00:00Z`".to_owned())
                        }
                        _ => None,
                    };
                    let said =
                        words.map_or_else(|| error.masked().to_string(), |words| format!("must be {words}"));
                    fields.insert(name, said);
                }
            }
        }
        if fields.is_empty() { Ok(()) } else { Err(Failure::fields(&fields)) }
    }

    /// Makes an object of texts (a query, a form): what the schema says is a number, a truth value or an object is read
    /// as one; what does not read stays text, which the check then refuses.
    pub fn object_of(&self, schema: &str, pairs: Vec<(String, String)>) -> Value {
        let properties = &self.components[schema]["properties"];
        let mut object = Map::new();
        for (name, text) in pairs {
            if self.is_list(schema, &name) {
                let list = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().into_iter().for_each(|list| list.push(Value::String(text.clone())));
            } else {
                let value = read(&properties[&name]["type"], text);
                object.insert(name, value);
            }
        }
        Value::Object(object)
    }

    /// Whether this parameter may be given several times.
    pub fn is_list(&self, schema: &str, name: &str) -> bool {
        self.components[schema]["properties"][name]["type"] == "array"
    }
}

fn read(type_: &Value, text: String) -> Value {
    let is = |name: &str| match type_ {
        Value::String(one) => one == name,
        Value::Array(several) => several.iter().any(|one| one == name),
        _ => false,
    };
    let read = match text.as_str() {
        "true" if is("boolean") => Some(Value::Bool(true)),
        "false" if is("boolean") => Some(Value::Bool(false)),
        number if is("integer") => number.parse::<i64>().ok().map(Value::from),
        object if is("object") => crate::json::parse(object.as_bytes()).ok(),
        _ => None,
    };
    read.unwrap_or(Value::String(text))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The name of the body's schema.
pub(crate) fn body_schema(operation: &Operation) -> Option<String> {
    match operation.body {
        Body::None => None,
        Body::Json(schema) | Body::JsonOrMultipart(schema) => Some(schema.name()),
    }
}

/// The name of the query's schema.
pub(crate) fn query_schema(operation: &Operation) -> Option<String> {
    operation.query.map(|schema| schema.name())
}
