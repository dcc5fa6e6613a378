//! Fuzz targets: each takes any bytes, and panics when what reads them breaks a promise.
//!
//! `cargo test` runs every target over its seeds and damaged copies of them; `cargo xtask fuzz TARGET` searches for as long
//! as it is told to, guided by coverage. Seeds are files under `seeds/TARGET`; an input that once broke a target goes there.

use freehold_client::sse;
use freehold_model::provider::Kind;
use freehold_pod_api::{Connection, FromAgent, ToAgent};
use freehold_policy::{
    BODY_READ_BYTES_MAX, Body, Decision, Destination, NormalPath, Permit, ProviderGrant, ReadBody, Reply,
    RequestHead, Scheme,
    cel::{Attribute, Expression, Place, Scope, Type, Value, Work},
};
use tokio::io::AsyncWriteExt;

/// One reader of hostile bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of the target and of the folder of its seeds.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "http_framing", run: freehold_egress::fuzz::http_framing },
    Target { name: "http_connection", run: freehold_egress::fuzz::http_connection },
    Target { name: "http2_frames", run: freehold_egress::fuzz::http2_frames },
    Target { name: "client_hello", run: freehold_egress::fuzz::client_hello },
    Target { name: "proxy_preface", run: freehold_egress::fuzz::proxy_preface },
    Target { name: "dns_packet", run: freehold_egress::fuzz::dns_packet },
    Target { name: "masked_body", run: freehold_egress::fuzz::masked_body },
    Target { name: "model_usage", run: freehold_egress::fuzz::model_usage },
    Target { name: "token_answer", run: freehold_broker::fuzz::token_answer },
    Target { name: "audit_export", run: freehold_cli::fuzz::audit_export },
    Target { name: "request_head", run: request_head },
    Target { name: "capabilities", run: capabilities },
    Target { name: "expression", run: expression },
    Target { name: "request_body", run: request_body },
    Target { name: "graphql", run: graphql },
    Target { name: "body_schema", run: body_schema },
    Target { name: "pod_api", run: pod_api },
    Target { name: "model_answer", run: freehold_llm::fuzz::model_answer },
    Target { name: "server_sent_events", run: server_sent_events },
];

/// A host line and a path line, as an agent's program writes them: a normal form is its own normal form, holds nothing that
/// an upstream could read as another path, and is decided without a panic.
fn request_head(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (host, path) = text.split_once('\n').unwrap_or(("", text));
    let Ok(path) = NormalPath::parse(path) else { return };
    let lower = path.as_str().to_ascii_lowercase();
    let again = NormalPath::parse(path.as_str()).map(|again| again.as_str().to_owned());
    assert_eq!(again.as_deref(), Ok(path.as_str()), "a normal form is its own");
    for hidden in ["%2f", "%2e", "%5c", "%00", "//", "\\"] {
        assert!(!lower.contains(hidden), "{lower:?} hides {hidden}");
    }
    assert!(lower.split('/').all(|segment| segment != "." && segment != ".."), "{lower:?} climbs");
    let Ok(destination) = Destination::new(Scheme::Https, host, 443) else { return };
    let again = Destination::new(Scheme::Https, destination.host(), 443).map(|again| again.host().to_owned());
    assert_eq!(again.as_deref().ok(), Some(destination.host()), "a normal host is its own");
    let capabilities = "- name: all\n  type: http\n  allow:\n    - domains: ['*.a.test']\n      methods: [GET]\n      \
         paths: ['/a/**', '/*/b']\n";
    decide(capabilities, &destination, &path);
}

/// A policy document: problems, or a policy that decides.
fn capabilities(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (Ok(destination), Ok(path)) =
        (Destination::new(Scheme::Https, "api.a.test", 443), NormalPath::parse("/a/b"))
    else {
        return;
    };
    decide(text, &destination, &path);
}

fn decide(capabilities: &str, destination: &Destination, path: &NormalPath<'_>) {
    let Ok(document) = freehold_policy::parse(capabilities) else { return };
    let provider = ProviderGrant {
        kind: Kind::Anthropic,
        domain: "model.test".to_owned(),
        credential: Some("key".to_owned()),
    };
    let Ok(policy) = freehold_policy::compile(&provider, &document, &document) else { return };
    let text = br#"{"n": 3, "x": 1, "a": [1], "t": "aa"}"#;
    let read = ReadBody::new(Some("application/json"), text);
    let known = Known(read.value().cloned().unwrap_or_default());
    let body =
        Body { content_type: Some("application/json"), length: Some(text.len() as u64), read: Some(&read) };
    for body in [Body::NONE, body] {
        let head = RequestHead { destination, method: "GET", path, scope: &known, body };
        _ = policy.explain(&head);
        if let Decision::Allow(permit) = policy.decide(&head) {
            follow(&permit, &known, body);
        }
    }
    _ = policy.decide_dns(destination.host());
}

/// All that a permit asks for, as far as it is done without I/O.
fn follow(permit: &Permit, known: &Known, body: Body<'_>) {
    let work = Work::default();
    for transform in permit.transforms() {
        for (_, formula) in
            transform.headers.set.iter().chain(&transform.query.set).chain(&transform.body.form)
        {
            _ = formula.text(known, &work);
        }
        let mut changed = known.0.clone();
        for (pointer, formula) in &transform.body.set {
            if let Ok(value) = formula.json(known, &work) {
                let before = changed.clone();
                assert!(
                    pointer.put(&mut changed, value) || changed == before,
                    "{pointer} left something half done"
                );
            }
        }
    }
    for counter in permit.counters() {
        _ = counter.amount(known, &work);
        assert!(counter.warn_at.is_none_or(|warn| warn <= counter.limit), "a warning above the limit");
    }
    if let Some(rule) = permit.response() {
        for status in [200, 404] {
            let reply = Reply { status, body };
            assert!(
                rule.body_wanted(&reply).is_none_or(|max| max <= BODY_READ_BYTES_MAX),
                "reads without bound"
            );
            _ = rule.check(&reply, known);
        }
    }
}

/// A content type on the first line, and a body: one reading of it, the same when it is written again.
fn request_body(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Ok(kind) = std::str::from_utf8(&bytes[..end]) else { return };
    let read = ReadBody::new(Some(kind), bytes.get(end + 1..).unwrap_or_default());
    for attribute in Attribute::all() {
        let value = read.request(attribute, "");
        assert!(value.is_none() || attribute.needs_request_body(), "{} is not of the body", attribute.name());
    }
    let Some(value) = read.value() else { return };
    assert_eq!(read.unreadable(), None, "what has a value is read");
    let again = ReadBody::new(Some("application/json"), value.to_string().as_bytes());
    assert_eq!(again.value(), Some(value), "a value is its own");
}

/// An operation's name on the first line, and a document of GraphQL: an operation whose parts fit each other, or none; and the
/// same when blanks and a comment are added, which mean nothing.
fn graphql(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (name, document) = text.split_once('\n').unwrap_or(("", text));
    let seen = |document: &str| {
        let body = serde_json::json!({ "query": document, "operationName": name }).to_string();
        let read = ReadBody::new(Some("application/json"), body.as_bytes());
        [Attribute::RequestGraphqlType, Attribute::RequestGraphqlName, Attribute::RequestGraphqlFields]
            .map(|attribute| read.request(attribute, "").map(|value| format!("{value:?}")))
    };
    let found = seen(document);
    assert!(found.iter().all(|part| part.is_some() == found[0].is_some()), "half an operation");
    if found[0].is_some() {
        assert_eq!(
            seen(&format!(" # x\n,{document}\n# y")),
            found,
            "what means nothing changes the operation"
        );
    }
}

/// A JSON Schema on the first line, and a body that a rule holds against it: problems, or a decision.
fn body_schema(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (schema, body) = text.split_once('\n').unwrap_or((text, "null"));
    let document = format!(
        "- name: all\n  type: http\n  allow:\n    - domains: [a.test]\n      methods: [POST]\n      paths: ['/**']\n      \
         body: {{content_types: [application/json], schema: {schema}}}\n"
    );
    let Ok(document) = freehold_policy::parse(&document) else { return };
    let provider = ProviderGrant { kind: Kind::Anthropic, domain: "model.test".to_owned(), credential: None };
    let (Ok(policy), Ok(destination), Ok(path)) = (
        freehold_policy::compile(&provider, &document, &document),
        Destination::new(Scheme::Https, "a.test", 443),
        NormalPath::parse("/a"),
    ) else {
        return;
    };
    let read = ReadBody::new(Some("application/json"), body.as_bytes());
    let known = Known(serde_json::Value::Null);
    let body =
        Body { content_type: Some("application/json"), length: Some(body.len() as u64), read: Some(&read) };
    let head = RequestHead { destination: &destination, method: "POST", path: &path, scope: &known, body };
    let is_allowed = matches!(policy.decide(&head), Decision::Allow(_));
    assert!(!is_allowed || read.unreadable().is_none(), "allowed what could not be read");
}

/// What conditions see: a body, and no more than the rest needs.
struct Known(serde_json::Value);

impl Scope for Known {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::RequestMethod => Value::text("GET"),
            Attribute::RequestPort => Value::Int(443),
            Attribute::RequestBody | Attribute::RequestHeaders | Attribute::RequestQuery => {
                Value::json(&self.0)
            }
            _ => return None,
        })
    }
}

/// An expression on the first line, and the body that it is asked about: a problem, or a value of the type it was said to
/// have, or a fault.
fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (source, body) = text.split_once('\n').unwrap_or((text, "null"));
    let Ok(body) = serde_json::from_str(body) else { return };
    let Ok(expression) = Expression::compile(source, Place::Transform, &Type::Dyn) else { return };
    let (known, work) = (Known(body), Work::default());
    let Ok(value) = expression.evaluate(&known, &work) else { return };
    let fits = match expression.result() {
        Type::Bool => matches!(value, Value::Bool(_)),
        Type::Int => matches!(value, Value::Int(_)),
        Type::Double => matches!(value, Value::Double(_)),
        Type::Timestamp => matches!(value, Value::Timestamp(_)),
        Type::Duration => matches!(value, Value::Duration(_)),
        Type::List(_) => matches!(value, Value::List(_)),
        // What is looked up stands in a body here, and may be anything.
        Type::Null | Type::Text | Type::Map(_) | Type::Dyn => true,
    };
    assert!(fits, "{source}: {value:?} is no {}", expression.result());
}

/// What an agent that somebody else has taken over sends, and what an agent may be sent.
fn pod_api(bytes: &[u8]) {
    block(async {
        read_messages::<FromAgent>(bytes).await;
        read_messages::<ToAgent>(bytes).await;
    });
}

async fn read_messages<T: serde::de::DeserializeOwned>(bytes: &[u8]) {
    let (mut raw, there) = tokio::io::duplex(4 * 1024);
    let writing = async move {
        // A reader that gave up closes the stream.
        _ = raw.write_all(bytes).await;
    };
    let reading = async move {
        let mut connection = Connection::new(there);
        // A message takes a byte at least.
        for _ in 0..=bytes.len() {
            if !matches!(connection.receive::<T>().await, Ok(Some(_))) {
                return;
            }
        }
        panic!("more messages than bytes");
    };
    tokio::join!(writing, reading);
}

/// A stream of a server that is not one of ours: the events do not depend on how the bytes were cut.
fn server_sent_events(bytes: &[u8]) {
    let mut whole = sse::Parser::new(None);
    let all = whole.push(bytes);
    let mut cut = sse::Parser::new(None);
    let mut one_by_one = Ok(Vec::new());
    for byte in bytes {
        one_by_one = one_by_one.and_then(|mut events| {
            events.extend(cut.push(std::slice::from_ref(byte))?);
            Ok(events)
        });
    }
    assert_eq!(all, one_by_one, "the events depend on the cuts");
}

fn block<T>(future: impl Future<Output = T>) -> T {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => panic!("no runtime: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    fn seeds(target: &Target) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name);
        fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn every_target_holds_on_its_seeds_and_every_folder_of_seeds_has_a_target() {
        for target in TARGETS {
            let seeds = seeds(target);
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                (target.run)(&seed);
            }
        }
        assert_eq!(
            fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds")).unwrap().count(),
            TARGETS.len()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_target_holds_on_damaged_seeds(
            choice in any::<prop::sample::Index>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..8),
        ) {
            for target in TARGETS {
                let seeds = seeds(target);
                let mut input = seeds[choice.index(seeds.len())].clone();
                for (at, byte, what) in &damage {
                    let at = at.index(input.len() + 1);
                    match what {
                        0 if at < input.len() => input[at] = *byte,
                        1 => input.insert(at, *byte),
                        _ => input.truncate(at),
                    }
                }
                (target.run)(&input);
            }
        }
    }
}
