//! What the use cases need from other parts, wired: agents and pods.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_app::ports::{
    AgentError, AgentPort, AuditSigner, Counts, ExecEvent, ExecRequest, ExecStream, OutputStream,
    PolicyChange, PolicyPort,
};
use freehold_driver::{Exec, ExecSpec, PodDriver};
use freehold_model::{PodId, budget::CounterKey, workspace::Workspace};
use freehold_reconcile::{AgentUnreachable, Handle};
use freehold_vault::SigningKey;
use futures::StreamExt;
use rustix::io::Errno;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes of a command's output in one event.
const OUTPUT_BYTES_MAX: usize = 32 * 1024;

/// Events of a command that wait for a slow reader; the command then waits too.
const OUTPUT_EVENTS_MAX: usize = 16;

/// How long output may be silent after the command has ended, before what it left running in the background is no longer
/// listened to.
const OUTPUT_SILENCE_MAX: Duration = Duration::from_millis(500);

/// Counts of budgets, as egress has them.
pub struct EgressCounts(pub freehold_egress::budget::Budgets);

impl Counts for EgressCounts {
    fn unused(&self, key: &CounterKey) -> u64 {
        self.0.unused(key)
    }
}

/// Agents in pods, and the driver that made the pods.
pub struct Agents {
    reconciler: Handle,
    driver: Arc<dyn PodDriver>,
}

impl Agents {
    /// Agents of this reconciler, in pods of this driver.
    pub fn new(reconciler: Handle, driver: Arc<dyn PodDriver>) -> Self {
        Self { reconciler, driver }
    }
}

fn unreachable(_: AgentUnreachable) -> AgentError {
    AgentError::NotConnected
}

#[async_trait]
impl AgentPort for Agents {
    async fn session_view(&self, workspace: &Workspace) -> Result<Value, AgentError> {
        self.reconciler.agents().session_view(workspace.id).await.map_err(unreachable)
    }

    async fn cancel(&self, workspace: &Workspace) -> Result<(), AgentError> {
        // The request is in the task's row; the reconciler passes it on, now or when the agent is back.
        self.reconciler.poke(workspace.id);
        Ok(())
    }

    async fn exec(&self, workspace: &Workspace, request: ExecRequest) -> Result<ExecStream, AgentError> {
        let pod: PodId = workspace.pod_id.ok_or(AgentError::NotConnected)?;
        let spec =
            ExecSpec { argv: request.command, cwd: Some(request.working_directory), environment: Vec::new() };
        let program = spec.argv.first().cloned().unwrap_or_default();
        let directory = spec.cwd.clone().unwrap_or_default();
        let exec = match self.driver.exec(pod, spec).await {
            Ok(exec) => exec,
            Err(error) => return not_started(&program, &directory, error),
        };
        let (events, receiver) = mpsc::channel(OUTPUT_EVENTS_MAX);
        tokio::spawn(stream_exec(exec, Duration::from_secs(request.timeout_seconds.into()), events));
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

/// What a shell says and exits with when a command is not there (127) or cannot be run (126). Anything else that keeps a
/// command from starting is a failure of the pod.
fn not_started(
    program: &str,
    directory: &str,
    error: freehold_driver::Error,
) -> Result<ExecStream, AgentError> {
    let freehold_driver::Error::Exec(cause) = &error else { return Err(AgentError::Failed(Box::new(error))) };
    let (exit_code, why) = match Errno::from_io_error(cause) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            (127, format!("there is no such program, or no directory `{directory}`"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            (126, format!("the program, or the directory `{directory}`, may not be used"))
        }
        Some(Errno::TOOBIG) => (126, "its arguments are too long".to_owned()),
        Some(Errno::NOEXEC) => (126, "it is no program that this machine can execute".to_owned()),
        Some(Errno::LOOP | Errno::NAMETOOLONG | Errno::ISDIR | Errno::TXTBSY | Errno::INVAL) => {
            (126, cause.to_string())
        }
        _ => return Err(AgentError::Failed(Box::new(error))),
    };
    let data = Bytes::from(format!("cannot start `{program}`: {why}\n"));
    let events = [
        Ok(ExecEvent::Output { stream: OutputStream::Stderr, data }),
        Ok(ExecEvent::Ended { exit_code, timed_out: false }),
    ];
    Ok(futures::stream::iter(events).boxed())
}

type Events = mpsc::Sender<Result<ExecEvent, AgentError>>;

/// Passes on what a command writes, and how it ends. Ends, and kills the command, when nobody listens any more.
async fn stream_exec(exec: Exec, limit: Duration, events: Events) {
    let Exec { stdout, stderr, exit } = exec;
    let ended = CancellationToken::new();
    let run = async {
        let exit = async {
            let status = exit.await;
            ended.cancel();
            status
        };
        let (_, _, status) = tokio::join!(
            copy(stdout, OutputStream::Stdout, &ended, &events),
            copy(stderr, OutputStream::Stderr, &ended, &events),
            exit
        );
        status
    };
    let last = tokio::select! {
        () = events.closed() => return,
        ended = timeout(limit, run) => match ended {
            Ok(Ok(status)) => Ok(ExecEvent::Ended { exit_code: code(status), timed_out: false }),
            Ok(Err(error)) => Err(AgentError::Failed(Box::new(error))),
            Err(_elapsed) => Ok(ExecEvent::Ended { exit_code: 128 + rustix::process::Signal::KILL.as_raw(), timed_out: true }),
        },
    };
    // Nobody may be listening any more; the command has ended all the same.
    let _unheard = events.send(last).await;
}

/// A shell's convention: the exit code, or 128 and the signal's number.
fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Passes on one stream until it ends, or until the command has ended and the stream is silent: a program that it left in
/// the background may hold the stream open for as long as it likes.
async fn copy(
    mut from: Box<dyn AsyncRead + Send + Unpin>,
    stream: OutputStream,
    ended: &CancellationToken,
    events: &Events,
) {
    let mut buffer = vec![0; OUTPUT_BYTES_MAX];
    loop {
        let silence = async {
            ended.cancelled().await;
            tokio::time::sleep(OUTPUT_SILENCE_MAX).await;
        };
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = silence => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                let data = Bytes::copy_from_slice(&buffer[..length]);
                if events.send(Ok(ExecEvent::Output { stream, data })).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Policy is in force where the reconciler publishes it.
pub struct Policies(pub Handle);

#[async_trait]
impl PolicyPort for Policies {
    async fn changed(&self, change: PolicyChange) {
        self.0.policy_changed(change).await;
    }
}

/// Stands in where no server runs: no agent can be asked.
pub struct NoAgents;

#[async_trait]
impl AgentPort for NoAgents {
    async fn session_view(&self, _: &Workspace) -> Result<Value, AgentError> {
        Err(AgentError::NotConnected)
    }

    async fn cancel(&self, _: &Workspace) -> Result<(), AgentError> {
        Err(AgentError::NotConnected)
    }

    async fn exec(&self, _: &Workspace, _: ExecRequest) -> Result<ExecStream, AgentError> {
        Err(AgentError::NotConnected)
    }
}

/// The key of the data directory, as checkpoints need it.
pub struct Signer(pub SigningKey);

impl AuditSigner for Signer {
    fn public_key(&self) -> [u8; 32] {
        self.0.public_key()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message)
    }
}
