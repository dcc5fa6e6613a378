//! A pod's network: no link to the host at all. Every address is local ("AnyIP"), an ordinary `eth0` that leads nowhere
//! makes programs believe in a network, and TCP connections to anywhere land on listeners made here,
//! which are served from outside.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, socket_with,
    sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
};

use super::netlink::{Attributes, Batch, netlink_protocol::Protocol};
use crate::{
    plan::{Failure, Interception, Link, Make},
    sys,
};

/// The pod's own addresses.
const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2);
/// Where intercepted connections land.
const PROXY_PORT: u16 = 15_001;
/// Ports with a listener where netfilter is of no help: web, mail submission, git, ssh, databases, brokers.
const COMMON_PORTS: &[u16] = &[
    80, 443, 22, 53, 465, 587, 993, 1433, 3000, 3306, 4222, 5000, 5432, 5672, 6379, 8000, 8080, 8443, 9000,
    9200, 9418, 27_017,
];
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
const LOOPBACK_INDEX: u32 = 1;
const ETH_INDEX: u32 = 2;
const PEER_INDEX: u32 = 3;

/// What a pod's traffic arrives on.
pub struct Sockets {
    /// TCP.
    pub tcp: Vec<OwnedFd>,
    /// DNS.
    pub dns: Vec<OwnedFd>,
}

impl Sockets {
    /// All of them, in the order in which they are handed over.
    pub fn all(&self) -> impl Iterator<Item = &OwnedFd> {
        self.tcp.iter().chain(&self.dns)
    }

    /// How many of each kind.
    pub fn counts(&self) -> [u8; 2] {
        [self.tcp.len(), self.dns.len()].map(|count| u8::try_from(count).unwrap_or(u8::MAX))
    }

    /// Takes them from what was handed over; what follows them remains.
    pub fn of(counts: &[u8], mut fds: Vec<OwnedFd>) -> Result<(Self, Vec<OwnedFd>), Failure> {
        match *counts {
            [tcp, dns] if usize::from(tcp) + usize::from(dns) <= fds.len() => {
                let rest = fds.split_off(usize::from(tcp) + usize::from(dns));
                let dns = fds.split_off(usize::from(tcp));
                Ok((Self { tcp: fds, dns }, rest))
            }
            _ => Err(Failure { step: "receive the pod's listeners".into(), errno: libc::EPROTO }),
        }
    }
}

/// Sets up the network namespace that the caller is in, with all capabilities.
pub fn set_up(make: Make) -> Result<Sockets, Failure> {
    let Make { interception, link, .. } = make;
    let v6 = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None).is_ok();
    links(v6, link).map_err(Failure::at("make the pod's network links"))?;
    match interception {
        Interception::Tproxy => {
            tproxy(v6).map_err(Failure::at("intercept connections by nftables tproxy"))?
        }
        Interception::Redirect => {
            redirect(v6).map_err(Failure::at("intercept connections by nftables redirect"))?
        }
        Interception::Ports => {}
    }
    sockets(interception, v6).map_err(Failure::at("open the pod's listeners"))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    u8::try_from(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

/// `struct ifinfomsg`.
fn link_header(index: u32, up: bool) -> Vec<u8> {
    let flags = if up { 1_u32 } else { 0 };
    let mut header = vec![0; 4];
    header.extend(index.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header.extend(flags.to_ne_bytes());
    header
}

fn links(v6: bool, link: Link) -> io::Result<()> {
    const VETH_INFO_PEER: u16 = 1;
    let make = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut batch = Batch::default();
    batch.message(libc::RTM_NEWLINK, make, &link_header(ETH_INDEX, false), |attributes| {
        attributes.text(libc::IFLA_IFNAME, "eth0").nest(libc::IFLA_LINKINFO, |info| {
            match link {
                Link::Dummy => info.text(libc::IFLA_INFO_KIND, "dummy"),
                Link::Ifb => info.text(libc::IFLA_INFO_KIND, "ifb"),
                Link::Veth => info.text(libc::IFLA_INFO_KIND, "veth").nest(libc::IFLA_INFO_DATA, |data| {
                    data.nest_after(VETH_INFO_PEER, &link_header(PEER_INDEX, false), |peer| {
                        peer.text(libc::IFLA_IFNAME, "eth0-peer");
                    });
                }),
            };
        });
    });
    let peer = (link == Link::Veth).then_some(PEER_INDEX);
    for index in [LOOPBACK_INDEX, ETH_INDEX].into_iter().chain(peer) {
        batch.message(libc::RTM_NEWLINK, libc::NLM_F_ACK, &link_header(index, true), |_| {});
    }
    for address in addresses(v6) {
        const NO_DUPLICATE_DETECTION: u8 = 2;
        // The address alone and no network: a network on the link would be more specific than the route below, and
        // what goes to it would wait for a neighbour that does not exist.
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut header = vec![family(address), prefix, NO_DUPLICATE_DETECTION, 0];
        header.extend(ETH_INDEX.to_ne_bytes());
        batch.message(libc::RTM_NEWADDR, make, &header, |attributes| {
            attributes.put(libc::IFA_LOCAL, &octets(address)).put(libc::IFA_ADDRESS, &octets(address));
        });
        // Every address is local: `ip route add local default dev lo src <own address>`.
        let mut route =
            vec![family(address), 0, 0, 0, libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST];
        route.push(libc::RTN_LOCAL);
        route.extend([0; 4]);
        batch.message(libc::RTM_NEWROUTE, make, &route, |attributes| {
            attributes
                .put(libc::RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes())
                .put(libc::RTA_PREFSRC, &octets(address));
        });
    }
    batch.send(Protocol::Route)
}

fn addresses(v6: bool) -> impl Iterator<Item = IpAddr> {
    [IpAddr::V4(POD_V4)].into_iter().chain(v6.then_some(IpAddr::V6(POD_V6)))
}

/// Numbers of nf_tables that no library has.
mod nft {
    pub const SUBSYSTEM: u16 = 10 << 8;
    pub const NEW_TABLE: u16 = 0;
    pub const NEW_CHAIN: u16 = 3;
    pub const NEW_RULE: u16 = 6;
    pub const BATCH_BEGIN: u16 = 0x10;
    pub const BATCH_END: u16 = 0x11;
    pub const FAMILY_INET: u8 = 1;
    pub const FAMILY_IPV4: u8 = 2;
    pub const FAMILY_IPV6: u8 = 10;
    pub const META_NFPROTO: u32 = 15;
    pub const META_L4PROTO: u32 = 16;
    pub const NETWORK_HEADER: u32 = 1;
    pub const EQUAL: u32 = 0;
    pub const VERDICT_REGISTER: u32 = 0;
    pub const ACCEPT: u32 = 1;
    pub const HOOK_PREROUTING: u32 = 0;
    pub const HOOK_OUTPUT: u32 = 3;
    pub const TABLE: &str = "freehold";
    pub const CHAIN: &str = "out";
}

/// One expression of a rule.
fn expression(list: &mut Attributes<'_>, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
    list.nest(1, |element| {
        element.text(1, name).nest(2, data);
    });
}

fn load_meta(list: &mut Attributes<'_>, key: u32) {
    expression(list, "meta", |data| {
        data.number(1, 1).number(2, key);
    });
}

fn compare(list: &mut Attributes<'_>, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.number(1, 1).number(2, nft::EQUAL).nest(3, |inner| {
            inner.put(1, value);
        });
    });
}

fn immediate(list: &mut Attributes<'_>, register: u32, value: &[u8]) {
    expression(list, "immediate", |data| {
        data.number(1, register).nest(2, |inner| {
            inner.put(1, value);
        });
    });
}

fn accept(list: &mut Attributes<'_>) {
    expression(list, "immediate", |data| {
        data.number(1, nft::VERDICT_REGISTER).nest(2, |inner| {
            inner.nest(2, |verdict| {
                verdict.number(1, nft::ACCEPT);
            });
        });
    });
}

/// `struct nfgenmsg`.
fn generic_header(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn rule(batch: &mut Batch, expressions: impl FnOnce(&mut Attributes<'_>)) {
    let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_APPEND;
    batch.message(
        nft::SUBSYSTEM | nft::NEW_RULE,
        flags,
        &generic_header(nft::FAMILY_INET, 0),
        |attributes| {
            attributes.text(1, nft::TABLE).text(2, nft::CHAIN).nest(4, expressions);
        },
    );
}

/// A table with one chain, whose rules leave loopback and the pod's own addresses alone and treat all other TCP as
/// `steal` says.
fn intercept(
    v6: bool,
    chain: (&str, u32, i32),
    steal: impl Fn(&mut Attributes<'_>, IpAddr),
) -> io::Result<()> {
    let (kind, hook, priority) = chain;
    let mut batch = Batch::default();
    let make = libc::NLM_F_ACK | libc::NLM_F_CREATE;
    batch.message(nft::BATCH_BEGIN, 0, &generic_header(0, nft::SUBSYSTEM >> 8), |_| {});
    batch.message(
        nft::SUBSYSTEM | nft::NEW_TABLE,
        make,
        &generic_header(nft::FAMILY_INET, 0),
        |attributes| {
            attributes.text(1, nft::TABLE);
        },
    );
    batch.message(
        nft::SUBSYSTEM | nft::NEW_CHAIN,
        make,
        &generic_header(nft::FAMILY_INET, 0),
        |attributes| {
            attributes.text(1, nft::TABLE).text(3, nft::CHAIN).nest(4, |place| {
                place.number(1, hook).put(2, &priority.to_be_bytes());
            });
            attributes.text(7, kind);
        },
    );
    for address in addresses(v6) {
        let (protocol, loopback, destination_offset) = match address {
            IpAddr::V4(_) => (nft::FAMILY_IPV4, vec![127], 16),
            IpAddr::V6(_) => (nft::FAMILY_IPV6, Ipv6Addr::LOCALHOST.octets().to_vec(), 24),
        };
        for own in [loopback, octets(address)] {
            rule(&mut batch, |list| {
                load_meta(list, nft::META_NFPROTO);
                compare(list, &[protocol]);
                expression(list, "payload", |data| {
                    let length = u32::try_from(own.len()).unwrap_or(0);
                    data.number(1, 1)
                        .number(2, nft::NETWORK_HEADER)
                        .number(3, destination_offset)
                        .number(4, length);
                });
                compare(list, &own);
                accept(list);
            });
        }
        rule(&mut batch, |list| {
            load_meta(list, nft::META_NFPROTO);
            compare(list, &[protocol]);
            load_meta(list, nft::META_L4PROTO);
            compare(list, &[u8::try_from(libc::IPPROTO_TCP).unwrap_or(0)]);
            steal(list, address);
        });
    }
    batch.message(nft::BATCH_END, 0, &generic_header(0, nft::SUBSYSTEM >> 8), |_| {});
    batch.send(Protocol::Netfilter)
}

fn loopback(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn tproxy(v6: bool) -> io::Result<()> {
    const PRIORITY_MANGLE: i32 = -150;
    intercept(v6, ("filter", nft::HOOK_PREROUTING, PRIORITY_MANGLE), |list, address| {
        immediate(list, 1, &octets(loopback(address)));
        immediate(list, 2, &PROXY_PORT.to_be_bytes());
        expression(list, "tproxy", |data| {
            let family = if address.is_ipv4() { nft::FAMILY_IPV4 } else { nft::FAMILY_IPV6 };
            data.number(1, u32::from(family)).number(2, 1).number(3, 2);
        });
    })
}

fn redirect(v6: bool) -> io::Result<()> {
    const PRIORITY_DESTINATION: i32 = -100;
    intercept(v6, ("nat", nft::HOOK_OUTPUT, PRIORITY_DESTINATION), |list, _| {
        immediate(list, 1, &PROXY_PORT.to_be_bytes());
        expression(list, "redir", |data| {
            data.number(1, 1);
        });
    })
}

fn sockets(interception: Interception, v6: bool) -> io::Result<Sockets> {
    let any = |address: IpAddr| -> IpAddr {
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    };
    let mut sockets = Sockets { tcp: Vec::new(), dns: Vec::new() };
    for own in addresses(v6) {
        match interception {
            Interception::Tproxy | Interception::Redirect => {
                sockets.tcp.push(listener(SocketAddr::new(loopback(own), PROXY_PORT))?);
            }
            Interception::Ports if own.is_ipv4() => {
                for port in COMMON_PORTS {
                    sockets.tcp.push(listener(SocketAddr::new(any(own), *port))?);
                }
            }
            // One message carries a limited number of descriptors, and every name has an IPv4 address.
            Interception::Ports => {}
        }
        sockets.dns.push(dns(SocketAddr::new(any(own), 53))?);
    }
    Ok(sockets)
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    const IPV6_TRANSPARENT: i32 = 75;
    let socket = socket(address, SocketType::STREAM)?;
    set_socket_reuseaddr(&socket, true)?;
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::SOL_IPV6, IPV6_TRANSPARENT),
    };
    sys::set_socket_option(socket.as_fd(), level, name, 1)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn dns(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address, SocketType::DGRAM)?;
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVPKTINFO),
    };
    sys::set_socket_option(socket.as_fd(), level, name, 1)?;
    bind(&socket, &address)?;
    Ok(socket)
}
