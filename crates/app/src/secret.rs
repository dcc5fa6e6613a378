//! Secrets: opaque values that transforms of policies put on requests. A value comes in, is sealed before it reaches the
//! store, and is never answered.

use std::fmt;

use freehold_access::{Actor, Right};
use freehold_model::{
    SecretId, Timestamp,
    audit::EventType,
    secret::{self, Holder, Secret},
};
use freehold_store::{OrgRead, OrgTx, Page, SECRET_NAME_KEY};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{self, Cause},
    error::Fields,
    new_uuid, now,
    once::once,
};

/// The most secrets of an organization.
pub const SECRETS_MAX: u32 = 1_000;

/// A secret to create, or another value for one.
#[derive(Clone)]
pub struct SecretNew {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Zeroizing<String>,
}

impl fmt::Debug for SecretNew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretNew").field("name", &self.name).finish_non_exhaustive()
    }
}

impl App {
    /// Secrets of the organization, without their values, oldest first. Any caller may know their names, which policies
    /// hold too.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn secret_list(&self, actor: &Actor, page: Page<SecretId>) -> Result<Vec<Secret>, Error> {
        self.store().read(actor.organization(), move |tx| Ok(tx.secret_list(&page)?)).await
    }

    /// Creates a secret.
    ///
    /// # Errors
    /// When the caller may not, a field is not acceptable, the name is taken, there are [`SECRETS_MAX`] already, or the value
    /// cannot be kept.
    pub async fn secret_create(
        &self,
        actor: &Actor,
        new: SecretNew,
        request: Option<Once<Secret>>,
    ) -> Result<Outcome<Secret>, Error> {
        actor.reach(Right::SecretsWrite)?;
        check(&new)?;
        let now = now();
        let secret = Secret {
            id: SecretId::from_uuid(new_uuid()),
            organization_id: actor.organization(),
            name: new.name,
            created_by: actor.member_id(),
            updated_by: actor.member_id(),
            created_at: now,
            updated_at: now,
        };
        let holder = Holder::Secret(secret.id);
        let sealed = self.ports().sealer.seal(actor.organization(), holder, new.value.as_bytes()).await?;
        let (caller, kept) = (actor.clone(), sealed.clone());
        let made = self
            .store()
            .write(actor.organization(), move |tx| {
                once(tx, &caller, now, request, |tx| {
                    let taken = || Error::NameTaken { thing: Thing::Secret, name: secret.name.clone() };
                    if tx.secret_by_name(&secret.name)?.is_some() {
                        return Err(taken());
                    }
                    if tx.secret_list(&Page::first(SECRETS_MAX))?.len() >= SECRETS_MAX as usize {
                        let text = format!("there are {SECRETS_MAX} secrets already, which is the most");
                        return Err(Error::field("name", text));
                    }
                    tx.secret_insert(&secret, &sealed).map_err(|error| {
                        match error.is_duplicate(SECRET_NAME_KEY) {
                            true => taken(),
                            false => error.into(),
                        }
                    })?;
                    append(tx, &caller, EventType::SecretCreated, &secret.name, now)?;
                    Ok(secret)
                })
            })
            .await;
        self.forget_unless_made(actor, holder, &kept, &made).await;
        made
    }

    /// Gives a secret another value, which running workspaces use for their next request.
    ///
    /// # Errors
    /// When the caller may not, there is no such secret, the value is not acceptable or cannot be kept.
    pub async fn secret_update(&self, actor: &Actor, new: SecretNew) -> Result<Secret, Error> {
        actor.reach(Right::SecretsWrite)?;
        let SecretNew { name, value } = &new;
        let (found, _) = self.secret(actor, name.clone()).await?;
        check(&new)?;
        let holder = Holder::Secret(found.id);
        let sealed = self.ports().sealer.seal(actor.organization(), holder, value.as_bytes()).await?;
        let (caller, name) = (actor.clone(), name.clone());
        self.store()
            .write(actor.organization(), move |tx| {
                let (mut secret, _) = by_name(tx, &name)?;
                if secret.id != found.id {
                    // It was deleted meanwhile, and another made under its name.
                    return Err(Error::NotFound(Thing::Secret));
                }
                secret.updated_at = now();
                secret.updated_by = caller.member_id();
                tx.secret_update(&secret, &sealed)?;
                append(tx, &caller, EventType::SecretUpdated, &secret.name, secret.updated_at)?;
                Ok(secret)
            })
            .await
    }

    /// Deletes a secret and its value. Where the value is elsewhere it is removed there first, so that a failure leaves a
    /// secret that can be deleted again, and never a value that nothing refers to.
    ///
    /// # Errors
    /// When the caller may not, there is no such secret, or its value cannot be removed.
    pub async fn secret_delete(&self, actor: &Actor, name: String) -> Result<(), Error> {
        actor.reach(Right::SecretsWrite)?;
        let (found, sealed) = self.secret(actor, name).await?;
        let holder = Holder::Secret(found.id);
        self.ports().sealer.discard(actor.organization(), holder, &sealed).await?;
        let caller = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let (secret, _) = by_name(tx, &found.name)?;
                if secret.id != found.id {
                    return Err(Error::NotFound(Thing::Secret));
                }
                tx.secret_delete(secret.id)?;
                append(tx, &caller, EventType::SecretDeleted, &secret.name, now())
            })
            .await
    }

    async fn secret(&self, actor: &Actor, name: String) -> Result<(Secret, Vec<u8>), Error> {
        self.store().read(actor.organization(), move |tx| by_name(tx, &name)).await
    }

    /// Removes what was kept for a row, when that was not written for certain.
    pub(crate) async fn forget_unless_made<T: Sync>(
        &self,
        actor: &Actor,
        holder: Holder,
        kept: &[u8],
        made: &Result<Outcome<T>, Error>,
    ) {
        let may_be_there =
            matches!(made, Ok(Outcome::Done(_)) | Err(Error::Store(freehold_store::Error::Uncertain { .. })));
        if may_be_there {
            return;
        }
        if let Err(error) = self.ports().sealer.discard(actor.organization(), holder, kept).await {
            tracing::warn!(
                secret.holder = %holder,
                error = &error as &dyn std::error::Error,
                "the value of what was not created may be left in the store of secrets"
            );
        }
    }
}

fn by_name(tx: &mut OrgRead<'_>, name: &str) -> Result<(Secret, Vec<u8>), Error> {
    tx.secret_by_name(name)?.ok_or(Error::NotFound(Thing::Secret))
}

fn append(
    tx: &mut OrgTx<'_>,
    caller: &Actor,
    what: EventType,
    name: &str,
    at: Timestamp,
) -> Result<(), Error> {
    audit::append(tx, &Cause::caller(caller), what, json!({ "name": name }), at)
}

fn check(new: &SecretNew) -> Result<(), Error> {
    let mut fields = Fields::default();
    let rule = "must be a letter, then letters, digits, `_` and `-`, 64 characters at most";
    fields.refuse(!secret::is_name(&new.name), "name", rule);
    fields.refuse(new.value.is_empty(), "value", "cannot be empty");
    let limit = secret::VALUE_BYTES_MAX;
    fields.refuse(new.value.len() > limit, "value", &format!("is longer than {limit} bytes"));
    fields.check()
}
