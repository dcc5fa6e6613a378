//! Workspaces: the unit of continuity.

use freehold_access::{Actor, Authorized, Right};
use freehold_model::{
    Next, PodId, RoleId, SessionId, Timestamp, WorkspaceId,
    audit::EventType,
    provider::Provider,
    role::Role,
    session::{Session, Summary},
    workspace::{Event, Phase, Workspace, agent_expected, is_archivable, next, pod_wanted},
};
use freehold_store::{Error as StoreError, OrgRead, OrgTx, Page, WorkspaceFilter};
use serde_json::{Value, json};

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{Cause, workspace_row},
    new_uuid, now,
    once::once,
    role, task,
};

/// Workspaces stopped in one transaction.
const STOP_STEP_ROWS: u32 = 50;
/// Tasks looked at in one step when a workspace is deleted.
const DELETE_STEP_ROWS: u32 = 500;

/// A workspace to create.
#[derive(Debug, Clone, Default)]
pub struct WorkspaceNew {
    /// The role, by id.
    pub role_id: Option<RoleId>,
    /// The role, by name.
    pub role_name: Option<String>,
    /// A label of where it works; the role's environment when absent.
    pub environment: Option<String>,
}

impl App {
    /// Workspaces that the caller may see, newest first.
    ///
    /// # Errors
    /// When the caller may not, or there is no role of that name.
    pub async fn workspace_list(
        &self,
        actor: &Actor,
        include_archived: bool,
        role_name: Option<String>,
        page: Page<WorkspaceId>,
    ) -> Result<Vec<Workspace>, Error> {
        let reach = actor.reach(Right::WorkspaceRead)?;
        self.store()
            .read(reach.organization(), move |tx| {
                let role = role_name.map(|name| role::by_name(tx, &name)).transpose()?;
                let filter = WorkspaceFilter {
                    include_archived,
                    role: role.map(|role| role.id),
                    created_by: reach.owner(),
                    phases: Vec::new(),
                };
                Ok(tx.workspace_list(&filter, &page)?)
            })
            .await
    }

    /// One workspace.
    ///
    /// # Errors
    /// When there is none, or the caller may not see it.
    pub async fn workspace_view(&self, actor: &Actor, id: WorkspaceId) -> Result<Workspace, Error> {
        let workspace = self.store().read(actor.organization(), move |tx| find(tx, id)).await?;
        Ok(actor.authorize(&[Right::WorkspaceRead], workspace)?.into_inner())
    }

    /// Creates a workspace, wanted to run.
    ///
    /// # Errors
    /// When the caller may not, or the role is missing, archived or of an archived provider.
    pub async fn workspace_create(
        &self,
        actor: &Actor,
        new: WorkspaceNew,
        request: Option<Once<Workspace>>,
    ) -> Result<Outcome<Workspace>, Error> {
        actor.reach(Right::WorkspaceWrite)?;
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let now = now();
                once(tx, &actor, now, request, |tx| create(tx, &actor, new, now))
            })
            .await
    }

    /// Wants a workspace stopped, and ends its tasks. Answers its phase.
    ///
    /// # Errors
    /// When there is none, or the caller may not.
    pub async fn workspace_stop(&self, actor: &Actor, id: WorkspaceId) -> Result<Phase, Error> {
        let caller = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let mut workspace = writable(tx, &caller, id)?.into_inner();
                stop(tx, &mut workspace, &Cause::caller(&caller), now())?;
                Ok(workspace.phase)
            })
            .await
    }

    /// Stops every running workspace of the organization; answers how many began to stop.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn workspace_stop_all(&self, actor: &Actor) -> Result<u32, Error> {
        actor.reach(Right::WorkspaceWriteAll)?;
        self.stop_many(actor, None).await
    }

    /// Stops workspaces, a few in each transaction.
    pub(crate) async fn stop_many(&self, actor: &Actor, role: Option<RoleId>) -> Result<u32, Error> {
        let (mut stopping, mut after) = (0, None);
        loop {
            let cause = Cause::caller(actor);
            let step = self.store().write(actor.organization(), move |tx| stop_step(tx, &cause, role, after));
            let (stopped, last) = step.await?;
            stopping += stopped;
            if last.is_none() {
                return Ok(stopping);
            }
            after = last;
        }
    }

    /// Archives a workspace.
    ///
    /// # Errors
    /// When there is none, the caller may not, or it is neither stopped nor failed.
    pub async fn workspace_archive(&self, actor: &Actor, id: WorkspaceId) -> Result<(), Error> {
        let caller = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let mut workspace = writable(tx, &caller, id)?.into_inner();
                if workspace.archived_at.is_some() {
                    return Ok(());
                }
                if !is_archivable(workspace.phase) {
                    let phase = workspace.phase;
                    return Err(Error::InvalidState(format!("the workspace is {phase}: stop it first")));
                }
                workspace.archived_at = Some(now());
                write(tx, &mut workspace, &caller, EventType::WorkspaceArchived)
            })
            .await
    }

    /// Unarchives a workspace.
    ///
    /// # Errors
    /// When there is none, the caller may not, or it is not archived.
    pub async fn workspace_unarchive(&self, actor: &Actor, id: WorkspaceId) -> Result<(), Error> {
        let caller = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let mut workspace = writable(tx, &caller, id)?.into_inner();
                if workspace.archived_at.take().is_none() {
                    return Err(Error::NotArchived(Thing::Workspace));
                }
                write(tx, &mut workspace, &caller, EventType::WorkspaceUnarchived)
            })
            .await
    }

    /// Removes an archived workspace for good: tasks, conversation and uploads with it. Its audit rows stay.
    ///
    /// # Errors
    /// When there is none, the caller may not, or it is not archived.
    pub async fn workspace_delete(&self, actor: &Actor, id: WorkspaceId) -> Result<(), Error> {
        let caller = actor.clone();
        let uploads = self
            .store()
            .write(actor.organization(), move |tx| {
                let workspace = writable(tx, &caller, id)?.into_inner();
                if workspace.archived_at.is_none() {
                    return Err(Error::NotArchived(Thing::Workspace));
                }
                let cause = Cause::caller(&caller);
                let row = workspace_row(tx, &workspace, &cause, EventType::WorkspaceDeleted, None, now())?;
                tx.audit_add(&row)?;
                let uploads = uploads_of(tx, id)?;
                tx.workspace_delete(id)?;
                Ok(uploads)
            })
            .await?;
        for upload in uploads {
            if let Err(error) = self.ports().uploads.delete(upload).await {
                tracing::warn!(upload.id = %upload, error = &error as &dyn std::error::Error, "an upload is left behind");
            }
        }
        Ok(())
    }

    /// The agent's own view of its session, from the pod.
    ///
    /// # Errors
    /// When there is no such workspace, the caller may not see it, it is not running, or its agent does not answer.
    pub async fn workspace_session_view(&self, actor: &Actor, id: WorkspaceId) -> Result<Value, Error> {
        let workspace = self.workspace_view(actor, id).await?;
        agent_expected(workspace.phase)?;
        Ok(self.ports().agent.session_view(&workspace).await?)
    }
}

pub(crate) fn find(tx: &mut OrgRead<'_>, id: WorkspaceId) -> Result<Workspace, Error> {
    tx.workspace_view(id)?.ok_or(Error::NotFound(Thing::Workspace))
}

/// The workspace's role and that role's provider, with the model that it was started with.
pub(crate) fn role_and_provider(
    tx: &mut OrgRead<'_>,
    workspace: &Workspace,
) -> Result<(Role, Provider), StoreError> {
    let missing = |table| StoreError::Missing { table };
    let mut role = tx.role_view(workspace.role_id)?.ok_or_else(|| missing("roles"))?;
    if let Some(backend) = &workspace.backend {
        role = backend.role(role);
    }
    let mut provider = tx.provider_view(role.provider_id)?.ok_or_else(|| missing("providers"))?;
    if let Some(backend) = &workspace.backend {
        provider = backend.provider(provider);
    }
    Ok((role, provider))
}

/// The workspace, proved to be the caller's to change.
pub(crate) fn writable(
    tx: &mut OrgRead<'_>,
    actor: &Actor,
    id: WorkspaceId,
) -> Result<Authorized<Workspace>, Error> {
    Ok(actor.authorize(&[Right::WorkspaceWrite], find(tx, id)?)?)
}

fn create(tx: &mut OrgTx<'_>, actor: &Actor, new: WorkspaceNew, now: Timestamp) -> Result<Workspace, Error> {
    let role = role::usable(tx, new.role_id, new.role_name.as_deref())?;
    insert(tx, actor, &role, new.environment, now)
}

/// Inserts a workspace that is wanted to run, and its session.
pub(crate) fn insert(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    role: &Role,
    environment: Option<String>,
    now: Timestamp,
) -> Result<Workspace, Error> {
    let workspace = Workspace {
        id: WorkspaceId::from_uuid(new_uuid()),
        organization_id: actor.organization(),
        role_id: role.id,
        environment: Some(environment.unwrap_or_else(|| role.environment.to_string())),
        phase: Phase::Provisioning,
        created_by: actor.member_id(),
        session_id: SessionId::from_uuid(new_uuid()),
        pod_id: Some(PodId::from_uuid(new_uuid())),
        generation: 1,
        failed_starts: 0,
        backend: None,
        snapshot_ref: None,
        last_snapshot_error: None,
        parent_id: None,
        fork_source_snapshot_ref: None,
        fork_point_task_count: None,
        created_at: now,
        updated_at: now,
        archived_at: None,
    };
    tx.workspace_insert(&workspace)?;
    tx.session_insert(&new_session(&workspace, now))?;
    let cause = Cause::caller(actor);
    let row = workspace_row(tx, &workspace, &cause, EventType::WorkspaceCreated, None, now)?;
    tx.audit_add(&row)?;
    Ok(workspace)
}

/// The workspace's present session, as it begins.
pub(crate) fn new_session(workspace: &Workspace, now: Timestamp) -> Session {
    Session {
        id: workspace.session_id,
        organization_id: workspace.organization_id,
        workspace_id: workspace.id,
        role_id: workspace.role_id,
        created_by: workspace.created_by,
        title: None,
        tags: Vec::new(),
        summary: Summary::default(),
        created_at: now,
        updated_at: now,
        finished_at: None,
    }
}

/// Tells the workspace what happened. When that changes its phase, the row is written and an audit row appended. A pod
/// that becomes wanted is a new one; whatever changes what is desired of the pod raises the generation. Answers whether
/// the phase changed.
///
/// # Errors
/// When the phase refuses the event, or the store fails.
pub fn transition(
    tx: &mut OrgTx<'_>,
    workspace: &mut Workspace,
    event: Event,
    cause: &Cause,
    now: Timestamp,
) -> Result<bool, Error> {
    let from = workspace.phase;
    let to = match next(from, event)? {
        Next::Ignore => return Ok(false),
        Next::Go(to) => to,
    };
    if pod_wanted(to) && (!pod_wanted(from) || event == Event::PodLost) {
        renew_pod(workspace);
    } else if pod_wanted(from) != pod_wanted(to) {
        workspace.generation += 1;
    }
    if matches!(to, Phase::Stopped | Phase::Failed) {
        (workspace.pod_id, workspace.backend) = (None, None);
    }
    (workspace.phase, workspace.updated_at) = (to, now);
    tx.workspace_update(workspace)?;
    let detail = json!({ "from": from, "status": to });
    let row = workspace_row(tx, workspace, cause, EventType::WorkspaceStatusChanged, Some(detail), now)?;
    tx.audit_add(&row)?;
    Ok(true)
}

/// Wants another pod than the present one.
pub(crate) fn renew_pod(workspace: &mut Workspace) {
    workspace.pod_id = Some(PodId::from_uuid(new_uuid()));
    workspace.generation += 1;
}

/// Wants the workspace stopped, and ends its tasks. Answers whether that changed anything.
pub(crate) fn stop(
    tx: &mut OrgTx<'_>,
    workspace: &mut Workspace,
    cause: &Cause,
    now: Timestamp,
) -> Result<bool, Error> {
    let changed = transition(tx, workspace, Event::StopAsked, cause, now)?;
    if changed {
        let reason = "the workspace was stopped";
        task::end_all(tx, workspace, freehold_model::task::Event::Cancelled, reason, cause, now)?;
    }
    Ok(changed)
}

/// Stops some workspaces: answers how many, and where the next step begins.
fn stop_step(
    tx: &mut OrgTx<'_>,
    cause: &Cause,
    role: Option<RoleId>,
    after: Option<WorkspaceId>,
) -> Result<(u32, Option<WorkspaceId>), Error> {
    let phases = Phase::ALL.iter().copied().filter(|phase| pod_wanted(*phase)).collect();
    let filter = WorkspaceFilter { include_archived: true, role, created_by: None, phases };
    let workspaces = tx.workspace_list(&filter, &Page { after, limit: STOP_STEP_ROWS })?;
    let last = workspaces.last().map(|workspace| workspace.id);
    let mut stopped = 0;
    for mut workspace in workspaces {
        stopped += u32::from(stop(tx, &mut workspace, cause, now())?);
    }
    Ok((stopped, last))
}

fn write(
    tx: &mut OrgTx<'_>,
    workspace: &mut Workspace,
    actor: &Actor,
    event_type: EventType,
) -> Result<(), Error> {
    let now = now();
    workspace.updated_at = now;
    tx.workspace_update(workspace)?;
    let row = workspace_row(tx, workspace, &Cause::caller(actor), event_type, None, now)?;
    tx.audit_add(&row)?;
    Ok(())
}

fn uploads_of(tx: &mut OrgRead<'_>, id: WorkspaceId) -> Result<Vec<freehold_model::UploadId>, Error> {
    let (mut uploads, mut after) = (Vec::new(), None);
    loop {
        let tasks = tx.task_list(id, &Page { after, limit: DELETE_STEP_ROWS })?;
        let Some(last) = tasks.last() else { return Ok(uploads) };
        after = Some(last.id);
        for task in tasks {
            uploads.extend(tx.upload_list(task.id)?.into_iter().map(|upload| upload.id));
        }
    }
}
