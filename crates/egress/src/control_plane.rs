//! The control plane's own addresses, where no pod's request goes: whoever works in a pod must not decide what it may do,
//! whatever keys it came by, whatever the policy says, and by whichever name.

use std::net::{IpAddr, SocketAddr};

use freehold_policy::{Destination, normal_host};

use crate::own::without_own;

/// The ports of HTTP: what answers there under the control plane's name leads to it too.
const PORTS: [u16; 2] = [80, 443];

/// Where the control plane is reached.
#[derive(Debug, Clone, Default)]
pub struct ControlPlane {
    /// Where it listens.
    address: Option<SocketAddr>,
    /// Hosts and ports of the addresses that it is reached by from outside.
    names: Vec<(String, u16)>,
}

/// Not an address that somebody is reached by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address such as https://freehold.example.com")]
pub struct InvalidUrl(String);

impl ControlPlane {
    /// A control plane that listens here, and is reached by these addresses (`https://host:port`) from outside, gateways
    /// in front of it included.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn new<'u>(address: SocketAddr, urls: impl IntoIterator<Item = &'u str>) -> Result<Self, InvalidUrl> {
        let name = |url: &str| {
            let parsed = url::Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()))?;
            Some((normal_host(parsed.host_str()?).ok()?, parsed.port_or_known_default()?))
        };
        let names = urls.into_iter().map(|url| name(url).ok_or_else(|| InvalidUrl(url.to_owned())));
        Ok(Self { address: Some(address), names: names.collect::<Result<_, _>>()? })
    }

    /// Whether the destination is the control plane by name.
    pub(crate) fn is_named(&self, destination: &Destination) -> bool {
        self.is_reached_by(destination.host(), destination.port())
    }

    /// Whether who dials this address reaches the control plane.
    pub(crate) async fn is_at(&self, address: SocketAddr) -> bool {
        let dialled = address.ip().to_canonical();
        let is_listener = match self.address.filter(|own| own.port() == address.port()) {
            None => false,
            Some(own) if own.ip().is_unspecified() => without_own(vec![address]).await.is_empty(),
            // Who dials no address comes out at loopback.
            Some(own) => own.ip().to_canonical() == dialled || dialled.is_unspecified(),
        };
        is_listener || self.is_at_gateway(dialled, address.port())
    }

    /// Whether a gateway that the operator named by its address is there.
    fn is_at_gateway(&self, dialled: IpAddr, port: u16) -> bool {
        !self.names.is_empty() && self.is_reached_by(&dialled.to_string(), port)
    }

    fn is_reached_by(&self, host: &str, port: u16) -> bool {
        self.names.iter().any(|(name, own)| name == host && (*own == port || PORTS.contains(&port)))
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
            let urls = ["https://elsewhere.example.com", url];
            ControlPlane::new(at("127.0.0.1:7070"), urls).unwrap().is_named(&destination)
        };
        assert!(is("https://Freehold.Example.com", Scheme::Https, "freehold.example.com", 443));
        assert!(is("https://freehold.example.com", Scheme::Http, "freehold.example.com", 80));
        assert!(is("http://10.0.0.1:7070", Scheme::Http, "10.0.0.1", 7070));
        assert!(is("http://[::1]:7070", Scheme::Http, "::1", 7070));
        assert!(!is("https://freehold.example.com", Scheme::Https, "freehold.example.com", 8443));
        assert!(!is("https://freehold.example.com", Scheme::Https, "example.com", 443));
    }

    #[tokio::test]
    async fn the_control_plane_is_known_by_every_address_it_listens_at() {
        let one = ControlPlane::new(at("127.0.0.1:7070"), []).unwrap();
        let everywhere = ControlPlane::new(at("0.0.0.0:7070"), []).unwrap();
        for (control_plane, address, is_there) in [
            (&one, "127.0.0.1:7070", true),
            (&one, "[::ffff:127.0.0.1]:7070", true),
            (&one, "0.0.0.0:7070", true),
            (&one, "[::]:7070", true),
            (&one, "127.0.0.1:7071", false),
            (&one, "127.0.0.2:7070", false),
            (&everywhere, "127.0.0.9:7070", true),
            (&everywhere, "[::1]:7070", true),
            (&everywhere, "127.0.0.9:7071", false),
            // No address of this machine.
            (&everywhere, "192.0.2.1:7070", false),
            (&ControlPlane::default(), "127.0.0.1:7070", false),
        ] {
            assert_eq!(control_plane.is_at(at(address)).await, is_there, "{address}");
        }
    }

    #[tokio::test]
    async fn a_gateway_that_is_named_by_its_address_is_the_control_plane_under_every_name() {
        let urls = ["https://203.0.113.9", "http://[2001:db8::9]:8080"];
        let gateway = ControlPlane::new(at("127.0.0.1:7070"), urls).unwrap();
        for address in ["203.0.113.9:443", "203.0.113.9:80", "[::ffff:203.0.113.9]:443", "[2001:db8::9]:8080"]
        {
            assert!(gateway.is_at(at(address)).await, "{address}");
        }
        for address in ["203.0.113.9:8443", "203.0.113.8:443"] {
            assert!(!gateway.is_at(at(address)).await, "{address}");
        }
    }

    #[test]
    fn an_address_that_nobody_is_reached_by_is_an_error() {
        for url in
            ["freehold.example.com", "freehold.example.com:443", "ftp://freehold.example.com", "https://", ""]
        {
            let given = ControlPlane::new(at("127.0.0.1:7070"), [url]);
            assert_eq!(given.map(|_| ()), Err(InvalidUrl(url.to_owned())));
        }
    }
}
