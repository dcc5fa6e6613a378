//! Agent roles.

use freehold_model::{ProviderId, RoleId, role::Role};

use crate::{Error, OrgRead, OrgTx, Page, column, page::Conditions, record::record, sql::Column};

record!(Role in "roles" of organization_id; id, name, display_name, description, provider_id, model, capabilities,
    environment, environment_description, task_timeout_seconds, idle_timeout_seconds, thinking_effort,
    max_continuations, max_context_tokens, pool_policy, pool_size, pool_max_size, pack_ids, created_at, updated_at,
    archived_at);

/// The constraint that a name given twice breaks.
pub const ROLE_NAME_KEY: &str = "roles_organization_id_name_key";

/// Which roles a list shows.
#[derive(Debug, Clone, Default)]
pub struct RoleFilter {
    /// Archived ones too.
    pub include_archived: bool,
    /// Only those that use this provider.
    pub provider: Option<ProviderId>,
}

impl OrgRead<'_> {
    /// The role with this id, archived or not.
    pub fn role_view(&mut self, id: RoleId) -> Result<Option<Role>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// The role with this name, archived or not.
    pub fn role_by_name(&mut self, name: &str) -> Result<Option<Role>, Error> {
        self.find(" AND name = ?2", &[column::text(name)])
    }

    /// Roles, oldest first.
    pub fn role_list(&mut self, filter: &RoleFilter, page: &Page<RoleId>) -> Result<Vec<Role>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.unless(filter.include_archived, "archived_at IS NULL");
        conditions.maybe("provider_id = ", filter.provider.as_ref());
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }
}

impl OrgTx<'_> {
    /// Inserts a role; a name that exists breaks [`ROLE_NAME_KEY`].
    pub fn role_insert(&mut self, role: &Role) -> Result<(), Error> {
        self.touch_configuration();
        self.insert(role)
    }

    /// Writes the role's row.
    pub fn role_update(&mut self, role: &Role) -> Result<(), Error> {
        self.touch_configuration();
        self.update(role)
    }
}
