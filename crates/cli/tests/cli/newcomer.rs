//! What people who are new to the command line stumble over: questions before what cannot be taken back, whole answers,
//! hints.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    body::Bytes,
    extract::RawQuery,
    http::{Method, Uri},
    response::IntoResponse,
    routing::get,
};
use clap::Parser;
use freehold_cli::exit;
use serde_json::{Value, json};

use crate::support::{Freehold, ID, Person, error, role, serve};

/// A server that has been asked to do so much, and does it.
fn obliging(asked: &Arc<Mutex<Vec<String>>>) -> Router {
    let asked = Arc::clone(asked);
    Router::new().fallback(async move |method: Method, uri: Uri| {
        asked.lock().unwrap().push(format!("{method} {}", uri.path()));
        Json(json!({"status": "stopping", "stopping": 1, "name": "c", "agent_roles": [role()]}))
    })
}

#[tokio::test]
async fn a_stop_asks_first_says_what_it_means_and_needs_yes_where_nobody_answers() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let mut person = serve(obliging(&asked)).await;
    let workspace = format!("ws_{ID}");
    for verb in [
        &["workspace", "stop", &workspace][..],
        &["workspace", "stop-all"],
        &["role", "stop-workspaces", &format!("agent_{ID}")],
    ] {
        person.at_terminal = false;
        let ran = person.runs(verb).await;
        assert_eq!(ran.code, exit::USAGE, "{verb:?} {}", ran.err);
        assert!(ran.err.contains("pass --yes: nobody can be asked here"), "{}", ran.err);
        person.at_terminal = true;
        person.stdin = b"n\n".to_vec();
        let ran = person.runs(verb).await;
        assert_eq!(ran.code, exit::OTHER);
        for means in ["conversations are kept", "cannot start a stopped workspace again", "no more tasks"] {
            assert!(ran.err.contains(means), "{}", ran.err);
        }
    }
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new());
    person.stdin = b"y\n".to_vec();
    assert_eq!(person.runs(&["workspace", "stop", &workspace]).await.code, exit::OK);
    person.at_terminal = false;
    assert_eq!(person.runs(&["workspace", "stop", &workspace, "--yes"]).await.code, exit::OK);
    let stop = format!("POST /v1/workspaces/{workspace}/stop");
    assert_eq!(*asked.lock().unwrap(), [stop.clone(), stop]);
}

fn row(n: u32, fields: &Value) -> Value {
    let mut row = json!({
        "id": format!("event_{n:032x}"), "org_id": format!("org_{ID}"), "user_id": "system",
        "timestamp": format!("2026-01-01T00:00:0{n}Z"), "event_type": "iteration_completed", "category": "activity",
        "actor": "agent", "workspace_id": format!("ws_{ID}"), "task_id": format!("task_{ID}"),
    });
    for (name, value) in fields.as_object().unwrap() {
        row[name] = value.clone();
    }
    row
}

/// A server with a task and a session whose last answer is this, and the rows of activity from the newest on.
fn with_answers(status: &str, rows: &[Value]) -> Router {
    let task = json!({"id": format!("task_{ID}"), "org_id": format!("org_{ID}"), "workspace_id": format!("ws_{ID}"),
                      "description": "work", "status": status, "created_at": "2026-01-01T00:00:00Z"});
    let session = json!({
        "id": format!("session_{ID}"), "organization_id": format!("org_{ID}"), "agent_id": format!("agent_{ID}"),
        "workspace_id": format!("ws_{ID}"), "capabilities": [], "model_id": null, "status": "idle", "title": null,
        "preview": "work", "output_preview": "It is done", "tags": [], "usage": null,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "started_at": null, "finished_at": null,
    });
    let rows = rows.to_vec();
    let activity = async move |RawQuery(query): RawQuery| {
        let query = query.unwrap_or_default();
        assert!(query.contains("event_type=iteration_completed") && query.contains("order=desc"), "{query}");
        let limit = if query.contains("limit=1&") || query.ends_with("limit=1") { 1 } else { rows.len() };
        Json(json!({"events": rows[..limit.min(rows.len())]}))
    };
    Router::new()
        .route("/v1/workspaces/{id}/tasks/{tid}", get(async move || Json(task)))
        .route("/v1/sessions/{id}", get(async move || Json(session)))
        .route("/v1/agent-roles/{id}", get(async || Json(role())))
        .route("/v1/workspaces/{id}/activity", get(activity))
}

#[tokio::test]
async fn a_task_is_shown_with_the_whole_answer_and_its_json_is_the_apis() {
    let long = format!("It is done.\n\n{}\nThe end.", "word ".repeat(300));
    let answered = row(1, &json!({"detail": {"success": true, "text": long, "tool_calls": []}}));
    let person = serve(with_answers("completed", &[answered])).await;
    let (workspace, task) = (format!("ws_{ID}"), format!("task_{ID}"));
    let ran = person.runs(&["task", "get", &workspace, &task]).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    let indented: String = long.lines().map(|line| format!("  {line}\n")).collect();
    assert!(ran.out.ends_with(&format!("\nanswer\n{indented}")), "{}", ran.out);
    let json = person.runs(&["task", "get", &workspace, &task, "-o", "json"]).await.out;
    assert!(!json.contains("The end."), "{json}");
}

#[tokio::test]
async fn a_task_that_goes_on_or_ended_at_a_tool_has_no_answer_yet() {
    let called = json!({"detail": {"success": true, "text": "Let me look.", "tool_calls": ["bash"]}});
    for (status, rows) in [("running", vec![]), ("cancelled", vec![row(1, &called)]), ("failed", vec![])] {
        let person = serve(with_answers(status, &rows)).await;
        let ran = person.runs(&["task", "get", &format!("ws_{ID}"), &format!("task_{ID}")]).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert!(!ran.out.contains("answer"), "{}", ran.out);
    }
}

#[tokio::test]
async fn a_session_is_shown_with_the_whole_of_what_its_preview_begins() {
    let said = |n, text: &str| row(n, &json!({"detail": {"success": true, "text": text, "tool_calls": []}}));
    let rows = [said(3, "Of another conversation."), said(2, "It is done, and this is how:\nfirst, ...")];
    let person = serve(with_answers("completed", &rows)).await;
    let ran = person.runs(&["session", "get", &format!("session_{ID}")]).await;
    assert!(
        ran.out.ends_with("answer\n  It is done, and this is how:\n  first, ...\n"),
        "{}{}",
        ran.out,
        ran.err
    );
}

#[tokio::test]
async fn who_may_not_read_activity_sees_the_task_without_its_answer() {
    let denied = get(async || error(403, "permission_denied"));
    let task = json!({"id": format!("task_{ID}"), "org_id": format!("org_{ID}"), "workspace_id": format!("ws_{ID}"),
                      "description": "work", "status": "completed", "created_at": "2026-01-01T00:00:00Z"});
    let router = Router::new()
        .route("/v1/workspaces/{id}/tasks/{tid}", get(async move || Json(task)))
        .route("/v1/workspaces/{id}/activity", denied);
    let ran = serve(router).await.runs(&["task", "get", &format!("ws_{ID}"), &format!("task_{ID}")]).await;
    assert_eq!((ran.code, ran.err.as_str()), (exit::OK, ""));
}

#[test]
fn kinds_of_providers_that_no_server_serves_are_not_offered() {
    let create = |kind| {
        Freehold::try_parse_from(["freehold", "provider", "create", "x", "--kind", kind, "--domain", "d"])
    };
    for kind in ["anthropic", "openai"] {
        create(kind).unwrap();
    }
    for kind in ["gemini", "vertex", "azure-openai"] {
        let said = create(kind).unwrap_err().to_string();
        assert!(said.contains("[possible values: anthropic, openai]"), "{said}");
    }
}

#[test]
fn a_name_that_is_no_slug_is_refused_with_the_one_that_was_meant() {
    for (name, meant) in [("My Coder", "my-coder"), ("code_reviewer", "code-reviewer"), ("Äther", "ther")] {
        for verb in [
            vec!["freehold", "role", "create", name, "--provider", "p"],
            vec!["freehold", "provider", "create", name, "--kind", "openai", "--domain", "d"],
        ] {
            let said = Freehold::try_parse_from(verb).unwrap_err().to_string();
            assert!(said.contains("lowercase letters, digits and single hyphens"), "{said}");
            assert!(said.contains(&format!("did you mean `{meant}`?")), "{said}");
        }
    }
}

#[tokio::test]
async fn the_role_of_a_workspace_is_a_word_or_a_flag() {
    let workspace = json!({"id": format!("ws_{ID}"), "org_id": format!("org_{ID}"), "role_id": format!("agent_{ID}"),
        "status": "provisioning", "pack_status": "current", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "archived_at": null});
    let router = Router::new()
        .route("/v1/agent-roles", get(async || Json(json!({"agent_roles": [role()]}))))
        .route("/v1/agent-roles/{id}", get(async || Json(role())))
        .route("/v1/workspaces", axum::routing::post(async move || Json(workspace)));
    let person = serve(router).await;
    for arguments in [&["workspace", "create", "coder"][..], &["workspace", "create", "--role", "coder"]] {
        let ran = person.runs(arguments).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
    }
    for wrong in
        [&["freehold", "workspace", "create"][..], &["freehold", "workspace", "create", "a", "--role", "b"]]
    {
        Freehold::try_parse_from(wrong).unwrap_err();
    }
}

#[tokio::test]
async fn an_address_without_its_beginning_is_answered_with_the_whole_of_it() {
    let ran = Person::new("localhost:7070").runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.err.contains("did you mean http://localhost:7070?"), "{}", ran.err);
}

#[tokio::test]
async fn who_is_sent_elsewhere_by_a_variable_is_told_so() {
    let nobody = "http://127.0.0.1:1";
    let mut person = Person::new(nobody);
    person.stdin = b"pt_x".to_vec();
    let variable = "the variable FREEHOLD_URL: set another, unset it, or pass --url";
    for verb in [&["login"][..], &["whoami"], &["audit", "list"]] {
        let ran = person.runs(verb).await;
        assert_eq!(ran.code, exit::UNREACHABLE, "{}", ran.err);
        assert!(ran.err.contains(nobody) && ran.err.contains(variable), "{}", ran.err);
        let ran = person.runs(&[verb, &["--url", nobody]].concat()).await;
        assert!(ran.code == exit::UNREACHABLE && !ran.err.contains("FREEHOLD_URL"), "{}", ran.err);
    }
    person.url = Some("localhost:7070".to_owned());
    let ran = person.runs(&["whoami"]).await;
    assert!(ran.code == exit::USAGE && ran.err.contains(variable), "{}", ran.err);

    let person = serve(Router::new().fallback(async || error(401, "unauthorized"))).await;
    let ran = person.runs(&["whoami"]).await;
    assert!(
        ran.code == exit::NOT_SIGNED_IN && ran.err.contains("the variable FREEHOLD_API_KEY"),
        "{}",
        ran.err
    );
    let ran = person.runs(&["whoami", "--key", "sk_other"]).await;
    assert!(
        ran.err.contains("the variable FREEHOLD_URL") && !ran.err.contains("from the variable FREEHOLD_API")
    );
}

#[tokio::test]
async fn deleting_a_credential_names_who_uses_it() {
    let credential = json!({"id": format!("cred_{ID}"), "org_id": format!("org_{ID}"), "name": "model-key",
        "provider": "anthropic", "kind": "api_key", "scopes": [], "provider_config": {}, "status": "active", "durable_ref": "x", "allow_user_override": false,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"});
    let provider = json!({"id": format!("provider_{ID}"), "org_id": format!("org_{ID}"), "name": "claude", "kind": "anthropic",
        "domain": "a.test", "config": {}, "credential_name": "model-key", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z"});
    let id = credential["id"].as_str().unwrap().to_owned();
    let deleted = Arc::new(Mutex::new(0));
    let count = Arc::clone(&deleted);
    let router = Router::new()
        .route(
            "/v1/credentials/{id}",
            get(async move || Json(credential)).delete(async move || {
                *count.lock().unwrap() += 1;
                Json(json!({"status": "deleted"}))
            }),
        )
        .route("/v1/providers", get(async move || Json(json!({"providers": [provider]}))))
        .route("/v1/agent-roles", get(async || Json(json!({"agent_roles": [role()]}))));
    let person = serve(router).await;
    let ran = person.runs(&["credential", "delete", &id]).await;
    assert_eq!((ran.code, *deleted.lock().unwrap()), (exit::USAGE, 0), "{}", ran.err);
    assert!(ran.err.contains("It is used by the provider claude and the role coder"), "{}", ran.err);
    let ran = person.runs(&["credential", "delete", &id, "--yes"]).await;
    assert_eq!((ran.code, *deleted.lock().unwrap()), (exit::OK, 1), "{}", ran.err);
    assert!(ran.err.contains("warning: ") && ran.err.contains("the provider claude"), "{}", ran.err);
}

#[tokio::test]
async fn deleting_a_secret_names_whose_transforms_put_it_on() {
    let mut coder = serde_json::to_value(role()).unwrap();
    coder["capabilities"] = "- {name: a, type: http, allow: [{domains: [a.test], methods: [GET]}], \
        transforms: [{name: t, headers: {set: {x-a: 'secrets[\"key\"]'}}}]}"
        .into();
    let router = Router::new()
        .route("/v1/providers", get(async || Json(json!({"providers": []}))))
        .route("/v1/agent-roles", get(async move || Json(json!({"agent_roles": [coder]}))));
    let person = serve(router).await;
    let ran = person.runs(&["secret", "delete", "key"]).await;
    assert!(
        ran.code == exit::USAGE && ran.err.contains("there is another of this name: role coder."),
        "{}",
        ran.err
    );
    let ran = person.runs(&["secret", "delete", "other"]).await;
    assert!(ran.code == exit::USAGE && !ran.err.contains("coder"), "{}", ran.err);
}

#[tokio::test]
async fn a_problem_of_a_policy_is_shown_with_its_place() {
    let why = "4:27: alias references unknown anchor; a text that begins with `*` or `&` stands in quotes";
    let body = json!({"error": {"code": "validation_error", "message": "not acceptable: capabilities", "request_id": "7f",
        "details": {"fields": {"capabilities": why}}}});
    let refuse = async move || (axum::http::StatusCode::BAD_REQUEST, Json(body)).into_response();
    let person = serve(Router::new().route("/v1/agent-roles", axum::routing::post(refuse))).await;
    let file = person.home.path().join("caps.yaml");
    std::fs::write(&file, "- domains: [*.example.com]\n").unwrap();
    let (provider, file) = (format!("provider_{ID}"), file.to_str().unwrap());
    let ran =
        person.runs(&["role", "create", "coder", "--provider", &provider, "--capabilities", file]).await;
    assert!(ran.err.contains(why), "{}", ran.err);
    let ran =
        person.runs(&["role", "create", "coder", "--provider", &provider, "--capabilities", "[]"]).await;
    assert!(ran.err.contains("hint: a file is named here"), "{}", ran.err);
}

#[tokio::test]
async fn a_refused_policy_s_problems_are_a_line_each_and_whole() {
    let long = format!("9:1: {}", "long ".repeat(200).trim());
    let why = format!("2:3: the first\n4:1: the second\n{long}");
    let body = json!({"error": {"code": "validation_error", "message": "not acceptable: capabilities", "request_id": "7f",
        "details": {"fields": {"capabilities": why}}}});
    let refuse = async move || (axum::http::StatusCode::BAD_REQUEST, Json(body)).into_response();
    let person = serve(Router::new().route("/v1/agent-roles", axum::routing::post(refuse))).await;
    let file = person.home.path().join("caps.yaml");
    std::fs::write(&file, "[]\n").unwrap();
    let (provider, file) = (format!("provider_{ID}"), file.to_str().unwrap());
    for format in ["table", "json"] {
        let ran = person
            .runs(&["role", "create", "c", "-o", format, "--provider", &provider, "--capabilities", file])
            .await;
        let lines = format!("  capabilities:\n  2:3: the first\n  4:1: the second\n  {long}\n");
        assert!(ran.err.contains(&lines), "{}", ran.err);
    }
}

#[tokio::test]
async fn audit_rows_show_their_rule_who_caused_them_and_their_id() {
    let long = format!("/{}", "x".repeat(100));
    let what = format!("allow GET a.test{long} no answer: upstream_tls");
    let decided = row(
        1,
        &json!({"event_type": "policy_decision", "actor": "policy-engine", "decision": "allow",
        "method": "GET", "destination": "a.test", "path": long, "capability_name": "package-index",
        "detail": {"rule": "read", "upstream_error": "upstream_tls"}}),
    );
    let user = format!("user_{ID}");
    let denied = row(
        3,
        &json!({"event_type": "policy_decision", "actor": "policy-engine", "decision": "deny",
        "method": "GET", "destination": "wiki.test", "path": "/", "reason": "address_forbidden"}),
    );
    let changed =
        row(2, &json!({"event_type": "workspace_created", "actor": "control-plane", "user_id": user}));
    let rows = json!({"events": [decided, changed, denied]});
    let mut person =
        serve(Router::new().route("/v1/workspaces/{id}/audit", get(async move || Json(rows)))).await;
    let ran = person.runs(&["workspace", "audit", &format!("ws_{ID}")]).await;
    assert!(
        ran.err.starts_with("hint: address_forbidden: ") && ran.err.contains("egress.hosts"),
        "{}",
        ran.err
    );
    let out = ran.out;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["TIME", "EVENT", "RULE", "BY", "WHAT", "ID"]
    );
    for words in ["package-index/read", "policy-engine", &what, &format!("event_{:032x}", 1)] {
        assert!(lines[1].contains(words), "{out}");
    }
    assert!(lines[2].contains(&user), "{out}");
    person.at_terminal = true;
    let ran = person.runs(&["workspace", "audit", &format!("ws_{ID}")]).await;
    assert!(ran.out.contains("allow GET a.test/xx") && !ran.out.contains(&what), "{}", ran.out);
}

#[tokio::test]
async fn a_workspace_s_audit_takes_the_options_of_the_organizations() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let queries = Arc::clone(&asked);
    let answer = async move |RawQuery(query): RawQuery| {
        queries.lock().unwrap().push(query.unwrap_or_default());
        Json(json!({"events": [], "cursor": "next"}))
    };
    let router =
        Router::new().route("/v1/audit", get(answer.clone())).route("/v1/workspaces/{id}/audit", get(answer));
    let person = serve(router).await;
    let options = [
        "--filter",
        "decision=deny",
        "--filter",
        "reason!=",
        "--from",
        "2026-01-01T00:00:00Z",
        "--to",
        "2026-01-02T00:00:00Z",
        "--oldest-first",
        "--limit",
        "7",
        "--cursor",
        "c",
    ];
    for verb in [&["audit", "list"][..], &["workspace", "audit", &format!("ws_{ID}")]] {
        let ran = person.runs(&[verb, &options].concat()).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        let on = "go on with --from 2026-01-01T00:00:00Z --to 2026-01-02T00:00:00Z --cursor next";
        assert!(ran.err.contains(on), "{}", ran.err);
    }
    let asked = asked.lock().unwrap();
    assert_eq!(asked[0], asked[1]);
    assert!(asked[0].contains("reason%21%3D") && asked[0].contains("limit=7"), "{}", asked[0]);
}

#[test]
fn a_wrong_time_filter_or_duration_is_answered_with_right_ones() {
    let workspace = format!("ws_{ID}");
    for (arguments, says) in [
        (
            vec!["audit", "list", "--from", "yesterday"],
            "a time such as 2026-01-31T12:00:00Z, or so long ago as 30m",
        ),
        (vec!["workspace", "audit", &workspace, "--to", "2026-01-31"], "a time such as 2026-01-31T12:00:00Z"),
        (vec!["audit", "list", "--filter", "decision=maybe"], "that is one of allow, deny"),
        (vec!["audit", "list", "--filter", "event_type=role_craeted"], "role_created, role_updated"),
        (vec!["audit", "list", "--filter", "policy_type=udp"], "one of http, dns"),
        (vec!["audit", "list", "--filter", "workspace_id=mine"], "`ws_` and 32 lowercase hexadecimal digits"),
        (vec!["audit", "list", "--filter", "reason="], "`column!=` asks for any"),
        (
            vec!["role", "update", "coder", "--task-timeout", "soon"],
            "so many seconds, or so long as 90s, 30m",
        ),
        (vec!["role", "update", "coder", "--task-timeout", "99999999d"], "so many seconds"),
        (vec!["workspace", "exec", &workspace, "--timeout", "1.5", "--", "true"], "so many seconds"),
    ] {
        let error = Freehold::try_parse_from(["freehold"].iter().chain(&arguments)).unwrap_err();
        assert!(error.to_string().contains(says), "{arguments:?}\n{error}");
    }
    for right in [
        vec!["audit", "list", "--from", "36h", "--to", "1d"],
        vec!["role", "update", "coder", "--task-timeout", "1h", "--idle-timeout", "7200"],
        vec!["workspace", "exec", &workspace, "--timeout", "5m", "--", "true"],
    ] {
        Freehold::try_parse_from(["freehold"].iter().chain(&right)).unwrap();
    }
}

#[tokio::test]
async fn both_verbs_of_activity_follow_and_do_not_as_they_are_told() {
    let workspace = json!({"id": format!("ws_{ID}"), "org_id": format!("org_{ID}"), "role_id": format!("agent_{ID}"),
        "status": "idle", "pack_status": "current", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "archived_at": null});
    let past = json!({"events": [row(1, &json!({"detail": {"text": "was"}}))]});
    let stream = async || {
        let now = row(2, &json!({"detail": {"text": "is now"}}));
        // A stream that the server ends for good: the key is not accepted any more.
        Bytes::from(format!("event: activity\nid: 1\ndata: {now}\n\n")).into_response()
    };
    let opened = Arc::new(Mutex::new(0));
    let (of_all, of_one) = (Arc::clone(&opened), Arc::clone(&opened));
    let once = move |opened: Arc<Mutex<u32>>| async move {
        let mut opened = opened.lock().unwrap();
        *opened += 1;
        *opened
    };
    let events = async move |n: u32| if n % 2 == 1 { stream().await } else { error(401, "unauthorized") };
    let router = Router::new()
        .route("/v1/workspaces", get(async move || Json(json!({"workspaces": [workspace]}))))
        .route("/v1/workspaces/{id}/activity", get(async move || Json(past)))
        .route("/v1/activity/stream", get(async move || events(once(of_all).await).await))
        .route("/v1/workspaces/{id}/activity/stream", get(async move || events(once(of_one).await).await));
    let person = serve(router).await;
    let id = format!("ws_{ID}");
    for (arguments, shows_past, shows_now) in [
        (vec!["activity"], false, true),
        (vec!["activity", "--follow"], false, true),
        (vec!["activity", "--no-follow"], true, false),
        (vec!["workspace", "activity", &id], true, false),
        (vec!["workspace", "activity", &id, "--no-follow"], true, false),
        (vec!["workspace", "activity", &id, "--follow"], true, true),
        (vec!["workspace", "activity", &id, "--no-follow", "--follow"], true, true),
    ] {
        let ran = person.runs(&arguments).await;
        assert_eq!(ran.out.contains("  was"), shows_past, "{arguments:?} {} {}", ran.out, ran.err);
        assert_eq!(ran.out.contains("is now"), shows_now, "{arguments:?} {} {}", ran.out, ran.err);
        assert_eq!(ran.code, if shows_now { exit::NOT_SIGNED_IN } else { exit::OK }, "{arguments:?}");
    }
}
