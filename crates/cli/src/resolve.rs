//! Names in the place of ids.

use freehold_client::{Client, api::service::ArchivableListQuery};
use freehold_model::{CredentialId, ProviderId, RoleId};

use crate::failure::{Failure, exit};

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
