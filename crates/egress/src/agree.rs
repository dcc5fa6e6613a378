//! Everything that names a request's destination must name the same one. What disagrees is refused, never guessed.

use freehold_policy::{Destination, normal_host};
use http::{Uri, Version, header, request::Parts};

/// Two places name different destinations, or one names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disagreement;

/// Checks SNI, request target, `:authority` and `Host` against the connection's destination, which is what the
/// connection was dialled to: the name whose made-up address it was, or the address itself.
pub(crate) fn check(
    destination: &Destination,
    sni: Option<&str>,
    request: &Parts,
) -> Result<(), Disagreement> {
    if sni.is_some_and(|sni| !is_host_of(destination, sni)) {
        return Err(Disagreement);
    }
    let mut named = 0;
    if let Some(scheme) = request.uri.scheme_str() {
        if scheme != destination.scheme().as_str() {
            return Err(Disagreement);
        }
    } else if request.version == Version::HTTP_2 {
        return Err(Disagreement);
    }
    if let Some(authority) = authority(&request.uri) {
        same(destination, authority)?;
        named += 1;
    }
    let mut hosts = request.headers.get_all(header::HOST).iter();
    if let Some(host) = hosts.next() {
        same(destination, host.to_str().map_err(|_| Disagreement)?)?;
        named += 1;
    }
    // A second Host, even an equal one, is read differently by different servers; HTTP/1 must carry one.
    let missing = request.version != Version::HTTP_2 && !request.headers.contains_key(header::HOST);
    if named == 0 || missing || hosts.next().is_some() { Err(Disagreement) } else { Ok(()) }
}

fn authority(uri: &Uri) -> Option<&str> {
    uri.authority().map(http::uri::Authority::as_str)
}

/// `host` or `host:port`, without user information.
fn same(destination: &Destination, authority: &str) -> Result<(), Disagreement> {
    let (host, port) = split(authority).ok_or(Disagreement)?;
    let port = port.unwrap_or_else(|| destination.scheme().default_port());
    if port == destination.port() && is_host_of(destination, host) { Ok(()) } else { Err(Disagreement) }
}

fn is_host_of(destination: &Destination, host: &str) -> bool {
    // The normal form, which nearly all write, is its own.
    host == destination.host() || normal_host(host).as_deref() == Ok(destination.host())
}

fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let at = match authority.rfind(':') {
        // The colons of an IPv6 literal stand in brackets.
        Some(at) if !authority[at..].contains(']') => at,
        _ => return Some((authority, None)),
    };
    let digits = &authority[at + 1..];
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten().map(|port| (&authority[..at], Some(port)))
}

#[cfg(test)]
mod tests {
    use freehold_policy::Scheme;
    use http::Request;

    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut builder = Request::builder().version(version).uri(uri);
        for host in hosts {
            builder = builder.header(header::HOST, *host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn agrees(sni: Option<&str>, version: Version, uri: &str, hosts: &[&str]) -> bool {
        let destination = Destination::new(Scheme::Https, "api.test", 443).unwrap();
        check(&destination, sni, &request(version, uri, hosts)).is_ok()
    }

    #[test]
    fn one_destination_in_every_place_is_agreed_on() {
        assert!(agrees(Some("api.test"), Version::HTTP_11, "/a", &["api.test"]));
        assert!(agrees(Some("API.test"), Version::HTTP_11, "/a", &["Api.Test.:443"]));
        assert!(agrees(None, Version::HTTP_11, "https://api.test/a", &["api.test"]));
        assert!(agrees(Some("api.test"), Version::HTTP_2, "https://api.test/a", &[]));
        assert!(agrees(Some("api.test"), Version::HTTP_2, "https://api.test:443/a", &["api.test"]));
    }

    #[test]
    fn any_other_destination_in_any_place_is_refused() {
        for (sni, version, uri, hosts) in [
            (Some("other.test"), Version::HTTP_11, "/", &["api.test"][..]),
            (Some("api.test"), Version::HTTP_11, "/", &["other.test"]),
            (Some("api.test"), Version::HTTP_11, "/", &["api.test:8443"]),
            (Some("api.test"), Version::HTTP_11, "/", &["api.test", "api.test"]),
            (Some("api.test"), Version::HTTP_11, "/", &[]),
            (Some("api.test"), Version::HTTP_11, "/", &[""]),
            (Some("api.test"), Version::HTTP_11, "/", &["user@api.test"]),
            (Some("api.test"), Version::HTTP_11, "/", &["api.test:+443"]),
            (Some("api.test"), Version::HTTP_11, "/", &["api.test:"]),
            (Some("api.test"), Version::HTTP_11, "https://other.test/", &["api.test"]),
            (Some("api.test"), Version::HTTP_11, "http://api.test/", &["api.test"]),
            (Some("api.test"), Version::HTTP_11, "https://api.test/", &["other.test"]),
            (Some("api.test"), Version::HTTP_11, "https://api.test/", &[]),
            (Some("api.test"), Version::HTTP_10, "/", &[]),
            (Some("api.test"), Version::HTTP_2, "https://api.test/", &["other.test"]),
            (Some("api.test"), Version::HTTP_2, "https://other.test/", &[]),
            (Some("api.test"), Version::HTTP_2, "http://api.test/", &[]),
        ] {
            assert!(!agrees(sni, version, uri, hosts), "{sni:?} {version:?} {uri} {hosts:?}");
        }
    }
}
