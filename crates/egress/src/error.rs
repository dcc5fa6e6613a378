//! What can go wrong at start and when a pod is attached. Requests have [`crate::Reason`]s instead.

use std::path::PathBuf;

use freehold_model::PodId;

/// Why egress cannot start or take a pod.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory or a file in it cannot be read or written.
    #[error("failed to use `{path}`")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The CA cannot be made, or its files are not what we wrote.
    #[error("failed to load or make the platform certificate authority")]
    Authority(#[source] rcgen::Error),
    /// A certificate or key that TLS does not take.
    #[error("failed to set up TLS")]
    Tls(#[source] rustls::Error),
    /// A text among the extra roots that is no PEM certificate.
    #[error("an extra upstream root is not a PEM certificate")]
    Roots,
    /// A thread cannot be started.
    #[error("failed to start a thread")]
    Threads(#[source] std::io::Error),
    /// A listener cannot be taken into the runtime.
    #[error("failed to take over the listeners of pod {pod}")]
    Listener {
        /// The pod.
        pod: PodId,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The pod is not attached.
    #[error("pod {0} is not attached")]
    UnknownPod(PodId),
    /// The token is not ours, has expired, or is not for this pod's workspace.
    #[error("the token is not valid for this pod")]
    Token(#[source] crate::token::Error),
}
