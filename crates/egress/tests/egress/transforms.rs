//! What transforms change of requests that a rule allows.

use std::collections::HashMap;

use freehold_egress::{Injection, Outgoing, Signer, Unavailable};
use freehold_model::provider::PLACEHOLDER_KEY as PLACEHOLDER;
use http::{HeaderValue, Request, StatusCode, Version};

use crate::{
    bodies::stream,
    harness::{Kept, PATIENCE, Proxy},
    upstream::{Speaks, Upstream},
};

const CAPS: &str = r#"
- name: api
  type: http
  allow:
    - name: plain
      domains: [api.test]
      methods: [GET, POST]
      paths: ["/plain/**"]
    - name: keyed
      domains: [api.test]
      methods: [GET]
      paths: [/keyed]
    - name: forced
      domains: [api.test]
      methods: [GET]
      paths: [/forced]
    - name: told
      domains: [api.test]
      methods: [POST]
      paths: [/told]
    - name: signed
      domains: [api.test]
      methods: [PUT]
      paths: [/signed]
    - name: missing
      domains: [api.test]
      methods: [GET]
      paths: [/missing]
    - name: unknown
      domains: [api.test]
      methods: [GET]
      paths: [/unknown]
    - name: faulty
      domains: [api.test]
      methods: [GET]
      paths: [/faulty]
  transforms:
    - name: edits
      applies_to: [plain]
      headers:
        set: {x-tenant: '"acme-" + role.name', x-key: '"k " + secrets["token"]'}
        remove: [x-debug]
      query: {set: {tenant: '"a&b"'}, remove: [debug]}
      path: '"/v2" + request.path'
      body: {set: {/metadata/user: 'user.id', /n: 'request.body.n + 1'}}
    - name: key
      applies_to: [keyed]
      auth: {credential: main}
    - name: force
      applies_to: [forced]
      auth: {credential: main}
      override: true
      mask: false
    - name: fields
      applies_to: [told]
      body: {form: {password: 'secrets["token"]', "who": 'user.id'}}
    - name: sign
      applies_to: [signed]
      auth: {credential: signer}
    - name: none
      applies_to: [missing]
      auth: {credential: nowhere}
    - name: nothing
      applies_to: [unknown]
      headers: {set: {x-key: 'secrets["nowhere"]'}}
    - name: fault
      applies_to: [faulty]
      headers: {set: {x-key: 'request.headers["x-absent"]'}}
"#;

struct Digests;

impl Signer for Digests {
    fn needs_body(&self, request: &Outgoing<'_>) -> bool {
        !request.headers.contains_key("x-unsigned")
    }

    fn sign(&self, request: &mut Outgoing<'_>) -> Result<(), Unavailable> {
        let body = request.body_sha256.map_or_else(|| "none".to_owned(), |hash| format!("{:02x}", hash[0]));
        let text = format!("{} {} {} {body}", request.method, request.authority, request.path);
        request.headers.insert("authorization", HeaderValue::from_str(&text).unwrap());
        Ok(())
    }

    fn secrets(&self) -> Vec<&[u8]> {
        Vec::new()
    }
}

async fn proxy() -> (Upstream, Proxy) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let kept = Kept {
        injections: HashMap::from([
            ("main", Injection::header("authorization", "Bearer s3cret-of-main").unwrap().into()),
            ("signer", Injection::signer(std::sync::Arc::new(Digests)).into()),
        ]),
        secrets: HashMap::from([("token", "s3cret-token")]),
        ..Kept::default()
    };
    proxy.publish_with(CAPS, kept);
    (upstream, proxy)
}

#[tokio::test]
async fn headers_query_path_and_body_are_changed_and_the_rest_stays() {
    let (upstream, proxy) = proxy().await;
    let request = Request::post("/plain/a?debug=1&x=%2F")
        .header("content-type", "application/json")
        .header("content-digest", "sha-256=:AAAA:")
        .header("x_tenant", "mine")
        .header("x-debug", "1")
        .header("x-other", "2");
    let answer = proxy.send_body("api.test", request, r#"{"n": 1, "a": [1.5]}"#).await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = upstream.last();
    assert_eq!(seen.target, "/v2/plain/a?x=%2F&tenant=a%26b");
    assert_eq!(seen.headers["x-tenant"], "acme-reviewer");
    assert_eq!(
        (seen.headers["x-key"].to_str().unwrap(), seen.headers["x-other"].to_str().unwrap()),
        ("k s3cret-token", "2")
    );
    for gone in ["x-debug", "x_tenant", "content-digest"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    let body: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
    assert_eq!(body, serde_json::json!({"n": 2, "a": [1.5], "metadata": {"user": "user_7"}}));
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!((row.path.as_deref(), row.transforms_applied), (Some("/v2/plain/a"), Some(1)));
}

#[tokio::test]
async fn a_form_keeps_its_other_fields() {
    let (upstream, proxy) = proxy().await;
    let request = Request::post("/told").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(proxy.send_body("api.test", request, "a=1&password=mine&a=2").await.status, StatusCode::OK);
    assert_eq!(upstream.last().body, "a=1&a=2&password=s3cret-token&who=user_7");
    let answer = proxy.send_body("api.test", Request::post("/told"), "a=1").await;
    assert_eq!(answer.reason(), "transform_failed");
    let row = proxy.rows.with_reason("transform_failed").await;
    assert_eq!(row.transforms_failed["fields"], "body_unreadable");
}

#[tokio::test]
async fn a_credential_leaves_the_clients_own_alone_unless_it_is_told_to_and_replaces_the_placeholder() {
    let (upstream, proxy) = proxy().await;
    let bearer = format!("Bearer {PLACEHOLDER}");
    for (path, given, expected) in [
        ("/keyed", None, "Bearer s3cret-of-main"),
        ("/keyed", Some(bearer.as_str()), "Bearer s3cret-of-main"),
        ("/keyed", Some("Bearer narrow"), "Bearer narrow"),
        ("/forced", Some("Bearer narrow"), "Bearer s3cret-of-main"),
    ] {
        let mut request = Request::get(path);
        if let Some(given) = given {
            request = request.header("authorization", given);
        }
        assert_eq!(proxy.send("api.test", request).await.status, StatusCode::OK);
        let sent = upstream.last().headers.get_all("authorization").iter().cloned().collect::<Vec<_>>();
        assert_eq!(sent, [expected], "{path} {given:?}");
        let applied = if expected == "Bearer narrow" { vec![] } else { vec!["main".to_owned()] };
        let path = path.to_owned();
        proxy.rows.find(|row| row.path.as_ref() == Some(&path) && row.auth_applied == applied).await;
    }
}

#[tokio::test]
async fn what_was_put_on_is_struck_out_of_the_response_unless_the_transform_says_otherwise() {
    let (_upstream, proxy) = proxy().await;
    let reflect = |path: &str| Request::builder().uri(path.to_owned()).header("x-reflect", "3");
    let answer = proxy.send("api.test", reflect("/keyed")).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("authorization: Bearer ") && !text.contains("s3c"), "{text}");
    let answer = proxy.send("api.test", reflect("/forced")).await;
    assert!(String::from_utf8(answer.body.to_vec()).unwrap().contains("Bearer s3cret-of-main"));
    let request = Request::post("/told")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-reflect", "3")
        .header("x-api-key", "mine");
    let answer = proxy.send_body("api.test", request, "a=1").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("a=1&password=") && !text.contains("s3c"), "{text}");
}

#[tokio::test]
async fn a_request_is_signed_as_it_goes_upstream() {
    let (upstream, proxy) = proxy().await;
    // SHA-256 of `abc` begins with `ba` (FIPS 180-2, B.1).
    let answer = proxy.send_body("api.test", Request::put("/signed?x=1"), "abc").await;
    assert_eq!(answer.status, StatusCode::OK);
    let seen = upstream.last();
    assert_eq!(seen.headers["authorization"], "PUT api.test /signed ba");
    assert_eq!(seen.body, "abc");
    let request = Request::put("/signed").header("x-unsigned", "1");
    proxy.send_body("api.test", request, "abc").await;
    assert_eq!(upstream.last().headers["authorization"], "PUT api.test /signed none");
}

#[tokio::test]
async fn a_body_that_a_rule_and_a_signature_look_into_takes_its_room_once() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.limits.bodies_per_pod_kibibytes_max = 1;
        options.limits.body_wait_ms = 60_000;
    })
    .await;
    let caps = "
- name: api
  type: http
  allow:
    - name: signed
      domains: [api.test]
      methods: [PUT]
      when: size(request.body) > 0
  transforms:
    - name: sign
      applies_to: [signed]
      auth: {credential: signer}
";
    let signer = Injection::signer(std::sync::Arc::new(Digests));
    let injections = HashMap::from([("signer", signer.into())]);
    proxy.publish_with(caps, Kept { injections, ..Kept::default() });
    let request = || Request::put("/signed").header("content-type", "application/json");
    let answer = tokio::time::timeout(PATIENCE, proxy.send_body("api.test", request(), "[1]")).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let streamed = stream(&proxy, Version::HTTP_11, request().header("host", "api.test"), "[1]");
    // Of unknown length it is to have all the room there is, and has it.
    let answer = tokio::time::timeout(PATIENCE, streamed).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn secrets_that_are_too_long_to_be_looked_for_in_the_response_do_not_go_out_unless_they_need_not_be() {
    let (upstream, proxy) = proxy().await;
    let caps = r#"
- name: api
  type: http
  allow:
    - {name: long, domains: [api.test], methods: [POST], paths: [/long]}
    - {name: longer, domains: [api.test], methods: [POST], paths: [/longer]}
    - {name: open, domains: [api.test], methods: [POST], paths: [/open]}
  transforms:
    - {name: a, applies_to: [long], body: {set: {/key: 'secrets["long"]'}}}
    - {name: b, applies_to: [longer], body: {set: {/key: 'secrets["longer"]'}}}
    - {name: c, applies_to: [open], mask: false, body: {set: {/key: 'secrets["longer"]'}}}
"#;
    let of = |kibibytes: usize| &*"0123456789abcdef".repeat(64 * kibibytes).leak();
    let secrets = HashMap::from([("long", of(32)), ("longer", of(33))]);
    proxy.publish_with(caps, Kept { secrets, ..Kept::default() });
    let send = async |path| {
        let request = Request::post(path).header("content-type", "application/json");
        proxy.send_body("api.test", request, "{}").await
    };
    assert_eq!((send("/long").await.status, send("/open").await.status), (StatusCode::OK, StatusCode::OK));
    assert_eq!(send("/longer").await.reason(), "transform_failed");
    let row = proxy.rows.with_reason("transform_failed").await;
    assert_eq!(row.transforms_failed["b"], "secrets_too_long");
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_request_that_cannot_be_changed_whole_does_not_go_out() {
    let (upstream, proxy) = proxy().await;
    for (path, reason) in
        [("/missing", "auth_unavailable"), ("/unknown", "auth_unavailable"), ("/faulty", "transform_failed")]
    {
        let answer = proxy.get("api.test", path).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, reason), "{path}");
    }
    assert_eq!(upstream.count(), 0);
    let failed = |name: &'static str| {
        proxy
            .rows
            .find(move |row| row.transforms_failed.contains_key(name) || row.auth_failures.contains_key(name))
    };
    assert_eq!(failed("nowhere").await.auth_failures["nowhere"], "auth_unavailable");
    let row = failed("nothing").await;
    assert_eq!(row.transforms_failed["nothing"], "auth_unavailable");
    assert!(row.auth_failures.keys().any(|name| name.starts_with("secret:")), "{:?}", row.auth_failures);
    assert_eq!(failed("fault").await.transforms_failed["fault"], "expression_failed");
    let request = Request::post("/plain/a").header("content-type", "application/json");
    assert_eq!(proxy.send_body("api.test", request, "[1]").await.reason(), "transform_failed");
    // A number that would arrive as another.
    for (number, is_kept) in [
        ("18446744073709551615", true),
        ("-9223372036854775808", true),
        ("0.1", true),
        ("18446744073709551617", false),
        ("-9223372036854775809", false),
    ] {
        let request = Request::post("/plain/a").header("content-type", "application/json");
        let answer = proxy.send_body("api.test", request, format!(r#"{{"n": 1, "is": [{number}]}}"#)).await;
        assert_eq!(answer.status == StatusCode::OK, is_kept, "{number}");
        if is_kept {
            let body = format!(r#"{{"is":[{number}],"metadata":{{"user":"user_7"}},"n":2}}"#);
            assert_eq!(upstream.last().body, body);
        } else {
            assert_eq!(answer.reason(), "transform_failed");
        }
    }
    assert_eq!(upstream.count(), 3);
}
