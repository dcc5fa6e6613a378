//! Audit rows: one for each decision, made here and handed on through the spool.

use async_trait::async_trait;
use freehold_model::audit::AuditEvent;

/// Why a sink did not take rows. They are offered again.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where audit rows go in the end.
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Makes the rows durable. Idempotent by row id: after a crash the same rows come again.
    ///
    /// # Errors
    /// The same rows are offered again, later; while the backlog is full, requests wait.
    async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError>;
}
