//! Credentials as requests of pods need them: found by name, opened, renewed, and their attempts noted.

use freehold_model::{
    CredentialId, MemberId, Next, OrganizationId, Timestamp,
    audit::{Actor, EventType, SYSTEM_USER},
    credential::{self, Credential, Event, Kind, Status},
};
use freehold_store::{Error as StoreError, OrgRead};

use super::Fleet;
use crate::{
    Error,
    audit::{self, Cause},
    credential::{change, detail},
    now,
};

/// What came of an attempt to obtain what a credential stands for.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// What it means for the status, if anything.
    pub event: Option<Event>,
    /// `ok`, or why it failed.
    pub code: &'static str,
    /// Whether an issuer was asked, so that there is a row of it.
    pub asked: bool,
    /// When what it gave expires.
    pub expires_at: Option<Timestamp>,
}

/// See [`Fleet::credential`].
pub(super) fn serving(
    rows: &mut OrgRead<'_>,
    member: Option<MemberId>,
    name: &str,
    only: Option<CredentialId>,
) -> Result<Option<Credential>, StoreError> {
    // Whoever deletes the organization's ends what stands in its place too.
    let Some(shared) = rows.credential_by_name(name)? else { return Ok(None) };
    let member = member.filter(|_| shared.allow_user_override);
    let own = member.map(|member| rows.credential_of_member(name, member)).transpose()?.flatten();
    let own = own.filter(|own| {
        own.status == Status::Active
            && own.kind == Kind::Oauth2AuthorizationCode
            && own.provider == shared.provider
    });
    Ok(own.into_iter().chain([shared]).find(|found| only.is_none_or(|only| found.id == only)))
}

impl Fleet {
    /// The credential that has this name for the work of this member: the member's own, where it can be used and the
    /// organization's lets it stand in its place; else the organization's. With `only`, the one with this id or none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential(
        &self,
        organization: OrganizationId,
        member: Option<MemberId>,
        name: &str,
        only: Option<CredentialId>,
    ) -> Result<Option<Credential>, Error> {
        let name = name.to_owned();
        self.store.read(organization, move |rows| Ok(serving(rows, member, &name, only)?)).await
    }

    /// The sealed secret of a credential, unless it was deleted.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential_sealed(&self, credential: &Credential) -> Result<Option<Vec<u8>>, Error> {
        let id = credential.id;
        self.store
            .read(credential.organization_id, move |rows| Ok::<_, Error>(rows.credential_sealed(id)?))
            .await
    }

    /// Replaces the sealed secret durably; false when the credential was changed or deleted meanwhile.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential_reseal(&self, credential: &Credential, sealed: Vec<u8>) -> Result<bool, Error> {
        let (id, updated_at) = (credential.id, credential.updated_at);
        self.store
            .write(credential.organization_id, move |tx| {
                Ok::<_, Error>(tx.credential_reseal(id, updated_at, &sealed)?)
            })
            .await
    }

    /// Notes an attempt, with its rows. What is told of a credential that was changed meanwhile leaves its status alone.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn credential_attempt(&self, credential: &Credential, attempt: Attempt) -> Result<(), Error> {
        let credential = credential.clone();
        self.store
            .write(credential.organization_id, move |tx| {
                let Some(row) = tx.credential_view(credential.id)? else { return Ok(()) };
                let now = now();
                let minted_at = Some(now).filter(|_| attempt.event == Some(Event::Minted));
                tx.credential_note(row.id, minted_at, attempt.code)?;
                let user_id =
                    row.member_id.map_or_else(|| SYSTEM_USER.to_owned(), |member| member.to_string());
                let cause = Cause { user_id, actor: Actor::PolicyEngine };
                if attempt.asked {
                    let mut detail = detail(&row);
                    detail["code"] = attempt.code.into();
                    if let Some(expires_at) = attempt.expires_at {
                        detail["expires_at"] = expires_at.to_string().into();
                    }
                    let ok = attempt.event == Some(Event::Minted);
                    let what = if ok { EventType::CredentialMinted } else { EventType::CredentialMintFailed };
                    audit::append(tx, &cause, what, detail, now)?;
                }
                let event = attempt.event.filter(|_| row.updated_at == credential.updated_at);
                let Some(Next::Go(status)) = event.map(|event| credential::next(row.status, event)) else {
                    return Ok(());
                };
                let mut change = change(&row, status);
                change["code"] = attempt.code.into();
                audit::append(tx, &cause, EventType::CredentialStatusChanged, change, now)?;
                let last_minted_at = minted_at.or(row.last_minted_at);
                let last_minted_status = Some(attempt.code.to_owned());
                let changed =
                    Credential { status, updated_at: now, last_minted_at, last_minted_status, ..row };
                Ok(tx.credential_update(&changed)?)
            })
            .await
    }
}
