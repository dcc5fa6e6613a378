//! Entrances for the fuzz targets (`fuzz/`) and for what measures; no part of the API.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    dns,
    escapes::escapes,
    forms::forms,
    frame::{Framer, Step},
    mask::{Mask, STROKE, Stream},
};

/// The bytes of one client's connection: what is released, and whether it is refused, does not depend on how they were cut.
/// The first byte says into which pieces they are cut.
pub fn http_framing(bytes: &[u8]) {
    let Some((&size, bytes)) = bytes.split_first() else { return };
    let whole = released(bytes, &[bytes.len().max(1)]);
    assert_eq!(released(bytes, &[usize::from(size).max(1)]), whole, "what is released depends on the cuts");
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
    assert_eq!(out, struck_out(&[secret], text), "what passes is not the plain reading's");
}

/// Passes a response's body in pieces, and answers how many bytes come out. A secret that is too short is not looked for.
pub fn mask(secret: &[u8], pieces: impl Iterator<Item = Bytes>) -> usize {
    let Some(mask) = Mask::new([secret]).map(Arc::new) else { return pieces.map(|piece| piece.len()).sum() };
    let mut stream = Stream::new(mask);
    let passed: usize = pieces.map(|piece| stream.push(piece).0.len()).sum();
    passed + stream.finish().0.len()
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
