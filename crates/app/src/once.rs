//! Requests that must happen once although they may be sent twice.
//!
//! What was answered is kept in the same transaction as what was done, so that there is never one without the other.

use aws_lc_rs::hmac;
use freehold_access::{Actor, Kind};
use freehold_model::Timestamp;
use freehold_store::{IdempotencyRecord, OrgTx};
use jiff::SignedDuration;

use crate::{App, Error, ports::AuditSigner};

/// Hours for which an answer is kept.
const KEPT_HOURS: i64 = 24;

/// What the key that signs checkpoints signs to make the key of requests; no checkpoint begins like it.
const KEY_LABEL: &[u8] = b"freehold: what requests that happen once are known by, 1";

/// That a request must happen once; made by [`App::once`].
#[derive(Debug, Clone)]
pub struct Once<T> {
    key: String,
    request_hash: [u8; 32],
    render: fn(&T) -> Vec<u8>,
}

/// The server's own key, by which requests are known again: a request may hold a secret, and whoever reads the rows shall
/// not be able to test guesses of it. The same as long as the server has the same key for its audit log.
pub(crate) fn key(signer: &dyn AuditSigner) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &signer.sign(KEY_LABEL))
}

impl App {
    /// That a request must happen once: `key` is what its caller gave it, `digest` the SHA-256 of operation and request, and
    /// `render` makes of what was done the answer to keep. Of the digest an HMAC is kept.
    pub fn once<T>(&self, key: String, digest: &[u8; 32], render: fn(&T) -> Vec<u8>) -> Once<T> {
        Once { key, request_hash: known_by(self.request_key(), digest), render }
    }
}

fn known_by(key: &hmac::Key, digest: &[u8; 32]) -> [u8; 32] {
    let mut tag = [0; 32];
    tag.copy_from_slice(hmac::sign(key, digest).as_ref());
    tag
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Signer(u8);

    impl AuditSigner for Signer {
        fn public_key(&self) -> [u8; 32] {
            [0; 32]
        }

        fn sign(&self, message: &[u8]) -> Vec<u8> {
            [message, &[self.0]].concat()
        }
    }

    #[test]
    fn a_request_is_known_again_by_the_server_that_has_the_key_and_by_nobody_else() {
        let digest = [7; 32];
        let known = known_by(&key(&Signer(1)), &digest);
        assert_eq!(known, known_by(&key(&Signer(1)), &digest));
        for other in [digest, known_by(&key(&Signer(2)), &digest), known_by(&key(&Signer(1)), &[8; 32])] {
            assert_ne!(known, other);
        }
    }
}
