//! Grants and tokens: pushed, in force at once, and nothing without them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use freehold_egress::{Listeners, token::Minter};
use freehold_model::{PodId, TaskId, WorkspaceId};
use hickory_proto::rr::{RData, RecordType};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use uuid::Uuid;

use crate::{
    harness::{CAPS, Kept, PATIENCE, Proxy, http1_on, plain_by_hand, read},
    upstream::{Speaks, Upstream},
};

const PLAIN: &str = "
- name: plain
  type: http
  allow:
    - {domains: [plain.test], methods: [GET], allow_insecure: true}
";

#[tokio::test]
async fn without_a_grant_everything_is_denied() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.handle.revoke(proxy.pod.workspace_id);
    for (name, path) in [("api.test", "/open/a"), ("model.test", "/v1/models")] {
        let answer = proxy.get(name, path).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "no_grant"));
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_new_grant_is_in_force_for_the_next_request_of_an_open_connection() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http1("api.test").await;
    for (caps, status) in [(CAPS, StatusCode::OK), ("", StatusCode::FORBIDDEN), (CAPS, StatusCode::OK)] {
        proxy.publish(caps, Ok(("x-api-key", "s3cret")));
        sender.ready().await.unwrap();
        let request = Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
        assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, status);
    }
}

#[tokio::test]
async fn without_a_valid_token_everything_is_denied() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let other_workspace = {
        let mut subject = proxy.subject(None);
        subject.workspace_id = WorkspaceId::from_uuid(Uuid::now_v7());
        proxy.minter.mint(&subject, PATIENCE).unwrap()
    };
    let forged = Minter::generate().unwrap().mint(&proxy.subject(None), PATIENCE).unwrap();
    for token in [other_workspace, forged, String::new()] {
        proxy.set_token(None, PATIENCE);
        assert!(proxy.handle.set_token(proxy.pod.pod_id, &token).is_err());
        let answer = proxy.get("api.test", "/open/a").await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "no_token"));
    }
    assert_eq!(upstream.count(), 0);
    assert!(proxy.handle.set_token(PodId::from_uuid(Uuid::now_v7()), "").is_err());
}

#[tokio::test]
async fn a_token_that_expires_ends_what_its_connections_may_do_unless_it_is_renewed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.set_token(None, Duration::from_secs(2));
    let mut sender = proxy.http1("api.test").await;
    let ask = || Request::get("/open/a").header("host", "api.test").body(Full::default()).unwrap();
    assert_eq!(read(sender.send_request(ask()).await.unwrap()).await.status, StatusCode::OK);
    let denied = tokio::time::timeout(PATIENCE, async {
        loop {
            sender.ready().await.unwrap();
            let answer = read(sender.send_request(ask()).await.unwrap()).await;
            if answer.status == StatusCode::FORBIDDEN {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(denied.await.unwrap().reason(), "token_expired");
    proxy.set_token(None, PATIENCE);
    assert_eq!(proxy.get("api.test", "/open/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn connections_of_one_task_serve_no_request_of_the_next() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let [first, second] = [1, 2].map(|n| TaskId::from_uuid(Uuid::from_u128(n)));
    proxy.set_token(Some(first), PATIENCE);
    let mut sender = proxy.http1("api.test").await;
    let request = Request::get("/open/first").header("host", "api.test").body(Full::default()).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
    // The same task's renewed token leaves the connection as it is.
    proxy.set_token(Some(first), PATIENCE);
    assert!(sender.ready().await.is_ok());
    proxy.set_token(Some(second), PATIENCE);
    let closed = tokio::time::timeout(PATIENCE, async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    closed.await.unwrap();
    assert_eq!(proxy.get("api.test", "/open/second").await.status, StatusCode::OK);
    for (path, task) in [("/open/first", first), ("/open/second", second)] {
        let row = proxy.rows.find(|row| row.path.as_deref() == Some(path)).await;
        assert_eq!(row.task_id, Some(task));
    }
}

/// Programs of a task that is over may open connections and speak later.
#[tokio::test]
async fn a_connection_is_of_the_task_that_ran_when_it_was_accepted_however_late_it_speaks() {
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start(&upstream).await;
    let [first, second] = [1, 2].map(|n| TaskId::from_uuid(Uuid::from_u128(n)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (at, to) =
        (listener.local_addr().unwrap(), SocketAddr::new(proxy.resolve("plain.test").await.ip(), 80));
    let accepted = Arc::new(Notify::new());
    let tells = Arc::clone(&accepted);
    let listeners = Listeners::asking(vec![listener], Vec::new(), move |_| {
        tells.notify_one();
        Ok(to)
    });
    let token = proxy.minter.mint(&proxy.subject(Some(first)), PATIENCE).unwrap();
    proxy.handle.attach(proxy.pod, listeners, Some(&token)).unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    tokio::time::timeout(PATIENCE, accepted.notified()).await.unwrap();
    proxy.set_token(Some(second), PATIENCE);
    stream.write_all(b"GET /late HTTP/1.1\r\nhost: plain.test\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // A connection with unread bytes is reset where it is closed.
    _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("no end");
    assert_eq!((answer.len(), upstream.count()), (0, 0));
}

#[tokio::test]
async fn a_detached_pod_is_cut_off_and_can_be_attached_again() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let mut sender = proxy.http1("api.test").await;
    proxy.handle.detach(proxy.pod.pod_id);
    let cut = tokio::time::timeout(PATIENCE, async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    cut.await.unwrap();
    proxy.attach();
    proxy.set_token(None, PATIENCE);
    assert_eq!(proxy.get("api.test", "/open/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn of_a_workspace_that_is_stopped_nothing_is_kept_but_its_names_and_it_can_be_started_again() {
    let (proxy, listener, _) = plain_by_hand().await;
    let proxy = Arc::new(proxy);
    let ask = || {
        let proxy = Arc::clone(&proxy);
        async move {
            let mut client = http1_on(proxy.connect_name("plain.test", 80).await).await;
            let request = Request::get("/").header("host", "plain.test").body(Full::default()).unwrap();
            read(client.send_request(request).await.unwrap()).await
        }
    };
    let passes = async || {
        proxy.publish_with(PLAIN, Kept::default());
        let asking = tokio::spawn(ask());
        let (mut upstream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(tokio::time::timeout(PATIENCE, upstream.read_u8()).await.unwrap().unwrap());
        }
        upstream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        assert_eq!(asking.await.unwrap().status, StatusCode::ACCEPTED);
        upstream
    };
    let (mut upstream, address) = (passes().await, proxy.resolve("plain.test").await);
    proxy.handle.detach(proxy.pod.pod_id);
    proxy.handle.release(proxy.pod.workspace_id);
    // A connection that was kept for the next request.
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, upstream.read_to_end(&mut rest)).await.expect("it is kept").unwrap();
    proxy.attach();
    proxy.set_token(None, PATIENCE);
    assert_eq!(ask().await.reason(), "no_grant");
    passes().await;
    assert_eq!(proxy.resolve("plain.test").await, address);
}

#[tokio::test]
async fn after_a_restart_the_same_listeners_serve_again_once_grant_and_token_are_there() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let ca = proxy.handle.ca_pem().to_owned();
    let proxy = proxy.restart().await;
    assert_eq!(proxy.handle.ca_pem(), ca);
    assert_eq!(proxy.get("api.test", "/open/a").await.reason(), "no_token");
    proxy.set_token(None, PATIENCE);
    assert_eq!(proxy.get("api.test", "/open/a").await.reason(), "no_grant");
    proxy.publish(CAPS, Ok(("x-api-key", "s3cret")));
    assert_eq!(proxy.get("api.test", "/open/a").await.status, StatusCode::OK);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.connections_per_pod_max = 1).await;
    let first = proxy.https("api.test").await;
    let proxy = Arc::new(proxy);
    let second = tokio::spawn({
        let proxy = Arc::clone(&proxy);
        async move { proxy.get("api.test", "/open/second").await.status }
    });
    let mut sender = http1_on(first).await;
    let request = Request::get("/open/first").header("host", "api.test").body(Full::default()).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
    assert!(!second.is_finished());
    drop(sender);
    assert_eq!(tokio::time::timeout(PATIENCE, second).await.unwrap().unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn listeners_of_ipv6_serve_like_those_of_ipv4() {
    let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
        return eprintln!("skipped: this machine has no IPv6 loopback");
    };
    // Bound to any address, as in a pod: the answer must leave with the address that was asked.
    let dns = std::net::UdpSocket::bind("[::]:0").unwrap();
    let (at, dns_port) = (listener.local_addr().unwrap(), dns.local_addr().unwrap().port());
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut proxy = Proxy::start(&upstream).await;
    proxy.dns = format!("[::1]:{dns_port}").parse().unwrap();
    let destination = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let original = Arc::clone(&destination);
    let listeners = Listeners::asking(vec![listener], vec![dns], move |_| Ok(*original.get().unwrap()));
    proxy.handle.attach(proxy.pod, listeners, None).unwrap();
    proxy.set_token(None, PATIENCE);
    let reply = proxy.ask("api.test", RecordType::AAAA).await;
    let Some(RData::AAAA(address)) = reply.answers.first().map(|record| &record.data) else {
        panic!("no address in {reply:?}")
    };
    destination.set((std::net::Ipv6Addr::from(*address), 443).into()).unwrap();
    let stream = TcpStream::connect(at).await.unwrap();
    let mut sender = http1_on(proxy.tls(stream, "api.test", b"http/1.1").await).await;
    let request = Request::get("/open/six").header("host", "api.test").body(Full::default()).unwrap();
    assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, StatusCode::OK);
}
