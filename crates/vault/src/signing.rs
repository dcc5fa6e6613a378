//! The key that signs checkpoints of the audit log: Ed25519, its seed in a file of its own.

use std::path::Path;

use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair},
};

use crate::{Error, key_file};

/// The length of a public key, in bytes.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// A key that signs. Its secret half is never shown.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: [u8; PUBLIC_KEY_BYTES],
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Reads the seed in this file, or makes one there, for nobody else to read.
    ///
    /// # Errors
    /// [`Error::KeyFile`] when the file cannot be read or made, [`Error::KeyFileRefused`] when it is not one to be trusted,
    /// [`Error::Crypto`] when the library refuses the key.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let seed = key_file::read_or_make(path)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| Error::Crypto)?;
        let public = pair.public_key().as_ref().try_into().map_err(|_| Error::Crypto)?;
        Ok(Self { pair, public })
    }

    /// The public half.
    pub const fn public_key(&self) -> [u8; PUBLIC_KEY_BYTES] {
        self.public
    }

    /// The SHA-256 of the public half, which names the key.
    pub fn id(&self) -> [u8; 32] {
        let mut id = [0; 32];
        id.copy_from_slice(digest::digest(&digest::SHA256, &self.public).as_ref());
        id
    }

    /// The signature of a message, 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_key_that_was_made_is_found_again_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let made = SigningKey::open(&path).unwrap();
        let found = SigningKey::open(&path).unwrap();
        assert_eq!((made.id(), made.public_key()), (found.id(), found.public_key()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let key = UnparsedPublicKey::new(&ED25519, made.public_key());
        key.verify(b"said", &found.sign(b"said")).unwrap();
        key.verify(b"other", &found.sign(b"said")).unwrap_err();
        assert_eq!(format!("{made:?}"), "SigningKey { .. }");
    }
}
