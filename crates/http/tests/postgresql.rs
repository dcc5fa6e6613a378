//! The tests of `routes`, on PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "routes/activity.rs"]
mod activity;
#[path = "routes/audit.rs"]
mod audit;
#[path = "routes/auth.rs"]
mod auth;
#[path = "routes/config.rs"]
mod config;
#[path = "routes/context.rs"]
mod context;
#[path = "routes/credentials.rs"]
mod credentials;
#[path = "routes/errors.rs"]
mod errors;
#[path = "routes/secrets.rs"]
mod secrets;
#[path = "routes/sessions.rs"]
mod sessions;
#[path = "routes/tasks.rs"]
mod tasks;
#[path = "routes/workspaces.rs"]
mod workspaces;

/// Whether the store is in PostgreSQL.
const POSTGRESQL: bool = true;
