//! Values of secrets by name, for egress.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_model::{OrganizationId, secret::Holder};
use freehold_store::{Store, Topic};
use freehold_vault::{Error, Place, Secret, Vault};
use lru::LruCache;
use tokio::sync::{Semaphore, watch};

/// Values that are held in memory, at most; with the longest value of 64 KiB, that is 16 MiB.
const VALUES_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// Values that are opened at the same time, at most; others wait and then mostly find what they wait for.
const OPENS_MAX: usize = 16;

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

impl Unopened {
    /// Why, as a short slug.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Store(_) | Self::Vault(Error::Unavailable { .. } | Error::Rows(_)) => "unavailable",
            Self::Vault(_) => "unusable",
        }
    }
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
