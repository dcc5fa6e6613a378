//! The check of an exported audit log, line by line and in bounded memory.
//!
//! Invariant: what is accepted is byte for byte what a server wrote: each row follows from the one before, each checkpoint
//! is signed and names the one before, the last row is covered by a checkpoint, and the last line is the digest of all
//! others. `tools/audit-verify.py` does the same, and tests hold the two against each other.

use std::collections::HashMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use freehold_client::api::audit::{AuditExportEnd, AuditExportLine};
use freehold_model::{OrganizationId, audit::Checkpoint};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The version of the form that is known.
const FORM: u32 = 1;

type Hash = [u8; 32];

/// What was known of the log before, and must be so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins {
    /// Ids of the keys that may sign; any that the export names, when there are none.
    pub keys: Vec<String>,
    /// Numbers and hashes of checkpoints that must be there.
    pub checkpoints: Vec<(u64, String)>,
}

/// What is wrong, and in which line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub(crate) struct Bad {
    pub line: u64,
    pub why: String,
}

/// What was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub organization: OrganizationId,
    /// The rows after this position were checked.
    pub after: u64,
    /// The last one.
    pub seq: u64,
    /// The last checkpoint's number and hash.
    pub checkpoint: Option<(u64, String)>,
    /// Which keys signed.
    pub keys: Vec<String>,
}

/// The check of one or more files that follow each other.
pub(crate) struct Verifier {
    pins: Pins,
    line: u64,
    digest: Sha256,
    organization: Option<OrganizationId>,
    after: u64,
    seq: u64,
    hash: Hash,
    keys: HashMap<String, Vec<u8>>,
    used: Vec<String>,
    checkpoint: Option<Last>,
    /// Whether nothing has come yet in a file that goes on from another.
    is_carried: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Rows,
    Ended,
}

/// The last checkpoint.
struct Last {
    number: u64,
    hash: Hash,
    seq: u64,
}

/// What of a row the check has to know; the rest is covered by the hash.
#[derive(Deserialize)]
struct Place {
    seq: u64,
    org_id: OrganizationId,
}

impl Verifier {
    pub fn new(pins: Pins) -> Self {
        Self {
            pins,
            line: 0,
            digest: Sha256::new(),
            organization: None,
            after: 0,
            seq: 0,
            hash: [0; 32],
            keys: HashMap::new(),
            used: Vec::new(),
            checkpoint: None,
            is_carried: false,
            stage: Stage::Header,
        }
    }

    /// The position of the last row that was found good.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes the next line, without its end.
    pub fn line(&mut self, line: &str) -> Result<(), Bad> {
        self.line += 1;
        let digest = self.digest.clone();
        self.digest.update(line);
        self.digest.update(b"\n");
        let checked = match self.stage {
            Stage::Header => self.header(line),
            Stage::Rows if line.starts_with("{\"hash\":") => self.row(line),
            Stage::Rows if line.starts_with("{\"checkpoint\":") => self.checkpoint(line),
            Stage::Rows if line.starts_with("{\"end\":") => self.end(line, digest),
            Stage::Rows => Err("is neither a row nor a checkpoint nor the end".to_owned()),
            Stage::Ended => Err("comes after the end".to_owned()),
        };
        checked.map_err(|why| self.bad(why))
    }

    /// Begins the next file, once the one before has ended.
    pub fn next_file(&mut self) -> Result<(), Bad> {
        if self.stage != Stage::Ended {
            return Err(self.cut());
        }
        (self.stage, self.line, self.digest) = (Stage::Header, 0, Sha256::new());
        Ok(())
    }

    /// Ends the check.
    pub fn finish(self) -> Result<Report, Bad> {
        let Some(organization) = self.organization.filter(|_| self.stage == Stage::Ended) else {
            return Err(self.cut());
        };
        if let Some((number, _)) = self.pins.checkpoints.first() {
            return Err(self.bad(format!(
                "checkpoint {number}, which was known before, is not there: rows up to it were cut off or exchanged"
            )));
        }
        Ok(Report {
            organization,
            after: self.after,
            seq: self.seq,
            checkpoint: self.checkpoint.map(|last| (last.number, hex::encode(last.hash))),
            keys: self.used,
        })
    }

    fn bad(&self, why: impl Into<String>) -> Bad {
        Bad { line: self.line, why: why.into() }
    }

    fn cut(&self) -> Bad {
        Bad { line: self.line + 1, why: "the last line is missing: the export was cut off".to_owned() }
    }

    fn header(&mut self, line: &str) -> Result<(), String> {
        let Ok(AuditExportLine::Header { freehold_audit: FORM, organization, after, previous, keys }) =
            serde_json::from_str(line)
        else {
            return Err("is not the first line of an export of a known form".to_owned());
        };
        let previous = hash_of(&previous).ok_or("the hash before the first row is none")?;
        match self.organization {
            Some(known) if (known, self.seq, self.hash) != (organization, after, previous) => {
                return Err(format!("does not go on where the file before ended, at row {}", self.seq));
            }
            Some(_) => {}
            None if after == 0 && previous != [0; 32] => {
                return Err("the hash before the first row must be zeros".to_owned());
            }
            None => (self.organization, self.after) = (Some(organization), after),
        }
        for key in keys {
            let public = hex::decode(&key.public_key).map_err(|_| "a public key is none")?;
            if hex::encode(Sha256::digest(&public)) != key.id {
                return Err("a key's id is not the hash of its public key".to_owned());
            }
            self.keys.insert(key.id, public);
        }
        (self.seq, self.hash, self.stage) = (after, previous, Stage::Rows);
        self.is_carried = self.checkpoint.is_some();
        Ok(())
    }

    fn row(&mut self, line: &str) -> Result<(), String> {
        let (claimed, row) = line
            .strip_prefix("{\"hash\":\"")
            .and_then(|rest| rest.strip_suffix('}')?.split_once("\",\"row\":"))
            .ok_or("is no row")?;
        let place: Place =
            serde_json::from_str(row).map_err(|_| "the row is not JSON with `seq` and `org_id`")?;
        let expected = self.seq.checked_add(1).ok_or("comes after the last number that a row may have")?;
        if place.seq != expected {
            return Err(format!(
                "has row {} where row {expected} must be: rows are missing, moved or put in",
                place.seq
            ));
        }
        if Some(place.org_id) != self.organization {
            return Err("the row belongs to another organization".to_owned());
        }
        let hash: Hash = Sha256::new().chain_update(self.hash).chain_update(row).finalize().into();
        if Some(hash) != hash_of(claimed) {
            return Err(format!(
                "row {expected} does not follow: it, its hash or what came before was changed"
            ));
        }
        (self.seq, self.hash, self.is_carried) = (expected, hash, false);
        Ok(())
    }

    fn checkpoint(&mut self, line: &str) -> Result<(), String> {
        let (payload, signature) = line
            .strip_prefix("{\"checkpoint\":")
            .and_then(|rest| rest.strip_suffix("\"}")?.rsplit_once(",\"signature\":\""))
            .ok_or("is no checkpoint")?;
        let said: Checkpoint =
            serde_json::from_str(payload).map_err(|_| "the checkpoint is of no known form")?;
        let signature = lower_hex(signature).ok_or("the signature is not hexadecimal")?;
        let public = self.keys.get(&said.key_id).ok_or("the checkpoint's key is not in the first line")?;
        if !self.pins.keys.is_empty() && !self.pins.keys.contains(&said.key_id) {
            return Err(format!("is signed by the key {}, which `--signed-by` does not name", said.key_id));
        }
        if UnparsedPublicKey::new(&ED25519, public).verify(payload.as_bytes(), &signature).is_err() {
            return Err("the signature is not of this checkpoint".to_owned());
        }
        if Some(said.org_id) != self.organization {
            return Err("the checkpoint belongs to another organization".to_owned());
        }
        if (said.seq, hash_of(&said.hash)) != (self.seq, Some(self.hash)) {
            return Err(format!(
                "the checkpoint is of other rows up to row {}, and here is row {}",
                said.seq, self.seq
            ));
        }
        let hash: Hash = Sha256::digest(payload).into();
        let follows = match &self.checkpoint {
            // A file that goes on from another begins with that one's last checkpoint.
            Some(last) if self.is_carried && last.hash == hash => true,
            Some(last) => {
                (Some(said.number), hash_of(&said.previous)) == (last.number.checked_add(1), Some(last.hash))
            }
            None if self.after == 0 => (said.number, hash_of(&said.previous)) == (1, Some([0; 32])),
            None => true,
        };
        if !follows {
            return Err(format!("checkpoint {} does not follow the one before", said.number));
        }
        let known = hex::encode(hash);
        if self.pins.checkpoints.iter().any(|(number, pinned)| *number == said.number && *pinned != known) {
            return Err(format!("checkpoint {} is not the one that was known before", said.number));
        }
        self.pins.checkpoints.retain(|(number, _)| *number != said.number);
        if !self.used.contains(&said.key_id) {
            self.used.push(said.key_id);
        }
        self.is_carried = false;
        self.checkpoint = Some(Last { number: said.number, hash, seq: said.seq });
        Ok(())
    }

    fn end(&mut self, line: &str, digest: Sha256) -> Result<(), String> {
        let sha256 = hex::encode(digest.finalize());
        if line != end_line(self.seq, &sha256) {
            return Err("the last line is not the digest of those before: one of them was changed".to_owned());
        }
        let signed = self.checkpoint.as_ref().map_or(0, |last| last.seq);
        if self.seq > self.after && signed != self.seq {
            return Err(format!("no checkpoint covers the rows after row {signed}"));
        }
        self.stage = Stage::Ended;
        Ok(())
    }
}

/// The last line of an export.
pub(crate) fn end_line(seq: u64, sha256: &str) -> String {
    let end = AuditExportLine::End { end: AuditExportEnd { seq, sha256: sha256.to_owned() } };
    serde_json::to_string(&end).unwrap_or_default()
}

/// A SHA-256 in the one spelling that is accepted: 64 hexadecimal digits in lower case.
pub(crate) fn hash_of(text: &str) -> Option<Hash> {
    lower_hex(text)?.try_into().ok()
}

/// Bytes in the one spelling that is accepted.
fn lower_hex(text: &str) -> Option<Vec<u8>> {
    let bytes = hex::decode(text).ok()?;
    (hex::encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests;
