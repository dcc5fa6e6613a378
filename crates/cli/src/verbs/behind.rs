//! Running workspaces that call their provider where it was when they were started, after it has moved.

use freehold_client::{Client, Error, api::workspace::StartedWith};
use freehold_model::workspace::pod_wanted;

/// The most workspaces that are named; the rest are counted.
const NAMED_MAX: usize = 20;

/// Those of which this holds, each with its provider, where that was and with which credential, as a list in a sentence; empty
/// where there are none.
pub(super) async fn named(client: &Client, holds: impl Fn(&StartedWith) -> bool) -> Result<String, Error> {
    let providers = client.provider_list(&Default::default()).await?.into_value().providers;
    let workspaces = client.workspace_list(&Default::default()).await?.into_value().workspaces;
    let running = workspaces.iter().filter(|workspace| pod_wanted(workspace.status));
    let behind = running.filter_map(|workspace| {
        let with = workspace.started_with.as_ref()?;
        let provider = providers.iter().find(|provider| provider.id == with.provider_id)?;
        let key = with.credential_name.as_deref().unwrap_or("no credential");
        (with.domain != provider.domain && holds(with))
            .then(|| format!("{} ({} at {} with {key})", workspace.id, provider.name, with.domain))
    });
    let mut behind: Vec<String> = behind.collect();
    let more = behind.len().saturating_sub(NAMED_MAX);
    behind.truncate(NAMED_MAX);
    if more > 0 {
        behind.push(format!("and {more} more"));
    }
    Ok(behind.join(", "))
}
