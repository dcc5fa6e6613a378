//! The policy language: a `caps.yaml` is parsed, checked and compiled once; every request is decided purely.
//!
//! ```text
//! provider's document --parse--> Document \
//!                                          compile --> Policy --decide(request)--> Permit | Denial
//! role's document ------parse--> Document /
//! ```
//!
//! Invariants: no rule, no [`Permit`]; only [`Policy::decide`] makes one; this crate performs no I/O and reads no clock; what
//! it does not know in a document is a [`Problem`] and never silently dropped; all work for one decision is bounded.

pub mod address;
mod body;
mod budget;
pub mod cel;
mod content;
mod counting;
mod decide;
mod destination;
mod document;
mod fields;
mod glob;
mod graphql;
mod grpc;
mod language;
mod media;
mod merge;
mod names;
mod parse;
mod path;
mod permit;
mod provider;
mod query;
mod respond;
mod schema;
mod suggest;
mod transform;
mod yaml;

pub use body::{BODY_READ_BYTES_DEFAULT, BODY_READ_BYTES_MAX, Body, BodyRule};
pub use budget::{Counter, LIMIT_MAX, MICROS_PER_USD, OnLimit, Per, Unit, WINDOW_DAYS_MAX, Window};
pub use content::{BODY_DEPTH_MAX, BODY_VALUES_MAX, ReadBody, Unreadable};
pub use decide::{
    Decision, Denial, DnsDecision, Match, Origin, Policy, Reason, RequestHead, RuleName, Verdict,
};
pub use destination::{Destination, InvalidHost, Scheme, normal_host};
pub use document::{
    Approval, Capability, Condition, Document, DomainPattern, Formula, Method, PathPattern, Rule,
};
pub use grpc::grpc_call;
pub use language::language_schema;
pub use media::MediaPattern;
pub use names::plain_header_name;
pub use parse::{
    CAPABILITIES_MAX, CONDITIONS_MAX, COUNTERS_MAX, DOCUMENT_CHARS_MAX, EDITS_MAX, NAME_CHARS_MAX,
    PATTERNS_MAX, Problem, REGEXES_MAX, RULES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_PARTS_MAX, SCHEMAS_MAX,
    TRANSFORMS_MAX, parse,
};
pub use path::{NormalPath, PATH_BYTES_MAX, PathProblem};
pub use permit::{Applied, Permit};
pub use provider::{PROVIDER_CAPABILITY, ProviderGrant, compile};
pub use query::Query;
pub use respond::{Reply, ResponseRule, StatusPattern};
pub use schema::{BodySchema, SCHEMA_BYTES_MAX, VALIDATION_STEPS_MAX};
pub use suggest::nearest;
pub use transform::{BodyEdits, Edits, POINTER_BYTES_MAX, POINTER_SEGMENTS_MAX, Pointer, Transform};
