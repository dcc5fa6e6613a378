//! SQLite as a [`Connection`].

use std::{
    borrow::Cow, fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration,
};

use rusqlite::{
    ErrorCode, OpenFlags, ToSql,
    config::DbConfig,
    ffi,
    types::{ToSqlOutput, ValueRef},
};

use crate::{
    Error, Rule,
    database::Purpose,
    scope::changed,
    sql::{Columns, Connection, Dialect, Each, Row, Value},
};

/// How long a statement waits for another process that writes, in milliseconds.
const BUSY_TIMEOUT_MS: u64 = 5_000;

/// The most prepared statements a connection keeps.
const PREPARED_MAX: usize = 256;

/// Memory for pages of one connection, in KiB.
const CACHE_KIB: i64 = 16 * 1_024;

pub(crate) struct Sqlite(rusqlite::Connection);

impl Sqlite {
    /// Opens the file, creating it with mode 0600; the files beside it take its mode.
    pub(crate) fn open(path: &Path, purpose: Purpose, bytes_max: Option<u64>) -> Result<Self, Error> {
        let what = || format!("open the database {}", path.display());
        if purpose == Purpose::Write {
            create(path).map_err(|source| Error::open(what(), source))?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = rusqlite::Connection::open_with_flags(path, flags)
            .and_then(|connection| set_up(&connection, purpose, bytes_max).map(|()| connection))
            .map_err(|source| Error::open(what(), source))?;
        Ok(Self(connection))
    }
}

fn create(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn set_up(
    connection: &rusqlite::Connection,
    purpose: Purpose,
    bytes_max: Option<u64>,
) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
    connection.set_prepared_statement_cache_capacity(PREPARED_MAX);
    // Else each `LIMIT ?` is looked at when it is bound, and its statement prepared anew each time it runs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "query_only", purpose == Purpose::Read)?;
    if let Some(bytes) = bytes_max {
        let page: u32 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let pages = i64::try_from(bytes / u64::from(page.max(1))).unwrap_or(i64::MAX);
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))?;
    }
    Ok(())
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Connection for Sqlite {
    fn begin(&mut self, purpose: Purpose) -> Result<(), Error> {
        self.execute(purpose.begin(Dialect::Sqlite), &[]).map(drop)
    }

    fn send(&mut self, sql: &str, values: &[Value<'_>], table: &'static str) -> Result<(), Error> {
        changed(self.execute(sql, values)?, table)
    }

    fn send_batch(&mut self, sql: &'static str) -> Result<(), Error> {
        self.batch(sql)
    }

    fn settle(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn has_sent(&self) -> bool {
        false
    }

    fn was_refused(&self) -> bool {
        false
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        let run = || self.0.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values));
        run().map(|rows| rows as u64).map_err(error)
    }

    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), Error> {
        let mut statement = self.0.prepare_cached(sql).map_err(error)?;
        let mut rows = statement.query(rusqlite::params_from_iter(values)).map_err(error)?;
        while let Some(row) = rows.next().map_err(error)? {
            each(&mut Row::new(row))?;
        }
        Ok(())
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.0.execute_batch(sql).map_err(error)
    }

    fn in_transaction(&mut self) -> bool {
        !self.0.is_autocommit()
    }

    fn is_lost(&self) -> bool {
        false
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

impl Columns for rusqlite::Row<'_> {
    fn value(&self, column: usize) -> Option<Value<'_>> {
        Some(match self.get_ref(column).ok()? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Int(number),
            // What others wrote need not be UTF-8.
            ValueRef::Text(text) => Value::Text(
                std::str::from_utf8(text).map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed),
            ),
            ValueRef::Blob(bytes) => Value::Bytes(bytes.into()),
            // No column holds floating-point numbers.
            ValueRef::Real(_) => return None,
        })
    }
}

/// Tells errors apart by what can be done about them.
fn error(error: rusqlite::Error) -> Error {
    let Some(failure) = error.sqlite_error().copied() else {
        return Error::Statement { source: Arc::new(error) };
    };
    match failure.code {
        ErrorCode::ConstraintViolation => violation(failure, &error.to_string()),
        ErrorCode::DiskFull
        | ErrorCode::SystemIoFailure
        | ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::CannotOpen
        | ErrorCode::OutOfMemory
        | ErrorCode::ReadOnly
        | ErrorCode::DatabaseCorrupt
        | ErrorCode::NotADatabase => Error::Unavailable { source: Arc::new(error) },
        _ => Error::Statement { source: Arc::new(error) },
    }
}

/// SQLite names the columns of a unique constraint (`UNIQUE constraint failed: t.a, t.b`), from which the name that the
/// migrations give it (`t_a_b_key`) follows; an index on an expression and a check are told by name.
fn violation(failure: ffi::Error, message: &str) -> Error {
    let told = message.rsplit_once("constraint failed: ").map(|(_, told)| told);
    let (rule, constraint) = match failure.extended_code {
        ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY => {
            (Rule::Unique, told.map(unique_name))
        }
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => (Rule::Reference, None),
        _ => (Rule::Check, told.map(str::to_owned)),
    };
    Error::Violation { rule, constraint }
}

fn unique_name(told: &str) -> String {
    if let Some(index) = told.strip_prefix("index '") {
        return index.trim_end_matches('\'').to_owned();
    }
    let columns: Vec<&str> =
        told.split(", ").filter_map(|column| column.split_once('.')).map(|(_, c)| c).collect();
    let table = told.split_once('.').map_or(told, |(table, _)| table);
    format!("{table}_{}_key", columns.join("_"))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_page_is_not_planned_anew_each_time() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        set_up(&connection, Purpose::Write, None).unwrap();
        connection.execute_batch("CREATE TABLE t (a INTEGER)").unwrap();
        let page = || connection.prepare_cached("SELECT a FROM t WHERE a > ?1 ORDER BY a LIMIT ?2").unwrap();
        for limit in [10, 20, 10] {
            assert!(page().query([0, limit]).unwrap().next().unwrap().is_none());
        }
        assert_eq!(page().get_status(StatementStatus::RePrepare), 0);
    }

    /// Cargo does not build the library anew when `.cargo/config.toml` changes, and reads that file inside of the repository alone.
    #[test]
    fn the_library_is_built_as_the_configuration_of_cargo_says() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for option in ["STMTJRNL_SPILL=131071", "DEFAULT_MEMSTATUS=0"] {
            let used =
                connection.query_row("SELECT sqlite_compileoption_used(?1)", [option], |row| row.get(0));
            assert_eq!(
                used,
                Ok(true),
                "{option}: `cargo clean -p libsqlite3-sys`, and build inside of the repository"
            );
        }
    }

    #[test]
    fn what_a_savepoint_may_take_back_outgrows_memory() {
        let folder = tempfile::tempdir().unwrap();
        let Sqlite(connection) = Sqlite::open(&folder.path().join("db"), Purpose::Write, None).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)";
        connection
            .execute_batch(&format!("CREATE TABLE t (a); {rows} INSERT INTO t SELECT zeroblob(2000) FROM n"))
            .unwrap();
        connection.execute_batch("BEGIN; SAVEPOINT job; UPDATE t SET a = randomblob(2000)").unwrap();
        connection.execute_batch("ROLLBACK TO SAVEPOINT job; COMMIT").unwrap();
        let count = "SELECT COUNT(*) FROM t WHERE a = zeroblob(2000)";
        assert_eq!(connection.query_row(count, [], |row| row.get(0)), Ok(2000));
    }

    #[test]
    fn a_unique_constraint_has_the_name_the_migrations_give_it() {
        assert_eq!(
            unique_name("providers.organization_id, providers.name"),
            "providers_organization_id_name_key"
        );
        assert_eq!(unique_name("index 'credentials_name_key'"), "credentials_name_key");
    }
}
