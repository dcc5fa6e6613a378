//! Requests that must happen once although they may be sent twice.
//!
//! What was answered is kept in the same transaction as what was done, so that there is never one without the other.

use freehold_access::{Actor, Kind};
use freehold_model::Timestamp;
use freehold_store::{IdempotencyRecord, OrgTx};
use jiff::SignedDuration;

use crate::Error;

/// Hours for which an answer is kept.
const KEPT_HOURS: i64 = 24;

/// That a request must happen once.
#[derive(Debug, Clone)]
pub struct Once<T> {
    /// The key the caller gave it.
    pub key: String,
    /// SHA-256 of the operation and the request.
    pub request_hash: [u8; 32],
    /// Makes of what was done the answer to keep.
    pub render: fn(&T) -> Vec<u8>,
}

/// What became of a request that may have happened before.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It happened now.
    Done(T),
    /// It happened before, and this was answered.
    Replayed(Vec<u8>),
}

/// Does `job`, unless it was done before under the same key.
pub(crate) fn once<T>(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    now: Timestamp,
    once: Option<Once<T>>,
    job: impl FnOnce(&mut OrgTx<'_>) -> Result<T, Error>,
) -> Result<Outcome<T>, Error> {
    let Some(Once { key, request_hash, render }) = once else { return job(tx).map(Outcome::Done) };
    let actor = match actor.kind() {
        Kind::Member { id, .. } => id.to_string(),
        Kind::ApiKey { id, .. } => id.to_string(),
    };
    if let Some(earlier) = tx.idempotency_find(&actor, &key, now)? {
        return if earlier.request_hash == request_hash {
            Ok(Outcome::Replayed(earlier.response))
        } else {
            Err(Error::IdempotencyConflict("the same Idempotency-Key came with another request"))
        };
    }
    let done = job(tx)?;
    let expires_at = now + SignedDuration::from_hours(KEPT_HOURS);
    let record = IdempotencyRecord { actor, key, request_hash, response: render(&done), expires_at };
    tx.idempotency_insert(&record, now)?;
    Ok(Outcome::Done(done))
}
