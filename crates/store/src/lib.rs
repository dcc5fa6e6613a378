//! Rows in SQLite or PostgreSQL: one query layer, migrations, the audit chain, signals.
