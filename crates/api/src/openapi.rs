//! The OpenAPI 3.1 document, made of the operation table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::{
    error::{ErrorBody, ErrorCode},
    operation::{Answer, Body, Face, Guard, Operation, Schema, operations, schema},
};

/// Properties of answers that are `null` rather than left out.
const NULLABLE: &[(&str, &[&str])] = &[
    ("Session", &["model_id", "title", "preview", "output_preview", "usage", "started_at", "finished_at"]),
    ("Workspace", &["archived_at"]),
    ("Credential", &["user_id"]),
    ("MeMembership", &["accepted_at"]),
];

/// Fields of resources that only the server sets.
const READ_ONLY: &[(&str, &[&str])] = &[
    ("Provider", crate::provider::READ_ONLY),
    ("Role", crate::role::READ_ONLY),
    ("Workspace", crate::workspace::READ_ONLY),
    ("Task", crate::task::READ_ONLY),
    ("Credential", crate::credential::READ_ONLY),
    ("ApiKey", crate::api_key::READ_ONLY),
];

/// The whole document.
pub fn openapi() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations() {
        let item = paths.entry(operation.path).or_default();
        item.insert(operation.method.as_str().to_lowercase(), describe(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Freehold",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Control plane and runtime for AI agent workspaces. Every error is one envelope with a code of a \
                            closed set; every answer has an `x-request-id`. The sessions routes are also served under `/api`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": components(),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "An API key (`sk_…`) or a personal token (`pt_…`)." },
                "query": {
                    "type": "apiKey", "in": "query", "name": "api_key",
                    "description": "The same, on event streams only, for clients that cannot set headers.",
                },
            },
        },
    })
}

/// The named component of the document, if there is one: what bodies and query parameters are validated by.
pub fn component(document: &Value, name: &str) -> Option<Value> {
    document.pointer("/components/schemas")?.get(name).cloned()
}

fn components() -> BTreeMap<String, Value> {
    let mut schemas = BTreeMap::new();
    for operation in operations() {
        if let Answer::Json(answer)
        | Answer::JsonArray(answer)
        | Answer::Events(answer)
        | Answer::Lines(answer) = operation.answer
        {
            insert(&mut schemas, answer);
        }
    }
    insert(&mut schemas, schema::<ErrorBody>());
    for (name, component) in &mut schemas {
        shape_answer(name, component);
    }
    for operation in operations() {
        if let Body::Json(body) | Body::JsonOrMultipart(body) = operation.body {
            insert(&mut schemas, body);
            admit_read_only(schemas.get_mut(&body.name()), operation.read_only);
        }
        if let Some(query) = operation.query {
            insert(&mut schemas, query);
        }
    }
    schemas.values_mut().for_each(without_null_defaults);
    schemas
}

/// That an absent field reads as none is no default worth a line.
fn without_null_defaults(component: &mut Value) {
    for property in component.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        if let Some(property) = property.1.as_object_mut()
            && property.get("default") == Some(&Value::Null)
        {
            property.remove("default");
        }
    }
}

fn insert(schemas: &mut BTreeMap<String, Value>, schema: Schema) {
    let mut dependencies = Vec::new();
    (schema.dependencies)(&mut dependencies);
    dependencies.push((schema.name(), (schema.schema)()));
    for (name, schema) in dependencies {
        schemas.entry(name).or_insert_with(|| {
            // A schema is a plain tree of strings, numbers and maps with text keys: it always has a JSON form.
            serde_json::to_value(schema).unwrap_or(Value::Bool(false))
        });
    }
}

fn named<'a>(table: &[(&str, &'a [&'a str])], name: &str) -> &'a [&'a str] {
    table.iter().find(|(of, _)| *of == name).map_or(&[], |(_, fields)| fields)
}

/// Answers leave out what is absent, so their types lose `null`, except where it is promised.
fn shape_answer(name: &str, component: &mut Value) {
    let (nullable, read_only) = (named(NULLABLE, name), named(READ_ONLY, name));
    let Some(properties) = component.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, property) in properties {
        if !nullable.contains(&field.as_str()) {
            without_null(property);
        }
        if read_only.contains(&field.as_str())
            && let Some(property) = property.as_object_mut()
        {
            property.insert("readOnly".into(), true.into());
        }
    }
}

fn without_null(property: &mut Value) {
    if let Some(Value::Array(types)) = property.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            property["type"] = only.clone();
        }
    }
}

/// Fields of the resource that only the server sets may stand in a body, so that what was read can be sent back.
fn admit_read_only(component: Option<&mut Value>, read_only: &[&str]) {
    let Some(properties) = component.and_then(|schema| schema.get_mut("properties")?.as_object_mut()) else {
        return;
    };
    for field in read_only {
        properties.entry(*field).or_insert_with(
            || json!({ "readOnly": true, "description": "Set by the server; ignored here." }),
        );
    }
}

fn describe(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": description(operation),
        "responses": responses(operation),
    });
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(body) = request_body(operation) {
        described["requestBody"] = body;
    }
    match (operation.guard, operation.is_event_stream()) {
        (Guard::Public, _) => described["security"] = json!([]),
        (_, true) => described["security"] = json!([{ "bearer": [] }, { "query": [] }]),
        (Guard::SignedIn | Guard::Rights(_), false) => {}
    }
    described
}

fn description(operation: &Operation) -> String {
    let permissions = match operation.guard {
        Guard::Public => "Permissions: none; no credential is needed.".to_owned(),
        Guard::SignedIn => "Permissions: any signed-in caller.".to_owned(),
        Guard::Rights(rights) => {
            let each: Vec<String> = rights
                .iter()
                .map(|right| match right.scopes() {
                    (any, Some(own)) => format!("`{any}` or `{own}` (what the caller created)"),
                    (any, None) => format!("`{any}`"),
                })
                .collect();
            format!("Permissions: {}.", each.join(", and "))
        }
    };
    if operation.description.is_empty() {
        permissions
    } else {
        format!("{permissions}\n\n{}", operation.description)
    }
}

fn reference(schema: Schema) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", schema.name()) })
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters: Vec<Value> = path_parameters(operation.path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(query) = operation.query {
        let schema = serde_json::to_value((query.schema)()).unwrap_or(Value::Bool(false));
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let mut property = property.clone();
            let description = property
                .as_object_mut()
                .and_then(|property| property.remove("description"))
                .unwrap_or(json!(""));
            parameters
                .push(json!({ "name": name, "in": "query", "description": description, "schema": property }));
        }
    }
    if operation.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "A repeated request with this key and the same body answers as the first did, for a day.",
            "schema": { "type": "string", "minLength": 1, "maxLength": crate::limits::IDEMPOTENCY_KEY_CHARS_MAX },
        }));
    }
    if operation.is_event_stream() {
        parameters.push(json!({
            "name": "Last-Event-ID", "in": "header",
            "description": "The `id` of the last event received.",
            "schema": { "type": "string", "pattern": "^[0-9]{1,19}$" },
        }));
    }
    parameters
}

/// The names in braces of a path.
fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn request_body(operation: &Operation) -> Option<Value> {
    let (schema, multipart) = match operation.body {
        Body::None => return None,
        Body::Json(schema) => (schema, false),
        Body::JsonOrMultipart(schema) => (schema, true),
    };
    let mut content = json!({ "application/json": { "schema": reference(schema) } });
    if multipart {
        content["multipart/form-data"] = json!({
            "schema": {
                "allOf": [reference(schema)],
                "properties": { "file": { "type": "array", "items": { "type": "string", "format": "binary" } } },
            },
        });
    }
    Some(json!({ "required": true, "content": content }))
}

fn responses(operation: &Operation) -> Value {
    let content = match operation.answer {
        Answer::Empty => None,
        Answer::Json(schema) => Some(json!({ "application/json": { "schema": reference(schema) } })),
        Answer::JsonArray(schema) => {
            Some(json!({ "application/json": { "schema": { "type": "array", "items": reference(schema) } } }))
        }
        Answer::JsonAny => Some(json!({ "application/json": { "schema": { "type": "object" } } })),
        Answer::Events(schema) => Some(
            json!({ "text/event-stream": { "schema": { "type": "string" }, "itemSchema": reference(schema) } }),
        ),
        Answer::Lines(schema) => Some(
            json!({ "application/x-ndjson": { "schema": { "type": "string" }, "itemSchema": reference(schema) } }),
        ),
        Answer::Html => Some(json!({ "text/html": { "schema": { "type": "string" } } })),
        Answer::Metrics => {
            Some(json!({ "application/openmetrics-text": { "schema": { "type": "string" } } }))
        }
    };
    let mut success = json!({ "description": "Success" });
    if let Some(content) = content {
        success["content"] = content;
    }
    let mut responses = Map::from_iter([(operation.status.to_string(), success)]);
    let mut by_status: BTreeMap<u16, Vec<ErrorCode>> = BTreeMap::new();
    for code in operation.error_codes() {
        by_status.entry(code.status()).or_default().push(code);
    }
    let media_type = match operation.face {
        Face::ControlPlane => "application/json",
        Face::Sessions => "application/problem+json",
    };
    for (status, codes) in by_status {
        let codes: Vec<String> = codes.iter().map(|code| format!("`{code}`:{}", code.meaning())).collect();
        responses.insert(
            status.to_string(),
            json!({
                "description": codes.join(" "),
                "content": { media_type: { "schema": { "$ref": format!("#/components/schemas/{}", ErrorBody::name()) } } },
            }),
        );
    }
    responses.into()
}
