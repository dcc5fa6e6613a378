//! Watching a connection: when it was last heard of, and how many requests are open on it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{Limits, options::ms, state::lock};

/// How long a connection may be without a byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) idle: Duration,
    pub(crate) stalled: Duration,
    pub(crate) half_closed: Duration,
}

impl Patience {
    pub(crate) const fn of(limits: &Limits) -> Self {
        Self {
            idle: ms(limits.idle_ms),
            stalled: ms(limits.stalled_ms),
            half_closed: ms(limits.half_closed_ms),
        }
    }
}

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
    /// The client has sent its last byte, and told so.
    ended: AtomicBool,
    end: Notify,
    /// Who waits for the last open request to be over.
    waiting: Mutex<Option<Waker>>,
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
            ended: AtomicBool::new(false),
            end: Notify::new(),
            waiting: Mutex::new(None),
        })
    }

    /// Says that the client's next bytes are HTTP no more. Called before the client can know.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::Release);
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Acquire)
    }

    /// Says that the client closed its side: it waits for its answers, or is gone. Ready when no request is open.
    pub(crate) fn poll_half_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.end.notify_one();
        }
        // In this order: an end that comes between finds the waker.
        *lock(&self.waiting) = Some(cx.waker().clone());
        if self.open.load(Ordering::Acquire) > 0 { Poll::Pending } else { Poll::Ready(()) }
    }

    fn passed_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says that bytes came from the client.
    pub(crate) fn touch(&self) {
        self.last_ms.store(self.passed_ms(), Ordering::Relaxed);
    }

    /// Says that bytes went to the client.
    pub(crate) fn wrote(&self) {
        self.touch();
        self.wrote_ms.store(self.last_ms.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Counts a request as open until the guard is dropped.
    pub(crate) fn open(self: &Arc<Self>) -> OpenRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenRequest(Arc::clone(self))
    }

    /// Returns when the connection was without a byte for `stalled` with a request open, or for `half_closed` where the
    /// client has closed its side; or for `idle` without one, where bytes that come do not count and those that go (the
    /// end of an answer, to a client that reads slowly) do, for `stalled` at most. So a head that comes a byte at a time
    /// has no longer than a silent connection.
    pub(crate) async fn quiet(&self, Patience { idle, stalled, half_closed }: Patience) {
        let since = |mark: &AtomicU64| self.begun + Duration::from_millis(mark.load(Ordering::Relaxed));
        loop {
            let due = if self.open.load(Ordering::Relaxed) > 0 {
                let ended = self.ended.load(Ordering::Acquire);
                since(&self.last_ms) + if ended { half_closed.min(stalled) } else { stalled }
            } else {
                let free = since(&self.free_ms);
                (free.max(since(&self.wrote_ms)) + idle).min(free + stalled.max(idle))
            };
            if due <= Instant::now() {
                return;
            }
            // Looks again at the latest after the shorter limit: a request may have ended in between.
            tokio::select! {
                () = tokio::time::sleep_until(due.min(Instant::now() + idle.min(stalled))) => {}
                () = self.end.notified() => {}
            }
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
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        if let Some(waiting) = lock(&self.0.waiting).take() {
            waiting.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(3_600);
    const TICK: Duration = Duration::from_millis(100);

    fn patience(stalled: Duration) -> Patience {
        Patience { idle: SHORT, stalled, half_closed: SHORT * 3 }
    }

    /// How long it takes until the connection is quiet while `bytes` come all the time.
    async fn quiet_after(activity: &Activity, stalled: Duration, bytes: impl Fn()) -> Duration {
        let trickle = async {
            // Longer than any of the limits.
            for _ in 0..100_000 {
                bytes();
                tokio::time::sleep(TICK).await;
            }
        };
        tokio::select! {
            () = activity.quiet(patience(stalled)) => {}
            () = trickle => {}
        }
        activity.begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_is_quiet_after_the_idle_limit_whatever_comes() {
        let activity = Activity::new();
        let took = quiet_after(&activity, LONG, || activity.touch()).await;
        assert!(took < SHORT + TICK, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_go_out_keep_a_connection_and_not_for_ever() {
        let activity = Activity::new();
        let wrote = || activity.wrote_ms.store(activity.passed_ms(), Ordering::Relaxed);
        let took = quiet_after(&activity, SHORT * 10, wrote).await;
        assert!((SHORT * 10..SHORT * 11).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_request_has_the_longer_limit() {
        let activity = Activity::new();
        let open = activity.open();
        assert!(tokio::time::timeout(SHORT * 5, activity.quiet(patience(LONG))).await.is_err());
        drop(open);
        assert!(tokio::time::timeout(SHORT * 2, activity.quiet(patience(LONG))).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closed_its_side_is_waited_for_a_shorter_while() {
        let activity = Activity::new();
        let _open = activity.open();
        let ending = async {
            tokio::time::sleep(SHORT * 5).await;
            let closed = std::future::poll_fn(|cx| Poll::Ready(activity.poll_half_closed(cx).is_pending()));
            assert!(closed.await);
        };
        tokio::join!(activity.quiet(patience(LONG)), ending);
        let took = activity.begun.elapsed();
        assert!((SHORT * 5..SHORT * 6).contains(&took), "{took:?}");
    }
}
