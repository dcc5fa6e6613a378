//! Tasks.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use freehold_client::{
    ActivityScope, Answer, Client,
    api::{
        service::ListQuery,
        task::{Task as Row, TaskCreate, TaskSubmit},
    },
};
use freehold_model::{TaskId, WorkspaceId, role::ThinkingEffort, task::Phase};

use super::{Outcome, slug};
use crate::{
    answer,
    failure::{Failure, exit},
    follow, input,
    output::{Console, DIM, Format, or_dash, seconds, table, time},
    progress::Detail,
    resolve, terminal,
};

/// Verbs on tasks.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Task {
    /// Submit a task to a workspace, or to a new one under a role
    #[command(after_help = "Examples:
  freehold task submit --role coder --follow \"Write a program that prints the primes below 50\"
  freehold task submit --workspace ws_0199... --file data.csv \"Summarize the file\"
  git diff | freehold task submit --role reviewer -

With --follow the exit code tells how it ended: 0 completed, 10 failed, 11 cancelled, 12 not delivered.")]
    Submit(Submit),
    /// List a workspace's tasks, newest first
    #[command(after_help = "Examples:\n  freehold task list ws_0199...")]
    List {
        /// The workspace
        workspace: WorkspaceId,
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one task, with the agent's whole answer
    #[command(
        after_help = "Examples:\n  freehold task get ws_0199... task_0199...",
        override_usage = "freehold task get [OPTIONS] <WORKSPACE> <TASK>"
    )]
    Get {
        /// The workspace
        #[arg(value_parser = workspace_of_task)]
        workspace: WorkspaceId,
        /// The task; `freehold task list WORKSPACE` shows them
        task: Option<TaskId>,
    },
    /// Cancel the running task of a workspace; its present step may go on for up to 30 seconds
    #[command(after_help = "Examples:\n  freehold task cancel ws_0199...")]
    Cancel {
        /// The workspace
        workspace: WorkspaceId,
    },
}

/// A task to submit.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["workspace", "role"]))]
pub struct Submit {
    /// The workspace to submit it to
    #[arg(long, value_name = "ID")]
    workspace: Option<WorkspaceId>,
    /// The role, by name or id, of a new workspace for it
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// A file that comes with it, at /data/uploads/<task>/<name> in the pod; repeatable
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Show what the agent does until the task ends
    #[arg(long, short)]
    follow: bool,
    /// Begin a new conversation
    #[arg(long, requires = "workspace")]
    reset_session: bool,
    /// A label of where the new workspace works
    #[arg(long, value_name = "LABEL", requires = "role")]
    environment: Option<String>,
    /// How hard the model should think
    #[arg(long, value_parser = slug!(ThinkingEffort))]
    thinking_effort: Option<ThinkingEffort>,
    /// The most model calls
    #[arg(long, value_name = "N")]
    max_continuations: Option<u32>,
    /// The most tokens of conversation before it is compacted
    #[arg(long, value_name = "N")]
    max_context_tokens: Option<u64>,
    /// The prompt; `-` reads it from stdin
    text: String,
}

pub(crate) async fn run(client: &Client, verb: Task, console: &mut Console) -> Outcome {
    match verb {
        Task::Submit(submit) => return self::submit(client, submit, console).await,
        Task::List { workspace, limit } => {
            let list = client.task_list(workspace, &ListQuery { limit, cursor: None }).await?;
            console.answer(&list, |list| rows(list))?;
        }
        Task::Get { workspace, task } => {
            let task = task.ok_or_else(|| {
                Failure::usage("which task? It is named after its workspace")
                    .hint(format!("`freehold task list {workspace}` shows the tasks there are"))
            })?;
            show(client, &client.task_view(workspace, task).await?, console).await?;
        }
        Task::Cancel { workspace } => {
            // Looked at before: afterwards one that ended at once is no longer there. Tasks run in their order, so that none
            // is left when the newest has ended.
            let newest = client.task_list(workspace, &ListQuery { limit: Some(1), cursor: None }).await;
            let answer = client.task_cancel(workspace).await?;
            console.json(answer.text())?;
            console.note(match newest {
                Ok(newest) if newest.iter().all(|task| task.status.is_terminal()) => {
                    "No task was running there.\n"
                }
                _ => "The running task, if there is one, ends after its present step, within 30 seconds.\n",
            });
        }
    }
    Ok(exit::OK)
}

/// A workspace's id, where people give a task's alone.
fn workspace_of_task(text: &str) -> Result<WorkspaceId, String> {
    text.parse().map_err(|error: <WorkspaceId as FromStr>::Err| match text.parse::<TaskId>() {
        Ok(task) => format!(
            "this is a task, which is named after its workspace: `freehold task get WORKSPACE {task}`; \
             `freehold workspace list` shows the workspaces"
        ),
        Err(_) => format!("{error}; `freehold workspace list` shows the workspaces"),
    })
}

/// The rows of a list of tasks.
pub(crate) fn rows(tasks: &[Row]) -> String {
    let row = |task: &Row| {
        vec![
            task.id.to_string(),
            task.status.to_string(),
            or_dash(task.duration_seconds.map(seconds)),
            time(task.created_at),
            task.description.clone(),
        ]
    };
    table(&["id", "status", "took", "submitted", "description"], tasks.iter().map(row))
}

async fn submit(client: &Client, submit: Submit, console: &mut Console) -> Outcome {
    let description =
        if submit.text == "-" { input::text(console, Path::new("-"))? } else { submit.text.clone() };
    // Opened first, so that nothing the task does is missed.
    let stream = match submit.follow {
        true => Some(client.activity_stream(ActivityScope::Organization, None).await?),
        false => None,
    };
    let submitted = match submit.workspace {
        Some(workspace) => {
            let body = TaskSubmit {
                description,
                reset_session: submit.reset_session.then_some(true),
                thinking_effort: submit.thinking_effort,
                max_continuations: submit.max_continuations,
                max_context_tokens: submit.max_context_tokens,
                metadata: None,
            };
            client.task_submit(workspace, &body, &submit.file).await?
        }
        None => {
            let role = submit.role.as_deref().ok_or_else(|| Failure::usage("name a workspace or a role"))?;
            let body = TaskCreate {
                role_id: Some(resolve::role(client, role).await?),
                role_name: None,
                description,
                environment: submit.environment,
                thinking_effort: submit.thinking_effort,
                max_continuations: submit.max_continuations,
                max_context_tokens: submit.max_context_tokens,
                metadata: None,
            };
            client.task_create(&body, &submit.file).await?
        }
    };
    let Some(stream) = stream else {
        console.fields(&submitted)?;
        return Ok(exit::OK);
    };
    let followed = follow::Followed { workspace: submitted.workspace_id, task: submitted.task_id };
    let follow::Followed { workspace, task } = followed;
    console.note(&format!("{DIM}{task} in {workspace}{DIM:#}\n"));
    let goes_on = format!(
        "the task goes on: `freehold task get {workspace} {task}` shows it, `freehold workspace activity {workspace} --follow` \
         what it does, `freehold task cancel {workspace}` ends it"
    );
    let mut tell = |text: &str| console.note(text);
    let interrupted = terminal::interrupted();
    let task = tokio::select! {
        task = follow::task(client, stream, followed, Detail::SHORT, &mut tell) => {
            task.map_err(|failure| failure.hint(goes_on))?
        }
        () = interrupted => return Err(terminal::interruption().hint(goes_on)),
    };
    show(client, &task, console).await?;
    Ok(code(task.status))
}

/// A task's fields, and what the agent said in the end.
async fn show(client: &Client, task: &Answer<Row>, console: &mut Console) -> Result<(), Failure> {
    console.fields(task)?;
    if console.format == Format::Table
        && let Some(answer) = answer::of_task(client, task).await
    {
        console.data(&answer::block(&answer))?;
    }
    Ok(())
}

/// The exit code of a task that was followed.
pub(crate) const fn code(status: Phase) -> u8 {
    match status {
        Phase::Completed => exit::OK,
        Phase::Failed => exit::TASK_FAILED,
        Phase::Cancelled => exit::TASK_CANCELLED,
        Phase::DeliveryFailed => exit::TASK_DELIVERY_FAILED,
        Phase::Submitted | Phase::Delivered | Phase::Running | Phase::Compacting => exit::OTHER,
    }
}
