//! The sealed forms, as bytes. The first byte tells them apart.
//!
//! - `1 | master key id (4) | nonce (12) | ciphertext and tag`: under a master key. Data keys are sealed so, and so were
//!   secrets before there were data keys.
//! - `2 | data key version (4) | nonce (12) | ciphertext and tag`: under a data key of the organization.
//! - `3 | version in the store of secrets (8) | path`: not here at all but in OpenBao; see [`crate::openbao`].
//!
//! AES-256-GCM with a random nonce. The header and the context (whose it is) are authenticated, and the context is not
//! stored: bytes that were moved to another row do not open.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest,
};
use zeroize::Zeroizing;

use crate::{Error, KEY_BYTES, Secret};

pub(crate) const UNDER_MASTER: u8 = 1;
pub(crate) const UNDER_DATA_KEY: u8 = 2;
pub(crate) const ELSEWHERE: u8 = 3;

/// The length of what tells keys of one kind apart, in bytes.
const NUMBER_BYTES: usize = 4;

/// The length of what comes before the nonce, in bytes.
const PREFIX_BYTES: usize = 1 + NUMBER_BYTES;

/// Which key of its kind it is: the beginning of a master key's hash, or a data key's version.
pub(crate) type Number = [u8; NUMBER_BYTES];

/// A key that seals. The library wipes its memory when it is dropped.
pub(crate) struct SealingKey {
    form: u8,
    pub(crate) number: Number,
    key: RandomizedNonceKey,
}

impl SealingKey {
    pub(crate) fn master(bytes: &[u8; KEY_BYTES]) -> Result<Self, Error> {
        let mut number = Number::default();
        number.copy_from_slice(&digest::digest(&digest::SHA256, bytes).as_ref()[..NUMBER_BYTES]);
        Self::new(UNDER_MASTER, number, bytes)
    }

    pub(crate) fn data(version: u32, bytes: &[u8]) -> Result<Self, Error> {
        Self::new(UNDER_DATA_KEY, version.to_be_bytes(), bytes)
    }

    fn new(form: u8, number: Number, bytes: &[u8]) -> Result<Self, Error> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes).map_err(|_| Error::Crypto)?;
        Ok(Self { form, number, key })
    }

    pub(crate) fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        // The plaintext is overwritten in place by its ciphertext; there is room for the tag, so that it is not moved.
        let mut text = Vec::with_capacity(secret.len() + AES_256_GCM.tag_len());
        text.extend_from_slice(secret);
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(self.authenticated(context)), &mut text)
            .map_err(|_| Error::Crypto)?;
        let mut sealed = Vec::with_capacity(PREFIX_BYTES + NONCE_LEN + text.len());
        sealed.push(self.form);
        sealed.extend_from_slice(&self.number);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&text);
        Ok(sealed)
    }

    pub(crate) fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, Error> {
        let (prefix, rest) = sealed.split_at_checked(PREFIX_BYTES).ok_or(Error::UnknownForm)?;
        if prefix[0] != self.form || prefix[1..] != self.number {
            return Err(Error::OtherKey);
        }
        let (nonce, text) = rest.split_at_checked(NONCE_LEN).ok_or(Error::UnknownForm)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::UnknownForm)?;
        let mut plain = Zeroizing::new(text.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(self.authenticated(context)), &mut plain)
            .map_err(|_| Error::NotAuthentic)?
            .len();
        plain.truncate(length);
        Ok(Secret(plain))
    }

    /// What is authenticated beside the secret: the form it is in, under which key, and whose it is.
    fn authenticated(&self, context: &str) -> Vec<u8> {
        [&[self.form], self.number.as_slice(), context.as_bytes()].concat()
    }
}

/// The form that bytes are in, and which key of its kind they were sealed under.
pub(crate) fn prefix(sealed: &[u8]) -> Result<(u8, Number), Error> {
    let prefix = sealed.first_chunk::<PREFIX_BYTES>().ok_or(Error::UnknownForm)?;
    let mut number = Number::default();
    number.copy_from_slice(&prefix[1..]);
    Ok((prefix[0], number))
}

/// Where a secret is that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Which version of what is there.
    pub(crate) version: u64,
    /// Below the mount.
    pub(crate) path: String,
}

impl Reference {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&[ELSEWHERE], self.version.to_be_bytes().as_slice(), self.path.as_bytes()].concat()
    }

    pub(crate) fn parse(kept: &[u8]) -> Option<Self> {
        let (version, path) = kept.strip_prefix(&[ELSEWHERE])?.split_first_chunk()?;
        let path = std::str::from_utf8(path).ok()?.to_owned();
        Some(Self { version: u64::from_be_bytes(*version), path })
    }
}
