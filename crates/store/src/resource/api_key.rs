//! API keys, and finding a caller by the hash of a secret.

use freehold_model::{
    ApiKeyId, OrganizationId, Timestamp,
    api_key::ApiKey,
    member::{Member, PersonalToken},
};

use crate::{
    Error, OrgRead, OrgTx, Page, SystemRead, page::Conditions, record::record, scope::changed, signal::Topic,
    sql::Column,
};

/// The SHA-256 of a secret that has 256 random bits: what is stored of it, and what it is found by.
pub type SecretHash = [u8; 32];

/// Whose secret it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// An API key's.
    ApiKey(ApiKey),
    /// A member's personal token.
    Member {
        /// The token.
        token: PersonalToken,
        /// Its member.
        member: Member,
    },
}

impl Caller {
    /// The organization the caller belongs to.
    pub const fn organization_id(&self) -> OrganizationId {
        match self {
            Self::ApiKey(key) => key.organization_id,
            Self::Member { member, .. } => member.organization_id,
        }
    }
}

record!(ApiKey in "api_keys" of organization_id; id, label, prefix, permission_set, created_at);

impl SystemRead<'_> {
    /// The caller whose secret has this hash, unless it was revoked.
    pub fn caller_by_secret_hash(&mut self, hash: &SecretHash) -> Result<Option<Caller>, Error> {
        const IN_FORCE: &str = "WHERE secret_hash = ?1 AND revoked_at IS NULL";
        if let Some(key) = self.find::<ApiKey>(IN_FORCE, &[hash.write()])? {
            return Ok(Some(Caller::ApiKey(key)));
        }
        let Some(token) = self.find::<PersonalToken>(IN_FORCE, &[hash.write()])? else {
            return Ok(None);
        };
        // The token's row refers to a member of its own organization, so the id alone finds the right one.
        let member = self.find::<Member>("WHERE id = ?1", &[token.member_id.write()])?;
        Ok(member.map(|member| Caller::Member { token, member }))
    }
}

impl OrgRead<'_> {
    /// The key with this id, unless it was revoked.
    pub fn api_key_view(&mut self, id: ApiKeyId) -> Result<Option<ApiKey>, Error> {
        self.find(" AND id = ?2 AND revoked_at IS NULL", &[id.write()])
    }

    /// Keys in force, oldest first.
    pub fn api_key_list(&mut self, page: &Page<ApiKeyId>) -> Result<Vec<ApiKey>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.that("revoked_at IS NULL").maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }
}

impl OrgTx<'_> {
    /// Inserts a key with the hash of its secret.
    pub fn api_key_insert(&mut self, key: &ApiKey, secret: &SecretHash) -> Result<(), Error> {
        self.insert_with(key, &[("secret_hash", secret.write())])
    }

    /// Revokes a key for good. `Missing` when there is none in force.
    pub fn api_key_revoke(&mut self, id: ApiKeyId, at: Timestamp) -> Result<(), Error> {
        self.touch(Topic::Callers);
        let sql = "UPDATE api_keys SET revoked_at = ?3
            WHERE organization_id = ?1 AND id = ?2 AND revoked_at IS NULL";
        changed(self.execute(sql, &[id.write(), at.write()])?, "api_keys")
    }
}
