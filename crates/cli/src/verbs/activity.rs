//! Activity: rows as they happen.

use std::collections::HashSet;

use freehold_client::{
    ActivityEvent, ActivityScope, Answer, Client, Error,
    api::audit::{AuditEvent, AuditEventList},
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
  freehold activity --output json | jq .event_type

Follows until it is interrupted. With --output json each row is a line.";

/// Follow what happens.
#[derive(Debug, Clone, clap::Args)]
pub struct Activity {
    /// Show what happens from now on, which is what this verb does anyway
    #[arg(long, short)]
    follow: bool,
    /// Begin after the row at this position of the stream
    #[arg(long, value_name = "POSITION")]
    after: Option<String>,
}

pub(crate) async fn run(client: &Client, args: Activity, console: &mut Console) -> Outcome {
    let stream = client.activity_stream(ActivityScope::Organization, args.after).await?;
    console.note(
        "showing activity from now on, until Ctrl-C; `freehold workspace activity ID` shows what was\n",
    );
    follow(stream, &HashSet::new(), None, console).await
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
    } else if console.format == Format::Json {
        // In a stream of lines the past comes as lines too.
        for event in &list.events {
            console.json(&serde_json::to_string(event).unwrap_or_default())?;
        }
    } else {
        for event in &list.events {
            console.data(&line(event))?;
        }
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
