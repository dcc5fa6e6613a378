//! The threads that pods are served on, beside those of the rest of the server. All traffic of a workspace is on one of
//! them, so that a request does not wander between threads, and none waits for what the control plane does.
//!
//! To wake a thread that sleeps takes longer than most of what is done for a request. So one whose peer has just answered
//! quickly looks a while for the next answer before it sleeps, as the kernel does on behalf of virtual machines (its
//! documentation calls it halt polling). Where answers take longer than that, or many are awaited, it sleeps at once.

use std::{
    cell::Cell,
    io,
    num::NonZero,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use freehold_model::WorkspaceId;
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// Answers awaited at once for which a thread still stays awake: an upstream's, and the client's next request. Of many one
/// comes soon anyway, and what else runs on the core needs it.
const AWAITED_MAX: usize = 2;

/// When to yield takes longer, somebody else had the core. The kernel gives way for a moment to threads of the same group;
/// with those of other groups, as every pod is, it shares the core equally however often this one yields.
const TAKEN: Duration = Duration::from_micros(500);

/// How long a thread whose core is wanted sleeps at once.
const REST: Duration = Duration::from_millis(50);

/// Threads, each with a runtime of its own. They end when this is dropped.
pub(crate) struct Threads {
    runtimes: Vec<Handle>,
    stop: CancellationToken,
}

impl Threads {
    /// Starts so many, or when 0 as many as there are cores.
    pub(crate) fn start(count: usize, busy_poll: Duration) -> io::Result<Self> {
        let cores = || thread::available_parallelism().map_or(1, NonZero::get);
        let count = if count == 0 { cores() } else { count };
        let mut threads = Self { runtimes: Vec::with_capacity(count), stop: CancellationToken::new() };
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            threads.runtimes.push(runtime.handle().clone());
            let stop = threads.stop.clone();
            thread::Builder::new().name(format!("egress-{number}")).spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = stay_awake(busy_poll) => {}
                    }
                });
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

    /// Ends all that runs on them.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a thread knows of the answers that it awaits.
#[derive(Default)]
struct Watch {
    /// How long it looks for one. Zero: not at all.
    busy_poll: Cell<Duration>,
    /// Until when it looks.
    until: Cell<Option<Instant>>,
    /// Until when it does not, as somebody else wants the core.
    rest: Cell<Option<Instant>>,
    /// Whether the last one came within that time.
    was_quick: Cell<bool>,
    /// Those awaited since that time ran out last, and how often it did: what was awaited before counts no more.
    awaited: Cell<usize>,
    round: Cell<u64>,
    /// Told when there is something to look for.
    begun: Rc<Notify>,
}

thread_local! {
    static WATCH: Watch = Watch::default();
}

/// Keeps this thread awake while an answer is likely.
async fn stay_awake(busy_poll: Duration) {
    let begun = WATCH.with(|watch| {
        watch.busy_poll.set(busy_poll);
        Rc::clone(&watch.begun)
    });
    loop {
        let now = Instant::now();
        if WATCH.with(|watch| watch.is_awake(now)) {
            // Only in time that nobody else wants the core.
            thread::yield_now();
            WATCH.with(|watch| watch.yielded(now, Instant::now()));
            // The runtime looks for events before it comes back.
            tokio::task::yield_now().await;
        } else {
            begun.notified().await;
        }
    }
}

impl Watch {
    fn is_awake(&self, now: Instant) -> bool {
        let rests = self.rest.get().is_some_and(|rest| now < rest);
        (1..=AWAITED_MAX).contains(&self.awaited.get()) && !self.is_over(now) && !rests
    }

    fn yielded(&self, before: Instant, now: Instant) {
        if now - before > TAKEN {
            self.rest.set(Some(now + REST));
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.get().is_none_or(|until| until <= now)
    }

    fn begin(&self, since: Instant) -> Option<Awaited> {
        let busy_poll = Some(self.busy_poll.get()).filter(|time| !time.is_zero())?;
        if self.is_over(since) {
            self.awaited.set(0);
            self.round.set(self.round.get() + 1);
        }
        self.awaited.set(self.awaited.get() + 1);
        if self.was_quick.get() {
            self.until.set(Some(since + busy_poll));
            self.begun.notify_one();
        }
        Some(Awaited { since, round: self.round.get() })
    }

    fn end(&self, awaited: &Awaited) {
        if awaited.round == self.round.get() {
            self.awaited.set(self.awaited.get().saturating_sub(1));
        }
    }
}

/// An answer that is awaited, until this is dropped.
pub(crate) struct Awaited {
    since: Instant,
    round: u64,
}

impl Awaited {
    /// Bytes went to a peer. None: nobody looks for its answer on this thread.
    pub(crate) fn begin() -> Option<Self> {
        WATCH.with(|watch| watch.begin(Instant::now()))
    }

    /// The peer answered.
    pub(crate) fn came(self) {
        WATCH.with(|watch| watch.was_quick.set(self.since.elapsed() <= watch.busy_poll.get()));
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
        let first = watch.begin(now);
        assert!(!watch.is_awake(now), "nothing is known of the peer");
        watch.end(&first.unwrap());
        watch.was_quick.set(true);
        let _second = watch.begin(now);
        assert!(watch.is_awake(now + BUSY_POLL / 2));
        assert!(!watch.is_awake(now + BUSY_POLL));
        watch.was_quick.set(false);
        let _third = watch.begin(now + BUSY_POLL);
        assert!(!watch.is_awake(now + BUSY_POLL));
    }

    #[test]
    fn a_thread_sleeps_where_many_answers_are_awaited_or_none_and_forgets_those_that_do_not_come() {
        let (watch, now) = watch();
        watch.was_quick.set(true);
        let mut awaited: Vec<_> = (0..=AWAITED_MAX).map(|_| watch.begin(now).unwrap()).collect();
        assert!(!watch.is_awake(now));
        watch.end(&awaited.pop().unwrap());
        assert!(watch.is_awake(now));
        let later = now + BUSY_POLL;
        let last = watch.begin(later).unwrap();
        assert!(watch.is_awake(later));
        awaited.iter().for_each(|awaited| watch.end(awaited));
        assert!(watch.is_awake(later), "they were forgotten");
        watch.end(&last);
        assert!(!watch.is_awake(later));
    }

    #[test]
    fn a_thread_whose_core_somebody_else_wants_sleeps_for_a_while() {
        let (watch, now) = watch();
        watch.was_quick.set(true);
        let _awaited = watch.begin(now).unwrap();
        watch.yielded(now, now + TAKEN);
        assert!(watch.is_awake(now + TAKEN / 4));
        watch.yielded(now, now + TAKEN * 2);
        let later = now + TAKEN * 2;
        let _another = watch.begin(later).unwrap();
        assert!(!watch.is_awake(later));
        let rested = later + REST;
        let _last = watch.begin(rested).unwrap();
        assert!(watch.is_awake(rested));
    }

    #[test]
    fn a_thread_that_is_to_sleep_at_once_awaits_nothing() {
        assert!(Watch::default().begin(Instant::now()).is_none());
    }

    #[test]
    fn a_workspace_has_one_thread_and_workspaces_have_different_ones() {
        let threads = Threads::start(3, BUSY_POLL).unwrap();
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
        let threads = Threads::start(1, BUSY_POLL).unwrap();
        let (tell, told) = mpsc::channel::<()>();
        threads.of(WorkspaceId::from_uuid(Uuid::now_v7())).spawn(async move {
            let _kept = tell;
            std::future::pending::<()>().await;
        });
        drop(threads);
        assert_eq!(told.recv(), Err(mpsc::RecvError));
    }
}
