//! Secrets.

use axum::response::Response;
use freehold_api::{
    error::ErrorCode,
    secret::{SecretCreate, SecretUpdate},
    service::{ListQuery, StatusAnswer},
};
use freehold_app::secret::SecretNew;
use freehold_model::secret::{Secret, SecretName};
use zeroize::Zeroizing;

use crate::{
    call::{Call, Handler},
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("secret_list", |call| Box::pin(secret_list(call))),
    ("secret_create", |call| Box::pin(secret_create(call))),
    ("secret_update", |call| Box::pin(secret_update(call))),
    ("secret_delete", |call| Box::pin(secret_delete(call))),
];

fn name(call: &Call) -> Result<String, Failure> {
    call.id::<SecretName>("name", ErrorCode::SecretNotFound).map(|name| name.to_string())
}

fn render(secret: &Secret) -> Vec<u8> {
    wire::bytes(&wire::secret(secret.clone()))
}

async fn secret_list(mut call: Call) -> Result<Response, Failure> {
    let query: ListQuery = call.query()?;
    let shape = list::Shape { field: Some("secrets"), place: |one: &Secret| one.id, wire: wire::secret };
    list::respond(&call, shape, query.limit, query.cursor.as_deref(), |app, actor, page| async move {
        app.secret_list(&actor, page).await
    })
    .await
}

async fn secret_create(mut call: Call) -> Result<Response, Failure> {
    let once = call.once(render)?;
    let SecretCreate { name, value } = call.fields()?;
    let new = SecretNew { name, value: Zeroizing::new(value) };
    let outcome = call.app().secret_create(call.actor()?, new, once).await?;
    Ok(call.outcome(outcome, render))
}

async fn secret_update(mut call: Call) -> Result<Response, Failure> {
    let SecretUpdate { value } = call.fields()?;
    let new = SecretNew { name: name(&call)?, value: Zeroizing::new(value) };
    let secret = call.app().secret_update(call.actor()?, new).await?;
    call.json(&wire::secret(secret))
}

async fn secret_delete(call: Call) -> Result<Response, Failure> {
    call.app().secret_delete(call.actor()?, name(&call)?).await?;
    call.json(&StatusAnswer { status: "deleted".to_owned() })
}
