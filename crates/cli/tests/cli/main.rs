//! The verbs as a person or a script meets them, against a small real server that behaves as scripted.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod caps;
mod hostile;
mod newcomer;
mod support;
mod words;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::Path as UrlPath,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use clap::{CommandFactory, Parser};
use freehold_cli::exit;
use serde_json::{Value, json};
use support::{Freehold, ID, Person, error, me, role, serve};
use tokio::sync::Notify;

#[test]
fn the_command_line_is_consistent_and_every_verb_shows_examples() {
    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            command.get_subcommands().for_each(|inner| leaves(inner, &path, found));
        } else if !command.get_after_help().is_some_and(|help| help.to_string().contains("freehold ")) {
            found.push(path);
        }
    }
    let command = Freehold::command();
    command.clone().debug_assert();
    let mut without = Vec::new();
    leaves(&command, "", &mut without);
    assert_eq!(without, Vec::<String>::new());
}

#[test]
fn arguments_are_checked_before_anything_is_sent() {
    for (arguments, says) in [
        (vec!["workspace", "get", "ws_1"], "32 lowercase hex"),
        (vec!["task", "submit", "text"], "--workspace <ID>|--role <NAME>"),
        (vec!["task", "submit", "--role", "a", "--thinking-effort", "extreme", "x"], "high"),
        (vec!["provider", "create", "x", "--kind", "acme", "--domain", "d"], "anthropic"),
        (vec!["workspace", "exec", &format!("ws_{ID}")], "CMD"),
        (vec!["credential", "create", "x", "--provider", "p", "--api-key", "secret"], "unexpected"),
        (vec!["whoami", "--output", "xml"], "json"),
    ] {
        let error = Freehold::try_parse_from(["freehold"].iter().chain(&arguments)).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(exit::USAGE));
        assert!(error.to_string().contains(says), "{arguments:?}\n{error}");
    }
}

#[test]
fn the_kinds_of_credentials_are_spelt_as_the_api_spells_them() {
    for kind in ["api_key", "basic_auth", "query_api_key", "api-key"] {
        let arguments = ["freehold", "credential", "create", "x", "--provider", "p", "--kind", kind];
        Freehold::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_said_to_be_none() {
    let mut person = Person::new("127.0.0.1:7070");
    person.key = None;
    let ran = person.runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::USAGE, "{}", ran.err);
    assert!(ran.err.contains("cannot be used"), "{}", ran.err);
}

#[tokio::test]
async fn json_is_the_apis_answer_to_the_letter_and_a_table_is_for_people() {
    let answer = format!("{{ \"agent_roles\":   [{}], \"newer\": true }}", role());
    let served = answer.clone();
    let person = serve(Router::new().route("/v1/agent-roles", get(async move || served))).await;
    let ran = person.runs(&["role", "list", "--output", "json"]).await;
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (exit::OK, answer + "\n", ""));
    let ran = person.runs(&["role", "list"]).await;
    let expected = format!(
        "NAME   ID                                      PROVIDER                                   MODEL  \
         ENVIRONMENT  STATE   CREATED\n\
         coder  agent_{ID}  provider_{ID}  -      development  active  2026-01-01T00:00:00Z\n"
    );
    assert_eq!((ran.code, ran.out), (exit::OK, expected));
}

#[tokio::test]
async fn tables_name_what_ids_stand_for_and_json_does_not() {
    let provider = json!({"id": format!("provider_{ID}"), "org_id": format!("org_{ID}"), "name": "claude", "kind": "anthropic",
        "domain": "a.test", "config": {}, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"});
    let workspace = json!({"id": format!("ws_{ID}"), "org_id": format!("org_{ID}"), "role_id": format!("agent_{ID}"),
        "status": "idle", "pack_status": "current", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "archived_at": null});
    let (one, all) = (workspace.clone(), json!({"workspaces": [workspace]}));
    let providers = json!({"providers": [provider.clone()]});
    let router = Router::new()
        .route("/v1/agent-roles", get(async || Json(json!({"agent_roles": [role()]}))))
        .route("/v1/agent-roles/{id}", get(async || Json(role())))
        .route("/v1/providers", get(async move || Json(providers)))
        .route("/v1/providers/{id}", get(async move || Json(provider)))
        .route("/v1/workspaces", get(async move || Json(all)))
        .route("/v1/workspaces/{id}", get(async move || Json(one)));
    let person = serve(router).await;
    let listed = person.runs(&["workspace", "list"]).await.out;
    assert!(listed.contains("idle    coder  "), "{listed}");
    let listed = person.runs(&["role", "list"]).await.out;
    assert!(listed.contains("  claude    -  "), "{listed}");
    let shown = person.runs(&["workspace", "get", &format!("ws_{ID}")]).await.out;
    assert!(shown.contains(&format!("role_id      agent_{ID} (coder)\n")), "{shown}");
    let shown = person.runs(&["role", "get", "coder"]).await.out;
    assert!(shown.contains(&format!("provider_id   provider_{ID} (claude)\n")), "{shown}");
    let json = person.runs(&["workspace", "list", "--output", "json"]).await.out;
    assert!(!json.contains("coder"), "{json}");
}

#[tokio::test]
async fn without_the_right_to_see_roles_a_table_shows_their_ids() {
    let workspace = json!({"id": format!("ws_{ID}"), "org_id": format!("org_{ID}"), "role_id": format!("agent_{ID}"),
        "status": "idle", "pack_status": "current", "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "archived_at": null});
    let router = Router::new()
        .route("/v1/agent-roles", get(async || error(403, "permission_denied")))
        .route("/v1/workspaces", get(async move || Json(json!({"workspaces": [workspace]}))));
    let ran = serve(router).await.runs(&["workspace", "list"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (exit::OK, ""));
    assert!(ran.out.contains(&format!("agent_{ID}")), "{}", ran.out);
}

#[tokio::test]
async fn flags_of_every_verb_stand_before_it_as_well_as_after() {
    let mut person =
        serve(Router::new().route("/v1/agent-roles", get(async || Json(json!({"agent_roles": []}))))).await;
    let url = person.url.take().unwrap();
    let joined = format!("--url={url}");
    for arguments in [
        vec!["--url", &url, "--output", "json", "role", "list"],
        vec![&joined, "-o", "json", "role", "list"],
        vec!["-ojson", "role", "--url", &url, "list"],
        vec!["role", "list", "--url", &url, "--output=json"],
    ] {
        let ran = person.runs(&arguments).await;
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (exit::OK, "{\"agent_roles\":[]}\n"),
            "{arguments:?} {}",
            ran.err
        );
    }
}

#[tokio::test]
async fn a_key_on_the_command_line_is_warned_of_and_not_repeated() {
    let mut person = serve(Router::new().route("/v1/me/session", get(async || Json(me())))).await;
    person.key = None;
    for verb in [["login"], ["whoami"]] {
        let ran = person.runs(&[&["--key", "pt_on-the-line"], &verb[..]].concat()).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert!(ran.err.contains("warning: other users"), "{}", ran.err);
        assert!(!(ran.out + &ran.err).contains("pt_on-the-line"));
    }
}

#[tokio::test]
async fn a_task_named_without_its_workspace_is_told_how_to_be_found() {
    let error = Freehold::try_parse_from(["freehold", "task", "get", &format!("task_{ID}")]).unwrap_err();
    assert_eq!(error.exit_code(), i32::from(exit::USAGE));
    let text = error.to_string();
    assert!(text.contains(&format!("freehold task get WORKSPACE task_{ID}")), "{text}");
    assert!(text.contains("freehold workspace list"), "{text}");
    let ran = Person::new("http://127.0.0.1:1").runs(&["task", "get", &format!("ws_{ID}")]).await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.err.contains(&format!("hint: `freehold task list ws_{ID}`")), "{}", ran.err);
}

#[tokio::test]
async fn colours_are_there_when_wanted_and_only_then() {
    let answer = json!({"agent_roles": [role()]});
    let mut person = serve(Router::new().route("/v1/agent-roles", get(async move || Json(answer)))).await;
    assert!(!person.runs(&["role", "list"]).await.out.contains('\u{1b}'));
    person.colour = true;
    assert!(person.runs(&["role", "list"]).await.out.contains("\u{1b}["));
}

#[tokio::test]
async fn a_name_is_accepted_where_an_id_is() {
    let router =
        Router::new().route("/v1/agent-roles", get(async || Json(json!({"agent_roles": [role()]})))).route(
            "/v1/agent-roles/{id}",
            get(async |UrlPath(id): UrlPath<String>| {
                assert_eq!(id, format!("agent_{ID}"));
                Json(role())
            }),
        );
    let person = serve(router).await;
    let ran = person.runs(&["role", "get", "coder"]).await;
    assert!(ran.out.starts_with(&format!("id            agent_{ID}\nname          coder\n")), "{}", ran.out);
    assert!(ran.out.contains("capabilities\n  - name: a\n    type: http\n"), "{}", ran.out);
    let ran = person.runs(&["role", "get", "nobody"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::NOT_FOUND, ""));
    assert!(ran.err.starts_with("error: there is no role `nobody`\nhint: "), "{}", ran.err);
}

#[tokio::test]
async fn an_error_of_the_api_has_its_exit_code_and_a_hint_on_stderr() {
    for (status, slug, code) in [
        (400, "validation_error", exit::OTHER),
        (401, "unauthorized", exit::NOT_SIGNED_IN),
        (403, "permission_denied", exit::DENIED),
        (404, "workspace_not_found", exit::NOT_FOUND),
        (409, "invalid_state", exit::CONFLICT),
        (503, "unavailable", exit::OTHER),
    ] {
        let person =
            serve(Router::new().route("/v1/workspaces/{id}", get(async move || error(status, slug)))).await;
        let ran = person.runs(&["workspace", "get", &format!("ws_{ID}")]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{slug}");
        assert!(ran.err.starts_with(&format!("error: as scripted\n  {slug} (request 7f)\n")), "{}", ran.err);
    }
    let person = Person::new("http://127.0.0.1:1");
    let ran = person.runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::UNREACHABLE, "{}", ran.err);
    assert!(ran.err.contains("hint: "), "{}", ran.err);
}

#[tokio::test]
async fn a_login_is_kept_for_the_owners_eyes_and_used_afterwards() {
    let check = async |headers: HeaderMap| {
        if headers["authorization"] == "Bearer pt_good" {
            Json(me()).into_response()
        } else {
            error(401, "unauthorized")
        }
    };
    let mut person = serve(Router::new().route("/v1/me/session", get(check))).await;
    let url = person.url.take().unwrap();
    person.key = None;
    let ran = person.runs(&["whoami"]).await;
    assert_eq!(ran.code, exit::NOT_SIGNED_IN);

    person.stdin = b"pt_bad\n".to_vec();
    let ran = person.runs(&["login", "--url", &url]).await;
    assert_eq!(ran.code, exit::NOT_SIGNED_IN);
    assert!(ran.err.contains("does not know this key") && !ran.err.contains("freehold login"), "{}", ran.err);
    let file = person.home.path().join("freehold/credentials");
    assert!(!file.exists());

    person.stdin = b"pt_good\n".to_vec();
    let ran = person.runs(&["login", "--url", &url, "--key-stdin"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (exit::OK, ""), "{}", ran.err);
    assert!(!ran.err.contains("pt_good"));
    assert_private(&file);
    let ran = person.runs(&["whoami"]).await;
    assert!(ran.out.contains("owner@example.com"), "{} {}", ran.out, ran.err);

    for (variable, is_told) in [("pt_good", false), ("pt_bad", true)] {
        person.key = Some(variable);
        let ran = person.runs(&["login", "--url", &url]).await;
        assert_eq!((ran.code, ran.err.contains("FREEHOLD_API_KEY")), (exit::OK, is_told), "{}", ran.err);
    }
    person.key = None;

    // The saved key is not shown to another server.
    let ran = person.runs(&["whoami", "--url", "http://127.0.0.1:1"]).await;
    assert_eq!(ran.code, exit::NOT_SIGNED_IN);
}

fn assert_private(file: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(file.exists());
}

#[tokio::test]
async fn what_destroys_asks_first_and_refuses_where_nobody_can_answer() {
    let router = Router::new()
        .route("/v1/workspaces/{id}", axum::routing::delete(async || Json(json!({"status": "deleted"}))));
    let mut person = serve(router).await;
    let id = format!("ws_{ID}");
    let ran = person.runs(&["workspace", "delete", &id]).await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.err.contains("hint: pass --yes"), "{}", ran.err);
    assert_eq!(person.runs(&["workspace", "delete", &id, "--yes"]).await.code, exit::OK);
    person.at_terminal = true;
    for (reply, code) in
        [("y\n", exit::OK), ("YES\n", exit::OK), ("n\n", exit::OTHER), ("\n", exit::OTHER), ("", exit::OTHER)]
    {
        person.stdin = reply.into();
        assert_eq!(person.runs(&["workspace", "delete", &id]).await.code, code, "{reply:?}");
    }
}

#[tokio::test]
async fn a_secret_comes_from_stdin_and_a_policy_from_a_file() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (credentials, roles) = (Arc::clone(&seen), Arc::clone(&seen));
    let router = Router::new()
        .route(
            "/v1/credentials",
            post(async move |Json(body): Json<Value>| {
                credentials.lock().unwrap().push(body);
                error(409, "name_taken")
            }),
        )
        .route(
            "/v1/agent-roles",
            post(async move |Json(body): Json<Value>| {
                roles.lock().unwrap().push(body);
                (StatusCode::CREATED, Json(role()))
            }),
        );
    let mut person = serve(router).await;
    person.stdin = b"hunter2 \r\n".to_vec();
    let ran = person
        .runs(&[
            "credential",
            "create",
            "wiki",
            "--provider",
            "wiki",
            "--kind",
            "basic-auth",
            "--config",
            "username=bot",
        ])
        .await;
    assert_eq!(ran.code, exit::CONFLICT);
    let policy = person.home.path().join("caps.yaml");
    std::fs::write(&policy, "- name: b\n").unwrap();
    let provider = format!("provider_{ID}");
    let policy = policy.to_str().unwrap();
    let ran =
        person.runs(&["role", "create", "coder", "--provider", &provider, "--capabilities", policy]).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    let seen = seen.lock().unwrap();
    let expected = json!({"name": "wiki", "provider": "wiki", "kind": "basic_auth", "password": "hunter2 ",
                          "provider_config": {"username": "bot"}});
    assert_eq!(seen[0], expected);
    assert_eq!(seen[1]["capabilities"], "- name: b\n");
}

#[tokio::test]
async fn exec_passes_output_and_exit_code_on() {
    let router = Router::new().route(
        "/v1/workspaces/{id}/exec",
        post(async |Json(body): Json<Value>| {
            let expected =
                json!({"command": ["sh", "-c", "x"], "timeout_seconds": 5, "working_directory": "/tmp"});
            assert_eq!(body, expected);
            "{\"stream\":\"stdout\",\"data_base64\":\"bwAbCg==\"}\n{\"stream\":\"stderr\",\"data_base64\":\"ZQ==\"}\n\
             {\"exit_code\":42,\"timed_out\":false}\n"
        }),
    );
    let person = serve(router).await;
    let id = format!("ws_{ID}");
    let ran = person
        .runs(&["workspace", "exec", &id, "--timeout", "5", "--cwd", "/tmp", "--", "sh", "-c", "x"])
        .await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (42, "o\0\u{1b}\n", "e"));
}

/// A server on which a task runs that ends with `status`; its rows are streamed as soon as somebody listens.
async fn with_task(status: &'static str) -> Person {
    let row = |n: u32, event_type: &str, detail: Value| {
        let data = json!({
            "id": format!("event_{n:032x}"), "org_id": format!("org_{ID}"), "user_id": "system",
            "timestamp": format!("2026-01-01T00:00:0{n}Z"), "event_type": event_type, "category": "activity",
            "actor": "agent", "workspace_id": format!("ws_{ID}"), "task_id": format!("task_{ID}"), "detail": detail,
        });
        format!("event: activity\nid: {n}\ndata: {data}\n\n")
    };
    let text = [
        row(1, "iteration_completed", json!({"iteration": 1, "text": "All is done."})),
        row(2, "task_completed", json!({"status": status, "iterations": 1})),
    ]
    .concat();
    let decision = json!({
        "id": format!("event_{:032x}", 99), "org_id": format!("org_{ID}"), "user_id": "system",
        "timestamp": "2026-01-01T00:00:01Z", "event_type": "policy_decision", "category": "audit",
        "actor": "policy-engine", "workspace_id": format!("ws_{ID}"), "task_id": format!("task_{ID}"),
        "decision": "deny", "method": "GET", "destination": "x.test", "path": "/", "reason": "no rule",
    });
    let task = json!({"id": format!("task_{ID}"), "org_id": format!("org_{ID}"), "workspace_id": format!("ws_{ID}"),
                      "description": "work", "status": status, "created_at": "2026-01-01T00:00:00Z"});
    let submitted =
        json!({"task_id": format!("task_{ID}"), "workspace_id": format!("ws_{ID}"), "status": "submitted"});
    let router = Router::new()
        .route(
            "/v1/activity/stream",
            get(async move || {
                let chunks = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(text))]);
                let open = futures::stream::pending();
                axum::body::Body::from_stream(futures::StreamExt::chain(chunks, open)).into_response()
            }),
        )
        .route("/v1/workspaces/{id}/tasks", post(async move || (StatusCode::ACCEPTED, Json(submitted))))
        .route("/v1/workspaces/{id}/tasks/{tid}", get(async move || Json(task)))
        .route("/v1/workspaces/{id}/audit", get(async move || Json(json!({"events": [decision]}))));
    serve(router).await
}

#[tokio::test]
async fn a_followed_task_shows_its_steps_and_its_end_is_the_exit_code() {
    for (status, code) in [
        ("completed", exit::OK),
        ("failed", exit::TASK_FAILED),
        ("cancelled", exit::TASK_CANCELLED),
        ("delivery_failed", exit::TASK_DELIVERY_FAILED),
    ] {
        let person = with_task(status).await;
        let workspace = format!("ws_{ID}");
        let ran = person.runs(&["task", "submit", "--workspace", &workspace, "--follow", "work"]).await;
        assert_eq!(ran.code, code, "{}", ran.err);
        assert!(ran.err.contains("All is done.") && ran.err.contains(status), "{}", ran.err);
        assert_eq!(ran.err.matches("denied   GET x.test/").count(), 1, "{}", ran.err);
        assert!(
            ran.out.starts_with(&format!("id            task_{ID}\nstatus        {status}\n")),
            "{}",
            ran.out
        );
    }
}

/// A server on which a followed task cannot be read at first; its end is streamed once it can, if ever.
async fn away(refusals: u32, status: u16, code: &'static str) -> Person {
    let asked = Arc::new(AtomicU32::new(0));
    let back = Arc::new(Notify::new());
    let end = json!({
        "id": format!("event_{:032x}", 1), "org_id": format!("org_{ID}"), "user_id": "system",
        "timestamp": "2026-01-01T00:00:01Z", "event_type": "task_completed", "category": "activity", "actor": "agent",
        "workspace_id": format!("ws_{ID}"), "task_id": format!("task_{ID}"), "detail": {"status": "completed", "iterations": 1},
    });
    let task = json!({"id": format!("task_{ID}"), "org_id": format!("org_{ID}"), "workspace_id": format!("ws_{ID}"),
                      "description": "work", "status": "completed", "created_at": "2026-01-01T00:00:00Z"});
    let submitted =
        json!({"task_id": format!("task_{ID}"), "workspace_id": format!("ws_{ID}"), "status": "submitted"});
    let is_back = Arc::clone(&back);
    let reads = Arc::clone(&asked);
    let router = Router::new()
        .route(
            "/v1/activity/stream",
            get(async move || {
                let event = futures::stream::once(async move {
                    back.notified().await;
                    Ok::<_, std::io::Error>(Bytes::from(format!("event: activity\nid: 1\ndata: {end}\n\n")))
                });
                axum::body::Body::from_stream(event).into_response()
            }),
        )
        .route("/v1/workspaces/{id}/tasks", post(async move || (StatusCode::ACCEPTED, Json(submitted))))
        .route(
            "/v1/workspaces/{id}/tasks/{tid}",
            get(async move || match reads.load(Relaxed) < refusals {
                true => error(status, code),
                false => Json(task).into_response(),
            }),
        )
        .route(
            "/v1/workspaces/{id}/audit",
            get(async move || {
                if asked.fetch_add(1, Relaxed) < refusals {
                    return error(status, code);
                }
                is_back.notify_one();
                Json(json!({"events": []})).into_response()
            }),
        );
    serve(router).await
}

#[tokio::test]
async fn a_task_is_followed_on_when_the_server_was_away() {
    let person = away(12, 503, "unavailable").await;
    let workspace = format!("ws_{ID}");
    let ran = person.runs(&["task", "submit", "--workspace", &workspace, "--follow", "work"]).await;
    assert_eq!(ran.code, exit::OK, "{}", ran.err);
    assert!(ran.err.starts_with(&format!("task_{ID} in ws_{ID}\n")), "{}", ran.err);
    for words in ["trying again", "the server answers again"] {
        assert_eq!(ran.err.matches(words).count(), 1, "{}", ran.err);
    }
}

#[tokio::test]
async fn who_can_follow_a_task_no_further_is_told_that_it_goes_on() {
    let person = away(u32::MAX, 401, "unauthorized").await;
    let workspace = format!("ws_{ID}");
    let ran = person.runs(&["task", "submit", "--workspace", &workspace, "--follow", "work"]).await;
    assert_eq!(ran.code, exit::NOT_SIGNED_IN, "{}", ran.err);
    let hint = format!("hint: the task goes on: `freehold task get ws_{ID} task_{ID}`");
    assert!(ran.err.contains(&hint), "{}", ran.err);
}

#[tokio::test]
async fn a_cancel_says_how_long_it_may_take_or_that_nothing_ran() {
    for (status, says) in [("completed", "No task was running there"), ("running", "within 30 seconds")] {
        let task = json!({"id": format!("task_{ID}"), "org_id": format!("org_{ID}"), "workspace_id": format!("ws_{ID}"),
                          "description": "work", "status": status, "created_at": "2026-01-01T00:00:00Z"});
        let router = Router::new()
            .route("/v1/workspaces/{id}/tasks", get(async move || Json(json!([task]))))
            .route("/v1/workspaces/{id}/task/cancel", post(async || StatusCode::NO_CONTENT));
        let ran = serve(router).await.runs(&["task", "cancel", &format!("ws_{ID}")]).await;
        assert_eq!(ran.code, exit::OK, "{}", ran.err);
        assert!(ran.err.contains(says), "{}", ran.err);
    }
}

#[tokio::test]
async fn completions_are_of_the_whole_command_line() {
    let ran = Person::new("http://127.0.0.1:1").runs(&["completions", "bash"]).await;
    assert_eq!(ran.code, exit::OK);
    assert!(ran.out.contains("stop-workspaces"));
}

#[tokio::test]
async fn a_live_demo_without_a_key_says_what_is_missing() {
    let ran = Person::new("http://127.0.0.1:1").runs(&["demo", "--live", "do it"]).await;
    assert_eq!(ran.code, exit::USAGE);
    assert!(ran.err.contains("ANTHROPIC_API_KEY"), "{}", ran.err);
}
