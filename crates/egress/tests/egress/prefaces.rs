//! A pod whose connections a redirector hands on, each with a preface that says where it was going.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use freehold_egress::Listeners;
use hickory_proto::rr::{RData, RecordType};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{PATIENCE, Proxy, http1_on, read},
    upstream::{Speaks, Upstream},
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A preface with this command and protocol, from 10.0.0.7:40000 or its like to `to`, with a field that nobody knows.
fn preface(version_command: u8, protocol: u8, to: SocketAddr) -> Vec<u8> {
    let (family, mut rest) = match to.ip() {
        IpAddr::V4(to) => (0x10, [[10, 0, 0, 7], to.octets()].concat()),
        IpAddr::V6(to) => (0x20, [Ipv6Addr::LOCALHOST.octets(), to.octets()].concat()),
    };
    rest.extend(40_000_u16.to_be_bytes());
    rest.extend(to.port().to_be_bytes());
    rest.extend([0xe3, 0, 2, 1, 2]);
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_command, family | protocol], &length, &rest].concat()
}

/// A proxy whose pod has one more listener, which a redirector hands connections on to.
async fn start(upstream: &Upstream) -> (Proxy, SocketAddr) {
    let mut proxy = Proxy::start_with(upstream, |options| options.limits.client_handshake_ms = 1_000).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dns = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (at, name_server) = (listener.local_addr().unwrap(), dns.local_addr().unwrap());
    let token = proxy.minter.mint(&proxy.subject(None), PATIENCE).unwrap();
    proxy.handle.attach(proxy.pod, Listeners::handed_on(vec![listener], vec![dns]), Some(&token)).unwrap();
    proxy.dns = name_server;
    (proxy, at)
}

#[tokio::test]
async fn a_connection_that_was_handed_on_is_decided_as_any_other() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (proxy, at) = start(&upstream).await;
    let v4 = proxy.resolve("api.test").await.ip();
    let reply = proxy.ask("api.test", RecordType::AAAA).await;
    let Some(RData::AAAA(v6)) = reply.answers.first().map(|record| &record.data) else { panic!("{reply:?}") };
    let v6 = IpAddr::from(Ipv6Addr::from(*v6));
    let mapped = match v4 {
        IpAddr::V4(v4) => IpAddr::from(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => panic!("{v4}"),
    };
    for (to, path, status) in [
        (v4, "/open/a", StatusCode::OK),
        (v6, "/open/a", StatusCode::OK),
        (mapped, "/open/a", StatusCode::OK),
        (v4, "/closed", StatusCode::FORBIDDEN),
        ("93.184.216.34".parse().unwrap(), "/open/a", StatusCode::MISDIRECTED_REQUEST),
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        for byte in preface(0x21, 1, SocketAddr::new(to, 443)) {
            stream.write_all(&[byte]).await.unwrap();
        }
        let mut sender = http1_on(proxy.tls(stream, "api.test", b"http/1.1").await).await;
        let request = Request::get(path).header("host", "api.test").body(Full::default()).unwrap();
        assert_eq!(read(sender.send_request(request).await.unwrap()).await.status, status, "{path} at {to}");
    }
    let row = proxy.rows.find(|row| row.path.as_deref() == Some("/open/a")).await;
    assert_eq!(row.workspace_id, Some(proxy.pod.workspace_id));
}

#[tokio::test]
async fn what_comes_with_the_preface_in_one_piece_is_the_clients() {
    let upstream = Upstream::start(Speaks::Plain).await;
    let (proxy, at) = start(&upstream).await;
    let plain = SocketAddr::new(proxy.resolve("plain.test").await.ip(), 80);
    let mut stream = TcpStream::connect(at).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\n\r\n";
    stream.write_all(&[&preface(0x21, 1, plain)[..], request].concat()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_question_for_a_name_that_was_handed_on_is_answered() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (proxy, at) = start(&upstream).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let question = b"\0\x1a\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03api\x04test\0\0\x01\0\x01";
    let question = [&preface(0x21, 1, "10.0.0.2:53".parse().unwrap())[..], question].concat();
    stream.write_all(&question).await.unwrap();
    let length = tokio::time::timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
    let mut reply = vec![0; length.into()];
    stream.read_exact(&mut reply).await.unwrap();
    let address = <[u8; 4]>::try_from(&reply[reply.len() - 4..]).unwrap();
    assert_eq!(IpAddr::from(address), proxy.resolve("api.test").await.ip());
}

#[tokio::test]
async fn a_connection_that_does_not_say_where_it_was_going_is_closed_and_nothing_is_dialled() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (proxy, at) = start(&upstream).await;
    let to = SocketAddr::new(proxy.resolve("plain.test").await.ip(), 80);
    let request = b"GET / HTTP/1.1\r\nhost: plain.test\r\nconnection: close\r\n\r\n";
    let v1 = format!("PROXY TCP4 10.0.0.7 {} 40000 80\r\n", to.ip());
    let mut too_long = preface(0x21, 1, to);
    too_long[14..16].copy_from_slice(&[0xff, 0xff]);
    let mut torn_field = preface(0x21, 1, to);
    let last = torn_field.len() - 3;
    torn_field[last] = 9;
    for (what, bytes) in [
        ("none", Vec::new()),
        ("version 1", v1.into_bytes()),
        ("LOCAL", preface(0x20, 1, to)),
        ("UDP", preface(0x21, 2, to)),
        ("UNSPEC", [SIGNATURE, &[0x21, 0, 0, 0]].concat()),
        ("too long", too_long),
        ("a field beyond its end", torn_field),
        ("port 0", preface(0x21, 1, SocketAddr::new(to.ip(), 0))),
        ("half of one", preface(0x21, 1, to)[..14].to_vec()),
    ] {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let bytes = if what == "half of one" { bytes } else { [&bytes[..], request].concat() };
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // A connection with unread bytes is reset where it is closed.
        _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect(what);
        assert!(answer.is_empty(), "{what}: {}", String::from_utf8_lossy(&answer));
    }
    // The pod's own addresses lead nowhere through this door either.
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&preface(0x21, 1, upstream.address)).await.unwrap();
    stream.write_all(request).await.unwrap();
    proxy.rows.with_reason("destination_forbidden").await;
    assert_eq!(upstream.count(), 0);
}
