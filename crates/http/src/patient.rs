//! A connection whose patience ends: with a client that does not begin to speak, and with one that does not read. And one
//! that is patient at its end, with a client that is still sending what nobody reads.
//!
//! The parsers of HTTP have limits for the head of a request, but none for the bytes by which its version is told, and none
//! for a client that leaves what it asked for in the socket's buffer. They close a connection while its client is sending,
//! which makes the system take back what the client did not read yet.

use std::{
    future::Future,
    io::{self, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// Bytes by which the version of HTTP is told: those of HTTP/2's preface. No request of HTTP/1 is shorter.
const PREFACE_BYTES: usize = 24;

/// Bytes that are read and dropped at the end of a connection, so that the client gets to read the answer.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time that may take.
const LINGER_TIME_MAX: Duration = Duration::from_secs(5);
/// Bytes of these that are read at once.
const LINGER_PIECE_BYTES: usize = 16 * 1024;

/// A connection with limits on how long it may wait for the client.
pub(crate) struct Patient {
    stream: TcpStream,
    /// Bytes still to come before the client has begun, and how long that may take.
    beginning: Option<(usize, Pin<Box<Sleep>>)>,
    /// How long the client may read nothing of what it is sent.
    stall_time_max: Duration,
    /// When the client, which reads nothing, has had that long.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether a request was answered whose body was not read to its end.
    is_unread: Arc<AtomicBool>,
    /// At the end: how many bytes may still be read and dropped, and for how long.
    linger: Option<(usize, Pin<Box<Sleep>>)>,
}

impl Patient {
    pub fn new(
        stream: TcpStream,
        begin_time_max: Duration,
        stall_time_max: Duration,
        is_unread: Arc<AtomicBool>,
    ) -> Self {
        let beginning = Some((PREFACE_BYTES, Box::pin(sleep(begin_time_max))));
        Self { stream, beginning, stall_time_max, stalled: None, is_unread, linger: None }
    }

    /// Reads and drops what the client sends until it closes its side.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (left, limit) =
            self.linger.get_or_insert_with(|| (LINGER_BYTES_MAX, Box::pin(sleep(LINGER_TIME_MAX))));
        let mut piece = [MaybeUninit::uninit(); LINGER_PIECE_BYTES];
        while *left > 0 {
            let mut buffer = ReadBuf::uninit(&mut piece);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, &mut buffer) else {
                return limit.as_mut().poll(context);
            };
            let count = buffer.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            *left = left.saturating_sub(count);
        }
        Poll::Ready(())
    }

    /// Passes a write's outcome on, unless the client has been waited for long enough.
    fn written<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let limit = self.stall_time_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read what it is sent")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((missing, limit)) = &mut self.beginning else { return read };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            self.beginning = None;
            return read;
        }
        if read.is_pending() {
            ready!(limit.as_mut().poll(context));
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client does not begin to speak");
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        if self.is_unread.load(Ordering::Relaxed) {
            ready!(self.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}
