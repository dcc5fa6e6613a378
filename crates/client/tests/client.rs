//! The client against a small real server that behaves as scripted.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Multipart, Path, RawQuery},
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use freehold_client::{ActivityScope, Client, Error, ExecEvent, Key, api};
use freehold_model::{EventId, RoleId, WorkspaceId};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const ID: &str = "01933b5a000070008000000000000001";

fn workspace() -> WorkspaceId {
    format!("ws_{ID}").parse().unwrap()
}

async fn serve(router: Router) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Client::new(&address, Key::new("sk_test")).unwrap()
}

#[tokio::test]
async fn a_query_and_the_key_are_sent_and_the_answer_keeps_its_text() {
    let body = "{ \"workspaces\": [ ], \"cursor\": \"next\", \"newer\": 1 }";
    let client = serve(Router::new().route(
        "/v1/workspaces",
        get(async move |headers: HeaderMap, RawQuery(query): RawQuery| {
            assert_eq!(headers["authorization"], "Bearer sk_test");
            assert_eq!(query.unwrap(), "include_archived=true&role_name=a+b");
            body
        }),
    ))
    .await;
    let query = api::workspace::WorkspaceListQuery {
        include_archived: Some(true),
        role_name: Some("a b".to_owned()),
        ..Default::default()
    };
    let answer = client.workspace_list(&query).await.unwrap();
    assert_eq!(answer.text(), body);
    assert_eq!(answer.cursor.as_deref(), Some("next"));
}

#[tokio::test]
async fn an_error_of_the_api_comes_with_its_fields_and_a_hint() {
    let client = serve(Router::new().route(
        "/v1/me/session",
        get(async || {
            let details = json!({"fields": {"a": "is wrong"}});
            let error = json!({"code": "unauthorized", "message": "no such key", "request_id": "7f", "details": details});
            (StatusCode::UNAUTHORIZED, Json(json!({"error": error})))
        }),
    ))
    .await;
    let error = client.me_session_view().await.unwrap_err();
    let api = error.api().unwrap();
    assert_eq!((api.status, api.code.as_str(), api.request_id.as_str()), (401, "unauthorized", "7f"));
    assert_eq!(api.fields(), [("a".to_owned(), "is wrong".to_owned())]);
    assert_eq!(error.to_string(), "no such key");
    assert!(error.hint().unwrap().contains("freehold login"));
}

#[tokio::test]
async fn an_error_that_is_no_envelope_or_has_an_unknown_code_is_still_told() {
    let teapot = async || {
        let error = json!({"code": "brand_new", "message": "new", "request_id": "1"});
        (StatusCode::IM_A_TEAPOT, Json(json!({"error": error})))
    };
    let client = serve(
        Router::new()
            .route("/v1/me/session", get(async || (StatusCode::BAD_GATEWAY, "<html>nginx</html>")))
            .route("/v1/config", get(teapot)),
    )
    .await;
    let error = client.me_session_view().await.unwrap_err();
    assert!(error.to_string().contains("502") && error.to_string().contains("nginx"), "{error}");
    let error = client.config_view().await.unwrap_err();
    assert_eq!(error.api().unwrap().code, "brand_new");
    assert_eq!(error.hint(), None);
}

#[tokio::test]
async fn nobody_at_the_address_is_unreachable_and_no_api_there_a_contract_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Client::new(&address, Key::new("sk_x")).unwrap().config_view().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");

    let client = serve(Router::new().route("/v1/config", get(async || "hello"))).await;
    let error = client.config_view().await.unwrap_err();
    assert!(matches!(error, Error::Contract { operation: "config_view", .. }), "{error:?}");
}

/// Answers the n-th connection with `answer(n, request)`, then closes it; without an answer it just closes.
async fn raw_server(
    answer: impl Fn(u32, &str) -> Option<String> + Send + Sync + 'static,
) -> (Client, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let n = counted.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            if let Some(text) = answer(n, &String::from_utf8_lossy(&head)) {
                stream.write_all(text.as_bytes()).await.ok();
            }
        }
    });
    (Client::new(&address, Key::new("sk_x")).unwrap(), count)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_read_is_tried_again_when_the_connection_breaks_and_a_change_is_not() {
    let (client, count) = raw_server(|n, _| (n >= 2).then(|| ok("{\"stopping\": 1}"))).await;
    let error = client.workspace_stop_all().await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 1);

    let health = ok("{\"status\": \"ok\", \"version\": \"1\"}");
    let (client, count) = raw_server(move |n, _| (n >= 2).then(|| health.clone())).await;
    assert_eq!(client.health_view().await.unwrap().status, "ok");
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_creation_is_repeated_with_the_same_idempotency_key() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&keys);
    let answer =
        json!({"task_id": format!("task_{ID}"), "workspace_id": format!("ws_{ID}"), "status": "submitted"});
    let (client, _) = raw_server(move |n, head| {
        let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).map(str::to_owned);
        seen.lock().unwrap().push(key.unwrap());
        (n >= 1).then(|| ok(&answer.to_string()))
    })
    .await;
    let task = api::task::TaskCreate { description: "work".to_owned(), ..Default::default() };
    client.task_create(&task, &[]).await.unwrap();
    client.task_create(&task, &[]).await.unwrap();
    let keys = keys.lock().unwrap();
    assert_eq!(keys.len(), 3);
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[1], keys[2]);
}

#[tokio::test]
async fn files_are_uploaded_beside_the_fields() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let parts = Arc::clone(&seen);
    let client = serve(Router::new().route(
        "/v1/workspaces/{id}/tasks",
        post(async move |Path(id): Path<String>, mut form: Multipart| {
            while let Some(field) = form.next_field().await.unwrap() {
                let name = field.name().unwrap().to_owned();
                let file = field.file_name().map(str::to_owned);
                let bytes = field.bytes().await.unwrap();
                parts.lock().unwrap().push((name, file, bytes));
            }
            let answer = json!({"task_id": format!("task_{ID}"), "workspace_id": id, "status": "submitted"});
            (StatusCode::ACCEPTED, Json(answer))
        }),
    ))
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.bin");
    std::fs::write(&path, [0_u8, 255, 10]).unwrap();
    let task = api::task::TaskSubmit {
        description: "line 1\nline 2".to_owned(),
        reset_session: Some(true),
        metadata: Some(json!({"a": 1})),
        ..Default::default()
    };
    client.task_submit(workspace(), &task, std::slice::from_ref(&path)).await.unwrap();
    let mut parts = seen.lock().unwrap().clone();
    parts.sort();
    let field =
        |name: &str, value: &'static str| (name.to_owned(), None, Bytes::from_static(value.as_bytes()));
    assert_eq!(
        parts,
        [
            field("description", "line 1\nline 2"),
            ("file".to_owned(), Some("data.bin".to_owned()), Bytes::from_static(&[0, 255, 10])),
            field("metadata", "{\"a\":1}"),
            field("reset_session", "true"),
        ]
    );
    let error = client.task_submit(workspace(), &task, &[dir.path().join("absent")]).await.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[tokio::test]
async fn output_of_a_command_streams_and_its_exit_code_ends_it() {
    let client = serve(Router::new().route(
        "/v1/workspaces/{id}/exec",
        post(async |Json(body): Json<Value>| {
            let mut text = "{\"stream\":\"stdout\",\"data_base64\":\"aGk=\"}\n".to_owned();
            text.push_str("{\"stream\":\"stderr\",\"data_base64\":\"/w==\"}\n");
            if body["command"][0] != "cut" {
                text.push_str("{\"exit_code\":3,\"timed_out\":false}\n");
            }
            // Cut in the middle of a line, as networks do.
            let (a, b) = text.split_at(20);
            let chunks = [a.to_owned(), b.to_owned()].map(Ok::<_, Infallible>);
            Body::from_stream(futures::stream::iter(chunks)).into_response()
        }),
    ))
    .await;
    let exec = |program: &str| api::workspace::WorkspaceExec {
        command: vec![program.to_owned()],
        timeout_seconds: None,
        working_directory: None,
    };
    let mut stream = client.workspace_exec(workspace(), &exec("x")).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), ExecEvent::Stdout(Bytes::from_static(b"hi")));
    assert_eq!(stream.next().await.unwrap(), ExecEvent::Stderr(Bytes::from_static(&[255])));
    assert_eq!(stream.next().await.unwrap(), ExecEvent::Ended { exit_code: 3, timed_out: false });

    let mut stream = client.workspace_exec(workspace(), &exec("cut")).await.unwrap();
    stream.next().await.unwrap();
    stream.next().await.unwrap();
    assert!(matches!(stream.next().await, Err(Error::Cut)));
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// The `n`-th row as the server sends it.
fn row(n: u32) -> String {
    let data = json!({
        "id": EventId::from_uuid(uuid::Uuid::from_u128(u128::from(n))), "org_id": format!("org_{ID}"),
        "user_id": "system", "timestamp": "2026-01-01T00:00:00Z", "event_type": "task_submitted",
        "category": "activity", "actor": "control-plane",
    });
    format!("event: activity\nid: {n}\ndata: {data}\n\n")
}

#[tokio::test]
async fn a_stream_that_ends_goes_on_without_loss_or_duplicate() {
    const ROWS: u32 = 40;
    let (client, count) = raw_server(|n, head| {
        let after: u32 = head
            .lines()
            .find_map(|line| line.strip_prefix("last-event-id: "))
            .map_or(0, |id| id.parse().unwrap());
        if n % 3 == 1 {
            return None;
        }
        // Repeats the last row, as a careless server might, sends a few more and breaks off in the middle of one.
        let rows: String = (after.max(1)..=(after + 9).min(ROWS)).map(row).collect();
        Some(format!("{STREAM_HEAD}: hi\n\n{rows}{}", &row(after + 10)[..30]))
    })
    .await;
    let stream = client.activity_stream(ActivityScope::Workspace(workspace()), None).await.unwrap();
    let ids = stream.take(ROWS as usize).map(|event| event.unwrap().id).collect::<Vec<_>>();
    let ids = tokio::time::timeout(std::time::Duration::from_secs(30), ids).await.unwrap();
    assert_eq!(ids, (1..=ROWS).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(count.load(Ordering::SeqCst) > 4);
}

#[tokio::test]
async fn a_stream_whose_key_is_revoked_ends_with_that_error() {
    let (client, _) = raw_server(|n, _| {
        let body = "{\"error\":{\"code\":\"unauthorized\",\"message\":\"revoked\",\"request_id\":\"1\"}}";
        Some(match n {
            0 => format!("{STREAM_HEAD}{}", row(1)),
            _ => format!("HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
        })
    })
    .await;
    let mut stream = client.activity_stream(ActivityScope::Organization, None).await.unwrap();
    assert!(stream.next().await.unwrap().unwrap().row.is_some());
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!(error.api().unwrap().status, 401);
}

#[tokio::test]
async fn a_row_of_an_unknown_kind_is_passed_on_as_text() {
    let (client, _) =
        raw_server(|_, _| Some(format!("{STREAM_HEAD}id: 1\ndata: {{\"event_type\":\"new\"}}\n\n"))).await;
    let mut stream = client.activity_stream(ActivityScope::Organization, None).await.unwrap();
    let event = stream.next().await.unwrap().unwrap();
    assert!(event.row.is_none());
    assert_eq!(event.text, "{\"event_type\":\"new\"}");
}

#[tokio::test]
async fn fields_of_a_change_are_absent_null_or_set() {
    let seen = Arc::new(Mutex::new(Value::Null));
    let sent = Arc::clone(&seen);
    let client = serve(Router::new().route(
        "/v1/agent-roles/{id}",
        axum::routing::patch(async move |Json(body): Json<Value>| {
            *sent.lock().unwrap() = body;
            StatusCode::NO_CONTENT
        }),
    ))
    .await;
    let change = api::role::RoleUpdate {
        model: Some(None),
        description: Some(Some("d".to_owned())),
        ..Default::default()
    };
    let id: RoleId = format!("agent_{ID}").parse().unwrap();
    // The scripted answer is empty, which is no role.
    assert!(matches!(client.role_update(id, &change).await, Err(Error::Contract { .. })));
    assert_eq!(*seen.lock().unwrap(), json!({"model": null, "description": "d"}));
}
