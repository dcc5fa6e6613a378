//! The verbs, one module per group.

mod activity;
mod approvals;
mod audit;
mod behind;
mod caps;
mod credential;
mod key;
mod login;
mod provider;
mod role;
mod secret;
pub(crate) mod session;
pub(crate) mod task;
mod used;
pub(crate) mod workspace;

use std::io::Write;

use clap::Subcommand;
use freehold_client::{Error, api::error::ErrorCode};

use crate::{
    context::Connection,
    demo,
    environment::Environment,
    failure::{Failure, exit},
    output::Console,
};

/// What a verb ends with: an exit code, or why it failed.
pub(crate) type Outcome = Result<u8, Failure>;

/// A verb that calls the API.
#[derive(Debug, Clone, clap::Args)]
pub struct Calling<A: clap::Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    connection: Connection,
}

/// A verb with verbs of its own.
#[derive(Debug, Clone, clap::Args)]
pub struct Group<V: Subcommand> {
    #[command(subcommand)]
    verb: V,
}

/// No further arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Nothing {}

/// The client verbs, to be flattened into the binary's.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Check a key and keep it for later
    #[command(after_help = login::EXAMPLES)]
    Login(login::Login),
    /// Who am I, and what may I do
    #[command(after_help = "Examples:\n  freehold whoami\n  freehold whoami --output json")]
    Whoami(Calling<Nothing>),
    /// Show what holds where a role says nothing
    #[command(after_help = "Examples:\n  freehold config-defaults")]
    ConfigDefaults(Calling<Nothing>),
    /// Workspaces: where agents work
    #[command(visible_alias = "ws")]
    Workspace(Calling<Group<workspace::Workspace>>),
    /// Tasks: work submitted to agents
    Task(Calling<Group<task::Task>>),
    /// Roles: provider, model, policy and limits of agents
    Role(Calling<Group<role::Role>>),
    /// Providers: model backends
    Provider(Calling<Group<provider::Provider>>),
    /// Credentials: what is injected on the way out
    Credential(Calling<Group<credential::Credential>>),
    /// Secrets: values that policies put on requests by name
    Secret(Calling<Group<secret::Secret>>),
    /// API keys: automation's credentials
    Key(Calling<Group<key::ApiKey>>),
    /// Approvals: requests that wait for a person
    #[command(visible_alias = "approval")]
    Approvals(Calling<Group<approvals::Approvals>>),
    /// Sessions: the durable record of conversations
    Session(Calling<Group<session::Session>>),
    /// Follow what happens in the organization
    #[command(after_help = activity::EXAMPLES)]
    Activity(Calling<activity::Activity>),
    /// The audit log: list, review, export and verify it
    Audit(Group<audit::log::Audit>),
    /// Check and try capabilities, what roles allow, without a server
    Caps(Group<caps::Caps>),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  freehold completions bash > ~/.local/share/bash-completion/completions/freehold"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Watch an agent do a real task in a real sandbox
    #[command(after_help = demo::EXAMPLES)]
    Demo(demo::Demo),
}

impl Verb {
    /// For a demo with a real model: the configuration file it names, whose `[egress]` holds for its server.
    pub fn live_config(&self) -> Option<Option<&std::path::Path>> {
        match self {
            Self::Demo(demo) => demo.live_config(),
            _ => None,
        }
    }
}

/// Runs one.
pub(crate) async fn run(verb: Verb, environment: &Environment, console: &mut Console) -> Outcome {
    macro_rules! call {
        ($calling:ident, $function:path) => {{
            console.format = $calling.connection.output;
            let client = $calling.connection.client(environment, console)?;
            $function(&client, $calling.args, console).await
        }};
    }
    macro_rules! group {
        ($calling:ident, $function:path) => {{
            console.format = $calling.connection.output;
            let client = $calling.connection.client(environment, console)?;
            $function(&client, $calling.args.verb, console).await
        }};
    }
    match verb {
        Verb::Login(login) => login::run(login, environment, console).await,
        Verb::Whoami(it) => call!(it, login::whoami),
        Verb::ConfigDefaults(it) => call!(it, login::config_defaults),
        Verb::Workspace(it) => group!(it, workspace::run),
        Verb::Task(it) => group!(it, task::run),
        Verb::Role(it) => group!(it, role::run),
        Verb::Provider(it) => group!(it, provider::run),
        Verb::Credential(it) => group!(it, credential::run),
        Verb::Secret(it) => group!(it, secret::run),
        Verb::Key(it) => group!(it, key::run),
        Verb::Approvals(it) => group!(it, approvals::run),
        Verb::Session(it) => group!(it, session::run),
        Verb::Activity(it) => call!(it, activity::run),
        Verb::Audit(it) => audit::log::run(it.verb, environment, console).await,
        Verb::Caps(it) => caps::run(it.verb, console),
        Verb::Completions { shell } => completions(shell, environment, console),
        Verb::Demo(demo) => demo::run(demo, environment, console).await,
    }
}

fn completions(shell: clap_complete::Shell, environment: &Environment, console: &mut Console) -> Outcome {
    let mut command = environment.command.clone();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    console.out.write_all(&script).map_err(|error| Failure::stdout(&error))?;
    Ok(exit::OK)
}

/// Why something was not created; where its name is taken, how what has it is replaced.
fn taken(error: Error, how: String) -> Failure {
    let is_taken = error.api().is_some_and(|api| api.known_code() == Some(ErrorCode::NameTaken));
    let failure = Failure::from(error);
    if is_taken { failure.hint(how) } else { failure }
}

/// A name of a role or a provider, which is a slug.
fn name(text: &str) -> Result<String, String> {
    if freehold_model::name::is_name(text) {
        return Ok(text.to_owned());
    }
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let meant = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let rule = "a name is lowercase letters, digits and single hyphens between them, 64 at most";
    Err(match freehold_model::name::is_name(&meant) {
        true => format!("{rule}; did you mean `{meant}`?"),
        false => rule.to_owned(),
    })
}

/// A parser of a closed set's slugs, or of those that a filter leaves, which help and errors list.
macro_rules! slug {
    ($type:ty) => {
        slug!($type, |_: &$type| true)
    };
    ($type:ty, $filter:expr) => {
        clap::builder::TypedValueParser::try_map(
            clap::builder::PossibleValuesParser::new(
                <$type>::ALL
                    .iter()
                    .filter(|value| $filter(value))
                    .map(|value| value.as_str())
                    .filter(|slug| !slug.is_empty()),
            ),
            |text: String| text.parse::<$type>(),
        )
    };
}
pub(crate) use slug;
