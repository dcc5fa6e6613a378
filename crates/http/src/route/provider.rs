//! Providers.

use axum::response::Response;
use freehold_api::{
    error::ErrorCode,
    provider::{ProviderArchived, ProviderCreate, ProviderUpdate},
    service::{ArchivableListQuery, StatusAnswer},
};
use freehold_app::provider::{ProviderChange, ProviderNew};
use freehold_model::{ProviderId, provider::Provider};

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("provider_list", |call| Box::pin(provider_list(call))),
    ("provider_create", |call| Box::pin(provider_create(call))),
    ("provider_view", |call| Box::pin(provider_view(call))),
    ("provider_update", |call| Box::pin(provider_update(call))),
    ("provider_archive", |call| Box::pin(provider_archive(call))),
    ("provider_unarchive", |call| Box::pin(provider_unarchive(call))),
];

fn id(call: &Call) -> Result<ProviderId, Failure> {
    call.id("id", ErrorCode::ProviderNotFound)
}

fn render(provider: &Provider) -> Vec<u8> {
    wire::bytes(&wire::provider(provider.clone()))
}

async fn provider_list(mut call: Call) -> Result<Response, Failure> {
    let query: ArchivableListQuery = call.query()?;
    let archived = query.include_archived.unwrap_or(false);
    let shape = list::Shape {
        field: Some("providers"),
        place: |provider: &Provider| provider.id,
        wire: wire::provider,
    };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), move |app, actor, page| async move {
        app.provider_list(&actor, archived, page).await
    })
    .await
}

async fn provider_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let fields: ProviderCreate = call.fields()?;
    let new = ProviderNew {
        name: fields.name,
        kind: fields.kind,
        domain: fields.domain,
        display_name: fields.display_name,
        credential_name: fields.credential_name,
        default_model: fields.default_model,
        capabilities: fields.capabilities,
        config: fields.config,
    };
    let outcome = call.app().provider_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

async fn provider_view(call: Call) -> Result<Response, Failure> {
    let provider = call.app().provider_view(call.actor()?, id(&call)?).await?;
    call.json(&wire::provider(provider))
}

async fn provider_update(mut call: Call) -> Result<Response, Failure> {
    let fields: ProviderUpdate = call.fields()?;
    let change = ProviderChange {
        domain: fields.domain,
        display_name: fields.display_name,
        credential_name: fields.credential_name,
        default_model: fields.default_model,
        capabilities: fields.capabilities,
        config: fields.config,
    };
    let provider = call.app().provider_update(call.actor()?, id(&call)?, change).await?;
    call.json(&wire::provider(provider))
}

async fn provider_archive(call: Call) -> Result<Response, Failure> {
    let cascaded_roles = call.app().provider_archive(call.actor()?, id(&call)?).await?;
    call.json(&ProviderArchived { status: "archived".to_owned(), cascaded_roles })
}

async fn provider_unarchive(call: Call) -> Result<Response, Failure> {
    call.app().provider_unarchive(call.actor()?, id(&call)?).await?;
    call.json(&StatusAnswer { status: "unarchived".to_owned() })
}
