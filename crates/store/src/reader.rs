//! The threads that read. Each takes one job at a time from a common queue.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use crate::{
    job::{Job, Message},
    link::Link,
};

/// Threads and connections that read, unless the options say otherwise.
pub(crate) const READERS: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");

/// The most jobs that wait to read, in jobs; more callers wait for room.
pub(crate) const READ_QUEUE_MAX: usize = 1_024;

/// The queue that all readers share: whoever holds the lock takes the next job.
pub(crate) type Queue = Arc<Mutex<mpsc::Receiver<Message>>>;

/// Reads until the queue is closed and empty.
pub(crate) fn run(mut link: Link, queue: &Queue) {
    while let Some(job) = next(queue) {
        read(&mut link, job);
    }
}

fn next(queue: &Queue) -> Option<Box<dyn Job>> {
    // Nothing panics while the lock is held, so a poisoned one is as good as any.
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match queue.blocking_recv()? {
            Message::Job(job) => return Some(job),
            // What is queued already still comes; after it comes nothing.
            Message::Close => queue.close(),
        }
    }
}

fn read(link: &mut Link, mut job: Box<dyn Job>) {
    match link.begin() {
        Ok(session) => {
            session.start_job();
            job.run(session);
            // The answer does not wait for the end of a transaction that changed nothing.
            job.answer(Ok(()));
            link.roll_back();
        }
        Err(error) => {
            link.roll_back();
            job.answer(Err(error));
        }
    }
}
