//! What is let through is what was decided on: every request that reaches the upstream is read a second time, from the bytes
//! that the client sent, by a reader that knows the plain form of HTTP/1.1 and nothing else; and has its row.

use std::{collections::BTreeMap, sync::Mutex};

use freehold_model::audit::{AuditEvent, Decision};
use freehold_policy::NormalPath;
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{PATIENCE, Proxy},
    upstream::{Seen, Speaks, Upstream},
};

/// Connections that are tried. Each takes some milliseconds.
const CASES: u32 = 256;

/// Headers that are this connection's, or that the proxy writes anew.
const OWN: &[&str] = &["host", "content-length", "transfer-encoding", "te", "trailer"];

/// A request as the plain form says it.
#[derive(Debug)]
struct Plain {
    method: String,
    path: String,
    query: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// The requests at the beginning of `bytes`, as far as they have the plain form.
fn read_plainly(mut bytes: &[u8]) -> Vec<Plain> {
    let mut found = Vec::new();
    while let Some((plain, rest)) = read_one(bytes) {
        found.push(plain);
        bytes = rest;
    }
    found
}

/// A line without its end; each byte is a character, as headers have them.
fn line(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((latin(&bytes[..end]), &bytes[end + 2..])).filter(|(text, _)| !text.contains(['\r', '\n', '\0']))
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn read_one(bytes: &[u8]) -> Option<(Plain, &[u8])> {
    let (first, mut rest) = line(bytes)?;
    let [method, target, "HTTP/1.1"] = first.split(' ').collect::<Vec<_>>()[..] else { return None };
    let target = target.strip_prefix("https://api.test").unwrap_or(target);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (target, None),
    };
    // What has no normal form is refused, and is here so that the next one is found.
    let path = NormalPath::parse(path).map_or_else(|_| path.to_owned(), |normal| normal.as_str().to_owned());
    let (mut headers, mut length, mut chunked) = (Vec::new(), 0, false);
    loop {
        let (text, after) = line(rest)?;
        rest = after;
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':')?;
        let (name, value) = (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned());
        match name.as_str() {
            "content-length" => length = value.parse().ok()?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
        headers.push((name, value));
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let (size, after) = line(rest)?;
            let size = usize::from_str_radix(&size, 16).ok()?;
            if size == 0 {
                rest = after;
                break;
            }
            body.extend_from_slice(after.get(..size)?);
            rest = after.get(size..)?.strip_prefix(b"\r\n")?;
        }
        // Trailers are another test's.
        loop {
            let (text, after) = line(rest)?;
            rest = after;
            if text.is_empty() {
                break;
            }
        }
    } else {
        body.extend_from_slice(rest.get(..length)?);
        rest = &rest[length..];
    }
    Some((Plain { method: method.to_owned(), path, query, headers, body }, rest))
}

/// One request's bytes, nearly always in the plain form.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = select(&["GET", "GET", "HEAD", "HEAD", "POST", "POST", "POST", "PUT", "get", "CONNECT"][..]);
    let usual = select(&["/open/a", "/open/%61?x=1", "/open/b?y=%20"][..]);
    let odd = select(
        &[
            "/open/a%2Fb",
            "/open/a?x=%0d%0ay",
            "/open/./a",
            "//open/a",
            "/open/a#b",
            "/closed",
            "https://api.test/open/b",
            "http://api.test/open/c",
            "https://other.test/open/a",
            "*",
            "/open/ü",
        ][..],
    );
    let target = prop_oneof![6 => usual, 1 => odd];
    let usual = select(
        &[
            "accept: a/b",
            "X-A: 1",
            "x-a: 2",
            "x-b:\t4 ",
            "cookie: a=1",
            "cookie: b=2",
            "connection: keep-alive, x-a",
            "x-http-method-override: DELETE",
            "te: trailers",
            "x-b:",
            "x_a: 5",
            "x-b: \u{fc}",
            "upgrade: h2c",
        ][..],
    );
    let odd = select(
        &[
            "x-a : 3",
            "connection: close",
            "host: other.test",
            "transfer-encoding: identity",
            "content-length: 1",
            "expect: nothing",
            " folded",
        ][..],
    );
    let header = prop_oneof![8 => usual, 1 => odd];
    let body = prop_oneof![
        Just(Vec::new()),
        "[a-z]{0,20}".prop_map(|text| format!("content-length: {}\r\n\r\n{text}", text.len()).into_bytes()),
        prop::collection::vec("[a-z\r\n:]{1,9}", 0..4).prop_map(|chunks| {
            let mut text = "transfer-encoding: chunked\r\n\r\n".to_owned();
            for chunk in chunks {
                text += &format!("{:x}\r\n{chunk}\r\n", chunk.len());
            }
            (text + "0\r\n\r\n").into_bytes()
        }),
    ];
    (method, target, prop::collection::vec(header, 0..3), body).prop_map(|(method, target, headers, body)| {
        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: api.test\r\n");
        for header in headers {
            text += header;
            text += "\r\n";
        }
        let mut bytes = text.into_bytes();
        bytes.extend(if body.is_empty() { b"\r\n".to_vec() } else { body });
        bytes
    })
}

/// What a client sends on one connection: some requests, at times with damage anywhere.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    let byte = select(&b"\r\n\0 \t:;,0123af/?%HTPG\xff"[..]);
    let damage = prop::collection::vec((any::<Index>(), byte, 0_u8..3), 0..3);
    let damage = prop_oneof![Just(Vec::new()), damage];
    (prop::collection::vec(request(), 1..4), damage).prop_map(|(requests, damage)| {
        let mut bytes = requests.concat();
        for (at, byte, what) in damage {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(byte);
            }
        }
        bytes
    })
}

/// Whether the upstream saw this request and no other.
fn is_same(seen: &Seen, plain: &Plain) -> bool {
    let target = match &plain.query {
        Some(query) => format!("{}?{query}", plain.path),
        None => plain.path.clone(),
    };
    let named_by_connection = |name: &str| {
        let mut lists = plain.headers.iter().filter(|(field, _)| field == "connection");
        lists.any(|(_, list)| list.split(',').any(|part| part.trim().eq_ignore_ascii_case(name)))
    };
    // Every field that arrived was sent, and of what is nobody's business but the upstream's all arrived, in order.
    let cookies: Vec<&str> =
        plain.headers.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| value.as_str()).collect();
    let arrived_was_sent =
        seen.headers.iter().filter(|(name, _)| !OWN.contains(&name.as_str())).all(|(name, value)| {
            let sent =
                |(field, text): &(String, String)| field == name.as_str() && *text == latin(value.as_bytes());
            plain.headers.iter().any(sent)
                || (name == "cookie" && latin(value.as_bytes()) == cookies.join("; "))
        });
    let all_arrived =
        ["accept", "x-a", "x-b", "x_a"].iter().filter(|name| !named_by_connection(name)).all(|name| {
            let sent =
                plain.headers.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone());
            seen.headers.get_all(*name).iter().map(|value| latin(value.as_bytes())).eq(sent)
        });
    let method = seen.method.as_str() == plain.method;
    method && seen.target == target && seen.body == plain.body && arrived_was_sent && all_arrived
}

#[test]
fn whatever_reaches_the_upstream_is_what_the_client_sent_and_what_was_decided_on() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (upstream, proxy) = runtime.block_on(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let proxy = Proxy::start(&upstream).await;
        (upstream, proxy)
    });
    let reached = Mutex::new(BTreeMap::<(String, String), usize>::new());
    let mut runner = TestRunner::new(ProptestConfig { cases: CASES, ..ProptestConfig::default() });
    let result = runner.run(&connection(), |bytes| {
        upstream.seen.lock().unwrap().clear();
        runtime.block_on(async {
            let mut stream = proxy.https("api.test").await;
            // Who is refused may be cut off before all is sent.
            let _cut = stream.write_all(&bytes).await;
            let _cut = stream.shutdown().await;
            let mut answers = Vec::new();
            let _cut =
                tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answers)).await.expect("no end");
        });
        let seen = upstream.seen.lock().unwrap().clone();
        let mut plain = read_plainly(&bytes).into_iter();
        for seen in &seen {
            // In order; those in between were refused.
            prop_assert!(plain.any(|plain| is_same(seen, &plain)), "{seen:?}\nof {}", bytes.escape_ascii());
            let path = seen.target.split('?').next().unwrap().to_owned();
            *reached.lock().unwrap().entry((seen.method.to_string(), path)).or_default() += 1;
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let reached = reached.into_inner().unwrap();
    assert!(reached.values().sum::<usize>() > 50, "little reached the upstream: {reached:?}");
    // Each was decided on as it arrived.
    let all_have_rows = |rows: &[AuditEvent]| {
        reached.iter().all(|((method, path), count)| {
            let of = |row: &&AuditEvent| {
                row.decision == Some(Decision::Allow)
                    && row.path.as_ref() == Some(path)
                    && row.method.as_ref() == Some(method)
            };
            rows.iter().filter(of).count() >= *count
        })
    };
    runtime.block_on(proxy.rows.find(|_| all_have_rows(&proxy.rows.all())));
}
