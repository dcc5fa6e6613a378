//! What the use cases need from other parts. The binary wires them.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_model::{
    CredentialId, OrganizationId, Timestamp, UploadId, budget::CounterKey, workspace::Workspace,
};
use futures::stream::BoxStream;
use serde_json::Value;

/// The parts behind the use cases.
#[derive(Clone)]
pub struct Ports {
    /// The agents in the pods.
    pub agent: Arc<dyn AgentPort>,
    /// Encryption of secrets at rest.
    pub sealer: Arc<dyn SecretSealer>,
    /// The bytes of uploaded files.
    pub uploads: Arc<dyn UploadStore>,
    /// What signs checkpoints of the audit log.
    pub signer: Arc<dyn AuditSigner>,
    /// What egress knows of counts that the store does not.
    pub counts: Arc<dyn Counts>,
}

/// What egress knows of counts of budgets.
pub trait Counts: Send + Sync {
    /// How much of a count it has leased and not used.
    fn unused(&self, key: &CounterKey) -> u64;
}

/// No egress runs here: nothing is leased.
pub struct NoCounts;

impl Counts for NoCounts {
    fn unused(&self, _: &CounterKey) -> u64 {
        0
    }
}

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No agent of this workspace is connected.
    #[error("no agent is connected")]
    NotConnected,
    /// It did not answer in time.
    #[error("the agent did not answer in time")]
    TimedOut,
    /// The connection broke, or the answer was not one.
    #[error("the exchange with the agent failed")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A command to run in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Seconds it may run before it is killed.
    pub timeout_seconds: u32,
    /// Where it runs: an absolute path in the pod.
    pub working_directory: String,
}

/// Where a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a running command does. The last one is [`ExecEvent::Ended`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote some bytes.
    Output {
        /// Where.
        stream: OutputStream,
        /// What.
        data: Bytes,
    },
    /// It ended.
    Ended {
        /// Its exit code; 128 and the signal's number when a signal ended it.
        exit_code: i32,
        /// Whether it was killed at its timeout.
        timed_out: bool,
    },
}

/// A running command. Dropping it kills the command.
pub type ExecStream = BoxStream<'static, Result<ExecEvent, AgentError>>;

/// The agents in the pods.
#[async_trait]
pub trait AgentPort: Send + Sync {
    /// The agent's own view of its session.
    async fn session_view(&self, workspace: &Workspace) -> Result<Value, AgentError>;
    /// Tells the agent to end its task after the present step. That it is wanted is in the task's row already.
    async fn cancel(&self, workspace: &Workspace) -> Result<(), AgentError>;
    /// Runs a command in the pod.
    async fn exec(&self, workspace: &Workspace, request: ExecRequest) -> Result<ExecStream, AgentError>;
}

/// Why a secret could not be encrypted.
#[derive(Debug, thiserror::Error)]
#[error("encryption failed")]
pub struct SealError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Encryption of secrets at rest.
pub trait SecretSealer: Send + Sync {
    /// Encrypts a credential's secret, bound to the credential, so that it cannot be moved to another.
    ///
    /// # Errors
    /// When encryption fails; nothing of the secret is in the error.
    fn seal(
        &self,
        organization: OrganizationId,
        credential: CredentialId,
        secret: &[u8],
    ) -> Result<Vec<u8>, SealError>;
}

/// What signs checkpoints of the audit log, with Ed25519.
pub trait AuditSigner: Send + Sync {
    /// The public half of the key.
    fn public_key(&self) -> [u8; 32];
    /// The signature of a message, 64 bytes.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// Why the bytes of a file could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// One file.
    #[error("failed to {what} upload {id}")]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        id: UploadId,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// All of them.
    #[error("failed to list uploads")]
    List(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The bytes of uploaded files.
#[async_trait]
pub trait UploadStore: Send + Sync {
    /// Begins to write a file. It exists only once [`UploadSink::finish`] was called.
    async fn begin(&self, id: UploadId) -> Result<Box<dyn UploadSink>, UploadError>;
    /// Reads a range of a file, in bytes.
    async fn read(&self, id: UploadId, range: Range<u64>) -> Result<Bytes, UploadError>;
    /// The files that were written before this time.
    fn list(&self, written_before: Timestamp) -> BoxStream<'static, Result<UploadId, UploadError>>;
    /// Deletes a file; one that is not there is deleted already.
    async fn delete(&self, id: UploadId) -> Result<(), UploadError>;
}

/// A file being written.
#[async_trait]
pub trait UploadSink: Send {
    /// Appends bytes, waiting while too many are on their way.
    async fn write(&mut self, data: Bytes) -> Result<(), UploadError>;
    /// Makes the file durable.
    async fn finish(self: Box<Self>) -> Result<(), UploadError>;
    /// Forgets the file.
    async fn abort(self: Box<Self>);
}
