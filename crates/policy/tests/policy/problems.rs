//! What a document must not say, and where the author is told it stands.

use freehold_model::provider::Kind;
use freehold_policy::{
    Body, Decision, Destination, Document, NormalPath, ProviderGrant, RequestHead, Scheme,
    cel::{Attribute, Scope, Value},
    compile, parse,
};
use proptest::prelude::*;

use crate::support::{Request, policy};

struct Nothing;

impl Scope for Nothing {
    fn get(&self, _: Attribute) -> Option<Value<'_>> {
        None
    }
}

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_of_a_document_is_reported_with_its_place() {
    let text = "\
- name: 9lives
  type: tcp
  allow:
    - name: _mine
      domains: [https://a.test/x, 'a..b', 'a**b.test', '127.1', 10.0.0.0/8]
      methods: [get, 7]
      paths: [v1, '/a/../b', '/a?b', '/a**']
      allow_insecure: maybe
    - domain: [a.test]
      methods: []
- name: ok
  type: http
  allow: []
";
    assert_eq!(
        problems(text),
        [
            "1:9: [0].name: expected a letter and then up to 63 letters, digits, `_` or `-`",
            "2:9: [0].type: the only type is `http`",
            "4:13: [0].allow[0].name: names that begin with `_` are reserved",
            "5:17: [0].allow[0].domains[0]: `https://a.test/x`: name the host alone, without scheme or path",
            "5:35: [0].allow[0].domains[1]: `a..b`: not a host name or IP address (write international names in their `xn--` form)",
            "5:43: [0].allow[0].domains[2]: `a**b.test`: `**` must be a whole label",
            "5:56: [0].allow[0].domains[3]: `127.1`: not a host name or IP address (write international names in their `xn--` form)",
            "5:65: [0].allow[0].domains[4]: `10.0.0.0/8`: there are no networks here: name each address, or a name",
            "6:17: [0].allow[0].methods[0]: `get`: not one of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS (in upper case)",
            "6:22: [0].allow[0].methods[1]: expected text, found a number",
            "7:15: [0].allow[0].paths[0]: `v1`: the path does not begin with `/`",
            "7:19: [0].allow[0].paths[1]: `/a/../b`: the path has a dot segment",
            "7:30: [0].allow[0].paths[2]: `/a?b`: `?` has no place in a path; only `*` and `**` are wildcards",
            "7:38: [0].allow[0].paths[3]: `/a**`: `**` must be a whole segment",
            "8:23: [0].allow[0].allow_insecure: expected `true` or `false`",
            "9:7: [0].allow[1]: unknown field `domain`; did you mean `domains`?",
            "9:7: [0].allow[1]: `domains` is missing",
            "10:16: [0].allow[1].methods: expected at least one",
            "13:10: [1].allow: expected at least one",
        ]
    );
}

#[test]
fn a_tab_that_indents_is_named_in_its_own_line() {
    let text = "- name: a\n  type: http\n  \tallow:\n    - domains: [a.test]\n";
    assert_eq!(problems(text), ["3:3: a tab does not indent in YAML: use spaces"]);
}

#[test]
fn a_credential_that_is_named_as_text_is_answered_with_what_to_write() {
    let text = |auth: &str| {
        format!(
            "- name: a\n  type: http\n  allow: [{{domains: [a.test], methods: [GET]}}]\n  transforms:\n    - name: t\n      auth: {auth}\n"
        )
    };
    let expected = |name| {
        [format!(
            "6:13: [0].transforms[0].auth: expected a mapping, found text; write `auth: {{credential: {name}}}`"
        )]
    };
    assert_eq!(problems(&text("my-key")), expected("my-key"));
    assert_eq!(problems(&text("\"a\\nb\"")), expected("NAME"));
    parse(&text("{credential: my-key}")).unwrap();
}

#[test]
fn a_problem_of_an_expression_is_reported_where_it_stands() {
    let text = r#"
- name: a
  type: http
  deny:
    - { domains: [a.test], allow_insecure: true, when: [] }
    - domains: [a.test]
      when: request.methd == "GET"
    - domains: [a.test]
      when:
        - "request.port == 'x'"
        - |
          request.port == 1 &&
            request.path.matches("(")
        - >-
          request.port == 1 ||
          request.hst == "é"
        - 7
        - "request.path == '\x20' && request.hst"
"#;
    assert_eq!(
        problems(text),
        [
            "5:28: [0].deny[0]: unknown field `allow_insecure`; the fields are `name`, `domains`, `methods`, `paths`, `when`, `body`",
            "5:56: [0].deny[0].when: expected at least one",
            "7:21: [0].deny[1].when: unknown field `methd` of `request`; did you mean `request.method`?",
            "10:25: [0].deny[2].when[0]: `==` does not go between an integer and a text",
            "13:34: [0].deny[2].when[1]: not a regular expression: unclosed group",
            // A text that is folded or escaped is another one than stands there: its beginning is named.
            "15:11: [0].deny[2].when[2]: unknown field `hst` of `request`; did you mean `request.host`?",
            "17:11: [0].deny[2].when[3]: expected an expression, found a number",
            "18:11: [0].deny[2].when[4]: unknown field `hst` of `request`; did you mean `request.host`?",
        ]
    );
}

#[test]
fn what_bodies_and_responses_must_not_say_is_reported_with_its_place() {
    let text = r#"
- name: a
  type: http
  allow:
    - domains: [a.test]
      methods: [POST]
      body: { content_types: [json, a/b, 'a/*/c'], max_bytes: 1.5 }
      response:
        status: [200, 4xx, 600, 6xx, ok]
        max_bytes: -1
        when: [response.statuss == 200, request.body.a == 1, 'secrets["x"] == ""']
      approval: optional
    - { domains: [a.test], methods: [GET], body: {}, response: { code: 200 } }
  deny:
    - { domains: [a.test], body: { max_bytes: 1 }, approval: required, when: response.status == 200 }
"#;
    assert_eq!(
        problems(text),
        [
            "7:31: [0].allow[0].body.content_types[0]: `json`: expected `type/subtype`, such as `application/json`",
            "7:42: [0].allow[0].body.content_types[2]: `a/*/c`: expected `type/subtype`, `type/*` or `type/*+suffix`, without parameters",
            "7:63: [0].allow[0].body.max_bytes: expected a whole number of bytes, from 0",
            "9:28: [0].allow[0].response.status[2]: `600`: expected a status from 100 to 599, or a class such as `4xx`",
            "9:33: [0].allow[0].response.status[3]: `6xx`: expected a status from 100 to 599, or a class such as `4xx`",
            "9:38: [0].allow[0].response.status[4]: `ok`: expected a status from 100 to 599, or a class such as `4xx`",
            "10:20: [0].allow[0].response.max_bytes: expected a whole number of bytes, from 0",
            "11:25: [0].allow[0].response.when[0]: unknown field `statuss` of `response`; did you mean `response.status`?",
            "11:63: [0].allow[0].response.when[2]: secrets are for transforms alone",
            "12:17: [0].allow[0].approval: the only approval is `required`",
            "13:50: [0].allow[1].body: it says nothing: give it `content_types` or `max_bytes` or `schema`",
            "13:66: [0].allow[1].response: unknown field `code`; the fields are `status`, `content_types`, `max_bytes`, `when`",
            "15:52: [0].deny[0]: unknown field `approval`; the fields are `name`, `domains`, `methods`, `paths`, `when`, `body`",
            "15:87: [0].deny[0].when: the response is known in `response.when` alone",
            "15:36: [0].deny[0].body: unknown field `max_bytes`; the fields are `content_types`, `schema`",
        ]
    );
}

#[test]
fn what_transforms_must_not_say_is_reported_with_its_place() {
    let text = r#"
- name: a
  type: http
  allow:
    - { name: issues, domains: [a.test], methods: [POST] }
  transforms:
    - name: t
      applies_to: [issue, issues, issues]
      auth: { credential: "" }
      override: yes
      headers:
        set: { Host: '"a"', X-Forwarded-For: '"a"', x_a: request.port, x-b: 'secret["b"]', x-c: 'secrets[role.name]' }
        remove: [content-length, x-d, X-D, x_a, "a b"]
      query: {}
      path: secrets["a"]
      body:
        set: { a: "1", /a: "1", /a/b: "1", /c: now, /d~: "1" }
        form: { f: "1" }
    - { name: t, mask: true }
    - { name: u, auth: { credential: "main@cred_0198c0de000070008000000000000001" } }
"#;
    assert_eq!(
        problems(text),
        [
            "8:20: [0].transforms[0].applies_to[0]: no rule under `allow` is called `issue`; did you mean `issues`?",
            "8:35: [0].transforms[0].applies_to[2]: `issues` is named twice",
            "9:27: [0].transforms[0].auth.credential: ``: expected 1 to 256 characters, none of control",
            "12:16: [0].transforms[0].headers.set: `Host`: this header is egress's own, and no transform's",
            "12:29: [0].transforms[0].headers.set: `X-Forwarded-For`: this header is egress's own, and no transform's",
            "12:66: [0].transforms[0].headers.set.x_a: this is an integer, and a text is wanted",
            "12:78: [0].transforms[0].headers.set.x-b: nothing has this name; did you mean `secrets`?",
            "12:111: [0].transforms[0].headers.set.x-c: a secret is named where it is used, as in `secrets[\"name\"]`",
            "13:18: [0].transforms[0].headers.remove[0]: `content-length`: this header is egress's own, and no transform's",
            "13:39: [0].transforms[0].headers.remove[2]: `x-d` is removed twice",
            "13:49: [0].transforms[0].headers.remove[4]: `a b`: not the name of a header",
            "14:14: [0].transforms[0].query: it says nothing: give it `set` or `remove`",
            "15:13: [0].transforms[0].path: a secret has no place in a path, which the audit log shows",
            "17:16: [0].transforms[0].body.set: `a`: a JSON pointer begins with `/`, such as `/metadata/user`",
            "17:48: [0].transforms[0].body.set./c: a moment or a length of time is no value of JSON; use `string(...)`",
            "17:53: [0].transforms[0].body.set: `/d~`: in a JSON pointer `~` stands before `0` (for `~`) or `1` (for `/`)",
            "17:9: [0].transforms[0].body.set: `/a/b` is within another place that is set",
            "18:21: [0].transforms[0].body.form.f: this is an integer, and a text is wanted",
            "10:17: [0].transforms[0].override: expected `true` or `false`",
            "19:7: [0].transforms[1]: it says nothing: give it `auth` or `headers` or `query` or `path` or `body`",
            "19:7: [0].transforms[1]: a second transform of this name in the capability",
            "20:38: [0].transforms[2].auth.credential: `main@cred_0198c0de000070008000000000000001`: no credential's name has an `@`",
        ]
    );
}

#[test]
fn what_budgets_must_not_say_is_reported_with_its_place() {
    let text = r#"
- name: a
  type: http
  allow:
    - { name: issues, domains: [a.test], methods: [POST] }
    - { domains: [a.test], methods: [GET] }
  budgets:
    one: { unit: request, per: team, limit: 1 }
    one: { unit: requests, per: task, limit: 1.5, warn_at: -1 }
    two: { unit: requests, per: task, limit: 10, warn_at: 11, window: 1w, on_limit: stop, amount: "1" }
    three: { unit: expression, per: task, limit: 1, window: 400d, applies_to: [] }
    four: { unit: expression, amount: '"a"', per: task, limit: 1 }
    five: { unit: usd, per: role, limit: 0.0000001, warn_at: 0.000001, applies_to: ["allow[1]"] }
    _six: { unit: usd, per: role, limit: 10000000000000 }
- name: _provider
  type: http
  allow: []
  budgets:
    tokens: { unit: tokens, per: role, limit: 1, applies_to: [inferrence] }
- name: _other
  type: http
  budgets: []
"#;
    assert_eq!(
        problems(text),
        [
            "8:18: [0].budgets.one.unit: `request`: did you mean `requests`?",
            "8:32: [0].budgets.one.per: `team`: expected `task`, `session`, `workspace`, `role`, `organization`",
            "9:5: [0].budgets: a second counter named `one`",
            "9:46: [0].budgets.one.limit: expected a whole number, from 0 to 9000000000000000",
            "9:60: [0].budgets.one.warn_at: expected a whole number, from 0 to 9000000000000000",
            "10:85: [0].budgets.two.on_limit: `stop`: expected `deny`, `ask`",
            "10:99: [0].budgets.two.amount: `unit: requests` counts by itself; an `amount` is for `unit: expression`",
            "10:71: [0].budgets.two.window: `1w`: expected a time from `1s` to `366d`, such as `90s`, `15m`, `1h` or `30d`",
            "10:59: [0].budgets.two.warn_at: it is above `limit`, where nothing is left to warn of",
            "11:12: [0].budgets.three: `amount` is missing",
            "11:61: [0].budgets.three.window: `400d`: expected a time from `1s` to `366d`, such as `90s`, `15m`, `1h` or `30d`",
            "11:79: [0].budgets.three.applies_to: expected at least one",
            "12:40: [0].budgets.four.amount: this is a text, and an integer is wanted",
            "13:42: [0].budgets.five.limit: expected dollars with at most six digits behind the point, from 0 to 9000000000",
            "13:85: [0].budgets.five.applies_to[0]: no rule under `allow` is called `allow[1]`; there are `issues`",
            "14:5: [0].budgets: names that begin with `_` are reserved",
            "14:42: [0].budgets._six.limit: expected dollars with at most six digits behind the point, from 0 to 9000000000",
            "17:3: [1]: the platform's own capability takes `budgets` alone",
            "19:63: [1].budgets.tokens.applies_to[0]: no rule under `allow` is called `inferrence`; did you mean `inference`?",
            "20:9: [2].name: names that begin with `_` are reserved",
            "20:3: [2]: `allow` is missing",
        ]
    );
}

#[test]
fn names_and_fields_are_given_once() {
    let text = "\
- {name: a, type: http, allow: [{name: r, domains: [a.test], methods: [GET]}, {name: r, domains: [b.test], methods: [GET]}]}
- {name: a, name: b, type: http, allow: [{domains: [a.test], methods: [GET]}]}
";
    assert_eq!(
        problems(text),
        [
            "1:79: [0].allow[1]: a second rule of this name in the capability",
            "2:13: [1]: `name` is given twice",
            "2:3: [1]: a second capability named `a`",
        ]
    );
}

#[test]
fn what_is_no_list_of_capabilities_is_one_problem() {
    for text in
        ["name: a", "just text", "7", "- 7", "- []", "[", "a: b: c", "- &a [*a]", "- !!binary x", "<<: 1"]
    {
        assert_eq!(problems(text).len(), 1, "{text}: {:?}", problems(text));
    }
}

#[test]
fn an_empty_document_allows_nothing() {
    for text in ["", "\n", "# nothing yet\n", "---\n", "[]", "~"] {
        assert_eq!(parse(text), Ok(Document::default()), "{text:?}");
    }
}

#[test]
fn a_document_has_limits() {
    assert!(problems(&"#".repeat(262_145))[0].contains("more than 262144 characters"));
    assert!(parse(&"#".repeat(262_144)).is_ok());
    let deep = "[".repeat(100_000);
    assert_eq!(problems(&deep).len(), 1);
    let many = "- {name: a, type: http, allow: []}\n".repeat(2_000);
    assert!(problems(&many)[0].contains("more than 1000 capabilities"));
    // Equal conditions count once.
    let deny = |conditions: &[String]| {
        let rules: Vec<_> =
            conditions.iter().map(|when| format!("    - {{domains: [a.test], when: '{when}'}}")).collect();
        format!("- name: a\n  type: http\n  deny:\n{}\n", rules.join("\n"))
    };
    let pattern = |n: usize| format!("request.path.matches(\"^/{n}$\")");
    assert!(parse(&deny(&vec![pattern(1); 2_000])).is_ok());
    assert!(parse(&deny(&(0..500).map(pattern).collect::<Vec<_>>())).is_ok());
    assert!(problems(&deny(&(0..501).map(pattern).collect::<Vec<_>>()))[0].contains("more than 500 regular"));
}

#[test]
fn anchors_and_aliases_are_refused_before_anything_is_made_of_them() {
    let bomb = format!(
        "- &a [x,x,x,x,x,x,x,x,x]\n{}",
        "- &b [*a,*a,*a,*a,*a,*a,*a,*a]\n- [*b,*b,*b,*b,*b]\n".repeat(5_000)
    );
    for text in [&*bomb, "- &a name", "- name: a\n  type: http\n  allow: &rules []\n  deny: *rules\n"] {
        let problems = problems(text);
        assert_eq!((problems.len(), problems[0].contains("anchors and aliases")), (1, true), "{problems:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_text_of_yaml_characters_makes_it_panic(text in "[-a-c:\\[\\]{},&*!|> \n'\"#?]{0,80}") {
        let _ = parse(&text);
    }

    #[test]
    fn whatever_is_accepted_compiles_or_says_why_and_decides(
        lines in proptest::collection::vec(proptest::sample::select(LINES), 0..16),
        path in "/[ -~]{0,20}",
    ) {
        let Ok(document) = parse(&lines.concat()) else { return Ok(()) };
        let provider =
            ProviderGrant { kind: Kind::Anthropic, domain: "model.test".to_owned(), credential: None };
        let Ok(policy) = compile(&provider, &parse("").unwrap(), &document) else { return Ok(()) };
        let destination = Destination::new(Scheme::Https, "b.a.test", 443).unwrap();
        let Ok(path) = NormalPath::parse(&path) else { return Ok(()) };
        let head = RequestHead { destination: &destination, method: "GET", path: &path, scope: &Nothing, body: Body::NONE };
        if matches!(policy.decide(&head), Decision::Allow(_)) {
            // Nothing is allowed that no line names.
            prop_assert!(lines.iter().any(|line| line.contains("**")));
        }
        let _ = policy.decide_dns("b.a.test");
    }
}

/// What documents are made of, and what they should not be made of.
const LINES: &[&str] = &[
    "- name: c\n  type: http\n  allow:\n",
    "- name: d\n  type: http\n  deny:\n    - domains: [b.a.test]\n  allow:\n",
    "    - domains: ['**']\n      methods: [GET]\n",
    "- name: a\n",
    "- name: b\n",
    "  type: http\n",
    "  type: tcp\n",
    "  allow:\n",
    "  deny:\n",
    "    - domains: [a.test]\n",
    "    - domains: ['**.a.test']\n",
    "    - domains: ['*']\n",
    "    - name: r\n",
    "      methods: [GET]\n",
    "      methods: []\n",
    "      paths: [/a/**, /b]\n",
    "      domains: ['**']\n",
    "      allow_insecure: true\n",
    "  <<: *x\n",
    "  allow: &x []\n",
    "  ? [a]\n",
    "---\n",
    "...\n",
    "\t",
    "# \u{feff}\n",
];

#[test]
fn a_text_that_wants_quotes_is_told_of_them() {
    for (line, hint) in [
        ("domains: [*.a.test]", "alias references unknown anchor; a text that begins with `*`"),
        ("when: \"a\" in request.query", "stands whole in quotes of the other kind"),
        ("when: request.path == \"a\": 1", "a text that holds `: ` stands in quotes"),
        ("headers: {set: {x-a: secrets[name]}}", "a text that holds one of `,[]{}` stands in quotes"),
    ] {
        let text = format!("- name: a\n  type: http\n  allow:\n    - {line}\n");
        let problems = problems(&text);
        assert!(problems[0].contains(hint), "{problems:?}");
        assert!(!problems[0].contains(" at line "), "{problems:?}");
    }
}

#[test]
fn a_rule_names_an_address_at_the_port_it_stands_with() {
    let policy = policy(
        "[{name: a, type: http, allow: [{domains: ['10.0.0.5:8443', '*.*.*.*', 10.0.0.6], methods: [GET]}]}]",
    );
    for (url, names) in [
        ("https://10.0.0.5:8443/", true),
        ("https://10.0.0.6/", true),
        ("https://10.0.0.5/", false),
        ("https://10.0.0.7/", false),
    ] {
        let named = Request::new(&format!("GET {url}")).decide(&policy, |decision, _| match decision {
            Decision::Allow(permit) => permit.names_address(),
            Decision::Deny(denial) => panic!("{url}: {denial:?}"),
        });
        assert_eq!(named, names, "{url}");
    }
}
