//! The way to issuers, which whoever wires the broker gives it.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};

/// Why an issuer could not be asked, as a short slug such as `address_forbidden`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer could not be asked: {0}")]
pub struct HttpError(pub &'static str);

/// The way to issuers: HTTPS with verified certificates, to public addresses or those that the operator names.
#[async_trait]
pub trait Http: Send + Sync {
    /// Sends one request and reads the whole answer, within limits of time and bytes. Follows no redirect: what is sent
    /// is secret.
    ///
    /// # Errors
    /// When there is no answer.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError>;
}
