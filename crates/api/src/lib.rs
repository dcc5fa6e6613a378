//! The external API: one module per resource; the OpenAPI document comes from here.
//!
//! Invariant: every operation served is in [`operations`], and every limit, field and error code a client can meet is in
//! the document that [`openapi`] makes of it. There is no second description of the API anywhere.
//!
//! Answers leave out what is absent; `null` is sent only where the contract says so. In a request, `null` clears a field
//! of a `PATCH` and means absence elsewhere.

pub mod api_key;
pub mod approval;
pub mod audit;
pub mod budget;
pub mod config;
pub mod credential;
pub mod error;
pub mod limits;
mod openapi;
pub mod operation;
pub mod patch;
mod pattern;
pub mod provider;
pub mod role;
mod schemas;
pub mod secret;
pub mod service;
pub mod session;
pub mod task;
pub mod workspace;

pub use openapi::{component, openapi};
pub use operation::{Answer, Body, Guard, Method, Operation, Schema, operations};
pub use pattern::pattern_in_words;
