//! Secrets in rows, sealed under the data key of their organization, which is sealed under a master key.
//!
//! Invariant: while a data key is sealed and written, the master keys do not change (`RwLock`), so that who changed them and
//! then reads the rows has seen every data key that was sealed before.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use aws_lc_rs::rand;
use freehold_model::OrganizationId;
use lru::LruCache;
use tokio::sync::RwLock;
use zeroize::Zeroizing;

use crate::{
    Error, KEY_BYTES, Keeper, MasterKeys, Place, Secret,
    form::{self, SealingKey},
    key_file,
    master::Ring,
};

/// Data keys that are held open in memory, at most.
const DATA_KEYS_MAX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// What the rows of data keys say when they fail.
pub type RowsError = Box<dyn std::error::Error + Send + Sync>;

/// A data key as its row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedDataKey {
    /// From 1, one more for each that an organization gets.
    pub version: u32,
    /// The key, sealed under a master key.
    pub sealed: Vec<u8>,
}

/// The rows of data keys.
#[async_trait]
pub trait DataKeyRows: Send + Sync {
    /// The organization's data key of this version, or its newest one.
    async fn data_key(
        &self,
        organization: OrganizationId,
        version: Option<u32>,
    ) -> Result<Option<SealedDataKey>, RowsError>;

    /// Writes a data key durably, and answers the one that is there now: another's, if that came first.
    async fn data_key_insert(
        &self,
        organization: OrganizationId,
        key: SealedDataKey,
    ) -> Result<SealedDataKey, RowsError>;
}

type Opened = LruCache<(OrganizationId, u32), Arc<SealingKey>>;

pub(crate) struct Envelope {
    keys: MasterKeys,
    ring: RwLock<Ring>,
    rows: Arc<dyn DataKeyRows>,
    opened: Mutex<Opened>,
}

/// What a data key is bound to when it is sealed.
fn context(organization: OrganizationId, version: u32) -> String {
    format!("{organization}/data-key/{version}")
}

impl Envelope {
    pub(crate) fn new(keys: MasterKeys, rows: Arc<dyn DataKeyRows>) -> Result<Self, Error> {
        let ring = RwLock::new(keys.load()?);
        Ok(Self { keys, ring, rows, opened: Mutex::new(LruCache::new(DATA_KEYS_MAX)) })
    }

    pub(crate) async fn reload(&self) -> Result<(), Error> {
        let mut ring = self.ring.write().await;
        *ring = self.keys.load()?;
        Ok(())
    }

    pub(crate) async fn newest_master(&self) -> String {
        self.ring.read().await.newest()
    }

    pub(crate) async fn begin_rotation(&self) -> Result<(), Error> {
        if self.keys.given.is_none() {
            key_file::read_or_make(&key_file::next_of(&self.keys.file))?;
        }
        self.reload().await
    }

    pub(crate) async fn end_rotation(&self) -> Result<(), Error> {
        if self.keys.given.is_none() {
            key_file::install(&self.keys.file)?;
        }
        self.reload().await
    }

    pub(crate) async fn reseal(
        &self,
        organization: OrganizationId,
        key: &SealedDataKey,
    ) -> Result<Option<Vec<u8>>, Error> {
        let ring = self.ring.read().await;
        if ring.is_current(&key.sealed) {
            return Ok(None);
        }
        let context = context(organization, key.version);
        let plain = ring.open(&context, &key.sealed)?;
        ring.seal(&context, plain.expose()).map(Some)
    }

    pub(crate) async fn renew(&self, organization: OrganizationId) -> Result<(), Error> {
        let newest = self.rows.data_key(organization, None).await.map_err(Error::Rows)?;
        let version = newest.map_or(1, |key| key.version.saturating_add(1));
        self.make(organization, version).await.map(drop)
    }

    /// Opens what is sealed under a master key. One that is not known may have been made since the keys were read.
    async fn open_under_master(&self, context: &str, sealed: &[u8]) -> Result<Secret, Error> {
        match self.ring.read().await.open(context, sealed) {
            Err(Error::OtherKey) => {}
            other => return other,
        }
        self.reload().await?;
        self.ring.read().await.open(context, sealed)
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn opened_key(
        &self,
        organization: OrganizationId,
        key: &SealedDataKey,
    ) -> Result<Arc<SealingKey>, Error> {
        let bytes = self.open_under_master(&context(organization, key.version), &key.sealed).await?;
        let opened = Arc::new(SealingKey::data(key.version, bytes.expose())?);
        self.opened().put((organization, key.version), Arc::clone(&opened));
        Ok(opened)
    }

    async fn key(&self, organization: OrganizationId, version: u32) -> Result<Arc<SealingKey>, Error> {
        let known = self.opened().get(&(organization, version)).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let found = self.rows.data_key(organization, Some(version)).await.map_err(Error::Rows)?;
        self.opened_key(organization, &found.ok_or(Error::NoDataKey)?).await
    }

    /// The key that seals. Its version is read each time: another process may have made a newer one.
    async fn newest_key(&self, organization: OrganizationId) -> Result<Arc<SealingKey>, Error> {
        let Some(newest) = self.rows.data_key(organization, None).await.map_err(Error::Rows)? else {
            return self.make(organization, 1).await;
        };
        let known = self.opened().get(&(organization, newest.version)).cloned();
        match known {
            Some(known) => Ok(known),
            None => self.opened_key(organization, &newest).await,
        }
    }

    async fn make(&self, organization: OrganizationId, version: u32) -> Result<Arc<SealingKey>, Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        rand::fill(bytes.as_mut_slice()).map_err(|_| Error::Crypto)?;
        let written = {
            let ring = self.ring.read().await;
            let sealed = ring.seal(&context(organization, version), bytes.as_slice())?;
            let key = SealedDataKey { version, sealed };
            self.rows.data_key_insert(organization, key).await.map_err(Error::Rows)?
        };
        self.opened_key(organization, &written).await
    }
}

#[async_trait]
impl Keeper for Envelope {
    async fn keep(&self, place: Place, secret: &[u8]) -> Result<Vec<u8>, Error> {
        self.newest_key(place.organization).await?.seal(&place.context(), secret)
    }

    async fn open(&self, place: Place, kept: &[u8]) -> Result<Secret, Error> {
        let (form, number) = form::prefix(kept)?;
        if form == form::UNDER_MASTER {
            let context = place.former_context().ok_or(Error::NotAuthentic)?;
            return self.open_under_master(&context, kept).await;
        }
        let key = self.key(place.organization, u32::from_be_bytes(number)).await?;
        key.open(&place.context(), kept)
    }

    async fn discard(&self, _: Place, _: &[u8]) -> Result<(), Error> {
        // All there is of it is in the row.
        Ok(())
    }

    async fn is_current(&self, place: Place, kept: &[u8]) -> Result<bool, Error> {
        let newest = self.rows.data_key(place.organization, None).await.map_err(Error::Rows)?;
        let (form, number) = match form::prefix(kept) {
            Ok(found) => found,
            Err(_) => return Ok(false),
        };
        let newest = newest.map(|key| key.version.to_be_bytes());
        Ok(form == form::UNDER_DATA_KEY && newest == Some(number))
    }
}
