//! Jobs: closures on their way to a thread that has a connection, and their answers on the way back.

use std::panic::{AssertUnwindSafe, catch_unwind};

use freehold_model::OrganizationId;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, scope::Session};

/// Whose rows a job sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Organization(OrganizationId),
    /// Those of all organizations; a job that writes them has a transaction of its own.
    System,
}

impl Scope {
    pub(crate) const fn organization(self) -> Option<OrganizationId> {
        match self {
            Self::Organization(organization) => Some(organization),
            Self::System => None,
        }
    }
}

/// A job whose types are hidden from the thread that runs it.
pub(crate) trait Job: Send {
    fn scope(&self) -> Scope;
    /// Runs the job and answers whether its changes stand, unless a statement that it did not wait for fails yet. A panic
    /// ends the job and nothing else.
    fn run(&mut self, session: &mut Session) -> bool;
    /// Gives the job's own answer to whoever waits, or `Err` when nothing it did or saw can be relied upon.
    fn answer(self: Box<Self>, outcome: Result<(), Error>);
}

/// What is sent to a thread.
pub(crate) enum Message {
    Job(Box<dyn Job>),
    /// Take nothing more, and end once what is queued is done.
    Close,
}

struct Typed<T, E, F> {
    scope: Scope,
    work: Option<F>,
    result: Option<Result<T, E>>,
    reply: oneshot::Sender<Result<T, E>>,
}

impl<T, E, F> Job for Typed<T, E, F>
where
    T: Send,
    E: From<Error> + Send,
    F: FnOnce(&mut Session) -> Result<T, E> + Send,
{
    fn scope(&self) -> Scope {
        self.scope
    }

    fn run(&mut self, session: &mut Session) -> bool {
        let Some(work) = self.work.take() else { return false };
        let result = match catch_unwind(AssertUnwindSafe(|| work(session))) {
            Ok(Ok(_)) if session.has_failed() => Err(Error::Poisoned.into()),
            Ok(done) => done,
            Err(_panic) => Err(Error::Panicked.into()),
        };
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, outcome: Result<(), Error>) {
        let result = match (outcome, self.result) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(Error::Closed.into()),
            (Err(error), _) => Err(error.into()),
        };
        // Whoever asked may have gone away; the job was done all the same.
        drop(self.reply.send(result));
    }
}

/// A job that does nothing: whoever runs it sees whether it still can.
pub(crate) fn idle() -> Box<dyn Job> {
    let (reply, _nobody) = oneshot::channel();
    let work = |_: &mut Session| Ok::<_, Error>(());
    Box::new(Typed { scope: Scope::System, work: Some(work), result: None, reply })
}

/// Queues a job, waiting for room, and waits for its answer.
pub(crate) async fn submit<T, E, F>(queue: &mpsc::Sender<Message>, scope: Scope, work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: FnOnce(&mut Session) -> Result<T, E> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job = Typed { scope, work: Some(work), result: None, reply };
    queue.send(Message::Job(Box::new(job))).await.map_err(|_| Error::Closed)?;
    answer.await.unwrap_or_else(|_| Err(Error::Closed.into()))
}
