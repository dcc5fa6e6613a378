//! Secrets and data keys; what is sealed is opaque bytes here, made by the vault.

use freehold_model::{
    CredentialId, OrganizationId, SecretId, Timestamp,
    secret::{Holder, Secret},
};

use crate::{
    Error, OrgRead, OrgTx, Page, SystemRead, column,
    page::Conditions,
    record::record,
    scope::changed,
    signal::Topic,
    sql::{Column, Row, Value},
};

/// The constraint that a name breaks which another secret of the organization has.
pub const SECRET_NAME_KEY: &str = "secrets_organization_id_name_key";

record!(Secret in "secrets" of organization_id; id, name, created_by, updated_by, created_at, updated_at);

/// A data key as it is stored: sealed under a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    /// Whose.
    pub organization_id: OrganizationId,
    /// Which of its data keys, from 1.
    pub version: u32,
    /// The key, sealed.
    pub sealed: Vec<u8>,
}

/// A sealed value and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The organization.
    pub organization_id: OrganizationId,
    /// What of it.
    pub holder: Holder,
    /// The value, sealed, or a reference to it.
    pub sealed: Vec<u8>,
}

/// The table and the id of what holds a value.
fn row_of(holder: Holder) -> (&'static str, Value<'static>) {
    match holder {
        Holder::Credential(id) => ("credentials", column::text_owned(id.to_string())),
        Holder::Secret(id) => ("secrets", column::text_owned(id.to_string())),
    }
}

impl OrgRead<'_> {
    /// The secret with this name, and its value as it was written.
    pub fn secret_by_name(&mut self, name: &str) -> Result<Option<(Secret, Vec<u8>)>, Error> {
        let Some(secret) = self.find::<Secret>(" AND name = ?2", &[column::text(name)])? else {
            return Ok(None);
        };
        let sql = "SELECT sealed FROM secrets WHERE organization_id = ?1 AND id = ?2";
        let sealed = self.query(sql, &[secret.id.write()], |row| row.get("secrets"))?.pop();
        Ok(sealed.map(|sealed| (secret, sealed)))
    }

    /// Secrets, oldest first.
    pub fn secret_list(&mut self, page: &Page<SecretId>) -> Result<Vec<Secret>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// The organization's data key of this version, or its newest one.
    pub fn data_key(&mut self, version: Option<u32>) -> Result<Option<DataKey>, Error> {
        let organization = self.organization_id();
        let read = |row: &mut Row<'_>| read_data_key(organization, row);
        let select = "SELECT version, sealed FROM data_keys WHERE organization_id = ?1";
        let found = match &version {
            Some(version) => self.query(&format!("{select} AND version = ?2"), &[version.write()], read),
            None => self.query(&format!("{select} ORDER BY version DESC LIMIT 1"), &[], read),
        };
        Ok(found?.pop())
    }
}

fn read_data_key(organization_id: OrganizationId, row: &mut Row<'_>) -> Result<DataKey, Error> {
    Ok(DataKey { organization_id, version: row.get("data_keys")?, sealed: row.get("data_keys")? })
}

impl OrgTx<'_> {
    /// Inserts a secret with its sealed value; a name that another has breaks [`SECRET_NAME_KEY`].
    pub fn secret_insert(&mut self, secret: &Secret, sealed: &[u8]) -> Result<(), Error> {
        self.touch(Topic::Secrets);
        self.insert_with(secret, &[("sealed", Value::Bytes(sealed.into()))])
    }

    /// Writes the secret's row and its sealed value.
    pub fn secret_update(&mut self, secret: &Secret, sealed: &[u8]) -> Result<(), Error> {
        self.touch(Topic::Secrets);
        self.update(secret)?;
        let sql = "UPDATE secrets SET sealed = ?3 WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[secret.id.write(), Value::Bytes(sealed.into())])?, "secrets")
    }

    /// Deletes the secret and its sealed value.
    pub fn secret_delete(&mut self, id: SecretId) -> Result<(), Error> {
        self.touch(Topic::Secrets);
        let sql = "DELETE FROM secrets WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[id.write()])?, "secrets")
    }

    /// Inserts a data key, unless there is one of this version; answers the one that is there now.
    pub fn data_key_insert(&mut self, version: u32, sealed: &[u8], at: Timestamp) -> Result<DataKey, Error> {
        let sql =
            "INSERT INTO data_keys (organization_id, version, sealed, created_at) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT DO NOTHING";
        self.execute(sql, &[version.write(), Value::Bytes(sealed.into()), at.write()])?;
        self.data_key(Some(version))?.ok_or(Error::Missing { table: "data_keys" })
    }

    /// Exchanges a data key as it is sealed, if it is still sealed as it was read. Answers whether it was.
    pub fn data_key_exchange(&mut self, version: u32, from: &[u8], to: &[u8]) -> Result<bool, Error> {
        let sql =
            "UPDATE data_keys SET sealed = ?4 WHERE organization_id = ?1 AND version = ?2 AND sealed = ?3";
        let values = [version.write(), Value::Bytes(from.into()), Value::Bytes(to.into())];
        Ok(self.execute(sql, &values)? > 0)
    }

    /// Exchanges what a holder keeps, if it still keeps what was read: the same value, sealed otherwise. Answers whether it
    /// did.
    pub fn sealed_exchange(&mut self, holder: Holder, from: &[u8], to: &[u8]) -> Result<bool, Error> {
        let (table, id) = row_of(holder);
        let sql =
            format!("UPDATE {table} SET sealed = ?4 WHERE organization_id = ?1 AND id = ?2 AND sealed = ?3");
        Ok(self.execute(&sql, &[id, Value::Bytes(from.into()), Value::Bytes(to.into())])? > 0)
    }
}

impl SystemRead<'_> {
    /// Data keys of every organization, in the order of organization and version, after this one.
    pub fn data_keys(
        &mut self,
        after: Option<(OrganizationId, u32)>,
        limit: u32,
    ) -> Result<Vec<DataKey>, Error> {
        let sql = "SELECT organization_id, version, sealed FROM data_keys
            WHERE organization_id > ?1 OR (organization_id = ?1 AND version > ?2)
            ORDER BY organization_id, version LIMIT ?3";
        let (organization, version) = match &after {
            Some((organization, version)) => (organization.write(), version.write()),
            None => (column::text(""), Value::Int(0)),
        };
        self.query(sql, &[organization, version, limit.write()], |row| {
            let organization = row.get("data_keys")?;
            read_data_key(organization, row)
        })
    }

    /// What credentials of every organization keep, in the order of their ids, after this one.
    pub fn sealed_credentials(
        &mut self,
        after: Option<CredentialId>,
        limit: u32,
    ) -> Result<Vec<Sealed>, Error> {
        self.sealed("credentials", after.as_ref().map(Column::write), limit, |row| {
            Ok(Holder::Credential(row.get("credentials")?))
        })
    }

    /// What secrets of every organization keep, in the order of their ids, after this one.
    pub fn sealed_secrets(&mut self, after: Option<SecretId>, limit: u32) -> Result<Vec<Sealed>, Error> {
        self.sealed("secrets", after.as_ref().map(Column::write), limit, |row| {
            Ok(Holder::Secret(row.get("secrets")?))
        })
    }

    fn sealed(
        &mut self,
        table: &'static str,
        after: Option<Value<'_>>,
        limit: u32,
        holder: fn(&mut Row<'_>) -> Result<Holder, Error>,
    ) -> Result<Vec<Sealed>, Error> {
        let sql =
            format!("SELECT organization_id, id, sealed FROM {table} WHERE id > ?1 ORDER BY id LIMIT ?2");
        self.query(&sql, &[after.unwrap_or_else(|| column::text("")), limit.write()], |row| {
            Ok(Sealed { organization_id: row.get(table)?, holder: holder(row)?, sealed: row.get(table)? })
        })
    }
}
