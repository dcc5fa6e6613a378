//! The preface of a connection that was handed on: the PROXY protocol, version 2.
//!
//! A redirector in another process or on another machine cannot hand over the pod's socket. It opens a connection of its own
//! and says in its first bytes where the pod's was going. Invariants: of a preface the destination alone is believed, whose
//! connection it is the listener says; exactly the preface is read, so that what follows is the client's from its first byte.

use std::{io, net::SocketAddr, time::Duration};

use proxy_header::{Error as Unreadable, ParseConfig, Protocol, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The part that every preface begins with; its last two bytes say how many follow.
const FIXED_BYTES: usize = 16;
/// The longest preface, in bytes: with IPv6 addresses, it has room for further fields of 972 bytes, which are skipped.
const PREFACE_BYTES_MAX: usize = 1024;
const VERSION_2: ParseConfig = ParseConfig { include_tlvs: true, allow_v1: false, allow_v2: true };

/// Why a connection does not say where it was going.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrefaceError {
    #[error("the connection ended in its preface")]
    Cut(#[source] io::Error),
    #[error("its preface did not come within {0:?}")]
    Late(Duration),
    #[error("its preface is longer than {PREFACE_BYTES_MAX} bytes")]
    TooLong,
    #[error("it does not begin with a preface of the PROXY protocol, version 2")]
    Malformed,
    #[error("its preface names no destination of TCP")]
    NoDestination,
}

/// Reads a preface from the beginning of a connection, and nothing behind it: the destination that it names.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limit: Duration,
) -> Result<SocketAddr, PrefaceError> {
    tokio::time::timeout(limit, read_whole(stream)).await.unwrap_or(Err(PrefaceError::Late(limit)))
}

async fn read_whole(stream: &mut (impl AsyncRead + Unpin)) -> Result<SocketAddr, PrefaceError> {
    let mut buffer = [0; PREFACE_BYTES_MAX];
    let (fixed, rest) = buffer.split_at_mut(FIXED_BYTES);
    stream.read_exact(fixed).await.map_err(PrefaceError::Cut)?;
    // What cannot become a preface is not waited for.
    if matches!(ProxyHeader::parse(fixed, VERSION_2), Err(error) if error != Unreadable::BufferTooShort) {
        return Err(PrefaceError::Malformed);
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let rest = rest.get_mut(..length).ok_or(PrefaceError::TooLong)?;
    stream.read_exact(rest).await.map_err(PrefaceError::Cut)?;
    destination(&buffer[..FIXED_BYTES + length])
}

fn destination(preface: &[u8]) -> Result<SocketAddr, PrefaceError> {
    let (header, _) = ProxyHeader::parse(preface, VERSION_2).map_err(|_| PrefaceError::Malformed)?;
    if header.tlvs().any(|field| field.is_err()) {
        return Err(PrefaceError::Malformed);
    }
    // There is no address where a redirector speaks for itself (LOCAL) or does not know (UNSPEC).
    match header.proxied_address() {
        Some(of) if of.protocol == Protocol::Stream && of.destination.port() != 0 => Ok(of.destination),
        Some(_) | None => Err(PrefaceError::NoDestination),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ProxiedAddress, Tlv};
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    const FROM_TO: &[u8] = &[10, 0, 0, 7, 198, 18, 0, 1, 0x9c, 0x40, 0x01, 0xbb];

    fn preface(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[version_command, family], &length, rest].concat()
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// What is read of these bytes, and what is left of them.
    fn read_from(mut bytes: &[u8]) -> (Result<SocketAddr, PrefaceError>, &[u8]) {
        (block_on(read(&mut bytes, LIMIT)), bytes)
    }

    #[test]
    fn the_destination_is_read_and_what_follows_is_left() {
        let v4 = preface(0x21, 0x11, FROM_TO);
        let with_fields = preface(0x21, 0x11, &[FROM_TO, &[0x04, 0, 2, 0, 0, 0xe0, 0, 1, 7]].concat());
        let mut rest = [0; 36];
        rest[31] = 9;
        rest[34..].copy_from_slice(&[0x20, 0xfb]);
        let v6 = preface(0x21, 0x21, &rest);
        for (bytes, expected) in [(v4, "198.18.0.1:443"), (with_fields, "198.18.0.1:443"), (v6, "[::9]:8443")]
        {
            let all = [&bytes[..], b"\x16\x03\x01"].concat();
            let (found, left) = read_from(&all);
            assert_eq!((found.unwrap().to_string().as_str(), left), (expected, &b"\x16\x03\x01"[..]));
        }
    }

    #[test]
    fn whatever_else_a_connection_begins_with_is_refused() {
        let fields = |bytes: &[u8]| preface(0x21, 0x11, &[FROM_TO, bytes].concat());
        let no_port = [&FROM_TO[..10], &[0, 0]].concat();
        let unix = [0; 216];
        let refused: [(&str, Vec<u8>, &str); 16] = [
            ("version 1", b"PROXY TCP4 10.0.0.7 198.18.0.1 40000 443\r\n".to_vec(), "Malformed"),
            ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on".to_vec(), "Malformed"),
            ("http", b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n".to_vec(), "Malformed"),
            ("version 3", preface(0x31, 0x11, FROM_TO), "Malformed"),
            ("version 1 in binary", preface(0x11, 0x11, FROM_TO), "Malformed"),
            ("a command that is none", preface(0x22, 0x11, FROM_TO), "Malformed"),
            ("a family that is none", preface(0x21, 0x41, FROM_TO), "Malformed"),
            ("a protocol that is none", preface(0x21, 0x13, FROM_TO), "Malformed"),
            ("addresses cut short", preface(0x21, 0x21, FROM_TO), "Malformed"),
            ("a field beyond the end", fields(&[0xe0, 0, 9, 1]), "Malformed"),
            ("LOCAL", preface(0x20, 0x11, FROM_TO), "NoDestination"),
            ("UNSPEC", preface(0x21, 0x00, &[]), "NoDestination"),
            ("UDP", preface(0x21, 0x12, FROM_TO), "NoDestination"),
            ("a socket of a file", preface(0x21, 0x31, &unix), "NoDestination"),
            ("port 0", preface(0x21, 0x11, &no_port), "NoDestination"),
            ("too long", preface(0x21, 0x11, &[0; PREFACE_BYTES_MAX - FIXED_BYTES + 1]), "TooLong"),
        ];
        for (what, bytes, why) in refused {
            let error = read_from(&bytes).0.unwrap_err();
            assert_eq!(format!("{error:?}"), why, "{what}");
        }
        let longest = fields(&[&[0xe0, 0x03, 0xe1][..], &[1; 0x3e1]].concat());
        assert_eq!((longest.len(), read_from(&longest).0.is_ok()), (PREFACE_BYTES_MAX, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_that_does_not_come_is_waited_for_no_longer_than_the_limit() {
        let (mut far, mut near) = tokio::io::duplex(64);
        far.write_all(&preface(0x21, 0x11, FROM_TO)[..20]).await.unwrap();
        assert!(matches!(read(&mut near, LIMIT).await, Err(PrefaceError::Late(LIMIT))));
    }

    proptest! {
        #[test]
        fn what_a_redirector_writes_is_read_as_it_meant_it_and_no_part_of_it_is(
            from in any::<[u8; 16]>(),
            to in any::<[u8; 16]>(),
            (port, is_v6) in (1_u16.., any::<bool>()),
            fields in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
        ) {
            let address = |ip: [u8; 16]| match is_v6 {
                true => SocketAddr::from((ip, port)),
                false => SocketAddr::from(([ip[0], ip[1], ip[2], ip[3]], port)),
            };
            let mut header = ProxyHeader::with_address(ProxiedAddress::stream(address(from), address(to)));
            header.append_tlv(Tlv::Custom(0xe1, fields.into()));
            let mut written = Vec::new();
            header.encode_v2(&mut written).unwrap();
            prop_assert_eq!(read_from(&written).0.unwrap(), address(to));
            let part = &written[..cut.index(written.len())];
            prop_assert!(matches!(read_from(part).0, Err(PrefaceError::Cut(_))));
        }

        #[test]
        fn no_bytes_make_it_panic_or_read_more_than_a_preface(
            bytes in prop::collection::vec(any::<u8>(), 0..1200),
            begins in any::<bool>(),
        ) {
            let bytes = if begins { [SIGNATURE, &[0x21], &bytes].concat() } else { bytes };
            let (found, left) = read_from(&bytes);
            prop_assert!(bytes.len() - left.len() <= PREFACE_BYTES_MAX);
            if found.is_ok() {
                let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
                prop_assert_eq!(left, &bytes[FIXED_BYTES + length..]);
            }
        }
    }
}
