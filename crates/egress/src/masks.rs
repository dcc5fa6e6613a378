//! The masks of one workspace, by the secrets that they strike out: requests repeat, and making a mask costs more than a
//! request does.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use lru::LruCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use zeroize::Zeroizing;

use crate::{mask::Mask, state::lock};

/// Masks kept for a workspace; the one used longest ago goes.
const MASKS_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("is not zero");

/// Bytes of the secrets of the masks that are kept for a workspace: of some tens of keys, or of two requests that carry the
/// most. A mask of long ones takes some seventy times as much.
const MASKED_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the secrets of one request whose mask is not worth counting: of a private key, say.
const UNCOUNTED_BYTES_MAX: usize = 4 * 1024;

/// Bytes of longer secrets, all together, that a workspace's requests have put on and wait for the answers of: their masks take
/// some 70 MiB.
const IN_USE_BYTES_MAX: usize = 1024 * 1024;

/// A secret that was put on a request, wiped when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

#[derive(PartialEq, Eq)]
struct Secrets(Vec<Secret>);

impl Secrets {
    fn bytes(&self) -> usize {
        self.0.iter().map(|secret| secret.len()).sum()
    }
}

impl Hash for Secrets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|secret| secret.hash(state));
    }
}

/// Masks by their secrets. What is too short to be struck out has none.
pub(crate) struct Masks {
    kept: Mutex<Kept>,
    /// Bytes of long secrets that may still be put on requests.
    room: Arc<Semaphore>,
}

struct Kept {
    masks: LruCache<Secrets, Option<Arc<Mask>>>,
    /// Of all of their secrets.
    bytes: usize,
}

impl Kept {
    fn put(&mut self, secrets: Secrets, mask: Option<Arc<Mask>>) {
        self.bytes += secrets.bytes();
        // What it takes the place of: the same, or the one used longest ago.
        let before = self.masks.push(secrets, mask);
        self.bytes -= before.map_or(0, |(secrets, _)| secrets.bytes());
        while self.bytes > MASKED_BYTES_MAX && self.masks.len() > 1 {
            self.bytes -= self.masks.pop_lru().map_or(0, |(secrets, _)| secrets.bytes());
        }
    }
}

impl Default for Masks {
    fn default() -> Self {
        let kept = Mutex::new(Kept { masks: LruCache::new(MASKS_MAX), bytes: 0 });
        Self { kept, room: Arc::new(Semaphore::new(IN_USE_BYTES_MAX)) }
    }
}

impl Masks {
    /// Room for the mask of these secrets for as long as the request lasts; `None` when it needs none.
    ///
    /// # Errors
    /// When others have it.
    pub(crate) fn room(&self, secrets: &[Secret]) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        let bytes: usize = secrets.iter().map(|secret| secret.len()).sum();
        if bytes <= UNCOUNTED_BYTES_MAX {
            return Ok(None);
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.room).try_acquire_many_owned(bytes).map(Some)
    }

    /// The mask that strikes out these secrets; `None` when all are too short for that.
    pub(crate) fn of(&self, secrets: Vec<Secret>) -> Option<Arc<Mask>> {
        if secrets.is_empty() {
            return None;
        }
        let secrets = Secrets(secrets);
        if let Some(known) = lock(&self.kept).masks.get(&secrets) {
            return known.clone();
        }
        // Outside of the lock: two requests may make it at once, and then either is as good.
        let made = Mask::new(secrets.0.iter().map(|secret| secret.as_slice())).map(Arc::new);
        lock(&self.kept).put(secrets, made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_long_secrets_give_way_to_each_other_before_they_are_many() {
        let (masks, long) = (Masks::default(), "x".repeat(30 * 1024));
        let of = |first: &str| masks.of(secrets(&[&format!("{first}{long}")])).unwrap();
        let (a, b) = (of("a"), of("b"));
        assert!(Arc::ptr_eq(&a, &of("a")));
        let kept = |masks: &Masks| {
            let kept = lock(&masks.kept);
            (kept.masks.len(), kept.bytes)
        };
        assert_eq!(kept(&masks), (2, 2 * (long.len() + 1)));
        of("c");
        assert_eq!(kept(&masks), (2, 2 * (long.len() + 1)));
        assert!(Arc::ptr_eq(&a, &of("a")) && !Arc::ptr_eq(&b, &of("b")));
        for key in 0..MASKS_MAX.get() * 2 {
            masks.of(secrets(&[&format!("secret-{key:03}")]));
        }
        assert_eq!(kept(&masks), (MASKS_MAX.get(), MASKS_MAX.get() * 10));
    }

    #[test]
    fn long_secrets_have_room_while_others_leave_some_and_short_ones_always() {
        let (masks, long) = (Masks::default(), secrets(&["x".repeat(32 * 1024).as_str()]));
        let mut held: Vec<_> = (0..32).map(|_| masks.room(&long).unwrap()).collect();
        assert!(masks.room(&long).is_err());
        assert!(masks.room(&secrets(&["a key"])).unwrap().is_none());
        held.pop();
        assert!(masks.room(&long).unwrap().is_some());
    }

    fn secrets(texts: &[&str]) -> Vec<Secret> {
        texts.iter().map(|text| Zeroizing::new(text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn the_same_secrets_have_the_same_mask_and_others_another() {
        let masks = Masks::default();
        let first = masks.of(secrets(&["secret-of-one", "secret-of-two"])).unwrap();
        assert!(Arc::ptr_eq(&first, &masks.of(secrets(&["secret-of-one", "secret-of-two"])).unwrap()));
        assert!(!Arc::ptr_eq(&first, &masks.of(secrets(&["secret-of-ones", "ecret-of-two"])).unwrap()));
        assert!(masks.of(secrets(&["short"])).is_none());
        assert!(masks.of(Vec::new()).is_none());
    }
}
