//! The vault, wired: where its keys are, which data keys the store has, how use cases keep secrets, and how egress gets the
//! value of one by its name.

use std::{
    fs,
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use async_trait::async_trait;
use freehold_app::ports::{SealError, SecretSealer};
use freehold_model::{OrganizationId, Timestamp, secret::Holder};
use freehold_store::{Store, Topic};
use freehold_vault::{
    DataKeyRows, Error, Login, MasterKey, MasterKeys, OpenBao, OpenBaoOptions, Place, RowsError,
    SealedDataKey, Secret, Vault,
};
use lru::LruCache;
use tokio::sync::{Semaphore, watch};

use crate::config::{Config, OpenBaoConfig};

/// The file of the master key, in the data directory.
pub const KEY_FILE: &str = "master.key";

/// Values that are held in memory, at most; with the longest value of 64 KiB, that is 16 MiB.
const VALUES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Values that are opened at the same time, at most; others wait and then mostly find what they wait for.
const OPENS_MAX: usize = 16;

/// Opens the vault that the configuration describes.
///
/// # Errors
/// When a key or the store of secrets is not configured rightly.
pub fn open(config: &Config, data_dir: &Path, store: &Store) -> anyhow::Result<Vault> {
    let key = |hidden: &crate::config::Hidden| MasterKey::from_base64(hidden.expose());
    let keys = MasterKeys {
        file: data_dir.join(KEY_FILE),
        given: config.vault.master_key.as_ref().map(key).transpose().context("`vault.master_key`")?,
        former: config
            .vault
            .former_master_keys
            .iter()
            .map(key)
            .collect::<Result<_, _>>()
            .context("`vault.former_master_keys`")?,
    };
    let openbao = openbao(&config.openbao)?;
    Ok(Vault::open(keys, Arc::new(Rows(store.clone())), openbao)?)
}

/// The store of secrets that is configured, if one is.
fn openbao(config: &OpenBaoConfig) -> anyhow::Result<Option<OpenBao>> {
    let Some(address) = config.address.clone() else { return Ok(None) };
    let login = match (&config.token_file, &config.role_id, &config.secret_id_file) {
        (Some(file), None, None) => Login::TokenFile(file.clone()),
        (None, Some(role_id), Some(file)) => Login::AppRole {
            mount: config.approle_mount.clone(),
            role_id: role_id.clone(),
            secret_id_file: file.clone(),
        },
        _ => anyhow::bail!("`openbao` takes either `token_file`, or `role_id` with `secret_id_file`"),
    };
    let read = |path: &std::path::PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read `openbao.ca_file` {}", path.display()))
    };
    let options = OpenBaoOptions {
        address,
        mount: config.mount.clone(),
        prefix: config.prefix.clone(),
        namespace: config.namespace.clone(),
        login,
        ca_pem: config.ca_file.as_ref().map(read).transpose()?,
    };
    Ok(Some(OpenBao::new(options)?))
}

/// The rows of data keys.
struct Rows(Store);

fn plain(key: freehold_store::DataKey) -> SealedDataKey {
    SealedDataKey { version: key.version, sealed: key.sealed }
}

#[async_trait]
impl DataKeyRows for Rows {
    async fn data_key(
        &self,
        organization: OrganizationId,
        version: Option<u32>,
    ) -> Result<Option<SealedDataKey>, RowsError> {
        let found = self.0.read(organization, move |tx| tx.data_key(version)).await;
        found.map(|key| key.map(plain)).map_err(Into::into)
    }

    async fn data_key_insert(
        &self,
        organization: OrganizationId,
        key: SealedDataKey,
    ) -> Result<SealedDataKey, RowsError> {
        let SealedDataKey { version, sealed } = key;
        let insert =
            self.0.write(organization, move |tx| tx.data_key_insert(version, &sealed, Timestamp::now()));
        insert.await.map(plain).map_err(Into::into)
    }
}

/// The vault, as use cases need it.
pub struct Sealer(pub Arc<Vault>);

fn failed(error: Error) -> SealError {
    match error {
        Error::NotConfigured => SealError::NotConfigured,
        error @ (Error::Unavailable { .. } | Error::Misconfigured { .. } | Error::Rows(_)) => {
            SealError::Unavailable(Box::new(error))
        }
        error => SealError::Failed(Box::new(error)),
    }
}

#[async_trait]
impl SecretSealer for Sealer {
    async fn seal(
        &self,
        organization: OrganizationId,
        holder: Holder,
        secret: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        self.0.seal(Place { organization, holder }, secret).await.map_err(failed)
    }

    async fn discard(
        &self,
        organization: OrganizationId,
        holder: Holder,
        sealed: &[u8],
    ) -> Result<(), SealError> {
        self.0.discard(Place { organization, holder }, sealed).await.map_err(failed)
    }
}

/// Why the value of a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    /// There is no secret of this name.
    #[error("there is no secret of this name")]
    NotFound,
    /// The rows cannot be read.
    #[error("the row of the secret cannot be read")]
    Store(#[from] freehold_store::Error),
    /// The vault does not open it.
    #[error("the secret cannot be opened")]
    Vault(#[from] Error),
}

/// Values of secrets by name, for egress.
///
/// Invariant: once the change of a secret has been answered, what was opened before is not given any more.
pub struct Secrets {
    store: Store,
    vault: Arc<Vault>,
    /// Counts the changes of any secret, by this process or, on PostgreSQL, any other.
    changes: watch::Receiver<u64>,
    values: Mutex<LruCache<(OrganizationId, String), Value>>,
    opens: Semaphore,
}

/// A value, and the count of changes before which it was read.
struct Value {
    as_of: u64,
    secret: Arc<Secret>,
}

impl Secrets {
    /// The secrets of this store, opened by this vault.
    pub fn new(store: Store, vault: Arc<Vault>) -> Self {
        let changes = store.subscribe(Topic::Secrets);
        Self {
            store,
            vault,
            changes,
            values: Mutex::new(LruCache::new(VALUES_MAX)),
            opens: Semaphore::new(OPENS_MAX),
        }
    }

    fn values(&self) -> MutexGuard<'_, LruCache<(OrganizationId, String), Value>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, key: &(OrganizationId, String)) -> Option<Arc<Secret>> {
        let now = *self.changes.borrow();
        self.values().get(key).filter(|value| value.as_of == now).map(|value| Arc::clone(&value.secret))
    }

    /// The value of the organization's secret of this name. Fast when it was asked for since any secret last changed; else
    /// it is read and opened.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub async fn open(&self, organization: OrganizationId, name: &str) -> Result<Arc<Secret>, Unopened> {
        let key = (organization, name.to_owned());
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        // Never closed: that it cannot be had is no case.
        let _turn = self.opens.acquire().await.ok();
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        // Read before the row: a change after this makes what is read now count as old.
        let as_of = *self.changes.borrow();
        let asked = name.to_owned();
        let found = self.store.read(organization, move |tx| tx.secret_by_name(&asked)).await?;
        let (row, sealed) = found.ok_or(Unopened::NotFound)?;
        let place = Place { organization, holder: Holder::Secret(row.id) };
        let secret = Arc::new(self.vault.open_sealed(place, &sealed).await?);
        self.values().put(key, Value { as_of, secret: Arc::clone(&secret) });
        Ok(secret)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

#[cfg(test)]
mod tests;
