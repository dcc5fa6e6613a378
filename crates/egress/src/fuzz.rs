//! Entrances for the fuzz targets (`fuzz/`); no part of the API.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    dns,
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
    out.extend(stream.finish());
    assert_eq!(out, struck_out(&[secret], text), "what passes is not the plain reading's");
}

/// The plain reading of masking: every byte of every occurrence is struck out, and no other.
pub(crate) fn struck_out(secrets: &[&[u8]], text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    for form in secrets.iter().flat_map(|secret| forms(secret)) {
        for at in (0..text.len()).filter(|at| text[*at..].starts_with(&form)) {
            out[at..at + form.len()].fill(STROKE);
        }
    }
    out
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
