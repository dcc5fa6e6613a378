//! Upstream names are resolved by the operator's name servers, and what they say is not trusted.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{RData, Record, RecordType},
};
use http::StatusCode;
use tokio::net::UdpSocket;

use crate::{
    harness::Proxy,
    upstream::{Speaks, Upstream},
};

const CAPS: &str = "
- name: world
  type: http
  allow:
    - domains: ['**.world.test']
      methods: [GET]
";

/// A name server on loopback with these names; others do not exist.
struct NameServer {
    address: SocketAddr,
    questions: Arc<AtomicUsize>,
}

impl NameServer {
    async fn start(zone: &[(&str, &[&str])]) -> Self {
        let zone: HashMap<String, Vec<IpAddr>> = zone
            .iter()
            .map(|(name, addresses)| {
                ((*name).to_owned(), addresses.iter().map(|address| address.parse().unwrap()).collect())
            })
            .collect();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let questions = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&questions);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                counted.fetch_add(1, Ordering::SeqCst);
                let reply = reply(&zone, &Message::from_vec(&buffer[..length]).unwrap());
                socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        Self { address, questions }
    }
}

fn reply(zone: &HashMap<String, Vec<IpAddr>>, asked: &Message) -> Message {
    let question = &asked.queries[0];
    let mut reply = Message::response(asked.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(question.clone());
    match zone.get(question.name().to_ascii().trim_end_matches('.')) {
        None => reply.metadata.response_code = ResponseCode::NXDomain,
        Some(addresses) => {
            for address in addresses {
                let data = match (address, question.query_type()) {
                    (IpAddr::V4(v4), RecordType::A) => RData::A((*v4).into()),
                    (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA((*v6).into()),
                    _ => continue,
                };
                reply.add_answer(Record::from_rdata(question.name().clone(), 60, data));
            }
        }
    }
    reply
}

async fn proxy(upstream: &Upstream, server: &NameServer) -> Proxy {
    let proxy = Proxy::start_with(upstream, |options| {
        options.name_servers = vec![server.address];
        options.limits.connect_ms = 200;
    })
    .await;
    proxy.publish(CAPS, Err(freehold_egress::Unavailable("test")));
    proxy
}

#[tokio::test]
async fn a_public_name_that_leads_inside_is_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let server = NameServer::start(&[
        ("loopback.world.test", &["127.0.0.1"]),
        ("metadata.world.test", &["169.254.169.254"]),
        ("private.world.test", &["10.1.2.3", "192.168.0.1"]),
        ("six.world.test", &["::1", "fd00::1", "fe80::1"]),
        ("mapped.world.test", &["::ffff:127.0.0.1", "64:ff9b::a01:203"]),
        ("made-up.world.test", &["198.18.0.1"]),
    ])
    .await;
    let proxy = proxy(&upstream, &server).await;
    for name in ["loopback", "metadata", "private", "six", "mapped", "made-up"] {
        let name = format!("{name}.world.test");
        let answer = proxy.get(&name, "/").await;
        assert_eq!(
            (answer.status, answer.reason().as_str()),
            (StatusCode::FORBIDDEN, "address_forbidden"),
            "{name}"
        );
    }
    assert!(server.questions.load(Ordering::SeqCst) > 0);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_the_upstream_s_fault() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let server = NameServer::start(&[]).await;
    let proxy = proxy(&upstream, &server).await;
    let answer = proxy.get("nowhere.world.test", "/").await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::BAD_GATEWAY, "upstream_unresolved"));
}

#[tokio::test]
async fn a_name_that_no_rule_allows_is_never_asked_for() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let server = NameServer::start(&[("secret.other.test", &["1.1.1.1"])]).await;
    let proxy = proxy(&upstream, &server).await;
    assert_eq!(proxy.get("secret.other.test", "/").await.status, StatusCode::FORBIDDEN);
    assert_eq!(server.questions.load(Ordering::SeqCst), 0);
}
