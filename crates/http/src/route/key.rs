//! API keys.

use axum::response::Response;
use freehold_api::{
    api_key::{ApiKeyCreate, ApiKeyCreated},
    error::ErrorCode,
    service::{ListQuery, StatusAnswer},
};
use freehold_model::api_key::ApiKey;

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("api_key_list", |call| Box::pin(api_key_list(call))),
    ("api_key_create", |call| Box::pin(api_key_create(call))),
    ("api_key_revoke", |call| Box::pin(api_key_revoke(call))),
];

async fn api_key_list(mut call: Call) -> Result<Response, Failure> {
    let query: ListQuery = call.query()?;
    let shape = list::Shape { field: Some("api_keys"), place: |key: &ApiKey| key.id, wire: wire::api_key };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), |app, actor, page| async move {
        app.api_key_list(&actor, page).await
    })
    .await
}

async fn api_key_create(mut call: Call) -> Result<Response, Failure> {
    // What is kept of the answer is nothing: it holds the secret.
    let once = call.once(|_| Vec::new())?;
    let fields: ApiKeyCreate = call.fields()?;
    let (key, secret) =
        call.app().api_key_create(call.actor()?, fields.label, fields.permission_set, once).await?;
    call.json(&ApiKeyCreated { key: wire::api_key(key), value: secret.expose().to_owned() })
}

async fn api_key_revoke(call: Call) -> Result<Response, Failure> {
    let id = call.id("id", ErrorCode::ApiKeyNotFound)?;
    call.app().api_key_revoke(call.actor()?, id).await?;
    call.json(&StatusAnswer { status: "revoked".to_owned() })
}
