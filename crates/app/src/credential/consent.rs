//! A person's consent, from the first step to the last: the state that the issuer gives back leads to the credential, and
//! the cookie shows that the same browser began it.
//!
//! The state and the cookie are random and only their hashes are stored; each state counts once, and not for long. PKCE's
//! verifier is made of the cookie, so that nobody but who began can use the code.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use freehold_access::Actor;
use freehold_model::{
    CredentialId, Next, OrganizationId,
    audit::{Actor as Writer, EventType},
    credential::{self, Credential, Event, Kind},
};
use freehold_store::OrgTx;
use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{change, detail, writable};
use crate::{
    App, Error, Secret, Thing,
    audit::{self, Cause},
    now,
    ports::IssuerRefused,
};

/// How long a person has to consent, in seconds.
pub const CONSENT_SECONDS_MAX: u32 = 600;

/// Where a person is sent to consent.
#[derive(Debug)]
pub struct Consent {
    /// The address.
    pub auth_url: String,
    /// The cookie that their browser must have when they come back.
    pub cookie: Secret,
    /// How long it counts, in seconds.
    pub max_age_seconds: u32,
}

/// What a person came back with.
#[derive(Debug, Clone, Default)]
pub struct Return {
    /// The state that they were sent with.
    pub state: Option<String>,
    /// What is exchanged for tokens.
    pub code: Option<String>,
    /// Why there is none.
    pub error: Option<String>,
    /// The same in the issuer's words.
    pub error_description: Option<String>,
}

/// Why a consent led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ConsentFailed {
    /// The state is unknown, was used before, or is too old.
    #[error("this consent is unknown, over, or took too long: begin anew")]
    Unknown,
    /// Another browser or program began it. It may still end it.
    #[error("this browser did not begin the consent")]
    OtherBrowser,
    /// The issuer refused, or the person did.
    #[error("the issuer refused: {code}")]
    Refused {
        /// The code, which is a known one.
        code: &'static str,
        /// The issuer's words, if any. Not to be trusted.
        description: Option<String>,
    },
    /// The server failed.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<freehold_store::Error> for ConsentFailed {
    fn from(error: freehold_store::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl App {
    fn redirect_uri(&self) -> String {
        format!("{}/oauth/callback", self.settings().public_url)
    }

    /// Begins a consent to a credential.
    ///
    /// # Errors
    /// When there is none that the caller may see or change, or it needs no consent.
    pub async fn credential_oauth_start(&self, actor: &Actor, id: CredentialId) -> Result<Consent, Error> {
        let caller = actor.clone();
        let credential = self.store().read(actor.organization(), move |tx| writable(tx, &caller, id)).await?;
        if credential.member_id.is_some() && credential.member_id != actor.member_id() {
            let reason = "a personal credential is consented to by its owner";
            return Err(Error::InvalidState(reason.to_owned()));
        }
        if credential.kind != Kind::Oauth2AuthorizationCode {
            return Err(Error::InvalidState(format!(
                "a credential of the kind {} needs no consent",
                credential.kind
            )));
        }
        let cookie = Secret::generate("")?;
        let state = format!("{}.{}", credential.organization_id, Secret::generate("")?.expose());
        let verifier = verifier(cookie.expose());
        let url =
            self.ports().issuers.authorization_url(&credential, &self.redirect_uri(), &state, &verifier);
        let auth_url =
            url.ok_or_else(|| Error::InvalidState("its issuer has no place for consent".to_owned()))?;
        let now = now();
        let row = freehold_store::Consent {
            state_hash: hash(&state),
            cookie_hash: hash(cookie.expose()),
            credential_id: id,
            started_by: actor.user_id(),
            expires_at: now + SignedDuration::from_secs(i64::from(CONSENT_SECONDS_MAX)),
        };
        self.store()
            .write(actor.organization(), move |tx| {
                tx.credential_view(id)?.ok_or(Error::NotFound(Thing::Credential))?;
                Ok::<_, Error>(tx.consent_insert(&row, now)?)
            })
            .await?;
        Ok(Consent { auth_url, cookie, max_age_seconds: CONSENT_SECONDS_MAX })
    }

    /// Ends a consent with what its person came back with; answers the credential, which can be used then.
    ///
    /// # Errors
    /// When the consent is none of this browser's, is over, or the issuer refuses.
    pub async fn credential_oauth_finish(
        &self,
        back: Return,
        cookie: Option<&str>,
    ) -> Result<Credential, ConsentFailed> {
        let state = back.state.as_deref().unwrap_or_default();
        let organization: OrganizationId =
            state.split_once('.').and_then(|(id, _)| id.parse().ok()).ok_or(ConsentFailed::Unknown)?;
        let state_hash = hash(state);
        let find = self.store().read(organization, move |tx| tx.consent_find(&state_hash, now()));
        let consent = find.await?.ok_or(ConsentFailed::Unknown)?;
        let cookie = cookie.filter(|cookie| bool::from(hash(cookie).ct_eq(&consent.cookie_hash)));
        let cookie = cookie.ok_or(ConsentFailed::OtherBrowser)?;
        let id = consent.credential_id;
        // Whoever deletes it has it: it counts once.
        let taken = self.store().write(organization, move |tx| {
            let taken = tx.consent_delete(&state_hash)?;
            let sealed = tx.credential_sealed(id)?;
            let found = tx.credential_view(id)?.zip(sealed);
            Ok::<_, freehold_store::Error>(found.filter(|_| taken))
        });
        let (credential, sealed) = taken.await?.ok_or(ConsentFailed::Unknown)?;
        let cause = Cause { user_id: consent.started_by, actor: Writer::ControlPlane };
        let exchanged = match (back.code, back.error) {
            (Some(code), None) => {
                let (verifier, redirect) = (verifier(cookie), self.redirect_uri());
                self.ports().issuers.exchange(&credential, sealed, &code, &verifier, &redirect).await
            }
            (_, error) => {
                Err(IssuerRefused(self.ports().issuers.refusal(error.as_deref().unwrap_or_default())))
            }
        };
        match exchanged {
            Ok(sealed) => {
                let finish = move |tx: &mut OrgTx<'_>| consented(tx, id, &sealed, &cause);
                Ok(self.store().write(organization, finish).await?)
            }
            Err(IssuerRefused(code)) => {
                let mut detail = detail(&credential);
                detail["code"] = code.into();
                let note = move |tx: &mut OrgTx<'_>| {
                    tx.credential_note(id, None, code)?;
                    audit::append(tx, &cause, EventType::CredentialMintFailed, detail, now())
                };
                self.store().write(organization, note).await?;
                Err(ConsentFailed::Refused { code, description: back.error_description })
            }
        }
    }
}

/// Keeps what a consent gave. The credential can be used from then on.
fn consented(
    tx: &mut OrgTx<'_>,
    id: CredentialId,
    sealed: &[u8],
    cause: &Cause,
) -> Result<Credential, Error> {
    let mut credential = tx.credential_view(id)?.ok_or(Error::NotFound(Thing::Credential))?;
    let now = now();
    tx.credential_reseal(id, credential.updated_at, sealed)?;
    audit::append(tx, cause, EventType::CredentialConsented, detail(&credential), now)?;
    if let Next::Go(status) = credential::next(credential.status, Event::Minted) {
        let change = change(&credential, status);
        audit::append(tx, cause, EventType::CredentialStatusChanged, change, now)?;
        credential.status = status;
    }
    credential.updated_at = now;
    credential.last_minted_at = Some(now);
    credential.last_minted_status = Some("ok".to_owned());
    tx.credential_update(&credential)?;
    Ok(credential)
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// PKCE's verifier, which only who has the cookie can make.
fn verifier(cookie: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(hash(&format!("pkce {cookie}")))
}
