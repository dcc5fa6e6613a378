//! Headers and trailers: what concerns one connection alone, or lets another request count than was decided on, stays
//! behind.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header, request::Parts};

use crate::inject::KEY_HEADERS;

/// Headers by which servers let another method, path or host count than those that were decided on.
const OVERRIDES: &[&str] = &[
    "forwarded",
    "x-envoy-original-path",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-uri",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-uri",
    "x-original-url",
    "x-rewrite-url",
];

/// What no trailer may say, beside [`OVERRIDES`] and keys: a server that merges trailers into headers would take it for
/// the head's, which was decided on without it.
const HEAD_ONLY: &[&str] = &[
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "host",
    "max-forwards",
    "pragma",
    "range",
    "set-cookie",
    "trailer",
];

/// Takes off what is for this hop alone. Returns whether the client asks for a WebSocket.
pub(crate) fn prepare_headers(parts: &mut Parts) -> bool {
    // With a body it is an ordinary request: the upgrade goes out without one, whatever length it would claim.
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let websocket = parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && !framed.iter().any(|name| parts.headers.contains_key(name))
        && parts
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    strip_hop_by_hop(&mut parts.headers);
    // The host is written anew from the permit; the answer to an expectation was given when the body was asked for.
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::EXPECT);
    remove_where(&mut parts.headers, |name| OVERRIDES.contains(&name));
    join_cookies(&mut parts.headers);
    websocket
}

/// Cookies come in one field over HTTP/1.1: HTTP/2 may cut them up, and servers that get several read them differently.
fn join_cookies(headers: &mut HeaderMap) {
    let parts: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&parts.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}

/// Removes the headers that concern one connection alone, those that `Connection` names included.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const HOP_BY_HOP: [HeaderName; 8] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let trailers = headers
        .get_all(header::TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")));
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    remove_if(headers, |name| HOP_BY_HOP.contains(name));
    for name in &named {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The value of a header that stands there once, and is text.
pub(crate) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
}

/// Takes off a request's trailers what could count in the place of its head.
pub(crate) fn prepare_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    trailers.remove(header::TE);
    remove_where(trailers, |name| {
        OVERRIDES.contains(&name)
            || HEAD_ONLY.contains(&name)
            || name.starts_with("if-")
            || name.starts_with("x-forwarded-")
            || KEY_HEADERS.iter().any(|key| key == name)
    });
}

/// A header's name as servers know it that hand headers on as variables (CGI, WSGI, PHP): their names have letters, digits
/// and one sign, which is `-` here. `None` where that is how it is spelled.
pub(crate) fn plain_name(name: &str) -> Option<String> {
    let is_plain = name.bytes().all(|byte| plain(byte) == byte);
    (!is_plain).then(|| name.bytes().map(plain).map(char::from).collect())
}

const fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether two names are one to such servers.
pub(crate) fn is_same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

/// Whether a name stands there in two spellings: of such headers servers take one or the other.
pub(crate) fn has_doubles(headers: &HeaderMap) -> bool {
    let is_other =
        |one: &HeaderName, other: &HeaderName| one != other && is_same_name(one.as_str(), other.as_str());
    let mut odd = headers.keys().filter(|name| name.as_str().bytes().any(|byte| plain(byte) != byte));
    odd.any(|one| headers.keys().any(|other| is_other(one, other)))
}

/// Removes every header of a name, in whatever spelling.
pub(crate) fn remove_named(headers: &mut HeaderMap, name: &str) {
    remove_where(headers, |other| is_same_name(other, name));
}

/// Removes the headers of some names, which are asked about as such servers know them.
pub(crate) fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let is_unwanted = |name: &HeaderName| match plain_name(name.as_str()) {
        Some(plain) => unwanted(&plain),
        None => unwanted(name.as_str()),
    };
    remove_if(headers, is_unwanted);
}

fn remove_if(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/a").version(Version::HTTP_11);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_request_with_a_body_is_no_upgrade() {
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        let with = |more| [upgrade[0], upgrade[1], more];
        assert!(prepare_headers(&mut parts("GET", &upgrade)));
        assert!(!prepare_headers(&mut parts("POST", &upgrade)));
        assert!(!prepare_headers(&mut parts("GET", &with(("content-length", "35")))));
        assert!(!prepare_headers(&mut parts("GET", &with(("transfer-encoding", "chunked")))));
    }

    #[test]
    fn headers_that_override_what_was_decided_on_stay_behind() {
        let given = [
            ("x-http-method-override", "DELETE"),
            ("x_http_method_override", "DELETE"),
            ("x-original-url", "/secret"),
            ("accept", "*/*"),
        ];
        let mut parts = parts("GET", &given);
        prepare_headers(&mut parts);
        assert_eq!(parts.headers.len(), 1, "{:?}", parts.headers);
    }

    #[test]
    fn a_name_in_two_spellings_is_seen() {
        for (names, doubled) in [
            (&["x-role", "accept"][..], false),
            (&["x_role", "x-roles", "x_rol"], false),
            (&["x-role", "x-role"], false),
            (&["x-role", "x_role"], true),
            (&["x.role", "x_role"], true),
        ] {
            let mut headers = HeaderMap::new();
            names.iter().for_each(|name| _ = headers.append(*name, HeaderValue::from_static("a")));
            assert_eq!(has_doubles(&headers), doubled, "{names:?}");
        }
    }

    #[test]
    fn cookies_that_were_cut_up_go_out_in_one_field() {
        let mut parts = parts("GET", &[("cookie", "a=1"), ("accept", "*/*"), ("cookie", "b=2; c=3")]);
        prepare_headers(&mut parts);
        assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn trailers_say_nothing_that_belongs_in_the_head() {
        let mut trailers = HeaderMap::new();
        for name in [
            "authorization",
            "x-api-key",
            "x_api_key",
            "cookie",
            "host",
            "content-length",
            "transfer-encoding",
            "connection",
            "te",
            "if-match",
            "x-forwarded-for",
            "x-http-method-override",
            "x-checksum",
        ] {
            trailers.append(name, HeaderValue::from_static("a"));
        }
        prepare_trailers(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-checksum"]);
    }
}
