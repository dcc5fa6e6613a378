//! Credentials: what egress injects. A secret comes in, is sealed before it reaches the store, and is never answered.

mod check;
mod consent;

use std::{collections::BTreeMap, fmt};

use freehold_access::{Actor, Right};
use freehold_model::{
    CredentialId, MemberId,
    audit::EventType,
    credential::{Credential, Kind, Status},
    secret::Holder,
};
use freehold_store::{CredentialOwners, OrgRead, Page};
use serde_json::json;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{self, Cause},
    new_uuid, now,
    once::once,
    ports::{PackedSecret, Revocation, SecretFields},
};

pub use consent::{Consent, ConsentFailed, Return};

/// A credential to create.
#[derive(Clone)]
pub struct CredentialNew {
    /// Its name.
    pub name: String,
    /// Whose service it is for.
    pub provider: String,
    /// How it is obtained and presented.
    pub kind: Kind,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Settings that are not secret.
    pub provider_config: BTreeMap<String, String>,
    /// The secrets.
    pub secrets: SecretFields,
    /// Whether it is the caller's own, in the place of the organization's of the same name.
    pub personal: bool,
    /// Whether members may have one of their own in its place.
    pub allow_user_override: bool,
}

impl fmt::Debug for CredentialNew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialNew")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A credential, and where its secret is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The credential.
    pub credential: Credential,
    /// The path in the store of secrets, when it is kept there.
    pub elsewhere: Option<String>,
}

impl App {
    fn kept(&self, credential: Credential, sealed: Option<&[u8]>) -> Kept {
        Kept { credential, elsewhere: sealed.and_then(|sealed| self.ports().sealer.reference(sealed)) }
    }

    /// Credentials that the caller may see, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential_list(&self, actor: &Actor, page: Page<CredentialId>) -> Result<Vec<Kept>, Error> {
        let caller = actor.clone();
        let listed = self.store().read(actor.organization(), move |tx| {
            let owners = match caller.reach(Right::CredentialWriteAll) {
                Ok(_) => CredentialOwners::All,
                Err(_) => CredentialOwners::SharedAnd(caller.member_id()),
            };
            Ok::<_, Error>(tx.credential_list(owners, &page)?)
        });
        let kept = |(credential, sealed): (Credential, Vec<u8>)| self.kept(credential, Some(&sealed));
        Ok(listed.await?.into_iter().map(kept).collect())
    }

    /// One credential.
    ///
    /// # Errors
    /// When there is none that the caller may see.
    pub async fn credential_view(&self, actor: &Actor, id: CredentialId) -> Result<Kept, Error> {
        let caller = actor.clone();
        let read = self.store().read(actor.organization(), move |tx| {
            Ok::<_, Error>((visible(tx, &caller, id)?, tx.credential_sealed(id)?))
        });
        let (credential, sealed) = read.await?;
        Ok(self.kept(credential, sealed.as_deref()))
    }

    /// Creates a credential of the organization, or a personal one of the caller.
    ///
    /// # Errors
    /// When the caller may not, a field is not acceptable, the name is taken, or encryption fails.
    pub async fn credential_create(
        &self,
        actor: &Actor,
        mut new: CredentialNew,
        request: Option<Once<Kept>>,
    ) -> Result<Outcome<Kept>, Error> {
        let owner = owner(actor, new.personal)?;
        let instead_of = match owner {
            Some(_) => Some(self.overridden(actor, &new).await?),
            None => None,
        };
        // A member consents under the organization's client, unless it has one of its own: both parts, or none.
        let shared = instead_of.filter(|_| new.provider_config.is_empty() && new.secrets.is_empty());
        if let Some((organizations, _)) = &shared {
            new.provider_config.clone_from(&organizations.provider_config);
            if new.scopes.is_empty() {
                new.scopes.clone_from(&organizations.scopes);
            }
        }
        let PackedSecret { secret, token_url } = check::fields(&mut new, self.ports().issuers.as_ref())?;
        if let Some(token_url) = token_url {
            new.provider_config.insert("token_url".to_owned(), token_url);
        }
        let now = now();
        let credential = Credential {
            id: CredentialId::from_uuid(new_uuid()),
            organization_id: actor.organization(),
            member_id: owner,
            name: new.name,
            provider: new.provider,
            kind: new.kind,
            scopes: new.scopes,
            provider_config: new.provider_config,
            allow_user_override: new.allow_user_override,
            last_minted_at: None,
            last_minted_status: None,
            status: new.kind.first_status(),
            created_at: now,
            updated_at: now,
        };
        let holder = Holder::Credential(credential.id);
        let sealed = match &shared {
            Some((from, sealed)) => self.ports().issuers.client_of(from, sealed, &credential).await?,
            None => self.ports().sealer.seal(actor.organization(), holder, &secret).await?,
        };
        let (caller, kept) = (actor.clone(), sealed.clone());
        let elsewhere = self.ports().sealer.reference(&sealed);
        let made = self
            .store()
            .write(actor.organization(), move |tx| {
                once(tx, &caller, now, request, |tx| {
                    let taken = match credential.member_id {
                        Some(member) => tx.credential_of_member(&credential.name, member)?,
                        None => tx.credential_by_name(&credential.name)?,
                    };
                    if taken.is_some() {
                        return Err(Error::NameTaken { thing: Thing::Credential, name: credential.name });
                    }
                    tx.credential_insert(&credential, &sealed)?;
                    let cause = Cause::caller(&caller);
                    audit::append(tx, &cause, EventType::CredentialCreated, detail(&credential), now)?;
                    Ok(Kept { credential, elsewhere })
                })
            })
            .await;
        self.forget_unless_made(actor, holder, &kept, &made).await;
        made
    }

    /// The organization's credential that a personal one is to stand for, with its sealed secret.
    async fn overridden(&self, actor: &Actor, new: &CredentialNew) -> Result<(Credential, Vec<u8>), Error> {
        let name = new.name.clone();
        let found = self
            .store()
            .read(actor.organization(), move |tx| {
                let Some(found) = tx.credential_by_name(&name)? else { return Ok(None) };
                let sealed = tx.credential_sealed(found.id)?;
                Ok::<_, Error>(sealed.map(|sealed| (found, sealed)))
            })
            .await?;
        let allowed = found.filter(|(found, _)| found.allow_user_override);
        let allowed = allowed.ok_or_else(|| {
            Error::field("name", "the organization has no credential of this name that members may override")
        })?;
        if allowed.0.provider != new.provider {
            let reason = format!("must be `{}`, as of the organization's credential", allowed.0.provider);
            return Err(Error::field("provider", reason));
        }
        Ok(allowed)
    }

    /// Deletes a credential and its secret, and asks its issuer to take back what it gave; that is waited for by nobody,
    /// and a row says what came of it.
    ///
    /// # Errors
    /// When the caller may not, or there is none.
    pub async fn credential_delete(&self, actor: &Actor, id: CredentialId) -> Result<(), Error> {
        let caller = actor.clone();
        let (credential, sealed) = self
            .store()
            .read(actor.organization(), move |tx| {
                let credential = writable(tx, &caller, id)?;
                Ok::<_, Error>((credential, tx.credential_sealed(id)?))
            })
            .await?;
        let mut revocation = None;
        if let Some(sealed) = sealed {
            if credential.kind.is_minted() {
                // It takes the secret with it: what is kept of that elsewhere goes before the row.
                revocation = self.ports().issuers.revocation(&credential, &sealed).await;
            }
            self.ports().sealer.discard(actor.organization(), Holder::Credential(id), &sealed).await?;
        }
        let caller = actor.clone();
        let credential = self
            .store()
            .write(actor.organization(), move |tx| {
                let credential = writable(tx, &caller, id)?;
                tx.credential_delete(id)?;
                let cause = Cause::caller(&caller);
                audit::append(tx, &cause, EventType::CredentialDeleted, detail(&credential), now())?;
                Ok::<_, Error>(credential)
            })
            .await?;
        if let Some(revocation) = revocation {
            self.credential_revoke(Cause::caller(actor), credential, revocation);
        }
        Ok(())
    }

    fn credential_revoke(&self, cause: Cause, credential: Credential, revocation: Revocation) {
        let store = self.store().clone();
        tokio::spawn(async move {
            let Some(revoked) = revocation.await else { return };
            let outcome = revoked.map_or_else(|refused| refused.0, |()| "revoked");
            let mut detail = detail(&credential);
            detail["outcome"] = outcome.into();
            let written = store.write(credential.organization_id, move |tx| {
                audit::append(tx, &cause, EventType::CredentialRevocation, detail, now())
            });
            if let Err(error) = written.await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(credential.id = %credential.id, outcome, error, "what came of a revocation is not in the log");
            }
        });
    }
}

/// Whose the new credential is to be, by a caller who may create it.
fn owner(actor: &Actor, personal: bool) -> Result<Option<MemberId>, Error> {
    if !personal {
        actor.reach(Right::CredentialWriteAll)?;
        return Ok(None);
    }
    actor.reach(Right::CredentialWrite)?;
    let member = actor.member_id();
    member
        .map(Some)
        .ok_or_else(|| Error::field("personal", "an API key is nobody, and has no credentials of its own"))
}

/// The credential, if the caller may change or delete it: the unscoped scope is needed unless it is the caller's own.
fn writable(tx: &mut OrgRead<'_>, actor: &Actor, id: CredentialId) -> Result<Credential, Error> {
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

pub(crate) fn detail(credential: &Credential) -> serde_json::Value {
    let Credential { id, name, provider, kind, .. } = credential;
    let mut detail = json!({ "credential_id": id, "name": name, "provider": provider, "kind": kind });
    if let Some(member) = credential.member_id {
        detail["member_id"] = member.to_string().into();
    }
    detail
}

/// The detail of a row that says that a credential comes to another status.
pub(crate) fn change(credential: &Credential, to: Status) -> serde_json::Value {
    let mut detail = detail(credential);
    detail["from"] = credential.status.as_str().into();
    detail["to"] = to.as_str().into();
    detail
}
