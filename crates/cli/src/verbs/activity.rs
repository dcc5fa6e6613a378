//! Activity: rows as they happen.

use std::collections::HashSet;

use freehold_client::{
    ActivityEvent, ActivityScope, Answer, Client, Error,
    api::{
        audit::{ActivityListQuery, AuditEvent, AuditEventList, Order},
        workspace::WorkspaceListQuery,
    },
};
use freehold_model::{EventId, TaskId};
use futures::{StreamExt, stream::BoxStream};

use super::Outcome;
use crate::{
    failure::{Failure, exit},
    output::{self, Console, DIM, Format, or_dash, time},
    progress, terminal,
};

pub(crate) const EXAMPLES: &str = "Examples:
  freehold activity
  freehold activity --no-follow
  freehold activity --output json | jq .event_type

Follows until it is interrupted; `freehold workspace activity ID --follow` does the same for one workspace. With \
--no-follow it shows the last rows of the newest workspaces and ends; --limit is for each of them. With --output json each \
row is a line.";

/// Whether to go on with what happens from now.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Follow {
    /// Go on with what happens from now, until Ctrl-C
    #[arg(long, short, overrides_with = "no_follow")]
    follow: bool,
    /// Show what was, and end
    #[arg(long, overrides_with = "follow")]
    no_follow: bool,
}

impl Follow {
    /// What was said last, or else this.
    pub(crate) const fn or(self, default: bool) -> bool {
        match (self.follow, self.no_follow) {
            (true, _) => true,
            (_, true) => false,
            _ => default,
        }
    }
}

/// Follow what happens.
#[derive(Debug, Clone, clap::Args)]
pub struct Activity {
    #[command(flatten)]
    follow: Follow,
    /// Begin after the row at this position of the stream
    #[arg(long, value_name = "POSITION", conflicts_with = "no_follow")]
    after: Option<String>,
    /// How many past rows of each workspace, with --no-follow
    #[arg(long, value_name = "N", requires = "no_follow")]
    limit: Option<u32>,
}

/// Workspaces whose past is shown at once.
const WORKSPACES_MAX: u32 = 20;
/// Past rows shown of each of them when nothing is said.
const ROWS_OF_EACH: u32 = 10;

pub(crate) async fn run(client: &Client, args: Activity, console: &mut Console) -> Outcome {
    if !args.follow.or(true) {
        return recent(client, args.limit.unwrap_or(ROWS_OF_EACH), console).await;
    }
    let stream = client.activity_stream(ActivityScope::Organization, args.after).await?;
    console
        .note("showing activity from now on, until Ctrl-C; `freehold activity --no-follow` shows what was\n");
    follow(stream, &HashSet::new(), None, console).await
}

/// The last rows of the newest workspaces, in the order of their times: the API lists the past of a workspace only.
async fn recent(client: &Client, limit: u32, console: &mut Console) -> Outcome {
    let query = WorkspaceListQuery { limit: Some(WORKSPACES_MAX), ..Default::default() };
    let workspaces = client.workspace_list(&query).await?;
    let query = ActivityListQuery { limit: Some(limit), order: Some(Order::Desc), ..Default::default() };
    let mut rows = Vec::new();
    for workspace in &workspaces.workspaces {
        rows.extend(client.workspace_activity_list(workspace.id, &query).await?.into_value().events);
    }
    rows.sort_by_key(|row| (row.timestamp, row.id));
    for row in &rows {
        show(row, console)?;
    }
    Ok(exit::OK)
}

fn show(row: &AuditEvent, console: &mut Console) -> Result<(), Failure> {
    match console.format {
        Format::Json => console.json(&serde_json::to_string(row).unwrap_or_default()),
        Format::Table => console.data(&line(row)),
    }
}

/// Rows as a table.
pub(crate) fn table(events: &[AuditEvent]) -> String {
    let row = |event: &AuditEvent| {
        vec![
            time(event.timestamp),
            event.event_type.to_string(),
            event.actor.to_string(),
            progress::summary(event),
        ]
    };
    output::table(&["time", "event", "actor", "what"], events.iter().map(row))
}

/// Shows past rows; answers with their ids, so that a stream does not repeat them.
pub(crate) fn past(
    list: &Answer<AuditEventList>,
    as_stream: bool,
    console: &mut Console,
) -> Result<HashSet<EventId>, Failure> {
    if !as_stream {
        console.answer(list, |list| table(&list.events))?;
    } else {
        // In a stream of lines the past comes as lines too.
        list.events.iter().try_for_each(|event| show(event, console))?;
    }
    Ok(list.events.iter().map(|event| event.id).collect())
}

/// Shows rows as they come, until the stream fails.
pub(crate) async fn follow(
    mut stream: BoxStream<'static, Result<ActivityEvent, Error>>,
    seen: &HashSet<EventId>,
    task: Option<TaskId>,
    console: &mut Console,
) -> Outcome {
    let mut interrupted = std::pin::pin!(terminal::interrupted());
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = &mut interrupted => return Ok(exit::INTERRUPTED),
        };
        let Some(event) = event.transpose()? else { return Ok(exit::OK) };
        let is_wanted = event
            .row
            .as_ref()
            .is_none_or(|row| !seen.contains(&row.id) && task.is_none_or(|task| row.task_id == Some(task)));
        match (console.format, &event.row) {
            _ if !is_wanted => {}
            (Format::Json, _) => console.json(&event.text)?,
            (Format::Table, Some(row)) => console.data(&line(row))?,
            (Format::Table, None) => {}
        }
    }
}

fn line(event: &AuditEvent) -> String {
    let place = or_dash(event.workspace_id);
    let (at, kind, what) = (time(event.timestamp), event.event_type, progress::summary(event));
    format!("{DIM}{at}  {place:35}{DIM:#}  {kind:26}  {what}").trim_end().to_owned() + "\n"
}
