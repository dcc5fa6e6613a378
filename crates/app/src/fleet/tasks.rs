//! Handing tasks over, and ending those that no agent will end.

use freehold_model::{
    EventId, Next, TaskId, Timestamp, UploadId,
    audit::{Actor, EventType},
    event::{Context, Payload, SessionEvent},
    role::Role,
    task::{self, Task},
    workspace::{self, Workspace},
};
use freehold_store::{Error as StoreError, OrgTx};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Fleet, Order, Place, Settings,
    activity::{self, Names},
};
use crate::Error;

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
                let Next::Go(phase) = task::next(task.phase, task::Event::HandedOver) else {
                    return Ok(None);
                };
                task.phase = phase;
                rows.task_update(&task)?;
                let names = Names::of(rows, &workspace)?;
                let row = activity::row(
                    &workspace,
                    &names,
                    Actor::ControlPlane,
                    EventType::TaskDelivered,
                    Some(task.id),
                    Value::Null,
                );
                rows.audit_append(&row)?;
                let Some(role) = rows.role_view(workspace.role_id)? else { return Ok(None) };
                begin_session(rows, &workspace, &names, &task, &role)?;
                Ok(Some(order(rows, task, &role, settings)?))
            })
            .await
    }

    /// The agent cannot take a task.
    pub async fn undeliverable(&self, place: Place, task: TaskId, reason: &'static str) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let Some(workspace) = rows.workspace_view(place.workspace_id)? else { return Ok(()) };
                let Some(task) = rows.task_view(task)?.filter(|task| task.workspace_id == workspace.id)
                else {
                    return Ok(());
                };
                end(rows, &workspace, task, task::Event::Undeliverable, reason)?;
                Ok(())
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

/// Ends a task as `event` says, if it has not ended.
pub(super) fn end(
    rows: &mut OrgTx<'_>,
    workspace: &Workspace,
    mut task: Task,
    event: task::Event,
    reason: &str,
) -> Result<(), StoreError> {
    let Next::Go(phase) = task::next(task.phase, event) else { return Ok(()) };
    task.phase = phase;
    task.reason = Some(reason.to_owned());
    task.completed_at = Some(Timestamp::now());
    rows.task_update(&task)?;
    let names = Names::of(rows, workspace)?;
    let detail = json!({"status": phase, "reason": reason});
    let row = activity::row(
        workspace,
        &names,
        Actor::ControlPlane,
        EventType::TaskCompleted,
        Some(task.id),
        detail,
    );
    rows.audit_append(&row).map(drop)
}

/// Writes a session's first event, which its agent cannot know, with its first task.
fn begin_session(
    rows: &mut OrgTx<'_>,
    workspace: &Workspace,
    names: &Names,
    task: &Task,
    role: &Role,
) -> Result<(), StoreError> {
    if rows.session_last_sequence(task.session_id)? > 0 {
        return Ok(());
    }
    let provider = rows.provider_view(role.provider_id)?;
    let model = role.model.clone().or_else(|| provider.and_then(|provider| provider.default_model));
    let event = SessionEvent {
        id: EventId::from_uuid(Uuid::now_v7()),
        session_id: task.session_id,
        sequence: None,
        ts: Timestamp::now(),
        context: Context::default(),
        payload: Payload::SessionStarted { agent_id: role.id, model: model.unwrap_or_default() },
    };
    if let Some((event_type, detail)) = activity::of_event(&event) {
        let row = activity::row(workspace, names, Actor::ControlPlane, event_type, Some(task.id), detail);
        rows.audit_append(&row)?;
    }
    rows.session_events_append(task.session_id, &[event]).map(drop)
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
    let seconds = role.task_timeout_seconds.unwrap_or(settings.task_timeout_seconds);
    let ran_ms = task.started_at.map_or(0, |start| {
        u64::try_from(Timestamp::now().as_millisecond() - start.as_millisecond()).unwrap_or(0)
    });
    let time_left_ms = (u64::from(seconds) * 1000).saturating_sub(ran_ms);
    Ok(Order { task, uploads, last_sequence, time_left_ms })
}
