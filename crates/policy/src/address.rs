//! Which addresses an upstream may have. Everything that is not plainly the public internet is refused, so that a name
//! which resolves to the inside (DNS rebinding) leads nowhere; a rule may name an address of a private network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds answer whoever asks from a machine of theirs, and give keys of that machine's account, outside of the
/// link-local range: in private, shared and even public ranges.
const METADATA_V4: &[Ipv4Addr] = &[
    // Alibaba, Oracle (classic), and Azure's, which hands out the secrets of extensions.
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// The same as the first 32 bits of IPv6 addresses: AWS, Google, Oracle, Scaleway, Akamai.
const METADATA_V6: &[(u16, u16)] =
    &[(0xfd00, 0x0ec2), (0xfd20, 0x00ce), (0xfd00, 0x00c1), (0xfd00, 0x0042), (0xfd00, 0xa9fe)];

/// Whether a rule may open an address by naming it: one of a private network, which is nobody's cloud's.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => (v4.is_private() || is_shared(v4)) && !METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            v6.is_unique_local() && !METADATA_V6.contains(&(a, b))
        }
    }
}

/// Why no rule opens a host by naming it, for the author; `None` when one may, or when it is a name that leads anywhere.
pub(crate) fn closed(host: &str) -> Option<&'static str> {
    let address = host.parse::<IpAddr>().ok();
    let is_local = |address: IpAddr| {
        let address = address.to_canonical();
        address.is_loopback() || address.is_unspecified()
    };
    let is_local = address.map_or(host == "localhost" || host.ends_with(".localhost"), is_local);
    if is_local {
        return Some(
            "in a pod this is the pod itself; the server's machine is reached by a name that the server's `egress.hosts` \
             leads there",
        );
    }
    let is_closed = address.is_some_and(|address| !is_public(address) && !is_private(address));
    is_closed.then_some(
        "no rule opens this address: requests to it are denied (`address_forbidden`) unless the server's `egress.hosts` \
         names it",
    )
}

/// Carrier-grade NAT.
const fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b & 0xc0 == 64
}

/// Whether an address belongs to the public internet: not private, loopback, link-local (metadata services are there),
/// shared, reserved, multicast, nor an IPv6 form of such an IPv4 address.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || is_shared(address)
        || METADATA_V4.contains(&address)
        // Protocol assignments, 6to4 relays, benchmarks (our own made-up range).
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || (a == 198 && b & 0xfe == 18)
        // Multicast, reserved, broadcast.
        || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = embedded_v4(address) {
        return is_public_v4(v4);
    }
    let [a, b, ..] = address.segments();
    // Global unicast is 2000::/3; in it: protocol assignments with Teredo (2001::/23), documentation, and 3ffe::/16.
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && b < 0x0200)
        && !(a == 0x2001 && b == 0x0db8)
        && a != 0x3ffe
        && !(a == 0x3fff && b < 0x1000)
}

/// The IPv4 address inside a mapped, NAT64 or 6to4 address.
pub fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let from = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x0064, 0xff9b, 0, 0, 0, 0) => Some(from(g, h)),
        (0x2002, ..) => Some(from(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "100.128.0.1",
            "2606:4700::1111",
            "2002:101:101::1",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for inside in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3ffe::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
    }

    #[test]
    fn a_host_is_closed_where_no_rule_opens_it_by_naming_it() {
        for local in
            ["localhost", "a.localhost", "127.0.0.1", "127.9.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1"]
        {
            assert!(closed(local).is_some_and(|why| why.contains("the pod itself")), "{local}");
        }
        for refused in ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "fe80::1", "224.0.0.1"] {
            assert!(closed(refused).is_some_and(|why| why.contains("address_forbidden")), "{refused}");
        }
        for open in
            ["10.0.0.5", "1.1.1.1", "fd12::5", "example.com", "localhost.example.com", "*.example.com"]
        {
            assert_eq!(closed(open), None, "{open}");
        }
    }

    #[test]
    fn a_rule_may_name_a_private_network_s_addresses_and_no_cloud_s_own() {
        for private in ["10.0.0.5", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::5", "::ffff:10.0.0.5"] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for refused in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.42.42",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fe80::a9fe:a9fe",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "198.18.0.1",
        ] {
            assert!(!is_private(refused.parse().unwrap()), "{refused}");
        }
    }
}
