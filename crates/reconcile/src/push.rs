//! Puts policy in force: before a pod runs, at each look, and at once when a role or a provider was changed.
//!
//! Invariant: what is in force never goes back to older rows. One workspace is published by one caller at a time, and a look
//! from before a push is not used after it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_app::{
    fleet::{Fleet, Look},
    ports::PolicyChange,
};
use freehold_model::{PodId, ProviderId, RoleId, WorkspaceId};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{Error, Gate};

/// Workspaces of one change that are published at the same time.
const AT_ONCE_MAX: usize = 8;
/// Workspaces that have one lock between them: every so many.
const LOCKS: usize = 64;

/// The only way to [`Gate::publish`].
pub(crate) struct Publisher {
    fleet: Fleet,
    gate: Arc<dyn Gate>,
    locks: [tokio::sync::Mutex<()>; LOCKS],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each workspace was last published by.
    published: HashMap<WorkspaceId, (RoleId, ProviderId)>,
    /// Workspaces that were pushed to since their present look began.
    pushed: HashSet<WorkspaceId>,
}

impl Publisher {
    pub(crate) fn new(fleet: Fleet, gate: Arc<dyn Gate>) -> Self {
        let locks = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Self { fleet, gate, locks, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is valid at every point, so that a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self, workspace: WorkspaceId) -> &tokio::sync::Mutex<()> {
        let place = workspace.uuid().as_u128() % LOCKS as u128;
        // What is left of a division fits.
        &self.locks[usize::try_from(place).unwrap_or_default()]
    }

    /// A look at the workspace begins.
    pub(crate) fn looks(&self, workspace: WorkspaceId) {
        self.state().pushed.remove(&workspace);
    }

    /// Puts what a look saw in force, or what the rows say by now.
    pub(crate) async fn publish(&self, look: &Look) -> Result<(), Error> {
        let workspace = look.workspace.id;
        let _one = self.lock(workspace).lock().await;
        let is_old = self.state().pushed.contains(&workspace);
        let newer = if is_old { self.fleet.look(workspace).await? } else { None };
        self.put(newer.as_ref().unwrap_or(look)).await
    }

    async fn put(&self, look: &Look) -> Result<(), Error> {
        self.state().published.insert(look.workspace.id, (look.role.id, look.provider.id));
        self.gate.publish(look).await.map_err(Error::Gate)
    }

    /// Serves the workspace's pod no more. Nothing that is being pushed comes into force after this.
    pub(crate) async fn close(&self, workspace: WorkspaceId, pod: PodId) {
        let _one = self.lock(workspace).lock().await;
        self.state().published.remove(&workspace);
        self.gate.close(workspace, pod).await;
    }

    /// Puts in force what the rows say now for every workspace that a change is about. Answers those where that failed.
    pub(crate) async fn push(self: &Arc<Self>, change: PolicyChange) -> Vec<WorkspaceId> {
        let concerned: Vec<_> = {
            let mut state = self.state();
            let state = &mut *state;
            let is_concerned = |(role, provider): &(RoleId, ProviderId)| match change {
                PolicyChange::Role(id) => *role == id,
                PolicyChange::Provider(id) => *provider == id,
            };
            let found = state.published.iter().filter(|(_, by)| is_concerned(by));
            let found: Vec<_> = found.map(|(workspace, _)| *workspace).collect();
            state.pushed.extend(&found);
            found
        };
        let room = Arc::new(Semaphore::new(AT_ONCE_MAX));
        let mut pushes = JoinSet::new();
        for workspace in concerned {
            let (publisher, room) = (Arc::clone(self), Arc::clone(&room));
            pushes.spawn(async move {
                let _place = room.acquire_owned().await;
                publisher.push_one(workspace).await.err().map(|error| {
                    tracing::warn!(workspace.id = %workspace, error = &error as &dyn std::error::Error, "a changed policy is not in force yet; it will be tried again");
                    workspace
                })
            });
        }
        pushes.join_all().await.into_iter().flatten().collect()
    }

    async fn push_one(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let _one = self.lock(workspace).lock().await;
        let Some(look) = self.fleet.look(workspace).await? else { return Ok(()) };
        // Its pod may have gone meanwhile, and with it what was in force.
        if !self.state().published.contains_key(&workspace) {
            return Ok(());
        }
        self.put(&look).await
    }
}
