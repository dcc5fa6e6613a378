//! `freehold member`: people, on the server's machine. Whoever may read the data directory is trusted with this.

use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use freehold_app::{App, PAGE_MAX, Page, member::DEFAULT_ORGANIZATION};
use freehold_model::member::MemberRole;

use crate::{
    config::{self, Flags, Home},
    server,
};

/// Arguments of `freehold member`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold member add ana@example.com --role operator
  freehold member token ana@example.com --label laptop > ana.key
  freehold member list --data-dir ./data")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a member to the organization
    Add {
        /// E-mail address
        email: String,
        /// What the member may do
        #[arg(long, default_value = MemberRole::Member.as_str(), value_parser = roles())]
        role: MemberRole,
    },
    /// List the members
    List,
    /// Make a personal token for a member and print it; it is shown this once
    Token {
        /// E-mail address of the member
        email: String,
        /// What the token is for
        #[arg(long, default_value = "cli")]
        label: String,
    },
}

/// Carries the command out and answers what to print.
pub async fn run(arguments: Args) -> anyhow::Result<String> {
    let config = config::load(&arguments.flags, &Home::from_environment())?.config;
    anyhow::ensure!(
        config.server.data_dir.is_dir(),
        "there is no data directory {}; start the server once, or name its directory with --data-dir",
        config.server.data_dir.display()
    );
    let store = server::open_store(&config, &config.server.data_dir, false)?;
    let app = server::offline_app(&config, store.clone())?;
    let output = carry_out(&app, arguments.command).await;
    store.close().await;
    output
}

/// The roles, which help and errors list.
fn roles() -> impl TypedValueParser<Value = MemberRole> {
    PossibleValuesParser::new(MemberRole::ALL.iter().map(|role| role.as_str()))
        .try_map(|text| text.parse::<MemberRole>())
}

/// A use case's error; refused fields are named with their reasons.
fn explained(error: freehold_app::Error) -> anyhow::Error {
    match error {
        freehold_app::Error::Invalid { fields } => {
            let fields: Vec<String> = fields.iter().map(|(name, why)| format!("{name}: {why}")).collect();
            anyhow::anyhow!("not acceptable: {}", fields.join("; "))
        }
        other => other.into(),
    }
}

async fn carry_out(app: &App, command: Command) -> anyhow::Result<String> {
    let organization = app.organization_by_name(DEFAULT_ORGANIZATION).await?;
    Ok(match command {
        Command::Add { email, role } => {
            let member = app.member_add(organization, &email, role).await.map_err(explained)?;
            format!("{}  {}  {}\n", member.id, member.role, member.email)
        }
        Command::List => {
            let members = app.member_list(organization, Page::first(PAGE_MAX)).await?;
            members
                .iter()
                .map(|member| format!("{}  {:8}  {}\n", member.id, member.role, member.email))
                .collect()
        }
        Command::Token { email, label } => {
            let secret = app.token_create(organization, &email, &label).await.map_err(explained)?;
            format!("{}\n", secret.expose())
        }
    })
}
