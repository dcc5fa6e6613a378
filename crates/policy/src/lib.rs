//! The policy language: a `caps.yaml` is parsed, checked and compiled once; every request is decided purely.
//!
//! ```text
//! provider's document --parse--> Document \
//!                                          compile --> Policy --decide(request)--> Permit | Denial
//! role's document ------parse--> Document /
//! ```
//!
//! Invariants: no rule, no [`Permit`]; only [`Policy::decide`] makes one; this crate performs no I/O and reads no
//! clock. What a later version of the language brings (deny rules, transforms, budgets, expressions) is a
//! [`Problem`] today and never silently dropped.

pub mod cel;
mod decide;
mod destination;
mod document;
mod glob;
mod parse;
mod path;
mod provider;
mod yaml;

pub use decide::{
    Decision, Denial, DnsDecision, Match, Permit, Policy, Reason, RequestHead, RuleName, Verdict,
};
pub use destination::{Destination, InvalidHost, Scheme, normal_host};
pub use document::{Capability, Condition, Document, DomainPattern, Method, PathPattern, Rule};
pub use parse::{
    CAPABILITIES_MAX, CONDITIONS_MAX, DOCUMENT_BYTES_MAX, PATTERNS_MAX, Problem, REGEXES_MAX, RULES_MAX,
    parse,
};
pub use path::{NormalPath, PATH_BYTES_MAX, PathProblem, is_plain_query};
pub use provider::{PROVIDER_CAPABILITY, ProviderGrant, compile};
