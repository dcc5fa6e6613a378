//! Credentials; their secrets are opaque bytes here, sealed by the vault.

use freehold_model::{CredentialId, MemberId, Timestamp, credential::Credential};

use crate::{
    Error, OrgRead, OrgTx, Page, SecretHash, column,
    page::Conditions,
    record::{Record, record},
    scope::changed,
    signal::Topic,
    sql::{Column, Value},
};

/// That a person was sent to a credential's issuer to consent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// SHA-256 of the state that the issuer gives back.
    pub state_hash: SecretHash,
    /// SHA-256 of the cookie that the same browser must have.
    pub cookie_hash: SecretHash,
    /// For which credential.
    pub credential_id: CredentialId,
    /// Who began it, as audit rows name callers.
    pub started_by: String,
    /// When it is no longer taken.
    pub expires_at: Timestamp,
}

/// Whose credentials a list shows.
#[derive(Debug, Clone, Copy)]
pub enum CredentialOwners {
    /// Everybody's.
    All,
    /// The organization's and, of personal ones, this member's.
    SharedAnd(Option<MemberId>),
}

record!(Credential in "credentials" of organization_id; id, member_id, name, provider, kind, scopes, provider_config,
    allow_user_override, last_minted_at, last_minted_status, status, created_at, updated_at);

impl OrgRead<'_> {
    /// The credential with this id.
    pub fn credential_view(&mut self, id: CredentialId) -> Result<Option<Credential>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// The organization's own credential with this name; members' personal ones are not looked at.
    pub fn credential_by_name(&mut self, name: &str) -> Result<Option<Credential>, Error> {
        self.find(" AND name = ?2 AND member_id IS NULL", &[column::text(name)])
    }

    /// The personal credential with this name of this member.
    pub fn credential_of_member(
        &mut self,
        name: &str,
        member: MemberId,
    ) -> Result<Option<Credential>, Error> {
        self.find(" AND name = ?2 AND member_id = ?3", &[column::text(name), member.write()])
    }

    /// Credentials with their sealed secrets, oldest first.
    pub fn credential_list(
        &mut self,
        owners: CredentialOwners,
        page: &Page<CredentialId>,
    ) -> Result<Vec<(Credential, Vec<u8>)>, Error> {
        let mut conditions = Conditions::scoped();
        if let CredentialOwners::SharedAnd(member) = &owners {
            // To nobody's id nothing is equal.
            conditions.with("(member_id IS NULL OR member_id = ", member.write()).close();
        }
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        let (columns, rest) = (Credential::COLUMNS, &conditions.sql);
        let sql = format!("SELECT {columns}, sealed FROM credentials WHERE organization_id = ?1{rest}");
        let organization = self.organization_id();
        self.query(&sql, &conditions.values, |row| {
            Ok((Credential::read(organization, row)?, row.get(Credential::TABLE)?))
        })
    }

    /// The sealed secret of a credential, as it was inserted.
    pub fn credential_sealed(&mut self, id: CredentialId) -> Result<Option<Vec<u8>>, Error> {
        let sql = "SELECT sealed FROM credentials WHERE organization_id = ?1 AND id = ?2";
        Ok(self.query(sql, &[id.write()], |row| row.get("credentials"))?.pop())
    }

    /// The consent that was begun with the state of this hash, unless it has expired at `now`.
    pub fn consent_find(&mut self, state: &SecretHash, now: Timestamp) -> Result<Option<Consent>, Error> {
        const TABLE: &str = "credential_consents";
        let sql =
            "SELECT state_hash, cookie_hash, credential_id, started_by, expires_at FROM credential_consents
            WHERE organization_id = ?1 AND state_hash = ?2 AND expires_at > ?3";
        let found = self.query(sql, &[state.write(), now.write()], |row| {
            Ok(Consent {
                state_hash: row.get(TABLE)?,
                cookie_hash: row.get(TABLE)?,
                credential_id: row.get(TABLE)?,
                started_by: row.get(TABLE)?,
                expires_at: row.get(TABLE)?,
            })
        })?;
        Ok(found.into_iter().next())
    }
}

impl OrgTx<'_> {
    /// Inserts a credential with its sealed secret; a name that its owner has already breaks `credentials_name_key`.
    pub fn credential_insert(&mut self, credential: &Credential, sealed: &[u8]) -> Result<(), Error> {
        self.touch(Topic::Credentials);
        self.insert_with(credential, &[("sealed", Value::Bytes(sealed.into()))])
    }

    /// Writes the credential's row; its secret stays.
    pub fn credential_update(&mut self, credential: &Credential) -> Result<(), Error> {
        self.touch(Topic::Credentials);
        self.update(credential)
    }

    /// Notes an attempt to obtain what is injected. Nobody is woken: nothing else about the credential has changed.
    pub fn credential_note(
        &mut self,
        id: CredentialId,
        minted_at: Option<Timestamp>,
        status: &str,
    ) -> Result<(), Error> {
        let sql =
            "UPDATE credentials SET last_minted_at = COALESCE(?3, last_minted_at), last_minted_status = ?4
            WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[id.write(), minted_at.write(), column::text(status)])?, "credentials")
    }

    /// Replaces the sealed secret of a credential that has not changed since `updated_at`. False when it has, or is gone.
    /// Nobody is woken: whoever replaces it holds the new one.
    pub fn credential_reseal(
        &mut self,
        id: CredentialId,
        updated_at: Timestamp,
        sealed: &[u8],
    ) -> Result<bool, Error> {
        let sql =
            "UPDATE credentials SET sealed = ?4 WHERE organization_id = ?1 AND id = ?2 AND updated_at = ?3";
        Ok(self.execute(sql, &[id.write(), updated_at.write(), Value::Bytes(sealed.into())])? > 0)
    }

    /// Deletes the credential and its sealed secret.
    pub fn credential_delete(&mut self, id: CredentialId) -> Result<(), Error> {
        self.touch(Topic::Credentials);
        let sql = "DELETE FROM credentials WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[id.write()])?, "credentials")
    }

    /// Keeps that a person was sent to consent, and forgets earlier ones for the same credential, and those that have
    /// expired at `now`.
    pub fn consent_insert(&mut self, consent: &Consent, now: Timestamp) -> Result<(), Error> {
        let sql = "DELETE FROM credential_consents WHERE organization_id = ?1 AND (credential_id = ?2 OR expires_at <= ?3)";
        self.execute(sql, &[consent.credential_id.write(), now.write()])?;
        let sql = "INSERT INTO credential_consents
            (organization_id, state_hash, cookie_hash, credential_id, started_by, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let Consent { state_hash, cookie_hash, credential_id, started_by, expires_at } = consent;
        let values = [
            state_hash.write(),
            cookie_hash.write(),
            credential_id.write(),
            started_by.write(),
            expires_at.write(),
        ];
        self.execute(sql, &values).map(drop)
    }

    /// Forgets the consent. False when it was not there any more.
    pub fn consent_delete(&mut self, state: &SecretHash) -> Result<bool, Error> {
        let sql = "DELETE FROM credential_consents WHERE organization_id = ?1 AND state_hash = ?2";
        Ok(self.execute(sql, &[state.write()])? > 0)
    }
}
