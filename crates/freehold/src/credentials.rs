//! Wires credentials: what requests of pods ask for by name is found in the rows, opened by the vault, obtained by the
//! broker, which asks issuers by egress's way out.
//!
//! Invariant: a change of a credential (created, deleted, consented to, refused) holds for the next request: what is
//! remembered of a name counts as long as the store has told of no change.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_app::{
    fleet::{Attempt, Fleet, Look},
    ports::{IssuerRefused, Issuers, PackedSecret, Revocation, SealError, SecretFields},
};
use freehold_broker::{
    Broker, Given, Http, HttpError, Keeper, Note, OpenError, SigV4, Slot, ToSign, Unavailable as NotObtained,
};
use freehold_egress::{Credentials, Injection, Outbound, Outgoing, SecretValue, Signer, Unavailable};
use freehold_model::{
    MemberId, OrganizationId, WorkspaceId,
    credential::{Credential, Kind, unbound},
    secret::Holder,
};
use freehold_store::{Store, Topic};
use freehold_vault::{Place, Vault};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::secrets::{Secrets, failed};

/// The broker, as it is wired here.
pub type Brokering = Broker<Injection>;

/// The broker over these rows, asking issuers by egress's way out, and the directory over both.
pub fn wire(
    store: &Store,
    fleet: &Fleet,
    vault: &Arc<Vault>,
    egress: &freehold_egress::Handle,
    secrets: Arc<Secrets>,
) -> (Brokering, Arc<Directory>) {
    let keeper = Arc::new(Kept { fleet: fleet.clone(), vault: Arc::clone(vault) });
    let way_out = Arc::new(WayOut(egress.outbound()));
    let broker = Broker::new(way_out, keeper, freehold_broker::Options::default(), convert);
    let directory = Arc::new(Directory {
        fleet: fleet.clone(),
        broker: broker.clone(),
        secrets,
        changes: store.subscribe(Topic::Credentials),
        workspaces: Mutex::default(),
    });
    (broker, directory)
}

/// The credentials of all workspaces.
pub struct Directory {
    fleet: Fleet,
    broker: Brokering,
    secrets: Arc<Secrets>,
    /// Counts the changes of credentials.
    changes: watch::Receiver<u64>,
    workspaces: Mutex<HashMap<WorkspaceId, Arc<WorkspaceCredentials>>>,
}

impl Directory {
    /// The credentials of a workspace: those of its organization, and its creator's own in their place.
    pub fn of(self: &Arc<Self>, look: &Look) -> Arc<WorkspaceCredentials> {
        let mut workspaces = self.workspaces.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            Arc::new(WorkspaceCredentials {
                directory: Arc::clone(self),
                organization: look.workspace.organization_id,
                member: look.workspace.created_by,
                known: RwLock::default(),
            })
        };
        Arc::clone(workspaces.entry(look.workspace.id).or_insert_with(new))
    }

    /// Forgets a workspace that does not run any more.
    pub fn forget(&self, workspace: WorkspaceId) {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner).remove(&workspace);
    }
}

/// The credentials of one workspace, by name.
pub struct WorkspaceCredentials {
    directory: Arc<Directory>,
    organization: OrganizationId,
    member: Option<MemberId>,
    /// What each name stood for after so many changes.
    known: RwLock<HashMap<String, Known>>,
}

/// A place of the broker, found after so many changes.
type Known = (u64, Arc<Slot<Injection>>);

impl WorkspaceCredentials {
    /// What this name stands for, where nothing has changed since it was looked up.
    fn known(&self, name: &str) -> Option<Arc<Slot<Injection>>> {
        let changes = *self.directory.changes.borrow();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(at, _)| *at == changes).map(|(_, slot)| Arc::clone(slot))
    }

    async fn look_up(&self, name: &str) -> Result<Arc<Slot<Injection>>, Unavailable> {
        let (plain, only) = unbound(name).ok_or(Unavailable("not_found"))?;
        // Read before the rows: a change between the two leads to one more look.
        let changes = *self.directory.changes.borrow();
        let found = self.directory.fleet.credential(self.organization, self.member, plain, only).await;
        let found = found.map_err(|error| {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(credential.name = name, error, "a credential could not be looked up");
            Unavailable("store_unavailable")
        })?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let Some(credential) = found else {
            known.remove(name);
            return Err(Unavailable("not_found"));
        };
        let slot = self.directory.broker.slot(&credential);
        known.insert(name.to_owned(), (changes, Arc::clone(&slot)));
        Ok(slot)
    }
}

#[async_trait]
impl Credentials for WorkspaceCredentials {
    async fn injection(&self, name: &str) -> Result<Arc<Injection>, Unavailable> {
        let slot = match self.known(name) {
            Some(slot) => slot,
            None => self.look_up(name).await?,
        };
        self.directory.broker.injection(&slot).await.map_err(|NotObtained(code)| Unavailable(code))
    }

    fn refused(&self, name: &str) {
        if let Some(slot) = self.known(name) {
            self.directory.broker.refused(&slot);
        }
    }

    async fn secret(&self, name: &str) -> Result<Arc<SecretValue>, Unavailable> {
        let opened = self.directory.secrets.open(self.organization, name).await.map_err(|error| {
            let code = error.code();
            let error: &dyn std::error::Error = &error;
            tracing::warn!(secret.name = name, error, "a secret cannot be opened");
            Unavailable(code)
        })?;
        Ok(Arc::new(SecretValue::new(Zeroizing::new(opened.expose().to_vec()))))
    }
}

/// What egress puts on requests for what the broker obtained.
fn convert(injection: freehold_broker::Injection) -> Result<Injection, NotObtained> {
    use freehold_broker::Injection as I;
    let made = match injection {
        I::Header { name, value } => Injection::header(&name, &value),
        I::Query { name, value } => Injection::query(&name, &value),
        I::Signature(signer) => Ok(Injection::signer(Arc::new(Aws(signer)))),
    };
    made.map_err(|_| NotObtained("unusable"))
}

/// Signs by AWS Signature Version 4.
struct Aws(SigV4);

impl Signer for Aws {
    fn needs_body(&self, request: &Outgoing<'_>) -> bool {
        self.0.needs_body(request.authority, request.is_tls)
    }

    fn sign(&self, request: &mut Outgoing<'_>) -> Result<(), Unavailable> {
        let mut to_sign = ToSign {
            method: request.method,
            authority: request.authority,
            is_tls: request.is_tls,
            path: request.path,
            query: request.query,
            headers: request.headers,
            body_sha256: request.body_sha256,
            now: request.now,
        };
        self.0.sign(&mut to_sign).map_err(|unsignable| Unavailable(unsignable.0))
    }

    fn secrets(&self) -> Vec<&[u8]> {
        self.0.secrets()
    }
}

/// Egress's way out, as the broker needs it.
struct WayOut(Outbound);

#[async_trait]
impl Http for WayOut {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        self.0.send(request).await.map_err(|reason| HttpError(reason.as_str()))
    }
}

/// Rows and vault, as the broker needs them.
struct Kept {
    fleet: Fleet,
    vault: Arc<Vault>,
}

#[async_trait]
impl Keeper for Kept {
    async fn open(&self, credential: &Credential) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let sealed = self.fleet.credential_sealed(credential).await.map_err(|_| OpenError::Passing)?;
        let opened = open(&self.vault, credential, &sealed.ok_or(OpenError::Unreadable)?).await;
        opened.map_err(|error| match error {
            SealError::Unavailable(_) => OpenError::Passing,
            _ => OpenError::Unreadable,
        })
    }

    async fn keep(&self, credential: &Credential, secret: Zeroizing<Vec<u8>>) -> Result<bool, NotObtained> {
        let sealed = seal(&self.vault, credential, &secret).await.map_err(|_| NotObtained("cannot_seal"))?;
        let kept = self.fleet.credential_reseal(credential, sealed).await;
        kept.map_err(|_| NotObtained("store_unavailable"))
    }

    async fn note(&self, credential: &Credential, note: Note) -> Result<(), NotObtained> {
        let Note { event, code, asked, expires_at } = note;
        let attempt = Attempt { event, code, asked, expires_at };
        let noted = self.fleet.credential_attempt(credential, attempt).await;
        noted.map_err(|_| NotObtained("store_unavailable"))
    }
}

fn place(credential: &Credential) -> Place {
    Place { organization: credential.organization_id, holder: Holder::Credential(credential.id) }
}

async fn open(
    vault: &Vault,
    credential: &Credential,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let secret = vault.open_sealed(place(credential), sealed).await.map_err(failed)?;
    Ok(Zeroizing::new(secret.expose().to_vec()))
}

async fn seal(vault: &Vault, credential: &Credential, secret: &[u8]) -> Result<Vec<u8>, SealError> {
    vault.seal(place(credential), secret).await.map_err(failed)
}

/// The broker, as the use cases need it.
pub struct Issuing {
    /// What seals.
    pub vault: Arc<Vault>,
    /// Asks issuers; without it, on the server's machine beside the server, none is asked.
    pub broker: Option<Brokering>,
}

const OFFLINE: IssuerRefused = IssuerRefused("offline");

#[async_trait]
impl Issuers for Issuing {
    fn pack(&self, kind: Kind, given: SecretFields) -> Result<PackedSecret, BTreeMap<String, String>> {
        let given = Given {
            api_key: given.api_key,
            password: given.password,
            client_secret: given.client_secret,
            private_key: given.private_key,
            service_account_json: given.service_account_json,
            secret_access_key: given.secret_access_key,
            session_token: given.session_token,
        };
        let packed = freehold_broker::pack(kind, given)?;
        Ok(PackedSecret { secret: packed.secret, token_url: packed.token_url })
    }

    async fn client_of(
        &self,
        from: &Credential,
        sealed: &[u8],
        to: &Credential,
    ) -> Result<Vec<u8>, SealError> {
        let secret = open(&self.vault, from, sealed).await?;
        let client =
            freehold_broker::client_of(&secret).map_err(|error| SealError::Failed(Box::new(error)))?;
        seal(&self.vault, to, &client).await
    }

    fn authorization_url(
        &self,
        credential: &Credential,
        redirect_uri: &str,
        state: &str,
        verifier: &str,
    ) -> Option<String> {
        freehold_broker::authorization_url(credential, redirect_uri, state, verifier).ok()
    }

    async fn exchange(
        &self,
        credential: &Credential,
        sealed: Vec<u8>,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Vec<u8>, IssuerRefused> {
        const UNREADABLE: IssuerRefused = IssuerRefused("unreadable");
        let broker = self.broker.as_ref().ok_or(OFFLINE)?;
        let secret = open(&self.vault, credential, &sealed).await.map_err(|_| UNREADABLE)?;
        let exchanged = broker.exchange(credential, &secret, code, verifier, redirect_uri).await;
        let secret = exchanged.map_err(|NotObtained(code)| IssuerRefused(code))?;
        seal(&self.vault, credential, &secret).await.map_err(|_| UNREADABLE)
    }

    fn refusal(&self, error: &str) -> &'static str {
        freehold_broker::refusal(error)
    }

    async fn revocation(&self, credential: &Credential, sealed: &[u8]) -> Option<Revocation> {
        let secret = open(&self.vault, credential, sealed).await.ok()?;
        let (broker, credential) = (self.broker.clone()?, credential.clone());
        Some(Box::pin(async move {
            let revoked = broker.revoke(&credential, &secret).await?;
            Some(revoked.map_err(|NotObtained(code)| IssuerRefused(code)))
        }))
    }
}
