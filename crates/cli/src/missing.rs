//! The warning that capabilities name a credential or a secret which does not exist. The API takes such a document, because
//! what it names may be created after it.

use std::collections::BTreeSet;

use freehold_client::Client;
use freehold_policy::nearest;

use crate::{
    output::{Console, NOTE},
    text,
};

/// The most names that are warned of; the rest are counted.
const WARNINGS_MAX: usize = 20;

/// Warns of each name in these capabilities that the organization does not have. Says nothing where what it has cannot be
/// listed, and when the server is newer and knows a language that this program does not.
pub(crate) async fn warn(client: &Client, capabilities: Option<&str>, console: &mut Console) {
    let Some(Ok(document)) = capabilities.map(freehold_policy::parse) else { return };
    let (credentials, secrets) = (document.credentials(), document.secrets());
    let mut warnings = Vec::new();
    if !credentials.is_empty()
        && let Ok(listed) = client.credential_list(&Default::default()).await
    {
        let of_all = listed.credentials.iter().filter(|credential| credential.user_id.is_none());
        warnings.extend(unknown("credential", &credentials, &of_all.map(|one| &*one.name).collect()));
    }
    if !secrets.is_empty()
        && let Ok(listed) = client.secret_list(&Default::default()).await
    {
        warnings.extend(unknown("secret", &secrets, &listed.secrets.iter().map(|one| &*one.name).collect()));
    }
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    for warning in warnings.iter().take(WARNINGS_MAX) {
        console.note(&format!("{NOTE}warning:{NOTE:#} {}\n", text::harmless(warning)));
    }
    if more > 0 {
        console.note(&format!("{NOTE}warning:{NOTE:#} {more} more names are of nothing that exists\n"));
    }
}

fn unknown(what: &str, named: &BTreeSet<&str>, known: &BTreeSet<&str>) -> Vec<String> {
    let missing = named.difference(known);
    let warning = |name: &&str| {
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("`freehold {what} create` makes one"),
        };
        format!("no {what} is named `{name}`: requests that need it are denied (auth_unavailable); {hint}")
    };
    missing.map(warning).collect()
}
