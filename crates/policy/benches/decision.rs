//! What a decision and loading cost: `cargo bench -p freehold-policy`. Times are the best of several rounds, each the mean of
//! many calls: what the code takes, and not what else the machine does.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and fails by panicking")]

use std::{
    fmt::Write,
    hint::black_box,
    time::{Duration, Instant},
};

use freehold_model::provider::Kind;
use freehold_policy::{
    Body, Decision, Destination, NormalPath, Policy, ProviderGrant, ReadBody, RequestHead, Scheme,
    cel::{Attribute, Scope, Value},
    compile, parse,
};

/// Rounds, of which the best counts.
const ROUNDS: usize = 20;
/// Calls of a round.
const CALLS: u32 = 20_000;

struct Seen<'a>(&'a ReadBody);

impl Scope for Seen<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::RequestMethod => Some(Value::text("POST")),
            Attribute::RequestPath => Some(Value::text("/v1/items/7")),
            Attribute::RoleName => Some(Value::text("coder")),
            other => self.0.request(other, ""),
        }
    }
}

/// A document of so many rules, one in ten with a wildcard, one in ten that denies; with what more the first has.
fn document(rules: usize, more: &str) -> String {
    let mut text = String::from("- name: all\n  type: http\n  allow:\n");
    let _written = writeln!(
        text,
        "    - {{ name: first, domains: [api.example.com], methods: [GET, POST], paths: [/v1/items/*]{more} }}"
    );
    for rule in (0..rules.saturating_sub(1)).filter(|rule| rule % 10 != 0) {
        let domain = if rule % 10 == 1 {
            format!("*.host{rule}.example.com")
        } else {
            format!("host{rule}.example.com")
        };
        let _written = writeln!(
            text,
            "    - {{ name: r{rule}, domains: ['{domain}'], methods: [GET], paths: ['/a/{rule}/**'], when: 'request.path != \"/a/{rule}/x\"' }}"
        );
    }
    if rules > 1 {
        text.push_str("  deny:\n");
    }
    for rule in (0..rules.saturating_sub(1)).filter(|rule| rule % 10 == 0) {
        let _written = writeln!(text, "    - {{ domains: [host{rule}.example.com], paths: ['/b/{rule}'] }}");
    }
    text
}

fn load(text: &str) -> Policy {
    let provider =
        ProviderGrant { kind: Kind::Anthropic, domain: "api.anthropic.com".to_owned(), credential: None };
    let document = parse(text).unwrap();
    compile(&provider, &parse("").unwrap(), &document).unwrap()
}

fn best(rounds: usize, calls: u32, mut call: impl FnMut()) -> Duration {
    let round = |_| {
        let started = Instant::now();
        (0..calls).for_each(|_| call());
        started.elapsed() / calls
    };
    (0..rounds).map(round).min().unwrap_or_default()
}

fn main() {
    let destination = Destination::new(Scheme::Https, "api.example.com", 443).unwrap();
    let path = NormalPath::parse("/v1/items/7").unwrap();
    let body =
        ReadBody::new(Some("application/json"), br#"{"name": "a", "quantity": 3, "tags": ["x", "y"]}"#);
    let scope = Seen(&body);
    let facts = Body { content_type: Some("application/json"), length: Some(48), read: Some(&body) };
    let head =
        RequestHead { destination: &destination, method: "POST", path: &path, scope: &scope, body: facts };
    println!("| what | time |\n| --- | --- |");
    let schema = ", body: {schema: {type: object, required: [name], properties: {name: {type: string, maxLength: 9}, quantity: {type: integer, maximum: 10}}}}";
    for (what, rules, more) in [
        ("a decision, 1 rule", 1, ""),
        ("a decision, 100 rules", 100, ""),
        ("a decision, 1,000 rules", 1_000, ""),
        ("with one expression, 1,000 rules", 1_000, ", when: 'request.method == \"POST\"'"),
        (
            "with four expressions",
            1_000,
            ", when: ['request.method == \"POST\"', 'role.name != \"x\"', 'request.path.startsWith(\"/v1/\")', 'request.method in [\"GET\", \"POST\"]']",
        ),
        ("with an expression over the body", 1_000, ", when: 'request.body.quantity <= 3'"),
        ("with a schema of the body", 1_000, schema),
    ] {
        let policy = load(&document(rules, more));
        let decides = || assert!(matches!(policy.decide(black_box(&head)), Decision::Allow(_)));
        println!("| {what} | {} ns |", best(ROUNDS, CALLS, decides).as_nanos());
    }
    let policy = load(&document(1_000, schema));
    let wanted = best(ROUNDS, CALLS, || _ = black_box(policy.body_wanted(black_box(&head))));
    println!("| whether a body must be read, 1,000 rules | {} ns |", wanted.as_nanos());
    let text = document(1_000, schema);
    let loaded = best(ROUNDS, 1, || _ = black_box(load(black_box(&text))));
    println!(
        "| parsing and compiling 1,000 rules with 900 expressions | {:.1} ms |",
        loaded.as_secs_f64() * 1e3
    );
}
