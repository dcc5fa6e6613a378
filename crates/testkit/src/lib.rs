//! What tests share: private PostgreSQL, certificates, fixtures.
