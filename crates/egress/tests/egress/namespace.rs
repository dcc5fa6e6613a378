//! The same in a network namespace where every address leads to the proxy's listeners, as in a pod.

use std::{
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use freehold_egress::Listeners;
use freehold_testkit::neighbour::Neighbour;
use hickory_proto::{
    op::{Message, OpCode},
    rr::{RData, Record, RecordType},
};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;

use crate::{
    harness::{Kept, PATIENCE, Proxy, http1_on, read},
    upstream::{INSIDE, Speaks, Upstream},
};

/// An address of the public internet, which no packet of the tests leaves for.
const PUBLIC: &str = "93.184.216.34";
/// Every address is local there, without a packet filter: AnyIP.
const ENTER: &str = "ip link set lo up && ip route add local default dev lo && exec \"$@\"";

#[test]
fn in_a_namespace_of_its_own_a_pod_reaches_the_proxy_at_any_address() {
    in_a_namespace("in_a_namespace_of_its_own_a_pod_reaches_the_proxy_at_any_address", inside());
}

#[test]
fn what_is_dialled_is_what_was_checked_wherever_the_name_leads_a_moment_later() {
    in_a_namespace(
        "what_is_dialled_is_what_was_checked_wherever_the_name_leads_a_moment_later",
        a_name_that_leads_elsewhere_each_time(),
    );
}

/// Runs a test where every address is this machine's: in another process of this program.
#[expect(clippy::print_stdout, reason = "who runs the tests is told what was left out")]
fn in_a_namespace(test: &str, inside: impl Future<Output = ()>) {
    if std::net::UdpSocket::bind("8.8.8.8:0").is_ok() {
        // This is the run inside.
        tokio::runtime::Runtime::new().unwrap().block_on(inside);
        return;
    }
    let enter = |command: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net"]).args(command);
        unshare
    };
    let possible = enter(&["ip", "link", "set", "lo", "up"]).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("skipped: no unprivileged namespaces, or no unshare and ip, on this machine");
        return;
    }
    let output = enter(&["sh", "-c", ENTER, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture"])
        .arg(format!("namespace::{test}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn inside() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut proxy = Proxy::start(&upstream).await;
    let tcp = std::net::TcpListener::bind("0.0.0.0:443").unwrap();
    let dns = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
    let token = proxy.minter.mint(&proxy.subject(None), PATIENCE).unwrap();
    proxy.handle.attach(proxy.pod, Listeners::tproxy(vec![tcp], vec![dns]), Some(&token)).unwrap();
    assert!(proxy.handle.attach(proxy.pod, Listeners::tproxy(vec![], vec![]), Some("forged")).is_err());
    proxy.dns = "8.8.8.8:53".parse().unwrap();
    let mut to = proxy.resolve("api.test").await;
    to.set_port(443);
    for (name, to, status) in [
        ("api.test", to, StatusCode::OK),
        ("api.test", "93.184.216.34:443".parse().unwrap(), StatusCode::MISDIRECTED_REQUEST),
        ("93.184.216.34", "93.184.216.34:443".parse().unwrap(), StatusCode::FORBIDDEN),
    ] {
        let stream = TcpStream::connect(to).await.unwrap();
        let mut sender = http1_on(proxy.tls(stream, name, b"http/1.1").await).await;
        let request = Request::get("/open/a").header("host", name).body(Full::default()).unwrap();
        assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, status, "{name} at {to}");
    }
    a_rule_opens_the_address_that_it_names().await;
    // The listener's own address is the original destination here too, and it is no destination.
    let stream = TcpStream::connect("127.0.0.1:443").await.unwrap();
    stream.readable().await.unwrap();
    assert!(matches!(stream.try_read(&mut [0]), Ok(0) | Err(_)));
    proxy.rows.with_reason("destination_forbidden").await;
}

/// A name server whose answers change from one question to the next: a public address first, and then ours.
async fn rebinds(public: IpAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let mut reply = Message::response(question.metadata.id, OpCode::Query);
            reply.metadata.recursion_available = true;
            let query = question.queries[0].clone();
            if query.query_type() == RecordType::A {
                let first = counted.fetch_add(1, Ordering::SeqCst) == 0;
                // The mixed name has both at once, each time.
                let inside: IpAddr = INSIDE.parse().unwrap();
                let mixed = query.name().to_ascii().starts_with("mixed");
                for address in [(first || mixed).then_some(public), (!first || mixed).then_some(inside)] {
                    let Some(IpAddr::V4(address)) = address else { continue };
                    reply.add_answer(Record::from_rdata(query.name().clone(), 0, RData::A(address.into())));
                }
            }
            reply.add_query(query);
            socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    (address, asked)
}

async fn a_name_that_leads_elsewhere_each_time() {
    let (at, beside) = (PUBLIC.parse().unwrap(), INSIDE.parse().unwrap());
    let there = Neighbour::start(&[at, beside]).unwrap();
    let public = Upstream::start_on(there.listen((at, 0).into()).unwrap(), Speaks::Plain).await;
    let beside = (beside, public.address.port()).into();
    let inside = Upstream::start_on(there.listen(beside).unwrap(), Speaks::Plain).await;
    for name in ["rebinding.test", "mixed.test"] {
        let (name_server, asked) = rebinds(public.address.ip()).await;
        let proxy = Proxy::start_with(&public, |options| {
            options.name_servers = vec![name_server];
            // Each request dials.
            options.limits.upstream_idle_max = 0;
        })
        .await;
        let port = public.address.port();
        let caps = format!(
            "- name: any\n  type: http\n  allow:\n    - domains: ['{name}:{port}']\n      methods: [GET]\n      allow_insecure: true\n"
        );
        proxy.publish_with(&caps, Kept::default());
        for _ in 0..5 {
            let mut sender = http1_on(proxy.connect_name(name, port).await).await;
            let request = Request::get("/open/a").header("host", format!("{name}:{port}"));
            let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
            assert_eq!(read(answer).await.status, StatusCode::OK, "{name}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "{name} was asked for again between check and dial");
    }
    assert_eq!((public.count(), inside.connections.load(Ordering::SeqCst)), (10, 0));
    assert!(public.connections.load(Ordering::SeqCst) >= 10);
}

/// What rules open by naming it is another machine's, here another namespace's: all else is this one's own.
async fn a_rule_opens_the_address_that_it_names() {
    let caps = |domain: &str, port: u16| {
        format!(
            "- name: inside\n  type: http\n  allow:\n    - domains: ['{domain}:{port}']\n      methods: [GET]\n"
        )
    };
    let here = Upstream::start_at(INSIDE, Speaks::Http1).await;
    let proxy = Proxy::start(&here).await;
    proxy.publish_with(&caps(INSIDE, here.address.port()), Kept::default());
    assert_eq!(status_of(&proxy, here.address).await, StatusCode::FORBIDDEN);
    assert_eq!(here.count(), 0);
    drop(here);

    let address = INSIDE.parse().unwrap();
    let there = Neighbour::start(&[address]).unwrap();
    let upstream = Upstream::start_on(there.listen((address, 0).into()).unwrap(), Speaks::Http1).await;
    let proxy = Proxy::start(&upstream).await;
    for (domain, status) in [(INSIDE, StatusCode::OK), ("10.1.2.*", StatusCode::FORBIDDEN)] {
        proxy.publish_with(&caps(domain, upstream.address.port()), Kept::default());
        assert_eq!(status_of(&proxy, upstream.address).await, status, "{domain}");
    }
    // Decided anew at each dial: the address becomes this machine's own.
    proxy.publish_with(&caps(INSIDE, upstream.address.port()), Kept::default());
    ip(&format!("route del {INSIDE}/32 dev near"));
    assert_eq!(status_of(&proxy, upstream.address).await, StatusCode::FORBIDDEN);
    assert_eq!(upstream.count(), 1);
}

async fn status_of(proxy: &Proxy, to: SocketAddr) -> StatusCode {
    let stream = proxy.connect(to).await;
    let mut sender = http1_on(proxy.tls(stream, INSIDE, b"http/1.1").await).await;
    let request = Request::get("/open/a").header("host", to.to_string()).body(Full::default()).unwrap();
    read(sender.send_request(request).await.unwrap()).await.status
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}
