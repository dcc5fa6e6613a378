//! Providers.

use freehold_model::{ProviderId, provider::Provider};

use crate::{Error, OrgRead, OrgTx, Page, column, page::Conditions, record::record, sql::Column};

record!(Provider in "providers" of organization_id; id, name, kind, display_name, domain, credential_name,
    default_model, capabilities, config, created_at, updated_at, archived_at);

impl OrgRead<'_> {
    /// The provider with this id, archived or not.
    pub fn provider_view(&mut self, id: ProviderId) -> Result<Option<Provider>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// The provider with this name, archived or not.
    pub fn provider_by_name(&mut self, name: &str) -> Result<Option<Provider>, Error> {
        self.find(" AND name = ?2", &[column::text(name)])
    }

    /// Providers, oldest first.
    pub fn provider_list(
        &mut self,
        include_archived: bool,
        page: &Page<ProviderId>,
    ) -> Result<Vec<Provider>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.unless(include_archived, "archived_at IS NULL");
        conditions.maybe("id > ", page.after.as_ref()).page("id", page);
        self.select(&conditions.sql, &conditions.values)
    }
}

impl OrgTx<'_> {
    /// Inserts a provider; a name that exists breaks `providers_organization_id_name_key`.
    pub fn provider_insert(&mut self, provider: &Provider) -> Result<(), Error> {
        self.touch_configuration();
        self.insert(provider)
    }

    /// Writes the provider's row.
    pub fn provider_update(&mut self, provider: &Provider) -> Result<(), Error> {
        self.touch_configuration();
        self.update(provider)
    }
}
