//! What holds of all documents.

use std::sync::LazyLock;

use freehold_policy::{Decision, Document, Origin, Reason, compile, language_schema, parse};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use crate::support::{Request, provider};

static SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(&language_schema()).unwrap());

/// A rule; `denies` is one that denies.
fn rule(denies: bool) -> impl Strategy<Value = Value> {
    let domains = select(vec!["a.test", "b.test", "*.test", "**", "a.test:8443"]);
    let paths = select(vec![json!([]), json!(["/x"]), json!(["/x/*"]), json!(["/**"])]);
    let when = select(vec![
        Value::Null,
        json!("request.method == \"POST\""),
        json!(["request.body.n > 1", "request.path != \"/y\""]),
        json!("request.headers.absent == \"\""),
    ]);
    let body = select(vec![
        Value::Null,
        json!({"content_types": ["application/json"]}),
        json!({"schema": {"type": "object", "properties": {"n": {"maximum": 5}}}}),
    ]);
    let named = prop::option::of(select(vec!["r", "s"]));
    (domains, paths, when, body, named, any::<bool>()).prop_map(
        move |(domain, paths, when, body, name, extra)| {
            let mut rule = json!({"domains": [domain], "methods": ["GET", "POST"], "paths": paths});
            for (field, value) in [("when", when), ("body", body), ("name", json!(name))] {
                if !value.is_null() {
                    rule[field] = value;
                }
            }
            if extra && !denies {
                rule["response"] = json!({"status": ["2xx", 404]});
                rule["approval"] = json!("required");
            }
            rule
        },
    )
}

fn capability() -> impl Strategy<Value = Value> {
    let allow = prop::collection::vec(rule(false), 1..4);
    let deny = prop::collection::vec(rule(true), 0..3);
    (allow, deny, any::<bool>()).prop_map(|(mut allow, mut deny, extra)| {
        // Names are unique in a capability.
        for (at, rule) in allow.iter_mut().chain(&mut deny).enumerate() {
            if let Some(name) = rule.get("name").and_then(Value::as_str) {
                rule["name"] = json!(format!("{name}{at}"));
            }
        }
        let mut capability = json!({"type": "http", "allow": allow});
        if !deny.is_empty() {
            capability["deny"] = json!(deny);
        }
        if extra {
            capability["transforms"] = json!([{"name": "t", "headers": {"set": {"x-a": "role.name"}}}]);
            capability["budgets"] =
                json!({"c": {"unit": "usd", "per": "role", "limit": 1.5, "window": "1h"}});
        }
        capability
    })
}

fn document() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(select(vec!["one", "two", "three"]), capability(), 0..3).prop_map(|all| {
        let named = all.into_iter().map(|(name, mut capability)| {
            capability["name"] = json!(name);
            capability
        });
        named.collect()
    })
}

fn request() -> impl Strategy<Value = String> {
    let host = select(vec!["a.test", "b.test", "c.d.test", "a.test:8443"]);
    let path = select(vec!["/", "/x", "/x/y", "/y", "/%78"]);
    let body = select(vec![
        "",
        " application/json {\"n\": 3}",
        " application/json {\"n\": 9}",
        " application/json {\"n\": 9, \"n\": 1}",
        " text/plain n",
    ]);
    (select(vec!["GET", "POST", "PUT"]), host, path, body)
        .prop_map(|(method, host, path, body)| format!("{method} https://{host}{path}{body}"))
}

fn read(document: &Value) -> Document {
    parse(&document.to_string()).unwrap_or_else(|problems| panic!("{problems:?}\n{document}"))
}

fn decide(base: &Document, role: &Document, request: &str) -> Decision {
    let policy = compile(&provider(), base, role).unwrap();
    Request::new(request).decide(&policy, |decision, _| decision)
}

fn denied_by_rule(decision: &Decision) -> bool {
    matches!(decision, Decision::Deny(denial) if denial.reason == Reason::DeniedByRule)
}

proptest! {
    #[test]
    fn a_document_is_the_same_in_every_spelling_of_it(document in document()) {
        let in_yaml = serde_saphyr::to_string(&document).unwrap();
        prop_assert_eq!(read(&document), parse(&in_yaml).unwrap(), "{}", in_yaml);
        prop_assert!(SCHEMA.is_valid(&document), "{}", document);
    }

    #[test]
    fn what_the_provider_denies_no_role_allows(base in document(), role in document(), request in request()) {
        let (base, role, none) = (read(&base), read(&role), Document::default());
        if denied_by_rule(&decide(&base, &none, &request)) {
            prop_assert!(denied_by_rule(&decide(&base, &role, &request)), "{}", request);
        }
    }

    #[test]
    fn a_rule_that_denies_allows_nothing_more(base in document(), role in document(), deny in rule(true), request in request()) {
        let before = decide(&read(&base), &read(&role), &request);
        let mut deny = deny;
        deny["name"] = json!("added");
        let mut role = role;
        role.as_array_mut().unwrap().push(json!({"name": "more", "type": "http", "deny": [deny]}));
        match decide(&read(&base), &read(&role), &request) {
            Decision::Allow(permit) => {
                let Decision::Allow(was) = before else { panic!("{request} is allowed by what denies") };
                prop_assert_eq!(permit.rule(), was.rule());
            }
            Decision::Deny(denial) => {
                // It denies what it names, and changes nothing else.
                let added = denial.rule.as_ref().is_some_and(|rule| *rule.rule == *"added");
                if let (false, Decision::Deny(was)) = (added, before) {
                    prop_assert_eq!(denial.reason, was.reason);
                }
            }
        }
    }

    #[test]
    fn a_role_replaces_rules_and_stays_within_budgets(base in document(), role in document(), request in request()) {
        let (base, role) = (read(&base), read(&role));
        let Decision::Allow(permit) = decide(&base, &role, &request) else { return Ok(()) };
        let find = |document: &Document| {
            document.capabilities.iter().find(|one| *one.name == *permit.rule().capability).cloned()
        };
        let (of_base, of_role) = (find(&base), find(&role));
        let wanted = if of_role.is_some() { Origin::Role } else { Origin::Provider };
        prop_assert_eq!(permit.rule().origin, wanted);
        prop_assert!(permit.transforms().iter().all(|one| one.name.origin == wanted));
        let budgets = of_base.into_iter().chain(of_role).flat_map(|one| one.budgets).count();
        prop_assert_eq!(permit.counters().len(), budgets);
    }
}
