//! Credentials.

use axum::response::Response;
use freehold_api::{
    credential::{CredentialCreate, CredentialKind},
    error::ErrorCode,
    service::{ListQuery, StatusAnswer},
};
use freehold_app::credential::CredentialNew;
use freehold_model::{
    CredentialId,
    credential::{Credential, Kind},
};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

use crate::{
    call::{Call, Handler},
    cursor,
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

fn render(credential: &Credential) -> Vec<u8> {
    wire::bytes(&wire::credential(credential.clone()))
}

async fn credential_list(mut call: Call) -> Result<Response, Failure> {
    let query: ListQuery = call.query()?;
    let after = cursor::id(query.cursor.as_deref())?;
    let (app, actor) = (call.app().clone(), call.actor()?.clone());
    let shape =
        list::Shape { field: Some("credentials"), place: |one: &Credential| one.id, wire: wire::credential };
    list::respond(&call, shape, query.limit, after, move |page| {
        let (app, actor) = (app.clone(), actor.clone());
        async move { app.credential_list(&actor, page).await }
    })
    .await
}

async fn credential_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let new = new(call.fields()?)?;
    let outcome = call.app().credential_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

/// What is asked for, as far as this server has it; what it has not is refused.
fn new(fields: CredentialCreate) -> Result<CredentialNew, Failure> {
    let mut bad = BTreeMap::new();
    let mut refuse = |name: &str, reason: &str| bad.insert(name.to_owned(), reason.to_owned());
    let kind = match fields.kind {
        CredentialKind::ApiKey => Some(Kind::ApiKey),
        CredentialKind::BasicAuth => Some(Kind::BasicAuth),
        CredentialKind::QueryApiKey => Some(Kind::QueryApiKey),
        CredentialKind::Oauth2AuthorizationCode
        | CredentialKind::Oauth2ClientCredentials
        | CredentialKind::Oauth2JwtBearer
        | CredentialKind::Oauth2JwtBearerWithSubject
        | CredentialKind::Oauth2ClientAssertion => None,
    };
    if kind.is_none() {
        refuse("kind", "this server does not have credentials of this kind yet");
    }
    if !fields.scopes.is_empty() {
        refuse("scopes", "credentials of this kind have no scopes");
    }
    if fields.personal == Some(true) {
        refuse("personal", "personal credentials are not built yet");
    }
    if fields.allow_user_override == Some(true) {
        refuse("allow_user_override", "personal credentials are not built yet");
    }
    let (name, secret, other) = match kind {
        Some(Kind::BasicAuth) => ("password", fields.password, ("api_key", fields.api_key)),
        Some(Kind::ApiKey | Kind::QueryApiKey) | None => {
            ("api_key", fields.api_key, ("password", fields.password))
        }
    };
    if secret.is_none() && kind.is_some() {
        refuse(name, "is required for this kind");
    }
    if other.1.is_some() {
        refuse(other.0, "is not a field of this kind");
    }
    match (kind, secret) {
        (Some(kind), Some(secret)) if bad.is_empty() => Ok(CredentialNew {
            name: fields.name,
            provider: fields.provider,
            kind,
            provider_config: fields.provider_config,
            secret: Zeroizing::new(secret),
        }),
        _ => Err(Failure::fields(&bad)),
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
