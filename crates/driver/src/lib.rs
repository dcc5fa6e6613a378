//! The contract of pod drivers. A driver makes sandboxes, reports what it sees and takes them away; it concludes
//! nothing: the phase of a workspace is `model`'s affair.
//!
//! Every driver passes the suite in [`conformance`].

pub mod conformance;
mod spec;

use std::{io, os::unix::net::UnixListener, process::ExitStatus};

use async_trait::async_trait;
use freehold_model::{PodId, WorkspaceId};
use rustix::io::Errno;
use tokio::{io::AsyncRead, sync::watch};

pub use spec::{
    AGENT_POD_API_FD, AGENT_PROGRAM_PATH, AGENT_TOOL_RLIMITS_VARIABLE, AGENT_TOOL_UID_VARIABLE,
    AGENT_TOOLS_CGROUP_FDS_VARIABLE, Enforcement, ExecSpec, LimitReport, Limits, PodObservation, PodSpec,
    PodState, Report, TRUST_ANCHORS_PATH, TRUST_ENVIRONMENT,
};

/// Makes pods.
#[async_trait]
pub trait PodDriver: Send + Sync {
    /// What this machine lets the driver do, for the log at start.
    fn report(&self) -> Report;

    /// Makes the pod unless it is there: repeating a call changes nothing. The files of the workspace are kept from one
    /// pod to the next. Returns when the agent has been started (it may not have connected yet).
    ///
    /// # Errors
    /// [`Error::OldGeneration`] when a newer generation was seen for this workspace; nothing is changed then.
    async fn ensure(&self, spec: &PodSpec) -> Result<(), Error>;

    /// Every pod of this driver, also those made by an earlier process, whether wanted or not.
    async fn observe(&self) -> Result<Vec<PodObservation>, Error>;

    /// Changes whenever a pod may have come, changed or gone: look again.
    fn changes(&self) -> watch::Receiver<u64>;

    /// The pod's ends that are served outside of it. May be called again, also by another process later: the pod's
    /// side keeps them open.
    async fn links(&self, pod: PodId) -> Result<PodLinks, Error>;

    /// Runs a command in the pod, as its tools run: no capabilities, the pod's limits for tools.
    async fn exec(&self, pod: PodId, command: ExecSpec) -> Result<Exec, Error>;

    /// Ends the pod: when this returns its processes are gone and nothing of it can be seen. Files of the workspace
    /// stay. Deleting a pod that is not there is fine.
    async fn delete(&self, pod: PodId) -> Result<(), Error>;

    /// Every workspace that has files here, with or without a pod: those that nobody wants any more can be purged.
    async fn workspaces(&self) -> Result<Vec<WorkspaceId>, Error>;

    /// Removes a workspace's files for good. It must have no pod.
    async fn purge(&self, workspace: WorkspaceId) -> Result<(), Error>;
}

/// How an accepted connection tells where the pod wanted to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OriginalDestination {
    /// By its own address (`getsockname`).
    #[default]
    LocalAddress,
    /// By netfilter's memory of it (`SO_ORIGINAL_DST`), where the machine can do no better.
    Netfilter,
}

/// What a pod's connections arrive on. Every socket lives in the pod's network namespace; whoever holds it serves it
/// from outside.
#[derive(Debug, Default)]
pub struct PodLinks {
    /// TCP connections from the pod to anywhere.
    pub tcp: Vec<std::net::TcpListener>,
    /// How those tell where they wanted to go.
    pub original_destination: OriginalDestination,
    /// DNS questions from the pod to anywhere, with the asked address as ancillary data (`IP_PKTINFO`).
    pub dns: Vec<std::net::UdpSocket>,
    /// The agent's connections.
    pub pod_api: Option<UnixListener>,
}

/// A command that runs in a pod. Dropping it kills the command and whatever it started.
pub struct Exec {
    /// Its standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its standard error.
    pub stderr: Box<dyn AsyncRead + Send + Unpin>,
    /// Resolves when the command has ended.
    pub exit: futures_core::future::BoxFuture<'static, Result<ExitStatus, Error>>,
}

impl std::fmt::Debug for Exec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exec").finish_non_exhaustive()
    }
}

/// Why a driver could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A newer generation of this workspace's pod was seen.
    #[error("generation {asked} of the pod is older than {seen}")]
    OldGeneration {
        /// The generation asked for.
        asked: u64,
        /// The newest seen.
        seen: u64,
    },
    /// There is no such pod.
    #[error("there is no pod {0}")]
    NotFound(PodId),
    /// The workspace still has a pod.
    #[error("the workspace still has a pod")]
    InUse,
    /// The command cannot be started.
    #[error("the command cannot be started")]
    Exec(#[source] io::Error),
    /// The machine refused a step of making or removing a pod.
    #[error("failed to {step}")]
    Step {
        /// What was tried.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Errors of a machine, or of what it allows this user, that is full for now: no room for another process, descriptor,
/// descriptor on its way, namespace, page or block.
const PASSING: &[Errno] = &[
    Errno::AGAIN,
    Errno::NOMEM,
    Errno::NOBUFS,
    Errno::MFILE,
    Errno::NFILE,
    Errno::TOOMANYREFS,
    Errno::NOSPC,
    Errno::DQUOT,
];

impl Error {
    /// Whether the machine had no room for this just now, so that the same may succeed a moment later: somebody else may
    /// have used it up. It says nothing about the pod.
    pub fn is_passing(&self) -> bool {
        let Self::Step { source, .. } = self else { return false };
        Errno::from_io_error(source).is_some_and(|errno| PASSING.contains(&errno))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_machine_says_passes_and_nothing_else_does() {
        let step = |source| Error::Step { step: "start".into(), source };
        for errno in PASSING {
            assert!(step((*errno).into()).is_passing(), "{errno}");
        }
        assert!(!step(Errno::PERM.into()).is_passing());
        assert!(!step(io::ErrorKind::TimedOut.into()).is_passing());
        assert!(!Error::Exec(Errno::AGAIN.into()).is_passing());
        assert!(!Error::InUse.is_passing());
    }
}
