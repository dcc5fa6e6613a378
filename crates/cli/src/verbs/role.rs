//! Roles.

use std::path::{Path, PathBuf};

use freehold_client::{
    Answer, Client,
    api::{
        role::{Role as Row, RoleCreate, RoleUpdate},
        service::ArchivableListQuery,
    },
};
use freehold_model::role::{Environment, ThinkingEffort};

use super::{Outcome, slug};
use crate::{
    failure::{Failure, exit},
    input::{self, Confirm},
    missing,
    output::{Console, or_dash, table, time},
    resolve::{self, Names},
};

/// Verbs on roles.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Role {
    /// List roles, newest first
    #[command(after_help = "Examples:\n  freehold role list")]
    List {
        /// Archived ones too
        #[arg(long)]
        include_archived: bool,
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one role
    #[command(after_help = "Examples:\n  freehold role get coder")]
    Get {
        /// The role, by name or id
        role: String,
    },
    /// Create a role
    #[command(
        after_help = "Examples:\n  freehold role create coder --provider claude --capabilities caps.yaml"
    )]
    Create {
        /// Its name, unique in the organization: lowercase letters, digits and hyphens
        #[arg(value_parser = super::name)]
        name: String,
        /// The provider its agents call, by name or id
        #[arg(long, value_name = "NAME")]
        provider: String,
        #[command(flatten)]
        settings: Box<Settings>,
    },
    /// Change a role; what is not named stays
    #[command(
        after_help = "Examples:\n  freehold role update coder --capabilities caps.yaml\n  freehold role update coder --clear model --clear thinking-effort"
    )]
    Update {
        /// The role, by name or id
        role: String,
        /// The provider its agents call, by name or id
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
        #[command(flatten)]
        settings: Box<Settings>,
        /// A field to clear; repeatable
        #[arg(long, value_enum, value_name = "FIELD")]
        clear: Vec<Clearable>,
    },
    /// Archive a role
    #[command(after_help = "Examples:\n  freehold role archive coder")]
    Archive {
        /// The role, by name or id
        role: String,
    },
    /// Unarchive a role
    #[command(after_help = "Examples:\n  freehold role unarchive coder")]
    Unarchive {
        /// The role, by name or id
        role: String,
    },
    /// Stop every workspace under a role, for good
    #[command(after_help = "Examples:\n  freehold role stop-workspaces coder --yes")]
    StopWorkspaces {
        /// The role, by name or id
        role: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// What can be set of a role.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// A label for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The model; the provider's default when absent
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The policy: a file of capabilities (YAML); `-` reads stdin
    #[arg(long, value_name = "FILE")]
    capabilities: Option<PathBuf>,
    /// Where its agents work
    #[arg(long, value_parser = slug!(Environment))]
    environment: Option<Environment>,
    /// Told to the agent, so that it knows where it runs
    #[arg(long, value_name = "TEXT")]
    environment_description: Option<String>,
    /// How long a task may run, in seconds or as `1h`
    #[arg(long, value_name = "SECONDS", value_parser = input::seconds)]
    task_timeout: Option<u32>,
    /// How long a workspace may sit idle before it is stopped, in seconds or as `2h`; this version cannot start a stopped
    /// workspace again
    #[arg(long, value_name = "SECONDS", value_parser = input::seconds)]
    idle_timeout: Option<u32>,
    /// How hard the model should think
    #[arg(long, value_parser = slug!(ThinkingEffort))]
    thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in a task
    #[arg(long, value_name = "N")]
    max_continuations: Option<u32>,
    /// The most tokens of conversation before it is compacted
    #[arg(long, value_name = "N")]
    max_context_tokens: Option<u64>,
}

/// A field that can be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Clearable {
    /// `display_name`
    DisplayName,
    /// `description`
    Description,
    /// `model`
    Model,
    /// `capabilities`
    Capabilities,
    /// `environment_description`
    EnvironmentDescription,
    /// `task_timeout_seconds`
    TaskTimeout,
    /// `idle_timeout_seconds`
    IdleTimeout,
    /// `thinking_effort`
    ThinkingEffort,
    /// `max_continuations`
    MaxContinuations,
    /// `max_context_tokens`
    MaxContextTokens,
}

pub(crate) async fn run(client: &Client, verb: Role, console: &mut Console) -> Outcome {
    match verb {
        Role::List { include_archived, limit } => list(client, include_archived, limit, console).await?,
        Role::Get { role } => {
            let id = resolve::role(client, &role).await?;
            show(client, &client.role_view(id).await?, console).await?;
        }
        Role::Create { name, provider, settings } => {
            let provider_id = resolve::provider(client, &provider).await?;
            let capabilities = capabilities(settings.capabilities.as_deref(), console)?;
            let body = RoleCreate {
                name,
                provider_id,
                display_name: settings.display_name,
                description: settings.description,
                model: settings.model,
                capabilities,
                environment: settings.environment,
                environment_description: settings.environment_description,
                task_timeout_seconds: settings.task_timeout,
                idle_timeout_seconds: settings.idle_timeout,
                thinking_effort: settings.thinking_effort,
                max_continuations: settings.max_continuations,
                max_context_tokens: settings.max_context_tokens,
                pool_policy: None,
                pool_size: None,
                pool_max_size: None,
                pack_ids: Vec::new(),
            };
            let created = client.role_create(&body).await?;
            show(client, &created, console).await?;
            missing::warn(client, body.capabilities.as_deref(), console).await;
        }
        Role::Update { role, provider, settings, clear } => {
            let id = resolve::role(client, &role).await?;
            let mut change = change(*settings, &clear, console)?;
            if let Some(provider) = provider {
                change.provider_id = Some(resolve::provider(client, &provider).await?);
            }
            if change == RoleUpdate::default() {
                return Err(Failure::usage("nothing to change")
                    .hint("`freehold role update --help` lists what can be"));
            }
            show(client, &client.role_update(id, &change).await?, console).await?;
            missing::warn(client, change.capabilities.flatten().as_deref(), console).await;
        }
        Role::Archive { role } => {
            let id = resolve::role(client, &role).await?;
            console.fields(&client.role_archive(id).await?)?;
        }
        Role::Unarchive { role } => {
            let id = resolve::role(client, &role).await?;
            console.fields(&client.role_unarchive(id).await?)?;
        }
        Role::StopWorkspaces { role, confirm } => {
            let id = resolve::role(client, &role).await?;
            let what = format!("stop every workspace under the role {role}");
            confirm.ask_telling(console, &what, super::workspace::STOP_MEANS)?;
            console.fields(&client.role_stop_workspaces(id).await?)?;
        }
    }
    Ok(exit::OK)
}

async fn show(client: &Client, role: &Answer<Row>, console: &mut Console) -> Result<(), Failure> {
    let names = Names::of_provider(client, console.format, role.provider_id).await;
    console.named_fields(role, &names)
}

async fn list(
    client: &Client,
    include_archived: bool,
    limit: Option<u32>,
    console: &mut Console,
) -> Result<(), Failure> {
    let include_archived = include_archived.then_some(true);
    let list = client.role_list(&ArchivableListQuery { include_archived, limit, cursor: None }).await?;
    let names = Names::of_providers(client, console.format).await;
    console.answer(&list, |list| {
        let rows = list.agent_roles.iter().map(|role| {
            vec![
                role.name.clone(),
                role.id.to_string(),
                names.or_id(role.provider_id),
                or_dash(role.model.as_ref()),
                role.environment.to_string(),
                role.archived_at.map_or("active", |_| "archived").to_owned(),
                time(role.created_at),
            ]
        });
        table(&["name", "id", "provider", "model", "environment", "state", "created"], rows)
    })
}

fn capabilities(file: Option<&Path>, console: &mut Console) -> Result<Option<String>, Failure> {
    file.map(|file| input::text(console, file)).transpose()
}

fn change(settings: Settings, clear: &[Clearable], console: &mut Console) -> Result<RoleUpdate, Failure> {
    fn field<T>(value: Option<T>, clear: &[Clearable], name: Clearable) -> Option<Option<T>> {
        if clear.contains(&name) { Some(None) } else { value.map(Some) }
    }
    let text = capabilities(settings.capabilities.as_deref(), console)?;
    Ok(RoleUpdate {
        display_name: field(settings.display_name, clear, Clearable::DisplayName),
        description: field(settings.description, clear, Clearable::Description),
        model: field(settings.model, clear, Clearable::Model),
        capabilities: field(text, clear, Clearable::Capabilities),
        environment: settings.environment,
        environment_description: field(
            settings.environment_description,
            clear,
            Clearable::EnvironmentDescription,
        ),
        task_timeout_seconds: field(settings.task_timeout, clear, Clearable::TaskTimeout),
        idle_timeout_seconds: field(settings.idle_timeout, clear, Clearable::IdleTimeout),
        thinking_effort: field(settings.thinking_effort, clear, Clearable::ThinkingEffort),
        max_continuations: field(settings.max_continuations, clear, Clearable::MaxContinuations),
        max_context_tokens: field(settings.max_context_tokens, clear, Clearable::MaxContextTokens),
        ..RoleUpdate::default()
    })
}
