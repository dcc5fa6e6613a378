//! Secrets encrypted at rest under a master key, which is in a file that only the server's user can read.
//!
//! A sealed secret is `version (1) | key id (4) | nonce (12) | ciphertext and tag`, AES-256-GCM under the master key
//! with a random nonce. The context (whose secret it is) is authenticated and not stored: bytes that were moved to
//! another row do not open.
//!
//! Invariant: neither the master key nor a secret is ever in an error, a log or a `Debug` form, and memory that held one
//! is wiped.

mod key_file;
mod signing;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use zeroize::Zeroizing;

pub use signing::{PUBLIC_KEY_BYTES, SigningKey};

/// The length of the master key, in bytes.
pub const KEY_BYTES: usize = 32;

/// The longest secret, in bytes: far above any key or service account, far below what would strain a row.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// The version of the sealed form.
const VERSION: u8 = 1;

/// The length of what tells keys apart, in bytes.
const KEY_ID_BYTES: usize = 4;

/// The length of what comes before the ciphertext, in bytes.
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;

/// Why the vault did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key file could not be read or made.
    #[error("failed to {what} the master key file {}", path.display())]
    KeyFile {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key file is there, and is not one to be trusted.
    #[error("the master key file {} {why}", path.display())]
    KeyFileRefused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The secret is longer than [`SECRET_BYTES_MAX`].
    #[error("the secret is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// The sealed secret is of a version that this program does not know.
    #[error("the sealed secret has a form that this program does not know")]
    UnknownForm,
    /// The secret was sealed under another master key.
    #[error("the secret was sealed under another master key")]
    OtherKey,
    /// The sealed secret was changed, or belongs elsewhere.
    #[error("the sealed secret was changed or does not belong here")]
    NotAuthentic,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// A secret in memory: wiped when dropped, and shown to nobody by `Debug`.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes a secret; the caller wipes other copies.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret itself. Not for logs, errors or files.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The secret as text, where it is text.
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Seals and opens secrets under the master key.
pub struct Vault {
    key: RandomizedNonceKey,
    key_id: [u8; KEY_ID_BYTES],
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// Takes the master key from a file, which is made with a random key when it is not there.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or made, is not a plain file of exactly [`KEY_BYTES`], or may be read by anybody but
    /// its owner, who must be this user.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let key = key_file::read_or_make(path)?;
        let mut key_id = [0; KEY_ID_BYTES];
        let hash = digest::digest(&digest::SHA256, key.as_slice());
        key_id.copy_from_slice(&hash.as_ref()[..KEY_ID_BYTES]);
        let key = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| Error::Crypto)?;
        Ok(Self { key, key_id })
    }

    /// Seals a secret. Only the same context, such as `<organization id>/<credential id>`, opens it again.
    pub fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(Error::TooLong);
        }
        // The plaintext is overwritten in place by its ciphertext; there is room for the tag, so that it is not moved.
        let mut text = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        text.extend_from_slice(secret);
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(self.aad(context)), &mut text)
            .map_err(|_| Error::Crypto)?;
        let mut sealed = Vec::with_capacity(HEADER_BYTES + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&self.key_id);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    /// Opens a sealed secret.
    pub fn open_sealed(&self, context: &str, sealed: &[u8]) -> Result<Secret, Error> {
        let (header, text) = sealed.split_at_checked(HEADER_BYTES).ok_or(Error::UnknownForm)?;
        let (version, key_id) = (header[0], &header[1..=KEY_ID_BYTES]);
        if version != VERSION {
            return Err(Error::UnknownForm);
        }
        if key_id != self.key_id {
            return Err(Error::OtherKey);
        }
        let nonce =
            Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_BYTES..]).map_err(|_| Error::UnknownForm)?;
        let mut plain = Zeroizing::new(text.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(self.aad(context)), &mut plain)
            .map_err(|_| Error::NotAuthentic)?
            .len();
        plain.truncate(length);
        Ok(Secret(plain))
    }

    /// What is authenticated beside the secret: the form it is in, and whose it is.
    fn aad(&self, context: &str) -> Vec<u8> {
        [&[VERSION], self.key_id.as_slice(), context.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests;
