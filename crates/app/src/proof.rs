//! What proves the audit log: checkpoints, the keys that sign them, and the export that anybody can verify.

use std::{collections::HashMap, time::Duration};

use freehold_access::{Actor, Reach, Right};
use freehold_model::{OrganizationId, Timestamp};
use freehold_store::{AuditRow, Page, SignedCheckpoint, StoredKey, Topic};
use futures::{Stream, stream};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{App, Error, error::Fields, now, seats::Seat};

/// Rows that no checkpoint covers yet for which one is made at the next look, in rows.
pub const CHECKPOINT_ROWS: u64 = 10_000;
/// How long a row waits for a checkpoint at most, while the server runs and may write.
pub const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what is new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Exports of one caller that run at a time.
pub const EXPORTS_PER_CALLER_MAX: usize = 4;
/// Rows, and checkpoints, of one step of an export.
const STEP: u32 = 500;
/// Organizations of one step.
const ORGANIZATIONS: u32 = 256;

/// A key that signs checkpoints, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditKey {
    /// The SHA-256 of the public key, in hexadecimal.
    pub id: String,
    /// The Ed25519 public key.
    pub public_key: [u8; 32],
    /// When it signed first; none when it has not yet.
    pub first_used_at: Option<Timestamp>,
    /// Whether it signs now.
    pub is_current: bool,
}

/// An export of the audit log.
pub struct Export {
    /// Whose log it is.
    pub organization: OrganizationId,
    /// The rows begin after this position.
    pub after: u64,
    /// The hash of the chain there.
    pub previous: [u8; 32],
    /// The last row of the export, which a checkpoint covers.
    pub until: u64,
    /// The keys that signed its checkpoints.
    pub keys: Vec<AuditKey>,
    app: App,
    _seat: Seat,
}

/// A piece of an export.
#[derive(Debug)]
pub enum Piece {
    /// A row.
    Row(Box<AuditRow>),
    /// A checkpoint over the rows so far.
    Checkpoint(SignedCheckpoint),
}

impl App {
    /// Checkpoints of the caller's organization, oldest first.
    ///
    /// # Errors
    /// When the caller may not read the whole log.
    pub async fn audit_checkpoint_list(
        &self,
        actor: &Actor,
        page: Page<u64>,
    ) -> Result<Vec<SignedCheckpoint>, Error> {
        let organization = whole_log(actor)?.organization();
        self.store().read(organization, move |tx| Ok(tx.audit_checkpoints(&page)?)).await
    }

    /// The keys that signed checkpoints, oldest first, and the one that signs now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn audit_key_list(&self, actor: &Actor) -> Result<Vec<AuditKey>, Error> {
        let current = self.audit_key();
        let stored: Vec<StoredKey> =
            self.store().read(actor.organization(), |tx| Ok::<_, Error>(tx.audit_keys()?)).await?;
        let is_new = stored.iter().all(|key| key.id != current.id);
        let mut keys: Vec<AuditKey> = stored
            .into_iter()
            .map(|key| AuditKey {
                is_current: key.id == current.id,
                id: key.id,
                public_key: key.public_key,
                first_used_at: Some(key.created_at),
            })
            .collect();
        if is_new {
            let StoredKey { id, public_key, .. } = current;
            keys.push(AuditKey { id, public_key, first_used_at: None, is_current: true });
        }
        Ok(keys)
    }

    /// Begins an export of every row after a position. It ends with a checkpoint over its last row, which is made now when
    /// there are rows that none covers.
    ///
    /// # Errors
    /// When the caller may not read the whole log, has too many exports open, or there is no row at the position.
    pub async fn audit_export(&self, actor: &Actor, after: u64) -> Result<Export, Error> {
        let organization = whole_log(actor)?.organization();
        let seat = self.inner.exports.take(actor)?;
        if let Err(error) = self.checkpoint(organization).await {
            // What is signed already can be read nevertheless.
            tracing::warn!(error = &error as &dyn std::error::Error, "no checkpoint for an export");
        }
        let begun = self.store().read(organization, move |tx| {
            let until = tx.audit_checkpoint_last()?.map_or(0, |last| last.seq);
            Ok::<_, Error>((tx.audit_hash_at(after)?, until))
        });
        let (previous, until) = begun.await?;
        let mut fields = Fields::default();
        fields.refuse(previous.is_none(), "after", "is beyond the last row");
        fields.check()?;
        let keys = self.audit_key_list(actor).await?;
        let keys = keys.into_iter().filter(|key| key.first_used_at.is_some()).collect();
        let previous = previous.unwrap_or(freehold_store::CHAIN_START);
        Ok(Export {
            organization,
            after,
            previous,
            until: until.max(after),
            keys,
            app: self.clone(),
            _seat: seat,
        })
    }

    /// Rows that no checkpoint covers yet.
    async fn unsigned(&self, organization: OrganizationId) -> Result<u64, Error> {
        self.store().read(organization, |tx| Ok(tx.audit_unsigned_rows()?)).await
    }

    /// Makes a checkpoint when there are rows that none covers.
    async fn checkpoint(&self, organization: OrganizationId) -> Result<(), Error> {
        if self.unsigned(organization).await? == 0 {
            return Ok(());
        }
        let (key, signer) = (self.audit_key(), std::sync::Arc::clone(&self.ports().signer));
        let made = self.store().write(organization, move |tx| {
            let made = tx.audit_checkpoint_add(&key, now(), |payload| signer.sign(payload))?;
            Ok::<_, Error>(made)
        });
        if let Some(made) = made.await? {
            tracing::debug!(
                organization.id = %organization,
                audit.seq = made.seq,
                audit.checkpoint = made.number,
                "signed the audit log"
            );
        }
        Ok(())
    }

    /// Makes checkpoints over all rows that none covers, as a server does before it ends.
    pub async fn checkpoint_all(&self) {
        let mut since = HashMap::new();
        self.checkpoint_due(&mut since, true).await;
    }

    /// Makes checkpoints while rows are added: over [`CHECKPOINT_ROWS`] of them, or those that have waited for
    /// [`CHECKPOINT_WAIT_MAX`]. Does not end.
    pub async fn keep_checkpoints(&self) {
        let mut changes = self.store().subscribe(Topic::Audit);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // When each organization's rows were first seen to wait.
        let mut since: HashMap<OrganizationId, Instant> = HashMap::new();
        // What an earlier server left.
        changes.mark_changed();
        loop {
            ticks.tick().await;
            if since.is_empty() && changes.changed().await.is_err() {
                // The store is closed, and nothing comes any more.
                return std::future::pending().await;
            }
            self.checkpoint_due(&mut since, false).await;
        }
    }

    async fn checkpoint_due(&self, since: &mut HashMap<OrganizationId, Instant>, is_last: bool) {
        let mut after = None;
        loop {
            let page = Page { after, limit: ORGANIZATIONS };
            let page = self.store().system_read(move |tx| tx.organization_list(&page)).await;
            let Ok(page) = page.map_err(|error| failed(&error)) else { return };
            for organization in &page {
                if let Err(error) = self.checkpoint_one(organization.id, since, is_last).await {
                    failed(&error);
                }
            }
            after = page.last().map(|organization| organization.id);
            if page.len() < ORGANIZATIONS as usize {
                return;
            }
        }
    }

    async fn checkpoint_one(
        &self,
        organization: OrganizationId,
        since: &mut HashMap<OrganizationId, Instant>,
        is_last: bool,
    ) -> Result<(), Error> {
        let unsigned = self.unsigned(organization).await?;
        if unsigned == 0 {
            since.remove(&organization);
            return Ok(());
        }
        let waits = since.entry(organization).or_insert_with(Instant::now).elapsed();
        if is_last || unsigned >= CHECKPOINT_ROWS || waits >= CHECKPOINT_WAIT_MAX {
            self.checkpoint(organization).await?;
            since.remove(&organization);
        }
        Ok(())
    }

    fn audit_key(&self) -> StoredKey {
        let public_key = self.ports().signer.public_key();
        StoredKey { id: hex::encode(Sha256::digest(public_key)), public_key, created_at: now() }
    }
}

/// It is tried again at the next look.
fn failed(error: &(dyn std::error::Error + 'static)) {
    tracing::warn!(error, "the audit log was not signed");
}

/// The chain is of the whole log: whoever sees a part of it only cannot verify it, and must not see the rest.
fn whole_log(actor: &Actor) -> Result<Reach, Error> {
    Ok(actor.reach(Right::AuditReadAll)?)
}

impl Export {
    /// The rows in order, each checkpoint behind the last row that it covers.
    pub fn pieces(self) -> impl Stream<Item = Result<Vec<Piece>, Error>> + Send {
        let at = self.after;
        stream::try_unfold((self, at, false), |(export, at, is_begun)| async move {
            if is_begun && at >= export.until {
                return Ok(None);
            }
            let (until, organization) = (export.until, export.organization);
            let read = export.app.store().read(organization, move |tx| {
                let mut rows = tx.audit_after(at, STEP)?;
                rows.retain(|row| row.seq <= until);
                let last = rows.last().map_or(until, |row| row.seq);
                // The one at the position where an export goes on tells what it goes on from.
                let first = if is_begun { at + 1 } else { at.max(1) };
                let checkpoints = tx.audit_checkpoints_over(first, last, u32::MAX)?;
                Ok::<_, Error>((rows, checkpoints, last))
            });
            let (rows, checkpoints, last) = read.await?;
            Ok(Some((merged(rows, checkpoints), (export, last, true))))
        })
    }
}

fn merged(rows: Vec<AuditRow>, checkpoints: Vec<SignedCheckpoint>) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(rows.len() + checkpoints.len());
    let mut checkpoints = checkpoints.into_iter().peekable();
    for row in rows {
        while let Some(checkpoint) = checkpoints.next_if(|checkpoint| checkpoint.seq < row.seq) {
            pieces.push(Piece::Checkpoint(checkpoint));
        }
        pieces.push(Piece::Row(Box::new(row)));
    }
    pieces.extend(checkpoints.map(Piece::Checkpoint));
    pieces
}
