//! API keys: automation's credential.

use freehold_access::{Actor, Right};
use freehold_model::{
    ApiKeyId,
    api_key::{ApiKey, PermissionSet},
    audit::EventType,
};
use freehold_store::Page;
use serde_json::json;

use crate::{
    App, Error, Once, Outcome, Secret, Thing,
    audit::{self, Cause},
    auth::API_KEY_PREFIX,
    new_uuid, now,
    once::once,
};

impl App {
    /// API keys in force, oldest first.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn api_key_list(&self, actor: &Actor, page: Page<ApiKeyId>) -> Result<Vec<ApiKey>, Error> {
        actor.reach(Right::ApiKeysWrite)?;
        self.store().read(actor.organization(), move |tx| Ok(tx.api_key_list(&page)?)).await
    }

    /// Creates an API key. Its secret is answered this once.
    ///
    /// # Errors
    /// When the caller may not, or the request was sent before.
    pub async fn api_key_create(
        &self,
        actor: &Actor,
        label: String,
        permission_set: PermissionSet,
        request: Option<Once<ApiKey>>,
    ) -> Result<(ApiKey, Secret), Error> {
        actor.reach(Right::ApiKeysWrite)?;
        let secret = Secret::generate(API_KEY_PREFIX)?;
        let now = now();
        let key = ApiKey {
            id: ApiKeyId::from_uuid(new_uuid()),
            organization_id: actor.organization(),
            label,
            prefix: secret.obfuscated(),
            permission_set,
            created_at: now,
        };
        let (actor, hash) = (actor.clone(), secret.hash());
        let made = self
            .store()
            .write(actor.organization(), move |tx| {
                once(tx, &actor, now, request, |tx| {
                    tx.api_key_insert(&key, &hash)?;
                    let detail =
                        json!({ "api_key_id": key.id, "label": key.label, "permission_set": permission_set });
                    audit::append(tx, &Cause::caller(&actor), EventType::ApiKeyCreated, detail, now)?;
                    Ok(key)
                })
            })
            .await?;
        match made {
            Outcome::Done(key) => Ok((key, secret)),
            // What was answered then held the secret, which is kept nowhere.
            Outcome::Replayed(_) => Err(Error::IdempotencyConflict(
                "this key was made already, and its secret is shown once: revoke it and make another",
            )),
        }
    }

    /// Revokes an API key: once this has answered, no request with it is served.
    ///
    /// # Errors
    /// When the caller may not, or there is no such key in force.
    pub async fn api_key_revoke(&self, actor: &Actor, id: ApiKeyId) -> Result<(), Error> {
        actor.reach(Right::ApiKeysWrite)?;
        let cause = Cause::caller(actor);
        self.store()
            .write(actor.organization(), move |tx| {
                let key = tx.api_key_view(id)?.ok_or(Error::NotFound(Thing::ApiKey))?;
                let now = now();
                tx.api_key_revoke(id, now)?;
                let detail = json!({ "api_key_id": id, "label": key.label });
                audit::append(tx, &cause, EventType::ApiKeyRevoked, detail, now)
            })
            .await?;
        self.callers_forget();
        Ok(())
    }
}
