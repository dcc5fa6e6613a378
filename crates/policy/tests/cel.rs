//! Expressions: what holds, what has no value, and what is refused when a document is loaded.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;

use freehold_policy::cel::{
    Attribute, COST_MAX, DEPTH_MAX, Expression, Fault, LIST_ITEMS_MAX, List, Map, MapSource, Place, Scope,
    Type, Value, Work,
};
use proptest::prelude::*;
use serde_json::json;

#[derive(Debug, Default)]
struct Texts(BTreeMap<String, String>);

impl MapSource for Texts {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        // As egress does with several of one name.
        self.0.get(key).map(|text| Value::made(text))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// A request as the tests want it.
struct Known {
    body: serde_json::Value,
    query: serde_json::Value,
    headers: Texts,
}

impl Known {
    fn new(body: serde_json::Value) -> Self {
        let headers = [("content-type", "application/json"), ("x-one", "1")];
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { body, query: json!({"q": ["rust"], "tag": ["a", "b"]}), headers: Texts(headers.collect()) }
    }
}

impl Scope for Known {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::RequestMethod => Value::text("POST"),
            Attribute::RequestHost => Value::text("api.example.test"),
            Attribute::RequestPort => Value::Int(443),
            Attribute::RequestPath => Value::text("/v1/items"),
            Attribute::RequestQuery => Value::json(&self.query),
            Attribute::RequestHeaders => Value::Map(Map::Source(&self.headers)),
            Attribute::RequestBody => Value::json(&self.body),
            Attribute::Now => Value::Timestamp("2026-11-22T05:04:03Z".parse().unwrap()),
            Attribute::Secrets => Value::Map(Map::Source(&self.headers)),
            _ => return None,
        })
    }
}

fn body() -> serde_json::Value {
    json!({"name": "a", "amount": 12, "ratio": 0.5, "big": 18_446_744_073_709_551_615_u64, "nothing": null,
           "items": [{"id": 1, "ok": true}, {"id": 2, "ok": false}], "numbers": [1, 2, 3], "yes": true})
}

fn holds(source: &str) -> Result<bool, Fault> {
    let expression = Expression::compile(source, Place::Request, &Type::Bool)
        .unwrap_or_else(|problem| panic!("{source}: {problem}"));
    expression.holds(&Known::new(body()), &Work::default())
}

fn problem(source: &str) -> (usize, String) {
    let problem = Expression::compile(source, Place::Request, &Type::Bool)
        .err()
        .unwrap_or_else(|| panic!("{source} is taken"));
    (problem.offset, problem.message)
}

#[test]
fn what_is_true_of_a_request_holds() {
    for source in [
        "request.method == 'POST' && request.port == 443",
        "request.host.endsWith('.example.test') && request.path.startsWith(\"/v1/\")",
        "request.path.matches(r'^/v\\d+/')",
        "request.headers['content-type'] == 'application/json' && 'x-one' in request.headers",
        "request.query['q'] == ['rust'] && size(request.query.tag) == 2 && 'b' in request.query.tag",
        "!has(request.query.other) && has(request.query.q) && has(request.body) && !has(response_not_here.x) || true",
        "request.body.amount > 10 && request.body.amount <= 12.0 && request.body.ratio < 1",
        "request.body.big > 9223372036854775807",
        "request.body.nothing == null && request.body.name != null",
        "request.body.items.exists(item, item.id == 2) && !request.body.items.all(item, item.ok)",
        "request.body.items.exists_one(item, item.ok) && request.body.items.filter(item, item.ok).size() == 1",
        "request.body.numbers.map(n, n * 2) == [2, 4, 6] && request.body.numbers.map(n, n > 1, n) == [2, 3]",
        "request.query.all(name, name in ['q', 'tag'])",
        "(request.body.yes ? 'a' : 'b') == 'a'",
        "request.headers == request.headers && request.query == request.query",
        "now < timestamp('2027-01-01T00:00:00Z') && now.getHours() == 5 && now.getHours('+02:00') == 7",
        "now.getDayOfWeek() == 0 && now.getMonth() == 10 && now.getDate() == 22 && now.getDate('-06:00') == 21",
        "now - timestamp('2026-11-22T05:00:00Z') < duration('5m') && now + duration('1h') > now",
        "'A-b'.lowerAscii() == 'a-b' && ' x '.trim() == 'x' && 'a,b'.split(',').join('+') == 'a+b'",
        "'aXbX'.replace('X', '-') == 'a-b-' && int('12') + 1 == 13 && string(12) == '12' && double('1.5') > 1.0",
        "base64.decode(base64.encode('é')) == 'é' && size('é') == 1",
        "-9223372036854775808 < -1 && 0x1F == 31 && 1e3 == 1000.0 && .5 < 1.0 && 7 % 4 == 3 && -7 / 2 == -3",
        "'''a\n\"b\"''' == 'a\\n\"b\"' && '\\u00e9\\x41\\101' == 'éAA' // and a remark",
        "request.body.missing == 1 || true",
        "true || request.body.missing == 1",
        "!(request.body.missing == 1 && false)",
        "request.body.items.exists(item, item.id == 2 || item.missing)",
        "has(request.body.items) && !has(request.body.items_) && !has(request.graphql) && !has(task.id)",
        "1 == 1.0 && 9007199254740993 != 9007199254740992.0 && 'a' < 'b' && [1, 'a'] == [1, 'a']",
    ] {
        // A name that is not known is refused before anything is evaluated.
        let source = source.replace(" && !has(response_not_here.x) || true", "");
        assert_eq!(holds(&source), Ok(true), "{source}");
    }
}

#[test]
fn what_has_no_value_is_a_fault_and_never_true() {
    for (source, fault) in [
        ("request.body.missing == 1", Fault::Absent),
        ("request.headers['x-two'] == '1'", Fault::Absent),
        ("has(request.body.Amount)", Fault::Alike),
        ("'NUMBERS' in request.body", Fault::Alike),
        ("request.body['yes[]'] == 1", Fault::Alike),
        ("has(request.body.items[0].ID)", Fault::Alike),
        ("!('Tag' in request.query)", Fault::Alike),
        ("task.id == ''", Fault::Absent),
        ("request.body.numbers[3] == 1", Fault::Absent),
        ("request.body.numbers[-1] == 1", Fault::Absent),
        ("request.body.name > 1", Fault::Type),
        ("request.body.name", Fault::Type),
        ("request.body.name.x == 1", Fault::Type),
        ("request.body.amount.startsWith('1')", Fault::Type),
        ("request.body.amount + 9223372036854775807 > 0", Fault::Range),
        ("request.body.amount / 0 == 1", Fault::Range),
        ("int(request.body.name) == 1", Fault::Text),
        ("double('n' + 'an') > 1.0", Fault::Text),
        ("0.0 / 0.0 > 1.0", Fault::Range),
        ("timestamp(request.body.name) < now", Fault::Text),
        ("request.body.numbers.all(n, n < 3 || n.missing)", Fault::Type),
        ("request.body.missing == 1 || false", Fault::Absent),
    ] {
        assert_eq!(holds(source), Err(fault), "{source}");
    }
}

#[test]
fn what_is_wrong_is_found_at_load_and_named_with_its_place() {
    for (source, offset, part) in [
        ("request.methd == 'GET'", 8, "unknown field `methd` of `request`; did you mean `request.method`?"),
        ("request.verb == 'GET'", 8, "unknown field `verb` of `request`; the fields are `method`, `scheme`"),
        ("reqest.method == 'GET'", 0, "nothing has this name"),
        ("request == 1", 0, "name a field of `request`"),
        ("request.method == 1", 15, "`==` does not go between a text and an integer"),
        ("request.port", 8, "this is an integer, and a boolean is wanted"),
        ("request.port && true", 8, "this is an integer, and a boolean is wanted"),
        ("request.path.startsWith(1)", 13, "`startsWith` does not take a text, an integer"),
        ("request.path.beginsWith('a')", 13, "there is no method `beginsWith`"),
        ("request.path.startswith('a')", 13, "there is no method `startswith`; did you mean `startsWith`?"),
        ("len(request.path) > 1", 0, "there is no function `len`; did you mean `size`?"),
        ("contains(request.path, 'a')", 0, "it is a method: `value.contains(...)`"),
        ("request.port.string() == ''", 13, "it is a function: `string(...)`"),
        ("frobnicate(1)", 0, "there is no function `frobnicate`"),
        ("request.path.matches('(')", 21, "not a regular expression: "),
        ("request.path.matches(request.host)", 13, "a regular expression that is written there"),
        ("now > timestamp('2026-01-01')", 16, "`2026-01-01` is no moment: write day, time and zone"),
        ("now > timestamp(9223372036854775807)", 16, "this number is no moment"),
        ("now - duration('1 parsec') > now", 15, "`1 parsec` is no length of time"),
        ("now.getHours('Mars') > 1", 13, "`Mars` is no time zone: write `UTC`"),
        ("int('one') == 1", 4, "`one` is no integer"),
        ("double('much') > 1.0", 7, "`much` is no number"),
        ("base64.decode('%') == ''", 14, "`%` is not the Base64 of a text"),
        ("response.status == 200", 9, "`response.when` alone"),
        ("secrets['a'] == 'b'", 0, "secrets are for transforms alone"),
        ("1u == 1", 0, "no unsigned integers"),
        ("b'a' == b'a'", 0, "no bytes"),
        ("{'a': 1} == null", 0, "no map literals"),
        ("'a", 0, "has no end"),
        ("'\\q' == ''", 1, "no such escape"),
        ("9223372036854775808 > 0", 0, "an integer is from"),
        ("1 +", 3, "expected a value, found the end"),
        ("(1 == 1", 7, "expected `)`, found the end"),
        ("1 == 1 1", 7, "expected the end of the expression, found a number"),
        ("a @ b", 2, "`@` has no place here"),
        ("request.method = 'GET'", 15, "`=` has no place here; equality is `==`"),
        ("request.websocket and true", 18, "write `&&` for `and`"),
        ("not request.websocket", 0, "write `!` for `not`"),
        ("True", 0, "write `true` for `True`"),
        ("[1, 2].all(1, true)", 7, "a walk takes a name"),
        ("request.port.all(x, true)", 8, "an integer has no items"),
        ("has(request)", 4, "`has` takes a field"),
        ("for == 1", 0, "expected a value, found `for`"),
        ("'\u{e9}' == 1", 5, "does not go between"),
        ("headers['a'] == ''", 0, "nothing has this name; did you mean `request.headers`?"),
        ("requst.path == ''", 0, "did you mean `request`?"),
        (
            "request.mcp.tol == ''",
            12,
            "unknown field `tol` of `request.mcp`; did you mean `request.mcp.tool`?",
        ),
        (
            "nobody.knows == ''",
            0,
            "nothing has this name; there are `request`, `workspace`, `role`, `task`, `user`, `now`",
        ),
    ] {
        let (found, message) = problem(source);
        assert!(message.contains(part), "{source}: {message}");
        assert_eq!(found, offset, "{source}: {message}");
    }
}

#[test]
fn what_could_run_long_is_refused_at_load() {
    let one = "request.body.items.all(a, a.ok)";
    assert!(Expression::compile(one, Place::Request, &Type::Bool).unwrap().cost() <= COST_MAX);
    let nested = "request.body.a.all(a, request.body.b.all(b, a == b))";
    assert!(problem(nested).1.contains("above the limit"), "{nested}");
    // Lists that are written there are as long as they are.
    let small = "[1, 2].all(a, [1, 2].exists(b, a == b))";
    assert_eq!(holds(small), Ok(true));
    let hidden = "request.body.a.map(a, request.body.b).exists(x, x == 1)";
    assert!(Expression::compile(hidden, Place::Request, &Type::Bool).is_ok());
    let deep = format!("{}true{}", "(".repeat(DEPTH_MAX + 1), ")".repeat(DEPTH_MAX + 1));
    assert!(problem(&deep).1.contains("deep"));
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("!", ""),
        ("-", ""),
        ("size(", ")"),
        ("a.b(", ")"),
        ("a?b:", ""),
        ("a[", "]"),
    ] {
        let deep = format!("{}1{}", open.repeat(600), close.repeat(600));
        assert!(problem(&deep).1.contains("deep"), "{open}");
    }
    let long = vec!["request.port == 443"; 150].join(" && ");
    assert_eq!(holds(&long), Ok(true), "a chain is not deep");
    assert!(problem(&"a".repeat(5000)).1.contains("longer than"));
}

#[test]
fn no_nesting_is_so_deep_that_its_cost_comes_round() {
    for walks in 2..=DEPTH_MAX - 2 {
        let mut nested = "true".to_owned();
        for walk in 0..walks {
            nested = format!("request.query.all(a{walk}, {nested})");
        }
        for source in [
            nested.clone(),
            format!("!({nested})"),
            format!("[{nested}] == []"),
            format!("{nested} && true || {nested}"),
        ] {
            assert!(Expression::compile(&source, Place::Request, &Type::Bool).is_err(), "{walks} {source}");
        }
    }
}

#[test]
fn the_expressions_of_a_decision_do_no_more_than_so_much_work_together() {
    let known = Known {
        query: (0..1000).map(|n| (n.to_string(), json!(["1"]))).collect(),
        headers: Texts(
            (0..10_000)
                .map(|n| (format!("x-{n}"), String::new()))
                .chain([("x-long".to_owned(), "x".repeat(60_000))])
                .collect(),
        ),
        body: json!({"text": "x".repeat(60_000), "a": {"of": vec![[1]; 50_000]}, "b": {"of": vec![[1]; 50_000]},
            "key": "é".repeat(300_000), "named": {"É": 1}, "one": {"x".repeat(600_000): 1}, "two": {"x".repeat(600_000): 1}}),
    };
    for source in [
        "request.query.all(a, a != request.headers.x)",
        "request.query.map(a, request.body.text + a).size() > 0",
        "request.body.a == request.body.b",
        "request.body.a in [1, request.body.b]",
        "'absent' in request.headers",
        "request.body.key in request.body.named",
        "request.body.one == request.body.two",
        "request.headers['x-long'] == 'a' || request.headers['x-long'] == 'b'",
        "request.body.text.matches('(?:[ab]{1,9}){1,9}c')",
        "request.body.text.replace('x', 'y').replace('y', 'x') == request.body.text",
    ] {
        let expression = Expression::compile(source, Place::Request, &Type::Bool).unwrap();
        let (work, mut evaluated) = (Work::default(), 0);
        while expression.holds(&known, &work) != Err(Fault::TooLong) {
            evaluated += 1;
            assert!(evaluated < 1000, "{source}");
        }
        // Nothing is left for others.
        let other =
            Expression::compile("request.port == 443 && request.port > 1", Place::Request, &Type::Bool)
                .unwrap();
        while other.holds(&known, &work).is_ok() {}
        assert_eq!(other.holds(&known, &Work::default()), Ok(true));
    }
}

#[test]
fn classes_of_regular_expressions_are_of_ascii_and_large_ones_are_refused() {
    assert_eq!(holds(r"!'é'.matches(r'^\w+$') && 'é'.matches('^é$') && 'a1_'.matches(r'^\w+$')"), Ok(true));
    assert!(
        problem(r"request.path.matches('(?:[a-z]{1,200}){1,50}')").1.contains("not a regular expression")
    );
}

#[test]
fn lists_and_texts_without_measure_are_a_fault() {
    let items = vec![json!(1); LIST_ITEMS_MAX + 1];
    let known = Known::new(json!({"items": items, "few": vec![1; 100], "text": "x".repeat(60_000)}));
    for source in [
        "[request.body.text + 'a'].exists(text, request.body.few.map(i, text.trim()).size() == 100)",
        "request.body.items.all(item, item == 1)",
        "(request.body.text + request.body.text) == ''",
        "request.body.text.replace('x', 'yyyy') == ''",
        "request.body.text.split('') == []",
        "base64.encode(request.body.text) == ''",
    ] {
        let expression = Expression::compile(source, Place::Request, &Type::Bool).unwrap();
        assert_eq!(expression.holds(&known, &Work::default()), Err(Fault::TooLong), "{source}");
    }
}

#[test]
fn an_expression_tells_what_it_asks_for_and_transforms_may_use_secrets() {
    let expression = Expression::compile(
        "request.method == 'GET' || request.body.a == 1 || request.body.b == 2 || has(request.graphql)",
        Place::Request,
        &Type::Bool,
    );
    let asked = [Attribute::RequestMethod, Attribute::RequestBody, Attribute::RequestGraphqlType];
    assert_eq!(expression.unwrap().attributes(), asked);
    let value = Expression::compile("'Bearer ' + secrets['x-one']", Place::Transform, &Type::Text).unwrap();
    let known = Known::new(json!(null));
    let work = Work::default();
    let Value::Text(text) = value.evaluate(&known, &work).unwrap() else { panic!("a text") };
    assert_eq!(text.as_str(), "Bearer 1");
    assert_eq!(value.secrets(), [Box::from("x-one")]);
    for source in [
        "secrets[request.method]",
        "string(secrets)",
        "secrets.all(s, true) ? '' : ''",
        "has(secrets.a) ? '' : ''",
    ] {
        let problem = Expression::compile(source, Place::Transform, &Type::Text).unwrap_err();
        assert!(problem.message.contains("named where it is used"), "{source}: {problem}");
    }
    let status = Expression::compile("response.status < 300", Place::Response, &Type::Bool).unwrap();
    assert_eq!(status.holds(&known, &Work::default()), Err(Fault::Absent));
}

#[test]
fn every_attribute_has_one_name_and_is_found_by_it() {
    let mut names: Vec<&str> = Attribute::all().map(Attribute::name).collect();
    for attribute in Attribute::all() {
        let source = format!("string({0}) == '' || {0} == {0}", attribute.name());
        let source = if matches!(attribute.kind(), Type::List(_) | Type::Map(_)) {
            format!("{0} == {0}", attribute.name())
        } else {
            source
        };
        // Secrets are asked for by name.
        let source =
            if attribute == Attribute::Secrets { "secrets['a'] == secrets.b".to_owned() } else { source };
        let place = if attribute.name().starts_with("response") { Place::Response } else { Place::Transform };
        let expression = Expression::compile(&source, place, &Type::Bool);
        assert_eq!(
            expression.unwrap_or_else(|problem| panic!("{source}: {problem}")).attributes(),
            [attribute]
        );
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Attribute::all().count());
}

/// Expressions over numbers, booleans, texts and lists, in the part of the language that the other implementation shares.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-3_i64..4).prop_map(|n| n.to_string()),
        Just("9223372036854775807".to_owned()),
        Just("1.5".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
        "[ab]{0,2}".prop_map(|text| format!("'{text}'")),
        prop_oneof![
            Just("body.n"),
            Just("body.s"),
            Just("body.l"),
            Just("body.b"),
            Just("body.d"),
            Just("body.none")
        ]
        .prop_map(|name| format!("request.{name}")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators = prop_oneof![
            Just("=="),
            Just("!="),
            Just("<"),
            Just("<="),
            Just(">"),
            Just(">="),
            Just("+"),
            Just("-"),
            Just("*"),
            Just("/"),
            Just("%"),
            Just("&&"),
            Just("||"),
            Just("in"),
        ];
        prop_oneof![
            (inner.clone(), operators, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            inner.clone().prop_map(|a| format!("size({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.startsWith({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.contains({b})")),
            (inner.clone(), prop_oneof![Just("all"), Just("exists"), Just("exists_one")], inner.clone())
                .prop_map(|(a, walk, b)| format!("{a}.{walk}(x, x == {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}.map(x, [x, {b}])")),
            inner.prop_map(|a| format!("{a}.filter(x, x in request.body.l)")),
        ]
    })
}

fn body_of_both() -> serde_json::Value {
    json!({"n": 2, "s": "ab", "l": [1, 2, "a"], "b": true, "d": 0.5})
}

/// The same for the other implementation, which takes a number of JSON without a sign for an unsigned one.
fn theirs(value: &serde_json::Value) -> cel::Value {
    match value {
        serde_json::Value::Null => cel::Value::Null,
        serde_json::Value::Bool(value) => (*value).into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap().into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(theirs).collect::<Vec<_>>().into(),
        serde_json::Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key.clone(), theirs(value)));
            entries.collect::<std::collections::HashMap<_, _>>().into()
        }
    }
}

/// A value of ours as JSON.
fn json_of(value: &Value<'_>) -> serde_json::Value {
    match value {
        Value::Null => json!(null),
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Text(text) => json!(text.as_str()),
        Value::List(list) => list.iter().map(|item| json_of(&item)).collect(),
        Value::Map(Map::Json(map)) => json!(map),
        other => json!(format!("{other:?}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn what_has_a_value_has_it_in_another_implementation_too(source in expressions()) {
        // What is refused at load is nothing the other one need agree with: it looks at types when it comes to them.
        let Ok(ours) = Expression::compile(&source, Place::Request, &Type::Dyn) else { return Ok(()) };
        let known = Known::new(body_of_both());
        let work = Work::default();
        let ours = ours.evaluate(&known, &work);
        let program = cel::Program::compile(&source).unwrap();
        let mut context = cel::Context::default();
        context.add_variable_from_value("request", theirs(&json!({"body": body_of_both()})));
        match (ours, program.execute(&context)) {
            (Ok(ours), Ok(theirs)) => {
                let ours = json_of(&ours);
                prop_assert_eq!(ours, theirs.json().unwrap(), "{}", source);
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{source}: {ours:?} {theirs:?}"),
        }
    }

    #[test]
    fn no_text_makes_it_panic(source in ".{0,80}") {
        let _ = Expression::compile(&source, Place::Transform, &Type::Dyn);
    }

    #[test]
    fn no_row_of_tokens_makes_it_panic(tokens in prop::collection::vec(prop_oneof![
        Just("("), Just(")"), Just("["), Just("]"), Just("."), Just(","), Just("?"), Just(":"), Just("!"), Just("-"), Just("&&"),
        Just("in"), Just("a"), Just("request"), Just("body"), Just("1"), Just("'x'"), Just("has"), Just("all"), Just("matches"),
    ], 0..40)) {
        let source = tokens.join(" ");
        if let Ok(expression) = Expression::compile(&source, Place::Transform, &Type::Dyn) {
            let known = Known::new(body());
            let work = Work::default();
            let _ = expression.evaluate(&known, &work);
        }
    }
}

#[test]
fn a_list_made_is_a_list_read() {
    let json = [json!(1), json!("a")];
    let made = List::Made([Value::Int(1), Value::text("a")].into());
    let read = List::Json(&json);
    assert_eq!((made.len(), made.is_empty()), (read.len(), read.is_empty()));
    assert_eq!(json_of(&Value::List(made)), json_of(&Value::List(read)));
}

#[test]
fn a_text_in_a_spelling_that_never_comes_is_refused() {
    for (source, offset, words) in [
        ("request.headers['X-Team'] == 'a'", 16, "`X-Team` never comes"),
        ("'X-Debug' in request.headers", 0, "in lower case, with `-` for `_` and other signs, `x-debug`"),
        ("has(request.headers.x_debug)", 20, "`x_debug` never comes"),
        ("request.headers.Accept == '*/*'", 16, "`accept`"),
        ("request.method == 'get'", 18, "methods are in upper case, `GET`"),
        ("!(request.method in ['GET', 'post'])", 28, "`POST`"),
        ("request.host.endsWith('.Example.test')", 22, "`.example.test`"),
        ("'API.example.test' != request.host", 0, "hosts and schemes are in lower case, `api.example.test`"),
    ] {
        let (at, message) = problem(source);
        assert!(at == offset && message.contains(words), "{source}: {at}: {message}");
    }
    for source in ["request.headers['x-team'] == 'A'", "request.path == '/A'", "'B_c' in request.query"] {
        Expression::compile(source, Place::Request, &Type::Bool).unwrap();
    }
}

#[test]
fn a_text_without_quotes_of_its_own_is_told_of_them() {
    let told = Expression::compile("hello", Place::Transform, &Type::Text).unwrap_err();
    assert!(told.message.contains(r#"as in `'"hello"'`"#), "{told}");
    let told = Expression::compile(r#""Bearer" + ${secrets.a}"#, Place::Transform, &Type::Text).unwrap_err();
    assert!(told.message.contains("texts are put together with `+`"), "{told}");
}
