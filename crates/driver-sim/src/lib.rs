//! Pods in memory with scripted faults, for tests and simulation only.
//!
//! Nothing is isolated: a command runs as an ordinary process of this machine, in a directory that stands for the
//! workspace's files. What is real is the listener of pod-api, so that a test can be the agent of a pod.

use std::{
    collections::HashMap,
    io,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use freehold_driver::{
    Enforcement, Error, Exec, ExecSpec, LimitReport, PodDriver, PodLinks, PodObservation, PodSpec, PodState,
    Report,
};
use freehold_model::{PodId, Timestamp, WorkspaceId};
use tempfile::TempDir;
use tokio::sync::watch;

/// Keeps pods in memory.
#[derive(Debug)]
pub struct SimDriver {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    dir: TempDir,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<PodId, Pod>,
    generations: HashMap<WorkspaceId, u64>,
    failing_starts: u32,
    starts_without_room: u32,
    start_takes: Duration,
    look_takes: Duration,
    ensured: u64,
}

#[derive(Debug)]
struct Pod {
    spec: PodSpec,
    state: PodState,
    pod_api: UnixListener,
}

fn step(name: &str) -> impl FnOnce(io::Error) -> Error {
    let step = name.to_owned();
    move |source| Error::Step { step, source }
}

impl SimDriver {
    /// Makes a driver without pods.
    ///
    /// # Errors
    /// When no temporary directory can be made.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        Ok(Self { state: Mutex::default(), changes: watch::Sender::new(0), dir })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Lets the next `count` starts of a pod fail.
    pub fn fail_starts(&self, count: u32) {
        self.state().failing_starts = count;
    }

    /// Lets the machine have no room for the next `count` starts of a pod.
    pub fn no_room_for_starts(&self, count: u32) {
        self.state().starts_without_room = count;
    }

    /// Lets every look at all pods take this long from what it saw to its answer.
    pub fn slow_looks(&self, each: Duration) {
        self.state().look_takes = each;
    }

    /// Lets every start of a pod take this long.
    pub fn slow_starts(&self, each: Duration) {
        self.state().start_takes = each;
    }

    /// Lets a pod end by itself.
    pub fn lose(&self, pod: PodId, reason: &str) {
        if let Some(pod) = self.state().pods.get_mut(&pod) {
            pod.state = PodState::Ended { reason: reason.into() };
        }
        self.changed();
    }

    /// Lets a pod not answer, or answer again.
    pub fn silence(&self, pod: PodId, silent: bool) {
        if let Some(pod) = self.state().pods.get_mut(&pod) {
            pod.state = if silent { PodState::Silent } else { PodState::Running };
        }
        self.changed();
    }

    /// How many pods were started, ever.
    pub fn starts(&self) -> u64 {
        self.state().ensured
    }

    /// Connects to a pod's listener as its agent would.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn connect_agent(&self, pod: PodId) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket(pod))
    }

    fn socket(&self, pod: PodId) -> PathBuf {
        self.dir.path().join(pod.to_string())
    }

    fn files(&self, workspace: WorkspaceId) -> PathBuf {
        self.dir.path().join(workspace.to_string())
    }

    /// Whether there is nothing to make.
    fn admit(&self, spec: &PodSpec) -> Result<bool, Error> {
        let state = self.state();
        if let Some(seen) = state.generations.get(&spec.workspace_id).copied()
            && spec.generation < seen
        {
            return Err(Error::OldGeneration { asked: spec.generation, seen });
        }
        match state.pods.values().find(|pod| pod.spec.workspace_id == spec.workspace_id) {
            Some(pod) if pod.spec.pod_id == spec.pod_id => Ok(true),
            Some(_) => Err(Error::InUse),
            None => Ok(false),
        }
    }
}

#[async_trait]
impl PodDriver for SimDriver {
    fn report(&self) -> Report {
        let limit = |limit| LimitReport { limit, enforcement: Enforcement::Missing, why: "simulated".into() };
        Report {
            driver: "sim",
            sandbox: "none: pods are simulated".into(),
            interception: "none: pods are simulated".into(),
            limits: ["memory", "processes", "cpu", "disk", "tmp"].map(limit).to_vec(),
        }
    }

    async fn ensure(&self, spec: &PodSpec) -> Result<(), Error> {
        if self.admit(spec)? {
            return Ok(());
        }
        let takes = self.state().start_takes;
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        // Meanwhile another call may have been faster.
        if self.admit(spec)? {
            return Ok(());
        }
        let mut state = self.state();
        state.generations.insert(spec.workspace_id, spec.generation);
        if state.starts_without_room > 0 {
            state.starts_without_room -= 1;
            return Err(step("start a pod")(rustix::io::Errno::AGAIN.into()));
        }
        if state.failing_starts > 0 {
            state.failing_starts -= 1;
            return Err(step("start a pod")(io::Error::other("the script says so")));
        }
        let pod_api = UnixListener::bind(self.socket(spec.pod_id)).map_err(step("listen for the agent"))?;
        std::fs::create_dir_all(self.files(spec.workspace_id))
            .map_err(step("make the workspace's directory"))?;
        state.ensured += 1;
        state.pods.insert(spec.pod_id, Pod { spec: spec.clone(), state: PodState::Running, pod_api });
        drop(state);
        self.changed();
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<PodObservation>, Error> {
        let seen_at = Timestamp::now();
        let observation = |pod: &Pod| PodObservation {
            pod_id: pod.spec.pod_id,
            workspace_id: pod.spec.workspace_id,
            generation: pod.spec.generation,
            state: pod.state.clone(),
            seen_at,
        };
        let (seen, look_takes) = {
            let state = self.state();
            (state.pods.values().map(observation).collect(), state.look_takes)
        };
        tokio::time::sleep(look_takes).await;
        Ok(seen)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    async fn links(&self, pod: PodId) -> Result<PodLinks, Error> {
        let state = self.state();
        let found = state.pods.get(&pod).ok_or(Error::NotFound(pod))?;
        let pod_api = found.pod_api.try_clone().map_err(step("copy the listener"))?;
        Ok(PodLinks { pod_api: Some(pod_api), ..PodLinks::default() })
    }

    async fn exec(&self, pod: PodId, command: ExecSpec) -> Result<Exec, Error> {
        let workspace = match self.state().pods.get(&pod) {
            Some(Pod { state: PodState::Running, spec, .. }) => spec.workspace_id,
            Some(_) => return Err(Error::Exec(io::Error::other("the pod has ended"))),
            None => return Err(Error::NotFound(pod)),
        };
        let (program, arguments) =
            command.argv.split_first().ok_or_else(|| Error::Exec(io::ErrorKind::InvalidInput.into()))?;
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .envs(command.environment)
            .current_dir(command.cwd.map_or_else(|| self.files(workspace), PathBuf::from))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::Exec)?;
        let missing = || Error::Exec(io::ErrorKind::BrokenPipe.into());
        Ok(Exec {
            stdout: Box::new(child.stdout.take().ok_or_else(missing)?),
            stderr: Box::new(child.stderr.take().ok_or_else(missing)?),
            exit: Box::pin(async move { child.wait().await.map_err(Error::Exec) }),
        })
    }

    async fn delete(&self, pod: PodId) -> Result<(), Error> {
        if self.state().pods.remove(&pod).is_some() {
            std::fs::remove_file(self.socket(pod)).map_err(step("remove the listener"))?;
            self.changed();
        }
        Ok(())
    }

    async fn workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let entries = std::fs::read_dir(self.dir.path()).map_err(step("list the workspaces"))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }

    async fn purge(&self, workspace: WorkspaceId) -> Result<(), Error> {
        if self.state().pods.values().any(|pod| pod.spec.workspace_id == workspace) {
            return Err(Error::InUse);
        }
        match std::fs::remove_dir_all(self.files(workspace)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(step("remove the workspace's directory")),
        }
    }
}
