//! Workspaces.

use std::io::Write;

use freehold_client::{
    ActivityScope, Client, ExecEvent,
    api::{
        audit::{ActivityListQuery, Order},
        budget::Budget,
        workspace::{Workspace as Row, WorkspaceCreate, WorkspaceExec, WorkspaceListQuery},
    },
};
use freehold_model::{TaskId, WorkspaceId};

use super::{Outcome, activity, audit};
use crate::{
    failure::{Failure, exit},
    input::{self, Confirm},
    output::{Console, or_dash, table, time},
    resolve::{self, Names},
};

const STOP_HELP: &str = "\
Examples:
  freehold workspace stop ws_0199...
  freehold workspace stop ws_0199... --yes

The running task is cancelled and the pod ends; files and conversation are kept. This version cannot start a stopped \
workspace again, and it takes no more tasks: `freehold task submit --role NAME` begins a new one. At a terminal it asks \
first; elsewhere it needs --yes.";

const STOP_ALL_HELP: &str = "\
Examples:
  freehold workspace stop-all --yes

What it means for each of them is told by `freehold workspace stop --help`.";

/// What a stop means, said before it is done.
pub(crate) const STOP_MEANS: &str = "Running tasks are cancelled; files and conversations are kept. This version cannot start a \
    stopped workspace again, so it takes no more tasks.";

/// What deleting means.
const DELETE_MEANS: &str = "Its audit rows are kept, but `freehold workspace audit` can no longer show them: it knows only \
    workspaces that are there.";

/// The role of a new workspace, as a word or as a flag.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct OfRole {
    /// The role, by name or id
    #[arg(value_name = "ROLE")]
    name: Option<String>,
    /// The same as a flag, as `task submit` takes it
    #[arg(long = "role", value_name = "ROLE")]
    flag: Option<String>,
}

/// Verbs on workspaces.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Workspace {
    /// List workspaces, newest first
    #[command(
        after_help = "Examples:\n  freehold workspace list\n  freehold workspace list --role coder --include-archived"
    )]
    List {
        /// Archived ones too
        #[arg(long)]
        include_archived: bool,
        /// Only those under this role
        #[arg(long, value_name = "NAME")]
        role: Option<String>,
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one workspace
    #[command(after_help = "Examples:\n  freehold workspace get ws_0199...")]
    Get {
        /// The workspace
        id: WorkspaceId,
    },
    /// Create a workspace
    #[command(
        after_help = "Examples:\n  freehold workspace create coder\n  freehold workspace create --role coder --environment staging"
    )]
    Create {
        #[command(flatten)]
        role: OfRole,
        /// A label of where it works
        #[arg(long, value_name = "LABEL")]
        environment: Option<String>,
    },
    /// Stop a workspace for good: its pod ends, its files and conversation are kept
    #[command(after_help = STOP_HELP)]
    Stop {
        /// The workspace
        id: WorkspaceId,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Stop every running workspace of the organization, for good
    #[command(after_help = STOP_ALL_HELP)]
    StopAll(Confirm),
    /// Hide a stopped or failed workspace from lists
    #[command(after_help = "Examples:\n  freehold workspace archive ws_0199...")]
    Archive {
        /// The workspace
        id: WorkspaceId,
    },
    /// Show an archived workspace in lists again
    #[command(after_help = "Examples:\n  freehold workspace unarchive ws_0199...")]
    Unarchive {
        /// The workspace
        id: WorkspaceId,
    },
    /// Remove an archived workspace for good
    #[command(after_help = "Examples:\n  freehold workspace delete ws_0199... --yes")]
    Delete {
        /// The workspace
        id: WorkspaceId,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Show how much is used of each budget that counts a workspace
    #[command(
        after_help = "Examples:\n  freehold workspace budgets ws_0199...\n  freehold workspace budgets ws_0199... --output json\n\nThe counter's name stands behind the document and the capability that it is in. Money is in dollars."
    )]
    Budgets {
        /// The workspace
        id: WorkspaceId,
    },
    /// Show the agent's own view of its session
    #[command(after_help = "Examples:\n  freehold workspace session ws_0199... --output json")]
    Session {
        /// The workspace
        id: WorkspaceId,
    },
    /// Show what happened in a workspace; --follow goes on with what happens
    #[command(
        after_help = "Examples:\n  freehold workspace activity ws_0199...\n  freehold workspace activity ws_0199... --follow"
    )]
    Activity {
        /// The workspace
        id: WorkspaceId,
        #[command(flatten)]
        follow: activity::Follow,
        /// Only rows of this task
        #[arg(long, value_name = "TASK")]
        task: Option<TaskId>,
        /// How many past rows
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show a workspace's decisions and changes, newest first
    #[command(
        after_help = "Examples:\n  freehold workspace audit ws_0199... --limit 20\n  freehold workspace audit ws_0199... --filter decision=deny --from 2h\n  freehold workspace audit ws_0199... --output json | jq -r '.events[].id'\n\nThe column `rule` names the capability that decided, `by` the member, or who else wrote the row. JSON has every field."
    )]
    Audit {
        /// The workspace
        id: WorkspaceId,
        #[command(flatten)]
        list: audit::log::List,
    },
    /// Run a command in a workspace's pod; its exit code becomes this command's
    #[command(after_help = "Examples:
  freehold workspace exec ws_0199... -- ls -l
  freehold workspace exec ws_0199... --cwd /tmp -- sh -c 'echo $PWD'

The command gets no stdin. A program that cannot be started gives 127 when it is not there and 126 when it may not be used; \
one that a signal ended gives 128 and the signal's number. What the command leaves running in the background goes on.")]
    Exec {
        /// The workspace
        id: WorkspaceId,
        /// How long it may run, in seconds or as `5m`; 60 seconds when absent
        #[arg(long, value_name = "SECONDS", value_parser = input::seconds)]
        timeout: Option<u32>,
        /// Where it runs; /workspace when absent
        #[arg(long, value_name = "DIR")]
        cwd: Option<String>,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

pub(crate) async fn run(client: &Client, verb: Workspace, console: &mut Console) -> Outcome {
    match verb {
        Workspace::List { include_archived, role, limit } => {
            let include_archived = include_archived.then_some(true);
            let query = WorkspaceListQuery { include_archived, role_name: role, limit, cursor: None };
            let list = client.workspace_list(&query).await?;
            let names = Names::of_roles(client, console.format).await;
            console.answer(&list, |list| rows(&list.workspaces, &names))?;
        }
        Workspace::Get { id } => {
            let workspace = client.workspace_view(id).await?;
            let names = Names::of_role(client, console.format, workspace.role_id).await;
            console.named_fields(&workspace, &names)?;
        }
        Workspace::Create { role, environment } => {
            let role = role.name.or(role.flag).unwrap_or_default();
            let role_id = Some(resolve::role(client, &role).await?);
            let body = WorkspaceCreate { role_id, role_name: None, environment };
            let workspace = client.workspace_create(&body).await?;
            let names = Names::of_role(client, console.format, workspace.role_id).await;
            console.named_fields(&workspace, &names)?;
        }
        Workspace::Stop { id, confirm } => {
            confirm.ask_telling(console, &format!("stop {id}"), STOP_MEANS)?;
            console.fields(&client.workspace_stop(id).await?)?;
        }
        Workspace::StopAll(confirm) => {
            confirm.ask_telling(console, "stop every running workspace of the organization", STOP_MEANS)?;
            console.fields(&client.workspace_stop_all().await?)?;
        }
        Workspace::Archive { id } => console.fields(&client.workspace_archive(id).await?)?,
        Workspace::Unarchive { id } => console.fields(&client.workspace_unarchive(id).await?)?,
        Workspace::Delete { id, confirm } => {
            confirm.ask_telling(
                console,
                &format!("remove {id} with its files and conversation for good"),
                DELETE_MEANS,
            )?;
            console.fields(&client.workspace_delete(id).await?)?;
        }
        Workspace::Budgets { id } => {
            let list = client.workspace_budget_list(id).await?;
            console.answer(&list, |list| budgets(&list.budgets))?;
        }
        Workspace::Session { id } => console.fields(&client.workspace_session_view(id).await?)?,
        Workspace::Activity { id, follow, task, limit } => {
            return show_activity(client, id, follow, task, limit, console).await;
        }
        Workspace::Audit { id, list } => return audit::log::list(client, Some(id), list, console).await,
        Workspace::Exec { id, timeout, cwd, command } => {
            let body = WorkspaceExec { command, timeout_seconds: timeout, working_directory: cwd };
            return exec(client, id, &body, console).await;
        }
    }
    Ok(exit::OK)
}

/// Shows what happened in a workspace and, if asked, what happens.
async fn show_activity(
    client: &Client,
    id: WorkspaceId,
    follow: activity::Follow,
    task: Option<TaskId>,
    limit: Option<u32>,
    console: &mut Console,
) -> Outcome {
    let scope = ActivityScope::Workspace(id);
    // Opened before the past is read: what happens in between is then in one of the two.
    let follow = follow.or(false);
    let stream = if follow { Some(client.activity_stream(scope, None).await?) } else { None };
    let query = ActivityListQuery { task_id: task, limit, order: Some(Order::Asc), ..Default::default() };
    let past = client.workspace_activity_list(id, &query).await?;
    let seen = activity::past(&past, stream.is_some(), console)?;
    if let Some(stream) = stream {
        return activity::follow(stream, &seen, task, console).await;
    }
    Ok(exit::OK)
}

/// The rows of a list of workspaces.
pub(crate) fn rows(workspaces: &[Row], names: &Names) -> String {
    let row = |workspace: &Row| {
        let archived = workspace.archived_at.map_or("", |_| " (archived)");
        vec![
            workspace.id.to_string(),
            format!("{}{archived}", workspace.status),
            names.or_id(workspace.role_id),
            or_dash(workspace.environment.as_ref()),
            time(workspace.created_at),
        ]
    };
    table(&["id", "status", "role", "environment", "created"], workspaces.iter().map(row))
}

/// The rows of a list of budgets.
fn budgets(budgets: &[Budget]) -> String {
    let row = |budget: &Budget| {
        let Budget { origin, capability, name, .. } = budget;
        vec![
            format!("{origin}/{capability}/{name}"),
            budget.unit.clone(),
            budget.per.clone(),
            or_dash(budget.window.as_ref()),
            budget.used.to_string(),
            budget.limit.to_string(),
            budget.remaining.to_string(),
            budget.on_limit.clone(),
        ]
    };
    let headings = ["counter", "unit", "per", "window", "used", "limit", "remaining", "at the limit"];
    table(&headings, budgets.iter().map(row))
}

/// Passes the command's output on as it is, and its exit code.
async fn exec(client: &Client, id: WorkspaceId, body: &WorkspaceExec, console: &mut Console) -> Outcome {
    let mut stream = client.workspace_exec(id, body).await?;
    loop {
        match stream.next().await? {
            ExecEvent::Stdout(bytes) => {
                let out = &mut console.out;
                out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| Failure::stdout(&error))?;
            }
            ExecEvent::Stderr(bytes) => {
                let err = &mut console.err;
                _ = err.write_all(&bytes).and_then(|()| err.flush());
            }
            ExecEvent::Ended { exit_code, timed_out } => {
                if timed_out {
                    console.note("the command was killed at its timeout\n");
                }
                // A code that no process can exit with must not become success.
                return Ok(u8::try_from(exit_code).unwrap_or(u8::MAX));
            }
        }
    }
}
