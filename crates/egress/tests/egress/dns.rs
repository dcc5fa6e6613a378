//! Every name has a made-up address, and every question a row.

use std::sync::atomic::Ordering;

use freehold_model::audit::Decision;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
};

use crate::{
    harness::{PATIENCE, Proxy},
    upstream::{Speaks, Upstream},
};

#[tokio::test]
async fn a_name_has_one_address_in_the_made_up_range_also_after_a_restart() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let first = proxy.resolve("api.test").await;
    assert!(first.ip().to_string().starts_with("198.18."));
    assert_ne!(proxy.resolve("other.test").await, first);
    assert_eq!(proxy.resolve("API.test.").await, first);
    let proxy = proxy.restart().await;
    assert_eq!(proxy.resolve("api.test").await, first);
    // A program that remembers the address needs no question.
    proxy.publish(crate::harness::CAPS, Err(freehold_egress::Unavailable("test")));
    proxy.set_token(None, PATIENCE);
    let mut to = first;
    to.set_port(443);
    let stream = proxy.connect(to).await;
    let mut sender = crate::harness::http1_on(proxy.tls(stream, "api.test", b"http/1.1").await).await;
    let request = http::Request::get("/open/a").header("host", "api.test");
    let answer = sender.send_request(request.body(http_body_util::Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), http::StatusCode::OK);
}

#[tokio::test]
async fn a_question_is_a_row_that_says_whether_any_rule_names_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (name, decision, reason, capability) in [
        ("api.test", Decision::Allow, "rule_matched", Some("api")),
        ("model.test", Decision::Allow, "rule_matched", Some("_provider")),
        ("exfiltrate.other.test", Decision::Deny, "domain_not_allowed", None),
    ] {
        proxy.ask(name, RecordType::AAAA).await;
        let row = proxy.rows.find(|row| row.destination.as_deref() == Some(name)).await;
        assert_eq!((row.policy_type.as_deref(), row.phase.as_deref()), (Some("dns"), Some("dns")));
        assert_eq!((row.method.as_deref(), row.decision), (Some("AAAA"), Some(decision)));
        assert_eq!((row.reason.as_deref(), row.capability_name.as_deref()), (Some(reason), capability));
    }
}

#[tokio::test]
async fn other_types_are_empty_and_impossible_names_do_not_exist() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::TXT, RecordType::PTR] {
        let reply = proxy.ask("api.test", kind).await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    let labels: [&[&[u8]]; 5] = [
        &[b"1", b"2", b"3", b"0x4"],
        &[b"api\0", b"test"],
        &[b"api.test", b"x"],
        &[b"\napi", b"test"],
        &[b"\xff"],
    ];
    for labels in labels {
        let name = Name::from_labels(labels.iter().copied()).unwrap();
        let reply = proxy.ask_name(name.clone(), RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
}

#[tokio::test]
async fn a_workspace_that_asks_for_too_many_names_is_refused_more() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.names_per_workspace_max = 1).await;
    proxy.resolve("api.test").await;
    let reply = proxy.ask("other.test", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    proxy.rows.find(|row| row.reason.as_deref() == Some("names_exhausted")).await;
}

#[tokio::test]
async fn questions_over_tcp_are_answered_alike() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    let over_udp = proxy.resolve("api.test").await;
    let mut stream = proxy.connect("8.8.8.8:53".parse().unwrap()).await;
    for id in [1, 2] {
        let packet = question(id, "api.test.");
        stream.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        let length = tokio::time::timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!((reply.metadata.id, reply.answers[0].data.to_string()), (id, over_udp.ip().to_string()));
    }
}

#[tokio::test]
async fn an_answer_leaves_with_the_address_that_was_asked() {
    // Bound to any address, asked at 127.0.0.9: the connected client of the harness drops answers from elsewhere.
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut proxy = Proxy::start(&upstream).await;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let listeners = freehold_egress::Listeners::tproxy(Vec::new(), vec![socket]);
    proxy.handle.attach(proxy.pod, listeners, None).unwrap();
    proxy.dns = format!("127.0.0.9:{port}").parse().unwrap();
    assert!(proxy.resolve("api.test").await.is_ipv4());
}

#[tokio::test]
async fn a_question_that_waits_for_room_in_the_audit_log_does_not_hold_up_the_socket() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Proxy::start_with(&upstream, |options| options.limits.audit_backlog_rows_max = 1).await;
    proxy.rows.refuse.store(true, Ordering::SeqCst);
    // Fills the backlog.
    proxy.resolve("api.test").await;
    let (waiting, impossible) = (question(1, "api.test."), [0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(proxy.dns).await.unwrap();
    socket.send(&waiting).await.unwrap();
    socket.send(&impossible).await.unwrap();
    let mut buffer = [0; 1500];
    let mut next = async || {
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap().metadata.id
    };
    // What needs no row is answered while the other waits.
    assert_eq!(next().await, 2);
    proxy.rows.refuse.store(false, Ordering::SeqCst);
    assert_eq!(next().await, 1);
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}
