//! Providers.

use std::{collections::BTreeMap, path::PathBuf};

use freehold_client::{
    Client,
    api::{
        provider::{ProviderCreate, ProviderUpdate},
        service::ArchivableListQuery,
    },
};
use freehold_model::{ProviderId, provider::Kind};

use super::{Outcome, behind, slug};
use crate::{
    failure::{Failure, exit},
    input::{self, Confirm},
    missing,
    output::{Console, NOTE, or_dash, table, time},
    resolve, text,
};

/// Verbs on providers.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Provider {
    /// List providers, newest first
    #[command(after_help = "Examples:\n  freehold provider list")]
    List {
        /// Archived ones too
        #[arg(long)]
        include_archived: bool,
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one provider
    #[command(after_help = "Examples:\n  freehold provider get claude")]
    Get {
        /// The provider, by name or id
        provider: String,
    },
    /// Create a provider
    #[command(
        after_help = "Examples:\n  freehold provider create claude --kind anthropic --domain api.anthropic.com \\\n    --credential anthropic-key --default-model claude-sonnet-4-6\n  freehold provider create own --kind openai --domain llm.example.com --config wire=chat_completions"
    )]
    Create {
        /// Its name, unique in the organization: lowercase letters, digits and hyphens
        #[arg(value_parser = super::name)]
        name: String,
        /// The wire it speaks
        #[arg(long, value_parser = slug!(Kind, |kind: &Kind| kind.has_wire()))]
        kind: Kind,
        /// The upstream host
        #[arg(long, value_name = "HOST")]
        domain: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change a provider; what is not named stays
    #[command(after_help = "Examples:\n  freehold provider update claude --default-model claude-opus-4-6")]
    Update {
        /// The provider, by name or id
        provider: String,
        /// The upstream host
        #[arg(long, value_name = "HOST")]
        domain: Option<String>,
        /// Said by who does not know that it cannot be
        #[arg(long, hide = true, value_parser = kind_stays)]
        kind: Option<String>,
        #[command(flatten)]
        settings: Settings,
        /// A field to clear; repeatable
        #[arg(long, value_enum, value_name = "FIELD")]
        clear: Vec<Clearable>,
        /// A setting of the kind to clear; repeatable
        #[arg(long, value_name = "KEY")]
        clear_config: Vec<String>,
    },
    /// Archive a provider and every role that uses it
    #[command(after_help = "Examples:\n  freehold provider archive claude --yes")]
    Archive {
        /// The provider, by name or id
        provider: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Unarchive a provider; its roles stay archived
    #[command(after_help = "Examples:\n  freehold provider unarchive claude")]
    Unarchive {
        /// The provider, by name or id
        provider: String,
    },
}

/// What can be set of a provider.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// A label for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// The credential that is injected, by name
    #[arg(long, value_name = "NAME")]
    credential: Option<String>,
    /// The model of roles that name none
    #[arg(long, value_name = "NAME")]
    default_model: Option<String>,
    /// A file of capabilities (YAML) of every role that uses it; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    capabilities: Option<PathBuf>,
    /// A setting of the kind; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
}

/// A field that can be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Clearable {
    /// `display_name`
    DisplayName,
    /// `credential_name`
    Credential,
    /// `default_model`
    DefaultModel,
    /// `capabilities`
    Capabilities,
}

/// Refuses to change a kind.
fn kind_stays(_: &str) -> Result<String, String> {
    Err("the kind of a provider cannot be changed; create another provider, and give it to roles with `freehold role update \
         ROLE --provider NAME`"
        .to_owned())
}

/// Reads `key=value`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) async fn run(client: &Client, verb: Provider, console: &mut Console) -> Outcome {
    match verb {
        Provider::List { include_archived, limit } => list(client, include_archived, limit, console).await?,
        Provider::Get { provider } => {
            let id = resolve::provider(client, &provider).await?;
            console.fields(&client.provider_view(id).await?)?;
        }
        Provider::Create { name, kind, domain, settings } => {
            let capabilities =
                settings.capabilities.as_deref().map(|file| input::text(console, file)).transpose()?;
            let body = ProviderCreate {
                name,
                kind,
                domain,
                display_name: settings.display_name,
                credential_name: settings.credential,
                default_model: settings.default_model,
                capabilities,
                config: settings.config.into_iter().collect(),
            };
            console.fields(&client.provider_create(&body).await?)?;
            missing::warn(client, body.capabilities.as_deref(), console).await;
        }
        Provider::Update { provider, domain, kind: _, settings, clear, clear_config } => {
            let id = resolve::provider(client, &provider).await?;
            let mut change = change(settings, &clear, console)?;
            change.domain = domain;
            change.config.extend(clear_config.into_iter().map(|key| (key, None)));
            if change == ProviderUpdate::default() {
                return Err(Failure::usage("nothing to change")
                    .hint("`freehold provider update --help` lists what can be"));
            }
            console.fields(&client.provider_update(id, &change).await?)?;
            if change.domain.is_some() || change.credential_name.is_some() {
                tell_behind(client, id, console).await;
            }
            missing::warn(client, change.capabilities.flatten().as_deref(), console).await;
        }
        Provider::Archive { provider, confirm } => {
            let id = resolve::provider(client, &provider).await?;
            confirm.ask(console, &format!("archive the provider {provider} and every role that uses it"))?;
            console.fields(&client.provider_archive(id).await?)?;
        }
        Provider::Unarchive { provider } => {
            let id = resolve::provider(client, &provider).await?;
            console.fields(&client.provider_unarchive(id).await?)?;
        }
    }
    Ok(exit::OK)
}

/// Says which running workspaces the provider has left behind.
async fn tell_behind(client: &Client, id: ProviderId, console: &mut Console) {
    let said = match behind::named(client, |with| with.provider_id == id).await {
        Err(_) => {
            "which running workspaces still call the provider where it was could not be listed".to_owned()
        }
        Ok(named) if named.is_empty() => return,
        Ok(named) => format!(
            "running workspaces call the provider where it was when they were started, with the credential of that time and \
             none that came later, until they are stopped: {named}"
        ),
    };
    console.note(&format!("{NOTE}note:{NOTE:#} {}\n", text::harmless(&said)));
}

async fn list(
    client: &Client,
    include_archived: bool,
    limit: Option<u32>,
    console: &mut Console,
) -> Result<(), Failure> {
    let include_archived = include_archived.then_some(true);
    let list = client.provider_list(&ArchivableListQuery { include_archived, limit, cursor: None }).await?;
    console.answer(&list, |list| {
        let rows = list.providers.iter().map(|provider| {
            vec![
                provider.name.clone(),
                provider.id.to_string(),
                provider.kind.to_string(),
                provider.domain.clone(),
                or_dash(provider.credential_name.as_ref()),
                or_dash(provider.default_model.as_ref()),
                provider
                    .archived_at
                    .map_or_else(|| "active".to_owned(), |at| format!("archived {}", time(at))),
            ]
        });
        table(&["name", "id", "kind", "domain", "credential", "model", "state"], rows)
    })
}

fn change(settings: Settings, clear: &[Clearable], console: &mut Console) -> Result<ProviderUpdate, Failure> {
    let field = |value: Option<String>, name| {
        if clear.contains(&name) { Some(None) } else { value.map(Some) }
    };
    let capabilities = settings.capabilities.as_deref().map(|file| input::text(console, file)).transpose()?;
    Ok(ProviderUpdate {
        domain: None,
        display_name: field(settings.display_name, Clearable::DisplayName),
        credential_name: field(settings.credential, Clearable::Credential),
        default_model: field(settings.default_model, Clearable::DefaultModel),
        capabilities: field(capabilities, Clearable::Capabilities),
        config: settings
            .config
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect::<BTreeMap<_, _>>(),
    })
}
