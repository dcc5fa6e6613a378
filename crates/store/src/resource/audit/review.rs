//! The review of access: what a role's agents have asked for, and what was decided.

use std::collections::{HashMap, hash_map::Entry};

use freehold_model::{
    Timestamp,
    audit::{AuditEvent, Decision},
};

use crate::{Error, OrgRead, page::Conditions, record::Record};

/// The most decisions that a review looks at, the newest first, in rows.
pub const REVIEW_ROWS_MAX: u32 = 50_000;

/// The reason of a row that follows an allowed request's own, and says more of it: no decision of its own.
const FOLLOW_UP: &str = "secret_masked";

/// Which decisions a review counts.
#[derive(Debug, Clone, Default)]
pub struct ReviewFilter {
    /// Only those decided so.
    pub decision: Option<Decision>,
    /// Only `http` or only `dns`.
    pub policy_type: Option<String>,
    /// Only those at this time or later.
    pub from: Option<Timestamp>,
    /// Only those before this time.
    pub to: Option<Timestamp>,
}

/// Decisions that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewEntry {
    /// Host, with a port where it is not the scheme's.
    pub destination: String,
    /// HTTP method, or DNS question type.
    pub method: String,
    /// Path without query; empty for names.
    pub path: String,
    /// Whether it went out.
    pub decision: Decision,
    /// Why, the last time.
    pub reason: Option<String>,
    /// The capability that decided the last time.
    pub capability_name: Option<String>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_seen: Timestamp,
}

/// What a review found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Review {
    /// The entries, the one seen last first.
    pub entries: Vec<ReviewEntry>,
    /// When there were more than [`REVIEW_ROWS_MAX`] decisions: none before this time was counted.
    pub complete_from: Option<Timestamp>,
}

impl OrgRead<'_> {
    /// The decisions about workspaces of the role with this name, like ones counted together.
    pub fn audit_review(&mut self, role: &str, filter: &ReviewFilter) -> Result<Review, Error> {
        let mut conditions = Conditions::scoped();
        // Spelled out, so that the index of decisions serves it.
        conditions.that("event_type = 'policy_decision'").with("agent_role = ", crate::column::text(role));
        conditions.maybe("timestamp >= ", filter.from.as_ref());
        conditions.maybe("timestamp < ", filter.to.as_ref());

        let sql = format!(
            "SELECT timestamp, COALESCE(destination, ''), COALESCE(method, ''), COALESCE(path, ''), decision, \
             policy_type, reason, capability_name FROM audit_events WHERE organization_id = ?1{} \
             ORDER BY timestamp DESC LIMIT {REVIEW_ROWS_MAX}",
            conditions.sql
        );
        let mut found: HashMap<(String, String, String, Decision), ReviewEntry> = HashMap::new();
        let (mut rows, mut oldest) = (0, None);
        self.query(&sql, &conditions.values, |row| {
            let table = AuditEvent::TABLE;
            let last_seen: Timestamp = row.get(table)?;
            (rows, oldest) = (rows + 1, Some(last_seen));
            let (destination, method, path): (String, String, String) =
                (row.get(table)?, row.get(table)?, row.get(table)?);
            let decision: Option<Decision> = row.get(table)?;
            let policy_type: Option<String> = row.get(table)?;
            let (reason, capability_name): (Option<String>, _) = (row.get(table)?, row.get(table)?);
            if reason.as_deref() == Some(FOLLOW_UP) {
                return Ok(());
            }
            let Some(decision) = decision.filter(|it| filter.decision.is_none_or(|wanted| *it == wanted))
            else {
                return Ok(());
            };
            if filter.policy_type.is_some() && policy_type != filter.policy_type {
                return Ok(());
            }
            match found.entry((destination, method, path, decision)) {
                // Rows come newest first.
                Entry::Occupied(mut entry) => entry.get_mut().count += 1,
                Entry::Vacant(entry) => {
                    let (destination, method, path, decision) = entry.key().clone();
                    entry.insert(ReviewEntry {
                        destination,
                        method,
                        path,
                        decision,
                        reason,
                        capability_name,
                        count: 1,
                        last_seen,
                    });
                }
            }
            Ok(())
        })?;
        let mut entries: Vec<ReviewEntry> = found.into_values().collect();
        entries.sort_unstable_by(|a, b| {
            let (newer, older) = (b.last_seen, a.last_seen);
            (newer, &a.destination, &a.path, &a.method).cmp(&(older, &b.destination, &b.path, &b.method))
        });
        Ok(Review { entries, complete_from: oldest.filter(|_| rows >= REVIEW_ROWS_MAX) })
    }
}
