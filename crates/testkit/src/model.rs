//! Values that tests need and are not about.

#![expect(clippy::unwrap_used, reason = "a fixture fails by panicking")]

use freehold_model::{
    CredentialId, OrganizationId, SecretId, Timestamp,
    credential::{Credential, Kind, Status},
    provider,
    secret::Secret,
};
use freehold_policy::{
    Body, Decision, Destination, NormalPath, Permit, ProviderGrant, RequestHead, Scheme,
    cel::{Attribute, Scope, Value},
    compile, parse,
};
use uuid::Uuid;

/// An active credential with these settings, of no organization.
pub fn credential(kind: Kind, provider: &str, config: &[(&str, &str)]) -> Credential {
    Credential {
        id: CredentialId::from_uuid(Uuid::now_v7()),
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

/// A secret of this name.
pub fn secret(organization_id: OrganizationId, name: &str) -> Secret {
    Secret {
        id: SecretId::from_uuid(Uuid::now_v7()),
        organization_id,
        name: name.to_owned(),
        created_by: None,
        updated_by: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    }
}

/// A request of which nothing is known.
pub struct Nothing;

impl Scope for Nothing {
    fn get(&self, _: Attribute) -> Option<Value<'_>> {
        None
    }
}

/// The permit of a request that these budgets, written as in `caps.yaml`, count.
///
/// # Panics
/// When they are not valid.
pub fn permit(budgets: &str) -> Permit {
    let provider =
        ProviderGrant { kind: provider::Kind::Anthropic, domain: "model.test".to_owned(), credential: None };
    let caps = format!(
        "- name: api\n  type: http\n  allow: [{{domains: [api.test], methods: [GET]}}]\n  budgets: {budgets}"
    );
    let policy = compile(&provider, &parse("").unwrap(), &parse(&caps).unwrap()).unwrap();
    let destination = Destination::new(Scheme::Https, "api.test", 443).unwrap();
    let path = NormalPath::parse("/").unwrap();
    let head = RequestHead {
        destination: &destination,
        method: "GET",
        path: &path,
        scope: &Nothing,
        body: Body::NONE,
    };
    match policy.decide(&head) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}
