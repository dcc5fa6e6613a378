//! The loop: wakes up, looks, plans, acts.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use freehold_app::{
    fleet::{Fleet, Look, Place},
    ports::PolicyChange,
};
use freehold_driver::{Limits, OriginalDestination, PodDriver, PodObservation, PodSpec};
use freehold_model::{PodId, TaskId, Timestamp, WorkspaceId, workspace::Phase};
use freehold_pod_api::{POD_ID_VARIABLE, ToAgent};
use tokio::sync::{Notify, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Action, Agents, Desired, Seen, agents, orders,
    plan::{Current, Waiting, plan},
    push::Publisher,
};

/// A connection that ends sooner is followed by a pause.
const SHORT_CONNECTION: Duration = Duration::from_secs(1);

/// The first such pause; it doubles up to [`CONNECTION_PAUSE_MAX`], so that an agent that connects for ever costs little.
const CONNECTION_PAUSE_FIRST: Duration = Duration::from_millis(10);

/// The longest pause between two connections of one pod.
const CONNECTION_PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a change of policy is waited for, until it is in force for every running workspace. It goes on after that.
const PUSH_TIME_MAX: Duration = Duration::from_secs(5);

/// The pause after a connection took the place of another one that waited.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);

/// Why the reconciler could not do something now. It tries again by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A use case failed.
    #[error("the rows could not be read or written")]
    App(#[from] freehold_app::Error),
    /// The driver failed.
    #[error("the driver failed")]
    Driver(#[from] freehold_driver::Error),
    /// The machine has no room for a pod.
    #[error("the machine has no room for the pod now; its start waits")]
    NoRoom(#[source] freehold_driver::Error),
    /// The way out could not be opened.
    #[error("the way out could not be opened")]
    Gate(#[source] std::io::Error),
    /// An agent's connection broke.
    #[error("the agent's connection broke")]
    Connection(#[from] freehold_pod_api::Error),
    /// An agent did not introduce itself properly.
    #[error("the agent did not introduce itself properly")]
    BadHandshake,
    /// An agent does not read what it is told.
    #[error("the agent does not read what it is told")]
    NotReading,
    /// An agent appended too much at once.
    #[error("the agent appended too many events, or too long a one")]
    Oversized,
    /// The connection was closed while an answer waited.
    #[error("the agent's connection was closed")]
    Disconnected,
}

/// The way out of pods: egress, as the reconciler needs it.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Serves a pod's connections on its own listeners.
    async fn open(&self, look: &Look, pod: PodId, links: GateLinks) -> std::io::Result<()>;

    /// From now on the pod's connections belong to this task, or to none.
    async fn attribute(&self, look: &Look, pod: PodId, task: Option<TaskId>) -> std::io::Result<()>;

    /// Puts what the rows say of the workspace's policy and credentials in force.
    async fn publish(&self, look: &Look) -> std::io::Result<()>;

    /// Stops serving a pod, and takes back what is in force for its workspace.
    async fn close(&self, workspace: WorkspaceId, pod: PodId);

    /// Removes what is kept of a workspace that is gone.
    fn forget(&self, workspace: WorkspaceId);
}

/// The sockets of a pod that egress serves.
#[derive(Debug, Default)]
pub struct GateLinks {
    /// TCP connections to anywhere.
    pub tcp: Vec<std::net::TcpListener>,
    /// DNS questions to anywhere.
    pub dns: Vec<std::net::UdpSocket>,
    /// How a connection tells where it was going.
    pub original_destination: OriginalDestination,
}

/// How the reconciler works.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often everything is looked at without a signal.
    pub interval: Duration,
    /// How often what is left over is removed; first at the start.
    pub sweep_interval: Duration,
    /// Workspaces worked on at the same time.
    pub concurrency_max: usize,
    /// What every pod may use.
    pub limits: Limits,
    /// Certificates (PEM) that pods trust.
    pub trust_anchors_pem: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            sweep_interval: Duration::from_secs(3600),
            concurrency_max: 32,
            limits: Limits::default(),
            trust_anchors_pem: String::new(),
        }
    }
}

/// The running reconciler.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// Asks the reconciler to look, and reaches the agents.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    options: Options,
    publisher: Arc<Publisher>,
    fleet: Fleet,
    driver: Arc<dyn PodDriver>,
    gate: Arc<dyn Gate>,
    agents: Agents,
    state: Mutex<State>,
    wake: Notify,
    slots: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Workspaces to look at.
    dirty: HashSet<WorkspaceId>,
    /// Workspaces being worked on; true when another look was asked for meanwhile.
    working: HashMap<WorkspaceId, bool>,
    /// What the driver saw last.
    pods: HashMap<WorkspaceId, Vec<PodObservation>>,
    /// Workspaces whose pods this process made or removed since the present scan began, which may have looked before.
    outdated: HashSet<WorkspaceId>,
    /// Pods whose connections this process serves, and what ends that.
    links: HashMap<WorkspaceId, (PodId, CancellationToken)>,
    /// Tasks that were handed over, and when this process first saw that.
    handed_over: HashMap<WorkspaceId, (TaskId, Timestamp)>,
    /// Starts that wait for room on the machine, as far as this process knows.
    waiting: HashMap<WorkspaceId, Waiting>,
}

impl Service {
    /// A reconciler that does nothing until it is [run](Self::run).
    pub fn new(options: Options, fleet: Fleet, driver: Arc<dyn PodDriver>, gate: Arc<dyn Gate>) -> Self {
        let slots = Semaphore::new(options.concurrency_max);
        let publisher = Arc::new(Publisher::new(fleet.clone(), Arc::clone(&gate)));
        Self(Arc::new(Inner {
            publisher,
            options,
            fleet,
            driver,
            gate,
            agents: Agents::default(),
            state: Mutex::default(),
            wake: Notify::new(),
            slots,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        }))
    }

    /// The handle.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.0))
    }

    /// Works until `shutdown`, then finishes what is under way. Pods go on without it.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let inner = self.0;
        let changed_rows = inner.fleet.changes();
        let mut changes = inner.driver.changes();
        let mut timer = tokio::time::interval(inner.options.interval);
        tokio::pin!(shutdown);
        // Nothing is concluded about pods before the first look at them: a living one would be taken for lost.
        while let Err(error) = inner.scan().await {
            scan_failed(&error);
            tokio::select! {
                () = &mut shutdown => return,
                _ = timer.tick() => {}
            }
        }
        timer.reset();
        inner.wake.notify_one();
        inner.tasks.spawn(Arc::clone(&inner).sweep());
        loop {
            // Everything is looked at on a timer and when the driver saw a change; a single workspace when somebody
            // changed its rows, so that the cost of a task does not grow with the number of workspaces.
            let scan = tokio::select! {
                () = &mut shutdown => break,
                _ = timer.tick() => true,
                changed = changes.changed() => changed.is_ok(),
                work = changed_rows.next() => {
                    inner.state().dirty.extend(work.workspaces);
                    work.everything
                }
                () = inner.wake.notified() => false,
            };
            if scan && let Err(error) = inner.scan().await {
                scan_failed(&error);
            }
            let dirty: Vec<_> = inner.state().dirty.drain().collect();
            for workspace in dirty {
                inner.start(workspace);
            }
        }
        inner.shutdown.cancel();
        inner.tasks.close();
        inner.tasks.wait().await;
    }
}

impl Handle {
    /// Looks at a workspace again, soon.
    pub fn poke(&self, workspace: WorkspaceId) {
        self.0.poke(workspace);
    }

    /// Puts a changed policy in force for the workspaces that it concerns, on open connections too; answers when it is.
    pub async fn policy_changed(&self, change: PolicyChange) {
        let inner = Arc::clone(&self.0);
        // It goes on when nobody waits any more.
        let pushing = self.0.tasks.spawn(async move {
            for workspace in inner.publisher.push(change).await {
                inner.poke(workspace);
            }
        });
        if tokio::time::timeout(PUSH_TIME_MAX, pushing).await.is_err() {
            tracing::warn!("a changed policy is not in force yet after {} s", PUSH_TIME_MAX.as_secs());
        }
    }

    /// The connected agents.
    pub fn agents(&self) -> &Agents {
        &self.0.agents
    }
}

impl Inner {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is valid at every point, so that a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poke(&self, workspace: WorkspaceId) {
        self.state().dirty.insert(workspace);
        self.wake.notify_one();
    }

    /// Takes in what the driver sees, and marks every workspace that has a pod or wants one.
    async fn scan(&self) -> Result<(), Error> {
        self.state().outdated.clear();
        let mut pods: HashMap<WorkspaceId, Vec<PodObservation>> = HashMap::new();
        for pod in self.driver.observe().await? {
            pods.entry(pod.workspace_id).or_default().push(pod);
        }
        let wanting = self.fleet.workspaces_needing_work().await?;
        let mut state = self.state();
        let state = &mut *state;
        for workspace in state.outdated.drain() {
            match state.pods.remove(&workspace) {
                Some(known) => pods.insert(workspace, known),
                None => pods.remove(&workspace),
            };
        }
        state.dirty.extend(wanting);
        state.dirty.extend(pods.keys());
        let linked: Vec<_> = state.links.keys().copied().collect();
        state.dirty.extend(linked);
        state.pods = pods;
        Ok(())
    }

    /// Removes what is left over, now and then, until the shutdown.
    async fn sweep(self: Arc<Self>) {
        let mut timer = tokio::time::interval(self.options.sweep_interval);
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                _ = timer.tick() => {}
            }
            // A workspace whose row is gone has its files removed by the next look at it. The files are listed before the
            // rows are read: a workspace made in between has both.
            match self.driver.workspaces().await {
                Ok(workspaces) => workspaces.into_iter().for_each(|workspace| self.poke(workspace)),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "workspaces with files could not be listed"
                ),
            }
            match self.fleet.sweep().await {
                Ok(swept) => tracing::debug!(swept.answers, swept.uploads, "removed what was left over"),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "not everything that is left over could be removed; it will be tried again"
                ),
            }
        }
    }

    /// Works on a workspace unless that is under way, in which case another look follows.
    fn start(self: &Arc<Self>, workspace: WorkspaceId) {
        if let Some(again) = self.state().working.get_mut(&workspace) {
            *again = true;
            return;
        }
        self.state().working.insert(workspace, false);
        let inner = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                let Ok(slot) = inner.slots.acquire().await else { break };
                if let Err(error) = inner.work(workspace).await {
                    tracing::warn!(workspace.id = %workspace, error = &error as &dyn std::error::Error, "work on {workspace} failed; it will be repeated");
                }
                drop(slot);
                let mut state = inner.state();
                match state.working.get_mut(&workspace) {
                    Some(again) if *again && !inner.shutdown.is_cancelled() => *again = false,
                    _ => {
                        state.working.remove(&workspace);
                        break;
                    }
                }
            }
        });
    }

    /// One look at one workspace.
    async fn work(self: &Arc<Self>, workspace: WorkspaceId) -> Result<(), Error> {
        self.publisher.looks(workspace);
        let look = self.fleet.look(workspace).await?;
        let desired = self.desired(workspace, look.as_ref());
        let (pods, linked) = {
            let state = self.state();
            let pods = state.pods.get(&workspace).cloned().unwrap_or_default();
            (pods, state.links.get(&workspace).map(|(pod, _)| *pod))
        };
        let connected = desired.pod.is_some_and(|pod| self.agents.is_connected(workspace, pod));
        let plan = plan(desired, Seen { pods: &pods, linked, connected }, Timestamp::now());
        tracing::debug!(workspace.id = %workspace, plan = %plan, "plan for {workspace}");
        for action in plan.0 {
            self.act(workspace, look.as_ref(), action).await?;
        }
        if look.is_none() {
            self.gate.forget(workspace);
            self.driver.purge(workspace).await?;
        }
        Ok(())
    }

    fn desired(&self, workspace: WorkspaceId, look: Option<&Look>) -> Desired {
        let now = Timestamp::now();
        let current = look.and_then(|look| look.current_task.as_ref());
        let mut state = self.state();
        if look.is_none_or(|look| look.workspace.phase != Phase::Provisioning) {
            state.waiting.remove(&workspace);
        }
        let waiting = state.waiting.get(&workspace).copied();
        let Some((look, task)) = look.zip(current) else {
            state.handed_over.remove(&workspace);
            return desired(look, waiting, None);
        };
        let seen = state.handed_over.entry(workspace).or_insert((task.id, now));
        if seen.0 != task.id {
            *seen = (task.id, now);
        }
        let current = Current {
            id: task.id,
            handed_over: seen.1,
            began: task.started_at,
            timeout_ms: look.task_timeout_ms,
        };
        desired(Some(look), waiting, Some(current))
    }

    async fn act(
        self: &Arc<Self>,
        workspace: WorkspaceId,
        look: Option<&Look>,
        action: Action,
    ) -> Result<(), Error> {
        match (action, look) {
            (Action::Delete(pod), _) => self.delete(workspace, pod).await,
            (Action::Ensure(pod), Some(look)) => self.ensure(look, pod).await,
            (Action::Link(pod), Some(look)) => self.link(look, pod).await,
            (Action::Deliver, Some(look)) => self.deliver(look).await,
            (Action::ReportLost(pod), Some(look)) => {
                self.unlink(workspace, pod).await;
                self.fleet.pod_lost(look.place(), pod).await?;
                self.poke(workspace);
                Ok(())
            }
            (Action::ReportFailedStart(pod, reason), Some(look)) => {
                self.unlink(workspace, pod).await;
                self.failed_start(look, pod, &reason).await
            }
            (Action::EndLate(pod, task, reason), Some(look)) => {
                tracing::warn!(workspace.id = %workspace, task.id = %task, reason, "{task} is ended, and its pod is replaced");
                self.fleet.agent_late(look.place(), pod, task, reason).await?;
                self.poke(workspace);
                Ok(())
            }
            (Action::StopIdle(pod), Some(look)) => Ok(self.fleet.stop_idle(look.place(), pod).await?),
            (Action::ReportGone, Some(look)) => {
                // A pod that was never linked has what was published for it all the same.
                if let Some(pod) = look.workspace.pod_id {
                    self.publisher.close(workspace, pod).await;
                }
                Ok(self.fleet.pod_gone(look.place()).await?)
            }
            (Action::LookAgain(after_ms), _) => {
                let inner = Arc::clone(self);
                let after = Duration::from_millis(after_ms.unsigned_abs());
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = tokio::time::sleep(after) => inner.poke(workspace),
                        () = inner.shutdown.cancelled() => {}
                    }
                });
                Ok(())
            }
            // A workspace that is gone wants nothing but the removal of its pods.
            (_, None) => Ok(()),
        }
    }

    async fn failed_start(&self, look: &Look, pod: PodId, reason: &str) -> Result<(), Error> {
        tracing::warn!(workspace.id = %look.workspace.id, pod.id = %pod, reason, "{pod} failed to start");
        self.publisher.close(look.workspace.id, pod).await;
        self.fleet.start_failed(look.place(), pod, reason).await?;
        self.poke(look.workspace.id);
        Ok(())
    }

    async fn ensure(&self, look: &Look, pod: PodId) -> Result<(), Error> {
        let spec = PodSpec {
            pod_id: pod,
            workspace_id: look.workspace.id,
            generation: look.workspace.generation,
            limits: self.options.limits,
            trust_anchors_pem: self.options.trust_anchors_pem.clone(),
            environment: vec![(POD_ID_VARIABLE.to_owned(), pod.to_string())],
        };
        // Policy is in force before the first process runs.
        self.publisher.publish(look).await?;
        if let Err(error) = self.driver.ensure(&spec).await {
            if error.is_passing() && self.waits(look.workspace.id) {
                self.poke(look.workspace.id);
                return Err(Error::NoRoom(error));
            }
            let reason = chain(&error);
            self.failed_start(look, pod, &reason).await?;
            return Err(error.into());
        }
        let seen = PodObservation {
            pod_id: pod,
            workspace_id: look.workspace.id,
            generation: spec.generation,
            state: freehold_driver::PodState::Running,
            seen_at: Timestamp::now(),
        };
        let mut state = self.state();
        state.waiting.remove(&look.workspace.id);
        state.outdated.insert(look.workspace.id);
        state.pods.entry(look.workspace.id).or_default().push(seen);
        Ok(())
    }

    /// Whether a start without room on the machine may wait, which is noted.
    fn waits(&self, workspace: WorkspaceId) -> bool {
        let mut state = self.state();
        let waiting = Waiting::after_try(state.waiting.get(&workspace).copied(), Timestamp::now());
        waiting.map(|waiting| state.waiting.insert(workspace, waiting)).is_some()
    }

    /// Serves the pod's connections: its way out, and its agent.
    async fn link(self: &Arc<Self>, look: &Look, pod: PodId) -> Result<(), Error> {
        let workspace = look.workspace.id;
        let links = self.driver.links(pod).await?;
        self.publisher.publish(look).await?;
        let gate_links =
            GateLinks { tcp: links.tcp, dns: links.dns, original_destination: links.original_destination };
        self.gate.open(look, pod, gate_links).await.map_err(Error::Gate)?;
        let ended = self.shutdown.child_token();
        if let Some(listener) = links.pod_api {
            listener.set_nonblocking(true).map_err(Error::Gate)?;
            let listener = tokio::net::UnixListener::from_std(listener).map_err(Error::Gate)?;
            let (inner, place, ended) = (Arc::clone(self), look.place(), ended.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = inner.accept_agents(place, pod, listener) => {}
                    () = ended.cancelled() => {}
                }
            });
        }
        self.state().links.insert(workspace, (pod, ended));
        Ok(())
    }

    /// Serves the agent's connections, one at a time: a pod has one agent. Of those that wait, only the newest is kept.
    async fn accept_agents(self: &Arc<Self>, place: Place, pod: PodId, listener: tokio::net::UnixListener) {
        let (waiting, arrived) = (Mutex::new(None), Notify::new());
        let accepting = async {
            loop {
                let replaced = match listener.accept().await {
                    Ok((stream, _)) => {
                        waiting.lock().unwrap_or_else(PoisonError::into_inner).replace(stream).is_some()
                    }
                    Err(_) => true,
                };
                arrived.notify_one();
                if replaced {
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        let serving = async {
            let mut pause = CONNECTION_PAUSE_FIRST;
            loop {
                arrived.notified().await;
                let Some(stream) = waiting.lock().unwrap_or_else(PoisonError::into_inner).take() else {
                    continue;
                };
                let began = Instant::now();
                let look_again = || self.poke(place.workspace_id);
                let served = agents::serve(&self.fleet, &self.agents, place, pod, stream, &look_again).await;
                if let Err(error) = served {
                    tracing::info!(workspace.id = %place.workspace_id, pod.id = %pod, error = &error as &dyn std::error::Error, "the connection of the agent of {pod} ended");
                }
                if began.elapsed() < SHORT_CONNECTION {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(CONNECTION_PAUSE_MAX);
                } else {
                    pause = CONNECTION_PAUSE_FIRST;
                }
            }
        };
        tokio::join!(accepting, serving);
    }

    async fn unlink(&self, workspace: WorkspaceId, pod: PodId) {
        let link = {
            let mut state = self.state();
            match state.links.get(&workspace) {
                Some((linked, _)) if *linked == pod => state.links.remove(&workspace),
                _ => None,
            }
        };
        if let Some((_, ended)) = link {
            ended.cancel();
            self.publisher.close(workspace, pod).await;
        }
    }

    async fn delete(&self, workspace: WorkspaceId, pod: PodId) -> Result<(), Error> {
        self.unlink(workspace, pod).await;
        self.driver.delete(pod).await?;
        let mut state = self.state();
        state.outdated.insert(workspace);
        if let Some(pods) = state.pods.get_mut(&workspace) {
            pods.retain(|seen| seen.pod_id != pod);
        }
        Ok(())
    }

    /// Hands the agent its next task, if it is free and one waits.
    async fn deliver(&self, look: &Look) -> Result<(), Error> {
        let (workspace, place) = (look.workspace.id, look.place());
        self.publisher.publish(look).await?;
        let Some(pod) = look.workspace.pod_id else { return Ok(()) };
        if let Some(task) = &look.current_task {
            if task.cancel_requested {
                // The request may have been made while the agent was away; asking twice is asking once.
                let _reconnects = self.agents.cancel(workspace, task.id).await;
            }
            return self.gate.attribute(look, pod, Some(task.id)).await.map_err(Error::Gate);
        }
        let Some(order) = self.fleet.hand_over(place).await? else {
            return self.gate.attribute(look, pod, None).await.map_err(Error::Gate);
        };
        self.gate.attribute(look, pod, Some(order.task.id)).await.map_err(Error::Gate)?;
        let deliver = ToAgent::Deliver { task: Box::new(orders::order(order)) };
        // An agent that is gone meanwhile learns of the task when it connects again.
        let _reconnects = self.agents.send(workspace, deliver).await;
        Ok(())
    }
}

fn scan_failed(error: &Error) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "the scan of workspaces failed; it will be repeated"
    );
}

/// What the rows want of a pod; of a workspace that is gone, nothing.
fn desired(look: Option<&Look>, waiting: Option<Waiting>, task: Option<Current>) -> Desired {
    let Some(look) = look else {
        return Desired {
            phase: Phase::Stopped,
            pod: None,
            failed_starts: 0,
            since: Timestamp::UNIX_EPOCH,
            waiting: None,
            task: None,
            idle_timeout_ms: None,
        };
    };
    Desired {
        phase: look.workspace.phase,
        pod: look.workspace.pod_id,
        failed_starts: look.workspace.failed_starts,
        since: look.workspace.updated_at,
        waiting,
        task,
        idle_timeout_ms: look.idle_timeout_ms,
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
