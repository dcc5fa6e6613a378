//! What a document must not say, and where the author is told it stands.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use freehold_model::provider::Kind;
use freehold_policy::{
    Body, Decision, Destination, Document, NormalPath, ProviderGrant, RequestHead, Scheme,
    cel::{Attribute, Scope, Value},
    compile, parse,
};
use proptest::prelude::*;

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
      domains: [https://a.test/x, 'a..b', 'a**b.test', '127.1']
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
            "6:17: [0].allow[0].methods[0]: `get`: not one of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS (in upper case)",
            "6:22: [0].allow[0].methods[1]: expected text, found a number",
            "7:15: [0].allow[0].paths[0]: `v1`: the path does not begin with `/`",
            "7:19: [0].allow[0].paths[1]: `/a/../b`: the path has a dot segment",
            "7:30: [0].allow[0].paths[2]: `/a?b`: `?` has no place in a path; only `*` and `**` are wildcards",
            "7:38: [0].allow[0].paths[3]: `/a**`: `**` must be a whole segment",
            "8:23: [0].allow[0].allow_insecure: expected `true` or `false`",
            "9:7: [0].allow[1]: unknown field `domain`; the fields are `name`, `domains`, `methods`, `paths`, `allow_insecure`, `when`",
            "9:7: [0].allow[1]: `domains` is missing",
            "10:16: [0].allow[1].methods: expected at least one",
            "13:10: [1].allow: expected at least one",
        ]
    );
}

#[test]
fn what_a_later_version_brings_is_refused_and_not_ignored() {
    for field in ["transforms", "budgets"] {
        let text = format!(
            "- name: a\n  type: http\n  {field}: []\n  allow: [{{domains: [a.test], methods: [GET]}}]\n"
        );
        assert_eq!(problems(&text), [format!("3:3: [0]: `{field}` is not supported yet")]);
    }
    for field in ["body", "response", "approval"] {
        let text = format!(
            "- name: a\n  type: http\n  allow:\n    - domains: [a.test]\n      methods: [GET]\n      {field}: x\n"
        );
        assert_eq!(problems(&text), [format!("6:7: [0].allow[0]: `{field}` is not supported yet")]);
    }
    let text = "- name: a\n  type: http\n  deny:\n    - { domains: [a.test], when: request.body.a == 1 }\n";
    assert_eq!(problems(text), ["4:34: [0].deny[0].when: `request.body` is not supported yet"]);
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
            "5:28: [0].deny[0]: unknown field `allow_insecure`; the fields are `name`, `domains`, `methods`, `paths`, `when`",
            "5:56: [0].deny[0].when: expected at least one",
            "7:21: [0].deny[1].when: unknown field `methd` of `request`; the fields are `method`, `scheme`, `host`, `port`, `path`, `query`, `headers`, `body`, `websocket`, `graphql`, `grpc`, `mcp`",
            "10:25: [0].deny[2].when[0]: `==` does not go between an integer and a text",
            "13:34: [0].deny[2].when[1]: not a regular expression: unclosed group",
            // A text that is folded or escaped is another one than stands there: its beginning is named.
            "15:11: [0].deny[2].when[2]: unknown field `hst` of `request`; the fields are `method`, `scheme`, `host`, `port`, `path`, `query`, `headers`, `body`, `websocket`, `graphql`, `grpc`, `mcp`",
            "17:11: [0].deny[2].when[3]: expected an expression, found a number",
            "18:11: [0].deny[2].when[4]: unknown field `hst` of `request`; the fields are `method`, `scheme`, `host`, `port`, `path`, `query`, `headers`, `body`, `websocket`, `graphql`, `grpc`, `mcp`",
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
    assert!(problems(&"#".repeat(2_000_000))[0].contains("longer than"));
    let deep = "[".repeat(100_000);
    assert_eq!(problems(&deep).len(), 1);
    let many = "- {name: a, type: http, allow: []}\n".repeat(2_000);
    assert!(problems(&many)[0].contains("more than 1000 capabilities"));
    let bomb = format!(
        "- &a [x,x,x,x,x,x,x,x,x]\n{}",
        "- &b [*a,*a,*a,*a,*a,*a,*a,*a]\n- [*b,*b,*b,*b,*b]\n".repeat(50)
    );
    assert!(!problems(&bomb).is_empty());
    // Equal conditions count once, however often an alias repeats them.
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
