//! JSON Schemas in documents: which are refused, and what the others hold of a body.

use std::time::{Duration, Instant};

use freehold_policy::{BODY_READ_BYTES_MAX, Decision, parse};

use crate::support::{Content, Request, policy, said};

/// A document whose only rule has this schema, on line 7 behind 18 columns.
fn document(schema: &str) -> String {
    format!(
        "- name: a\n  type: http\n  allow:\n    - domains: [a.test]\n      methods: [POST]\n      body:\n        schema:  {schema}\n"
    )
}

fn problem(schema: &str) -> String {
    let problems = parse(&document(schema)).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn detail(schema: &str, body: &str) -> Option<String> {
    let mut request = Request::new(&format!("POST https://a.test/ application/json {body}"));
    request.decide(&policy(&document(schema)), |decision, _| match decision {
        Decision::Deny(denial) => denial.detail,
        Decision::Allow(_) => panic!("{body} is allowed"),
    })
}

#[test]
fn a_schema_that_is_none_or_has_no_bound_is_refused_where_it_stands() {
    let at = "[0].allow[0].body.schema";
    for (schema, message) in [
        ("[]", format!("7:18: {at}: expected a JSON Schema, found a list")),
        (
            "{typ: object}",
            format!("7:19: {at}: no keyword `typ` of JSON Schema is known here; did you mean `type`?"),
        ),
        (
            "{properties: {x: {maxLenght: 3}}}",
            format!(
                "7:36: {at}.properties.x: no keyword `maxLenght` of JSON Schema is known here; did you mean `maxLength`?"
            ),
        ),
        ("{type: objekt}", format!("7:25: {at}.type: ")),
        ("{properties: {x: {minLength: -1}}}", format!("7:47: {at}.properties.x.minLength: ")),
        ("{pattern: '('}", format!("7:28: {at}.pattern: ")),
        ("{pattern: '(?=a)'}", format!("7:28: {at}.pattern: ")),
        (
            "{format: idn-email}",
            format!("7:27: {at}.format: `idn-email`: no format that is checked here; there are "),
        ),
        (
            "{$ref: 'https://a.test/schema'}",
            format!("7:25: {at}.$ref: `https://a.test/schema`: a reference leads"),
        ),
        ("{$ref: '#'}", format!("7:25: {at}.$ref: `#`: a reference leads")),
        ("{$ref: '#/$defs/x'}", format!("7:18: {at}: there is no `#/$defs/x`")),
        (
            "{$ref: '#/$defs/x', $defs: {x: {items: {$ref: '#/$defs/x'}}}}",
            format!("7:18: {at}: `#/$defs/x` refers to itself"),
        ),
        ("{items: {$defs: {}}}", format!("7:34: {at}.items.$defs: `$defs` stand at the top")),
        ("{$schema: 'http://json-schema.org/draft-07/schema#'}", format!("7:28: {at}.$schema: ")),
        ("{type: string, type: object}", format!("7:33: {at}: `type` is given twice")),
    ] {
        let found = problem(schema);
        assert!(found.starts_with(&message), "{schema}\n{found}\n{message}");
    }
    let deep = format!("{}true{}", "{not: ".repeat(30), "}".repeat(30));
    assert!(problem(&deep).contains("nested more than 24 deep"));
    // Ten parts, each of which is referred to ten times by the one before: a million.
    let level = |n: usize| {
        let next = format!("{{$ref: '#/$defs/d{}'}}", n + 1);
        format!("d{n}: {{anyOf: [{}]}}", vec![next; 10].join(", "))
    };
    let levels: Vec<String> = (0..6).map(level).collect();
    let bomb = format!("{{$ref: '#/$defs/d0', $defs: {{{}, d6: true}}}}", levels.join(", "));
    assert!(problem(&bomb).contains("above the limit of 2000"), "{}", problem(&bomb));
    let large = format!("{{enum: [\"{}\"]}}", "x".repeat(70_000));
    assert!(problem(&large).contains("longer than 65536 bytes"));
    let over = document("true")
        .replace("schema:", &format!("max_bytes: {}\n        schema:", BODY_READ_BYTES_MAX + 1));
    assert!(parse(&over).unwrap_err()[0].message.contains("held against a schema"));
}

#[test]
fn a_denial_says_where_a_body_is_wrong_and_nothing_that_stands_there() {
    let schema =
        "{properties: {to: {items: {type: string}}, ok: true}, additionalProperties: {maxLength: 3}}";
    assert_eq!(detail(schema, r#"{"to": ["a", 7]}"#).as_deref(), Some("/to/1: type"));
    assert_eq!(detail(schema, r#"{"my-secret": "hidden"}"#).as_deref(), Some("/*: maxLength"));
    assert_eq!(detail("{required: [to]}", "{}").as_deref(), Some("required"));
    let long = format!("{{\"a\": [{}1], \"x\": \"long\"}}", "1,".repeat(2_000));
    assert_eq!(detail(schema, &long), None);
}

#[test]
fn formats_and_keywords_are_checked() {
    for (schema, body, holds) in [
        ("{format: email}", "\"a@b.test\"", true),
        ("{format: email}", "\"a\"", false),
        ("{format: date-time}", "\"2026-11-23T09:30:00Z\"", true),
        ("{format: uuid}", "\"x\"", false),
        ("{uniqueItems: true}", "[1, 2, 1.0]", false),
        ("{pattern: '^a+$'}", "\"aaa\"", true),
        ("{patternProperties: {'^x-': {type: integer}}}", "{\"x-a\": 1, \"b\": \"\"}", true),
        ("{patternProperties: {'^x-': {type: integer}}}", "{\"x-a\": \"\"}", false),
        ("{if: {required: [a]}, then: {required: [b]}}", "{\"a\": 1}", false),
        ("{oneOf: [{type: string}, {type: integer}]}", "1", true),
        ("false", "1", false),
        ("true", "null", true),
    ] {
        let mut request = Request::new(&format!("POST https://a.test/ application/json {body}"));
        let decision = request.decide(&policy(&document(schema)), |decision, _| decision);
        let expected = if holds { "allow a/allow[0]" } else { "deny body_invalid by a/allow[0]" };
        assert_eq!(said(&decision), expected, "{schema} {body}");
    }
}

#[test]
fn a_hostile_body_costs_no_more_than_its_bound() {
    let parts = format!("{{items: {{anyOf: [{}]}}}}", vec!["{type: string}"; 900].join(", "));
    let patterns = format!("{{allOf: [{}]}}", vec!["{pattern: '(a|aa)+$'}"; 40].join(", "));
    let nested = "{$ref: '#/$defs/a', $defs: {a: {anyOf: [{properties: {x: {$ref: '#/$defs/b'}}}, {type: string}]}, b: {uniqueItems: true}}}";
    for (schema, body) in [
        (parts.as_str(), format!("[{}1]", "1,".repeat(90_000))),
        (&patterns, format!("\"{}b\"", "a".repeat(1_000_000))),
        (nested, format!("{{\"x\": [{}1]}}", "[1,[2]],".repeat(20_000))),
    ] {
        let mut request = Request::new("POST https://a.test/");
        request.body =
            Content { kind: Some("application/json".to_owned()), bytes: body.into_bytes(), read: None };
        let policy = policy(&document(schema));
        let started = Instant::now();
        let decision = request.decide(&policy, |decision, _| said(&decision));
        let denials = ["body_unreadable", "body_invalid"].map(|why| format!("deny {why} by a/allow[0]"));
        assert!(denials.contains(&decision), "{decision}");
        // Generous, for slow machines without optimisation: without the bound it is minutes.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
