//! Signals: after a commit, whoever waits for its kind of change looks at the rows again.
//!
//! A signal carries nothing but "look again", so that a missed or a doubled one costs time and never data.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use uuid::Uuid;

use crate::work::{Work, WorkChanges};

/// A kind of change that somebody may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Rows of the audit log, activity included.
    Audit,
    /// What the reconciler looks at: workspaces, tasks, roles, providers.
    Work,
    /// Events of sessions.
    Sessions,
    /// Who may call: a secret was revoked, or a member's role changed.
    Callers,
    /// Secrets: one was created, got another value or was deleted.
    Secrets,
    /// Which credentials there are, and whether they can be used.
    Credentials,
}

impl Topic {
    /// Every topic.
    pub const ALL: &'static [Self] =
        &[Self::Audit, Self::Work, Self::Sessions, Self::Callers, Self::Secrets, Self::Credentials];

    const fn bit(self) -> u8 {
        match self {
            Self::Audit => 1,
            Self::Work => 2,
            Self::Sessions => 4,
            Self::Callers => 8,
            Self::Secrets => 16,
            Self::Credentials => 32,
        }
    }
}

/// A set of topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Topics(u8);

impl Topics {
    pub(crate) const fn all() -> Self {
        Self(31)
    }

    pub(crate) const fn add(&mut self, topic: Topic) {
        self.0 |= topic.bit();
    }

    pub(crate) const fn extend(&mut self, more: Self) {
        self.0 |= more.0;
    }

    pub(crate) const fn contains(self, topic: Topic) -> bool {
        self.0 & topic.bit() != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Reads the set as it travels between servers; topics that this version does not know are left out.
    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::all().0)
    }
}

/// Where subscribers of this process wait.
#[derive(Debug)]
pub(crate) struct Signals {
    /// Tells this process's messages from those of others.
    process: Uuid,
    audit: watch::Sender<u64>,
    work: watch::Sender<u64>,
    sessions: watch::Sender<u64>,
    changes: WorkChanges,
    callers: watch::Sender<u64>,
    secrets: watch::Sender<u64>,
    credentials: watch::Sender<u64>,
    closed: AtomicBool,
    /// Whether another process owns the database that this one is to own.
    ousted: AtomicBool,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            process: Uuid::now_v7(),
            audit: watch::Sender::new(0),
            work: watch::Sender::new(0),
            sessions: watch::Sender::new(0),
            changes: WorkChanges::default(),
            callers: watch::Sender::new(0),
            secrets: watch::Sender::new(0),
            credentials: watch::Sender::new(0),
            closed: AtomicBool::new(false),
            ousted: AtomicBool::new(false),
        }
    }

    const fn sender(&self, topic: Topic) -> &watch::Sender<u64> {
        match topic {
            Topic::Audit => &self.audit,
            Topic::Work => &self.work,
            Topic::Sessions => &self.sessions,
            Topic::Callers => &self.callers,
            Topic::Secrets => &self.secrets,
            Topic::Credentials => &self.credentials,
        }
    }

    pub(crate) fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        self.sender(topic).subscribe()
    }

    /// Wakes for what this server committed.
    pub(crate) fn wake_own(&self, topics: Topics, work: Work) {
        self.changes.add(work);
        self.wake_topics(topics);
    }

    /// Wakes for what others may have committed, of which no more is known than the topics.
    pub(crate) fn wake(&self, topics: Topics) {
        if topics.contains(Topic::Work) {
            self.changes.add(Work::everything());
        }
        self.wake_topics(topics);
    }

    pub(crate) fn changes(&self) -> WorkChanges {
        self.changes.clone()
    }

    fn wake_topics(&self, topics: Topics) {
        for &topic in Topic::ALL.iter().filter(|&&topic| topics.contains(topic)) {
            self.sender(topic).send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// What other servers are told.
    pub(crate) fn message(&self, topics: Topics) -> String {
        format!("{} {}", self.process.simple(), topics.0)
    }

    /// Takes what another server told; this process's own messages are known already.
    pub(crate) fn take_message(&self, message: &str) {
        match message.split_once(' ') {
            Some((process, _)) if process == self.process.simple().to_string() => {}
            // A message that cannot be read is from another version: look at everything.
            other => self
                .wake(other.and_then(|(_, bits)| bits.parse().ok()).map_or(Topics::all(), Topics::from_bits)),
        }
    }

    /// Notes whether another process owns the database; answers what was known before.
    pub(crate) fn note_ousted(&self, ousted: bool) -> bool {
        self.ousted.swap(ousted, Ordering::AcqRel)
    }

    pub(crate) fn is_ousted(&self) -> bool {
        self.ousted.load(Ordering::Acquire)
    }

    /// Tells the listener to end.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
