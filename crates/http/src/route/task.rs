//! Tasks, as JSON or as a form with files.

use std::sync::PoisonError;

use axum::{body::Body, response::Response};
use freehold_api::{
    error::ErrorCode,
    service::ListQuery,
    task::{TaskCreate, TaskSubmit},
};
use freehold_app::{
    Once, Outcome,
    task::{Place, TaskNew},
};
use freehold_model::{TaskId, task::Task};
use serde::de::DeserializeOwned;

use super::workspace::id;
use crate::{
    call::{Call, Handler, Payload, typed},
    dispatch::drop_read_only,
    document::body_schema,
    error::Failure,
    list,
    multipart::{self, Files},
    wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("task_create", |call| Box::pin(task_create(call))),
    ("task_list", |call| Box::pin(task_list(call))),
    ("task_submit", |call| Box::pin(task_submit(call))),
    ("task_view", |call| Box::pin(task_view(call))),
    ("task_cancel", |call| Box::pin(task_cancel(call))),
];

async fn task_create(mut call: Call) -> Result<Response, Failure> {
    let mut files = Files::new(call.app().uploads());
    let submitted = create(&mut call, &mut files).await;
    settle(&call, files, submitted).await
}

async fn create(call: &mut Call, files: &mut Files) -> Result<Outcome<Task>, Failure> {
    let (fields, once): (TaskCreate, _) = read(call, files).await?;
    let place =
        Place { role_id: fields.role_id, role_name: fields.role_name, environment: fields.environment };
    let new = TaskNew {
        description: fields.description,
        thinking_effort: fields.thinking_effort,
        max_continuations: fields.max_continuations,
        max_context_tokens: fields.max_context_tokens,
        metadata: fields.metadata,
        files: files.kept.clone(),
    };
    Ok(call.app().task_create(call.actor()?, place, new, once).await?)
}

async fn task_submit(mut call: Call) -> Result<Response, Failure> {
    let mut files = Files::new(call.app().uploads());
    let submitted = submit(&mut call, &mut files).await;
    settle(&call, files, submitted).await
}

async fn submit(call: &mut Call, files: &mut Files) -> Result<Outcome<Task>, Failure> {
    let workspace = id(call)?;
    if matches!(call.payload, Payload::Form { .. }) {
        // Files are not taken for a workspace that would refuse the task.
        call.app().task_admit(call.actor()?, workspace).await?;
    }
    let (fields, once): (TaskSubmit, _) = read(call, files).await?;
    let new = TaskNew {
        description: fields.description,
        thinking_effort: fields.thinking_effort,
        max_continuations: fields.max_continuations,
        max_context_tokens: fields.max_context_tokens,
        metadata: fields.metadata,
        files: files.kept.clone(),
    };
    let reset = fields.reset_session.unwrap_or(false);
    Ok(call.app().task_submit(call.actor()?, workspace, reset, new, once).await?)
}

/// The fields, from JSON or from a form whose files are kept.
async fn read<T: DeserializeOwned>(
    call: &mut Call,
    files: &mut Files,
) -> Result<(T, Option<Once<Task>>), Failure> {
    let Payload::Form { boundary, body } = &mut call.payload else {
        let once = call.once(wire::task_submitted)?;
        return Ok((call.fields()?, once));
    };
    let body = body.get_mut().unwrap_or_else(PoisonError::into_inner);
    let (boundary, body) = (std::mem::take(boundary), std::mem::replace(body, Body::empty()));
    let schema = body_schema(call.operation).unwrap_or_default();
    let silence_max = call.shared.options.upload_silence_max;
    let mut form =
        multipart::read(&call.shared.document, &schema, boundary, body, silence_max, files).await?;
    drop_read_only(&mut form.fields, call.operation);
    let once = call.once_for(form.hash, wire::task_submitted)?;
    Ok((typed(form.fields)?, once))
}

/// Answers; the files of a request that failed, or that happened before, are forgotten.
async fn settle(
    call: &Call,
    files: Files,
    submitted: Result<Outcome<Task>, Failure>,
) -> Result<Response, Failure> {
    match submitted {
        Ok(Outcome::Done(task)) => Ok(call.outcome(Outcome::Done(task), wire::task_submitted)),
        Ok(replayed @ Outcome::Replayed(_)) => {
            files.forget().await;
            Ok(call.outcome(replayed, wire::task_submitted))
        }
        Err(failure) => {
            files.forget().await;
            Err(failure)
        }
    }
}

async fn task_list(mut call: Call) -> Result<Response, Failure> {
    let query: ListQuery = call.query()?;
    let workspace = id(&call)?;
    let shape = list::Shape { field: None, place: |task: &Task| task.id, wire: wire::task };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), move |app, actor, page| async move {
        app.task_list(&actor, workspace, page).await
    })
    .await
}

async fn task_view(call: Call) -> Result<Response, Failure> {
    let task: TaskId = call.id("tid", ErrorCode::TaskNotFound)?;
    let task = call.app().task_view(call.actor()?, id(&call)?, task).await?;
    call.json(&wire::task(task))
}

async fn task_cancel(call: Call) -> Result<Response, Failure> {
    call.app().task_cancel(call.actor()?, id(&call)?).await?;
    Ok(call.bytes(Body::empty()))
}
