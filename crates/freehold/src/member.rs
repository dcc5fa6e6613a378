//! `freehold member`: people, on the server's machine. Whoever may read the data directory is trusted with this.

use anyhow::Context;
use clap::{
    Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use freehold_app::{App, PAGE_MAX, Page, member::DEFAULT_ORGANIZATION};
use freehold_cli::{Format, plain_table as table};
use freehold_model::{
    TokenId,
    member::{Member, MemberRole, PersonalToken},
};
use serde_json::{Value, json};

use crate::{
    config::{self, Flags, Home},
    control, server,
};

/// Arguments of `freehold member`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  freehold member add ana@example.com --role operator
  freehold member token ana@example.com --label laptop > ana.key
  freehold member token list ana@example.com
  freehold member token revoke token_0199...
  freehold member list --data-dir ./data --output json")]
pub struct Args {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a member to the organization
    #[command(after_help = "Examples:\n  freehold member add ana@example.com --role operator")]
    Add {
        /// E-mail address
        email: String,
        /// What the member may do
        #[arg(long, default_value = MemberRole::Member.as_str(), value_parser = roles())]
        role: MemberRole,
    },
    /// List the members
    #[command(
        after_help = "Examples:\n  freehold member list\n  freehold member list --data-dir ./data --output json"
    )]
    List(Form),
    /// Make a personal token for a member and print it, this once; list tokens and revoke them
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  umask 077; freehold member token ana@example.com --label laptop > ana.key"
    )]
    Token {
        #[command(subcommand)]
        command: Option<TokenCommand>,
        /// E-mail address of the member
        #[arg(required = true)]
        email: Option<String>,
        /// What the token is for
        #[arg(long, default_value = "cli")]
        label: String,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List the personal tokens in force, without their secrets
    #[command(
        after_help = "Examples:\n  freehold member token list\n  freehold member token list ana@example.com"
    )]
    List {
        /// Only those of this member
        email: Option<String>,
        #[command(flatten)]
        form: Form,
    },
    /// Revoke a personal token: the next request with it is refused, and its event streams end
    #[command(after_help = "Examples:\n  freehold member token revoke token_0199...")]
    Revoke {
        /// The token's id, as `freehold member token list` shows it
        id: TokenId,
    },
}

#[derive(Debug, clap::Args)]
struct Form {
    /// A table for people, or JSON
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Carries the command out and answers what to print.
pub async fn run(arguments: Args) -> anyhow::Result<String> {
    let config = config::load(&arguments.flags, &Home::from_environment())?.config;
    anyhow::ensure!(
        config.server.data_dir.is_dir(),
        "there is no data directory {}; start the server once, or name its directory with --data-dir",
        config.server.data_dir.display()
    );
    server::ensure_database(&config)?;
    let store = server::open_store(&config, &config.server.data_dir, false)?;
    let app = server::offline_app(&config, store.clone())?;
    let revokes =
        matches!(&arguments.command, Command::Token { command: Some(TokenCommand::Revoke { .. }), .. });
    let output = carry_out(&app, arguments.command).await;
    store.close().await;
    if revokes && output.is_ok() {
        control::tell(&config.server.data_dir).await.context("it is written, but not known yet")?;
    }
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
        Command::List(form) => {
            let members = app.member_list(organization, Page::first(PAGE_MAX)).await?;
            let row = |member: &Member| {
                let Member { id, role, email, created_at, .. } = member;
                json!({ "id": id, "role": role, "email": email, "created_at": created_at })
            };
            form.render(&["id", "role", "email", "created_at"], members.iter().map(row))?
        }
        Command::Token { command: None, email, label } => {
            let email = email.unwrap_or_default();
            let secret = app.token_create(organization, &email, &label).await.map_err(explained)?;
            format!("{}\n", secret.expose())
        }
        Command::Token { command: Some(TokenCommand::List { email, form }), .. } => {
            let tokens = app.token_list(organization, email.as_deref(), Page::first(PAGE_MAX)).await?;
            let row = |(token, member): &(PersonalToken, Member)| {
                let PersonalToken { id, label, prefix, created_at, .. } = token;
                json!({
                    "id": id, "email": member.email, "label": label, "token": prefix, "created_at": created_at,
                })
            };
            form.render(&["id", "email", "label", "token", "created_at"], tokens.iter().map(row))?
        }
        Command::Token { command: Some(TokenCommand::Revoke { id }), .. } => {
            let token = app.token_revoke(organization, id).await?;
            format!("revoked {}  {}\n", token.id, token.label)
        }
    })
}

impl Form {
    /// The rows as a table with these columns, or as an array of objects.
    fn render(&self, columns: &[&str], rows: impl Iterator<Item = Value>) -> anyhow::Result<String> {
        let rows: Vec<Value> = rows.collect();
        Ok(match self.output {
            Format::Json => format!("{}\n", serde_json::to_string_pretty(&rows)?),
            Format::Table => {
                let cell = |row: &Value, column: &&str| row[*column].as_str().unwrap_or_default().to_owned();
                let headings: Vec<String> = columns.iter().map(|column| column.replace('_', " ")).collect();
                let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
                table(
                    &headings,
                    rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()),
                )
            }
        })
    }
}
