//! Approvals: requests that wait for a person.

use freehold_client::{
    ActivityScope, Client,
    api::{
        approval::{
            Approval, ApprovalDecide, ApprovalDecision, ApprovalListQuery, HeldBody, HeldField, HeldRequest,
        },
        audit::AuditEvent,
    },
};
use freehold_model::{
    ApprovalId, Timestamp, WorkspaceId,
    approval::{Scope, Status},
    audit::EventType,
};
use futures::StreamExt;

use super::{Outcome, slug};
use crate::{
    failure::exit,
    input,
    output::{BAD, BOLD, Console, DIM, Format, GOOD, NOTE, or_dash, table, time},
    progress, terminal, text,
};

/// Lines of a body that are shown, and the most characters of one.
const BODY_LINES_MAX: usize = 200;
const LINE_CHARS_MAX: usize = 1_000;

/// Verbs on approvals.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Approvals {
    /// List held requests and what was decided, newest first
    #[command(after_help = "Examples:
  freehold approvals list --status pending
  freehold approvals list --watch

With --watch it shows what waits, and then what comes and what is decided, until it is interrupted.")]
    List {
        /// Only those in this status
        #[arg(long, value_parser = slug!(Status), conflicts_with = "watch")]
        status: Option<Status>,
        /// Only those of this workspace
        #[arg(long, value_name = "ID")]
        workspace: Option<WorkspaceId>,
        /// Only so many
        #[arg(long, value_name = "N", conflicts_with = "watch")]
        limit: Option<u32>,
        /// Show what waits, and go on with what comes, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Show a held request, decoded
    #[command(after_help = "Examples:\n  freehold approvals show approval_0199...")]
    Show {
        /// The approval
        approval: ApprovalId,
    },
    /// Let a held request go on, or every request of its rule for a while
    #[command(after_help = "Examples:
  freehold approvals approve approval_0199...
  freehold approvals approve approval_0199... --until 2h --comment \"the nightly release\"

With --until every request of the workspace that the same rule allows passes without asking until then; \
`freehold approvals revoke` takes that back.")]
    Approve {
        /// The approval
        approval: ApprovalId,
        /// This request alone; so it is when nothing is said
        #[arg(long, conflicts_with = "until")]
        once: bool,
        /// For the rule: so long (30m, 2h, 7d at most), or until a time such as 2030-01-01T12:00:00Z
        #[arg(long, value_name = "TIME", value_parser = until)]
        until: Option<Timestamp>,
        /// What there is to say, for the audit log
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Deny a held request
    #[command(
        after_help = "Examples:\n  freehold approvals deny approval_0199... --comment \"not on a Friday\""
    )]
    Deny {
        /// The approval
        approval: ApprovalId,
        /// What there is to say, for the audit log
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
    /// Take back an approval for a rule: its requests ask again
    #[command(after_help = "Examples:\n  freehold approvals revoke approval_0199...")]
    Revoke {
        /// The approval
        approval: ApprovalId,
    },
}

pub(crate) async fn run(client: &Client, verb: Approvals, console: &mut Console) -> Outcome {
    match verb {
        Approvals::List { workspace, watch: true, .. } => return watch(client, workspace, console).await,
        Approvals::List { status, workspace, limit, watch: false } => {
            let query = ApprovalListQuery { status, workspace_id: workspace, limit, cursor: None };
            let list = client.approval_list(&query).await?;
            console.answer(&list, |list| rows(&list.approvals))?;
        }
        Approvals::Show { approval } => {
            let approval = client.approval_view(approval).await?;
            console.answer(&approval, shown)?;
        }
        Approvals::Approve { approval, once: _, until, comment } => {
            let scope = if until.is_some() { Scope::Rule } else { Scope::Once };
            let body =
                ApprovalDecide { decision: ApprovalDecision::Approve, scope: Some(scope), until, comment };
            let approval = client.approval_decide(approval, &body).await?;
            console.answer(&approval, decided)?;
        }
        Approvals::Deny { approval, comment } => {
            let body = ApprovalDecide { decision: ApprovalDecision::Deny, scope: None, until: None, comment };
            let approval = client.approval_decide(approval, &body).await?;
            console.answer(&approval, decided)?;
        }
        Approvals::Revoke { approval } => {
            console.fields(&client.approval_revoke(approval).await?)?;
        }
    }
    Ok(exit::OK)
}

/// Shows what waits, and then what comes.
async fn watch(client: &Client, workspace: Option<WorkspaceId>, console: &mut Console) -> Outcome {
    // Opened first, so that nothing is missed between the list and the stream.
    let mut stream = client.activity_stream(ActivityScope::Organization, None).await?;
    let mut interrupted = std::pin::pin!(terminal::interrupted());
    let pending = ApprovalListQuery {
        status: Some(Status::Pending),
        workspace_id: workspace,
        ..ApprovalListQuery::default()
    };
    let mut waiting = client.approval_list(&pending).await?.into_value().approvals;
    waiting.reverse();
    for approval in &waiting {
        show(approval, console)?;
    }
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            () = &mut interrupted => return Ok(exit::INTERRUPTED),
        };
        let Some(event) = event.transpose()? else { return Ok(exit::OK) };
        let Some(row) = event.row else { continue };
        if workspace.is_some_and(|id| row.workspace_id != Some(id)) {
            continue;
        }
        match (row.event_type, approval_of(&row)) {
            (EventType::ApprovalRequested, Some(id)) if !waiting.iter().any(|one| one.id == id) => {
                show(&client.approval_view(id).await?.into_value(), console)?;
            }
            (EventType::ApprovalDecided | EventType::ApprovalRevoked, Some(_)) => match console.format {
                Format::Json => console.json(&event.text)?,
                Format::Table => console.data(&format!("{}\n", progress::approval_ended(&row)))?,
            },
            _ => {}
        }
    }
}

fn show(approval: &Approval, console: &mut Console) -> Result<(), crate::failure::Failure> {
    match console.format {
        Format::Json => console.json(&serde_json::to_string(approval).unwrap_or_default()),
        Format::Table => console.data(&shown(approval)),
    }
}

fn approval_of(row: &AuditEvent) -> Option<ApprovalId> {
    row.detail.as_ref()?.get("approval_id")?.as_str()?.parse().ok()
}

fn rows(approvals: &[Approval]) -> String {
    let row = |approval: &Approval| {
        let request = &approval.request;
        let rule = &approval.rule;
        vec![
            approval.id.to_string(),
            standing(approval),
            time(approval.created_at),
            approval.workspace_id.to_string(),
            format!("{}/{}", rule.capability, rule.name),
            format!("{} {}{}", request.method, request.destination, request.path),
            or_dash(approval.decided_by),
        ]
    };
    let headings = ["id", "status", "asked", "workspace", "rule", "request", "by"];
    table(&headings, approvals.iter().map(row))
}

/// The status, with what it means for what comes.
fn standing(approval: &Approval) -> String {
    match (approval.status, approval.until, approval.abandonment) {
        (Status::Approved, Some(until), _) => format!("approved until {}", time(until)),
        (Status::Abandoned, _, Some(why)) => format!("abandoned: {why}"),
        (status, ..) => status.to_string(),
    }
}

fn decided(approval: &Approval) -> String {
    let colour = if approval.status == Status::Approved { GOOD } else { BAD };
    let Approval { request, .. } = approval;
    let what = format!("{} {}{}", request.method, request.destination, request.path);
    format!("{colour}{}{colour:#}  {}\n", standing(approval), text::line(&what, 200))
}

/// A held request as people read it before they decide.
fn shown(approval: &Approval) -> String {
    let Approval { request, rule, .. } = approval;
    let HeldRequest { method, destination, path, query, headers, body, trailers, is_cut } = request;
    let what = text::line(&format!("{method} {destination}{path}"), LINE_CHARS_MAX);
    let mut out = format!("\n{BOLD}{what}{BOLD:#}\n");
    let mut fact = |name: &str, value: &str| {
        out.push_str(&format!("{DIM}{name:10}{DIM:#}  {}\n", text::line(value, LINE_CHARS_MAX)));
    };
    fact("id", &approval.id.to_string());
    fact("status", &standing(approval));
    fact("why", approval.reason.as_str());
    fact("rule", &format!("{}/{} ({})", rule.capability, rule.name, rule.origin));
    fact("workspace", &approval.workspace_id.to_string());
    if let Some(task) = approval.task_id {
        fact("task", &task.to_string());
    }
    fact("asked", &time(approval.created_at));
    if approval.status == Status::Pending {
        fact("until", &format!("{}, then it is denied", time(approval.expires_at)));
    }
    if let Some(by) = approval.decided_by {
        fact("by", &by.to_string());
    }
    if let Some(comment) = &approval.comment {
        fact("comment", comment);
    }
    out.push_str(&fields("query", query));
    out.push_str(&fields("headers", headers));
    out.push_str(&body.as_ref().map(shown_body).unwrap_or_default());
    out.push_str(&fields("trailers, after the body", trailers));
    if *is_cut {
        out.push_str(&format!("{NOTE}note:{NOTE:#} something was too long to be shown whole\n"));
    }
    if approval.status == Status::Pending {
        let id = approval.id;
        out.push_str(&format!("{NOTE}decide:{NOTE:#} freehold approvals approve {id} (or deny {id})\n"));
    }
    out
}

fn fields(name: &str, fields: &[HeldField]) -> String {
    let mut out = String::new();
    for field in fields {
        let name = text::line(&field.name, 200);
        match &field.value {
            Some(value) => out.push_str(&format!("  {name}: {}\n", text::line(value, LINE_CHARS_MAX))),
            None => {
                let size = field.hidden_chars.map(|count| format!(": text of {count} characters"));
                let size = size.unwrap_or_default();
                out.push_str(&format!("  {name}: {DIM}[not shown{size}]{DIM:#}\n"));
            }
        }
    }
    if out.is_empty() { out } else { format!("{DIM}{name}{DIM:#}\n{out}") }
}

fn shown_body(body: &HeldBody) -> String {
    let whole = if body.is_whole { "" } else { ", and more that was not read" };
    let mut out =
        format!("{DIM}body, {} byte{}{whole}{DIM:#}\n", body.bytes, if body.bytes == 1 { "" } else { "s" });
    let text = match (&body.json, &body.text) {
        (Some(json), _) => serde_json::to_string_pretty(json).unwrap_or_default(),
        (None, Some(text)) => text.clone(),
        (None, None) => "[no text]".to_owned(),
    };
    let text = text::harmless(&text);
    out.extend(
        // As it is indented.
        text.lines()
            .take(BODY_LINES_MAX)
            .map(|line| format!("  {}\n", text::cut(line.trim_end(), LINE_CHARS_MAX))),
    );
    let left = text.lines().count().saturating_sub(BODY_LINES_MAX);
    if left > 0 {
        out.push_str(&format!("  … {left} more lines; --output json shows them\n"));
    }
    out
}

/// A time from now, or a time.
fn until(text: &str) -> Result<Timestamp, String> {
    let from_now = || Timestamp::now().checked_add(input::span(text)?).ok();
    text.parse().ok().or_else(from_now).ok_or_else(|| {
        "say so long, such as 30m, 2h or 7d, or a time such as 2030-01-01T12:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_json_is_shown_as_it_is_indented() {
        let json = serde_json::json!({"order": {"items": [1]}});
        let shown = shown_body(&HeldBody { bytes: 1, is_whole: true, json: Some(json), text: None });
        let shown = anstream::adapter::strip_str(&shown).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[..4], ["body, 1 byte", "  {", "    \"order\": {", "      \"items\": ["]);
    }

    #[test]
    fn a_time_is_so_long_from_now_or_a_time() {
        let now = Timestamp::now();
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("7d", 604_800)] {
            let passed = until(text).unwrap().duration_since(now).as_secs();
            assert!((seconds..seconds + 60).contains(&passed), "{text}: {passed}");
        }
        assert_eq!(until("2030-01-01T12:00:00Z").unwrap().to_string(), "2030-01-01T12:00:00Z");
        for text in ["", "h", "2", "2w", "-2h", "2.5h", "ä", "99999999999d"] {
            assert!(until(text).is_err(), "{text}");
        }
    }
}
