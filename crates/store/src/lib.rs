//! Rows in SQLite or PostgreSQL: one query layer, migrations, the audit chain, signals.
//!
//! A caller gives a job, a synchronous closure over one organization's rows, to [`Store::write`] or [`Store::read`] and
//! awaits its answer. One thread writes: it takes as many jobs as wait, runs them in one transaction with a savepoint
//! each, commits once, and only then answers. A few threads read, each job at one moment of the database.
//!
//! Invariants: every query on a resource is scoped by organization through its type ([`OrgRead`], [`OrgTx`]); an answer
//! of `Ok` to a write means that it is on disk; a job leaves all of its changes or none.

mod column;
mod database;
mod error;
mod job;
mod link;
mod migrate;
mod page;
mod postgresql;
mod reader;
mod record;
mod resource;
mod scope;
mod signal;
mod sql;
mod sqlite;
mod store;
mod work;
mod writer;

pub use database::Database;
pub use error::{Cause, Error, Rule};
pub use page::{PAGE_MAX, Page};
pub use resource::{
    api_key::{Caller, SecretHash},
    approval::ApprovalFilter,
    audit::{
        AUDIT_ID_KEY, AuditFilter, AuditPage, AuditRow, CHAIN_START, ChainCheck, Order, REVIEW_ROWS_MAX,
        Review, ReviewEntry, ReviewFilter, SCAN_ROWS_MAX, SignedCheckpoint, StoredKey,
    },
    credential::{Consent, CredentialOwners},
    idempotency::IdempotencyRecord,
    organization::Organization,
    role::{ROLE_NAME_KEY, RoleFilter},
    secret::{DataKey, SECRET_NAME_KEY, Sealed},
    session::{CommittedEvent, SessionFilter},
    workspace::WorkspaceFilter,
};
pub use scope::{OrgRead, OrgTx, SystemRead, SystemTx};
pub use signal::Topic;
pub use store::{Options, Store};
pub use work::{Work, WorkChanges};
