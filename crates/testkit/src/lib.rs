//! What tests share: values, private PostgreSQL, certificates, folders that are removed whatever is in them.

mod folder;
pub mod issuer;
pub mod model;
pub mod neighbour;
pub mod openbao;
pub mod postgresql;
pub mod tls;

pub use folder::Folder;
