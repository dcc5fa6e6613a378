//! Names in the place of ids: what people write, and what tables show.

use std::collections::HashMap;

use freehold_client::{Client, api::service::ArchivableListQuery};
use freehold_model::{CredentialId, ProviderId, RoleId};

use crate::{
    failure::{Failure, exit},
    output::Format,
};

const ALL: ArchivableListQuery =
    ArchivableListQuery { include_archived: Some(true), limit: None, cursor: None };

fn unknown(what: &str, name: &str) -> Failure {
    Failure::new(exit::NOT_FOUND, format!("there is no {what} `{name}`"))
        .hint(format!("`freehold {what} list --include-archived` shows them all"))
}

/// The role with this id or name.
pub(crate) async fn role(client: &Client, text: &str) -> Result<RoleId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let roles = client.role_list(&ALL).await?;
    roles
        .agent_roles
        .iter()
        .find(|role| role.name == text)
        .map(|role| role.id)
        .ok_or_else(|| unknown("role", text))
}

/// The provider with this id or name.
pub(crate) async fn provider(client: &Client, text: &str) -> Result<ProviderId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let providers = client.provider_list(&ALL).await?;
    let found = providers.providers.iter().find(|provider| provider.name == text);
    found.map(|provider| provider.id).ok_or_else(|| unknown("provider", text))
}

/// The credential with this id or name.
pub(crate) async fn credential(client: &Client, text: &str) -> Result<CredentialId, Failure> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let credentials = client.credential_list(&Default::default()).await?;
    let found = credentials.credentials.iter().find(|credential| credential.name == text);
    found.map(|credential| credential.id).ok_or_else(|| {
        Failure::new(exit::NOT_FOUND, format!("there is no credential `{text}`"))
            .hint("`freehold credential list` shows them all")
    })
}

/// Names by id. Tables show them; one that cannot be had, for want of a right say, leaves the id.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<String, String>);

impl Names {
    /// Names of all roles.
    pub async fn of_roles(client: &Client, format: Format) -> Self {
        match format {
            Format::Json => Self::default(),
            Format::Table => {
                let roles = client.role_list(&ALL).await.map(|answer| answer.into_value().agent_roles);
                Self::collect(
                    roles.unwrap_or_default().into_iter().map(|role| (role.id.to_string(), role.name)),
                )
            }
        }
    }

    /// The name of one role.
    pub async fn of_role(client: &Client, format: Format, id: RoleId) -> Self {
        match format {
            Format::Json => Self::default(),
            Format::Table => {
                Self::collect(client.role_view(id).await.map(|role| (id.to_string(), role.into_value().name)))
            }
        }
    }

    /// Names of all providers.
    pub async fn of_providers(client: &Client, format: Format) -> Self {
        match format {
            Format::Json => Self::default(),
            Format::Table => {
                let providers = client.provider_list(&ALL).await.map(|answer| answer.into_value().providers);
                let named = providers.unwrap_or_default().into_iter();
                Self::collect(named.map(|provider| (provider.id.to_string(), provider.name)))
            }
        }
    }

    /// The name of one provider.
    pub async fn of_provider(client: &Client, format: Format, id: ProviderId) -> Self {
        match format {
            Format::Json => Self::default(),
            Format::Table => Self::collect(
                client.provider_view(id).await.map(|provider| (id.to_string(), provider.into_value().name)),
            ),
        }
    }

    fn collect(named: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(named.into_iter().collect())
    }

    /// The name, if it is known.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.0.get(id).map(String::as_str)
    }

    /// The name, or the id.
    pub fn or_id(&self, id: impl ToString) -> String {
        let id = id.to_string();
        self.0.get(&id).cloned().unwrap_or(id)
    }
}
