//! Whose transforms put a credential or a secret on requests: what its deletion means.

use freehold_client::Client;
use freehold_policy::{Transform, parse};

/// The roles and providers whose own documents have a transform that `uses` it, as a sentence about their requests; empty
/// where there is none, or the caller may not see them.
pub(super) async fn by_transforms(client: &Client, uses: impl Fn(&Transform) -> bool) -> String {
    let does = |document: Option<&str>| {
        let document = parse(document.unwrap_or_default()).unwrap_or_default();
        document.capabilities.iter().flat_map(|one| &one.transforms).any(&uses)
    };
    let mut users = Vec::new();
    if let Ok(list) = client.role_list(&Default::default()).await {
        let roles = list.into_value().agent_roles.into_iter();
        users.extend(
            roles.filter(|role| does(role.capabilities.as_deref())).map(|role| format!("role {}", role.name)),
        );
    }
    if let Ok(list) = client.provider_list(&Default::default()).await {
        let providers = list.into_value().providers.into_iter();
        let users_among = providers.filter(|provider| does(provider.capabilities.as_deref()));
        users.extend(users_among.map(|provider| format!("provider {}", provider.name)));
    }
    if users.is_empty() {
        return String::new();
    }
    format!(
        "Transforms of these put it on requests, which are denied until there is another of this name: {}.",
        users.join(", ")
    )
}
