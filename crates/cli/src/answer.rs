//! What the agent said in the end, as a whole: the activity log has it, where a session keeps its beginning only.

use freehold_client::{
    Client,
    api::{
        audit::{ActivityListQuery, AuditEvent, Order},
        session::Session,
        task::Task,
    },
};
use freehold_model::{WorkspaceId, audit::EventType};

use crate::{output::DIM, text};

/// The most answers of a workspace that are looked through for a session's.
const ANSWERS_MAX: u32 = 200;

/// The last answer in a task, when it has ended with one; without the right to read activity there is none.
pub(crate) async fn of_task(client: &Client, task: &Task) -> Option<String> {
    if !task.status.is_terminal() {
        return None;
    }
    let query = ActivityListQuery { task_id: Some(task.id), ..newest(1) };
    last_words(&answers(client, task.workspace_id, query).await.pop()?)
}

/// The answer that a session's `output_preview` is the beginning of.
pub(crate) async fn of_session(client: &Client, session: &Session) -> Option<String> {
    let beginning = session.output_preview.as_deref()?;
    let all = answers(client, session.workspace_id, newest(ANSWERS_MAX)).await;
    let texts = all.iter().filter_map(said);
    texts.map(str::trim).find(|text| text.starts_with(beginning)).map(str::to_owned)
}

fn newest(limit: u32) -> ActivityListQuery {
    let event_type = Some(EventType::IterationCompleted);
    ActivityListQuery { event_type, order: Some(Order::Desc), limit: Some(limit), ..Default::default() }
}

async fn answers(client: &Client, workspace: WorkspaceId, query: ActivityListQuery) -> Vec<AuditEvent> {
    let list = client.workspace_activity_list(workspace, &query).await;
    list.map(|list| list.into_value().events).unwrap_or_default()
}

fn said(row: &AuditEvent) -> Option<&str> {
    row.detail.as_ref()?.get("text")?.as_str().filter(|text| !text.trim().is_empty())
}

/// What a row says, unless tools were called after it.
fn last_words(row: &AuditEvent) -> Option<String> {
    let calls = row.detail.as_ref()?.get("tool_calls").and_then(|calls| calls.as_array());
    if calls.is_some_and(|calls| !calls.is_empty()) {
        return None;
    }
    said(row).map(str::to_owned)
}

/// An answer under its heading, as it stands, without what could drive the terminal.
pub(crate) fn block(answer: &str) -> String {
    let lines = text::harmless(answer);
    let lines: String = lines.trim_end().lines().map(|line| format!("  {line}\n")).collect();
    format!("{DIM}answer{DIM:#}\n{lines}")
}
