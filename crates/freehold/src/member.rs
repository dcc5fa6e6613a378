//! `freehold member`: people, on the server's machine. Whoever may read the data directory is trusted with this.

use clap::Subcommand;
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
  freehold member list")]
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
        /// owner, operator or member
        #[arg(long, default_value = "member")]
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
    let store = server::open_store(&config, &config.server.data_dir)?;
    let app = server::offline_app(&config, store.clone())?;
    let output = carry_out(&app, arguments.command).await;
    store.close().await;
    output
}

async fn carry_out(app: &App, command: Command) -> anyhow::Result<String> {
    let organization = app.organization_by_name(DEFAULT_ORGANIZATION).await?;
    Ok(match command {
        Command::Add { email, role } => {
            let member = app.member_add(organization, &email, role).await?;
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
            let secret = app.token_create(organization, &email, &label).await?;
            format!("{}\n", secret.expose())
        }
    })
}
