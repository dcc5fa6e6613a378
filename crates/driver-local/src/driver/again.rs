//! Finds the pods of an earlier driver again. One that does not answer keeps its own workspace as it is, and nothing else.

use std::{collections::HashMap, io, time::Duration};

use freehold_driver::Error;
use freehold_model::WorkspaceId;
use tokio::{sync::OwnedMutexGuard, task::JoinSet, time::timeout_at};

use super::{LocalDriver, lock, step};
use crate::{
    groups,
    sweep::{self, Found, Left},
};

/// How long a start waits for the pods of an earlier driver. Those that have not answered then are waited for meanwhile.
const PROMPT_WITHIN: Duration = Duration::from_secs(1);

/// What was found in a workspace; what keeps others from it goes when that was taken in.
type Looked = (Vec<(Left, Found)>, Option<OwnedMutexGuard<()>>);

impl LocalDriver {
    /// Finds living pods and removes dead ones.
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        let mut looks = self.look().await.map_err(step("look for pods"))?;
        let soon = tokio::time::Instant::now() + PROMPT_WITHIN;
        while let Ok(Some(looked)) = timeout_at(soon, looks.join_next()).await {
            let (found, _kept) = looked.map_err(io::Error::other).map_err(step("look for pods"))?;
            for (_, found) in found {
                self.take_in(found).map_err(step("find a pod again"))?;
            }
        }
        self.remove_groups();
        self.empty_trash();
        let driver = self.clone();
        tokio::spawn(async move { driver.take_in_late(looks).await });
        Ok(())
    }

    /// Begins to look at all pods at once, while nobody touches their workspaces.
    async fn look(&self) -> io::Result<JoinSet<Looked>> {
        let mut workspaces: HashMap<Option<WorkspaceId>, Vec<Left>> = HashMap::new();
        for look in sweep::pods(&self.inner.options.state_dir)? {
            if let Some(plan) = &look.plan {
                lock(&self.inner.silent).insert(plan.pod_id, plan.clone());
            }
            workspaces.entry(look.plan.as_ref().map(|plan| plan.workspace_id)).or_default().push(look);
        }
        let mut looks = JoinSet::new();
        for (workspace, of_it) in workspaces {
            let kept = match workspace {
                Some(workspace) => Some(self.exclusive(workspace).await),
                None => None,
            };
            let state_dir = self.inner.options.state_dir.clone();
            looks.spawn(async move {
                let mut found = Vec::new();
                for left in of_it {
                    found.push((left.clone(), sweep::look(state_dir.clone(), left).await));
                }
                (found, kept)
            });
        }
        Ok(looks)
    }

    async fn take_in_late(self, mut looks: JoinSet<Looked>) {
        while let Some(looked) = looks.join_next().await {
            let Ok((found, _kept)) = looked else { continue };
            for (left, found) in found {
                if let Err(error) = self.take_in(found) {
                    tracing::error!(pod.dir = %left.dir.display(), error = %error, "failed to find a pod again; its workspace waits for its end");
                    self.leave(left);
                }
            }
            self.empty_trash();
        }
    }

    fn take_in(&self, found: Found) -> io::Result<()> {
        match found {
            Found::Living(launched) => {
                // A pod is always among the ones or among the others.
                let mut silent = lock(&self.inner.silent);
                let pod = launched.plan.pod_id;
                self.adopt(*launched)?;
                silent.remove(&pod);
            }
            Found::Dead(plan) => {
                plan.map(|plan| lock(&self.inner.silent).remove(&plan.pod_id));
            }
            Found::Left(left) => self.leave(left),
        }
        self.inner.changed();
        Ok(())
    }

    fn leave(&self, left: Left) {
        let pod = left.plan.as_ref().map(|plan| plan.pod_id);
        lock(&self.inner.left).push(left);
        pod.map(|pod| lock(&self.inner.silent).remove(&pod));
        self.inner.changed();
    }

    /// Removes control groups whose pods are gone.
    fn remove_groups(&self) {
        let inner = &self.inner;
        let mut living: Vec<String> = lock(&inner.silent).keys().map(ToString::to_string).collect();
        living.extend(lock(&inner.pods).keys().map(ToString::to_string));
        for group in inner.groups.pods() {
            if !group.file_name().is_some_and(|name| living.iter().any(|pod| name == pod.as_str())) {
                // It must not keep the others. The next sweep comes across it again.
                if let Err(error) = groups::remove(&group) {
                    tracing::error!(group = %group.display(), error = %error, "failed to remove a control group");
                }
            }
        }
    }

    /// Removes what an earlier sweep could not. Nothing else may happen to a workspace that a pod may still write to.
    pub(super) async fn clear(&self, workspace: WorkspaceId) -> Result<(), Error> {
        let of_it = |left: &&Left| left.plan.as_ref().is_some_and(|plan| plan.workspace_id == workspace);
        let all: Vec<Left> = lock(&self.inner.left).iter().filter(of_it).cloned().collect();
        for one in all {
            let (state_dir, dir) = (self.inner.options.state_dir.clone(), one.dir.clone());
            let ended = tokio::task::spawn_blocking(move || sweep::end(&state_dir, &dir)).await;
            let ended = ended.map_err(io::Error::other).flatten();
            ended.map_err(step("remove what is left of an earlier pod"))?;
            lock(&self.inner.left).retain(|left| left.dir != one.dir);
        }
        Ok(())
    }
}
