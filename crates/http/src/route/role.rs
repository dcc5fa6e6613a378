//! Agent roles.

use axum::response::Response;
use freehold_api::{
    error::ErrorCode,
    role::{RoleCreate, RoleUpdate},
    service::{ArchivableListQuery, StatusAnswer, Stopping},
};
use freehold_app::role::{RoleChange, RoleNew};
use freehold_model::{RoleId, role::Role};

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("role_list", |call| Box::pin(role_list(call))),
    ("role_create", |call| Box::pin(role_create(call))),
    ("role_view", |call| Box::pin(role_view(call))),
    ("role_update", |call| Box::pin(role_update(call))),
    ("role_archive", |call| Box::pin(role_archive(call))),
    ("role_unarchive", |call| Box::pin(role_unarchive(call))),
    ("role_stop_workspaces", |call| Box::pin(role_stop_workspaces(call))),
];

fn id(call: &Call) -> Result<RoleId, Failure> {
    call.id("id", ErrorCode::RoleNotFound)
}

fn render(role: &Role) -> Vec<u8> {
    wire::bytes(&wire::role(role.clone()))
}

async fn role_list(mut call: Call) -> Result<Response, Failure> {
    let query: ArchivableListQuery = call.query()?;
    let archived = query.include_archived.unwrap_or(false);
    let shape = list::Shape { field: Some("agent_roles"), place: |role: &Role| role.id, wire: wire::role };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), move |app, actor, page| async move {
        app.role_list(&actor, archived, page).await
    })
    .await
}

async fn role_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let fields: RoleCreate = call.fields()?;
    let rest = RoleChange {
        display_name: Some(fields.display_name),
        description: Some(fields.description),
        provider_id: None,
        model: Some(fields.model),
        capabilities: Some(fields.capabilities),
        environment: fields.environment,
        environment_description: Some(fields.environment_description),
        task_timeout_seconds: Some(fields.task_timeout_seconds),
        idle_timeout_seconds: Some(fields.idle_timeout_seconds),
        thinking_effort: Some(fields.thinking_effort),
        max_continuations: Some(fields.max_continuations),
        max_context_tokens: Some(fields.max_context_tokens),
        pool_policy: fields.pool_policy,
        pool_size: fields.pool_size,
        pool_max_size: fields.pool_max_size,
        pack_ids: Some(fields.pack_ids),
    };
    let new = RoleNew { name: fields.name, provider_id: fields.provider_id, rest };
    let outcome = call.app().role_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

async fn role_view(call: Call) -> Result<Response, Failure> {
    let role = call.app().role_view(call.actor()?, id(&call)?).await?;
    call.json(&wire::role(role))
}

async fn role_update(mut call: Call) -> Result<Response, Failure> {
    let fields: RoleUpdate = call.fields()?;
    let change = RoleChange {
        display_name: fields.display_name,
        description: fields.description,
        provider_id: fields.provider_id,
        model: fields.model,
        capabilities: fields.capabilities,
        environment: fields.environment,
        environment_description: fields.environment_description,
        task_timeout_seconds: fields.task_timeout_seconds,
        idle_timeout_seconds: fields.idle_timeout_seconds,
        thinking_effort: fields.thinking_effort,
        max_continuations: fields.max_continuations,
        max_context_tokens: fields.max_context_tokens,
        pool_policy: fields.pool_policy,
        pool_size: fields.pool_size,
        pool_max_size: fields.pool_max_size,
        pack_ids: fields.pack_ids,
    };
    let role = call.app().role_update(call.actor()?, id(&call)?, change).await?;
    call.json(&wire::role(role))
}

async fn role_archive(call: Call) -> Result<Response, Failure> {
    call.app().role_archive(call.actor()?, id(&call)?).await?;
    call.json(&StatusAnswer { status: "archived".to_owned() })
}

async fn role_unarchive(call: Call) -> Result<Response, Failure> {
    call.app().role_unarchive(call.actor()?, id(&call)?).await?;
    call.json(&StatusAnswer { status: "unarchived".to_owned() })
}

async fn role_stop_workspaces(call: Call) -> Result<Response, Failure> {
    let stopping = call.app().role_stop_workspaces(call.actor()?, id(&call)?).await?;
    call.json(&Stopping { stopping })
}
