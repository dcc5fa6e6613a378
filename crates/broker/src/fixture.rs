//! Credentials for tests.

use freehold_model::{
    CredentialId, OrganizationId, Timestamp,
    credential::{Credential, Kind, Status},
};
use uuid::Uuid;

/// An active credential with these settings.
pub fn credential(kind: Kind, provider: &str, config: &[(&str, &str)]) -> Credential {
    Credential {
        id: CredentialId::from_uuid(Uuid::nil()),
        organization_id: OrganizationId::from_uuid(Uuid::nil()),
        member_id: None,
        name: "main".to_owned(),
        provider: provider.to_owned(),
        kind,
        scopes: Vec::new(),
        provider_config: config.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect(),
        allow_user_override: false,
        last_minted_at: None,
        last_minted_status: None,
        status: Status::Active,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}
