//! The words of the demo around the task itself.

use std::{path::Path, time::Duration};

use freehold_client::{Client, Key, api::session::SessionListQuery};

use super::took;
use crate::{
    failure::Failure,
    follow::Followed,
    output::{BOLD, DIM, Format, GOOD, NOTE},
    resolve::Names,
    text::{COLUMNS, cut, line, wrap},
    verbs::{session, task, workspace},
};

pub(super) fn title(is_live: bool) -> String {
    let who = if is_live { "A real model" } else { "A scripted model" };
    let text = format!(
        "{who} works as an agent in an isolated pod on this machine. Everything it sends to the network passes a proxy \
         outside the pod, which decides by policy and puts in the credentials that the pod never sees."
    );
    let lines: String = wrap(&text, COLUMNS - 2).iter().map(|text| format!("  {text}\n")).collect();
    format!("\n  {BOLD}freehold demo{BOLD:#}\n\n{DIM}{lines}{DIM:#}\n")
}

pub(super) fn ready(what: &str, text: &str, duration: Option<Duration>) -> String {
    let duration = duration.map(|duration| format!("  {DIM}{}{DIM:#}", took(duration))).unwrap_or_default();
    format!("  {GOOD}✓{GOOD:#} {what:15} {}{duration}\n", line(text, COLUMNS - 20))
}

pub(super) fn task(text: &str) -> String {
    let lines: String = wrap(text, COLUMNS - 5).iter().map(|text| format!("     {text}\n")).collect();
    format!("\n  {BOLD}Task{BOLD:#}\n{lines}\n")
}

/// What a real model that failed was asked with.
pub(super) fn live_hint(variable: &str, model: &str) -> String {
    format!(
        "{NOTE}hint:{NOTE:#} the key is that of {variable}; the model is {}, and --model names another\n",
        line(model, COLUMNS)
    )
}

/// What the public API tells after the task.
pub(super) async fn records(client: &Client, followed: Followed) -> Result<String, Failure> {
    let mut out = format!("\n  {BOLD}The same through the public API{BOLD:#}\n");
    let mut section = |request: String, table: String| {
        out.push_str(&format!("\n  {NOTE}GET /v1/{request}{NOTE:#}\n"));
        out.extend(table.lines().map(|row| format!("  {row}\n")));
    };
    let id = followed.workspace;
    let one = client.workspace_view(id).await?.into_value();
    let names = Names::of_role(client, Format::Table, one.role_id).await;
    section(format!("workspaces/{id}"), workspace::rows(&[one], &names));
    let tasks = client.task_list(id, &Default::default()).await?;
    section(format!("workspaces/{id}/tasks"), task::rows(&tasks));
    let query = SessionListQuery { workspace_id: Some(id), ..Default::default() };
    let sessions = client.session_list(&query).await?;
    section("sessions".to_owned(), session::rows(&sessions.data));
    // Answered by the agent in the pod, so it depends on the pod being there: the demo goes on without.
    let view = match client.workspace_session_view(id).await {
        Ok(view) => crate::output::fields(view.text(), &names),
        Err(error) => format!("{error}\n"),
    };
    let view = head(&view, SESSION_LINES_MAX);
    section(format!("workspaces/{id}/session   {DIM}(answered by the agent in the pod){DIM:#}"), view);
    Ok(out)
}

/// Lines shown of the agent's own view.
const SESSION_LINES_MAX: usize = 20;

/// The first lines of a text, and how many more there are.
fn head(text: &str, lines_max: usize) -> String {
    let rest = text.lines().count().saturating_sub(lines_max);
    let mut out: String = text.lines().take(lines_max).map(|row| cut(row, COLUMNS) + "\n").collect();
    if rest > 0 {
        out.push_str(&format!("{DIM}… {rest} more lines{DIM:#}\n"));
    }
    out
}

pub(super) fn by_hand(client: &Client, key: Option<&Key>, followed: Followed) -> String {
    let program = program();
    let (address, workspace) = (client.address(), followed.workspace);
    let key = key.map(Key::expose).unwrap_or_default();
    format!(
        "\n  {BOLD}Go on by hand{BOLD:#}, in another terminal:\n\n\
         \x20   export FREEHOLD_URL={address}\n\
         \x20   export FREEHOLD_API_KEY={key}\n\n\
         \x20   {program} workspace exec {workspace} -- ls -l\n\
         \x20   {program} workspace audit {workspace}\n\
         \x20   {program} task list {workspace}\n\n\
         \x20 The API's reference is at {address}/v1/docs. Ctrl-C ends the demo and removes all it made.\n"
    )
}

/// How this program is called from here.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "freehold".into());
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(&path).display().to_string()
}

pub(super) fn closing() -> String {
    format!("\n{DIM}  Stopping: the pod is deleted, server and model end.{DIM:#}\n")
}

pub(super) fn kept(path: &Path) -> String {
    format!("{DIM}  Kept: {}{DIM:#}\n", path.display())
}
