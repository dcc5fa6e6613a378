//! API keys.

use freehold_client::{
    Client,
    api::{
        api_key::{ApiKey as Row, ApiKeyCreate},
        service::ListQuery,
    },
};
use freehold_model::{ApiKeyId, api_key::PermissionSet};

use super::{Outcome, slug};
use crate::{
    failure::exit,
    input::Confirm,
    output::{Console, Format, table, time},
    text,
};

/// Verbs on API keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ApiKey {
    /// List API keys, newest first
    #[command(after_help = "Examples:\n  freehold key list")]
    List {
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Create an API key; its secret is on stdout, this once
    #[command(
        after_help = "Examples:\n  umask 077; freehold key create ci --permission-set submit_observe > ci.key"
    )]
    Create {
        /// What it is for
        label: String,
        /// What it may do
        #[arg(long, value_parser = slug!(PermissionSet))]
        permission_set: PermissionSet,
    },
    /// Revoke an API key: the next request with it is refused
    #[command(after_help = "Examples:\n  freehold key revoke api_key_0199... --yes")]
    Revoke {
        /// The key's id
        id: ApiKeyId,
        #[command(flatten)]
        confirm: Confirm,
    },
}

pub(crate) async fn run(client: &Client, verb: ApiKey, console: &mut Console) -> Outcome {
    match verb {
        ApiKey::List { limit } => {
            let list = client.api_key_list(&ListQuery { limit, cursor: None }).await?;
            console.answer(&list, |list| {
                let row = |key: &Row| {
                    vec![
                        key.id.to_string(),
                        key.label.clone(),
                        key.prefix.clone(),
                        key.permission_set.to_string(),
                        time(key.created_at),
                    ]
                };
                table(&["id", "label", "key", "permission set", "created"], list.api_keys.iter().map(row))
            })?;
        }
        ApiKey::Create { label, permission_set } => {
            let created = client.api_key_create(&ApiKeyCreate { label, permission_set }).await?;
            console.answer(&created, |created| format!("{}\n", text::harmless(&created.value)))?;
            if console.format == Format::Table {
                console.note(&format!("This is the secret of {}; it is not shown again.\n", created.key.id));
            }
        }
        ApiKey::Revoke { id, confirm } => {
            confirm.ask(console, &format!("revoke {id}"))?;
            console.fields(&client.api_key_revoke(id).await?)?;
        }
    }
    Ok(exit::OK)
}
