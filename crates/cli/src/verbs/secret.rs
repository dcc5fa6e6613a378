//! Secrets. A value comes from stdin or a file, never from the command line.

use std::path::{Path, PathBuf};

use freehold_client::{
    Client,
    api::{
        secret::{Secret as Row, SecretCreate, SecretUpdate},
        service::ListQuery,
    },
};
use freehold_model::secret::SecretName;
use freehold_policy::Transform;

use super::{Outcome, taken, used};
use crate::{
    failure::{Failure, exit},
    input::{self, Confirm},
    output::{Console, or_dash, table, time},
    text,
};

/// Verbs on secrets.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Secret {
    /// List secrets, without their values
    #[command(after_help = "Examples:\n  freehold secret list")]
    List {
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Create a secret; its value comes from stdin or a file
    #[command(after_help = "Examples:
  freehold secret create stripe_key
  printenv STRIPE_KEY | freehold secret create stripe_key
  freehold secret create deploy_key --value-file key.pem

Transforms of policies refer to it as secrets[\"stripe_key\"]. One line end after the value is not part of it.")]
    Create {
        /// Its name: letters, digits, `_` and `-`, a letter first
        name: SecretName,
        #[command(flatten)]
        value: Value,
    },
    /// Give a secret another value, which running workspaces use for their next request
    #[command(after_help = "Examples:\n  freehold secret update stripe_key < new-key.txt")]
    Update {
        /// Its name
        name: SecretName,
        #[command(flatten)]
        value: Value,
    },
    /// Delete a secret and its value
    #[command(after_help = "Examples:\n  freehold secret delete stripe_key --yes")]
    Delete {
        /// Its name
        name: SecretName,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// Where a value comes from.
#[derive(Debug, Clone, clap::Args)]
pub struct Value {
    /// The file that holds the value; stdin when absent or `-`
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
}

impl Value {
    async fn read(&self, console: &mut Console) -> Result<String, Failure> {
        let file: Option<&Path> = self.value_file.as_deref();
        Ok(input::secret(console, file, "value").await?.expose().to_owned())
    }
}

pub(crate) async fn run(client: &Client, verb: Secret, console: &mut Console) -> Outcome {
    match verb {
        Secret::List { limit } => {
            let list = client.secret_list(&ListQuery { limit, cursor: None }).await?;
            console.answer(&list, |list| {
                let row = |secret: &Row| {
                    vec![
                        secret.name.clone(),
                        time(secret.created_at),
                        time(secret.updated_at),
                        or_dash(secret.updated_by_user_id.clone()),
                    ]
                };
                table(&["name", "created", "updated", "by"], list.secrets.iter().map(row))
            })?;
        }
        Secret::Create { name, value } => {
            let value = value.read(console).await?;
            let body = SecretCreate { name: name.to_string(), value };
            let made = client.secret_create(&body).await;
            console.fields(&made.map_err(|error| {
                taken(error, format!("`freehold secret update {name}` gives it another value"))
            })?)?;
        }
        Secret::Update { name, value } => {
            let value = value.read(console).await?;
            console.fields(&client.secret_update(name, &SecretUpdate { value }).await?)?;
        }
        Secret::Delete { name, confirm } => {
            let asked = name.to_string();
            let asks = |transform: &Transform| transform.secrets().any(|secret| secret == asked);
            let means = used::by_transforms(client, asks).await;
            confirm.ask_telling(console, &format!("delete the secret {name} and its value"), &means)?;
            if confirm.is_given() && !means.is_empty() {
                console.note(&format!("warning: {}\n", text::harmless(&means)));
            }
            console.fields(&client.secret_delete(name).await?)?;
        }
    }
    Ok(exit::OK)
}
