//! Who may do what: scopes, the scopes of member roles and of key templates, and proofs of authorization.
//!
//! Invariant: a thing reaches a use case's write only through [`Actor::authorize`] (or [`Actor::reach`] for lists), which
//! yield values with private fields. What is not granted by name is denied.

mod actor;
mod grant;
mod scope;

pub use actor::{Actor, Authorized, Denied, Kind, Owned, Reach, Right};
pub use grant::{member_scopes, permission_set_scopes};
pub use scope::{Scope, Scopes};
