//! Credentials. The secret comes from stdin or a file, never from the command line.

use std::path::PathBuf;

use freehold_client::{
    Client,
    api::{
        credential::{Credential as Row, CredentialCreate, CredentialKind},
        service::ListQuery,
    },
};

use super::{Outcome, provider::pair};
use crate::{
    failure::exit,
    input::{self, Confirm},
    output::{Console, or_dash, table, time},
    resolve, text,
};

/// Verbs on credentials.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Credential {
    /// List credentials, without their secrets
    #[command(after_help = "Examples:\n  freehold credential list")]
    List {
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one credential, without its secret
    #[command(after_help = "Examples:\n  freehold credential get anthropic-key")]
    Get {
        /// The credential, by name or id
        credential: String,
    },
    /// Create a credential; its secret comes from stdin or a file
    #[command(after_help = "Examples:
  freehold credential create anthropic-key --provider anthropic --secret-file key.txt
  printenv OPENAI_API_KEY | freehold credential create openai-key --provider openai

A model provider's credential is an api_key whose --provider is that provider's kind. Settings: `username` of basic_auth, \
`parameter` of query_api_key.")]
    Create {
        /// Its name, which providers and policies refer to
        name: String,
        /// Whose service it is for; for a model provider's credential the provider's kind
        #[arg(long, value_name = "SLUG")]
        provider: String,
        /// How it is presented
        #[arg(long, value_enum, default_value_t = Kind::ApiKey)]
        kind: Kind,
        /// The file that holds the secret; stdin when absent or `-`
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// A setting that is not secret; repeatable
        #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
        config: Vec<(String, String)>,
    },
    /// Delete a credential and its secret; says which providers and roles use it
    #[command(
        after_help = "Examples:\n  freehold credential delete anthropic-key\n  freehold credential delete anthropic-key --yes"
    )]
    Delete {
        /// The credential, by name or id
        credential: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// How a credential is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A key in a header
    #[value(name = "api_key", alias = "api-key")]
    ApiKey,
    /// A user name and a password
    #[value(name = "basic_auth", alias = "basic-auth")]
    BasicAuth,
    /// A key in the query string
    #[value(name = "query_api_key", alias = "query-api-key")]
    QueryApiKey,
}

pub(crate) async fn run(client: &Client, verb: Credential, console: &mut Console) -> Outcome {
    match verb {
        Credential::List { limit } => {
            let list = client.credential_list(&ListQuery { limit, cursor: None }).await?;
            console.answer(&list, |list| {
                let row = |credential: &Row| {
                    vec![
                        credential.name.clone(),
                        credential.id.to_string(),
                        credential.provider.clone(),
                        slug(credential.kind),
                        credential.status.to_string(),
                        or_dash(credential.last_minted_at.map(time)),
                    ]
                };
                table(
                    &["name", "id", "provider", "kind", "status", "last used"],
                    list.credentials.iter().map(row),
                )
            })?;
        }
        Credential::Get { credential } => {
            let id = resolve::credential(client, &credential).await?;
            console.fields(&client.credential_view(id).await?)?;
        }
        Credential::Create { name, provider, kind, secret_file, config } => {
            let secret =
                Some(input::secret(console, secret_file.as_deref(), "secret").await?.expose().to_owned());
            let (kind, api_key, password) = match kind {
                Kind::ApiKey => (CredentialKind::ApiKey, secret, None),
                Kind::QueryApiKey => (CredentialKind::QueryApiKey, secret, None),
                Kind::BasicAuth => (CredentialKind::BasicAuth, None, secret),
            };
            let body = CredentialCreate {
                name,
                provider,
                kind,
                scopes: Vec::new(),
                provider_config: config.into_iter().collect(),
                api_key,
                password,
                personal: None,
                allow_user_override: None,
            };
            console.fields(&client.credential_create(&body).await?)?;
        }
        Credential::Delete { credential, confirm } => {
            let id = resolve::credential(client, &credential).await?;
            let name = client.credential_view(id).await?.into_value().name;
            let used = used_by(client, &name).await;
            let means = used.map(|by| {
                format!("It is used by {by}: their requests to models are denied until they have another.")
            });
            let means = means.unwrap_or_default();
            confirm.ask_telling(console, &format!("delete the credential {name} and its secret"), &means)?;
            if confirm.is_given() && !means.is_empty() {
                console.note(&format!("warning: {}\n", text::harmless(&means)));
            }
            console.fields(&client.credential_delete(id).await?)?;
        }
    }
    Ok(exit::OK)
}

/// The providers that name the credential and the roles that use these, archived ones apart.
/// None too where the caller may not see them.
async fn used_by(client: &Client, name: &str) -> Option<String> {
    let providers = client.provider_list(&Default::default()).await.ok()?.into_value().providers;
    let users: Vec<_> =
        providers.iter().filter(|provider| provider.credential_name.as_deref() == Some(name)).collect();
    if users.is_empty() {
        return None;
    }
    let roles = client.role_list(&Default::default()).await.ok()?.into_value().agent_roles;
    let roles = roles.iter().filter(|role| users.iter().any(|provider| provider.id == role.provider_id));
    let names = |what: &str, names: Vec<&str>| match names.as_slice() {
        [] => format!("no {what}"),
        [one] => format!("the {what} {one}"),
        more => format!("the {what}s {}", more.join(", ")),
    };
    let providers = names("provider", users.iter().map(|provider| provider.name.as_str()).collect());
    let roles = names("role", roles.map(|role| role.name.as_str()).collect());
    Some(format!("{providers} and {roles}"))
}

/// The kind as the API spells it.
fn slug(kind: CredentialKind) -> String {
    serde_json::to_value(kind).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
