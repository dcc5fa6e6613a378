//! The master keys: the one that seals, and those before it, which open what was sealed under them.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::{
    Error, KEY_BYTES, Secret,
    form::{self, SealingKey},
    key_file,
};

/// The most master keys that are known at a time.
pub const MASTER_KEYS_MAX: usize = 8;

/// A master key in memory: wiped when dropped, and shown to nobody by `Debug`.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; KEY_BYTES]>);

impl MasterKey {
    /// Reads a key as `openssl rand -base64 32` writes it.
    ///
    /// # Errors
    /// When it is not [`KEY_BYTES`] bytes in base64; nothing of the text is in the error.
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| Error::KeyText)?);
        let key: &[u8; KEY_BYTES] = bytes.as_slice().try_into().map_err(|_| Error::KeyText)?;
        Ok(Self(Zeroizing::new(*key)))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

/// Where master keys come from.
#[derive(Debug, Clone)]
pub struct MasterKeys {
    /// The key's file, with the next key beside it during a rotation. It is made when nothing is given, and only read
    /// otherwise.
    pub file: PathBuf,
    /// The key that seals, where whoever runs the server keeps it elsewhere.
    pub given: Option<MasterKey>,
    /// Keys that only open.
    pub former: Vec<MasterKey>,
}

impl MasterKeys {
    /// The key of a file alone, which is made when it is not there.
    pub fn file(path: &Path) -> Self {
        Self { file: path.to_owned(), given: None, former: Vec::new() }
    }

    pub(crate) fn load(&self) -> Result<Ring, Error> {
        let mut keys = Vec::new();
        let in_force = match &self.given {
            Some(given) => {
                keys.push(SealingKey::master(&given.0)?);
                key_file::read_if_there(&self.file)?
            }
            None => Some(key_file::read_or_make(&self.file)?),
        };
        let next = key_file::read_if_there(&key_file::next_of(&self.file))?;
        let former = self.former.iter().map(|key| &key.0);
        for key in next.iter().chain(&in_force).chain(former) {
            let key = SealingKey::master(key)?;
            if keys.iter().all(|known: &SealingKey| known.number != key.number) {
                keys.push(key);
            }
        }
        if keys.len() > MASTER_KEYS_MAX {
            return Err(Error::TooManyKeys);
        }
        Ok(Ring(keys))
    }
}

/// Master keys, opened. The first one seals.
pub(crate) struct Ring(Vec<SealingKey>);

impl Ring {
    pub(crate) fn newest(&self) -> String {
        let number = self.0.first().map(|key| key.number).unwrap_or_default();
        format!("{:08x}", u32::from_be_bytes(number))
    }

    pub(crate) fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        self.0.first().ok_or(Error::Crypto)?.seal(context, secret)
    }

    pub(crate) fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, Error> {
        let (form, number) = form::prefix(sealed)?;
        if form != form::UNDER_MASTER {
            return Err(Error::UnknownForm);
        }
        let key = self.0.iter().find(|key| key.number == number).ok_or(Error::OtherKey)?;
        key.open(context, sealed)
    }

    /// Whether what was sealed under a master key was so under the one that seals now.
    pub(crate) fn is_current(&self, sealed: &[u8]) -> bool {
        let current = self.0.first().map(|key| key.number);
        form::prefix(sealed).is_ok_and(|(form, number)| form == form::UNDER_MASTER && Some(number) == current)
    }
}
