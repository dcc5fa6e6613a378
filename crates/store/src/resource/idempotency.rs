//! Answers that were given to requests with an `Idempotency-Key`, to be given again.

use freehold_model::Timestamp;

use crate::{
    Error, OrgRead, OrgTx, SystemTx, column,
    sql::{Column, Value},
};

const TABLE: &str = "idempotency_keys";

/// The answer to a request that came with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// Who asked, as the caller of this layer names it.
    pub actor: String,
    /// The key.
    pub key: String,
    /// An HMAC of the request, by which another request under the same key is told apart: a request may hold a secret.
    pub request_hash: [u8; 32],
    /// The answer, opaque here.
    pub response: Vec<u8>,
    /// When the answer may be forgotten.
    pub expires_at: Timestamp,
}

impl OrgRead<'_> {
    /// What was answered under this key, unless it has expired at `now`.
    pub fn idempotency_find(
        &mut self,
        actor: &str,
        key: &str,
        now: Timestamp,
    ) -> Result<Option<IdempotencyRecord>, Error> {
        let sql = "SELECT actor, key, request_hash, response, expires_at FROM idempotency_keys
            WHERE organization_id = ?1 AND actor = ?2 AND key = ?3 AND expires_at > ?4";
        let values = [column::text(actor), column::text(key), now.write()];
        let found = self.query(sql, &values, |row| {
            Ok(IdempotencyRecord {
                actor: row.get(TABLE)?,
                key: row.get(TABLE)?,
                request_hash: row.get(TABLE)?,
                response: row.get(TABLE)?,
                expires_at: row.get(TABLE)?,
            })
        })?;
        Ok(found.into_iter().next())
    }
}

impl OrgTx<'_> {
    /// Keeps an answer, in the same job as what it answers; one that has expired under the same key is replaced, one in
    /// force breaks `idempotency_keys_organization_id_actor_key_key`.
    pub fn idempotency_insert(&mut self, record: &IdempotencyRecord, now: Timestamp) -> Result<(), Error> {
        let (actor, key) = (column::text(&record.actor), column::text(&record.key));
        let expired = "DELETE FROM idempotency_keys
            WHERE organization_id = ?1 AND actor = ?2 AND key = ?3 AND expires_at <= ?4";
        self.execute(expired, &[actor.clone(), key.clone(), now.write()])?;
        let sql =
            "INSERT INTO idempotency_keys (organization_id, actor, key, request_hash, response, expires_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (hash, response) = (record.request_hash.write(), Value::Bytes((&record.response).into()));
        self.execute(sql, &[actor, key, hash, response, record.expires_at.write()]).map(drop)
    }
}

impl SystemTx<'_> {
    /// Forgets up to `limit` answers that have expired at `now`; answers how many.
    pub fn idempotency_sweep(&mut self, now: Timestamp, limit: u32) -> Result<u64, Error> {
        let sql = "DELETE FROM idempotency_keys WHERE (organization_id, actor, key) IN
            (SELECT organization_id, actor, key FROM idempotency_keys WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
        self.execute(sql, &[now.write(), limit.write()])
    }
}
