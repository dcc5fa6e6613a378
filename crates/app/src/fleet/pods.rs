//! What becomes of pods: ready, lost, gone, failed to start.

use freehold_model::{
    PodId, TaskId,
    audit::Actor,
    task,
    workspace::{self, Backend, Event, Workspace},
};
use freehold_store::{Error as StoreError, OrgTx};

use super::{FAILED_STARTS_MAX, Fleet, Look, Place, Ready, credentials::serving};
use crate::{
    Error,
    audit::Cause,
    now,
    task::{end, end_all},
    workspace::{renew_pod, stop, transition},
};

/// The workspace, if this is the pod it wants or takes down.
fn of_pod(rows: &mut OrgTx<'_>, place: Place, pod: PodId) -> Result<Option<Workspace>, StoreError> {
    Ok(rows.workspace_view(place.workspace_id)?.filter(|workspace| workspace.pod_id == Some(pod)))
}

/// What the server does for the workspace by itself.
fn cause(workspace: &Workspace) -> Cause {
    Cause::workspace(workspace, Actor::ControlPlane)
}

impl Fleet {
    /// The agent of a pod introduced itself. `None` when the pod is not the one that is wanted.
    pub async fn agent_ready(&self, place: Place, pod: PodId) -> Result<Option<Ready>, Error> {
        let settings = self.settings;
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(None) };
                if !workspace::pod_wanted(workspace.phase) {
                    return Ok(None);
                }
                workspace.failed_starts = 0;
                let cause = cause(&workspace);
                transition(rows, &mut workspace, Event::AgentReady, &cause, now())?;
                let current = rows.task_current(workspace.id)?;
                if current.is_some_and(|task| task.started_at.is_some()) {
                    // Its turn goes on in this pod.
                    transition(rows, &mut workspace, Event::TaskStarted, &cause, now())?;
                }
                let Look { mut workspace, role, provider, current_task, .. } =
                    super::look(rows, workspace, settings)?;
                if workspace.backend.is_none() {
                    // An agent that is started again, in this pod or another, goes on with the same.
                    let name = provider.credential_name.as_deref();
                    let serving = |name| serving(rows, workspace.created_by, name, None);
                    let credential = name.map(serving).transpose()?.flatten();
                    let credential = credential.map(|credential| credential.id);
                    workspace.backend = Some(Backend::of(&role, &provider, credential));
                    rows.workspace_update(&workspace)?;
                }
                let last_sequence = rows.session_last_sequence(workspace.session_id)?;
                let journal_after = super::journal::journal_after(rows, workspace.session_id)?;
                let task = match current_task {
                    None => None,
                    Some(task) => Some(super::tasks::order(rows, task, &role, settings)?),
                };
                let environment = workspace.environment.unwrap_or_else(|| role.environment.to_string());
                let settings = super::Settings {
                    max_continuations: role.max_continuations.unwrap_or(settings.max_continuations),
                    max_context_tokens: role.max_context_tokens.unwrap_or(settings.max_context_tokens),
                    ..settings
                };
                let session_id = workspace.session_id;
                Ok(Some(Ready {
                    role,
                    provider,
                    environment,
                    settings,
                    session_id,
                    last_sequence,
                    journal_after,
                    task,
                }))
            })
            .await
    }

    /// A wanted pod is gone: another one is wanted, on the same files.
    pub async fn pod_lost(&self, place: Place, pod: PodId) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                let cause = cause(&workspace);
                transition(rows, &mut workspace, Event::PodLost, &cause, now())?;
                Ok(())
            })
            .await
    }

    /// A pod did not start, or its agent never came. After [`FAILED_STARTS_MAX`] in a row the workspace fails, and
    /// with it whatever waits for its agent.
    pub async fn start_failed(&self, place: Place, pod: PodId, reason: &str) -> Result<(), Error> {
        let reason = reason.to_owned();
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                if workspace.phase != workspace::Phase::Provisioning {
                    return Ok(());
                }
                workspace.failed_starts += 1;
                let now = now();
                if workspace.failed_starts < FAILED_STARTS_MAX {
                    renew_pod(&mut workspace);
                    workspace.updated_at = now;
                    return Ok(rows.workspace_update(&workspace)?);
                }
                let cause = cause(&workspace);
                transition(rows, &mut workspace, Event::GaveUp, &cause, now)?;
                let reason = format!("the workspace could not be started: {reason}");
                end_all(rows, &mut workspace, task::Event::Undeliverable, &reason, &cause, now)
            })
            .await
    }

    /// The pod of a stopping workspace is gone. Its tasks ended when it began to stop.
    pub async fn pod_gone(&self, place: Place) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = rows.workspace_view(place.workspace_id)? else { return Ok(()) };
                let cause = cause(&workspace);
                transition(rows, &mut workspace, Event::PodGone, &cause, now()).map(drop)
            })
            .await
    }

    /// The agent of this pod neither began nor ended a task in time: the task ends, and another pod is wanted, since
    /// this one's agent cannot be relied on.
    pub async fn agent_late(
        &self,
        place: Place,
        pod: PodId,
        task: TaskId,
        reason: String,
    ) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                let current = rows.task_current(workspace.id)?.filter(|current| current.id == task);
                let Some(current) = current else { return Ok(()) };
                let (cause, now) = (cause(&workspace), now());
                end(rows, &workspace, current, task::Event::Undeliverable, &reason, &cause, now)?;
                transition(rows, &mut workspace, Event::PodLost, &cause, now).map(drop)
            })
            .await
    }

    /// Stops a workspace that has been idle for as long as its role allows, unless it has work by now.
    pub async fn stop_idle(&self, place: Place, pod: PodId) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(mut workspace) = of_pod(rows, place, pod)? else { return Ok(()) };
                let works = workspace.phase != workspace::Phase::Idle
                    || rows.task_current(workspace.id)?.is_some()
                    || rows.task_next_submitted(workspace.id)?.is_some();
                if works {
                    return Ok(());
                }
                let cause = cause(&workspace);
                stop(rows, &mut workspace, &cause, now()).map(drop)
            })
            .await
    }
}
