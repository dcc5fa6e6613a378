//! No packet leaves a pod, and every connection lands on its listeners.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
};

use freehold_driver::{OriginalDestination, PodDriver};
use freehold_driver_local::Interception;
use nix::sys::socket::{getsockopt, sockopt};

use crate::common::{Machine, machine, machine_that_intercepts_by, until};

const DIAL: &str = "perl -MIO::Socket::IP -e 'my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1], Timeout => 5) or exit 1' ";

/// Where a connection wanted to go, found as the driver says it is to be found.
fn original_destination(stream: &TcpStream, by: OriginalDestination) -> String {
    match by {
        OriginalDestination::LocalAddress => stream.local_addr().unwrap().to_string(),
        OriginalDestination::Netfilter if stream.local_addr().unwrap().is_ipv4() => {
            let found = getsockopt(stream, sockopt::OriginalDst).unwrap();
            let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
            format!("{address}:{}", u16::from_be(found.sin_port))
        }
        OriginalDestination::Netfilter => {
            let found = getsockopt(stream, sockopt::Ip6tOriginalDst).unwrap();
            format!("[{}]:{}", Ipv6Addr::from(found.sin6_addr.s6_addr), u16::from_be(found.sin6_port))
        }
    }
}

async fn destination_of(machine: &Machine, address: &str, port: u16) -> String {
    let (spec, _agent) = machine.pod().await;
    let links = machine.driver.links(spec.pod_id).await.unwrap();
    let (code, out) = machine.sh(&spec, &format!("{DIAL} {address} {port}")).await;
    assert_eq!(code, Some(0), "{out}");
    let mut destination = None;
    until("a connection on the pod's listeners", || {
        let accepted = links.tcp.iter().find_map(|listener| listener.accept().ok());
        destination = accepted.map(|(stream, _)| original_destination(&stream, links.original_destination));
        destination.is_some()
    })
    .await;
    machine.driver.delete(spec.pod_id).await.unwrap();
    destination.unwrap()
}

/// Whether the driver says that every port is intercepted here, of IPv6 as well.
fn intercepts_all(machine: &Machine) -> bool {
    let interception = machine.driver.report().interception;
    if !interception.contains("every TCP port") {
        println!("WEAKER on this machine for this user: {interception}");
    }
    interception.contains("every TCP port")
}

#[tokio::test]
async fn connections_land_on_the_listener_with_their_destination() {
    let machine = machine().await;
    assert_eq!(destination_of(&machine, "192.0.2.7", 443).await, "192.0.2.7:443");
    if intercepts_all(&machine) {
        assert_eq!(destination_of(&machine, "192.0.2.7", 5999).await, "192.0.2.7:5999");
        assert_eq!(destination_of(&machine, "2001:db8::7", 5432).await, "[2001:db8::7]:5432");
    }
}

#[tokio::test]
async fn without_tproxy_connections_are_redirected() {
    let machine = machine().await;
    if !intercepts_all(&machine) {
        return;
    }
    let machine = machine_that_intercepts_by(Interception::Redirect).await;
    assert!(machine.driver.report().interception.contains("redirect"));
    assert_eq!(destination_of(&machine, "192.0.2.7", 5999).await, "192.0.2.7:5999");
    assert_eq!(destination_of(&machine, "169.254.169.254", 80).await, "169.254.169.254:80");
    assert_eq!(destination_of(&machine, "2001:db8::7", 443).await, "[2001:db8::7]:443");
}

#[tokio::test]
async fn without_netfilter_common_ports_are_served_and_others_refused() {
    let machine = machine_that_intercepts_by(Interception::Ports).await;
    assert!(machine.driver.report().interception.contains("common ports"));
    assert_eq!(destination_of(&machine, "192.0.2.7", 443).await, "192.0.2.7:443");
    assert_eq!(destination_of(&machine, "169.254.169.254", 80).await, "169.254.169.254:80");
    let (spec, _agent) = machine.pod().await;
    for destination in ["192.0.2.7 5999", "2001:db8::7 443"] {
        let (code, _) = machine.sh(&spec, &format!("{DIAL} {destination}")).await;
        assert_eq!(code, Some(1), "{destination} is refused");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn metadata_and_link_local_addresses_land_there_too() {
    let machine = machine().await;
    assert_eq!(destination_of(&machine, "169.254.169.254", 80).await, "169.254.169.254:80");
}

#[tokio::test]
async fn the_hosts_loopback_is_another() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let (code, out) = machine.sh(&spec, &format!("{DIAL} 127.0.0.1 {port}")).await;
    assert_ne!(code, Some(0), "{out}");
    let (code, _) = machine.sh(&spec, &format!("{DIAL} ::1 {port}")).await;
    assert_ne!(code, Some(0));
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    machine.driver.delete(spec.pod_id).await.unwrap();
}

/// Addresses of this machine that others can reach.
fn own_address() -> Option<std::net::IpAddr> {
    // No packet is sent: this only asks the kernel for the route.
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[tokio::test]
async fn no_datagram_reaches_the_host() {
    let address = own_address().unwrap_or([127, 0, 0, 1].into());
    let outside = UdpSocket::bind((address, 0)).unwrap();
    outside.set_nonblocking(true).unwrap();
    let tcp = TcpListener::bind((address, 0)).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let (udp_port, tcp_port) = (outside.local_addr().unwrap().port(), tcp.local_addr().unwrap().port());
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let send = format!(
        "perl -MSocket -e 'socket(my $s, AF_INET, SOCK_DGRAM, 0) or die; \
         for (1..5) {{ send($s, q(x), 0, sockaddr_in({udp_port}, inet_aton(q({address})))); }}'; {DIAL} {address} {tcp_port}"
    );
    machine.sh(&spec, &send).await;
    assert_eq!(outside.recv(&mut [0; 8]).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(
        tcp.accept().unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "the connection went to the pod's listener"
    );
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn raw_packet_and_ping_sockets_are_denied() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    for (family, kind, protocol) in [(2, 3, 1), (2, 3, 255), (10, 3, 58), (17, 3, 0), (2, 2, 1), (10, 2, 58)]
    {
        let (code, _) = machine
            .sh(&spec, &format!("perl -e 'socket(my $s, {family}, {kind}, {protocol}) or exit 1'"))
            .await;
        assert_eq!(code, Some(1), "socket({family}, {kind}, {protocol})");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn the_pods_rules_cannot_be_changed_from_inside() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let (code, out) = machine.sh(&spec, "ip link set lo down || ip route add 192.0.2.0/24 dev eth0 || ip link add x type dummy || nft flush ruleset").await;
    assert_ne!(code, Some(0), "{out}");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn questions_for_names_arrive_with_the_address_they_were_sent_to() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let links = machine.driver.links(spec.pod_id).await.unwrap();
    let ask = "perl -MSocket -e 'socket(my $s, AF_INET, SOCK_DGRAM, 0) or die; send($s, q(question), 0, sockaddr_in(53, inet_aton(q(8.8.8.8)))) or die'";
    let (code, out) = machine.sh(&spec, ask).await;
    assert_eq!(code, Some(0), "{out}");
    let mut bytes = [0; 64];
    until("a question", || links.dns.iter().any(|socket| socket.recv(&mut bytes).is_ok())).await;
    assert!(bytes.starts_with(b"question"));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_pods_own_servers_are_reached_from_inside() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let serve = "perl -MIO::Socket::IP -e 'my $l = IO::Socket::IP->new(LocalHost => q(0.0.0.0), LocalPort => $ARGV[1], Listen => 1) or die; \
                 if (!fork) { my $c = $l->accept; print $c qq(hi\\n); exit } \
                 my $s = IO::Socket::IP->new(PeerHost => $ARGV[0], PeerPort => $ARGV[1]) or die; print scalar <$s>' ";
    for address in ["127.0.0.1 8000", "10.88.0.2 8001"] {
        let (_, out) = machine.sh(&spec, &format!("{serve} {address}")).await;
        assert_eq!(out, "hi\n");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}
