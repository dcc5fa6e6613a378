//! A workspace's audit rows as a table.

use freehold_client::api::audit::AuditEvent;
use freehold_model::audit::SYSTEM_USER;

use crate::{
    output::{self, NOTE, or_dash, time},
    progress,
};

/// Rows as a table: what happened, by which rule, who caused it, and the id by which JSON tells the rest.
pub(super) fn table(events: &[AuditEvent]) -> String {
    let row = |event: &AuditEvent| {
        vec![
            time(event.timestamp),
            event.event_type.to_string(),
            or_dash(event.capability_name.as_ref()),
            by(event),
            progress::summary(event),
            event.id.to_string(),
        ]
    };
    output::table(&["time", "event", "rule", "by", "what", "id"], events.iter().map(row))
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
