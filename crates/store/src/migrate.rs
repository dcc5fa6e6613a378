//! The schema: numbered files, one change each, applied once and in order when the store is opened.
//!
//! The files are written for SQLite (`STRICT` tables) and become PostgreSQL's by exchanging the names of types. Text has
//! the collation `C` there, so that both databases sort alike. Each file may be run again on its own result.

use crate::{
    Error,
    link::Link,
    scope::Session,
    sql::{Dialect, Value},
};

/// The files, in the order of their numbers; a file's version is its place here, from 1.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_organizations", include_str!("migrations/0001_organizations.sql")),
    ("0002_members", include_str!("migrations/0002_members.sql")),
    ("0003_personal_tokens", include_str!("migrations/0003_personal_tokens.sql")),
    ("0004_api_keys", include_str!("migrations/0004_api_keys.sql")),
    ("0005_credentials", include_str!("migrations/0005_credentials.sql")),
    ("0006_providers", include_str!("migrations/0006_providers.sql")),
    ("0007_roles", include_str!("migrations/0007_roles.sql")),
    ("0008_workspaces", include_str!("migrations/0008_workspaces.sql")),
    ("0009_sessions", include_str!("migrations/0009_sessions.sql")),
    ("0010_session_events", include_str!("migrations/0010_session_events.sql")),
    ("0011_tasks", include_str!("migrations/0011_tasks.sql")),
    ("0012_uploads", include_str!("migrations/0012_uploads.sql")),
    ("0013_audit_events", include_str!("migrations/0013_audit_events.sql")),
    ("0014_idempotency_keys", include_str!("migrations/0014_idempotency_keys.sql")),
    ("0015_audit_proof", include_str!("migrations/0015_audit_proof.sql")),
    ("0016_data_keys", include_str!("migrations/0016_data_keys.sql")),
    ("0017_secrets", include_str!("migrations/0017_secrets.sql")),
    ("0018_credential_kinds", include_str!("migrations/0018_credential_kinds.sql")),
    ("0019_approvals", include_str!("migrations/0019_approvals.sql")),
    ("0020_budgets", include_str!("migrations/0020_budgets.sql")),
    ("0021_workspace_backends", include_str!("migrations/0021_workspace_backends.sql")),
];

/// Any number, the same in every version: servers that start together take turns.
const LOCK: i64 = 0x6672_6565_686f_6c64;

const VERSIONS: &str = "CREATE TABLE IF NOT EXISTS schema_versions (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT";

/// Brings the schema up to date, in one transaction.
pub(crate) fn run(link: &mut Link) -> Result<(), Error> {
    let migrated = link.begin().and_then(migrate);
    if migrated.is_err() {
        link.roll_back();
    }
    migrated
}

fn migrate(session: &mut Session) -> Result<(), Error> {
    let dialect = session.connection.dialect();
    if dialect == Dialect::Postgres {
        session.execute("SELECT 1::bigint FROM pg_advisory_xact_lock(?1)", &[Value::Int(LOCK)])?;
    }
    session.connection.batch(&translate(VERSIONS, dialect))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found = "SELECT COALESCE(MAX(version), 0) FROM schema_versions";
    let found: i64 = session.query(found, &[], |row| row.get("schema_versions"))?.pop().unwrap_or(0);
    if found > known {
        return Err(Error::NewerSchema { found, known });
    }
    for (version, (name, sql)) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
        let failed = |error| Error::open(format!("apply the migration {name}"), error);
        let sql = without_known_columns(session, sql, dialect).map_err(failed)?;
        session.connection.batch(&translate(&sql, dialect)).map_err(failed)?;
        let values = [
            Value::Int(version),
            crate::column::text(name),
            Value::Int(freehold_model::Timestamp::now().as_microsecond()),
        ];
        session.execute(
            "INSERT INTO schema_versions (version, name, applied_at) VALUES (?1, ?2, ?3)",
            &values,
        )?;
        tracing::debug!(store.version = version, store.migration = name, "applied a migration");
    }
    if found < known {
        tracing::info!(store.version = known, store.from_version = found, "brought the database up to date");
    }
    session.connection.execute("COMMIT", &[]).map(drop)
}

/// SQLite cannot be told to add a column unless it is there: each `ADD COLUMN IF NOT EXISTS`, which stands on a line of
/// its own, is made one that adds, or left out.
fn without_known_columns(session: &mut Session, sql: &str, dialect: Dialect) -> Result<String, Error> {
    const IF: &str = " ADD COLUMN IF NOT EXISTS ";
    let mut out = String::with_capacity(sql.len());
    for line in sql.lines() {
        let added = line.strip_prefix("ALTER TABLE ").and_then(|rest| rest.split_once(IF));
        match added.filter(|_| dialect == Dialect::Sqlite) {
            None => out.push_str(line),
            Some((table, column)) => {
                let name = column.split(' ').next().unwrap_or(column);
                let known = "SELECT COUNT(*) FROM pragma_table_info(?1) WHERE name = ?2";
                let values = [crate::column::text(table), crate::column::text(name)];
                let known: Vec<i64> = session.query(known, &values, |row| row.get("schema_versions"))?;
                if known != [1] {
                    out.push_str(&line.replace(IF, " ADD COLUMN "));
                }
            }
        }
        out.push('\n');
    }
    Ok(out)
}

/// The statement in the other dialect.
fn translate(sql: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => sql.to_owned(),
        Dialect::Postgres => sql
            .replace(" INTEGER", " BIGINT")
            .replace(" BLOB", " BYTEA")
            .replace(" TEXT", " TEXT COLLATE \"C\"")
            .replace(") STRICT", ")"),
    }
}
