//! What tests share: private PostgreSQL, certificates, fixtures.

pub mod postgresql;
pub mod tls;
