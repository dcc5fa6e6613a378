//! The audit log: rows that never change, in one hash chain for each organization.
//!
//! Invariant: the sequence `seq` of an organization's rows is dense from 1, and each row's hash is
//! `SHA-256(previous hash || canonical JSON)`, where the canonical JSON (RFC 8785) is that of the event with `seq`
//! beside its fields, and the hash before the first row is 32 zero bytes. A row that was changed, put in, taken out or
//! moved breaks the chain from there on.

use std::borrow::Cow;

use freehold_model::{
    EventId, OrganizationId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Decision, EventType},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    Error, OrgRead, OrgTx,
    page::{Conditions, Page},
    record::{Record, record},
    signal::Topic,
    sql::{Column, Row},
};

record!(AuditEvent in "audit_events" of org_id; id, user_id, timestamp, event_type, category, actor, workspace_id,
    task_id, agent_role, agent_provider, destination, method, path, decision, reason, latency_ms, transforms_applied,
    validations_applied, capability_name, phase, policy_type, detail, auth_applied, auth_failures);

/// The hash before the first row.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// The constraint that a row added twice breaks.
pub const AUDIT_ID_KEY: &str = "audit_events_organization_id_id_key";

/// Whole numbers up to this are the same in JSON's canonical form as they are written everywhere.
const EXACT_MAX: u64 = 1 << 53;

/// A committed row of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Its position in its organization's log, from 1; also the position in event streams.
    pub seq: u64,
    /// The event.
    pub event: AuditEvent,
    /// The hash of the chain up to and with this row.
    pub hash: [u8; 32],
}

/// In which order a list is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    #[default]
    Descending,
}

/// Which rows of the audit log a list shows.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those of this task.
    pub task: Option<TaskId>,
    /// Only those of this category.
    pub category: Option<Category>,
    /// Only those of these types; empty means any.
    pub event_types: Vec<EventType>,
    /// Only those that this user caused.
    pub user_id: Option<String>,
    /// Only those at this time or later.
    pub from: Option<Timestamp>,
    /// Only those before this time.
    pub to: Option<Timestamp>,
    /// Oldest or newest first, by time and then id.
    pub order: Order,
}

impl OrgRead<'_> {
    /// Rows of the audit log in the order of time and id; the cursor is those of the last row of the page before.
    pub fn audit_list(
        &mut self,
        filter: &AuditFilter,
        page: &Page<(Timestamp, EventId)>,
    ) -> Result<Vec<AuditRow>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("task_id = ", filter.task.as_ref());
        // A task has few rows and its workspace may have many: the index of the task is to be used, and only that.
        let workspace =
            if filter.task.is_some() { "COALESCE(workspace_id, '') = " } else { "workspace_id = " };
        conditions.maybe(workspace, filter.workspace.as_ref());
        if let Some(category) = filter.category {
            // Spelled out, so that the indices of one category serve it.
            conditions.that(&format!("category = '{category}'"));
        }
        conditions.any_of("event_type", &filter.event_types);
        conditions.maybe("user_id = ", filter.user_id.as_ref());
        conditions.maybe("timestamp >= ", filter.from.as_ref());
        conditions.maybe("timestamp < ", filter.to.as_ref());
        let (beyond, order) = match filter.order {
            Order::Ascending => ("(timestamp, id) > (", "timestamp, id"),
            Order::Descending => ("(timestamp, id) < (", "timestamp DESC, id DESC"),
        };
        if let Some((timestamp, id)) = &page.after {
            conditions.with(beyond, timestamp.write()).also(id.write()).close();
        }
        conditions.page(order, page);
        self.audit_select(&conditions)
    }

    /// Rows of category `activity` with a position greater than `after_seq`, in the order of their commit, for streams:
    /// of one workspace or of all. Nothing that is committed later has a smaller position.
    pub fn activity_after(
        &mut self,
        after_seq: u64,
        workspace: Option<WorkspaceId>,
        limit: u32,
    ) -> Result<Vec<AuditRow>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.that("category = 'activity'").with("seq > ", after_seq.write());
        conditions.maybe("workspace_id = ", workspace.as_ref());
        conditions.page("seq", &Page::<u64>::first(limit));
        self.audit_select(&conditions)
    }

    /// The position of the last row; 0 when there is none.
    pub fn audit_last_seq(&mut self) -> Result<u64, Error> {
        Ok(self.audit_head()?.0)
    }

    /// The position of the row with this id, for streams that are told an event's id.
    pub fn audit_seq_of(&mut self, id: EventId) -> Result<Option<u64>, Error> {
        let sql = "SELECT seq FROM audit_events WHERE organization_id = ?1 AND id = ?2";
        Ok(self.query(sql, &[id.write()], |row| row.get(AuditEvent::TABLE))?.pop())
    }

    /// Rows by their position, for the check of the chain.
    pub(crate) fn audit_after(&mut self, after_seq: u64, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("seq > ", after_seq.write()).page("seq", &Page::<u64>::first(limit));
        self.audit_select(&conditions)
    }

    fn audit_head(&mut self) -> Result<(u64, [u8; 32]), Error> {
        let sql = "SELECT seq, hash FROM audit_events WHERE organization_id = ?1 ORDER BY seq DESC LIMIT 1";
        let head =
            self.query(sql, &[], |row| Ok((row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?)))?;
        Ok(head.into_iter().next().unwrap_or((0, CHAIN_START)))
    }

    fn audit_select(&mut self, conditions: &Conditions<'_>) -> Result<Vec<AuditRow>, Error> {
        let sql = format!(
            "SELECT seq, hash, {} FROM audit_events WHERE organization_id = ?1{}",
            AuditEvent::COLUMNS,
            conditions.sql
        );
        let organization = self.organization_id();
        self.query(&sql, &conditions.values, |row| {
            let (seq, hash) = (row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?);
            Ok(AuditRow { seq, hash, event: AuditEvent::read(organization, row)? })
        })
    }
}

impl OrgTx<'_> {
    /// Appends a row and answers its position. A row whose id is committed already is left as it is, and its position
    /// answered.
    pub fn audit_append(&mut self, event: &AuditEvent) -> Result<u64, Error> {
        match self.audit_seq_of(event.id)? {
            Some(seq) => Ok(seq),
            None => self.audit_add(event),
        }
    }

    /// Appends a row that is new, and answers its position. One whose id is committed already breaks [`AUDIT_ID_KEY`].
    pub fn audit_add(&mut self, event: &AuditEvent) -> Result<u64, Error> {
        let (last, previous) = match self.head()? {
            Some(head) => head,
            None => self.audit_head()?,
        };
        let seq = last + 1;
        let event = as_stored(self.organization_id(), event)?;
        let hash = chain(&previous, seq, &event)?;
        self.insert_with(event.as_ref(), &[("seq", seq.write()), ("hash", hash.write())])?;
        self.touch(Topic::Audit);
        self.set_head((seq, hash));
        Ok(seq)
    }
}

/// The event as it will be read back: times are cut to what a column holds, and so on. The hash is over that.
fn as_stored(organization: OrganizationId, event: &AuditEvent) -> Result<Cow<'_, AuditEvent>, Error> {
    let texts = [
        Some(&event.user_id),
        event.agent_role.as_ref(),
        event.agent_provider.as_ref(),
        event.destination.as_ref(),
        event.method.as_ref(),
        event.path.as_ref(),
        event.reason.as_ref(),
        event.capability_name.as_ref(),
        event.phase.as_ref(),
        event.policy_type.as_ref(),
    ];
    // The time, which hardly ever is, is cut where it is written and where it is hashed.
    let is_exact = event.latency_ms.is_none_or(|latency| latency <= EXACT_MAX)
        && texts.into_iter().flatten().all(|text| !text.contains('\0'));
    if is_exact {
        return Ok(Cow::Borrowed(event));
    }
    let values = event.values();
    let mut stored = AuditEvent::read(organization, &mut Row::new(&values))?;
    stored.org_id = event.org_id;
    Ok(Cow::Owned(stored))
}

/// The hash of a row.
fn chain(previous: &[u8; 32], seq: u64, event: &AuditEvent) -> Result<[u8; 32], Error> {
    let json = canonical(seq, event).map_err(|_| Error::Corrupt {
        table: AuditEvent::TABLE,
        column: 0,
        expected: "canonical JSON",
    })?;
    Ok(Sha256::new().chain_update(previous).chain_update(json).finalize().into())
}

/// The canonical JSON of a row. The library that makes it of anything sorts the fields of each row anew, which costs more
/// than all else about a row; so where nothing but their order is to be done, they are written in it.
fn canonical(seq: u64, event: &AuditEvent) -> serde_json::Result<Vec<u8>> {
    if seq.max(event.latency_ms.unwrap_or(0)) > EXACT_MAX {
        return canonical_of_anything(seq, event);
    }
    let raw = RawValue::from_string;
    serde_json::to_vec(&Sorted {
        actor: event.actor,
        agent_provider: event.agent_provider.as_deref(),
        agent_role: event.agent_role.as_deref(),
        auth_applied: &event.auth_applied,
        auth_failures: match event.auth_failures.is_empty() {
            true => None,
            false => Some(raw(serde_jcs::to_string(&event.auth_failures)?)?),
        },
        capability_name: event.capability_name.as_deref(),
        category: event.category,
        decision: event.decision,
        destination: event.destination.as_deref(),
        detail: event.detail.as_ref().map(|detail| raw(serde_jcs::to_string(detail)?)).transpose()?,
        event_type: event.event_type,
        id: event.id,
        latency_ms: event.latency_ms,
        method: event.method.as_deref(),
        org_id: event.org_id,
        path: event.path.as_deref(),
        phase: event.phase.as_deref(),
        policy_type: event.policy_type.as_deref(),
        reason: event.reason.as_deref(),
        seq,
        task_id: event.task_id,
        timestamp: Timestamp::from_microsecond(event.timestamp.as_microsecond()).unwrap_or(event.timestamp),
        transforms_applied: event.transforms_applied,
        user_id: &event.user_id,
        validations_applied: event.validations_applied,
        workspace_id: event.workspace_id,
    })
}

/// The canonical JSON by its definition.
fn canonical_of_anything(seq: u64, event: &AuditEvent) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Sealed<'a> {
        seq: u64,
        #[serde(flatten)]
        event: &'a AuditEvent,
    }
    serde_jcs::to_vec(&Sealed { seq, event })
}

/// The fields of a row in the order of the canonical form.
#[derive(Serialize)]
struct Sorted<'a> {
    actor: Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_role: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    auth_applied: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_failures: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability_name: Option<&'a str>,
    category: Category,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<Decision>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Box<RawValue>>,
    event_type: EventType,
    id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    org_id: OrganizationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    transforms_applied: Option<u32>,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    validations_applied: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<WorkspaceId>,
}

/// The check of a chain, row by row.
pub(crate) struct Chain {
    seq: u64,
    hash: [u8; 32],
}

impl Default for Chain {
    fn default() -> Self {
        Self { seq: 0, hash: CHAIN_START }
    }
}

impl Chain {
    /// The position of the last row that was found good.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes the next row; answers `Broken` when it does not follow.
    pub(crate) fn follow(&mut self, row: &AuditRow) -> Result<Option<ChainCheck>, Error> {
        let seq = self.seq + 1;
        if row.seq != seq || row.hash != chain(&self.hash, seq, &row.event)? {
            return Ok(Some(ChainCheck::Broken { seq }));
        }
        (self.seq, self.hash) = (seq, row.hash);
        Ok(None)
    }

    pub(crate) const fn intact(&self) -> ChainCheck {
        ChainCheck::Intact { seq: self.seq, hash: self.hash }
    }
}

/// What a check of an organization's chain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainCheck {
    /// Every row is as it was committed.
    Intact {
        /// The position of the last row; 0 when there is none.
        seq: u64,
        /// Its hash, which an auditor may keep to compare later.
        hash: [u8; 32],
    },
    /// The first row that does not follow from those before it.
    Broken {
        /// The position where the row was expected.
        seq: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn some_text() -> impl Strategy<Value = Option<String>> {
        proptest::option::of(any::<String>())
    }

    prop_compose! {
        fn some_event()(
            texts in proptest::collection::vec(some_text(), 9),
            user_id in any::<String>(),
            id in any::<u128>(),
            micros in 0..4_000_000_000_000_000_i64,
            numbers in any::<(Option<u64>, Option<u32>, bool)>(),
            applied in proptest::collection::vec(any::<String>(), 0..3),
            failures in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..3),
            detail in proptest::option::of(any::<(String, f64, i64)>()),
        ) -> AuditEvent {
            let uuid = Uuid::from_u128(id);
            let time = Timestamp::from_microsecond(micros).unwrap();
            let (organization, actor) = (OrganizationId::from_uuid(uuid), Actor::PolicyEngine);
            let (kind, category) = (EventType::PolicyDecision, Category::Audit);
            let mut event =
                AuditEvent::new(EventId::from_uuid(uuid), organization, user_id, time, kind, category, actor);
            let mut texts = texts.into_iter();
            for field in [
                &mut event.agent_role, &mut event.agent_provider, &mut event.destination, &mut event.method,
                &mut event.path, &mut event.reason, &mut event.capability_name, &mut event.phase,
                &mut event.policy_type,
            ] {
                *field = texts.next().flatten();
            }
            (event.latency_ms, event.transforms_applied) = (numbers.0, numbers.1);
            event.validations_applied = numbers.1;
            event.decision = numbers.2.then_some(Decision::Deny);
            event.workspace_id = numbers.2.then(|| WorkspaceId::from_uuid(uuid));
            event.task_id = numbers.2.then(|| TaskId::from_uuid(uuid));
            event.auth_applied = applied;
            event.auth_failures = failures;
            event.detail = detail.map(|(text, float, number)| json!({ text.clone(): number, "z": [float], "a": text }));
            event
        }
    }

    proptest! {
        #[test]
        fn sorted_fields_are_the_canonical_form(event in some_event(), seq in any::<u32>()) {
            let (seq, sorted) = (u64::from(seq), canonical(u64::from(seq), &event).unwrap());
            let defined = canonical_of_anything(seq, &event).unwrap();
            prop_assert_eq!(String::from_utf8(sorted).unwrap(), String::from_utf8(defined).unwrap());
        }
    }
}
