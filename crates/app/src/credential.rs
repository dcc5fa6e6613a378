//! Credentials: what egress injects. A secret comes in, is sealed before it reaches the store, and is never answered.

use std::{collections::BTreeMap, fmt};

use freehold_access::{Actor, Right};
use freehold_model::{
    CredentialId,
    audit::EventType,
    credential::{Credential, Kind, Status},
    secret::Holder,
};
use freehold_store::{OrgRead, Page};
use serde_json::json;
use zeroize::Zeroizing;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{self, Cause},
    error::Fields,
    new_uuid, now,
    once::once,
};

/// A credential to create.
#[derive(Clone)]
pub struct CredentialNew {
    /// Its name.
    pub name: String,
    /// Whose service it is for.
    pub provider: String,
    /// How it is presented.
    pub kind: Kind,
    /// Settings that are not secret.
    pub provider_config: BTreeMap<String, String>,
    /// The secret.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for CredentialNew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialNew")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl App {
    /// Credentials that the caller may see, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential_list(
        &self,
        actor: &Actor,
        page: Page<CredentialId>,
    ) -> Result<Vec<Credential>, Error> {
        let caller = actor.clone();
        self.store()
            .read(actor.organization(), move |tx| {
                // A key has no personal credentials; those of members are not shown to it.
                let everything = caller.reach(Right::CredentialWriteAll).is_ok();
                let listed = match (everything, caller.member_id()) {
                    (true, _) => tx.credential_list(None, &page)?,
                    (false, Some(member)) => tx.credential_list(Some(member), &page)?,
                    (false, None) => {
                        let all = tx.credential_list(None, &page)?;
                        all.into_iter().filter(|credential| credential.member_id.is_none()).collect()
                    }
                };
                Ok(listed)
            })
            .await
    }

    /// One credential.
    ///
    /// # Errors
    /// When there is none that the caller may see.
    pub async fn credential_view(&self, actor: &Actor, id: CredentialId) -> Result<Credential, Error> {
        let caller = actor.clone();
        self.store().read(actor.organization(), move |tx| visible(tx, &caller, id)).await
    }

    /// Creates a credential of the organization.
    ///
    /// # Errors
    /// When the caller may not, a field is not acceptable, the name is taken, or encryption fails.
    pub async fn credential_create(
        &self,
        actor: &Actor,
        new: CredentialNew,
        request: Option<Once<Credential>>,
    ) -> Result<Outcome<Credential>, Error> {
        // With `auth:write:own` alone only personal overrides could be created, which are not built yet.
        actor.reach(Right::CredentialWriteAll)?;
        check(&new)?;
        let CredentialNew { name, provider, kind, provider_config, secret } = new;
        let now = now();
        let credential = Credential {
            id: CredentialId::from_uuid(new_uuid()),
            organization_id: actor.organization(),
            member_id: None,
            name,
            provider,
            kind,
            scopes: Vec::new(),
            provider_config,
            last_minted_at: None,
            last_minted_status: None,
            status: Status::Active,
            created_at: now,
            updated_at: now,
        };
        let holder = Holder::Credential(credential.id);
        let sealed = self.ports().sealer.seal(actor.organization(), holder, secret.as_bytes()).await?;
        let (caller, kept) = (actor.clone(), sealed.clone());
        let made = self
            .store()
            .write(actor.organization(), move |tx| {
                once(tx, &caller, now, request, |tx| {
                    if tx.credential_by_name(&credential.name)?.is_some() {
                        return Err(Error::NameTaken { thing: Thing::Credential, name: credential.name });
                    }
                    tx.credential_insert(&credential, &sealed)?;
                    let cause = Cause::caller(&caller);
                    audit::append(tx, &cause, EventType::CredentialCreated, detail(&credential), now)?;
                    Ok(credential)
                })
            })
            .await;
        self.forget_unless_made(actor, holder, &kept, &made).await;
        made
    }

    /// Deletes a credential and its secret.
    ///
    /// # Errors
    /// When the caller may not, or there is none.
    pub async fn credential_delete(&self, actor: &Actor, id: CredentialId) -> Result<(), Error> {
        let caller = actor.clone();
        let sealed = self
            .store()
            .read(actor.organization(), move |tx| {
                deletable(tx, &caller, id)?;
                Ok::<_, Error>(tx.credential_sealed(id)?)
            })
            .await?;
        if let Some(sealed) = sealed {
            self.ports().sealer.discard(actor.organization(), Holder::Credential(id), &sealed).await?;
        }
        let caller = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let credential = deletable(tx, &caller, id)?;
                tx.credential_delete(id)?;
                let cause = Cause::caller(&caller);
                audit::append(tx, &cause, EventType::CredentialDeleted, detail(&credential), now())
            })
            .await
    }
}

/// The credential, if the caller may delete it: the unscoped scope is needed unless it is the caller's own.
fn deletable(tx: &mut OrgRead<'_>, actor: &Actor, id: CredentialId) -> Result<Credential, Error> {
    let reach = actor.reach(Right::CredentialWrite)?;
    let credential = visible(tx, actor, id)?;
    if !reach.covers(credential.member_id) {
        actor.reach(Right::CredentialWriteAll)?;
    }
    Ok(credential)
}

/// The credential, unless it is another member's and the caller may not see those.
fn visible(tx: &mut OrgRead<'_>, actor: &Actor, id: CredentialId) -> Result<Credential, Error> {
    let credential = tx.credential_view(id)?.ok_or(Error::NotFound(Thing::Credential))?;
    let own = credential.member_id.is_none() || credential.member_id == actor.member_id();
    if own || actor.reach(Right::CredentialWriteAll).is_ok() {
        Ok(credential)
    } else {
        Err(Error::NotFound(Thing::Credential))
    }
}

fn detail(credential: &Credential) -> serde_json::Value {
    let Credential { id, name, provider, kind, .. } = credential;
    json!({ "credential_id": id, "name": name, "provider": provider, "kind": kind })
}

fn check(new: &CredentialNew) -> Result<(), Error> {
    let mut fields = Fields::default();
    let known: &[&str] = match new.kind {
        Kind::ApiKey => &[],
        Kind::BasicAuth => &["username"],
        Kind::QueryApiKey => &["parameter"],
    };
    for key in new.provider_config.keys().filter(|key| !known.contains(&key.as_str())) {
        fields.add(&format!("provider_config.{key}"), "not a setting of this kind");
    }
    if new.kind == Kind::BasicAuth {
        let username = new.provider_config.get("username");
        let good = username.is_some_and(|name| !name.is_empty() && !name.contains([':', '\r', '\n', '\0']));
        fields.refuse(!good, "provider_config.username", "is required, without colon or control characters");
    }
    if let Some(parameter) = new.provider_config.get("parameter") {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let good = !parameter.is_empty() && parameter.bytes().all(plain);
        fields.refuse(!good, "provider_config.parameter", "must be letters, digits, `-`, `_` and `.`");
    }
    let field = if new.kind == Kind::BasicAuth { "password" } else { "api_key" };
    let unsendable = new.secret.trim().is_empty() || new.secret.trim().chars().any(char::is_control);
    fields.refuse(unsendable, field, "cannot be empty or hold control characters");
    fields.check()
}
