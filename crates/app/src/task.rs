//! Tasks: pieces of work submitted to workspaces.

use freehold_access::{Actor, Right};
use freehold_model::{
    EventId, Next, RoleId, SessionId, TaskId, Timestamp, UploadId, WorkspaceId,
    audit::EventType,
    event::{Context, Payload, SessionEvent, TurnErrorCode},
    role::ThinkingEffort,
    task::{Event, Overrides, Phase, Task, next},
    upload::{Upload, is_safe_name},
    workspace::{self, Workspace, agent_expected},
};
use freehold_store::{OrgRead, OrgTx, Page};
use serde_json::{Value, json};

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{Cause, workspace_row},
    error::Fields,
    new_uuid, now,
    once::once,
    role,
    workspace::{find, insert, new_session, transition, writable},
};

/// Tasks that may wait in one workspace.
pub const TASKS_WAITING_MAX: u64 = 1000;
/// Bytes of a task's `metadata`, serialized.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct TaskNew {
    /// The prompt.
    pub description: String,
    /// How hard the model should think; the role's when absent.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls; the role's when absent.
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction; the role's when absent.
    pub max_context_tokens: Option<u64>,
    /// The submitter's own data.
    pub metadata: Option<Value>,
    /// Files whose bytes are kept already.
    pub files: Vec<File>,
}

/// A file that comes with a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Under which id its bytes are kept.
    pub id: UploadId,
    /// Its name in the pod.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
}

/// Where a new workspace for a task comes from.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The role, by id.
    pub role_id: Option<RoleId>,
    /// The role, by name.
    pub role_name: Option<String>,
    /// A label of where it works; the role's environment when absent.
    pub environment: Option<String>,
}

impl App {
    /// Creates a workspace and submits its first task: both or neither.
    ///
    /// # Errors
    /// When the caller may not, or the role is missing, archived or of an archived provider.
    pub async fn task_create(
        &self,
        actor: &Actor,
        place: Place,
        new: TaskNew,
        request: Option<Once<Task>>,
    ) -> Result<Outcome<Task>, Error> {
        actor.reach(Right::WorkspaceWrite)?;
        actor.reach(Right::TasksWrite)?;
        check(&new)?;
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let now = now();
                once(tx, &actor, now, request, |tx| {
                    let role = role::usable(tx, place.role_id, place.role_name.as_deref())?;
                    let workspace = insert(tx, &actor, &role, place.environment, now)?;
                    submit(tx, &actor, &workspace, new, now)
                })
            })
            .await
    }

    /// Submits a task to a workspace. It waits while another one is running there.
    ///
    /// # Errors
    /// When there is no such workspace, the caller may not, it takes no tasks, or too many wait.
    pub async fn task_submit(
        &self,
        actor: &Actor,
        id: WorkspaceId,
        reset_session: bool,
        new: TaskNew,
        request: Option<Once<Task>>,
    ) -> Result<Outcome<Task>, Error> {
        check(&new)?;
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let now = now();
                let workspace = actor.authorize(&[Right::TasksWrite], find(tx, id)?)?.into_inner();
                once(tx, &actor, now, request, |tx| {
                    let mut workspace = workspace;
                    admit(tx, &workspace)?;
                    if reset_session {
                        reset(tx, &actor, &mut workspace, now)?;
                    }
                    submit(tx, &actor, &workspace, new, now)
                })
            })
            .await
    }

    /// Whether the caller may submit to the workspace at all: asked before the bytes of files are taken.
    ///
    /// # Errors
    /// As [`App::task_submit`].
    pub async fn task_admit(&self, actor: &Actor, id: WorkspaceId) -> Result<(), Error> {
        let actor = actor.clone();
        self.store()
            .read(actor.organization(), move |tx| {
                let workspace = actor.authorize(&[Right::TasksWrite], find(tx, id)?)?;
                admit(tx, &workspace)
            })
            .await
    }

    /// Tasks of a workspace, newest first.
    ///
    /// # Errors
    /// When there is no such workspace, or the caller may not see it.
    pub async fn task_list(
        &self,
        actor: &Actor,
        id: WorkspaceId,
        page: Page<TaskId>,
    ) -> Result<Vec<Task>, Error> {
        let caller = actor.clone();
        self.store()
            .read(actor.organization(), move |tx| {
                let workspace = caller.authorize(&[Right::WorkspaceRead], find(tx, id)?)?;
                Ok(tx.task_list(workspace.id, &page)?)
            })
            .await
    }

    /// One task.
    ///
    /// # Errors
    /// When there is no such workspace or task, or the caller may not see it.
    pub async fn task_view(&self, actor: &Actor, id: WorkspaceId, task: TaskId) -> Result<Task, Error> {
        let caller = actor.clone();
        self.store()
            .read(actor.organization(), move |tx| {
                let workspace = caller.authorize(&[Right::WorkspaceRead], find(tx, id)?)?;
                match tx.task_view(task)? {
                    Some(task) if task.workspace_id == workspace.id => Ok(task),
                    Some(_) | None => Err(Error::NotFound(Thing::Task)),
                }
            })
            .await
    }

    /// Asks for the running task of a workspace to be cancelled. That it is wanted is written first, so that it happens
    /// also when the agent is told later. Without a running task nothing is done.
    ///
    /// # Errors
    /// When there is no such workspace, the caller may not, it is not running, or its agent does not answer.
    pub async fn task_cancel(&self, actor: &Actor, id: WorkspaceId) -> Result<(), Error> {
        let caller = actor.clone();
        let told = self
            .store()
            .write(actor.organization(), move |tx| {
                let workspace = writable(tx, &caller, id)?.into_inner();
                agent_expected(workspace.phase)?;
                Ok::<_, Error>(request_cancel(tx, &caller, &workspace)?.then_some(workspace))
            })
            .await?;
        if let Some(workspace) = told {
            self.ports().agent.cancel(&workspace).await?;
        }
        Ok(())
    }
}

fn check(new: &TaskNew) -> Result<(), Error> {
    let mut fields = Fields::default();
    let metadata = new.metadata.as_ref().map_or(0, |metadata| metadata.to_string().len());
    fields.refuse(metadata > METADATA_BYTES_MAX, "metadata", "is longer than 16 KiB");
    let mut names: Vec<&str> = new.files.iter().map(|file| file.name.as_str()).collect();
    names.sort_unstable();
    fields.refuse(names.windows(2).any(|pair| pair[0] == pair[1]), "file", "two files have the same name");
    let unsafe_name = names.iter().any(|name| !is_safe_name(name));
    fields.refuse(unsafe_name, "file", "a file's name must be one path component of at most 255 bytes");
    fields.check()
}

/// Whether the workspace takes tasks now.
fn admit(tx: &mut OrgRead<'_>, workspace: &Workspace) -> Result<(), Error> {
    if workspace.archived_at.is_some() {
        return Err(Error::WorkspaceArchived);
    }
    // A workspace that is being made takes tasks: they wait.
    match agent_expected(workspace.phase) {
        Ok(()) | Err(workspace::Denied::Provisioning) => {}
        Err(denied) => return Err(denied.into()),
    }
    if tx.task_waiting_count(workspace.id)? >= TASKS_WAITING_MAX {
        return Err(Error::TooMany(format!("{TASKS_WAITING_MAX} tasks wait in this workspace already")));
    }
    Ok(())
}

/// Closes the workspace's session and opens a new one.
fn reset(tx: &mut OrgTx<'_>, actor: &Actor, workspace: &mut Workspace, now: Timestamp) -> Result<(), Error> {
    let earlier = tx.session_view(workspace.session_id)?;
    if let Some(mut session) = earlier {
        (session.finished_at, session.updated_at) = (Some(now), now);
        tx.session_update(&session)?;
        let detail = json!({ "session_id": session.id });
        let cause = Cause::caller(actor);
        let row = workspace_row(tx, workspace, &cause, EventType::SessionFinished, Some(detail), now)?;
        tx.audit_add(&row)?;
    }
    workspace.session_id = SessionId::from_uuid(new_uuid());
    workspace.updated_at = now;
    tx.workspace_update(workspace)?;
    Ok(tx.session_insert(&new_session(workspace, now))?)
}

fn submit(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    workspace: &Workspace,
    new: TaskNew,
    now: Timestamp,
) -> Result<Task, Error> {
    let TaskNew { description, thinking_effort, max_continuations, max_context_tokens, metadata, files } =
        new;
    let task = Task {
        id: TaskId::from_uuid(new_uuid()),
        organization_id: workspace.organization_id,
        workspace_id: workspace.id,
        session_id: workspace.session_id,
        description,
        phase: Phase::Submitted,
        overrides: Overrides { thinking_effort, max_continuations, max_context_tokens },
        metadata,
        created_by: actor.member_id(),
        cancel_requested: false,
        reason: None,
        created_at: now,
        started_at: None,
        completed_at: None,
    };
    tx.task_insert(&task)?;
    for File { id, name, size } in files {
        tx.upload_insert(&Upload { id, task_id: task.id, name, size })?;
    }
    let cause = Cause::caller(actor);
    let mut row = workspace_row(tx, workspace, &cause, EventType::TaskSubmitted, None, now)?;
    row.task_id = Some(task.id);
    tx.audit_add(&row)?;
    Ok(task)
}

/// Writes that the running task is to be cancelled; answers whether there is one.
fn request_cancel(tx: &mut OrgTx<'_>, actor: &Actor, workspace: &Workspace) -> Result<bool, Error> {
    let Some(mut task) = tx.task_current(workspace.id)? else { return Ok(false) };
    if !task.cancel_requested {
        task.cancel_requested = true;
        tx.task_update(&task)?;
        let cause = Cause::caller(actor);
        let mut row = workspace_row(tx, workspace, &cause, EventType::TaskCancelRequested, None, now())?;
        row.task_id = Some(task.id);
        tx.audit_add(&row)?;
    }
    Ok(true)
}

/// Tells the task what happened, and writes what changes with its phase. Answers whether that changed; the caller tells
/// of it in the audit log.
pub(crate) fn advance_untold(
    tx: &mut OrgTx<'_>,
    task: &mut Task,
    event: Event,
    reason: Option<String>,
    now: Timestamp,
) -> Result<bool, Error> {
    let to = match next(task.phase, event) {
        Next::Ignore => return Ok(false),
        Next::Go(to) => to,
    };
    task.phase = to;
    if event == Event::Started {
        task.started_at = Some(now);
    }
    if to.is_terminal() {
        task.completed_at = Some(now);
        task.reason = reason;
    }
    tx.task_update(task)?;
    Ok(true)
}

/// Tells the task what happened. When that changes its phase, the row is written, and its time and reason with it; a
/// terminal phase is one audit row. Answers whether the phase changed.
///
/// # Errors
/// When the store fails.
pub fn advance(
    tx: &mut OrgTx<'_>,
    workspace: &Workspace,
    task: &mut Task,
    event: Event,
    reason: Option<String>,
    cause: &Cause,
    now: Timestamp,
) -> Result<bool, Error> {
    if !advance_untold(tx, task, event, reason, now)? {
        return Ok(false);
    }
    let to = task.phase;
    let event_type = match to {
        Phase::Submitted | Phase::Compacting => return Ok(true),
        Phase::Delivered => EventType::TaskDelivered,
        // Back from compaction is no start; the agent's own rows tell of compaction.
        Phase::Running if event != Event::Started => return Ok(true),
        Phase::Running => EventType::TaskStarted,
        Phase::Completed | Phase::Failed | Phase::Cancelled | Phase::DeliveryFailed => {
            EventType::TaskCompleted
        }
    };
    let detail = to.is_terminal().then(|| json!({ "status": to, "reason": task.reason }));
    let mut row = workspace_row(tx, workspace, cause, event_type, detail, now)?;
    row.task_id = Some(task.id);
    tx.audit_add(&row)?;
    Ok(true)
}

/// Ends a task without its agent, if it has not ended. What has begun was delivered: it fails where another one is
/// undeliverable, and its turn is closed in its session too.
pub(crate) fn end(
    tx: &mut OrgTx<'_>,
    workspace: &Workspace,
    mut task: Task,
    event: Event,
    reason: &str,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), Error> {
    let began = task.started_at.is_some();
    let event = if began && event == Event::Undeliverable { Event::Failed } else { event };
    if advance(tx, workspace, &mut task, event, Some(reason.to_owned()), cause, now)? && began {
        close_turn(tx, &task, reason, now)?;
    }
    Ok(())
}

/// Ends every task of the workspace that has not ended: the one that was handed over, and those that wait.
pub(crate) fn end_all(
    tx: &mut OrgTx<'_>,
    workspace: &mut Workspace,
    event: Event,
    reason: &str,
    cause: &Cause,
    now: Timestamp,
) -> Result<(), Error> {
    if let Some(task) = tx.task_current(workspace.id)? {
        end(tx, workspace, task, event, reason, cause, now)?;
        transition(tx, workspace, workspace::Event::TaskEnded, cause, now)?;
    }
    for _ in 0..TASKS_WAITING_MAX {
        let Some(task) = tx.task_next_submitted(workspace.id)? else { break };
        end(tx, workspace, task, event, reason, cause, now)?;
    }
    Ok(())
}

/// Writes into the session that the task's turn ended without its agent.
fn close_turn(tx: &mut OrgTx<'_>, task: &Task, reason: &str, now: Timestamp) -> Result<(), Error> {
    let turn_id = task.id.into();
    let event = |payload| SessionEvent {
        id: EventId::from_uuid(new_uuid()),
        session_id: task.session_id,
        sequence: None,
        ts: now,
        context: Context { turn_id: Some(turn_id), input_message_id: None },
        payload,
    };
    let reason = reason.to_owned();
    let ended = match task.phase {
        Phase::Cancelled => Payload::TurnCancelled { turn_id, reason },
        _ => Payload::TurnFailed { turn_id, error: reason, error_code: TurnErrorCode::ProcessingError },
    };
    let events = [event(ended), event(Payload::SessionIdled { turn_id })];
    tx.session_events_append(task.session_id, &events)?;
    Ok(())
}
