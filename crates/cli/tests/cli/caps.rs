//! Capabilities are checked, tried and explained without a server.

use freehold_cli::exit;

use crate::support::Person;

const CAPS: &str = r#"- name: index
  type: http
  allow:
    - name: read
      domains: [pypi.test, "*.pypi.test"]
      methods: [GET]
      when: '!("page" in request.query) || int(request.query["page"][0]) < 100'
    - domains: [team.test]
      methods: [GET, POST]
      when: request.headers["x-team"] == role.name
  deny:
    - name: closed
      domains: [pypi.test]
      paths: ["/admin/**"]
"#;

/// Somebody without a server, in a directory with these files.
fn person(files: &[(&str, &str)]) -> (Person, impl Fn(&str) -> String + use<>) {
    let person = Person::new("http://127.0.0.1:9");
    for (name, text) in files {
        std::fs::write(person.home.path().join(name), text).unwrap();
    }
    let home = person.home.path().to_owned();
    (person, move |name| home.join(name).display().to_string())
}

#[tokio::test]
async fn problems_are_shown_as_a_compiler_shows_them() {
    let bad = CAPS.replace("x-team\"] ==", "x-team\"] == 1 ||").replace("[GET]", "[get]");
    let (person, path) = person(&[("good.yaml", CAPS), ("bad.yaml", &bad)]);
    let ran = person.runs(&["caps", "check", &path("good.yaml")]).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::OK, ""));
    assert!(ran.err.contains("no problem in 3 rules of 1 capability"), "{}", ran.err);
    let ran = person.runs(&["caps", "check", &path("good.yaml"), &path("bad.yaml")]).await;
    assert_eq!(ran.code, exit::OTHER);
    for shown in [
        "error: [0].allow[0].methods[0]: `get`: not one of GET",
        "bad.yaml:6:17",
        "error: [0].allow[1].when: `==` does not go between a text and an integer",
        "bad.yaml:10:39",
        "   10 |       when: request.headers[\"x-team\"] == 1 || role.name\n      |                                       ^",
    ] {
        assert!(ran.err.contains(shown), "{shown}\n{}", ran.err);
    }
    let ran = person.runs(&["caps", "check", &path("absent.yaml")]).await;
    assert_eq!(ran.code, exit::OTHER);
}

#[tokio::test]
async fn a_host_that_no_rule_opens_by_naming_it_is_warned_of() {
    let named = CAPS.replace("[team.test]", "[team.test, 169.254.169.254]");
    let (person, path) = person(&[("caps.yaml", &named)]);
    let ran = person.runs(&["caps", "check", &path("caps.yaml")]).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    for shown in [
        "warning: [0].allow[1].domains[1]: `169.254.169.254`: no rule opens this address",
        "caps.yaml:8:28",
        "`egress.hosts`",
        "no problem in 3 rules",
    ] {
        assert!(ran.err.contains(shown), "{shown}\n{}", ran.err);
    }
}

#[tokio::test]
async fn a_request_is_explained_rule_by_rule() {
    let (person, path) = person(&[("caps.yaml", CAPS)]);
    let caps = path("caps.yaml");
    for (arguments, decision, rules) in [
        (
            &["GET", "https://pypi.test/simple/?page=7"][..],
            "allow index/read",
            &["allow index/read  matches"][..],
        ),
        (
            &["GET", "https://pypi.test/admin/x"],
            "deny denied_by_rule by index/closed",
            &["deny  index/closed  matches", "rules of other hosts or ports: 3"],
        ),
        (
            &["GET", "https://pypi.test?page=100"],
            "deny condition_not_met by index/read",
            &["when[0] does not hold\n", "another path"],
        ),
        (
            &["GET", "https://pypi.test/?page=x"],
            "deny condition_not_met by index/read",
            &["when[0] does not hold: a text does not read as what it should be"],
        ),
        (
            &["GET", "https://team.test/", "-H", "X-Team: a", "--role", "a"],
            "allow index/allow[1]",
            &["rules of other hosts or ports: 4"],
        ),
        (&["PUT", "http://team.test/"], "deny method_not_allowed", &["index/allow[1]  another method"]),
        (&["GET", "http://team.test/"], "deny insecure_not_allowed", &["HTTPS only"]),
        (&["GET", "https://other.test/"], "deny domain_not_allowed", &["rules of other hosts or ports: 5"]),
    ] {
        let ran = person.runs(&[&["caps", "explain", &caps], arguments].concat()).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert_eq!(ran.out.lines().next(), Some(decision), "{arguments:?}\n{}", ran.out);
        for rule in rules {
            assert!(ran.out.contains(rule), "{arguments:?} {rule}\n{}", ran.out);
        }
    }
    for (arguments, problem) in [
        (&["GET", "pypi.test"][..], "expected `https://` or `http://`"),
        (&["GET", "https://a..b/"], "not a host name"),
        (&["GET", "https://pypi.test/a/../b"], "deny path_ambiguous (the path has a dot segment"),
        (&["GET", "https://pypi.test/", "-H", "x"], "expected `name: value`"),
    ] {
        let ran = person.runs(&[&["caps", "explain", &caps], arguments].concat()).await;
        assert_eq!(ran.code, exit::USAGE);
        assert!(ran.err.contains(problem), "{}", ran.err);
    }
}

#[tokio::test]
async fn cases_are_tried_and_the_wrong_ones_explained() {
    let cases = r#"
- request: GET https://pypi.test/simple/
  expect: allow
- request: GET https://files.pypi.test/x?page=1
  expect: allow index/read
- request: GET https://pypi.test/admin/users
  expect: deny denied_by_rule by index/closed
- request: GET https://pypi.test/a/../b
  expect: deny path_ambiguous
- request: POST https://team.test/
  headers: {X-Team: coder}
  subject: {role: coder, now: 2026-11-22T00:00:00Z}
  expect: allow
- request: POST https://api.anthropic.com/v1/messages
  expect: allow _provider/inference
"#;
    let base = "- {name: base, type: http, deny: [{name: tar, domains: [files.pypi.test], paths: [/tar]}]}\n";
    let (person, path) = person(&[("caps.yaml", CAPS), ("base.yaml", base), ("cases.yaml", cases)]);
    let caps = path("caps.yaml");
    let test = |cases: &str| {
        let words = ["caps", "test", &caps, "--base", &path("base.yaml"), "--cases", &path(cases)];
        words
            .iter()
            .map(|word| (*word).to_owned())
            .chain(["--provider".into(), "anthropic:api.anthropic.com".into()])
            .collect::<Vec<_>>()
    };
    let words = test("cases.yaml");
    let ran = person.runs(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::OK, ""), "{}", ran.err);
    assert!(ran.err.contains("6 cases, 0 wrong"), "{}", ran.err);
    let wrong = "- {request: GET https://pypi.test/simple/, expect: deny}\n\
                 - {request: GET https://files.pypi.test/tar, expect: allow index/read}\n\
                 - {request: GET https://pypi.test/simple/, expect: 'allow index/allow[1]'}\n";
    std::fs::write(path("wrong.yaml"), wrong).unwrap();
    let words = test("wrong.yaml");
    let ran = person.runs(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(ran.code, exit::OTHER);
    assert!(ran.err.contains("3 cases, 3 wrong"), "{}", ran.err);
    assert!(ran.out.contains("expected deny\n  decided  allow index/read"), "{}", ran.out);
    assert!(ran.out.contains("decided  deny denied_by_rule by base/tar"), "{}", ran.out);
}

#[tokio::test]
async fn a_file_of_cases_that_says_what_cannot_be_is_refused_with_its_places() {
    let (person, path) = person(&[("caps.yaml", CAPS)]);
    let words = ["caps", "test", &path("caps.yaml"), "--cases", &path("wrong.yaml")];
    for (text, problem) in [
        ("[]", "no case"),
        ("cases: []", "expected a list of cases, each beginning with `- request:`"),
        ("- {request: get https://a.test/, expect: deny}", "`get`: methods are in upper case, `GET`"),
        ("- {request: GET https://a.test/, expect: maybe}", "begins with `allow` or `deny`"),
        ("- {request: GET https://a.test/, expct: allow}", "1:34\n    1 | - {"),
        ("- {request: GET https://a.test/, expct: allow}", "unknown field `expct`; did you mean `expect`?"),
        ("- {request: GET https://a.test/, colour: 1}", "the fields are `request`, `headers`"),
        ("- {request: GET https://a.test/}", "error: `expect` is missing"),
        ("- request: GET https://a.test/\n  expect: [allow]", "error: expected string"),
        ("- {request: https://a.test/, expect: allow}", "expected a method and a URL"),
        (
            "- request: GET https://a.test/\n  expect: allow index/rea",
            "error: there is no rule `index/rea`; did you mean `index/read`?\n  --> ",
        ),
        ("- request: GET https://a.test/\n  expect: allow index/rea", "wrong.yaml:2:11\n    2 |   expect"),
        (
            "- {request: GET https://a.test/, expect: allow x}",
            "there are `_provider/inference`, `_provider/models`, `index/read`",
        ),
        (
            "- {request: GET https://a.test/, expect: allow index/closed}",
            "`index/closed` denies, and allows nothing",
        ),
        (
            "- {request: GET https://a.test/, expect: deny denied_by_rule by index/read}",
            "`index/read` allows, and denies nothing",
        ),
        (
            "- {request: GET https://a.test/, expect: deny domain_not_alowed}",
            "there is no reason `domain_not_alowed`; did you mean `domain_not_allowed`?",
        ),
        ("- {request: GET https://a.test/, expect: deny budget_exceeded}", "there are `path_ambiguous`"),
        ("- {request: GET https://a.test/, expect: deny denied_by_rule x}", "behind a reason stands `by`"),
        ("- {request: GET https://a.test/, expect: allow x}\n- {request: GET x, expect: y}", ":2:"),
    ] {
        std::fs::write(path("wrong.yaml"), text).unwrap();
        let ran = person.runs(&words).await;
        assert_eq!(ran.code, exit::USAGE, "{text}");
        assert!(ran.err.contains(problem), "{text}: {}", ran.err);
    }
}

const SHOP: &str = r#"- name: shop
  type: http
  allow:
    - name: order
      domains: [shop.test]
      methods: [POST]
      paths: [/orders]
      body:
        max_bytes: 100
        schema: {type: object, required: [n], properties: {n: {type: integer, maximum: 5}}}
      response: {status: [201], when: response.body.ok}
      approval: required
    - name: graph
      domains: [shop.test]
      methods: [POST]
      paths: [/graphql]
      when: request.graphql.type == "query"
    - {name: call, domains: [rpc.test], methods: [POST], when: request.grpc.method == "Get"}
  transforms:
    - name: mark
      applies_to: [order]
      auth: {credential: app}
      headers: {set: {x-key: '"k " + secrets["key"]', x-lost: 'request.headers["absent"]'}, remove: [cookie]}
      path: '"/v2" + request.path'
      body: {set: {/by: '[user.id, task.id]'}}
  budgets:
    spend: {unit: usd, per: role, limit: 2.5, window: 1h, on_limit: ask}
    items: {unit: expression, amount: request.body.n, per: task, limit: 10, applies_to: [order]}
"#;

#[tokio::test]
async fn what_is_done_with_a_request_is_explained_without_any_secret() {
    let (person, path) = person(&[("caps.yaml", SHOP), ("body.json", r#"{"n": 3}"#)]);
    let (caps, body) = (path("caps.yaml"), format!("@{}", path("body.json")));
    let url = "https://shop.test/orders";
    let json = ["--content-type", "application/json", "--task", "t1"];
    let explain = |data: &str| {
        let words = [&["caps", "explain", &caps, "POST", url, "--data", data][..], &json].concat();
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let words = explain(&body);
    let ran = person.runs(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    for shown in [
        "allow shop/order after approval\n",
        "approval  a person must agree",
        "body  at most 100 bytes",
        "response  status 201; response.body.ok",
        "transform  shop/mark (role)",
        "puts on credential app\n",
        "removes header cookie",
        "sets header x-key: k secrets[\"key\"]",
        "sets header x-lost: no value, so that the request is denied: something that it asks for is not there",
        "sets the path: /v2/orders",
        "sets /by of the body: [\"system\",\"t1\"]",
        "counts  shop/spend (role): 2.500000 usd per role in 1h, then ask",
        "counts  shop/items (role): 3 of 10 expression per task, then deny",
    ] {
        assert!(ran.out.contains(shown), "{shown}\n{}", ran.out);
    }
    for (data, decision, shown) in [
        (r#"{"n": 9}"#, "deny body_invalid by shop/order", "/n: maximum"),
        (r#"{"n": 1, "n": 2}"#, "deny body_unreadable by shop/order", "shop/order  a body that can be read"),
        (
            &format!("{{\"n\": 1, \"x\": \"{}\"}}", "x".repeat(100)),
            "deny body_too_large by shop/order",
            "a shorter body",
        ),
    ] {
        let words = explain(data);
        let ran = person.runs(&words.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(ran.out.lines().next(), Some(decision), "{data}");
        assert!(ran.out.contains(shown), "{data}\n{}", ran.out);
    }
    let ran = person.runs(&["caps", "schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(schema["title"], "caps.yaml");
}

#[tokio::test]
async fn cases_have_bodies_and_responses() {
    let cases = r#"
- request: POST https://shop.test/orders
  body: {n: 5}
  response: {status: 201, content_type: application/json, body: {ok: true}}
  expect: allow shop/order
- request: POST https://shop.test/orders
  body: {n: 5}
  response: {status: 201, body: {ok: false}}
  expect: deny response_condition_not_met by shop/order
- request: POST https://shop.test/orders
  body: {n: 5}
  response: {status: 500}
  expect: deny response_status_not_allowed
- request: POST https://shop.test/orders
  body: '{"n": 5}'
  expect: deny body_invalid
- request: POST https://shop.test/orders
  headers: {Content-Type: application/json, content-encoding: gzip}
  body: '{"n": 5}'
  expect: deny body_unreadable
- request: POST https://shop.test/graphql
  body: {query: "mutation { pay }"}
  expect: deny condition_not_met
- request: POST https://shop.test/graphql
  body: {query: "{ cart }"}
  expect: allow shop/graph
- request: POST https://rpc.test/a.Shop/Get
  content_type: application/grpc
  expect: allow shop/call
"#;
    let (person, path) = person(&[("caps.yaml", SHOP), ("cases.yaml", cases)]);
    let words = ["caps", "test", &path("caps.yaml"), "--cases", &path("cases.yaml")];
    let ran = person.runs(&words).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::OK, ""), "{}{}", ran.err, ran.out);
    assert!(ran.err.contains("8 cases, 0 wrong"), "{}", ran.err);
    for (text, problem) in [
        ("{request: GET https://a.test/, response: {code: 1}, expect: allow}", "code"),
        ("{request: GET https://a.test/, response: {}, expect: allow}", "status"),
        (
            "{request: GET https://a.test/, headers: {content-type: a/b}, content_type: a/b, expect: allow}",
            "the content type is given twice",
        ),
    ] {
        std::fs::write(path("cases.yaml"), format!("- {text}\n")).unwrap();
        let ran = person.runs(&words).await;
        assert_eq!(ran.code, exit::USAGE, "{text}");
        assert!(ran.err.contains(problem), "{text}: {}", ran.err);
    }
}

/// The page's own cases stand below the document that they are for.
#[tokio::test]
async fn the_cases_of_the_documentation_hold() {
    let page = include_str!("../../../../docs/caps-yaml.md");
    let block = |after: &str, fence: &str| {
        let rest = &page[page.find(after).unwrap()..];
        let rest = &rest[rest.find(fence).unwrap() + fence.len()..];
        rest[..rest.find("\n```").unwrap()].to_owned()
    };
    let document = block("\n## Bodies\n", "\n```yaml\n");
    let cases = block("\n## Cases\n", "\n```yaml cases\n");
    let (person, path) = person(&[("caps.yaml", &document), ("cases.yaml", &cases)]);
    let ran = person.runs(&["caps", "test", &path("caps.yaml"), "--cases", &path("cases.yaml")]).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::OK, ""), "{}", ran.err);
    assert!(ran.err.contains("3 cases, 0 wrong"), "{}", ran.err);
}

#[tokio::test]
async fn a_document_without_an_allow_rule_is_said_to_allow_nothing() {
    let deny = "- {name: a, type: http, deny: [{domains: [a.test]}]}\n";
    let (person, path) =
        person(&[("empty.yaml", ""), ("list.yaml", "[]\n"), ("deny.yaml", deny), ("some.yaml", CAPS)]);
    for (file, says) in [("empty.yaml", true), ("list.yaml", true), ("deny.yaml", true), ("some.yaml", false)]
    {
        let ran = person.runs(&["caps", "check", &path(file)]).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert_eq!(
            ran.err.contains("it allows nothing beside the calls of the model"),
            says,
            "{file} {}",
            ran.err
        );
    }
}

#[tokio::test]
async fn a_body_that_rules_cannot_see_into_is_said_to_be_so_and_where() {
    let caps =
        "- {name: a, type: http, allow: [{domains: [a.test], methods: [POST], when: request.body.a == 1}]}\n";
    let (person, path) = person(&[("caps.yaml", caps)]);
    let caps = path("caps.yaml");
    let explain = ["caps", "explain", &caps, "POST", "https://a.test/", "--data"];
    let typed = ["--content-type", "application/json"];
    let ran = person.runs(&[&explain[..], &["{\"a\": 1,\n}"], &typed].concat()).await;
    assert!(
        ran.err.contains("note: the body is no JSON: ") && ran.err.contains("at line 2 column 1"),
        "{}",
        ran.err
    );
    assert!(ran.out.starts_with("deny body_unreadable"), "{}", ran.out);
    let ran = person.runs(&[&explain[..], &["{\"a\": 1}"]].concat()).await;
    assert!(
        ran.err.contains("the body has no type") && ran.out.starts_with("deny "),
        "{}{}",
        ran.err,
        ran.out
    );
    let ran = person.runs(&[&explain[..], &["{\"a\": 1}"], &typed].concat()).await;
    assert!(ran.err.is_empty() && ran.out.starts_with("allow "), "{}{}", ran.err, ran.out);
}
