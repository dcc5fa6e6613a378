//! Secrets of callers, and telling who calls.
//!
//! A secret is a prefix and 256 random bits; its SHA-256 is stored and nothing else of it. Callers are remembered in
//! memory, so that a request does not wait for the disk, and forgotten at once when a secret is revoked: by this server
//! directly, by others through the store's signal.

use std::{
    fmt,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use freehold_access::Actor;
use freehold_store::{Caller, Error as StoreError, SecretHash, Store, Topic};
use lru::LruCache;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{App, Error};

/// Callers remembered at most.
const CALLERS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");
/// Characters of a secret at most; a longer text is no secret of ours.
const SECRET_CHARS_MAX: usize = 128;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The prefix of API keys.
pub const API_KEY_PREFIX: &str = "sk_";
/// The prefix of personal tokens.
pub const TOKEN_PREFIX: &str = "pt_";

/// A caller's secret, to be shown once.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A new one.
    pub(crate) fn generate(prefix: &str) -> Result<Self, Error> {
        let mut random = Zeroizing::new([0_u8; SECRET_BYTES]);
        SystemRandom::new()
            .fill(random.as_mut())
            .map_err(|error| Error::Seal(crate::ports::SealError::Failed(Box::new(error))))?;
        Ok(Self(Zeroizing::new(format!("{prefix}{}", BASE64_URL_SAFE_NO_PAD.encode(random.as_ref())))))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its recognisable ends, safe to show.
    pub(crate) fn obfuscated(&self) -> String {
        let prefix = self.0.split_inclusive('_').next().unwrap_or_default();
        format!("{prefix}...{}", &self.0[self.0.len() - 4..])
    }

    pub(crate) fn hash(&self) -> SecretHash {
        hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

struct Known {
    hash: SecretHash,
    actor: Arc<Actor>,
}

/// Callers remembered in memory.
pub(crate) struct Cache {
    known: Mutex<Memory>,
    revoked: watch::Receiver<u64>,
}

struct Memory {
    /// By the first bytes of the secret's hash; the whole hash is compared in constant time.
    callers: LruCache<[u8; 8], Known>,
    /// The count of revocations that the memory knows of.
    as_of: u64,
    /// Counts what this server forgot, so that a caller looked up before is not remembered after.
    forgotten: u64,
}

impl Cache {
    pub(crate) fn new(revoked: watch::Receiver<u64>) -> Self {
        let as_of = *revoked.borrow();
        Self {
            known: Mutex::new(Memory { callers: LruCache::new(CALLERS_MAX), as_of, forgotten: 0 }),
            revoked,
        }
    }

    /// The memory, emptied first if anything was revoked since.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        let mut memory = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let revoked = *self.revoked.borrow();
        if memory.as_of != revoked {
            memory.as_of = revoked;
            memory.forget();
        }
        memory
    }

    fn forget(&self) {
        self.memory().forget();
    }
}

impl Memory {
    fn forget(&mut self) {
        self.callers.clear();
        self.forgotten += 1;
    }
}

fn slot(hash: &SecretHash) -> [u8; 8] {
    let mut slot = [0; 8];
    slot.copy_from_slice(&hash[..8]);
    slot
}

/// Watches over a caller's secret for what goes on after its request was admitted, such as a stream.
pub struct Standing {
    store: Store,
    hash: SecretHash,
    changed: watch::Receiver<u64>,
}

impl Standing {
    /// Resolves once the secret is not in force any more. Where that cannot be told, it is taken for revoked.
    pub async fn ended(mut self) {
        let hash = self.hash;
        loop {
            let caller: Result<_, StoreError> =
                self.store.system_read(move |tx| tx.caller_by_secret_hash(&hash)).await;
            if !matches!(caller, Ok(Some(_))) || self.changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl App {
    /// Watches over a secret from now on.
    pub fn standing(&self, secret: &str) -> Standing {
        let changed = self.store().subscribe(Topic::Callers);
        Standing { store: self.store().clone(), hash: hash(secret), changed }
    }

    /// Whose secret this is; none when it is unknown or revoked.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn authenticate(&self, secret: &str) -> Result<Option<Arc<Actor>>, Error> {
        let ours = secret.starts_with(API_KEY_PREFIX) || secret.starts_with(TOKEN_PREFIX);
        if !ours || secret.len() > SECRET_CHARS_MAX {
            return Ok(None);
        }
        let hash = hash(secret);
        let forgotten = {
            let mut memory = self.inner.callers.memory();
            if let Some(known) = memory.callers.get(&slot(&hash))
                && bool::from(known.hash.ct_eq(&hash))
            {
                return Ok(Some(Arc::clone(&known.actor)));
            }
            memory.forgotten
        };
        let caller = self
            .store()
            .system_read(move |tx| tx.caller_by_secret_hash(&hash))
            .await
            .map_err(|error: StoreError| error)?;
        let Some(caller) = caller else { return Ok(None) };
        let actor = Arc::new(match &caller {
            Caller::ApiKey(key) => Actor::api_key(key),
            Caller::Member { member, .. } => Actor::member(member),
        });
        let mut memory = self.inner.callers.memory();
        if memory.forgotten == forgotten {
            memory.callers.put(slot(&hash), Known { hash, actor: Arc::clone(&actor) });
        }
        Ok(Some(actor))
    }

    /// Forgets every caller; the next request of each looks at the rows again. Revocations are rare.
    pub(crate) fn callers_forget(&self) {
        self.inner.callers.forget();
    }
}
