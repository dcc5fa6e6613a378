//! The proxy as a pod and an upstream see it: real sockets, real TLS, a real spool.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

mod approvals;
mod attacks;
mod attacks_http2;
mod audit;
mod bodies;
mod budgets;
mod counts;
mod credentials;
mod curl;
mod decisions;
mod differential;
mod dns;
mod harness;
mod masking;
mod namespace;
mod pods;
mod pool_attacks;
mod pooled;
mod prefaces;
mod resolver;
mod smuggling;
mod streams;
mod transforms;
mod upstream;
