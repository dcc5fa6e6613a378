//! What the use cases need from other parts. The binary wires them.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_model::{
    OrganizationId, ProviderId, RoleId, Timestamp, UploadId,
    budget::CounterKey,
    credential::{Credential, Kind},
    secret::Holder,
    workspace::Workspace,
};
use futures::{future::BoxFuture, stream::BoxStream};
use serde_json::Value;
use zeroize::Zeroizing;

/// The parts behind the use cases.
#[derive(Clone)]
pub struct Ports {
    /// The agents in the pods.
    pub agent: Arc<dyn AgentPort>,
    /// Where secrets are kept.
    pub sealer: Arc<dyn SecretSealer>,
    /// The issuers of credentials.
    pub issuers: Arc<dyn Issuers>,
    /// The bytes of uploaded files.
    pub uploads: Arc<dyn UploadStore>,
    /// What signs checkpoints of the audit log.
    pub signer: Arc<dyn AuditSigner>,
    /// What egress knows of counts that the store does not.
    pub counts: Arc<dyn Counts>,
    /// Where policy is in force.
    pub policy: Arc<dyn PolicyPort>,
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

/// What changed about the policy of workspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyChange {
    /// A role.
    Role(RoleId),
    /// A provider.
    Provider(ProviderId),
}

/// Where policy is in force.
#[async_trait]
pub trait PolicyPort: Send + Sync {
    /// Puts what the rows say now in force for the running workspaces that a change is about. Answers when it is, or after a
    /// limit; it will be in force all the same, for the change is in the rows.
    async fn changed(&self, change: PolicyChange);
}

/// Where no workspace runs.
pub struct NoWorkspaces;

#[async_trait]
impl PolicyPort for NoWorkspaces {
    async fn changed(&self, _: PolicyChange) {}
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

/// Why a secret could not be kept or removed. Nothing of the secret is in any of these.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It could not be encrypted.
    #[error("the secret could not be encrypted")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store of secrets cannot be used now.
    #[error("the store of secrets cannot be used")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The secret is in a store of secrets that is not configured.
    #[error("the secret is kept in a store of secrets that is not configured on this server")]
    NotConfigured,
}

/// Where secrets are kept: encrypted in rows, or in a store of secrets.
#[async_trait]
pub trait SecretSealer: Send + Sync {
    /// Keeps a secret, bound to its holder, so that it cannot be moved to another. What is answered goes into the holder's
    /// row; a secret that is kept elsewhere is kept under another version, so that the row decides which one counts.
    ///
    /// # Errors
    /// When encryption fails, or the store of secrets does not take it.
    async fn seal(
        &self,
        organization: OrganizationId,
        holder: Holder,
        secret: &[u8],
    ) -> Result<Vec<u8>, SealError>;

    /// Removes what is kept of a secret beside its row, before the row is deleted. Again is no error.
    ///
    /// # Errors
    /// When the store of secrets does not say that it is gone.
    async fn discard(
        &self,
        organization: OrganizationId,
        holder: Holder,
        sealed: &[u8],
    ) -> Result<(), SealError>;

    /// Where a secret is kept, when that is not in its row: the path in the store of secrets.
    fn reference(&self, sealed: &[u8]) -> Option<String>;
}

/// What signs checkpoints of the audit log, with Ed25519.
pub trait AuditSigner: Send + Sync {
    /// The public half of the key.
    fn public_key(&self) -> [u8; 32];
    /// The signature of a message, 64 bytes.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// The secrets that a caller gave for a new credential, by the names of their fields. Has no `Debug`.
#[derive(Clone, Default)]
pub struct SecretFields {
    /// The key of `api_key` and `query_api_key`.
    pub api_key: Option<Zeroizing<String>>,
    /// The password of `basic_auth`.
    pub password: Option<Zeroizing<String>>,
    /// The secret of an OAuth client.
    pub client_secret: Option<Zeroizing<String>>,
    /// The private key of `oauth2_client_assertion`, in PEM.
    pub private_key: Option<Zeroizing<String>>,
    /// The key file of a service account.
    pub service_account_json: Option<Zeroizing<String>>,
    /// The secret key of `aws_sigv4`.
    pub secret_access_key: Option<Zeroizing<String>>,
    /// The session token of temporary keys of `aws_sigv4`.
    pub session_token: Option<Zeroizing<String>>,
}

impl SecretFields {
    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        let Self { api_key, password, client_secret, private_key, service_account_json, .. } = self;
        let Self { secret_access_key, session_token, .. } = self;
        [
            api_key,
            password,
            client_secret,
            private_key,
            service_account_json,
            secret_access_key,
            session_token,
        ]
        .iter()
        .all(|field| field.is_none())
    }
}

/// What is to be sealed for a new credential.
pub struct PackedSecret {
    /// The bytes.
    pub secret: Zeroizing<Vec<u8>>,
    /// Where its key file says that tokens are given.
    pub token_url: Option<String>,
}

/// Why an issuer gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the issuer gave no token: {0}")]
pub struct IssuerRefused(pub &'static str);

/// Asks an issuer. `None` where it gave nothing, or is not known to take anything back.
pub type Revocation = BoxFuture<'static, Option<Result<(), IssuerRefused>>>;

/// The issuers of credentials, and what their secrets consist of.
#[async_trait]
pub trait Issuers: Send + Sync {
    /// Puts together what is to be sealed for a credential of this kind.
    ///
    /// # Errors
    /// Fields that are missing, not of this kind or not usable, each with the reason.
    fn pack(&self, kind: Kind, given: SecretFields) -> Result<PackedSecret, BTreeMap<String, String>>;

    /// Seals for `to`, a member's own credential, what makes `from`'s client: a member consents under the organization's.
    ///
    /// # Errors
    /// When the secret cannot be opened or sealed.
    async fn client_of(
        &self,
        from: &Credential,
        sealed: &[u8],
        to: &Credential,
    ) -> Result<Vec<u8>, SealError>;

    /// Where a person is sent to consent; `None` where nobody knows.
    fn authorization_url(
        &self,
        credential: &Credential,
        redirect_uri: &str,
        state: &str,
        verifier: &str,
    ) -> Option<String>;

    /// Exchanges what a person came back with; answers the sealed secret to keep.
    ///
    /// # Errors
    /// When the issuer gives nothing.
    async fn exchange(
        &self,
        credential: &Credential,
        sealed: Vec<u8>,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Vec<u8>, IssuerRefused>;

    /// The code of an issuer's refusal, where it is a known one; else one that says as little.
    fn refusal(&self, error: &str) -> &'static str;

    /// What asks the issuer of a credential to take back what it gave, once the credential is deleted and its secret with
    /// it. `None` where the secret cannot be opened, or no issuer is asked.
    async fn revocation(&self, credential: &Credential, sealed: &[u8]) -> Option<Revocation>;
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
