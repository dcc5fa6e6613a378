//! Watching a connection: when it was last heard of, and how many requests are open on it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of a connection's life.
pub(crate) struct Activity {
    begun: Instant,
    /// Milliseconds from `begun` to the last byte in or out.
    last_ms: AtomicU64,
    /// Milliseconds from `begun` to the last byte out.
    wrote_ms: AtomicU64,
    /// Milliseconds from `begun` to when the last request was over.
    free_ms: AtomicU64,
    open: AtomicUsize,
    upgraded: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            wrote_ms: AtomicU64::new(0),
            free_ms: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            upgraded: AtomicBool::new(false),
        })
    }

    /// Says that the client's next bytes are HTTP no more. Called before the client can know.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Acquire)
    }

    fn passed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn touch(&self) {
        self.last_ms.store(self.passed_ms(), Ordering::Relaxed);
    }

    /// Counts a request as open until the guard is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// Returns when the connection was without a byte for `stalled` with a request open; or for `idle` without one,
    /// where bytes that come do not count and those that go (the end of an answer, to a client that reads slowly) do, for
    /// `stalled` at most. So a head that comes a byte at a time has no longer than a silent connection.
    pub(crate) async fn quiet(&self, idle: Duration, stalled: Duration) {
        let since = |mark: &AtomicU64| self.begun + Duration::from_millis(mark.load(Ordering::Relaxed));
        loop {
            let due = if self.open.load(Ordering::Relaxed) > 0 {
                since(&self.last_ms) + stalled
            } else {
                let free = since(&self.free_ms);
                (free.max(since(&self.wrote_ms)) + idle).min(free + stalled.max(idle))
            };
            if due <= Instant::now() {
                return;
            }
            // Looks again at the latest after the shorter limit: a request may have ended in between.
            tokio::time::sleep_until(due.min(Instant::now() + idle.min(stalled)).into()).await;
        }
    }
}

/// A request that is not over.
pub(crate) struct OpenRequest(Arc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let passed = self.0.passed_ms();
        self.0.last_ms.store(passed, Ordering::Relaxed);
        self.0.free_ms.store(passed, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose bytes are noticed.
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(crate) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn noticed<T>(&self, poll: Poll<T>) -> Poll<T> {
        if poll.is_ready() {
            self.activity.touch();
        }
        poll
    }

    fn wrote<T>(&self, poll: Poll<T>) -> Poll<T> {
        if poll.is_ready() {
            self.activity.touch();
            self.activity.wrote_ms.store(self.activity.last_ms.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        poll
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.noticed(poll)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn a_connection_without_requests_is_quiet_after_the_idle_limit() {
        Activity::new().quiet(SHORT, LONG).await;
    }

    #[tokio::test]
    async fn bytes_without_a_request_do_not_keep_a_connection() {
        let activity = Activity::new();
        let trickle = async {
            loop {
                activity.touch();
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = activity.quiet(SHORT, LONG) => {}
            () = trickle => {}
        }
    }

    #[tokio::test]
    async fn bytes_that_go_out_keep_a_connection_and_not_for_ever() {
        let activity = Activity::new();
        let trickle = async {
            loop {
                activity.wrote_ms.store(activity.passed_ms(), Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        };
        let (idle, stalled) = (Duration::from_secs(1), Duration::from_millis(1_200));
        tokio::select! {
            () = activity.quiet(idle, stalled) => {}
            () = trickle => {}
        }
        assert!(activity.begun.elapsed() >= stalled);
    }

    #[tokio::test]
    async fn an_open_request_has_the_longer_limit() {
        let activity = Activity::new();
        let open = activity.open();
        assert!(tokio::time::timeout(SHORT * 5, activity.quiet(SHORT, LONG)).await.is_err());
        drop(open);
        activity.quiet(SHORT, LONG).await;
    }
}
