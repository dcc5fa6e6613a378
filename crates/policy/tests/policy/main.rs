//! Documents: what they must not say, what they decide, and what holds of all of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails by panicking")]

mod cases;
mod language;
mod laws;
mod problems;
mod schemas;
mod support;
