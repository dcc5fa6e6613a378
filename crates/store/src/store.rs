//! The handle to the store.

use std::{
    io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use freehold_model::OrganizationId;
use tokio::sync::{mpsc, watch};

use crate::{
    ChainCheck, Database, Error, OrgRead, OrgTx, SystemRead, SystemTx, Topic,
    database::Purpose,
    job::{self, Message, Scope},
    link::Link,
    migrate, postgresql, reader,
    resource::audit,
    signal::{Signals, Topics},
    work::WorkChanges,
    writer,
};

/// The rows of one step of the check of a chain, in rows.
const VERIFY_PAGE: u32 = 1_000;

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which database.
    pub database: Database,
    /// Threads, and connections, that read.
    pub readers: NonZeroUsize,
    /// Whether this process is to own the database: at one time one process does, and another that wants to is refused
    /// with [`Error::Owned`]. Whoever does not want to may work beside the owner. On SQLite, whose owner the caller tells
    /// by the directory, nothing is done about it.
    pub owner: bool,
    /// The most bytes that the file of SQLite may take; a change beyond fails as [`Error::Unavailable`], as on a full
    /// disk. `None`: as many as the disk has.
    pub sqlite_bytes_max: Option<u64>,
}

impl Options {
    /// The options for a database that are good for most.
    pub const fn new(database: Database) -> Self {
        Self { database, readers: reader::READERS, owner: false, sqlite_bytes_max: None }
    }
}

/// The store: a cheap handle, to be cloned freely. The threads behind it end when the last handle is dropped or
/// [`Store::close`] is called.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<Message>,
    reads: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    signals: Arc<Signals>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.signals.close();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the database, brings its schema up to date and starts the threads. Blocks for as long as that takes; may be
    /// called from anywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] when the database cannot be reached or set up, [`Error::NewerSchema`] when it was written by a
    /// newer version, [`Error::Owned`] when this process is to own it and another does.
    pub fn open(options: &Options) -> Result<Self, Error> {
        // The client of PostgreSQL has a runtime of its own, which must not start on a thread of another runtime.
        thread::scope(|scope| scope.spawn(|| Self::start(options)).join()).unwrap_or(Err(Error::Panicked))
    }

    fn start(options: &Options) -> Result<Self, Error> {
        let mut link = Link::open(options, Purpose::Write)?;
        migrate::run(&mut link)?;
        let signals = Arc::new(Signals::new());
        let (writes, write_queue) = mpsc::channel(writer::WRITE_QUEUE_MAX);
        let (reads, read_queue) = mpsc::channel(reader::READ_QUEUE_MAX);
        let read_queue = Arc::new(Mutex::new(read_queue));
        let mut threads = Vec::new();
        for _ in 0..options.readers.get() {
            let (link, queue) = (Link::open(options, Purpose::Read)?, Arc::clone(&read_queue));
            threads.push(spawn("store-read", move || reader::run(link, &queue))?);
        }
        if let Database::Postgres { url } = &options.database {
            let (url, signals) = (url.clone(), Arc::clone(&signals));
            // An owner without work would not notice that it lost its connection and another took over.
            let writer = options.owner.then(|| writes.downgrade());
            let pulse = move || {
                if let Some(writes) = writer.as_ref().and_then(mpsc::WeakSender::upgrade) {
                    // A queue that is full has work that notices.
                    drop(writes.try_send(Message::Job(job::idle())));
                }
            };
            // Not among those that `close` waits for: it sleeps in its connection, and has nothing to finish.
            spawn("store-listen", move || postgresql::listen(&url, &signals, &pulse))?;
        }
        let writer_signals = Arc::clone(&signals);
        threads.push(spawn("store-write", move || writer::run(link, write_queue, &writer_signals))?);
        Ok(Self { writes, reads, shared: Arc::new(Shared { signals, threads: Mutex::new(threads) }) })
    }

    /// Runs a job that writes one organization's rows. It runs as soon as it is its turn, even if the caller stops
    /// waiting. An answer of `Ok` means that the changes are on disk; one of `Err`, with the exception of
    /// [`Error::Uncertain`], that there are none.
    pub async fn write<T, E, F>(&self, organization: OrganizationId, job: F) -> Result<T, E>
    where
        F: FnOnce(&mut OrgTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let scope = Scope::Organization(organization);
        job::submit(&self.writes, scope, move |session| job(&mut OrgTx::new(session, organization))).await
    }

    /// Runs a job that reads one organization's rows, all as of the same moment.
    pub async fn read<T, E, F>(&self, organization: OrganizationId, job: F) -> Result<T, E>
    where
        F: FnOnce(&mut OrgRead<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let scope = Scope::Organization(organization);
        job::submit(&self.reads, scope, move |session| job(&mut OrgRead::new(session, organization))).await
    }

    /// Runs a job that writes what crosses organizations.
    pub async fn system_write<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: FnOnce(&mut SystemTx<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        job::submit(&self.writes, Scope::System, move |session| job(&mut SystemTx::new(session))).await
    }

    /// Runs a job that reads what crosses organizations.
    pub async fn system_read<T, E, F>(&self, job: F) -> Result<T, E>
    where
        F: FnOnce(&mut SystemRead<'_>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        job::submit(&self.reads, Scope::System, move |session| job(&mut SystemRead::new(session))).await
    }

    /// Whether this process may write: not while another owns the database that this one is to own. Known within some two
    /// seconds, also without work.
    ///
    /// # Errors
    ///
    /// [`Error::Owned`] when it may not.
    pub fn check_owner(&self) -> Result<(), Error> {
        if self.shared.signals.is_ousted() { Err(Error::Owned) } else { Ok(()) }
    }

    /// A receiver that is marked changed after commits that touched the topic, by this or any other server. Several may
    /// be one change, and a change may be nothing of interest: look at the rows again.
    pub fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        self.shared.signals.subscribe(topic)
    }

    /// Marks a topic as changed, for what a process that cannot tell this one has committed.
    pub fn wake(&self, topic: Topic) {
        let mut topics = Topics::default();
        topics.add(topic);
        self.shared.signals.wake(topics);
    }

    /// What changed for whoever works on workspaces, by this or any other server. There is one such taker a store.
    pub fn work_changes(&self) -> WorkChanges {
        self.shared.signals.changes()
    }

    /// Checks every row of an organization's audit log against the hash chain, a page at a time.
    pub async fn audit_verify(&self, organization: OrganizationId) -> Result<ChainCheck, Error> {
        let mut chain = audit::Chain::default();
        loop {
            let after = chain.seq();
            let rows = self.read(organization, move |tx| tx.audit_after(after, VERIFY_PAGE)).await?;
            if rows.is_empty() {
                return Ok(chain.intact());
            }
            for row in rows {
                if let Some(broken) = chain.follow(&row)? {
                    return Ok(broken);
                }
            }
        }
    }

    /// Takes no more jobs, finishes those that wait, and closes the database. Jobs that come later answer
    /// [`Error::Closed`].
    pub async fn close(&self) {
        self.shared.signals.close();
        for queue in [&self.writes, &self.reads] {
            // A queue that is closed already needs no telling.
            drop(queue.send(Message::Close).await);
        }
        let threads = {
            let mut threads = self.shared.threads.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        let joined =
            tokio::task::spawn_blocking(|| threads.into_iter().all(|thread| thread.join().is_ok())).await;
        if !matches!(joined, Ok(true)) {
            tracing::error!("a thread of the store ended by a panic");
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let started: io::Result<_> = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map_err(|source| Error::open(format!("start the thread {name}"), source))
}
