//! What a hostile name, pod, file or server may not do to whoever reads a terminal.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use freehold_cli::exit;
use serde_json::{Value, json};

use crate::support::{ID, Person, me, role, serve};

/// Colours, a title, a cleared screen, a device's answer, C1 controls, direction marks, a line that is none, and what has no width.
const EVIL: &str = "e\u{1b}[31mv\u{1b}]0;title\u{7}\u{1b}[2J\u{1b}[6n\u{9b}1m\u{90}i\u{202e}\u{2066}l\u{200f}\u{2028}\r\u{8}\u{7f}\u{200b}\u{ad}\u{e0041}";

fn is_hostile(c: char) -> bool {
    (c.is_control() && c != '\n')
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// What is left of a text when this program's own styles are taken away.
fn without_styles(text: &str) -> String {
    let mut rest = text.to_owned();
    for style in ["\u{1b}[0m", "\u{1b}[1m", "\u{1b}[2m", "\u{1b}[31m", "\u{1b}[32m", "\u{1b}[36m"] {
        rest = rest.replace(style, "");
    }
    rest
}

/// The value with every text that can be anything made hostile.
fn poisoned(mut value: Value, fields: &[&str]) -> Value {
    for field in fields {
        value[*field] = json!(EVIL);
    }
    value
}

fn router() -> Router {
    let (org, at) = (format!("org_{ID}"), "2026-01-01T00:00:00Z");
    let role = poisoned(role(), &["name", "display_name", "description", "model", "capabilities"]);
    let provider = json!({"id": format!("provider_{ID}"), "org_id": org, "name": EVIL, "kind": "anthropic", "domain": EVIL,
        "config": {EVIL: EVIL}, "created_at": at, "updated_at": at, "credential_name": EVIL, "default_model": EVIL});
    let workspace = json!({"id": format!("ws_{ID}"), "org_id": org, "role_id": format!("agent_{ID}"), "environment": EVIL,
        "status": "idle", "pack_status": "current", "created_at": at, "updated_at": at, "archived_at": null,
        "last_snapshot_error": EVIL});
    let task = json!({"id": format!("task_{ID}"), "org_id": org, "workspace_id": format!("ws_{ID}"), "description": EVIL,
        "status": "failed", "reason": EVIL, "created_at": at, "metadata": {EVIL: [EVIL]}});
    let row = |kind: &str, detail: Value| {
        json!({"id": format!("event_{ID}"), "org_id": org, "user_id": EVIL, "timestamp": at, "event_type": kind,
            "category": "activity", "actor": "agent", "workspace_id": format!("ws_{ID}"), "reason": EVIL,
            "destination": EVIL, "method": EVIL, "path": EVIL, "detail": detail})
    };
    let events = json!({"events": [
        row("tool_completed", json!({"tool": EVIL, "status": EVIL, "result": EVIL})),
        row("tool_started", json!({"tool": "bash", "arguments": json!({"command": EVIL}).to_string()})),
        row("workspace_status_changed", json!({"from": EVIL, "to": EVIL})),
        row("policy_decision", json!({})), row("role_created", json!({EVIL: EVIL})),
    ]});
    let field = json!({"name": EVIL, "value": EVIL});
    let approval = json!({"id": format!("approval_{ID}"), "org_id": org, "workspace_id": format!("ws_{ID}"),
        "status": "pending", "reason": "approval_required", "created_at": at, "expires_at": at,
        "rule": {"origin": "role", "capability": EVIL, "name": EVIL},
        "request": {"method": EVIL, "destination": EVIL, "path": EVIL, "query": [field], "headers": [field],
            "body": {"bytes": 9, "is_whole": true, "text": EVIL}, "trailers": [field], "is_cut": false}});
    let approvals = json!({"approvals": [approval]});
    let (roles, tasks) = (json!({"agent_roles": [role]}), json!([task]));
    let (providers, workspaces) = (json!({"providers": [provider]}), json!({"workspaces": [workspace]}));
    let who = poisoned(me(), &["email"]);
    let answer = |value: Value| get(async move || Json(value));
    Router::new()
        .route("/v1/me/session", answer(who))
        .route("/v1/agent-roles", answer(roles))
        .route("/v1/agent-roles/{id}", answer(role))
        .route("/v1/providers", answer(providers))
        .route("/v1/providers/{id}", answer(provider))
        .route("/v1/workspaces", answer(workspaces))
        .route("/v1/workspaces/{id}", answer(workspace))
        .route("/v1/workspaces/{id}/tasks", answer(tasks))
        .route("/v1/workspaces/{id}/tasks/{tid}", answer(task))
        .route("/v1/workspaces/{id}/activity", answer(events.clone()))
        .route("/v1/workspaces/{id}/audit", answer(events.clone()))
        .route("/v1/audit", answer(events))
        .route("/v1/approvals", answer(approvals))
        .route("/v1/approvals/{id}", answer(approval))
}

#[tokio::test]
async fn no_text_of_a_server_or_a_pod_reaches_the_terminal_as_a_command() {
    let mut person = serve(router()).await;
    person.colour = true;
    let (workspace, task, role) = (format!("ws_{ID}"), format!("task_{ID}"), format!("agent_{ID}"));
    let (provider, approval) = (format!("provider_{ID}"), format!("approval_{ID}"));
    for verb in [
        vec!["whoami"],
        vec!["role", "list"],
        vec!["role", "get", &role],
        vec!["provider", "list"],
        vec!["provider", "get", &provider],
        vec!["workspace", "list"],
        vec!["workspace", "get", &workspace],
        vec!["task", "list", &workspace],
        vec!["task", "get", &workspace, &task],
        vec!["workspace", "activity", &workspace],
        vec!["workspace", "audit", &workspace],
        vec!["audit", "list"],
        vec!["approvals", "list"],
        vec!["approvals", "show", &approval],
    ] {
        let ran = person.runs(&verb).await;
        assert_eq!(ran.code, exit::OK, "{verb:?} {}", ran.err);
        let shown = without_styles(&(ran.out + &ran.err));
        assert_eq!(shown.chars().find(|c| is_hostile(*c)), None, "{verb:?}: {shown:?}");
        assert!(shown.contains('v'), "{verb:?} shows nothing: {shown}");
    }
}

#[tokio::test]
async fn no_text_of_a_document_reaches_the_terminal_as_a_command() {
    let mut person = Person::new("http://127.0.0.1:9");
    person.colour = true;
    let file = |name: &str, text: &str| {
        let path = person.home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // What YAML does not take as it is, it takes in its own escapes.
    let escaped: String = EVIL.chars().map(|c| format!("\\U{:08x}", u32::from(c))).collect();
    let quoted = format!("\"{escaped}\"");
    let rule = "allow: [{domains: [a.test], methods: [GET, POST], body: {schema: {properties: {EVIL: {type: string}}}}}]";
    let rule = rule.replace("EVIL", &quoted);
    let transform = format!("transforms: [{{name: t, query: {{set: {{{quoted}: '\"a\"'}}}}}}]");
    let good = file("good.yaml", &format!("- {{name: a, type: http, {rule}, {transform}}}"));
    let raw = file("raw.yaml", &format!("- name: a\n  {EVIL}: 1\n"));
    let unknown = file("unknown.yaml", &format!("- name: a\n  {quoted}: 1\n  v\u{202e}: 1\n"));
    let case = |request: &str| format!("- {{request: {request}, expect: deny}}");
    let cases = file("cases.yaml", &case(&format!("\"GET https://a.test/{escaped}\"")));
    let strange = file("strange.yaml", &case(&quoted));
    let body = json!({EVIL: 1}).to_string();
    for verb in [
        vec!["check", &raw],
        vec!["check", &unknown],
        vec!["test", &good, "--cases", &cases],
        vec!["test", &good, "--cases", &strange],
        vec!["test", &good, "--cases", &raw],
        vec!["explain", &good, "GET", "https://a.test/"],
        vec!["explain", &good, "POST", "https://a.test/", "--content-type", "application/json", "-d", &body],
    ] {
        let ran = person.runs(&[&["caps"], &verb[..]].concat()).await;
        let shown = without_styles(&(ran.out + &ran.err));
        assert_eq!(shown.chars().find(|c| is_hostile(*c)), None, "{verb:?}: {shown:?}");
        assert!(shown.contains("\\u{202e}") || verb[0] == "test", "{verb:?} shows nothing: {shown}");
    }
}

#[tokio::test]
async fn json_stays_what_the_server_sent_whatever_it_holds() {
    let text = format!("{{\"agent_roles\": [], \"note\": \"\u{9b}1m\u{202e}\u{7f}{}\"}}", "\\u001b[31m");
    let sent = text.clone();
    let person = serve(Router::new().route("/v1/agent-roles", get(async move || sent))).await;
    let ran = person.runs(&["--output", "json", "role", "list"]).await;
    assert_eq!((ran.code, ran.out), (exit::OK, text + "\n"));
}

#[tokio::test]
async fn an_error_s_message_is_harmless_and_not_endless() {
    let message = format!("{EVIL}{}", "x".repeat(50_000));
    let body = json!({"error": {"code": EVIL, "message": message, "request_id": EVIL, "details": {"fields": {EVIL: EVIL}}}});
    let mut person = serve(
        Router::new().route("/v1/me/session", get(async move || (StatusCode::BAD_REQUEST, Json(body)))),
    )
    .await;
    person.colour = true;
    let ran = person.runs(&["whoami"]).await;
    let shown = without_styles(&ran.err);
    assert_eq!((ran.code, shown.chars().find(|c| is_hostile(*c))), (exit::OTHER, None), "{shown:?}");
    assert!(shown.len() < 10_000, "{}", shown.len());
}

#[tokio::test]
async fn a_credentials_file_that_others_could_read_or_swap_is_not_used() {
    let mut person = serve(Router::new().route("/v1/me/session", get(async || Json(me())))).await;
    (person.key, person.stdin) = (None, b"pt_good\n".to_vec());
    assert_eq!(person.runs(&["login"]).await.code, exit::OK);
    person.url = None;
    assert_eq!(person.runs(&["whoami"]).await.code, exit::OK);
    let file = person.home.path().join("freehold/credentials");
    let refused = async |why: &str| {
        let ran = person.runs(&["whoami"]).await;
        assert_eq!(ran.code, exit::OTHER, "{why}");
        assert!(ran.err.contains(why) && ran.err.contains("hint: "), "{}", ran.err);
    };
    for mode in [0o640, 0o604, 0o620] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        refused("other users may read or write it").await;
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let aside = person.home.path().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    symlink(&aside, &file).unwrap();
    refused("it is a symbolic link").await;
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    refused("it is no regular file").await;
    std::fs::remove_dir(&file).unwrap();
    // Only root can make a file somebody else's.
    std::fs::rename(&aside, &file).unwrap();
    if std::os::unix::fs::chown(&file, Some(1_234_567), None).is_ok() {
        refused("it belongs to another user").await;
    }
}

#[tokio::test]
async fn the_key_does_not_follow_a_redirect() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let thief = serve(Router::new().fallback(any(async move |headers: HeaderMap| {
        count.fetch_add(1, Ordering::SeqCst);
        assert!(!headers.contains_key("authorization"));
        Json(me())
    })))
    .await;
    let location = thief.url.clone().unwrap();
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{location}/v1/me/session");
        let person = serve(Router::new().fallback(any(async move || {
            (StatusCode::from_u16(status).unwrap(), [("location", to)], "go there").into_response()
        })))
        .await;
        let ran = person.runs(&["whoami"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (exit::OTHER, ""), "{status}");
        assert!(ran.err.contains(&format!("HTTP status {status}")), "{}", ran.err);
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_answers_garbage_is_an_error_and_nothing_else() {
    let endless = || {
        Response::new(Body::from_stream(futures::stream::repeat_with(|| {
            Ok::<_, std::io::Error>("x".repeat(65_536))
        })))
    };
    type Answer = fn() -> Response;
    let answers: [(&str, Answer); 5] = [
        ("not what this client understands", || "<html>hello</html>".into_response()),
        ("not what this client understands", || vec![0xff_u8, 0xfe, 0x00].into_response()),
        ("not what this client understands", || "[".repeat(100_000).into_response()),
        ("not what this client understands", || Json(json!({"id": 7})).into_response()),
        ("HTTP status 500", || (StatusCode::INTERNAL_SERVER_ERROR, vec![0x1b_u8; 100]).into_response()),
    ];
    for (says, answer) in answers {
        let person = serve(Router::new().fallback(any(async move || answer()))).await;
        let ran = person.runs(&["whoami"]).await;
        assert_eq!((ran.code, ran.out.as_str()), (exit::OTHER, ""), "{says}");
        assert!(ran.err.contains(says), "{}", ran.err);
    }
    let person = serve(Router::new().fallback(any(async move || endless()))).await;
    let ran = person.runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::OTHER);
    assert!(ran.err.contains("longer than"), "{}", ran.err);
    // What speaks no HTTP at all.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let person = Person::new(&format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n").await;
        }
    });
    let ran = person.runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::UNREACHABLE, "{}", ran.err);
}
