//! Handing tasks over, and ending those that no agent will end.

use freehold_model::{
    EventId, SessionId, TaskId, UploadId,
    audit::Actor,
    event::{Context, Payload, SessionEvent},
    role::Role,
    task::{Event, Task},
    workspace::{self, Workspace},
};
use freehold_store::{Error as StoreError, OrgTx};

use super::{Fleet, Order, Place, Settings, activity};
use crate::{
    Error,
    audit::{Cause, workspace_row},
    new_uuid, now,
    task::{advance, end},
    workspace::role_and_provider,
};

impl Fleet {
    /// Takes the next waiting task for the agent, unless one is under way or the agent is not expected.
    pub async fn hand_over(&self, place: Place) -> Result<Option<Order>, Error> {
        let settings = self.settings;
        let waiting = self
            .store
            .read(place.organization_id, move |rows| {
                Ok::<_, Error>(rows.task_next_submitted(place.workspace_id)?.is_some())
            })
            .await?;
        if !waiting {
            return Ok(None);
        }
        self.store
            .write(place.organization_id, move |rows| {
                let Some(workspace) = rows.workspace_view(place.workspace_id)? else { return Ok(None) };
                if workspace::agent_expected(workspace.phase).is_err()
                    || rows.task_current(workspace.id)?.is_some()
                {
                    return Ok(None);
                }
                let Some(mut task) = rows.task_next_submitted(workspace.id)? else { return Ok(None) };
                let cause = Cause::workspace(&workspace, Actor::ControlPlane);
                advance(rows, &workspace, &mut task, Event::HandedOver, None, &cause, now())?;
                let (role, provider) = role_and_provider(rows, &workspace)?;
                begin_journal(rows, task.session_id)?;
                let model = role.model.clone().or(provider.default_model);
                begin_session(rows, &workspace, &cause, &task, model.unwrap_or_default())?;
                Ok(Some(order(rows, task, &role, settings)?))
            })
            .await
    }

    /// The agent cannot take a task.
    pub async fn undeliverable(&self, place: Place, task: TaskId, reason: &'static str) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(workspace) = rows.workspace_view(place.workspace_id)? else { return Ok(()) };
                // A task that has begun was taken.
                let refused = rows.task_view(task)?;
                let refused =
                    refused.filter(|task| task.workspace_id == workspace.id && task.started_at.is_none());
                let Some(task) = refused else { return Ok(()) };
                let cause = Cause::workspace(&workspace, Actor::ControlPlane);
                end(rows, &workspace, task, Event::Undeliverable, reason, &cause, now())
            })
            .await
    }

    /// Bytes of a file that came with a task of this workspace, and whether the file ends with them. `None` when there
    /// is no such file.
    pub async fn upload_chunk(
        &self,
        place: Place,
        upload: UploadId,
        offset: u64,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, bool)>, Error> {
        let found = self
            .store
            .read(place.organization_id, move |rows| {
                let Some(task) = rows.task_current(place.workspace_id)? else { return Ok::<_, Error>(None) };
                Ok(rows.upload_list(task.id)?.into_iter().find(|found| found.id == upload))
            })
            .await?;
        let Some(found) = found else { return Ok(None) };
        let end = found.size.min(offset.saturating_add(limit as u64));
        if offset >= end {
            return Ok(Some((Vec::new(), true)));
        }
        let bytes = self.uploads.read(upload, offset..end).await?;
        Ok(Some((bytes.to_vec(), end == found.size)))
    }
}

/// What the journal's size is counted from, for the task that is handed over now. The agent has no say in it.
fn begin_journal(rows: &mut OrgTx<'_>, session: SessionId) -> Result<(), Error> {
    let Some(mut session) = rows.session_view(session)? else { return Ok(()) };
    if session.summary.journal.begin_task() {
        rows.session_update(&session)?;
    }
    Ok(())
}

/// Writes a session's first event, which its agent cannot know, with its first task.
fn begin_session(
    rows: &mut OrgTx<'_>,
    workspace: &Workspace,
    cause: &Cause,
    task: &Task,
    model: String,
) -> Result<(), Error> {
    if rows.session_last_sequence(task.session_id)? > 0 {
        return Ok(());
    }
    let event = SessionEvent {
        id: EventId::from_uuid(new_uuid()),
        session_id: task.session_id,
        sequence: None,
        ts: now(),
        context: Context::default(),
        payload: Payload::SessionStarted { agent_id: workspace.role_id, model },
    };
    if let Some((event_type, detail)) = activity::of_event(&event) {
        let mut row = workspace_row(rows, workspace, cause, event_type, Some(detail), event.ts)?;
        row.task_id = Some(task.id);
        rows.audit_add(&row)?;
    }
    rows.session_events_append(task.session_id, &[event])?;
    Ok(())
}

/// A task with what the agent needs to take it.
pub(super) fn order(
    rows: &mut OrgTx<'_>,
    task: Task,
    role: &Role,
    settings: Settings,
) -> Result<Order, StoreError> {
    let uploads = rows.upload_list(task.id)?;
    let last_sequence = rows.session_last_sequence(task.session_id)?;
    let journal_after = super::journal::journal_after(rows, task.session_id)?;
    let seconds = role.task_timeout_seconds.unwrap_or(settings.task_timeout_seconds);
    let ran_ms = task
        .started_at
        .map_or(0, |start| u64::try_from(now().as_millisecond() - start.as_millisecond()).unwrap_or(0));
    let time_left_ms = (u64::from(seconds) * 1000).saturating_sub(ran_ms);
    Ok(Order { task, uploads, last_sequence, journal_after, time_left_ms })
}
