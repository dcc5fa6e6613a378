//! Organizations: the tenants.

use freehold_model::{OrganizationId, Timestamp};

use crate::{
    Error, Page, SystemRead, SystemTx, column,
    sql::{Column, Row},
};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Its name, unique on this server.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
}

const TABLE: &str = "organizations";

fn read(row: &mut Row<'_>) -> Result<Organization, Error> {
    Ok(Organization { id: row.get(TABLE)?, name: row.get(TABLE)?, created_at: row.get(TABLE)? })
}

impl SystemRead<'_> {
    /// The organization with this name.
    pub fn organization_by_name(&mut self, name: &str) -> Result<Option<Organization>, Error> {
        let sql = "SELECT id, name, created_at FROM organizations WHERE name = ?1";
        Ok(self.query(sql, &[column::text(name)], read)?.pop())
    }

    /// Organizations, oldest first.
    pub fn organization_list(&mut self, page: &Page<OrganizationId>) -> Result<Vec<Organization>, Error> {
        let sql = "SELECT id, name, created_at FROM organizations WHERE id > ?1 ORDER BY id LIMIT ?2";
        let after = page.after.as_ref().map_or_else(|| column::text(""), Column::write);
        self.query(sql, &[after, page.limit()], read)
    }
}

impl SystemTx<'_> {
    /// Inserts an organization; a name that exists breaks `organizations_name_key`.
    pub fn organization_insert(&mut self, organization: &Organization) -> Result<(), Error> {
        let sql = "INSERT INTO organizations (id, name, created_at) VALUES (?1, ?2, ?3)";
        let Organization { id, name, created_at } = organization;
        self.execute(sql, &[id.write(), name.write(), created_at.write()]).map(drop)
    }
}
