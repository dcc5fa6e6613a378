//! Use cases: authorize, decide, write.
//!
//! Each use case is a method of [`App`], named as its operation: it authorizes its caller, decides, and writes what is
//! desired together with its audit row in one transaction of the store, whose commit wakes whoever makes it so.
//!
//! Invariants: no HTTP type and no SQL here; a phase changes only through `model`'s `next` functions; a thing of another
//! organization is not found, and one that the caller may not see is refused before anything is said of it.

pub mod activity;
pub mod api_key;
pub mod approval;
pub mod audit;
pub mod auth;
pub mod budget;
pub mod credential;
pub mod error;
pub mod exec;
pub mod fleet;
pub mod member;
pub mod once;
pub mod policy;
pub mod ports;
pub mod proof;
pub mod provider;
pub mod role;
mod seats;
pub mod secret;
pub mod session;
pub mod stream;
pub mod task;
pub mod uploads;
pub mod workspace;

use std::sync::Arc;

use freehold_model::Timestamp;
use freehold_store::Store;
use uuid::Uuid;

pub use auth::{Secret, Standing};
pub use error::{Error, Thing};
pub use freehold_store::{
    ApprovalFilter, AuditFilter, AuditPage, AuditRow, Error as StoreError, Order, PAGE_MAX, Page, Review,
    ReviewEntry, ReviewFilter, SignedCheckpoint,
};
pub use once::{Once, Outcome};
pub use ports::Ports;

/// What holds where a role says nothing, and where the server is reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The most seconds a task may run.
    pub task_timeout_seconds: u32,
    /// Seconds a workspace may sit idle; 0 for ever.
    pub idle_timeout_seconds: u32,
    /// The server's address for people and programs outside, such as `https://freehold.example.com`; no slash at the end.
    pub public_url: String,
}

/// The use cases. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    ports: Ports,
    settings: Settings,
    request_key: aws_lc_rs::hmac::Key,
    callers: auth::Cache,
    tails: stream::Tails,
    execs: Arc<seats::Seats>,
    exports: Arc<seats::Seats>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl App {
    /// Puts the use cases together.
    pub fn new(store: Store, ports: Ports, settings: Settings) -> Self {
        let callers = auth::Cache::new(store.subscribe(freehold_store::Topic::Callers));
        let execs = seats::Seats::new(exec::EXECS_PER_CALLER_MAX, "commands");
        let exports = seats::Seats::new(proof::EXPORTS_PER_CALLER_MAX, "exports");
        let tails = stream::Tails::default();
        let request_key = once::key(ports.signer.as_ref());
        let inner = Inner { store, ports, settings, request_key, callers, tails, execs, exports };
        Self { inner: Arc::new(inner) }
    }

    /// By which requests that happen once are known again.
    fn request_key(&self) -> &aws_lc_rs::hmac::Key {
        &self.inner.request_key
    }

    /// What holds where a role says nothing.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// The rows, for the parts that look at all of them (the reconciler through `app`'s own modules).
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Where the bytes of uploaded files are kept.
    pub fn uploads(&self) -> Arc<dyn ports::UploadStore> {
        Arc::clone(&self.inner.ports.uploads)
    }

    /// Whether the store answers, and this server may write to it.
    ///
    /// # Errors
    /// When it does not, or may not.
    pub async fn health(&self) -> Result<(), Error> {
        self.inner.store.check_owner()?;
        self.inner
            .store
            .system_read(|tx| tx.organization_list(&Page::first(1)).map(drop).map_err(Error::from))
            .await
    }

    fn ports(&self) -> &Ports {
        &self.inner.ports
    }
}

/// The present, as precise as rows are.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(jiff::Unit::Microsecond).unwrap_or(now)
}

/// A new UUID, which sorts by creation.
pub(crate) fn new_uuid() -> Uuid {
    Uuid::now_v7()
}
