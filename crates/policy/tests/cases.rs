//! Data-driven: `tests/cases/*.yaml` hold a policy, requests and the decisions expected, and so does
//! `docs/capabilities.md`.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::{fmt::Write, fs, path::PathBuf};

use freehold_model::provider::Kind;
use freehold_policy::{
    Body, Decision, Denial, Destination, DnsDecision, NormalPath, Policy, ProviderGrant, RequestHead, Scheme,
    cel::{Attribute, Scope, Value},
    compile, parse,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    provider: Provider,
    /// The provider's document.
    #[serde(default)]
    base: String,
    /// The role's document.
    role: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    kind: String,
    domain: String,
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// `METHOD scheme://host[:port]/path[?query]`, each value of the query once, or `DNS name`.
    request: String,
    /// `allow <capability>/<rule>[ with <credential>]`, or `deny <reason>[ by <capability>/<rule>]`.
    expect: String,
}

/// What conditions see in these tests: the head of the request line, and a fixed rest.
struct Seen<'a> {
    method: &'a str,
    path: &'a NormalPath<'a>,
    query: serde_json::Value,
    headers: serde_json::Value,
}

impl Scope for Seen<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::RequestMethod => Value::text(self.method),
            Attribute::RequestPath => Value::text(self.path.as_str()),
            Attribute::RequestQuery => Value::json(&self.query),
            Attribute::RequestHeaders => Value::json(&self.headers),
            Attribute::RequestWebsocket => Value::Bool(false),
            Attribute::WorkspaceId => Value::text("ws_0190c1f2d3a47b5c8d9e0f1a2b3c4d5e"),
            Attribute::RoleName => Value::text("coder"),
            Attribute::Now => Value::Timestamp("2026-11-23T09:30:00Z".parse().unwrap()),
            _ => return None,
        })
    }
}

fn denied(denial: &Denial) -> String {
    let by = denial.rule.as_ref().map(|rule| format!(" by {}/{}", rule.capability, rule.rule));
    format!("deny {}{}", denial.reason.as_str(), by.unwrap_or_default())
}

fn policy(cases: &Cases) -> Policy {
    let document = |text: &str| parse(text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let provider = ProviderGrant {
        kind: cases.provider.kind.parse::<Kind>().unwrap(),
        domain: cases.provider.domain.clone(),
        credential: cases.provider.credential.clone(),
    };
    compile(&provider, &document(&cases.base), &document(&cases.role)).unwrap()
}

fn decided(policy: &Policy, request: &str) -> String {
    let (method, url) = request.split_once(' ').unwrap();
    if method == "DNS" {
        return match policy.decide_dns(url) {
            DnsDecision::Allow { capability } => format!("allow {capability}"),
            DnsDecision::Deny(denial) => denied(&denial),
        };
    }
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap()),
        _ => (authority, scheme.default_port()),
    };
    let destination = Destination::new(scheme, host, port).unwrap();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), serde_json::json!([value]))).collect();
    let path = match NormalPath::parse(path) {
        Ok(path) => path,
        Err(problem) => return format!("no path: {problem}"),
    };
    let headers = serde_json::json!({"accept": "*/*"});
    let scope = Seen { method, path: &path, query, headers };
    match policy.decide(&RequestHead {
        destination: &destination,
        method,
        path: &path,
        scope: &scope,
        body: Body::NONE,
    }) {
        Decision::Deny(denial) => denied(&denial),
        Decision::Allow(permit) => {
            assert_eq!(permit.destination(), &destination);
            let mut text = format!("allow {}/{}", permit.rule().capability, permit.rule().rule);
            if let Some(credential) = permit.credential() {
                write!(text, " with {credential}").unwrap();
            }
            text
        }
    }
}

#[test]
fn every_case_is_decided_as_expected() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut seen = 0;
    let mut wrong = String::new();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap().path();
        let cases: Cases = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let policy = policy(&cases);
        for case in &cases.cases {
            seen += 1;
            let decided = decided(&policy, &case.request);
            if decided != case.expect {
                let file = file.file_name().unwrap().display();
                writeln!(wrong, "{file}: {}: {decided}, expected {}", case.request, case.expect).unwrap();
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(seen > 50, "the cases were not found");
}

/// A block marked `yaml` is a document; the one marked `text` after it has a request and its decision a line.
#[test]
fn every_example_of_the_document_is_decided_as_it_says() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/capabilities.md");
    let text = fs::read_to_string(file).unwrap();
    let provider = ProviderGrant {
        kind: Kind::Anthropic,
        domain: "api.anthropic.com".to_owned(),
        credential: Some("main-key".to_owned()),
    };
    let mut policy = compile(&provider, &parse("").unwrap(), &parse("").unwrap()).unwrap();
    let (mut documents, mut requests) = (0, 0);
    for block in text.split("\n```").skip(1).step_by(2) {
        let (kind, block) = block.split_once('\n').unwrap();
        match kind {
            "yaml" => {
                let document = parse(block).unwrap_or_else(|problems| panic!("{problems:?}\n{block}"));
                policy = compile(&provider, &parse("").unwrap(), &document).unwrap();
                documents += 1;
            }
            "text" => {
                for line in block.lines() {
                    let (request, expected) = line.split_once("  ").unwrap();
                    assert_eq!(decided(&policy, request), expected.trim(), "{line}");
                    requests += 1;
                }
            }
            _ => {}
        }
    }
    assert!(documents >= 5 && requests >= 10, "{documents} documents, {requests} requests were found");
}
