//! Audit rows as a table, and the verbs on the audit log.

pub(crate) mod log;

use freehold_client::api::audit::AuditEvent;
use freehold_model::audit::SYSTEM_USER;

use crate::{
    output::{self, NOTE, or_dash, time},
    progress,
};

/// The most characters of a cell where nothing is cut to a terminal's columns; the API's texts are shorter.
const WHOLE_CHARS_MAX: usize = 4_000;

/// Rows as a table: what happened, by which capability and rule, who caused it, and the id by which JSON tells the rest.
/// `is_whole`: nothing is cut to what a terminal shows.
pub(super) fn table(events: &[AuditEvent], is_whole: bool) -> String {
    let headings = ["time", "event", "rule", "by", "what", "id"];
    let row = |event: &AuditEvent| {
        vec![
            time(event.timestamp),
            event.event_type.to_string(),
            or_dash(rule(event)),
            by(event),
            if is_whole { progress::summary_of(event, WHOLE_CHARS_MAX) } else { progress::summary(event) },
            event.id.to_string(),
        ]
    };
    let rows = events.iter().map(row);
    if is_whole { output::table_of(&headings, rows, WHOLE_CHARS_MAX) } else { output::table(&headings, rows) }
}

/// The capability that decided, and its rule where it is known.
fn rule(event: &AuditEvent) -> Option<String> {
    let capability = event.capability_name.as_ref()?;
    let rule = event.detail.as_ref().and_then(|detail| detail.get("rule")?.as_str());
    Some(rule.map_or_else(|| capability.clone(), |rule| format!("{capability}/{rule}")))
}

/// What the operator can do about denials among these rows; nothing where each reason says it.
pub(super) fn hint(events: &[AuditEvent]) -> String {
    let found = events.iter().find_map(|event| {
        let reason = event.reason.as_deref()?;
        Some(format!("{NOTE}hint:{NOTE:#} {reason}: {}\n", progress::advice(reason)?))
    });
    found.unwrap_or_default()
}

/// The member who caused it, or the part that wrote it.
fn by(event: &AuditEvent) -> String {
    match event.user_id.as_str() {
        SYSTEM_USER => event.actor.to_string(),
        member => member.to_owned(),
    }
}
