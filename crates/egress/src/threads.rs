//! The threads that pods are served on, beside those of the rest of the server. All traffic of a workspace is on one of
//! them, so that a request does not wander between threads, and none waits for what the control plane does.
//!
//! To wake a thread that sleeps takes longer than most of what is done for a request. So where a peer's last answer came quickly,
//! its thread looks a while for the next one before it sleeps, as the kernel does on behalf of virtual machines (its
//! documentation calls it halt polling). Where answers take longer than that, or many are awaited, it sleeps at once.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    num::NonZero,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use freehold_model::WorkspaceId;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Answers awaited at once for which a thread still stays awake: an upstream's, and the client's next request. Of many one
/// comes soon anyway, and what else runs on the core needs it.
const AWAITED_MAX: usize = 2;

/// When to yield takes longer, somebody else had the core. The kernel gives way for a moment to threads of the same group;
/// with those of other groups, as every pod is, it shares the core equally however often this one yields.
const TAKEN: Duration = Duration::from_micros(100);

/// For how long somebody else may have the core before a thread sleeps at once. The bursts of the audit store, which shares
/// its core with egress on a small machine, are shorter.
const TAKEN_MAX: Duration = Duration::from_millis(5);

/// For how many times as long as that it then sleeps at once, and how many times as long as it was taken a core must have been
/// left to it for that to be forgotten: its part of a core that is wanted is a sixth at most.
const RESTS: u32 = 4;

/// Threads, each with a runtime of its own. They end when this is dropped.
pub(crate) struct Threads {
    runtimes: Vec<Handle>,
    stop: CancellationToken,
}

impl Threads {
    pub(crate) fn start(count: NonZero<usize>, busy_poll: Duration) -> io::Result<Self> {
        let count = count.get();
        let mut threads = Self { runtimes: Vec::with_capacity(count), stop: CancellationToken::new() };
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().on_thread_park(stay_awake).build()?;
            threads.runtimes.push(runtime.handle().clone());
            let stop = threads.stop.clone();
            thread::Builder::new().name(format!("egress-{number}")).spawn(move || {
                WATCH.with(|watch| watch.busy_poll.set(busy_poll));
                runtime.spawn(poll_fn(|cx| WATCH.with(|watch| watch.wait(cx))));
                runtime.block_on(stop.cancelled());
                // What it may still ask the kernel about an address is not waited for.
                runtime.shutdown_background();
            })?;
        }
        Ok(threads)
    }

    /// The thread of a workspace.
    pub(crate) fn of(&self, workspace: WorkspaceId) -> &Handle {
        let (_, random) = workspace.uuid().as_u64_pair();
        let number = random % self.runtimes.len() as u64;
        &self.runtimes[usize::try_from(number).unwrap_or_default()]
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What a thread knows of the answers that it awaits.
#[derive(Default)]
struct Watch {
    /// How long it looks for one. Zero: not at all.
    busy_poll: Cell<Duration>,
    /// Until when it looks.
    until: Cell<Option<Instant>>,
    /// For how long somebody else had the core, less what is forgotten, and when that was reckoned.
    taken: Cell<Option<(Duration, Instant)>>,
    /// Until when it does not look, as somebody else wants the core.
    rest: Cell<Option<Instant>>,
    /// A period as long as it looks: which one, and when it began.
    period: Cell<u64>,
    began: Cell<Option<Instant>>,
    /// Answers awaited since this period and since the one before, by the last bit of their numbers. Older ones are not likely any
    /// more.
    awaited: [Cell<usize>; 2],
    /// Of the task that is woken to have something to do.
    waiting: RefCell<Option<Waker>>,
}

thread_local! {
    static WATCH: Watch = Watch::default();
}

/// Called when a thread has nothing to do. While an answer is likely it gives way, and then has something to do: so the runtime
/// looks for events, and comes back here when there are none. (tokio looks for them after this hook, without waiting, where the
/// hook woke something; see its issue 8212.)
fn stay_awake() {
    WATCH.with(|watch| {
        let now = Instant::now();
        if watch.is_awake(now) {
            thread::yield_now();
            watch.yielded(now, Instant::now());
            watch.waiting.borrow().iter().for_each(Waker::wake_by_ref);
        }
    });
}

impl Watch {
    fn is_awake(&self, now: Instant) -> bool {
        let awaited: usize = self.awaited.iter().map(Cell::get).sum();
        let is_before = |time: &Cell<Option<Instant>>| time.get().is_some_and(|time| now < time);
        (1..=AWAITED_MAX).contains(&awaited) && is_before(&self.until) && !is_before(&self.rest)
    }

    /// What is always there to do, and does nothing.
    fn wait(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.borrow_mut().get_or_insert_with(|| cx.waker().clone());
        Poll::Pending
    }

    fn yielded(&self, before: Instant, now: Instant) {
        let this_time = now.saturating_duration_since(before);
        if this_time <= TAKEN {
            return;
        }
        let (taken, at) = self.taken.get().unwrap_or((Duration::ZERO, before));
        let taken = taken.saturating_sub(before.saturating_duration_since(at) / RESTS) + this_time;
        self.taken.set(Some((taken, now)));
        if taken > TAKEN_MAX {
            self.rest.set(Some(now + taken * RESTS));
            self.taken.set(None);
        }
    }

    fn of(&self, period: u64) -> &Cell<usize> {
        &self.awaited[usize::from(period % 2 == 1)]
    }

    /// Begins a period when the last one is over.
    fn turn(&self, now: Instant) {
        let passed = self.began.get().map(|began| now.saturating_duration_since(began));
        if passed.is_some_and(|passed| passed < self.busy_poll.get()) {
            return;
        }
        if passed.is_none_or(|passed| passed >= self.busy_poll.get() * 2) {
            self.of(self.period.get()).set(0);
        }
        self.period.set(self.period.get() + 1);
        self.began.set(Some(now));
        self.of(self.period.get()).set(0);
    }

    fn begin(&self, since: Instant, is_quick: bool) -> Option<Awaited> {
        let busy_poll = Some(self.busy_poll.get()).filter(|time| !time.is_zero())?;
        let period = is_quick.then(|| {
            self.turn(since);
            let period = self.period.get();
            self.of(period).set(self.of(period).get() + 1);
            self.until.set(Some(since + busy_poll));
            period
        });
        Some(Awaited { since, period })
    }

    fn end(&self, awaited: &Awaited) {
        if let Some(period) = awaited.period.filter(|period| *period + 1 >= self.period.get()) {
            self.of(period).set(self.of(period).get().saturating_sub(1));
        }
    }
}

/// An answer that is awaited, until this is dropped.
pub(crate) struct Awaited {
    since: Instant,
    /// In which period it was looked for. None: it is not.
    period: Option<u64>,
}

impl Awaited {
    /// Bytes went to a peer, whose last answer was quick or not. None: nobody looks for answers on this thread.
    pub(crate) fn begin(is_quick: bool) -> Option<Self> {
        WATCH.with(|watch| watch.begin(Instant::now(), is_quick))
    }

    /// The peer answered. True: quickly.
    pub(crate) fn came(self) -> bool {
        WATCH.with(|watch| self.since.elapsed() <= watch.busy_poll.get())
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        WATCH.with(|watch| watch.end(self));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::mpsc};

    use uuid::Uuid;

    use super::*;

    const BUSY_POLL: Duration = Duration::from_micros(200);

    fn watch() -> (Watch, Instant) {
        let watch = Watch::default();
        watch.busy_poll.set(BUSY_POLL);
        (watch, Instant::now())
    }

    #[test]
    fn a_thread_stays_awake_for_the_answer_of_a_quick_peer_and_no_longer_than_it_may() {
        let (watch, now) = watch();
        let slow = watch.begin(now, false).unwrap();
        assert!(!watch.is_awake(now));
        let quick = watch.begin(now, true).unwrap();
        watch.end(&slow);
        assert!(watch.is_awake(now + BUSY_POLL / 2));
        assert!(!watch.is_awake(now + BUSY_POLL));
        watch.end(&quick);
        assert!(!watch.is_awake(now));
    }

    #[test]
    fn a_thread_sleeps_where_many_answers_are_awaited_and_forgets_those_that_do_not_come() {
        let (watch, now) = watch();
        let idle: Vec<_> = (0..=AWAITED_MAX).map(|_| watch.begin(now, true).unwrap()).collect();
        assert!(!watch.is_awake(now));
        // One peer asks on and on, so that there is never a pause.
        let mut later = now;
        for _ in 0..8 {
            later += BUSY_POLL / 4;
            let answered = watch.begin(later, true).unwrap();
            watch.end(&answered);
        }
        let last = watch.begin(later, true).unwrap();
        assert!(watch.is_awake(later), "they were forgotten");
        idle.iter().for_each(|idle| watch.end(idle));
        assert!(watch.is_awake(later));
        watch.end(&last);
        assert!(!watch.is_awake(later));
    }

    #[test]
    fn a_thread_whose_core_somebody_else_wants_sleeps_for_a_while() {
        let (watch, mut now) = watch();
        let is_awake_after = |now: &mut Instant, taken: Duration, left: Duration| {
            watch.yielded(*now, *now + taken);
            *now += taken;
            let awaited = watch.begin(*now, true).unwrap();
            let is_awake = watch.is_awake(*now);
            watch.end(&awaited);
            *now += left;
            is_awake
        };
        let burst = TAKEN_MAX / 2 + TAKEN;
        // One that wants little of it may have that in bursts, for as long as it likes.
        assert!((0..100).all(|_| is_awake_after(&mut now, burst, burst * RESTS)));
        assert!(is_awake_after(&mut now, burst, Duration::ZERO));
        assert!(!is_awake_after(&mut now, burst, Duration::ZERO), "another wants all of it");
        let rested = now + burst * 2 * RESTS;
        let _last = watch.begin(rested, true);
        assert!(watch.is_awake(rested));
    }

    #[test]
    fn a_thread_that_is_to_sleep_at_once_awaits_nothing() {
        assert!(Watch::default().begin(Instant::now(), true).is_none());
    }

    #[test]
    fn a_workspace_has_one_thread_and_workspaces_have_different_ones() {
        let threads = Threads::start(NonZero::new(3).unwrap(), BUSY_POLL).unwrap();
        let on = |workspace| {
            let (tell, told) = mpsc::channel();
            threads.of(workspace).spawn(async move { tell.send(thread::current().id()) });
            told.recv().unwrap()
        };
        let workspaces: Vec<_> = (0..64).map(|_| WorkspaceId::from_uuid(Uuid::now_v7())).collect();
        let used: HashSet<_> = workspaces.iter().map(|workspace| on(*workspace)).collect();
        assert_eq!(used.len(), 3);
        assert!(workspaces.iter().all(|workspace| on(*workspace) == on(*workspace)));
    }

    #[test]
    fn threads_end_with_what_they_belong_to() {
        let threads = Threads::start(NonZero::<usize>::MIN, BUSY_POLL).unwrap();
        let (tell, told) = mpsc::channel::<()>();
        threads.of(WorkspaceId::from_uuid(Uuid::now_v7())).spawn(async move {
            let _kept = tell;
            std::future::pending::<()>().await;
        });
        drop(threads);
        assert_eq!(told.recv(), Err(mpsc::RecvError));
    }
}
