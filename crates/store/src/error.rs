//! What can go wrong in the store, told apart by what the caller can do about it.

use std::{error, sync::Arc};

/// The cause below an [`Error`], shared by every job of a transaction that failed as a whole.
pub type Cause = Arc<dyn error::Error + Send + Sync>;

/// Which kind of rule of the schema a change would have broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Something with this key exists already.
    Unique,
    /// What is referred to does not exist in this organization, or is still referred to.
    Reference,
    /// A value outside its set or range, or a missing one.
    Check,
}

/// Why the store did not do what was asked. Whatever the variant, nothing of the job was committed, except where
/// [`Error::Uncertain`] says that this is unknown.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Disk full, I/O error, lost connection, database busy for too long: worth another try later.
    #[error("the database is unavailable")]
    Unavailable {
        /// What the database or the system said.
        #[source]
        source: Cause,
    },
    /// The connection was lost while committing: the change may or may not have been made.
    #[error("the connection to the database was lost while committing; the change may have been made")]
    Uncertain {
        /// What the database or the system said.
        #[source]
        source: Cause,
    },
    /// The change would have broken a rule of the schema.
    #[error("the change breaks the rule {}", constraint.as_deref().unwrap_or("of a reference"))]
    Violation {
        /// The kind of rule.
        rule: Rule,
        /// The constraint's name in the schema, where the database tells it (SQLite does not for references).
        constraint: Option<String>,
    },
    /// What was to be changed does not exist in this organization.
    #[error("there is no such row in {table}")]
    Missing {
        /// The table.
        table: &'static str,
    },
    /// A value that belongs to another organization was given to this one.
    #[error("a row of another organization was given for {table}")]
    WrongOrganization {
        /// The table.
        table: &'static str,
    },
    /// A row cannot be read as what it should be: the database was changed by another hand, or there is a bug.
    #[error("column {column} of {table} cannot be read as {expected}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column's position in the selection, from 0.
        column: usize,
        /// What it should have been.
        expected: &'static str,
    },
    /// A statement failed for a reason that no caller can mend: a bug in the store.
    #[error("a statement failed")]
    Statement {
        /// What the database said.
        #[source]
        source: Cause,
    },
    /// The job went on after one of its statements had failed, so its changes were taken back.
    #[error("the job went on after a failed statement; its changes were taken back")]
    Poisoned,
    /// The job panicked; its changes were taken back.
    #[error("the job panicked; its changes were taken back")]
    Panicked,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The database was written by a newer version of this program.
    #[error("the database has schema version {found}, and this program knows {known}; use a newer program")]
    NewerSchema {
        /// The version found.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// Another process owns the database ([`Options::owner`](crate::Options::owner)): since before this one was to open it,
    /// or since this one lost its connection. The other may end.
    #[error("another server works on this database; stop it, or give this one a database of its own")]
    Owned,
    /// The database could not be opened or set up.
    #[error("failed to {what}")]
    Open {
        /// What was being done.
        what: String,
        /// What the database or the system said.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// Whether the same job may succeed later, unchanged.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Owned)
    }

    /// What is known of why the database is unavailable, in words that hold no address and no secret.
    pub fn unavailability(&self) -> Option<&'static str> {
        let Self::Unavailable { source } = self else { return None };
        let mut cause: Option<&(dyn error::Error + 'static)> = Some(source.as_ref());
        while let Some(found) = cause {
            if let Some(error) = found.downcast_ref::<tokio_postgres::Error>() {
                return Some(match error.as_db_error().map(|told| told.code()) {
                    None => "the database cannot be reached",
                    Some(&tokio_postgres::error::SqlState::DISK_FULL) => "the database's disk is full",
                    Some(_) => "the database refuses work for now",
                });
            }
            if let Some(error) = found.downcast_ref::<rusqlite::Error>() {
                return Some(match error.sqlite_error_code() {
                    Some(rusqlite::ErrorCode::DiskFull) => "the database's disk is full",
                    Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                        "the database is busy"
                    }
                    _ => "the database's file cannot be used",
                });
            }
            if found.is::<std::io::Error>() {
                return Some("the database cannot be reached");
            }
            cause = found.source();
        }
        Some("the database is unavailable")
    }

    /// Whether the change was refused because a key exists already; `constraint` names it, as in the migrations.
    pub fn is_duplicate(&self, constraint: &str) -> bool {
        matches!(self, Self::Violation { rule: Rule::Unique, constraint: Some(name) } if name == constraint)
    }

    /// The error of something that went well before and is not the job's doing.
    pub(crate) fn into_unavailable(self) -> Self {
        match self {
            Self::Open { source, .. } | Self::Statement { source } => Self::Unavailable { source },
            other => other,
        }
    }

    pub(crate) fn open(what: impl Into<String>, source: impl error::Error + Send + Sync + 'static) -> Self {
        Self::Open { what: what.into(), source: Arc::new(source) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_the_database_is_unavailable_is_said_without_its_address() {
        let of = |source: Cause| Error::Unavailable { source }.unavailability();
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "10.0.0.7:5432 refused");
        assert_eq!(of(Arc::new(refused)), Some("the database cannot be reached"));
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = rusqlite::Error::SqliteFailure(full, None);
        assert_eq!(of(Arc::new(full)), Some("the database's disk is full"));
        assert_eq!(Error::Owned.unavailability(), None);
    }

    #[test]
    fn a_server_of_the_database_that_is_not_there_cannot_be_reached() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect =
            tokio_postgres::connect("host=127.0.0.1 port=1 user=x password=hunter2", tokio_postgres::NoTls);
        let error = runtime.block_on(connect).err().unwrap();
        let error = Error::Unavailable { source: Arc::new(error) };
        assert_eq!(error.unavailability(), Some("the database cannot be reached"));
    }
}
