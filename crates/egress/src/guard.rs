//! The client's side of a connection with ambiguous HTTP/1.1 kept from hyper, and with patience at its end: a client that
//! is still sending what nobody reads gets to read why. A system takes back what was not read yet from a connection that is
//! closed with bytes left in it.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{
    frame::{Framer, Step},
    linger::{LINGER_BYTES_MAX, LINGER_TIME_MAX},
    watch::Activity,
};

/// Bytes read from the connection at once.
const READ_BYTES: usize = 16 * 1024;
/// No HTTP, wherever it stands: hyper answers a head of it with 400 and breaks off a body.
const NONSENSE: &[u8] = b"\0\r\n\r\n";
/// How HTTP/2 begins.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that releases what the framer has understood.
pub(crate) struct Guarded<S> {
    stream: S,
    activity: Arc<Activity>,
    framer: Framer,
    /// Read, and not passed on yet.
    held: Vec<u8>,
    /// How many bytes of `held` may be passed on.
    released: usize,
    malformed: bool,
    /// Whether the client has closed its side.
    ended: bool,
    /// At the end: how many bytes may still be read and dropped, and for how long.
    linger: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Guarded<S> {
    pub(crate) const fn new(stream: S, activity: Arc<Activity>, head_bytes_max: usize) -> Self {
        let framer = Framer::new(head_bytes_max);
        Self {
            stream,
            activity,
            framer,
            held: Vec::new(),
            released: 0,
            malformed: false,
            ended: false,
            linger: None,
        }
    }

    /// Moves released bytes out; true when there were any.
    fn pass_on(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let count = self.released.min(buffer.remaining());
        buffer.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.released -= count;
        count > 0
    }

    fn look(&mut self) {
        if self.activity.is_upgraded() {
            self.released = self.held.len();
            return;
        }
        while self.released < self.held.len() {
            match self.framer.next(&self.held[self.released..]) {
                Step::Release(count) => self.released += count,
                Step::More => return,
                Step::Malformed => {
                    self.held.truncate(self.released);
                    self.held.extend_from_slice(NONSENSE);
                    self.released = self.held.len();
                    self.malformed = true;
                    return;
                }
            }
        }
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    /// Whether the client begins as HTTP/2 does. What was read for that is passed on all the same.
    pub(crate) async fn begins_as_http2(&mut self) -> io::Result<bool> {
        while HTTP2_PREFACE.starts_with(&self.held) && self.held.len() < HTTP2_PREFACE.len() && !self.ended {
            poll_fn(|cx| self.poll_more(cx)).await?;
        }
        let begins = self.held.starts_with(HTTP2_PREFACE);
        if begins {
            self.framer.let_through();
        }
        self.look();
        Ok(begins)
    }

    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); READ_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut space))?;
        self.held.extend_from_slice(space.filled());
        self.ended = space.filled().is_empty();
        Poll::Ready(Ok(()))
    }

    /// Reads and drops what the client sends until it closes its side.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (left, limit) =
            self.linger.get_or_insert_with(|| (LINGER_BYTES_MAX, Box::pin(sleep(LINGER_TIME_MAX))));
        let mut piece = [MaybeUninit::uninit(); READ_BYTES];
        while *left > 0 {
            let mut piece = ReadBuf::uninit(&mut piece);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut piece) else {
                return limit.as_mut().poll(cx);
            };
            let count = piece.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            *left = left.saturating_sub(count);
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.pass_on(buffer) || this.malformed {
                return Poll::Ready(Ok(()));
            }
            if this.held.is_empty() {
                // A connection that waits for its next request keeps no buffer.
                this.held = Vec::new();
            }
            if !this.ended {
                ready!(this.poll_more(cx))?;
            }
            if this.ended {
                // Half a head at the end is no request, and half a body breaks its request off. Behind a whole request the
                // end is not told before the answer: who reads it would take the client for gone.
                if this.framer.is_between_requests() && !this.activity.is_upgraded() {
                    ready!(this.activity.poll_half_closed(cx));
                }
                return Poll::Ready(Ok(()));
            }
            this.look();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            let is_whole = this.framer.is_between_requests() && this.held.is_empty() && !this.malformed;
            if is_whole || this.activity.is_upgraded() {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, join, sink};
    use tokio_util::io::StreamReader;

    use super::*;

    /// Whether bytes that come in pieces of `size` are taken for HTTP/2, and what of them is passed on.
    async fn told(text: &'static [u8], size: usize) -> (bool, Vec<u8>) {
        let pieces = tokio_stream::iter(text.chunks(size).map(io::Result::Ok));
        let mut guarded = Guarded::new(join(StreamReader::new(pieces), sink()), Activity::new(), 1_000);
        let begins = guarded.begins_as_http2().await.unwrap();
        let mut passed = Vec::new();
        guarded.read_to_end(&mut passed).await.unwrap();
        (begins, passed)
    }

    #[tokio::test]
    async fn what_a_client_speaks_is_told_however_its_first_bytes_are_cut_and_all_of_them_pass() {
        for size in [1, 3, 23, 24, 100] {
            for (text, is_http2) in [
                (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"[..], true),
                (b"PRI / HTTP/1.1\r\nhost: a\r\n\r\n", false),
                (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
                (b"", false),
            ] {
                assert_eq!(told(text, size).await, (is_http2, text.to_vec()), "{size}");
            }
            // What is neither is refused.
            let almost = told(b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", size).await;
            assert_eq!(almost, (false, NONSENSE.to_vec()), "{size}");
            // What is no whole head is no request.
            assert_eq!(told(b"PRI * HT", size).await, (false, Vec::new()), "{size}");
        }
    }
}
