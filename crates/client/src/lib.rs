//! The public API as Rust calls: one method per operation, named as the operation.
//!
//! Invariants: a request is repeated only where repeating is harmless (reads, and creations that carry an
//! `Idempotency-Key`); a key goes only over TLS or to this machine's loopback, never through a redirect, and never into
//! `Debug` or an error; an answer keeps the bytes the server sent.
//!
//! ```no_run
//! # async fn example() -> Result<(), freehold_client::Error> {
//! use freehold_client::{Client, Key};
//!
//! let client = Client::new("http://127.0.0.1:7070", Key::new("pt_..."))?;
//! for workspace in &client.workspace_list(&Default::default()).await?.workspaces {
//!     println!("{} {}", workspace.id, workspace.status);
//! }
//! # Ok(())
//! # }
//! ```

mod activity;
mod call;
mod error;
mod exec;
mod operations;
mod transport;

pub mod sse;

pub use activity::{ActivityEvent, ActivityScope};
pub use call::Answer;
pub use error::{ApiError, Error};
pub use exec::{ExecEvent, ExecStream};
/// The wire types of requests and answers.
pub use freehold_api as api;
pub use transport::{Client, Key};
