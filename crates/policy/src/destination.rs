//! Where a request goes: scheme, host and port in one normal form.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

/// The longest host name, in bytes (RFC 1035, without the final dot).
const HOST_BYTES_MAX: usize = 253;
/// The longest label of a host name, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// What the connection speaks below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// HTTP in TLS.
    Https,
    /// Plain HTTP.
    Http,
}

impl Scheme {
    /// The scheme's spelling in a URL.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port that need not be written.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

/// A host that is neither a name in normal form nor an IP literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name or an IP address in its usual form")]
pub struct InvalidHost;

/// Scheme, host and port, the host in normal form. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    scheme: Scheme,
    host: Arc<str>,
    port: u16,
}

impl Destination {
    /// Takes the host in any case and with or without a final dot or IPv6 brackets.
    pub fn new(scheme: Scheme, host: &str, port: u16) -> Result<Self, InvalidHost> {
        Ok(Self { scheme, host: normal_host(host)?.into(), port })
    }

    /// What the connection speaks below HTTP.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host: lower case, no final dot, IPv6 literals without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The host when it is an IP literal.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The port, always explicit.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

/// `host` or `host:port` where the port is not the scheme's; IPv6 literals in brackets.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.port == self.scheme.default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// The one spelling of a host that is matched, looked up and sent: lower case, no final dot, IP literals as the
/// standard library writes them. Refused is what programs read in different ways: empty labels, characters outside
/// letters, digits, `-` and `_`, and numbers that some take for an address (`127.1`, `0x7f.1`, `2130706433`).
pub fn normal_host(text: &str) -> Result<String, InvalidHost> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr =
            inner.strip_suffix(']').ok_or(InvalidHost)?.parse().map_err(|_| InvalidHost)?;
        return Ok(address.to_canonical().to_string());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().to_string());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() || name.len() > HOST_BYTES_MAX || !name.split('.').all(is_label) {
        return Err(InvalidHost);
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.as_bytes()[0].is_ascii_digit() && (is_number(last) || last.bytes().all(|b| b.is_ascii_digit())) {
        return Err(InvalidHost);
    }
    Ok(name.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL_BYTES_MAX
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn is_number(label: &str) -> bool {
    label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (given, normal) in [
            ("Example.COM.", "example.com"),
            ("a_b.example", "a_b.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[::ffff:192.0.2.1]", "192.0.2.1"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(normal_host(given).as_deref(), Ok(normal), "{given}");
        }
    }

    #[test]
    fn a_host_that_programs_read_differently_is_refused() {
        for bad in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "bücher.example",
            "a b",
            "a/b",
            "a@b",
            "127.1",
            "0x7f.1",
            "2130706433",
            "1.2.3.4.5",
            "1.2.3.0x4",
            "[::1",
            "::1]",
            "[127.0.0.1]",
            "a%2eb",
            "a:80",
            "fe80::1%eth0",
        ] {
            assert_eq!(normal_host(bad), Err(InvalidHost), "{bad}");
        }
        assert_eq!(normal_host(&"a".repeat(64)), Err(InvalidHost));
        assert_eq!(normal_host(&"a.".repeat(128)), Err(InvalidHost));
    }
}
