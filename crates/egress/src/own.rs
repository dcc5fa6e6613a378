//! Which addresses are this machine's own, asked of the kernel each time: interfaces, containers and virtual addresses
//! come and go, and what listens here (our own API, a database, a neighbour) trusts whoever comes from here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
};

use freehold_policy::address::embedded_v4;
use nix::{
    libc::{
        EACCES, EAFNOSUPPORT, EHOSTUNREACH, EINVAL, ENETUNREACH, EOPNOTSUPP, NLM_F_REQUEST, NLMSG_ERROR,
        RTA_DST, RTM_GETROUTE, RTM_NEWROUTE, RTN_UNICAST,
    },
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
    },
};

/// Bytes of a message's head, and of a route's in it: the kernel's `nlmsghdr` and `rtmsg`.
const MESSAGE_HEAD: usize = 16;
const ROUTE_HEAD: usize = 12;
/// Where the kind of a route stands in a message.
const KIND: usize = MESSAGE_HEAD + 7;
/// Longer than the answer to a question for one route.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Whether what is sent to this address, or to the IPv4 address in it, may stay on this machine: by the kernel's routes it
/// leads to no neighbour and no gateway. What the kernel cannot say is taken for its own.
fn is_own(address: IpAddr) -> bool {
    let embedded = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded_v4(v6).map(IpAddr::V4),
    };
    // Of a mapped address the one in it is all there is.
    let outer = Some(address).filter(|address| address.to_canonical() == *address);
    outer.into_iter().chain(embedded).any(|address| {
        stays_here(address).unwrap_or_else(|error| {
            tracing::error!(error = %error, "the kernel does not say which addresses are this machine's own");
            true
        })
    })
}

/// Those that are not this machine's own. On a thread that may wait: while networks are made or taken away, the kernel may
/// hold its answer back.
pub(crate) async fn without_own(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let others = move || addresses.into_iter().filter(|address| !is_own(address.ip())).collect();
    tokio::task::spawn_blocking(others).await.unwrap_or_default()
}

fn stays_here(address: IpAddr) -> io::Result<bool> {
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkRoute,
    )?;
    // From no one but the kernel; it has answered by the time that the question is sent.
    connect(kernel.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(kernel.as_raw_fd(), &question(address), MsgFlags::empty())?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    kind(&answer[..length]).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// The question for the route to an address.
fn question(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::Inet6, v6.octets().to_vec()),
    };
    let attribute = 4 + octets.len();
    let mut bytes = Vec::with_capacity(MESSAGE_HEAD + ROUTE_HEAD + attribute);
    bytes.extend(u32::try_from(MESSAGE_HEAD + ROUTE_HEAD + attribute).unwrap_or_default().to_ne_bytes());
    bytes.extend(RTM_GETROUTE.to_ne_bytes());
    bytes.extend(u16::try_from(NLM_F_REQUEST).unwrap_or_default().to_ne_bytes());
    // Number and sender of the message.
    bytes.extend([0; 8]);
    // Family, and bits of the destination; all else of a route is not asked for.
    bytes.extend([
        u8::try_from(family as i32).unwrap_or_default(),
        u8::try_from(octets.len() * 8).unwrap_or_default(),
    ]);
    bytes.extend([0; ROUTE_HEAD - 2]);
    bytes.extend(u16::try_from(attribute).unwrap_or_default().to_ne_bytes());
    bytes.extend(RTA_DST.to_ne_bytes());
    bytes.extend(octets);
    bytes
}

/// Whether an answer says that the address leads to nobody else. One that leads nowhere at all, no dial reaches. `None` for
/// what is no answer.
fn kind(answer: &[u8]) -> Option<bool> {
    let message = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if message == RTM_NEWROUTE {
        return Some(*answer.get(KIND)? != RTN_UNICAST);
    }
    let error = i32::from_ne_bytes(answer.get(MESSAGE_HEAD..MESSAGE_HEAD + 4)?.try_into().ok()?);
    let nowhere = [ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, EAFNOSUPPORT, EOPNOTSUPP];
    (i32::from(message) == NLMSG_ERROR && nowhere.contains(&-error)).then_some(false)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn own(address: &str) -> bool {
        is_own(address.parse().unwrap())
    }

    #[test]
    fn an_address_that_this_machine_holds_is_its_own_in_every_spelling() {
        for address in
            ["127.0.0.1", "127.8.7.6", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1"]
        {
            assert!(own(address), "{address}");
        }
        for address in ["192.0.2.1", "8.8.8.8", "10.255.254.253", "2606:4700::1111", "64:ff9b::808:808"] {
            assert!(!own(address), "{address}");
        }
    }

    #[test]
    fn the_address_that_this_machine_is_reached_by_is_its_own() {
        // Nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_err() {
            println!("skipped: this machine is on no network");
            return;
        }
        assert!(is_own(socket.local_addr().unwrap().ip()));
    }
}
