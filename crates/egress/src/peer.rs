//! A connection to a peer, whose bytes are noticed: when its answer is awaited, and when a client was last heard of.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::{threads::Awaited, watch::Activity};

/// A connection, to a client or to an upstream.
pub(crate) struct Peer {
    stream: TcpStream,
    awaited: Option<Awaited>,
    /// Whether its last answer came quickly.
    is_quick: bool,
    /// Of a client.
    activity: Option<Arc<Activity>>,
}

impl Peer {
    pub(crate) const fn upstream(stream: TcpStream) -> Self {
        Self { stream, awaited: None, is_quick: false, activity: None }
    }

    pub(crate) const fn client(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, awaited: None, is_quick: false, activity: Some(activity) }
    }

    fn wrote<T>(&mut self, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.activity.iter().for_each(|activity| activity.wrote());
        }
        if self.awaited.is_none() && matches!(poll, Poll::Ready(Ok(_))) {
            self.awaited = Awaited::begin(self.is_quick);
        }
        poll
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if poll.is_ready() {
            self.activity.iter().for_each(|activity| activity.touch());
            self.is_quick = self.awaited.take().map_or(self.is_quick, Awaited::came);
        }
        poll
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.wrote(poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.wrote(poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
