//! The policy proxy: every connection of every pod ends here, is decided here and, when a rule allows it, goes on from
//! here with the credentials that the pod never sees.
//!
//! ```text
//! pod --TPROXY--> listener -> first bytes -> TLS (platform CA) -> HTTP head
//!       -> agree (421) -> path's normal form -> policy -> credential -> address -> audit row -> upstream
//! pod --> redirector --PROXY v2--> listener -> the same
//! pod --UDP/TCP 53--> made-up address + audit row
//! ```
//!
//! Invariants: no [`freehold_policy::Permit`], no upstream connection; no audit row in the spool, no request upstream;
//! an unknown pod, token, grant, name or credential is a denial; nothing here knows the control plane: grants and tokens
//! are pushed, audit rows are handed to an [`AuditSink`].

mod admit;
mod agree;
mod approval;
mod audit;
mod body;
pub mod budget;
mod ca;
mod connection;
mod control_plane;
mod counted;
mod deny;
mod dial;
mod dns;
mod error;
mod escapes;
mod exchange;
mod facts;
mod follow_up;
mod forms;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod grant;
mod guard;
mod headers;
mod inject;
mod linger;
mod mask;
mod masking;
mod masks;
mod names;
mod nameserver;
mod options;
mod outbound;
mod own;
mod passage;
mod peer;
mod pod;
mod pool;
mod preface;
mod query;
mod resolve;
mod respond;
mod samples;
mod service;
mod spool;
mod state;
mod threads;
pub mod token;
mod transform;
mod upgrade;
mod upstream;
mod watch;
mod work;

pub use approval::{Answer, Approvals, Ended, NoApprovals};
pub use audit::{AuditSink, SinkError};
pub use control_plane::{ControlPlane, InvalidUrl};
pub use deny::Reason;
pub use error::Error;
pub use grant::{
    Credentials, Grant, Injection, InvalidInjection, Outgoing, SecretValue, Signer, Unavailable,
};
pub use options::{Limits, Options};
pub use outbound::Outbound;
pub use pod::{Listeners, PodIdentity};
pub use service::{Handle, Service};
