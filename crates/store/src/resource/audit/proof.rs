//! Checkpoints: signed statements of how far the log went and what its hash was, each of which names the one before.
//!
//! Invariant: checkpoints of an organization are numbered densely from 1; each holds the SHA-256 of the payload before it,
//! and the first one 32 zero bytes.

use freehold_model::{
    Timestamp,
    audit::{Checkpoint, CheckpointFormat},
};
use sha2::{Digest, Sha256};

use super::CHAIN_START;
use crate::{
    Error, OrgRead, OrgTx, Page,
    page::Conditions,
    sql::{Column, Row},
};

const TABLE: &str = "audit_checkpoints";
const KEYS: &str = "audit_keys";
/// A query of checkpoints.
const SELECT: &str =
    "SELECT number, seq, payload, signature FROM audit_checkpoints WHERE organization_id = ?1";

/// A checkpoint as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// Its number, dense from 1.
    pub number: u64,
    /// The last row that it covers.
    pub seq: u64,
    /// The canonical JSON that was signed.
    pub payload: String,
    /// The Ed25519 signature, 64 bytes.
    pub signature: Vec<u8>,
}

impl SignedCheckpoint {
    /// The SHA-256 of the payload, by which the next checkpoint names this one.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }

    fn read(row: &mut Row<'_>) -> Result<Self, Error> {
        let (number, seq) = (row.get(TABLE)?, row.get(TABLE)?);
        Ok(Self { number, seq, payload: row.get(TABLE)?, signature: row.get(TABLE)? })
    }
}

/// A key that signed checkpoints of the organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The SHA-256 of the public key, in hexadecimal.
    pub id: String,
    /// The Ed25519 public key.
    pub public_key: [u8; 32],
    /// When it signed first.
    pub created_at: Timestamp,
}

impl OrgRead<'_> {
    /// The last checkpoint.
    pub fn audit_checkpoint_last(&mut self) -> Result<Option<SignedCheckpoint>, Error> {
        let sql = format!("{SELECT} ORDER BY number DESC LIMIT 1");
        Ok(self.query(&sql, &[], SignedCheckpoint::read)?.pop())
    }

    /// Checkpoints in the order of their numbers.
    pub fn audit_checkpoints(&mut self, page: &Page<u64>) -> Result<Vec<SignedCheckpoint>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("number > ", page.after.as_ref()).page("number", page);
        self.checkpoints(&conditions)
    }

    /// Checkpoints over rows from `first` to `last`, both included, in order.
    pub fn audit_checkpoints_over(
        &mut self,
        first: u64,
        last: u64,
        limit: u32,
    ) -> Result<Vec<SignedCheckpoint>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("seq >= ", first.write()).with("seq <= ", last.write());
        conditions.page("seq", &Page::<u64>::first(limit));
        self.checkpoints(&conditions)
    }

    fn checkpoints(&mut self, conditions: &Conditions<'_>) -> Result<Vec<SignedCheckpoint>, Error> {
        self.query(&format!("{SELECT}{}", conditions.sql), &conditions.values, SignedCheckpoint::read)
    }

    /// The keys that signed, the first one first.
    pub fn audit_keys(&mut self) -> Result<Vec<StoredKey>, Error> {
        let sql = "SELECT id, public_key, created_at FROM audit_keys WHERE organization_id = ?1
            ORDER BY created_at, id";
        self.query(sql, &[], |row| {
            Ok(StoredKey { id: row.get(KEYS)?, public_key: row.get(KEYS)?, created_at: row.get(KEYS)? })
        })
    }

    /// How many rows no checkpoint covers.
    pub fn audit_unsigned_rows(&mut self) -> Result<u64, Error> {
        let signed = self.audit_checkpoint_last()?.map_or(0, |last| last.seq);
        Ok(self.audit_last_seq()?.saturating_sub(signed))
    }
}

impl OrgTx<'_> {
    /// Adds a checkpoint over all rows, when there are any that none covers. `sign` makes the signature of the payload by
    /// the key with this id and public half.
    pub fn audit_checkpoint_add(
        &mut self,
        key: &StoredKey,
        now: Timestamp,
        sign: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Option<SignedCheckpoint>, Error> {
        let (seq, hash) = self.chain_end()?;
        let last = self.audit_checkpoint_last()?;
        if last.as_ref().map_or(0, |last| last.seq) >= seq {
            return Ok(None);
        }
        let payload = Checkpoint {
            format: CheckpointFormat::V1,
            hash: hex::encode(hash),
            key_id: key.id.clone(),
            number: last.as_ref().map_or(0, |last| last.number) + 1,
            org_id: self.organization_id(),
            previous: hex::encode(last.as_ref().map_or(CHAIN_START, SignedCheckpoint::hash)),
            seq,
            timestamp: now,
        };
        let number = payload.number;
        let payload = serde_jcs::to_string(&payload).map_err(|_| Error::Corrupt {
            table: TABLE,
            column: 0,
            expected: "canonical JSON",
        })?;
        let signature = sign(payload.as_bytes());
        let known =
            "INSERT INTO audit_keys (organization_id, id, public_key, created_at) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (organization_id, id) DO NOTHING";
        self.execute(known, &[key.id.write(), key.public_key.write(), now.write()])?;
        let sql = "INSERT INTO audit_checkpoints (organization_id, number, seq, payload, signature)
            VALUES (?1, ?2, ?3, ?4, ?5)";
        self.send(sql, &[number.write(), seq.write(), payload.write(), signature.write()], TABLE)?;
        Ok(Some(SignedCheckpoint { number, seq, payload, signature }))
    }
}
