//! Credentials.

use axum::response::Response;
use freehold_api::{
    credential::CredentialCreate,
    error::ErrorCode,
    service::{ListQuery, StatusAnswer},
};
use freehold_app::{
    credential::{CredentialNew, Kept},
    ports::SecretFields,
};
use freehold_model::CredentialId;
use zeroize::Zeroizing;

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("credential_list", |call| Box::pin(credential_list(call))),
    ("credential_create", |call| Box::pin(credential_create(call))),
    ("credential_view", |call| Box::pin(credential_view(call))),
    ("credential_delete", |call| Box::pin(credential_delete(call))),
];

fn id(call: &Call) -> Result<CredentialId, Failure> {
    call.id("id", ErrorCode::CredentialNotFound)
}

fn render(kept: &Kept) -> Vec<u8> {
    wire::bytes(&wire::credential(kept.clone()))
}

async fn credential_list(mut call: Call) -> Result<Response, Failure> {
    let query: ListQuery = call.query()?;
    let shape = list::Shape {
        field: Some("credentials"),
        place: |one: &Kept| one.credential.id,
        wire: wire::credential,
    };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), |app, actor, page| async move {
        app.credential_list(&actor, page).await
    })
    .await
}

async fn credential_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let new = new(call.fields()?);
    let outcome = call.app().credential_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

fn new(fields: CredentialCreate) -> CredentialNew {
    let secret = |text: Option<String>| text.map(Zeroizing::new);
    CredentialNew {
        name: fields.name,
        provider: fields.provider,
        kind: fields.kind,
        scopes: fields.scopes,
        provider_config: fields.provider_config,
        secrets: SecretFields {
            api_key: secret(fields.api_key),
            password: secret(fields.password),
            client_secret: secret(fields.client_secret),
            private_key: secret(fields.private_key),
            service_account_json: secret(fields.service_account_json),
            secret_access_key: secret(fields.secret_access_key),
            session_token: secret(fields.session_token),
        },
        personal: fields.personal.unwrap_or_default(),
        allow_user_override: fields.allow_user_override.unwrap_or_default(),
    }
}

async fn credential_view(call: Call) -> Result<Response, Failure> {
    let credential = call.app().credential_view(call.actor()?, id(&call)?).await?;
    call.json(&wire::credential(credential))
}

async fn credential_delete(call: Call) -> Result<Response, Failure> {
    call.app().credential_delete(call.actor()?, id(&call)?).await?;
    call.json(&StatusAnswer { status: "deleted".to_owned() })
}
