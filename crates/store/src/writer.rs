//! The thread that writes: group commit.
//!
//! Invariant: a job is answered only after the transaction it ran in was committed or given up, so that nobody hears of
//! what may yet vanish. What one job does to another in the same transaction is what it would do in one before.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::mpsc;

use crate::{
    Error, column,
    job::{Job, Message, Scope},
    link::Link,
    scope::{self, Session},
    signal::{Signals, Topics},
    sql::Dialect,
    work::Work,
};

/// The most jobs that wait to be written, in jobs; more callers wait for room.
pub(crate) const WRITE_QUEUE_MAX: usize = 1_024;

/// The most jobs of one transaction, in jobs: bounds how long the first of them waits for the last.
const WRITE_BATCH_MAX: usize = 256;

/// The channel of PostgreSQL on which servers wake each other.
pub(crate) const CHANNEL: &str = "freehold_signals";

/// Writes until the queue is closed and empty.
pub(crate) fn run(mut link: Link, mut queue: mpsc::Receiver<Message>, signals: &Arc<Signals>) {
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            match queue.blocking_recv() {
                Some(message) => take(message, &mut waiting, &mut queue),
                None => return,
            }
        }
        while waiting.len() < WRITE_BATCH_MAX {
            match queue.try_recv() {
                Ok(message) => take(message, &mut waiting, &mut queue),
                Err(_) => break,
            }
        }
        let batch = next_batch(&mut waiting);
        for job in transaction(&mut link, batch, signals).into_iter().rev() {
            waiting.push_front(job);
        }
    }
}

fn take(message: Message, waiting: &mut VecDeque<Box<dyn Job>>, queue: &mut mpsc::Receiver<Message>) {
    match message {
        Message::Job(job) => waiting.push_back(job),
        Message::Close => queue.close(),
    }
}

/// The jobs of one transaction. One that sees all organizations may lock any of them, in any order, so it is alone.
fn next_batch(waiting: &mut VecDeque<Box<dyn Job>>) -> VecDeque<Box<dyn Job>> {
    let alone = waiting.iter().position(|job| job.scope() == Scope::System).unwrap_or(waiting.len());
    waiting.drain(..alone.max(1).min(waiting.len())).collect()
}

/// Runs jobs in one transaction and answers them. Returns those that were not run, because the transaction ended early.
fn transaction(
    link: &mut Link,
    mut batch: VecDeque<Box<dyn Job>>,
    signals: &Signals,
) -> VecDeque<Box<dyn Job>> {
    let mut done = Vec::with_capacity(batch.len());
    let outcome = attempt(link, &mut batch, &mut done, signals);
    let was_ousted = signals.note_ousted(matches!(outcome, Err(Error::Owned)));
    match &outcome {
        // Said once: it is tried again every second.
        Err(Error::Owned) if was_ousted => {}
        Ok((topics, work)) => signals.wake_own(*topics, work.clone()),
        Err(error) => tracing::error!(
            error = error as &dyn std::error::Error,
            store.jobs = done.len(),
            "a transaction failed"
        ),
    }
    if outcome.is_err() {
        link.roll_back();
        if done.is_empty() {
            // It did not even begin: none of these would fare better at once.
            done.extend(batch.drain(..).map(|job| Ran { job, ended: Ended::TakenBack }));
        }
    }
    for Ran { job, ended } in done {
        match (ended, &outcome) {
            (Ended::BrokeAll, _) | (Ended::Stands(..) | Ended::TakenBack, Ok(_)) => job.answer(Ok(())),
            (Ended::Failed(error), _) => job.answer(Err(error)),
            (Ended::Stands(..) | Ended::TakenBack, Err(error)) => job.answer(Err(error.clone())),
        }
    }
    batch
}

/// A job that ran, or was about to.
struct Ran {
    job: Box<dyn Job>,
    ended: Ended,
}

/// How a job ended.
enum Ended {
    /// What it did stands if the transaction does, and these are told of it then.
    Stands(Topics, Work),
    /// It answers an error, and what it did was taken back.
    TakenBack,
    /// It thought that it stood, and then one of its statements failed; what it did was taken back.
    Failed(Error),
    /// Its own answer is an error of the database that made the transaction fail.
    BrokeAll,
}

fn attempt(
    link: &mut Link,
    batch: &mut VecDeque<Box<dyn Job>>,
    done: &mut Vec<Ran>,
    signals: &Signals,
) -> Result<(Topics, Work), Error> {
    let session = link.begin()?;
    session.start_transaction();
    lock(session, batch)?;
    let mut savepoint = Savepoint::None;
    while let Some(mut job) = batch.pop_front() {
        let stands = in_savepoint(session, job.as_mut(), &mut savepoint);
        note_before(session, done);
        let ended = match &stands {
            Ok(true) => {
                session.end_job();
                Ended::Stands(session.touched(), session.take_work())
            }
            Err(_) if session.has_failed() => Ended::BrokeAll,
            Ok(false) | Err(_) => Ended::TakenBack,
        };
        done.push(Ran { job, ended });
        stands?;
    }
    session.settle_before().map_err(Error::into_unavailable)?;
    note_before(session, done);
    let mut topics = Topics::default();
    let mut work = Work::default();
    for ran in done {
        if let Ended::Stands(more_topics, more_work) = &mut ran.ended {
            topics.extend(*more_topics);
            work.extend(std::mem::take(more_work));
        }
    }
    notify(session, signals, topics)?;
    commit(session)?;
    Ok((topics, work))
}

/// Notes that the job before failed after all, if it did.
fn note_before(session: &mut Session, done: &mut [Ran]) {
    if let (Some(error), Some(before)) = (session.failure_before(), done.last_mut()) {
        before.ended = Ended::Failed(error);
    }
}

/// Locks the organizations of a batch against other servers, all servers in the same order.
fn lock(session: &mut Session, batch: &VecDeque<Box<dyn Job>>) -> Result<(), Error> {
    let mut organizations: Vec<_> = batch.iter().filter_map(|job| job.scope().organization()).collect();
    organizations.sort_unstable();
    organizations.dedup();
    organizations.into_iter().try_for_each(|organization| scope::lock(session, organization))
}

/// The savepoint of a transaction's jobs. The last one ends with the transaction.
#[derive(Clone, Copy)]
enum Savepoint {
    /// There is none yet.
    None,
    /// It holds nothing: it was just made, or what it held was taken back.
    Empty,
    /// It holds what a job did.
    Used,
}

impl Savepoint {
    /// Makes it empty, and so keeps what the job before did.
    fn renew(&mut self, session: &mut Session) -> Result<(), Error> {
        const BEGIN: &str = "SAVEPOINT job";
        const RELEASE: &str = "RELEASE SAVEPOINT job";
        const RENEW: &str = "RELEASE SAVEPOINT job; SAVEPOINT job";
        let done = match (*self, session.connection.dialect()) {
            (Self::Empty, _) => Ok(()),
            (Self::None, Dialect::Sqlite) => session.connection.execute(BEGIN, &[]).map(drop),
            (Self::Used, Dialect::Sqlite) => session
                .connection
                .execute(RELEASE, &[])
                .and_then(|_| session.connection.execute(BEGIN, &[]).map(drop)),
            // The job's first statement is waited for with it.
            (Self::None, Dialect::Postgres) => session.connection.send_batch(BEGIN),
            (Self::Used, Dialect::Postgres) => session.connection.send_batch(RENEW),
        };
        done.map_err(Error::into_unavailable)?;
        *self = Self::Empty;
        Ok(())
    }
}

/// Runs one job so that it leaves all of its changes or none. Answers whether they stand, unless a statement that was not
/// waited for fails yet; an error means that the whole transaction is lost.
///
/// With the job's first question come the answers that the job before did not wait for. Had one failed, the database has
/// refused this job's savepoint and question too: the job before is then taken back, and the question asked again.
fn in_savepoint(session: &mut Session, job: &mut dyn Job, savepoint: &mut Savepoint) -> Result<bool, Error> {
    session.start_job();
    savepoint.renew(session)?;
    let stands = job.run(session);
    let is_certain = session.settle_before();
    if !session.connection.in_transaction() {
        return Err(Error::Unavailable { source: Arc::new(TransactionLost) });
    }
    is_certain.map_err(Error::into_unavailable)?;
    if stands {
        *savepoint = Savepoint::Used;
    } else {
        session.take_back().map_err(Error::into_unavailable)?;
    }
    Ok(stands)
}

/// Wakes other servers once this is committed.
fn notify(session: &mut Session, signals: &Signals, topics: Topics) -> Result<(), Error> {
    if session.connection.dialect() == Dialect::Sqlite || topics.is_empty() {
        return Ok(());
    }
    let payload = column::text_owned(signals.message(topics));
    // Waited for with the commit.
    session.connection.send("SELECT pg_notify(?1, ?2)", &[column::text(CHANNEL), payload], CHANNEL)
}

fn commit(session: &mut Session) -> Result<(), Error> {
    match session.connection.execute("COMMIT", &[]) {
        Ok(_) => Ok(()),
        Err(Error::Unavailable { source }) if session.connection.is_lost() => {
            Err(Error::Uncertain { source })
        }
        Err(error) => Err(error.into_unavailable()),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the database ended the transaction")]
struct TransactionLost;
