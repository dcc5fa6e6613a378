//! Why a call failed, and what its caller can do about it.

use std::path::PathBuf;

use freehold_api::error::ErrorCode;
use serde::Deserialize;
use serde_json::Value;

/// Why a call failed. `Display` does not repeat the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with an error.
    #[error("{0}")]
    Api(Box<ApiError>),
    /// No connection could be made.
    #[error("cannot reach {address}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// What the network said.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke, or the server was silent for too long.
    #[error("the connection to {address} broke")]
    Broken {
        /// The server's address.
        address: String,
        /// What the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the contract says: the server is another version, or not a Freehold server.
    #[error("the answer to {operation} is not what this client understands")]
    Contract {
        /// The operation.
        operation: &'static str,
        /// Where the answer differs.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than this client takes.
    #[error("the answer to {operation} is longer than {limit_bytes} bytes")]
    TooLong {
        /// The operation.
        operation: &'static str,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// A command's output ended without saying how the command did.
    #[error("the command's output was cut: how it ended is not known")]
    Cut,
    /// The address is not one to send a key to.
    #[error("`{address}` cannot be used: {why}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// The key cannot be sent in a header.
    #[error("the key holds characters that no key has")]
    MalformedKey,
    /// A file to upload cannot be read.
    #[error("cannot read `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The machine's certificates or TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls {
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error the server answered with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: u16,
    /// The code: one of [`ErrorCode`], or one that a newer server has.
    pub code: String,
    /// The server's summary.
    pub message: String,
    /// Finds the request in the server's log; empty when the answer did not come from a Freehold server.
    pub request_id: String,
    /// Structured context.
    pub details: Option<Value>,
}

impl ApiError {
    /// The code as one of the closed set, if this client knows it.
    pub fn known_code(&self) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.as_str() == self.code)
    }

    /// Fields that were refused and why, in the order of their names.
    pub fn fields(&self) -> Vec<(String, String)> {
        let fields = self.details.as_ref().and_then(|details| details.get("fields")?.as_object());
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        fields.into_iter().flatten().map(|(name, why)| (name.clone(), text(why))).collect()
    }

    /// Reads an error's body; what is no envelope (a proxy's page, say) becomes an error that shows its beginning.
    pub(crate) fn read(status: u16, body: &[u8]) -> Self {
        /// The most characters shown of a body that is no envelope.
        const EXCERPT_CHARS_MAX: usize = 200;
        #[derive(Deserialize)]
        struct Envelope {
            error: Inner,
        }
        #[derive(Deserialize)]
        struct Inner {
            code: String,
            message: String,
            #[serde(default)]
            request_id: String,
            details: Option<Value>,
        }
        match serde_json::from_slice::<Envelope>(body) {
            Ok(Envelope { error }) => Self {
                status,
                code: error.code,
                message: error.message,
                request_id: error.request_id,
                details: error.details,
            },
            Err(_) => {
                let text = String::from_utf8_lossy(body);
                let excerpt: String = text.trim().chars().take(EXCERPT_CHARS_MAX).collect();
                Self {
                    status,
                    code: String::new(),
                    message: format!("HTTP status {status}, not in this API's form: {excerpt}"),
                    request_id: String::new(),
                    details: None,
                }
            }
        }
    }
}

impl Error {
    /// The server's answer, when there was one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    /// Whether asking again later can help: the server does not answer, is overloaded or stops.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } => true,
            Self::Api(error) => error.status == 429 || error.status >= 500,
            _ => false,
        }
    }

    /// What to do about it, in a sentence.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Api(error) => error.known_code().and_then(code_hint),
            Self::Unreachable { .. } => {
                Some("is the server running, and is this its address? Start one with `freehold server`")
            }
            Self::Broken { .. } => Some("the server may have stopped; look at its log, then try again"),
            Self::Contract { .. } => {
                Some("the server may be of another version than this client, or no Freehold server")
            }
            Self::TooLong { .. } => Some("ask for a page with a limit"),
            Self::Cut => {
                Some("the server or the pod went away while the command ran; it may still have had effects")
            }
            Self::Address { .. } => Some("use https, or reach the server's loopback through a tunnel"),
            Self::MalformedKey => Some("a key begins with `sk_` or `pt_` and is one word"),
            Self::File { .. } => None,
            Self::Tls { .. } => Some("name a file of certificate authorities in SSL_CERT_FILE"),
        }
    }
}

/// What a caller can do about a code.
const fn code_hint(code: ErrorCode) -> Option<&'static str> {
    use ErrorCode as E;
    Some(match code {
        E::Unauthorized => "sign in with `freehold login`, or set FREEHOLD_API_KEY and FREEHOLD_URL",
        E::PermissionDenied => {
            "`freehold whoami` shows what this key may do; an owner or operator may do more"
        }
        E::WorkspaceNotVisible => "this credential reaches only the workspaces its member created",
        E::ProviderNotFound => "`freehold provider list` shows the providers there are",
        E::RoleNotFound => "`freehold role list` shows the roles there are",
        E::WorkspaceNotFound => "`freehold workspace list --include-archived` shows the workspaces there are",
        E::TaskNotFound => "`freehold task list WORKSPACE` shows the tasks there are",
        E::SessionNotFound => "`freehold session list` shows the sessions there are",
        E::CredentialNotFound => "`freehold credential list` shows the credentials there are",
        E::ApprovalNotFound => "`freehold approvals list` shows the approvals there are",
        E::SecretNotFound => "`freehold secret list` shows the secrets there are",
        E::SecretsDisabled => "whoever runs the server configures its store of secrets again, `[openbao]`",
        E::ApiKeyNotFound => "`freehold key list` shows the keys there are",
        E::NotFound | E::MethodNotAllowed => {
            "the server may be older than this client, or no Freehold server"
        }
        E::NameTaken => {
            "choose another name, or use or change the one there is; archived ones keep their names"
        }
        E::ProviderArchived => "unarchive the provider first: `freehold provider unarchive NAME`",
        E::RoleArchived => "unarchive the role first: `freehold role unarchive NAME`",
        E::WorkspacesActive => "stop the workspaces first: `freehold role stop-workspaces NAME`",
        E::WorkspaceArchived => "unarchive it first: `freehold workspace unarchive ID`",
        E::WorkspaceStopped => {
            "a stopped workspace takes no work; create another with `freehold workspace create`"
        }
        E::WorkspaceFailed => {
            "its pod could not start; `freehold workspace activity ID` and the server's log say why"
        }
        E::WorkspaceProvisioning => "wait until `freehold workspace get ID` says idle, then try again",
        E::NotArchived => "only archived things can be unarchived or deleted: archive it first",
        E::TooManyRequests => "wait until some of the work is done, then try again",
        E::InternalError => "the server's log has the cause under this request id",
        E::AgentUnreachable => "the workspace's agent does not answer; try again, then stop the workspace",
        E::Unavailable => "try again later; the server's log has the cause under this request id",
        E::InvalidCursor => "begin again without a cursor",
        E::PayloadTooLarge => "send less: see the limits in the API's reference",
        // Each says in its message what is wrong with what.
        E::ValidationError
        | E::InvalidState
        | E::InvalidJson
        | E::InvalidId
        | E::IdempotencyConflict
        | E::UnsupportedMediaType => return None,
    })
}
