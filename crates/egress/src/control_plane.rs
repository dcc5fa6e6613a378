//! The control plane's own address, where no pod's request goes: whoever works in a pod must not decide what it may do,
//! whatever keys it came by, whatever the policy says, and by whichever name.

use std::net::{SocketAddr, UdpSocket};

use freehold_policy::{Destination, normal_host};

/// Where the control plane is reached.
#[derive(Debug, Clone, Default)]
pub struct ControlPlane {
    /// Where it listens.
    address: Option<SocketAddr>,
    /// Host and port of its public address.
    name: Option<(String, u16)>,
}

impl ControlPlane {
    /// A control plane that listens here and is reached by this address from outside.
    pub fn new(address: SocketAddr, public_url: Option<&str>) -> Self {
        let url = public_url.and_then(|url| url::Url::parse(url).ok());
        let name = url.and_then(|url| {
            let host = normal_host(url.host_str()?.trim_matches(['[', ']'])).ok()?;
            Some((host.to_string(), url.port_or_known_default()?))
        });
        Self { address: Some(address), name }
    }

    /// Whether the destination is the control plane by name: what answers there on the ports of HTTP leads to it too.
    pub(crate) fn is_named(&self, destination: &Destination) -> bool {
        let is_it = |(host, port): &(String, u16)| {
            *host == *destination.host() && [*port, 80, 443].contains(&destination.port())
        };
        self.name.as_ref().is_some_and(is_it)
    }

    /// Whether who dials this address reaches the control plane.
    pub(crate) fn is_at(&self, address: SocketAddr) -> bool {
        let Some(own) = self.address.filter(|own| own.port() == address.port()) else { return false };
        let (own, dialled) = (own.ip().to_canonical(), address.ip().to_canonical());
        // What listens everywhere is reached at each of the machine's addresses: those that can be bound.
        own == dialled
            || (own.is_unspecified() && (dialled.is_loopback() || UdpSocket::bind((dialled, 0)).is_ok()))
    }
}

#[cfg(test)]
mod tests {
    use freehold_policy::Scheme;

    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[test]
    fn the_control_plane_is_known_by_its_public_name_and_port() {
        let is = |url: &str, scheme, host: &str, port| {
            let destination = Destination::new(scheme, host, port).unwrap();
            ControlPlane::new(at("127.0.0.1:7070"), Some(url)).is_named(&destination)
        };
        assert!(is("https://Freehold.Example.com", Scheme::Https, "freehold.example.com", 443));
        assert!(is("https://freehold.example.com", Scheme::Http, "freehold.example.com", 80));
        assert!(is("http://10.0.0.1:7070", Scheme::Http, "10.0.0.1", 7070));
        assert!(is("http://[::1]:7070", Scheme::Http, "::1", 7070));
        assert!(!is("https://freehold.example.com", Scheme::Https, "freehold.example.com", 8443));
        assert!(!is("https://freehold.example.com", Scheme::Https, "example.com", 443));
    }

    #[test]
    fn the_control_plane_is_known_by_every_address_it_listens_at() {
        let one = ControlPlane::new(at("127.0.0.1:7070"), None);
        assert!(one.is_at(at("127.0.0.1:7070")) && one.is_at(at("[::ffff:127.0.0.1]:7070")));
        assert!(!one.is_at(at("127.0.0.1:7071")) && !one.is_at(at("127.0.0.2:7070")));
        let everywhere = ControlPlane::new(at("0.0.0.0:7070"), None);
        assert!(everywhere.is_at(at("127.0.0.9:7070")) && everywhere.is_at(at("[::1]:7070")));
        assert!(!everywhere.is_at(at("192.0.2.1:7070")), "no address of this machine");
        assert!(!ControlPlane::default().is_at(at("127.0.0.1:7070")));
    }
}
