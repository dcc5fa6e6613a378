//! `freehold vault rotate`: another master key, and on demand other data keys, on the server's machine. A server that runs goes
//! on serving.
//!
//! Crash-safe at every point: the next master key is beside the one in force before anything is sealed under it, whoever reads
//! the keys reads both, and the old one is replaced only once nothing is sealed under it. A rotation that was cut short is
//! finished by the next one.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::Context;
use clap::Subcommand;
use freehold_app::audit::{self, Cause};
use freehold_cli::counted;
use freehold_model::{CredentialId, OrganizationId, SecretId, Timestamp, audit::EventType, secret::Holder};
use freehold_store::{Sealed, Store};
use freehold_vault::{Place, SealedDataKey, Vault};
use rustix::fs::FlockOperation;

use crate::{
    config::{self, Flags, Home},
    control, secrets, server,
};

/// Rows that are resealed in one transaction.
const BATCH: u32 = 64;

/// How often all rows are gone through until nothing is left to do: what a running server writes meanwhile is under the newest
/// keys already, so that a second time finds little and a third nothing.
const PASSES_MAX: u32 = 8;

/// The file whose lock one rotation has.
const LOCK_FILE: &str = "vault.lock";

/// Arguments of `freehold vault`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  freehold vault rotate\n  freehold vault rotate --data-keys")]
pub struct Args {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make another master key and reseal every data key under it; the server may run
    #[command(after_help = "\
Examples:
  freehold vault rotate
  freehold vault rotate --data-keys --data-dir ./data

The old key is gone afterwards: a backup of the database from before needs a copy of master.key from before. A rotation that is
cut short does no harm; run it again. Where `vault.master_key` is configured, everything is resealed under that key: configure
the new key there and the old one under `vault.former_master_keys`, restart the server, then run this.")]
    Rotate {
        /// Make other data keys too, and reseal every secret under them, in the store of secrets where one is configured
        #[arg(long)]
        data_keys: bool,
    },
}

/// What a rotation has durably done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The next master key is there, and whoever seals does so under it.
    Begun,
    /// Another data key of an organization is there.
    NewDataKey,
    /// So many data keys are resealed.
    DataKeys(usize),
    /// So many secrets are resealed.
    Secrets(usize),
    /// The next master key is the one in force.
    Ended,
}

/// Carries the command out and answers what to print.
pub async fn run(arguments: Args) -> anyhow::Result<String> {
    let config = config::load(&arguments.flags, &Home::from_environment())?.config;
    let data_dir = &config.server.data_dir;
    anyhow::ensure!(
        data_dir.is_dir(),
        "there is no data directory {}; start the server once, or name its directory with --data-dir",
        data_dir.display()
    );
    server::ensure_database(&config)?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data_dir.join(LOCK_FILE));
    let lock = lock.with_context(|| format!("cannot use {}", data_dir.display()))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).context("another rotation runs")?;
    let store = server::open_store(&config, data_dir, false)?;
    let vault = secrets::open(&config, data_dir, &store)?;
    let Command::Rotate { data_keys } = arguments.command;
    let rotated = rotate(&store, &vault, data_dir, data_keys, &mut say).await;
    store.close().await;
    let Rotated { keys, secrets } = rotated.context("the rotation is not finished; run it again")?;
    Ok(format!(
        "resealed {} and {} under the master key {}\n",
        counted(keys, "data key"),
        counted(secrets, "secret"),
        vault.newest_key().await
    ))
}

#[expect(clippy::print_stderr, reason = "progress goes to standard error")]
fn say(step: Step) -> anyhow::Result<()> {
    match step {
        Step::Begun => eprintln!("the next master key is in use"),
        Step::NewDataKey => eprintln!("made another data key"),
        Step::DataKeys(count) => eprintln!("resealed {}", counted(count, "data key")),
        Step::Secrets(count) => eprintln!("resealed {}", counted(count, "secret")),
        Step::Ended => eprintln!("the old master key is gone"),
    }
    Ok(())
}

/// What a rotation did.
#[derive(Debug, Default)]
pub struct Rotated {
    keys: usize,
    secrets: usize,
}

/// Is told each step once it is done; an error ends the rotation there, as a crash would.
pub type Progress<'a> = &'a mut (dyn FnMut(Step) -> anyhow::Result<()> + Send);

/// Rotates the master key and, if wanted, the data keys.
///
/// # Errors
/// When something cannot be opened, read or written: the rotation is then where it was, and everything opens as before.
pub async fn rotate(
    store: &Store,
    vault: &Vault,
    data_dir: &Path,
    data_keys: bool,
    progress: Progress<'_>,
) -> anyhow::Result<Rotated> {
    vault.begin_rotation().await?;
    let newest = vault.newest_key().await;
    if let Some(used) = control::tell(data_dir).await? {
        anyhow::ensure!(
            used == newest,
            "the running server seals under another master key: restart it with this configuration first"
        );
    }
    progress(Step::Begun)?;
    let mut done = Rotated::default();
    if data_keys {
        for organization in organizations(store).await? {
            vault.renew_data_key(organization).await?;
            progress(Step::NewDataKey)?;
        }
    }
    let mut is_left = true;
    for _ in 0..PASSES_MAX {
        let keys = reseal_data_keys(store, vault, progress).await?;
        let secrets = reseal_secrets(store, vault, data_keys, progress).await?;
        done.keys += keys;
        done.secrets += secrets;
        is_left = keys + secrets > 0;
        if !is_left {
            break;
        }
    }
    anyhow::ensure!(!is_left, "there was always more to reseal");
    // Before the end, so that no rotation is without its row; one that is cut here has another when it is finished.
    record(store, &newest, data_keys).await?;
    vault.end_rotation().await?;
    progress(Step::Ended)?;
    control::tell(data_dir).await?;
    Ok(done)
}

/// Writes the rows that say that each organization's secrets are sealed by this master key.
async fn record(store: &Store, master_key: &str, data_keys: bool) -> anyhow::Result<()> {
    for organization in organizations(store).await? {
        let detail = serde_json::json!({ "master_key": master_key, "data_keys": data_keys });
        let written = store.write(organization, move |tx| {
            audit::append(tx, &Cause::server(), EventType::VaultRotated, detail, Timestamp::now())
        });
        written.await.context("the rotation cannot be recorded")?;
    }
    Ok(())
}

/// The organizations that have data keys.
async fn organizations(store: &Store) -> anyhow::Result<Vec<OrganizationId>> {
    let mut organizations: Vec<OrganizationId> = Vec::new();
    let mut after = None;
    loop {
        let page = store.system_read(move |tx| tx.data_keys(after, BATCH)).await?;
        let Some(last) = page.last() else { return Ok(organizations) };
        after = Some((last.organization_id, last.version));
        organizations.extend(page.iter().map(|key| key.organization_id));
        organizations.dedup();
    }
}

async fn reseal_data_keys(store: &Store, vault: &Vault, progress: Progress<'_>) -> anyhow::Result<usize> {
    let (mut after, mut count) = (None, 0);
    loop {
        let page = store.system_read(move |tx| tx.data_keys(after, BATCH)).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some((last.organization_id, last.version));
        let mut exchanges = Vec::new();
        for key in page {
            let sealed = SealedDataKey { version: key.version, sealed: key.sealed };
            let resealed = vault.reseal_data_key(key.organization_id, &sealed).await;
            let context = || format!("data key {} of {}", key.version, key.organization_id);
            if let Some(to) = resealed.with_context(context)? {
                exchanges.push((key.organization_id, sealed, to));
            }
        }
        if exchanges.is_empty() {
            continue;
        }
        count += exchanges.len();
        store
            .system_write(move |tx| {
                for (organization, from, to) in &exchanges {
                    tx.organization(*organization)?.data_key_exchange(from.version, &from.sealed, to)?;
                }
                Ok::<_, freehold_store::Error>(())
            })
            .await?;
        progress(Step::DataKeys(count))?;
    }
}

/// Where a page of what holders keep begins: credentials come first.
#[derive(Clone, Copy)]
enum After {
    Credential(Option<CredentialId>),
    Secret(Option<SecretId>),
}

/// Reseals secrets: all that are not kept as they would be now or, unless all are wanted, those under a master key itself.
async fn reseal_secrets(
    store: &Store,
    vault: &Vault,
    all: bool,
    progress: Progress<'_>,
) -> anyhow::Result<usize> {
    let (mut after, mut count) = (After::Credential(None), 0);
    loop {
        let read = store.system_read(move |tx| match after {
            After::Credential(after) => tx.sealed_credentials(after, BATCH),
            After::Secret(after) => tx.sealed_secrets(after, BATCH),
        });
        let page = read.await?;
        after = match (page.last().map(|last| last.holder), after) {
            (Some(Holder::Credential(id)), _) => After::Credential(Some(id)),
            (Some(Holder::Secret(id)), _) => After::Secret(Some(id)),
            (None, After::Credential(_)) => After::Secret(None),
            (None, After::Secret(_)) => return Ok(count),
        };
        let mut exchanges: Vec<(Sealed, Vec<u8>)> = Vec::new();
        for row in page.into_iter().filter(|row| all || Vault::is_under_master(&row.sealed)) {
            let place = Place { organization: row.organization_id, holder: row.holder };
            let resealed = vault.reseal(place, &row.sealed).await;
            if let Some(to) = resealed.with_context(|| row.holder.to_string())? {
                exchanges.push((row, to));
            }
        }
        if exchanges.is_empty() {
            continue;
        }
        count += exchanges.len();
        store
            .system_write(move |tx| {
                for (from, to) in &exchanges {
                    tx.organization(from.organization_id)?.sealed_exchange(from.holder, &from.sealed, to)?;
                }
                Ok::<_, freehold_store::Error>(())
            })
            .await?;
        progress(Step::Secrets(count))?;
    }
}

#[cfg(test)]
mod tests;
