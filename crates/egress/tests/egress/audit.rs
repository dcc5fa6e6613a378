//! One honest row for each decision, before anything goes out, and none is lost.

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use freehold_model::{
    TaskId,
    audit::{Actor, AuditEvent, Category, Decision, EventType},
};
use http::{Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::{
    harness::{PATIENCE, Proxy, plain_by_hand},
    upstream::{Speaks, Upstream},
};

#[tokio::test]
async fn a_row_says_who_asked_for_what_and_which_rule_decided() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let task = TaskId::from_uuid(Uuid::now_v7());
    proxy.set_token(Some(task), Duration::from_secs(60));
    assert_eq!(proxy.send("api.test", Request::get("/open/a?secret=1")).await.status, StatusCode::OK);
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(
        (row.event_type, row.category, row.actor),
        (EventType::PolicyDecision, Category::Audit, Actor::PolicyEngine)
    );
    assert_eq!((row.org_id, row.workspace_id), (proxy.pod.organization_id, Some(proxy.pod.workspace_id)));
    assert_eq!((row.task_id, row.user_id.as_str()), (Some(task), "user_7"));
    assert_eq!((row.agent_role.as_deref(), row.agent_provider.as_deref()), (Some("reviewer"), Some("prod")));
    assert_eq!((row.destination.as_deref(), row.method.as_deref()), (Some("api.test"), Some("GET")));
    assert_eq!(row.path.as_deref(), Some("/open/a"));
    assert_eq!((row.decision, row.capability_name.as_deref()), (Some(Decision::Allow), Some("api")));
    assert_eq!((row.phase.as_deref(), row.policy_type.as_deref()), (Some("request_headers"), Some("http")));
    let detail = row.detail.unwrap();
    assert_eq!((detail["rule"].as_str(), detail["status"].as_u64()), (Some("read"), Some(200)));
    assert!(row.latency_ms.is_some());
}

#[tokio::test]
async fn each_request_is_one_row() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for path in ["/open/1", "/closed/2", "/open/3"] {
        proxy.get("api.test", path).await;
    }
    proxy.rows.find(|row| row.path.as_deref() == Some("/open/3")).await;
    let rows = proxy.rows.all();
    for path in ["/open/1", "/closed/2", "/open/3"] {
        assert_eq!(rows.iter().filter(|row| row.path.as_deref() == Some(path)).count(), 1, "{path}");
    }
}

#[tokio::test]
async fn the_row_is_in_the_spool_before_the_request_goes_upstream() {
    let (proxy, listener, mut client) = plain_by_hand().await;
    proxy.rows.refuse.store(true, Ordering::SeqCst);
    client.write_all(b"GET /held HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    // Its first byte is there, and nothing was answered.
    let (mut upstream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    upstream.read_exact(&mut [0]).await.unwrap();
    let spool = proxy.state_dir.path().join("egress/spool");
    let files = std::fs::read_dir(spool).unwrap().map(|file| std::fs::read(file.unwrap().path()).unwrap());
    // Each row with its length before it, the request's last.
    let row = files.filter_map(|bytes| {
        let mut rest = &bytes[..];
        let mut last = None;
        while let Some((length, after)) = rest.split_first_chunk() {
            let (record, after) = after.split_at(u32::from_le_bytes(*length).try_into().unwrap());
            (last, rest) = (Some(rmp_serde::from_slice::<AuditEvent>(record).unwrap()), after);
        }
        last
    });
    let row = row.last().unwrap();
    assert_eq!((row.path.as_deref(), row.decision), (Some("/held"), Some(Decision::Allow)));
}

#[tokio::test]
async fn rows_that_the_sink_did_not_take_are_offered_after_a_restart() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.rows.refuse.store(true, Ordering::SeqCst);
    proxy.get("api.test", "/closed/kept").await;
    let proxy = proxy.restart().await;
    assert!(proxy.rows.all().iter().all(|row| row.path.as_deref() != Some("/closed/kept")));
    proxy.rows.refuse.store(false, Ordering::SeqCst);
    let row = proxy.rows.with_reason("path_not_allowed").await;
    assert_eq!(row.path.as_deref(), Some("/closed/kept"));
}

#[tokio::test]
async fn when_rows_cannot_be_taken_requests_wait_and_are_then_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        // The name look-up takes one place, the first request the other.
        options.limits.audit_backlog_rows_max = 2;
        options.limits.audit_wait_ms = 50;
    })
    .await;
    let mut sender = proxy.http1("api.test").await;
    proxy.rows.find(|row| row.policy_type.as_deref() == Some("dns")).await;
    proxy.rows.refuse.store(true, Ordering::SeqCst);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let request = Request::get("/open/a").header("host", "api.test");
        let request = request.body(http_body_util::Full::default()).unwrap();
        sender.ready().await.unwrap();
        statuses.push(crate::harness::read(sender.send_request(request).await.unwrap()).await.status);
    }
    assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE]);
    assert_eq!(upstream.count(), 2);
}

/// Names the directory of the process that is to be killed.
const VICTIM: &str = "FREEHOLD_TEST_VICTIM";

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test runs itself as a second process, told by its environment"
)]
async fn a_row_outlives_kill_9_of_the_process_that_wrote_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    if let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) {
        // The second process: a request whose row no sink takes, and then no end.
        let proxy = Proxy::start_with(&upstream, |options| options.state_dir = dir.join("egress")).await;
        proxy.rows.refuse.store(true, Ordering::SeqCst);
        assert_eq!(proxy.get("api.test", "/open/victim").await.status, StatusCode::OK);
        std::fs::write(dir.join("ready"), "").unwrap();
        return std::future::pending().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut victim = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit::a_row_outlives_kill_9_of_the_process_that_wrote_it"])
        .env(VICTIM, dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ready = async {
        while !dir.path().join("ready").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    victim.kill().await.unwrap();
    let proxy = Proxy::start_with(&upstream, |options| options.state_dir = dir.path().join("egress")).await;
    let row = proxy.rows.find(|row| row.path.as_deref() == Some("/open/victim")).await;
    assert_eq!(row.reason.as_deref(), Some("rule_matched"));
}
