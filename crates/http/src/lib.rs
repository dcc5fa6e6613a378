//! The external API over HTTP: routes, errors, authentication, event streams.
//!
//! One function, `dispatch`, leads every request: it names it, finds out who calls, reads and checks query and body by the
//! schemas of the document, hands the whole to the operation's handler, and turns every way to fail into the one
//! envelope. Handlers convert between wire and use case and do nothing else.
//!
//! Invariants: what is served is the operation table of `api`, neither more nor less; every answer has an
//! `x-request-id`; every error, those of the router included, has the envelope and a code of the closed set.

mod call;
mod connection;
mod cursor;
mod dispatch;
mod document;
mod error;
mod json;
mod list;
mod metrics;
mod multipart;
mod page;
mod patient;
mod peers;
mod route;
mod server;
mod sse;
mod wire;

pub use server::{Options, ServeError, Server};
