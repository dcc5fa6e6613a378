//! Turns stored credentials into what egress puts on requests: keys in the form of their provider, access tokens that
//! issuers give for a secret, an assertion or a person's consent, and signatures.
//!
//! Invariants: a secret is held in memory that is wiped when dropped, and no `Debug`, error or log line carries it; an
//! issuer is asked once for all who wait; a refresh token that an issuer has replaced is durable before the access token
//! that came with it is used; what an issuer gave is in the audit log before it is used.

mod assertion;
mod broker;
mod consent;
mod durable;
mod fault;
mod form;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod sigv4;
mod token;

pub use broker::{Broker, Keeper, Note, OpenError, Options, Slot, Unavailable};
pub use consent::{authorization_url, refusal};
pub use durable::{Given, Packed, Secret, client_of, pack};
pub use form::{Error, Injection, SECRET_BYTES_MAX, injection};
pub use http::{Http, HttpError};
pub use sigv4::{SigV4, ToSign, Unsignable};
