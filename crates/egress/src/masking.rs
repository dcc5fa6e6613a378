//! One response of a request that carries a credential: the secret is struck out of its head, body, trailers or tunnel,
//! and a row says so once.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};

use crate::{
    deny::Reason,
    follow_up::{FollowUp, Phase},
    headers::remove_where,
    mask::{Mask, Stream},
    state::lock,
};

/// Bytes read from a tunnel at once.
const READ_BYTES: usize = 16 * 1024;

/// The least time between two lines in the log about one pod and rule.
const LINE_PAUSE: Duration = Duration::from_secs(60);

/// Rules whose last line is remembered for each pod; with more all are forgotten.
const RULES_MAX: usize = 256;

/// What a client asks for by name that would keep a secret from being seen: a part of the response, to be put together
/// with others, another alphabet, and compression of the messages in it.
const UNWANTED: [HeaderName; 6] = [
    header::ACCEPT_CHARSET,
    header::RANGE,
    header::IF_RANGE,
    HeaderName::from_static("sec-websocket-extensions"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("connect-accept-encoding"),
];
/// What says how a response is coded, and what it says of one that is not, but for the framing.
const CODINGS: [(HeaderName, &[u8]); 4] = [
    (header::CONTENT_ENCODING, b"identity"),
    (header::TRANSFER_ENCODING, b"chunked"),
    (HeaderName::from_static("grpc-encoding"), b"identity"),
    (HeaderName::from_static("connect-content-encoding"), b"identity"),
];

/// Asks for a response in which a secret can be seen.
pub(crate) fn prepare(headers: &mut HeaderMap) {
    remove_where(headers, |name| {
        UNWANTED.iter().chain([&header::ACCEPT_ENCODING]).any(|unwanted| unwanted == name)
    });
    headers.insert(header::ACCEPT_ENCODING, const { HeaderValue::from_static("identity") });
}

/// Whether a response is coded all the same. Such a body is not passed on.
pub(crate) fn is_coded(headers: &HeaderMap) -> bool {
    CODINGS.iter().any(|(name, plain)| {
        // Nothing, and what some servers write for it, say as much.
        let says_nothing = |value: &[u8]| value.is_empty() || value.eq_ignore_ascii_case(b"none");
        let is_plain = |value: &[u8]| value.eq_ignore_ascii_case(plain) || says_nothing(value);
        headers.get_all(name).iter().any(|value| !is_plain(value.as_bytes()))
    })
}

/// Strikes the secret out of one response.
pub(crate) struct Masking {
    stream: Stream,
    /// Until it was written.
    notice: Option<FollowUp>,
    /// For the mask, for as long as it is here.
    _room: Option<OwnedSemaphorePermit>,
}

impl Masking {
    pub(crate) const fn new(mask: Arc<Mask>, room: Option<OwnedSemaphorePermit>, notice: FollowUp) -> Self {
        Self { stream: Stream::new(mask), notice: Some(notice), _room: room }
    }

    /// A response's head.
    pub(crate) fn head(&mut self, headers: &mut HeaderMap) {
        if self.stream.mask().headers(headers) {
            self.found(Phase::ResponseHeaders);
        }
    }

    pub(crate) fn trailers(&mut self, trailers: &mut HeaderMap) {
        if self.stream.mask().headers(trailers) {
            self.found(Phase::ResponseBody);
        }
    }

    /// The next bytes of a body; gives those that may be passed on.
    pub(crate) fn push(&mut self, bytes: Bytes) -> Bytes {
        let (out, found) = self.stream.push(bytes);
        if found {
            self.found(Phase::ResponseBody);
        }
        out
    }

    /// What is held back and need not wait, when nothing comes for now.
    pub(crate) fn pause(&mut self) -> Bytes {
        self.stream.pause()
    }

    /// What was held back, at the end.
    pub(crate) fn finish(&mut self) -> Bytes {
        let (out, found) = self.stream.finish();
        if found {
            self.found(Phase::ResponseBody);
        }
        out
    }

    /// How many bytes are held back.
    pub(crate) const fn held(&self) -> usize {
        self.stream.held()
    }

    /// Writes the row, once. It comes after the fact and nothing waits for it.
    fn found(&mut self, phase: Phase) {
        let Some(notice) = self.notice.take() else { return };
        let (pod, row) = (notice.pod(), notice.row());
        if let Some(more) = pod.masked.tell(row.capability_name.as_deref(), Instant::now()) {
            let what = if self.stream.is_unseen() {
                "to look for secrets in an answer was more work than it may be: the rest of it is struck out"
            } else {
                "an upstream repeated a credential"
            };
            tracing::warn!(
                workspace.id = %pod.identity.workspace_id,
                egress.destination = row.destination.as_deref(),
                egress.rule = row.capability_name.as_deref(),
                egress.reason = Reason::SecretMasked.as_str(),
                egress.untold = more,
                "{what}"
            );
        }
        notice.found(phase, Reason::SecretMasked);
    }
}

/// What a pod's log lines of masked responses were told for, so that an upstream which repeats a credential in every
/// response does not fill the log. Each response has its row all the same.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<String, (Instant, u64)>>);

impl Told {
    /// Whether a line is due for a response of this rule, and then of how many since the last line there was none.
    fn tell(&self, rule: Option<&str>, now: Instant) -> Option<u64> {
        let mut told = lock(&self.0);
        let rule = rule.unwrap_or_default();
        if let Some((last, untold)) = told.get_mut(rule) {
            if now.saturating_duration_since(*last) < LINE_PAUSE {
                *untold += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(untold));
        }
        if told.len() >= RULES_MAX {
            told.clear();
        }
        told.insert(rule.to_owned(), (now, 0));
        Some(0)
    }
}

/// An upstream's side of a tunnel, with the secret struck out of what it sends.
pub(crate) struct MaskedTunnel<S> {
    stream: S,
    masking: Option<Masking>,
    /// May be passed on.
    ready: Bytes,
}

impl<S> MaskedTunnel<S> {
    pub(crate) const fn new(stream: S, masking: Option<Masking>) -> Self {
        Self { stream, masking, ready: Bytes::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MaskedTunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(masking) = &mut this.masking else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        // Each turn reads, and holds back less than the longest spelling.
        while this.ready.is_empty() {
            let mut bytes = vec![0; READ_BYTES];
            let mut space = ReadBuf::new(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, &mut space) else {
                this.ready = masking.pause();
                if this.ready.is_empty() {
                    return Poll::Pending;
                }
                break;
            };
            read?;
            let length = space.filled().len();
            bytes.truncate(length);
            if length == 0 {
                this.ready = masking.finish();
                break;
            }
            this.ready = masking.push(bytes.into());
        }
        let count = this.ready.len().min(buffer.remaining());
        buffer.put_slice(&this.ready[..count]);
        this.ready.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MaskedTunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_is_written_for_each_rule_and_says_how_many_were_not() {
        let (told, begin) = (Told::default(), Instant::now());
        let tell = |rule, second| told.tell(rule, begin + Duration::from_secs(second));
        assert_eq!([tell(Some("a"), 0), tell(Some("a"), 0), tell(Some("a"), 59)], [Some(0), None, None]);
        assert_eq!([tell(Some("b"), 59), tell(None, 59), tell(None, 60)], [Some(0), Some(0), None]);
        assert_eq!(
            [tell(Some("a"), 60), tell(Some("a"), 61), tell(Some("a"), 120)],
            [Some(2), None, Some(1)]
        );
        for rule in (0..RULES_MAX * 2).map(|rule| rule.to_string()) {
            assert_eq!(told.tell(Some(&rule), begin), Some(0));
        }
        assert!(told.0.lock().unwrap().len() <= RULES_MAX);
    }
}
