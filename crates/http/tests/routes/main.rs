//! The API as clients meet it: a real server on a port of its own, a real store, and a simulated agent that says so.
//! The modules mirror the tree of routes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod activity;
mod audit;
mod auth;
mod config;
mod connections;
mod context;
mod credentials;
mod errors;
mod ownership;
mod secrets;
mod sessions;
mod tasks;
mod workspaces;

/// Whether the store is in PostgreSQL; `tests/postgresql.rs` runs the same tests there.
const POSTGRESQL: bool = false;
