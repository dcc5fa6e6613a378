//! The masks of one workspace, by the secrets that they strike out: requests repeat, and making a mask costs more than a
//! request does.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use lru::LruCache;
use zeroize::Zeroizing;

use crate::{mask::Mask, state::lock};

/// Masks kept for a workspace; the one used longest ago goes.
const MASKS_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("is not zero");

/// A secret that was put on a request, wiped when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

#[derive(PartialEq, Eq)]
struct Secrets(Vec<Secret>);

impl Hash for Secrets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|secret| secret.hash(state));
    }
}

/// Masks by their secrets. What is too short to be struck out has none.
pub(crate) struct Masks(Mutex<LruCache<Secrets, Option<Arc<Mask>>>>);

impl Default for Masks {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MASKS_MAX)))
    }
}

impl Masks {
    /// The mask that strikes out these secrets; `None` when all are too short for that.
    pub(crate) fn of(&self, secrets: Vec<Secret>) -> Option<Arc<Mask>> {
        if secrets.is_empty() {
            return None;
        }
        let secrets = Secrets(secrets);
        if let Some(known) = lock(&self.0).get(&secrets) {
            return known.clone();
        }
        // Outside of the lock: two requests may make it at once, and then either is as good.
        let made = Mask::new(secrets.0.iter().map(|secret| secret.as_slice())).map(Arc::new);
        lock(&self.0).put(secrets, made.clone());
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
