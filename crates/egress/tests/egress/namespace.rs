//! The same in a network namespace where every address leads to the proxy's listeners, as in a pod.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
};

use freehold_egress::Listeners;
use freehold_testkit::neighbour::Neighbour;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;

use crate::{
    harness::{Kept, PATIENCE, Proxy, http1_on, read},
    upstream::{INSIDE, Speaks, Upstream},
};

/// Every address is local there, without a packet filter: AnyIP.
const ENTER: &str = "ip link set lo up && ip route add local default dev lo && exec \"$@\"";

#[test]
fn in_a_namespace_of_its_own_a_pod_reaches_the_proxy_at_any_address() {
    if std::net::UdpSocket::bind("8.8.8.8:0").is_ok() {
        // Every address is this machine's: this is the run inside.
        tokio::runtime::Runtime::new().unwrap().block_on(inside());
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
        .arg("namespace::in_a_namespace_of_its_own_a_pod_reaches_the_proxy_at_any_address")
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
    let there = Neighbour::start(address).unwrap();
    let listener = there.listen(SocketAddr::from((address, 0))).unwrap();
    let upstream = Upstream::start_on(listener, Speaks::Http1).await;
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
