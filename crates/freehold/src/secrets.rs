//! The vault, wired: where its keys are, which data keys the store has, how use cases keep secrets, and how egress gets the
//! value of one by its name.

mod by_name;

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use async_trait::async_trait;
use freehold_app::ports::{SealError, SecretSealer};
use freehold_model::{OrganizationId, Timestamp, secret::Holder};
use freehold_store::Store;
use freehold_vault::{
    DataKeyRows, Error, Login, MasterKey, MasterKeys, OpenBao, OpenBaoOptions, Place, RowsError,
    SealedDataKey, Vault,
};

pub use self::by_name::Secrets;
use crate::config::{Config, OpenBaoConfig};

/// The file of the master key, in the data directory.
pub const KEY_FILE: &str = "master.key";

/// Opens the vault that the configuration describes.
///
/// # Errors
/// When a key or the store of secrets is not configured rightly.
pub fn open(config: &Config, data_dir: &Path, store: &Store) -> anyhow::Result<Vault> {
    let key = |hidden: &crate::config::Hidden| MasterKey::from_base64(hidden.expose());
    let keys = MasterKeys {
        file: data_dir.join(KEY_FILE),
        given: config.vault.master_key.as_ref().map(key).transpose().context("`vault.master_key`")?,
        former: config
            .vault
            .former_master_keys
            .iter()
            .map(key)
            .collect::<Result<_, _>>()
            .context("`vault.former_master_keys`")?,
    };
    let openbao = openbao(&config.openbao)?;
    Ok(Vault::open(keys, Arc::new(Rows(store.clone())), openbao)?)
}

/// The store of secrets that is configured, if one is.
fn openbao(config: &OpenBaoConfig) -> anyhow::Result<Option<OpenBao>> {
    let Some(address) = config.address.clone() else { return Ok(None) };
    let login = match (&config.token_file, &config.role_id, &config.secret_id_file) {
        (Some(file), None, None) => Login::TokenFile(file.clone()),
        (None, Some(role_id), Some(file)) => Login::AppRole {
            mount: config.approle_mount.clone(),
            role_id: role_id.clone(),
            secret_id_file: file.clone(),
        },
        _ => anyhow::bail!("`openbao` takes either `token_file`, or `role_id` with `secret_id_file`"),
    };
    let read = |path: &std::path::PathBuf| {
        fs::read_to_string(path).with_context(|| format!("cannot read `openbao.ca_file` {}", path.display()))
    };
    let options = OpenBaoOptions {
        address,
        mount: config.mount.clone(),
        prefix: config.prefix.clone(),
        namespace: config.namespace.clone(),
        login,
        ca_pem: config.ca_file.as_ref().map(read).transpose()?,
    };
    Ok(Some(OpenBao::new(options)?))
}

/// The rows of data keys.
struct Rows(Store);

fn plain(key: freehold_store::DataKey) -> SealedDataKey {
    SealedDataKey { version: key.version, sealed: key.sealed }
}

#[async_trait]
impl DataKeyRows for Rows {
    async fn data_key(
        &self,
        organization: OrganizationId,
        version: Option<u32>,
    ) -> Result<Option<SealedDataKey>, RowsError> {
        let found = self.0.read(organization, move |tx| tx.data_key(version)).await;
        found.map(|key| key.map(plain)).map_err(Into::into)
    }

    async fn data_key_insert(
        &self,
        organization: OrganizationId,
        key: SealedDataKey,
    ) -> Result<SealedDataKey, RowsError> {
        let SealedDataKey { version, sealed } = key;
        let insert =
            self.0.write(organization, move |tx| tx.data_key_insert(version, &sealed, Timestamp::now()));
        insert.await.map(plain).map_err(Into::into)
    }
}

/// The vault, as use cases need it.
pub struct Sealer(pub Arc<Vault>);

/// An error of the vault, as use cases tell them apart.
pub fn failed(error: Error) -> SealError {
    match error {
        Error::NotConfigured => SealError::NotConfigured,
        error @ (Error::Unavailable { .. } | Error::Misconfigured { .. } | Error::Rows(_)) => {
            SealError::Unavailable(Box::new(error))
        }
        error => SealError::Failed(Box::new(error)),
    }
}

#[async_trait]
impl SecretSealer for Sealer {
    async fn seal(
        &self,
        organization: OrganizationId,
        holder: Holder,
        secret: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        self.0.seal(Place { organization, holder }, secret).await.map_err(failed)
    }

    async fn discard(
        &self,
        organization: OrganizationId,
        holder: Holder,
        sealed: &[u8],
    ) -> Result<(), SealError> {
        self.0.discard(Place { organization, holder }, sealed).await.map_err(failed)
    }

    fn reference(&self, sealed: &[u8]) -> Option<String> {
        self.0.reference(sealed)
    }
}
