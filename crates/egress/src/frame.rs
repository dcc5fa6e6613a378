//! Where HTTP/1.1 requests begin and end, read strictly before hyper reads them.
//!
//! The proxy writes every request anew, so that an upstream never sees the client's framing; but hyper settles some
//! ambiguities silently (both lengths: it drops one). Here they are errors.

use std::mem::MaybeUninit;

/// The longest line that gives a chunk's size, in bytes, its end included.
const CHUNK_LINE_BYTES_MAX: usize = 18;
/// Headers that are looked at. The server's own limit is not higher and answers 431.
pub(crate) const HEADERS_MAX: usize = 256;
/// The most digits of a length; more than any body has.
const LENGTH_DIGITS_MAX: usize = 18;

/// What to do with the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Pass this many on.
    Release(usize),
    /// Wait for more.
    More,
    /// The bytes can be read in two ways, or in none.
    Malformed,
}

/// Follows the requests of one connection.
pub(crate) struct Framer {
    state: State,
    head_bytes_max: usize,
    /// Bytes of an unfinished head or trailer that were looked at: what comes a byte at a time is not read anew each
    /// time.
    looked: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// No HTTP/1.1, or something that hyper refuses for its size.
    Through,
}

impl Framer {
    pub(crate) const fn new(head_bytes_max: usize) -> Self {
        Self { state: State::Head, head_bytes_max, looked: 0 }
    }

    /// Lets everything through from now on: it is no HTTP/1.1.
    pub(crate) const fn let_through(&mut self) {
        self.state = State::Through;
    }

    /// Looks at the bytes that have not been released yet; `bytes` is not empty.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Step {
        let step = self.step(bytes);
        self.looked = if step == Step::More { bytes.len() } else { 0 };
        step
    }

    /// Whether the last request that was begun has come whole.
    pub(crate) const fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Head)
    }

    fn step(&mut self, bytes: &[u8]) -> Step {
        match self.state {
            State::Through => Step::Release(bytes.len()),
            State::Head => self.head(bytes),
            State::Body(left) => self.pass(bytes, left, State::Body, State::Head),
            State::ChunkData(left) => self.pass(bytes, left, State::ChunkData, State::ChunkEnd),
            State::ChunkSize => self.chunk_size(bytes),
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Step::Release(2)
                }
                [b'\r'] => Step::More,
                _ => Step::Malformed,
            },
            State::Trailers => self.trailer(bytes),
        }
    }

    fn pass(&mut self, bytes: &[u8], left: u64, stay: fn(u64) -> State, then: State) -> Step {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - count as u64;
        self.state = if left == 0 { then } else { stay(left) };
        Step::Release(count)
    }

    fn head(&mut self, bytes: &[u8]) -> Step {
        // Whole lines alone are read, and only when there is another.
        let more = bytes.len() <= self.head_bytes_max;
        let lines = match bytes[self.looked..].iter().rposition(|byte| *byte == b'\n') {
            Some(end) => &bytes[..=self.looked + end],
            None if more => return Step::More,
            None => bytes,
        };
        let mut headers = [MaybeUninit::uninit(); HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(lines, &mut headers) {
            Ok(httparse::Status::Complete(length)) => match body_of(&request, &bytes[..length]) {
                Some(state) => {
                    self.state = state;
                    Step::Release(length)
                }
                None => Step::Malformed,
            },
            Ok(httparse::Status::Partial) if more => Step::More,
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                self.state = State::Through;
                Step::Release(bytes.len())
            }
            Err(_) => Step::Malformed,
        }
    }

    fn chunk_size(&mut self, bytes: &[u8]) -> Step {
        let Some(end) = bytes.windows(2).take(CHUNK_LINE_BYTES_MAX).position(|pair| pair == b"\r\n") else {
            return if bytes.len() > CHUNK_LINE_BYTES_MAX { Step::Malformed } else { Step::More };
        };
        // Chunk extensions are read differently by different servers, and nobody uses them.
        let digits = std::str::from_utf8(&bytes[..end]).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Step::Malformed;
        }
        let Ok(size) = u64::from_str_radix(digits, 16) else { return Step::Malformed };
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Step::Release(end + 2)
    }

    fn trailer(&mut self, bytes: &[u8]) -> Step {
        let from = self.looked.saturating_sub(1);
        let Some(end) = bytes[from..].windows(2).position(|pair| pair == b"\r\n").map(|at| from + at) else {
            return if bytes.len() > self.head_bytes_max { Step::Malformed } else { Step::More };
        };
        if bytes[..end].iter().any(|&b| b == b'\n' || b == b'\r' || b == 0) {
            return Step::Malformed;
        }
        if end == 0 {
            self.state = State::Head;
        }
        Step::Release(end + 2)
    }
}

/// What follows a head, or `None` when its framing is ambiguous.
fn body_of(request: &httparse::Request<'_, '_>, head: &[u8]) -> Option<State> {
    let bare = |at: usize| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r');
    if (0..head.len()).any(bare) {
        return None;
    }
    // A fragment is no part of a request; hyper would leave it out.
    if request.path.is_some_and(|target| target.contains('#')) {
        return None;
    }
    let mut length = None;
    let mut chunked = false;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return None;
            }
            length = Some(parse_length(header.value)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || request.version != Some(1) || !header.value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => None,
        (None, true) => Some(State::ChunkSize),
        (None | Some(0), false) => Some(State::Head),
        (Some(length), false) => Some(State::Body(length)),
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let plain = !value.is_empty() && value.len() <= LENGTH_DIGITS_MAX && value.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::released;

    /// Feeds `bytes` in pieces of `size`; true when everything was released and nothing malformed.
    fn passes(bytes: &[u8], size: usize) -> bool {
        let mut framer = Framer::new(1_000);
        let mut held = Vec::new();
        for piece in bytes.chunks(size) {
            held.extend_from_slice(piece);
            while !held.is_empty() {
                match framer.next(&held) {
                    Step::Release(count) => drop(held.drain(..count)),
                    Step::More => break,
                    Step::Malformed => return false,
                }
            }
        }
        held.is_empty()
    }

    const GOOD: &[&str] = &[
        "GET / HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    ];

    #[test]
    fn plain_requests_pass_whole_however_they_are_cut() {
        for text in GOOD {
            for size in [1, 2, 3, 7, 1_000] {
                assert!(passes(text.as_bytes(), size), "{size} {text}");
            }
        }
    }

    #[test]
    fn ambiguous_requests_are_malformed_however_they_are_cut() {
        for rest in [
            "content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            "content-length: 3\r\ncontent-length: 3\r\n\r\n",
            "content-length: 3, 3\r\n\r\n",
            "content-length: +3\r\n\r\n",
            "content-length:\r\n\r\n",
            "transfer-encoding: gzip, chunked\r\n\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\n\r\n3;x=y\r\n",
            "transfer-encoding: chunked\r\n\r\n0x3\r\n",
            "transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n",
            "transfer-encoding: chunked\r\n\r\n00000000000000000003\r\n",
            "transfer-encoding: chunked\r\n\r\n0\r\na: 1\nb: 2\r\n",
            "x: 1\n\r\n",
            "x: 1\r\n y\r\n\r\n",
            "x : 1\r\n\r\n",
        ] {
            let text = format!("POST / HTTP/1.1\r\n{rest}");
            for size in [1, 3, 1_000] {
                assert!(!passes(text.as_bytes(), size), "{text}");
            }
        }
        for text in [
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
            // How HTTP/2 begins is no beginning of a request, the first of a connection or another.
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
            "GET / HTTP/1.1\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
        ] {
            assert!(!passes(text.as_bytes(), 1_000), "{text}");
        }
    }

    /// Were it read anew with each byte, this would take minutes.
    #[test]
    fn a_head_of_the_greatest_length_may_come_a_byte_at_a_time() {
        let head_bytes_max = 64 * 1024;
        let mut framer = Framer::new(head_bytes_max);
        let mut head = b"GET / HTTP/1.1\r\nx-a: ".to_vec();
        head.resize(head_bytes_max - 4, b'a');
        head.extend(b"\r\n\r\n");
        for shown in 1..head.len() {
            assert_eq!(framer.next(&head[..shown]), Step::More);
        }
        assert_eq!(framer.next(&head), Step::Release(head.len()));
    }

    proptest! {
        #[test]
        fn it_never_releases_more_than_it_was_shown(bytes in proptest::collection::vec(any::<u8>(), 1..200)) {
            let mut framer = Framer::new(100);
            if let Step::Release(count) = framer.next(&bytes) {
                prop_assert!(count <= bytes.len());
            }
        }

        #[test]
        fn what_is_released_does_not_depend_on_how_the_bytes_were_cut(
            pieces in proptest::collection::vec(proptest::sample::select(PIECES), 1..14),
            cuts in proptest::collection::vec(1_usize..9, 1..40),
        ) {
            let bytes = pieces.concat().into_bytes();
            let whole = released(&bytes, &[bytes.len()]);
            prop_assert_eq!(released(&bytes, &cuts), whole);
        }
    }

    /// What requests are made of, and what they should not be made of.
    const PIECES: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "POST /a HTTP/1.1\r\n",
        "POST / HTTP/1.0\r\n",
        "PRI * HTTP/2.0\r\n",
        "PRI ",
        "host: a\r\n",
        "x-a: 1\r\n",
        "content-length: 3\r\n",
        "content-length: 0\r\n",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "\r\n",
        "\r",
        "\n",
        "3\r\n",
        "abc",
        "0\r\n",
        "a\r\n",
        "3;x\r\n",
        " ",
        "\0",
        ":",
    ];
}
