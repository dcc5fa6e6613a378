//! Which database it is, and how connections to it are opened.

use std::path::PathBuf;

use crate::{
    Error, Options,
    postgresql::Postgres,
    sql::{Connection, Dialect},
    sqlite::Sqlite,
};

/// Which database.
#[derive(Clone)]
pub enum Database {
    /// SQLite in this file, which is created when it is not there, for nobody else to read.
    Sqlite {
        /// The file; SQLite keeps others beside it under names that begin with its.
        path: PathBuf,
    },
    /// PostgreSQL at this address.
    Postgres {
        /// The address, `postgres://...`, which may hold a password.
        url: String,
    },
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite { path } => f.debug_struct("Sqlite").field("path", path).finish(),
            Self::Postgres { .. } => f.debug_struct("Postgres").finish_non_exhaustive(),
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
}

impl Purpose {
    /// The statement that begins a transaction: one that writes, or one whose queries all see the same moment.
    pub(crate) const fn begin(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Write, Dialect::Sqlite) => "BEGIN IMMEDIATE",
            (Self::Write, Dialect::Postgres) | (Self::Read, Dialect::Sqlite) => "BEGIN",
            (Self::Read, Dialect::Postgres) => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }
}

/// Opens a connection; `again` when it takes the place of one that was lost.
pub(crate) fn connect(
    options: &Options,
    purpose: Purpose,
    again: bool,
) -> Result<Box<dyn Connection>, Error> {
    Ok(match &options.database {
        Database::Sqlite { path } => Box::new(Sqlite::open(path, purpose, options.sqlite_bytes_max)?),
        Database::Postgres { url } => {
            let mut postgres = Postgres::open(url)?;
            // By the connection that writes, so that whoever is not the owner any more cannot write either.
            if options.owner && purpose == Purpose::Write {
                postgres.own(again)?;
            }
            Box::new(postgres)
        }
    })
}
