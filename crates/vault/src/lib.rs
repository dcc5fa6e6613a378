//! Secrets at rest. Each organization has a data key, its secrets are sealed under that, and data keys are sealed under a
//! master key, which is in a file that only the server's user can read or is given by whoever runs the server. Where an
//! OpenBao or a HashiCorp Vault is configured, secrets are kept there instead, and rows hold a reference.
//!
//! What a row keeps tells by its first byte where and under what the secret is, so that all forms open side by side.
//!
//! Invariants: no key and no secret is ever in an error, a log or a `Debug` form, and memory of ours that held one is wiped.
//! What was sealed for one holder opens for no other, of whatever kind or organization.

mod envelope;
mod form;
mod key_file;
mod master;
mod openbao;
mod signing;

use std::{fmt, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use freehold_model::{OrganizationId, secret::Holder};
use zeroize::Zeroizing;

pub use envelope::{DataKeyRows, RowsError, SealedDataKey};
pub use freehold_model::secret::VALUE_BYTES_MAX as SECRET_BYTES_MAX;
pub use master::{MASTER_KEYS_MAX, MasterKey, MasterKeys};
pub use openbao::{Login, OpenBao, Options as OpenBaoOptions};
pub use signing::{PUBLIC_KEY_BYTES, SigningKey};

use crate::{envelope::Envelope, form::Reference};

/// The length of a master key and of a data key, in bytes.
pub const KEY_BYTES: usize = 32;

/// Why the vault did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key file could not be read, made or replaced.
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
    /// A key file is there, and is not one to be trusted.
    #[error("the master key file {} {why}", path.display())]
    KeyFileRefused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A master key that was given is none.
    #[error("a master key is {KEY_BYTES} random bytes in base64, as `openssl rand -base64 32` writes them")]
    KeyText,
    /// More master keys are known than [`MASTER_KEYS_MAX`].
    #[error(
        "there are more than {MASTER_KEYS_MAX} master keys; leave out those that nothing is sealed under any more"
    )]
    TooManyKeys,
    /// The secret is longer than [`SECRET_BYTES_MAX`].
    #[error("the secret is longer than {SECRET_BYTES_MAX} bytes")]
    TooLong,
    /// What is kept is of a form that this program does not know.
    #[error("the sealed secret has a form that this program does not know")]
    UnknownForm,
    /// The secret was sealed under another key.
    #[error("the secret was sealed under another master key")]
    OtherKey,
    /// The organization's data key is not there.
    #[error("the data key that the secret was sealed under is not there")]
    NoDataKey,
    /// What is kept was changed, or belongs elsewhere.
    #[error("the sealed secret was changed or does not belong here")]
    NotAuthentic,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed")]
    Crypto,
    /// The rows of data keys could not be read or written.
    #[error("the data keys could not be read or written")]
    Rows(#[source] RowsError),
    /// The secret is in a store of secrets that is not configured here.
    #[error("the secret is kept in a store of secrets that is not configured here")]
    NotConfigured,
    /// The store of secrets has nothing there: it was removed by another hand.
    #[error("the store of secrets has no such secret any more")]
    Gone,
    /// The store of secrets cannot be used as it is configured.
    #[error("the store of secrets at {address} cannot be used: {why}")]
    Misconfigured {
        /// Its address.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// The store of secrets does not answer, or fails; that may pass.
    #[error("the store of secrets at {address} is unavailable: {why}")]
    Unavailable {
        /// Its address.
        address: String,
        /// What happened.
        why: String,
    },
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

/// Whose a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The organization.
    pub organization: OrganizationId,
    /// What of it.
    pub holder: Holder,
}

impl Place {
    /// What a secret is bound to when it is sealed.
    fn context(&self) -> String {
        format!("{}/{}/{}", self.organization, self.holder.kind(), self.holder)
    }

    /// What a secret was bound to when it was sealed under a master key. Only credentials were.
    fn former_context(&self) -> Option<String> {
        match self.holder {
            Holder::Credential(id) => Some(format!("{}/{id}", self.organization)),
            Holder::Secret(_) => None,
        }
    }

    /// Where a secret is in a store of secrets, below what is configured.
    fn path(&self) -> String {
        self.context()
    }
}

/// Where secrets are kept. What is answered by [`Keeper::keep`] is what the holder's row keeps, and no secret.
#[async_trait]
trait Keeper: Send + Sync {
    /// Keeps a secret.
    async fn keep(&self, place: Place, secret: &[u8]) -> Result<Vec<u8>, Error>;
    /// Opens what is kept.
    async fn open(&self, place: Place, kept: &[u8]) -> Result<Secret, Error>;
    /// Removes what is kept beside the row.
    async fn discard(&self, place: Place, kept: &[u8]) -> Result<(), Error>;
    /// Whether a secret would be kept in the same way again.
    async fn is_current(&self, place: Place, kept: &[u8]) -> Result<bool, Error>;
}

/// Keeps secrets and opens them.
pub struct Vault {
    envelope: Envelope,
    openbao: Option<OpenBao>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(..)")
    }
}

impl Vault {
    /// Reads the master keys; the key's file is made with a random key when it is not there and no key is given. With an
    /// `openbao`, secrets are kept there from now on; those that are sealed in rows open as ever.
    ///
    /// # Errors
    /// When a file cannot be read or made, is not a plain file of exactly [`KEY_BYTES`], or may be read by anybody but its
    /// owner, who must be this user.
    pub fn open(
        keys: MasterKeys,
        rows: Arc<dyn DataKeyRows>,
        openbao: Option<OpenBao>,
    ) -> Result<Self, Error> {
        Ok(Self { envelope: Envelope::new(keys, rows)?, openbao })
    }

    fn home(&self) -> &dyn Keeper {
        match &self.openbao {
            Some(openbao) => openbao,
            None => &self.envelope,
        }
    }

    fn keeper_of(&self, kept: &[u8]) -> Result<&dyn Keeper, Error> {
        match kept.first() {
            Some(&(form::UNDER_MASTER | form::UNDER_DATA_KEY)) => Ok(&self.envelope),
            Some(&form::ELSEWHERE) => match &self.openbao {
                Some(openbao) => Ok(openbao),
                None => Err(Error::NotConfigured),
            },
            _ => Err(Error::UnknownForm),
        }
    }

    /// Seals a secret for its holder, or keeps it in the store of secrets. What is answered goes into the holder's row.
    ///
    /// # Errors
    /// When it is too long, the data key cannot be had, or the store of secrets does not take it.
    pub async fn seal(&self, place: Place, secret: &[u8]) -> Result<Vec<u8>, Error> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(Error::TooLong);
        }
        self.home().keep(place, secret).await
    }

    /// Opens what [`Vault::seal`] answered for the same holder.
    ///
    /// # Errors
    /// When it was sealed for another holder or under a key that is not known, or the store of secrets does not give it.
    pub async fn open_sealed(&self, place: Place, kept: &[u8]) -> Result<Secret, Error> {
        self.keeper_of(kept)?.open(place, kept).await
    }

    /// Removes what is kept beside the row, all versions of it, before the row is deleted. Again is no error.
    ///
    /// # Errors
    /// When the store of secrets does not say that it is gone.
    pub async fn discard(&self, place: Place, kept: &[u8]) -> Result<(), Error> {
        self.keeper_of(kept)?.discard(place, kept).await
    }

    /// Where a secret is kept, when that is not in its row: the path in the store of secrets, with its mount where that is
    /// configured.
    pub fn reference(&self, kept: &[u8]) -> Option<String> {
        let path = Reference::parse(kept)?.path;
        Some(self.openbao.as_ref().map_or_else(|| path.clone(), |openbao| openbao.shown(&path)))
    }

    /// Reads the master keys anew. When this has answered, nothing is sealed any more under a key that is not the newest,
    /// and nothing that was is still to be written.
    ///
    /// # Errors
    /// When a key's file cannot be read; the keys are then those of before.
    pub async fn reload(&self) -> Result<(), Error> {
        self.envelope.reload().await
    }

    /// Tells the master key that seals from others, and nothing of it: the beginning of its hash, as hexadecimal digits.
    pub async fn newest_key(&self) -> String {
        self.envelope.newest_master().await
    }

    /// Makes the next master key beside the one in force, unless a rotation that was cut short has made it, and takes it
    /// up. Data keys are to be resealed then.
    ///
    /// # Errors
    /// When the file cannot be made, or the master key is given and so not ours to change.
    pub async fn begin_rotation(&self) -> Result<(), Error> {
        self.envelope.begin_rotation().await
    }

    /// Puts the next master key in the place of the one in force, which is gone with this. The caller knows that nothing is
    /// sealed under it any more.
    ///
    /// # Errors
    /// When the file cannot be renamed: the rotation is then as it was.
    pub async fn end_rotation(&self) -> Result<(), Error> {
        self.envelope.end_rotation().await
    }

    /// A data key sealed under the newest master key, or nothing when it is so already.
    ///
    /// # Errors
    /// When it does not open.
    pub async fn reseal_data_key(
        &self,
        organization: OrganizationId,
        key: &SealedDataKey,
    ) -> Result<Option<Vec<u8>>, Error> {
        self.envelope.reseal(organization, key).await
    }

    /// Makes another data key for an organization, under which its secrets are sealed from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn renew_data_key(&self, organization: OrganizationId) -> Result<(), Error> {
        self.envelope.renew(organization).await
    }

    /// A secret kept as it would be kept now, or nothing when it is so already.
    ///
    /// # Errors
    /// When it cannot be opened, or not be kept again.
    pub async fn reseal(&self, place: Place, kept: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if self.home().is_current(place, kept).await? {
            return Ok(None);
        }
        let secret = self.open_sealed(place, kept).await?;
        self.seal(place, secret.expose()).await.map(Some)
    }

    /// Whether a secret is sealed under a master key itself, as all were once, so that the key's rotation concerns it.
    pub fn is_under_master(kept: &[u8]) -> bool {
        kept.first() == Some(&form::UNDER_MASTER)
    }
}

#[cfg(test)]
mod tests;
