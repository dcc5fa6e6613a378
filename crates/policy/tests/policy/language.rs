//! The language as it is published: every example of `docs/caps-yaml.md` is a document, fits the schema, and decides as it
//! says.

use std::{collections::BTreeSet, fmt::Write, fs, path::PathBuf};

use freehold_policy::{Decision, language_schema, parse};
use serde_json::{Value, json};

use crate::support::{Request, decided, policy, said};

fn file(path: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

/// Blocks of a page, each with what stands behind its fence.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    page.split("\n```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap()).collect()
}

/// A block marked `yaml` is a document; the one marked `text` after it has a request and its decision a line, or an arrow with
/// a response and what is said of it.
#[test]
fn every_example_is_decided_as_it_says() {
    let page = file("docs/caps-yaml.md");
    let mut in_force = policy("");
    let (mut documents, mut requests, mut wrong) = (0, 0, String::new());
    for (kind, block) in blocks(&page) {
        if kind == "yaml" {
            in_force = policy(block);
            documents += 1;
        }
        let mut allowed = None;
        for line in block.lines().filter(|_| kind == "text") {
            let (text, expected) = line.split_once("  ").unwrap();
            requests += 1;
            let found = match (text.strip_prefix("-> "), &allowed) {
                (Some(response), Some((request, permit))) => Request::answered(request, permit, response),
                (Some(_), None) => "no request before it".to_owned(),
                (None, _) if text.starts_with("DNS ") || Request::new(text).path.is_err() => {
                    decided(&in_force, text)
                }
                (None, _) => {
                    let mut request = Request::new(text);
                    let decision = request.decide(&in_force, |decision, _| decision);
                    let found = said(&decision);
                    allowed = match decision {
                        Decision::Allow(permit) => Some((request, permit)),
                        Decision::Deny(_) => None,
                    };
                    found
                }
            };
            if found != expected.trim() {
                writeln!(wrong, "{line}\n    {found}").unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(documents >= 12 && requests >= 60, "{documents} documents, {requests} requests were found");
}

/// Every field that a document has, with the object of the schema that it is of.
fn fields_used(schema: &Value, of: &Value, document: &Value, used: &mut BTreeSet<String>) {
    let title = of["$ref"].as_str().map(|to| to.trim_start_matches("#/$defs/"));
    let of = title.map_or(of, |title| &schema["$defs"][title]);
    for item in document.as_array().into_iter().flatten() {
        fields_used(schema, &of["items"], item, used);
    }
    for (name, value) in document.as_object().into_iter().flatten() {
        let field = of["properties"].get(name);
        used.extend(title.filter(|_| field.is_some()).map(|title| format!("{title}.{name}")));
        fields_used(schema, field.unwrap_or(&of["additionalProperties"]), value, used);
    }
}

#[test]
fn every_example_fits_the_schema_and_every_field_has_an_example() {
    let schema = language_schema();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let page = file("docs/caps-yaml.md");
    let examples: Vec<_> = blocks(&page).into_iter().filter(|(kind, _)| *kind == "yaml").collect();
    let mut used = BTreeSet::new();
    for (_, text) in &examples {
        let document: Value = serde_saphyr::from_str(text).unwrap();
        if let Err(error) = validator.validate(&document) {
            panic!("{error} at {}\n{text}", error.instance_path());
        }
        fields_used(&schema, &schema, &document, &mut used);
    }
    for (title, definition) in schema["$defs"].as_object().unwrap() {
        for name in definition["properties"].as_object().unwrap().keys() {
            assert!(used.contains(&format!("{title}.{name}")), "{title}.{name} has no example");
            assert!(page.contains(&format!("`{name}`")), "{title}.{name} is not described");
        }
    }
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    let validator = jsonschema::validator_for(&language_schema()).unwrap();
    let rule = json!({"domains": ["a.test"], "methods": ["GET"]});
    let with = |field: &str, value: Value| {
        let mut rule = rule.clone();
        rule[field] = value;
        json!([{"name": "a", "type": "http", "allow": [rule]}])
    };
    let of =
        |field: &str, value: Value| json!([{"name": "a", "type": "http", "allow": [rule], field: value}]);
    for document in [
        json!([{"name": "a", "type": "http"}]),
        json!([{"name": "_a", "type": "http", "allow": [rule]}]),
        json!([{"name": "a", "type": "tcp", "allow": [rule]}]),
        json!([{"name": "a", "type": "http", "allow": []}]),
        with("methods", json!(["get"])),
        with("bodies", json!({})),
        with("body", json!({})),
        with("body", json!({"content_types": ["json"]})),
        with("body", json!({"max_bytes": -1})),
        with("response", json!({"status": ["600"]})),
        with("response", json!({"status": [99]})),
        with("approval", json!("maybe")),
        of("transforms", json!([{"name": "t"}])),
        of("transforms", json!([{"headers": {"set": {"a": "'b'"}}}])),
        of("transforms", json!([{"name": "t", "auth": {}}])),
        of("budgets", json!({"c": {"unit": "requests", "per": "task"}})),
        of("budgets", json!({"c": {"unit": "bytes", "per": "task", "limit": 1}})),
        of("budgets", json!({"c": {"unit": "requests", "per": "task", "limit": -1}})),
        of("budgets", json!({"c": {"unit": "requests", "per": "task", "limit": 1, "window": "1w"}})),
    ] {
        assert!(!validator.is_valid(&document), "the schema takes {document}");
        assert!(parse(&document.to_string()).is_err(), "the parser takes {document}");
    }
}

#[test]
fn the_published_schema_is_the_one_in_the_code() {
    let published: Value = serde_json::from_str(&file("docs/caps.schema.json")).unwrap();
    assert_eq!(published, language_schema());
}
