//! The driver: decides what a pod is made of, starts holders, finds them again, and takes pods away.

mod again;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use freehold_driver::{
    Error, Exec, ExecSpec, PodDriver, PodLinks, PodObservation, PodSpec, PodState, Report,
};
use freehold_model::{PodId, WorkspaceId};
use rustix::process::Signal;
use tokio::sync::watch;

use crate::{
    client::{Connection, Process},
    groups::{self, Groups},
    launch::{self, Launched},
    launcher::Launcher,
    layers, oci,
    plan::{Event, ExecEvent, Interception, Links, Make, Plan, Request, dir},
    sweep::Left,
    trash,
};

/// How long a holder may take to end its pod before it is killed.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How long a holder may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Where the driver works, and with what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The driver's directory: pods, workspaces and what is shared between them. Made when absent; one driver at a time.
    pub state_dir: PathBuf,
    /// This program. `EXECUTABLE launcher` must lead to [`crate::launcher::main`], and `EXECUTABLE agent` to the agent.
    pub executable: PathBuf,
    /// What pods have as their root.
    pub root: PodRoot,
}

/// What pods have as their root; never written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodRoot {
    /// This machine's `/usr`, and an `/etc` made for the purpose.
    HostUsr,
    /// A directory.
    Directory(PathBuf),
    /// An OCI image layout with one image for this machine; unpacked once for each image.
    OciLayout(PathBuf),
}

impl PodRoot {
    /// What lies at `path`: an image layout, known by its file `oci-layout`, or else a directory.
    pub fn detect(path: PathBuf) -> Self {
        if oci::is_layout(&path) { Self::OciLayout(path) } else { Self::Directory(path) }
    }
}

/// Makes pods on this machine.
#[derive(Clone)]
pub struct LocalDriver {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) groups: Groups,
    launcher: Launcher,
    pub(crate) make: Make,
    report: Report,
    pods: Mutex<HashMap<PodId, Arc<Pod>>>,
    /// Pods of an earlier driver whose holders have not answered yet.
    silent: Mutex<HashMap<PodId, Plan>>,
    workspaces: Mutex<HashMap<WorkspaceId, Arc<tokio::sync::Mutex<()>>>>,
    changes: watch::Sender<u64>,
    /// What the sweep could not remove.
    left: Mutex<Vec<Left>>,
    /// Held while lower layers are made, so that pods that start together make them once.
    layers: Mutex<()>,
}

/// A pod that is there, running or ended.
struct Pod {
    plan: Plan,
    dir: PathBuf,
    /// On which the holder tells of events and is asked for commands, which answer elsewhere.
    connection: Connection,
    holder: Process,
    seen: Mutex<Seen>,
}

struct Seen {
    state: PodState,
    init: Option<Arc<Process>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // No code panics while it holds one of these locks for more than a map's operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names a failed step.
pub(crate) fn step(name: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let step = name.into();
    move |source| Error::Step { step, source }
}

impl LocalDriver {
    /// Tries out what this machine allows, finds the pods of an earlier driver again, and removes what crashed ones left.
    /// Must be called in a runtime.
    ///
    /// # Errors
    /// [`Error::Step`] when no kind of pod can be made here, or the root is not what it should be: nothing weaker is used
    /// in its place.
    pub async fn open(options: Options) -> Result<Self, Error> {
        Self::open_with(options, &[Interception::Tproxy, Interception::Redirect, Interception::Ports]).await
    }

    /// The same, as on a machine that knows these ways to intercept connections only. For tests of the weaker ones.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[doc(hidden)]
    pub async fn open_with(mut options: Options, interceptions: &[Interception]) -> Result<Self, Error> {
        launch::prepare(&options).map_err(step("prepare the driver's directory"))?;
        let root = options.root.clone();
        options.root = unpacked(&options).await?;
        let groups = Groups::probe(&launch::groups_name(&options.state_dir));
        let launcher = Launcher::new(&options.executable, &options.state_dir);
        let make = launch::try_out(&launcher, &options, &groups, interceptions).await?;
        let report = crate::report::report(&root, &groups, make);
        let inner = Inner {
            options,
            groups,
            launcher,
            make,
            report,
            pods: Mutex::default(),
            silent: Mutex::default(),
            workspaces: Mutex::default(),
            changes: watch::Sender::new(0),
            left: Mutex::default(),
            layers: Mutex::default(),
        };
        let driver = Self { inner: Arc::new(inner) };
        driver.sweep().await?;
        Ok(driver)
    }

    fn empty_trash(&self) {
        let state_dir = self.inner.options.state_dir.clone();
        tokio::task::spawn_blocking(move || trash::empty(&state_dir));
    }

    /// Takes a pod into the books and follows what its holder says.
    fn adopt(&self, launched: Launched) -> io::Result<()> {
        let Launched { plan, dir, connection, holder, event, init } = launched;
        let init = init.map(Process::new).transpose()?.map(Arc::new);
        let seen = Mutex::new(Seen { state: state(&event), init });
        let pod = Arc::new(Pod { plan, dir, connection, holder: Process::new(holder)?, seen });
        let pod_id = pod.plan.pod_id;
        lock(&self.inner.pods).insert(pod_id, Arc::clone(&pod));
        self.inner.changed();
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            loop {
                let heard = pod.connection.hear::<Event>().await;
                let ended = !matches!(heard, Ok(Some(_)));
                {
                    let mut seen = lock(&pod.seen);
                    match heard {
                        Ok(Some((event, mut fds))) => {
                            seen.state = state(&event);
                            seen.init = fds
                                .pop()
                                .and_then(|fd| Process::new(fd).ok())
                                .map(Arc::new)
                                .or(seen.init.take());
                        }
                        Ok(None) | Err(_) => {
                            seen.state = PodState::Ended { reason: "its holder ended".into() }
                        }
                    }
                }
                if let Some(inner) = inner.upgrade() {
                    inner.changed();
                }
                if ended {
                    break;
                }
            }
            pod.holder.gone().await;
            pod.holder.reap();
        });
        Ok(())
    }

    fn pod(&self, pod: PodId) -> Result<Arc<Pod>, Error> {
        if let Some(pod) = lock(&self.inner.pods).get(&pod) {
            return Ok(Arc::clone(pod));
        }
        if lock(&self.inner.silent).contains_key(&pod) {
            return Err(step("reach the pod's holder")(io::ErrorKind::TimedOut.into()));
        }
        Err(Error::NotFound(pod))
    }

    /// One change of a workspace at a time.
    async fn exclusive(&self, workspace: WorkspaceId) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut workspaces = lock(&self.inner.workspaces);
            // Those that nobody waits for are forgotten.
            workspaces.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            Arc::clone(workspaces.entry(workspace).or_default())
        };
        mutex.lock_owned().await
    }

    async fn make(&self, spec: PodSpec) -> Result<(), Error> {
        let _one = self.exclusive(spec.workspace_id).await;
        let inner = &self.inner;
        let workspace_dir = inner.options.state_dir.join(dir::WORKSPACES).join(spec.workspace_id.to_string());
        self.clear(spec.workspace_id).await?;
        launch::check_generation(&workspace_dir, spec.generation)?;
        let others = || {
            let pods = lock(&inner.pods);
            let of_workspace = pods.values().filter(|pod| pod.plan.workspace_id == spec.workspace_id);
            of_workspace.map(|pod| pod.plan.pod_id).collect::<Vec<_>>()
        };
        match others().as_slice() {
            [] => {}
            [one] if *one == spec.pod_id => return Ok(()),
            _ => return Err(Error::InUse),
        }
        let (pod, workspace) = (spec.pod_id.to_string(), spec.workspace_id);
        // It takes its time to be there, so it is called first.
        let holder = launch::call(&inner.launcher)?;
        let starting = {
            let inner = Arc::clone(inner);
            tokio::task::spawn_blocking(move || {
                let options = &inner.options;
                let layers_dir = options.state_dir.join(dir::LAYERS);
                let making = lock(&inner.layers);
                let layers = layers::of(options, &layers_dir, inner.make.users, &spec.trust_anchors_pem)
                    .map_err(step("make the lower layers"))?;
                drop(making);
                let plan = launch::plan(&inner, &spec, layers);
                let pod = spec.pod_id.to_string();
                let make_groups = || inner.groups.create(&pod, &spec.limits);
                let started = launch::start(holder, options, plan, make_groups);
                if started.is_err() {
                    launch::undo(&inner.options.state_dir, &inner.groups, &pod, workspace);
                }
                started
            })
            .await
            .map_err(|error| step("start a holder")(io::Error::other(error)))??
        };
        match starting.ready(&inner.launcher).await {
            Ok(launched) => self.adopt(launched).map_err(step("follow the holder")),
            Err(error) => {
                launch::undo(&inner.options.state_dir, &inner.groups, &pod, workspace);
                Err(error)
            }
        }
    }

    async fn remove(&self, pod_id: PodId) -> Result<(), Error> {
        let silent = lock(&self.inner.silent).get(&pod_id).map(|plan| plan.workspace_id);
        if let Some(workspace) = silent {
            // Until it answered or was killed.
            drop(self.exclusive(workspace).await);
        }
        let Ok(pod) = self.pod(pod_id) else { return Ok(()) };
        let _one = self.exclusive(pod.plan.workspace_id).await;
        pod.holder.signal(Signal::TERM);
        if tokio::time::timeout(END_WITHIN, pod.holder.gone()).await.is_err() {
            pod.holder.signal(Signal::KILL);
            pod.holder.gone().await;
        } // The holder reaped it, unless it was killed itself.
        let init = lock(&pod.seen).init.clone();
        if let Some(init) = init {
            init.signal(Signal::KILL);
            if tokio::time::timeout(END_WITHIN, init.gone()).await.is_err() {
                return Err(step("end the pod's processes")(io::ErrorKind::TimedOut.into()));
            }
        }
        let (state_dir, pod_dir, plan) =
            (self.inner.options.state_dir.clone(), pod.dir.clone(), pod.plan.clone());
        tokio::task::spawn_blocking(move || -> io::Result<()> {
            for group in &plan.groups {
                groups::remove(&group.dir)?;
            }
            trash::discard(&state_dir, &pod_dir)?;
            let workspace = state_dir.join(dir::WORKSPACES).join(plan.workspace_id.to_string());
            trash::discard(&state_dir, &workspace.join(dir::FILES).join("work"))
        })
        .await
        .map_err(|error| step("remove the pod")(io::Error::other(error)))?
        .map_err(step("remove the pod"))?;
        lock(&self.inner.pods).remove(&pod_id);
        self.inner.changed();
        self.empty_trash();
        Ok(())
    }
}

impl Inner {
    fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// The root as a directory, where it is an image.
async fn unpacked(options: &Options) -> Result<PodRoot, Error> {
    let PodRoot::OciLayout(layout) = options.root.clone() else { return Ok(options.root.clone()) };
    let state_dir = options.state_dir.clone();
    let name = format!("use {} as the root of pods", layout.display());
    let work = move || oci::root(&layout, &state_dir, &state_dir.join(dir::ROOTS));
    let unpacked = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    let directory = unpacked.and_then(|unpacked| unpacked.map_err(io::Error::other)).map_err(step(name))?;
    Ok(PodRoot::Directory(directory))
}

fn state(event: &Event) -> PodState {
    match event {
        Event::Running { .. } => PodState::Running,
        Event::Ended { reason } => PodState::Ended { reason: reason.clone() },
        Event::Failed(failure) => PodState::Ended { reason: format!("failed to {}", failure.step) },
    }
}

/// Goes on although the caller may go away: half a change is worse than one too many.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work).await.unwrap_or_else(|error| Err(step("finish")(io::Error::other(error))))
}

#[async_trait]
impl PodDriver for LocalDriver {
    fn report(&self) -> Report {
        self.inner.report.clone()
    }

    async fn ensure(&self, spec: &PodSpec) -> Result<(), Error> {
        let (driver, spec) = (self.clone(), spec.clone());
        to_the_end(async move { driver.make(spec).await }).await
    }

    async fn observe(&self) -> Result<Vec<PodObservation>, Error> {
        let seen_at = freehold_model::Timestamp::now();
        let observation = |plan: &Plan, state| PodObservation {
            pod_id: plan.pod_id,
            workspace_id: plan.workspace_id,
            generation: plan.generation,
            state,
            seen_at,
        };
        // Both at once: who is no longer among these is already among those.
        let (silent, pods) = (lock(&self.inner.silent), lock(&self.inner.pods));
        let silent = silent.values().map(|plan| observation(plan, PodState::Silent));
        let known = pods.values().map(|pod| observation(&pod.plan, lock(&pod.seen).state.clone()));
        Ok(silent.chain(known).collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    async fn links(&self, pod_id: PodId) -> Result<PodLinks, Error> {
        let pod = self.pod(pod_id)?;
        let ask = async {
            let connection = Connection::to_holder(&pod.dir)?;
            connection.ask(&Request::Links, &[]).await?;
            let (links, mut fds) = connection.hear::<Links>().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if fds.len() != links.tcp + links.dns + links.pod_api {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let pod_api = fds.split_off(links.tcp + links.dns).pop().map(Into::into);
            let dns = fds.split_off(links.tcp).into_iter().map(Into::into).collect();
            let tcp = fds.into_iter().map(Into::into).collect();
            let original = crate::report::original_destination(self.inner.make.interception);
            Ok(PodLinks { tcp, dns, pod_api, original_destination: original })
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, ask).await;
        answer
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(step("take over the pod's links"))
    }

    async fn exec(&self, pod_id: PodId, command: ExecSpec) -> Result<Exec, Error> {
        use std::os::fd::AsFd;
        let pod = self.pod(pod_id)?;
        let ask = async {
            let (stdout, stdout_inside) = tokio::net::unix::pipe::pipe().and_then(reader)?;
            let (stderr, stderr_inside) = tokio::net::unix::pipe::pipe().and_then(reader)?;
            let (control, control_inside) = launch::socket_pair()?;
            let control = Connection::new(control)?;
            let request = Request::Exec {
                argv: command.argv,
                cwd: command.cwd.unwrap_or_else(|| "/workspace".into()),
                environment: command.environment,
            };
            pod.connection
                .ask(&request, &[stdout_inside.as_fd(), stderr_inside.as_fd(), control_inside.as_fd()])
                .await
                .map_err(|error| match rustix::io::Errno::from_io_error(&error) {
                    // More than a message holds, and more than a program takes.
                    Some(rustix::io::Errno::TOOBIG) => Asked::Command(error),
                    _ => Asked::Pod(error),
                })?;
            drop((stdout_inside, stderr_inside, control_inside));
            match exec_event(&control).await? {
                ExecEvent::Started => Ok((stdout, stderr, control)),
                ExecEvent::Failed(errno) => Err(Asked::Command(io::Error::from_raw_os_error(errno))),
                ExecEvent::Broken(errno) => Err(Asked::Pod(io::Error::from_raw_os_error(errno))),
                ExecEvent::Exited(_) => Err(Asked::Pod(io::ErrorKind::InvalidData.into())),
            }
        };
        let answer = tokio::time::timeout(ANSWER_WITHIN, ask).await;
        let (stdout, stderr, control) = answer
            .unwrap_or_else(|_| Err(Asked::Pod(io::ErrorKind::TimedOut.into())))
            .map_err(|error| match error {
                Asked::Command(error) => Error::Exec(error),
                Asked::Pod(error) => step("run a command in the pod")(error),
            })?;
        let exit = async move {
            let lost = step("hear of a command in the pod");
            match exec_event(&control).await {
                Ok(ExecEvent::Exited(status)) => Ok(std::os::unix::process::ExitStatusExt::from_raw(status)),
                Ok(ExecEvent::Started | ExecEvent::Failed(_) | ExecEvent::Broken(_)) => {
                    Err(lost(io::ErrorKind::InvalidData.into()))
                }
                // Its supervisor ended without a word: killed by the kernel when memory ran out, or with its pod. So was it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Ok(std::os::unix::process::ExitStatusExt::from_raw(libc::SIGKILL))
                }
                Err(error) => Err(lost(error)),
            }
        };
        let exit: futures_core::future::BoxFuture<'static, Result<ExitStatus, Error>> = Box::pin(exit);
        Ok(Exec { stdout: Box::new(stdout), stderr: Box::new(stderr), exit })
    }

    async fn delete(&self, pod_id: PodId) -> Result<(), Error> {
        let driver = self.clone();
        to_the_end(async move { driver.remove(pod_id).await }).await
    }

    async fn workspaces(&self) -> Result<Vec<WorkspaceId>, Error> {
        let list = || -> io::Result<Vec<WorkspaceId>> {
            let entries = std::fs::read_dir(self.inner.options.state_dir.join(dir::WORKSPACES))?;
            let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
            // Nothing else belongs there; what does is named by the driver itself.
            Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
        };
        list().map_err(step("list the workspaces"))
    }

    async fn purge(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let _one = self.exclusive(workspace).await;
        if lock(&self.inner.pods).values().any(|pod| pod.plan.workspace_id == workspace) {
            return Err(Error::InUse);
        }
        self.clear(workspace).await?;
        let state_dir: &Path = &self.inner.options.state_dir;
        trash::discard(state_dir, &state_dir.join(dir::WORKSPACES).join(workspace.to_string()))
            .map_err(step("remove the workspace's files"))?;
        self.empty_trash();
        Ok(())
    }
}

type Pipe = (tokio::net::unix::pipe::Receiver, std::os::fd::OwnedFd);

/// The inner end is an ordinary blocking one, as programs expect it.
fn reader(
    (sender, receiver): (tokio::net::unix::pipe::Sender, tokio::net::unix::pipe::Receiver),
) -> io::Result<Pipe> {
    Ok((receiver, sender.into_blocking_fd()?))
}

/// What a command that did not start failed for.
enum Asked {
    /// Its program, arguments or directory.
    Command(io::Error),
    /// The pod, or the way there.
    Pod(io::Error),
}

impl From<io::Error> for Asked {
    fn from(error: io::Error) -> Self {
        Self::Pod(error)
    }
}

async fn exec_event(control: &Connection) -> io::Result<ExecEvent> {
    // A supervisor that is gone without a word was killed, with the pod or by it.
    let (bytes, _) = control.hear_bytes().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    ExecEvent::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
