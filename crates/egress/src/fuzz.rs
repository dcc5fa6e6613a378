//! Entrances for the fuzz targets (`fuzz/`) and for what measures; no part of the API.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use freehold_policy::{Destination, InvalidHost, NormalPath, Scheme, normal_host};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    agree,
    budget::usage::{Tap, Wish},
    ca::Authority,
    dns,
    escapes::escapes,
    forms::forms,
    frame::{Framer, Step},
    guard::Guarded,
    headers::prepare_headers,
    mask::{Mask, STROKE, Stream},
    preface,
    watch::Activity,
};

/// The bytes of one client's connection: what is released, and whether it is refused, does not depend on how they were cut.
/// The first byte says into which pieces they are cut.
pub fn http_framing(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let whole = released(bytes, &[bytes.len().max(1)]);
    assert_eq!(released(bytes, &[usize::from(size).max(1)]), whole, "what is released depends on the cuts");
}

/// The bytes of one client's connection, HTTP/1.1 or HTTP/2, as far as hyper reads them behind the guard: never a panic, and a
/// method and target that can be decided on. The first byte says into which pieces they are cut.
pub fn http_connection(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    block_on(serve(Vec::new(), bytes, usize::from(size).max(1)));
}

/// The frames of a client that has sent the preface of HTTP/2, as [`http_connection`].
pub fn http2_frames(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    block_on(serve(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), bytes, usize::from(size).max(1)));
}

async fn serve(mut start: Vec<u8>, bytes: &[u8], size: usize) {
    start.extend_from_slice(bytes);
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let activity = Activity::new();
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let open = activity.open();
            async move {
                let _open = open;
                let (mut parts, body) = request.into_parts();
                _ = prepare_headers(&mut parts);
                _ = NormalPath::parse(parts.uri.path());
                let destination = Destination::new(Scheme::Https, "api.test", 443)?;
                _ = agree::check(&destination, Some("api.test"), &parts);
                // A body that breaks off is no answer.
                let length = body.collect().await.map_err(|_| InvalidHost)?.to_bytes().len();
                Ok::<_, InvalidHost>(Response::new(Full::new(Bytes::from(length.to_string()))))
            }
        })
    };
    let serving = async {
        let mut stream = Guarded::new(server, activity, 16 * 1024);
        let is_http2 = stream.begins_as_http2().await.unwrap_or_default();
        let stream = TokioIo::new(stream);
        if is_http2 {
            _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
        } else {
            _ = http1::Builder::new().serve_connection(stream, service).await;
        }
    };
    let talking = async {
        for piece in start.chunks(size) {
            if client.write_all(piece).await.is_err() {
                return;
            }
        }
        _ = client.shutdown().await;
        // What is not read would hold the server up.
        _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
    };
    _ = tokio::join!(serving, talking);
}

/// The first bytes of a client that speaks TLS: never a panic, and a name that can be decided on has a certificate.
pub fn client_hello(bytes: &[u8]) {
    static AUTHORITY: LazyLock<Option<Authority>> = LazyLock::new(|| {
        let (key, pem) = Authority::make().ok()?;
        Authority::of(key, pem, 1_000, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).ok()
    });
    block_on(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else { return };
        let name = start.client_hello().server_name().map(normal_host);
        if let (Some(Ok(host)), Some(authority)) = (name, AUTHORITY.as_ref()) {
            assert!(authority.server_config(&host).is_ok(), "no certificate for {host}");
        }
    });
}

fn block_on(future: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => panic!("no runtime: {error}"),
    }
}

/// The bytes of a connection that a redirector hands on: a destination of TCP or a refusal, whichever way they are cut, and
/// what follows the preface is left. The first byte says into which pieces they are cut.
pub fn proxy_preface(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let mut left = bytes;
    block_on(async {
        let whole = preface::read(&mut left, Duration::from_secs(60)).await.ok();
        let (mut far, mut near) = tokio::io::duplex(usize::from(size).max(1));
        let talking = async move { far.write_all(bytes).await };
        let reading = async move {
            let cut = preface::read(&mut near, Duration::from_secs(60)).await.ok();
            assert_eq!(cut, whole, "what is read depends on the cuts");
            let mut rest = Vec::new();
            if cut.is_some() {
                _ = near.read_to_end(&mut rest).await;
                assert_eq!(rest, left, "more or less is read than the preface");
            }
        };
        _ = tokio::join!(talking, reading);
        if let Some(destination) = whole {
            let (v4, v6) = (bytes[12..14] == [0x21, 0x11], bytes[12..14] == [0x21, 0x21]);
            assert!(
                bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && (v4 || v6),
                "something else is taken for TCP"
            );
            let (address, port) =
                if v4 { (&bytes[20..24], &bytes[26..28]) } else { (&bytes[32..48], &bytes[50..52]) };
            let read: &[u8] = match &destination.ip() {
                IpAddr::V4(ip) => &ip.octets(),
                IpAddr::V6(ip) => &ip.octets(),
            };
            assert_eq!((read, &destination.port().to_be_bytes()[..]), (address, port), "another destination");
        }
    });
}

/// One datagram of a pod: never a panic, and an answer is never answered again.
pub fn dns_packet(packet: &[u8]) {
    let reply = match dns::parse(packet) {
        dns::Parsed::Question(query, question) => {
            assert!(question.name.is_ascii(), "a name that is not ASCII");
            query.reply(dns::Answer::Addresses(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST))
        }
        dns::Parsed::Reply(reply) => Some(reply),
        dns::Parsed::Ignore => None,
    };
    if let Some(reply) = reply {
        assert_eq!(reply[..2], packet[..2], "another question's id");
        assert!(matches!(dns::parse(&reply), dns::Parsed::Ignore), "an answer that is answered");
    }
}

/// A response's body from an upstream that knows the secret: what comes out is the plain reading's, however it was cut.
/// The first byte says into which pieces, the first line behind it is the secret.
pub fn masked_body(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let (secret, text) = (&bytes[..end], &bytes[end + 1..]);
    let Some(mask) = Mask::new([secret]).map(Arc::new) else { return };
    let mut stream = Stream::new(mask);
    let mut out = Vec::new();
    for piece in text.chunks(usize::from(size).max(1)) {
        out.extend(stream.push(Bytes::copy_from_slice(piece)).0);
    }
    out.extend(stream.finish().0);
    let mut plain = struck_out(&[secret], text);
    if stream.is_unseen() {
        assert_eq!(out.len(), plain.len());
        plain.iter_mut().zip(&out).filter(|(_, out)| **out == STROKE).for_each(|(plain, _)| *plain = STROKE);
    }
    assert_eq!(out, plain, "what passes is not the plain reading's");
}

/// A model provider's answer, as JSON and as events: what is counted does not depend on how it was cut, and what was counted
/// is not taken back. The first byte says into which pieces it is cut. And the same bytes as a request's body.
pub fn model_usage(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let size = usize::from(size).max(1);
    for media in ["application/json", "text/event-stream"] {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(media))]);
        let (mut whole, mut cut) = (Tap::new(&headers), Tap::new(&headers));
        whole.look(bytes);
        let mut known = None;
        for piece in bytes.chunks(size) {
            cut.look(piece);
            let tokens = cut.usage.tokens();
            assert!(known.is_none() || tokens.is_some(), "what was counted is taken back");
            known = tokens;
        }
        assert_eq!(cut.usage, whole.usage, "what is counted as {media} depends on the cuts");
    }
    _ = Wish::read("/", bytes);
}

/// A response from which secrets are struck out, for what measures. `None` where all secrets are too short.
pub struct Masked(Arc<Mask>, Stream);

impl Masked {
    /// A response to a request that carries these secrets.
    pub fn new(secrets: &[&[u8]]) -> Option<Self> {
        let mask = Arc::new(Mask::new(secrets.iter().copied())?);
        Some(Self(Arc::clone(&mask), Stream::new(mask)))
    }

    /// The next bytes of the body; gives those that may be passed on.
    pub fn push(&mut self, piece: Bytes) -> Bytes {
        self.1.push(piece).0
    }

    /// The headers. True when there was any.
    pub fn headers(&self, headers: &mut HeaderMap) -> bool {
        self.0.headers(headers)
    }
}

/// The plain reading of masking: every byte of every occurrence is struck out, and no other.
pub(crate) fn struck_out(secrets: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let (lower, mut out) = (text.to_ascii_lowercase(), text.to_vec());
    let mut strike = |at: usize, end: usize| out[at..end].fill(STROKE);
    for secret in secrets {
        for form in forms(secret) {
            (0..text.len())
                .filter(|at| lower[*at..].starts_with(&form))
                .for_each(|at| strike(at, at + form.len()));
        }
        let plain = secret.to_ascii_lowercase();
        let query: Vec<u8> = plain.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect();
        for secret in [plain, query] {
            let all: Vec<_> = (0..secret.len()).map(|index| escapes(&secret[index..])).collect();
            for at in 0..text.len() {
                if let Some(end) = end_of(&lower, at, &secret, &all) {
                    strike(at, end);
                }
            }
        }
    }
    out
}

/// Where the longest spelling that begins here ends; every way to read the text is tried.
fn end_of(lower: &[u8], at: usize, secret: &[u8], escapes: &[Vec<(Vec<u8>, usize)>]) -> Option<usize> {
    let (mut end, mut ways, mut seen) = (None, vec![(at, 0)], BTreeSet::new());
    while let Some((at, known)) = ways.pop() {
        if known == secret.len() {
            end = end.max(Some(at));
        } else if seen.insert((at, known)) {
            let rest = &lower[at..];
            if rest.first() == Some(&secret[known]) {
                ways.push((at + 1, known + 1));
            }
            for (escape, len) in &escapes[known] {
                if rest.starts_with(escape) {
                    ways.push((at + escape.len(), known + len));
                } else if escape.starts_with(b"&#")
                    && let Some(taken) = reference(rest, escape)
                {
                    ways.push((at + taken, known + len));
                }
            }
        }
    }
    end
}

/// How long a reference of HTML is that is this one but for zeros before the number, and for the `;`.
fn reference(text: &[u8], escape: &[u8]) -> Option<usize> {
    let is_hex = escape.starts_with(b"&#x");
    let start = if is_hex { 3 } else { 2 };
    let digits = &escape[start..escape.len() - 1];
    let rest = text.strip_prefix(&escape[..start])?;
    let given =
        rest.iter().take_while(|byte| if is_hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() });
    let given = &rest[..given.count()];
    let zeros =
        given.iter().take_while(|byte| **byte == b'0').count().min(given.len().saturating_sub(digits.len()));
    let end = start + given.len();
    (given.len() <= 8 && &given[zeros..] == digits).then(|| end + usize::from(text.get(end) == Some(&b';')))
}

/// How many bytes go out, and whether it ends as malformed, when the bytes come in pieces of these sizes, over and over.
pub(crate) fn released(bytes: &[u8], sizes: &[usize]) -> (usize, bool) {
    let mut framer = Framer::new(10_000);
    let (mut out, mut shown) = (0, 0);
    for size in sizes.iter().cycle() {
        if shown == bytes.len() {
            break;
        }
        shown = bytes.len().min(shown + size);
        while out < shown {
            match framer.next(&bytes[out..shown]) {
                Step::Release(count) => out += count,
                Step::More => break,
                Step::Malformed => return (out, true),
            }
        }
    }
    (out, false)
}
