//! The audit log: rows that never change, in one hash chain for each organization.
//!
//! Invariant: the sequence `seq` of an organization's rows is dense from 1, and each row's hash is
//! `SHA-256(previous hash || canonical JSON)`, where the canonical JSON (RFC 8785) is that of the event with `seq`
//! beside its fields, and the hash before the first row is 32 zero bytes. A row that was changed, put in, taken out or
//! moved breaks the chain from there on.

use freehold_model::{
    EventId, TaskId, Timestamp, WorkspaceId,
    audit::{AuditEvent, Category, EventType},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    Error, OrgRead, OrgTx,
    page::{Conditions, Page},
    record::{Record, record},
    signal::Topic,
    sql::{Column, Row, Value},
};

record!(AuditEvent in "audit_events" of org_id; id, user_id, timestamp, event_type, category, actor, workspace_id,
    task_id, agent_role, agent_provider, destination, method, path, decision, reason, latency_ms, transforms_applied,
    validations_applied, capability_name, phase, policy_type, detail, auth_applied, auth_failures);

/// The hash before the first row.
pub const CHAIN_START: [u8; 32] = [0; 32];

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
        self.query(sql, &[id.write()])?.pop().map(|mut row| row.get(AuditEvent::TABLE)).transpose()
    }

    /// Rows by their position, for the check of the chain.
    pub(crate) fn audit_after(&mut self, after_seq: u64, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("seq > ", after_seq.write()).page("seq", &Page::<u64>::first(limit));
        self.audit_select(&conditions)
    }

    fn audit_head(&mut self) -> Result<(u64, [u8; 32]), Error> {
        let sql = "SELECT seq, hash FROM audit_events WHERE organization_id = ?1 ORDER BY seq DESC LIMIT 1";
        self.query(sql, &[])?.pop().map_or(Ok((0, CHAIN_START)), |mut row| {
            Ok((row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?))
        })
    }

    fn audit_select(&mut self, conditions: &Conditions<'_>) -> Result<Vec<AuditRow>, Error> {
        let sql = format!(
            "SELECT seq, hash, {} FROM audit_events WHERE organization_id = ?1{}",
            AuditEvent::COLUMNS,
            conditions.sql
        );
        let organization = self.organization_id();
        let rows = self.query(&sql, &conditions.values)?;
        rows.into_iter()
            .map(|mut row| {
                let (seq, hash) = (row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?);
                Ok(AuditRow { seq, hash, event: AuditEvent::read(organization, &mut row)? })
            })
            .collect()
    }
}

impl OrgTx<'_> {
    /// Appends a row and answers its position. A row whose id is committed already is left as it is, and its position
    /// answered.
    pub fn audit_append(&mut self, event: &AuditEvent) -> Result<u64, Error> {
        let (last, previous) = match self.head() {
            Some(head) => head,
            None => self.audit_head()?,
        };
        let seq = last + 1;
        let event = as_stored(self.organization_id(), event)?;
        let hash = chain(&previous, seq, &event)?;
        if !self.insert_new_with(&event, &[("seq", seq.write()), ("hash", hash.write())])? {
            return self.audit_seq_of(event.id)?.ok_or(Error::Missing { table: AuditEvent::TABLE });
        }
        self.touch(Topic::Audit);
        self.set_head((seq, hash));
        Ok(seq)
    }
}

/// The event as it will be read back: times are cut to what a column holds, and so on. The hash is over that.
fn as_stored(organization: freehold_model::OrganizationId, event: &AuditEvent) -> Result<AuditEvent, Error> {
    let values = event.values().into_iter().map(Value::into_owned).collect();
    let mut stored = AuditEvent::read(organization, &mut Row::new(values))?;
    stored.org_id = event.org_id;
    Ok(stored)
}

/// The hash of a row.
fn chain(previous: &[u8; 32], seq: u64, event: &AuditEvent) -> Result<[u8; 32], Error> {
    #[derive(Serialize)]
    struct Sealed<'a> {
        seq: u64,
        #[serde(flatten)]
        event: &'a AuditEvent,
    }
    let json = serde_jcs::to_vec(&Sealed { seq, event }).map_err(|_| Error::Corrupt {
        table: AuditEvent::TABLE,
        column: 0,
        expected: "canonical JSON",
    })?;
    Ok(Sha256::new().chain_update(previous).chain_update(json).finalize().into())
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
