//! Credentials; their secrets are opaque bytes here, sealed by the vault.

use freehold_model::{CredentialId, MemberId, credential::Credential};

use crate::{
    Error, OrgRead, OrgTx, Page, column,
    page::Conditions,
    record::record,
    scope::changed,
    sql::{Column, Value},
};

record!(Credential in "credentials" of organization_id; id, member_id, name, provider, kind, scopes, provider_config,
    last_minted_at, last_minted_status, status, created_at, updated_at);

impl OrgRead<'_> {
    /// The credential with this id.
    pub fn credential_view(&mut self, id: CredentialId) -> Result<Option<Credential>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// The organization's own credential with this name; members' personal ones are not looked at.
    pub fn credential_by_name(&mut self, name: &str) -> Result<Option<Credential>, Error> {
        self.find(" AND name = ?2 AND member_id IS NULL", &[column::text(name)])
    }

    /// Credentials, oldest first. With a member: the organization's and that member's own; without: all.
    pub fn credential_list(
        &mut self,
        visible_to: Option<MemberId>,
        page: &Page<CredentialId>,
    ) -> Result<Vec<Credential>, Error> {
        let mut conditions = Conditions::scoped();
        if let Some(member) = &visible_to {
            conditions.with("(member_id IS NULL OR member_id = ", member.write()).close();
        }
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// The sealed secret of a credential, as it was inserted.
    pub fn credential_sealed(&mut self, id: CredentialId) -> Result<Option<Vec<u8>>, Error> {
        let sql = "SELECT sealed FROM credentials WHERE organization_id = ?1 AND id = ?2";
        Ok(self.query(sql, &[id.write()], |row| row.get("credentials"))?.pop())
    }
}

impl OrgTx<'_> {
    /// Inserts a credential with its sealed secret; a name that its owner has already breaks `credentials_name_key`.
    pub fn credential_insert(&mut self, credential: &Credential, sealed: &[u8]) -> Result<(), Error> {
        self.touch_configuration();
        self.insert_with(credential, &[("sealed", Value::Bytes(sealed.into()))])
    }

    /// Writes the credential's row; its secret stays.
    pub fn credential_update(&mut self, credential: &Credential) -> Result<(), Error> {
        self.touch_configuration();
        self.update(credential)
    }

    /// Deletes the credential and its sealed secret.
    pub fn credential_delete(&mut self, id: CredentialId) -> Result<(), Error> {
        self.touch_configuration();
        let sql = "DELETE FROM credentials WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[id.write()])?, "credentials")
    }
}
