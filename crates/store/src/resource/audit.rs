//! The audit log: rows that never change, in one hash chain for each organization.
//!
//! Invariant: the sequence `seq` of an organization's rows is dense from 1, and each row's hash is
//! `SHA-256(previous hash || canonical JSON)`, where the canonical JSON (RFC 8785) is that of the event with `seq`
//! beside its fields, and the hash before the first row is 32 zero bytes. A row that was changed, put in, taken out or
//! moved breaks the chain from there on. A page of a list reads at most [`SCAN_ROWS_MAX`] rows, however long the log is.

mod chain;
mod proof;
mod review;

use freehold_model::{
    EventId, TaskId, Timestamp, WorkspaceId,
    audit::{AuditEvent, Category, Condition, EventType, Test},
};

pub(crate) use self::chain::Chain;
pub use self::{
    chain::ChainCheck,
    proof::{SignedCheckpoint, StoredKey},
    review::{REVIEW_ROWS_MAX, Review, ReviewEntry, ReviewFilter},
};
use crate::{
    Error, OrgRead, OrgTx,
    page::{Conditions, Page},
    record::{Record, record},
    scope::Head,
    signal::Topic,
    sql::{Column, Row, Value},
};

record!(AuditEvent in "audit_events" of org_id; id, user_id, timestamp, event_type, category, actor, workspace_id,
    task_id, agent_role, agent_provider, destination, method, path, decision, reason, latency_ms, transforms_applied,
    validations_applied, capability_name, phase, policy_type, detail, auth_applied, auth_failures, transforms_failed,
    budget_snapshot, budget_ceilings);

/// The hash before the first row.
pub const CHAIN_START: [u8; 32] = [0; 32];

/// The constraint that a row added twice breaks.
pub const AUDIT_ID_KEY: &str = "audit_events_organization_id_id_key";

/// The most rows that one statement inserts, in rows.
const INSERT_ROWS_MAX: usize = 32;

/// The most rows that are added with a pause for others before and after each statement, in rows. They keep a core busy for
/// longer than a request through egress may wait for it. Where more come at once, the core is at its limit, and pauses would lower that.
const YIELDING_ROWS_MAX: usize = 256;

/// The most rows that a page looks at for those that fit its filters, in rows. A page that found fewer than it may have
/// says how far it looked, and the next one goes on from there.
pub const SCAN_ROWS_MAX: u32 = 10_000;

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

impl Order {
    /// By time, and by id among rows of one time.
    const fn by(self) -> &'static str {
        match self {
            Self::Ascending => "timestamp, id",
            Self::Descending => "timestamp DESC, id DESC",
        }
    }
}

/// A query of the log.
fn select(columns: &str, conditions: &Conditions<'_>) -> String {
    format!("SELECT {columns} FROM audit_events WHERE organization_id = ?1{}", conditions.sql)
}

/// The columns of a row.
fn columns() -> String {
    format!("seq, hash, {}", AuditEvent::COLUMNS)
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
    /// Only those for which all of these hold.
    pub conditions: Vec<Condition>,
    /// Only those at this time or later.
    pub from: Option<Timestamp>,
    /// Only those before this time.
    pub to: Option<Timestamp>,
    /// Oldest or newest first, by time and then id.
    pub order: Order,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditPage {
    /// The rows.
    pub rows: Vec<AuditRow>,
    /// Where the next page begins, when this one stopped looking before it was full.
    pub scanned_to: Option<(Timestamp, EventId)>,
}

/// What of a filter an index answers in the order of the list.
struct Indexed<'f> {
    workspace: Option<Value<'f>>,
    task: Option<Value<'f>>,
    user: Option<Value<'f>>,
    /// Whether that is all there is to the filter.
    is_all: bool,
}

impl<'f> Indexed<'f> {
    fn of(filter: &'f AuditFilter) -> Self {
        use freehold_model::audit::Column as C;
        let one = |column| {
            filter.conditions.iter().find_map(|condition| match &condition.test {
                Test::In(values) if condition.column == column && values.len() == 1 => {
                    values.first().map(|value| crate::column::text(value))
                }
                Test::In(_) | Test::NotIn(_) | Test::Present => None,
            })
        };
        let workspace = filter.workspace.as_ref().map(Column::write).or_else(|| one(C::WorkspaceId));
        let task = filter.task.as_ref().map(Column::write).or_else(|| one(C::TaskId));
        let has_place = workspace.is_some() || task.is_some();
        let user = filter.user_id.as_ref().map(Column::write).or_else(|| one(C::UserId));
        let is_all = filter.conditions.is_empty()
            && filter.event_types.is_empty()
            && (user.is_none() || !has_place)
            && (filter.category.is_none()
                || (filter.category == Some(Category::Activity) && workspace.is_some()));
        Self { workspace, task, user: user.filter(|_| !has_place), is_all }
    }

    /// What finds the last row that a page may look at.
    fn edge(&self, filter: &'f AuditFilter, page: &'f Page<(Timestamp, EventId)>) -> Conditions<'f> {
        let mut conditions = self.conditions(filter, page);
        conditions.page(filter.order.by(), &Page::<u64>::first(1)).offset(SCAN_ROWS_MAX - 1);
        conditions
    }

    /// What finds the rows of a page, which looks no further than `scanned_to`.
    fn page(
        &self,
        filter: &'f AuditFilter,
        page: &'f Page<(Timestamp, EventId)>,
        scanned_to: Option<&'f (Timestamp, EventId)>,
    ) -> Conditions<'f> {
        let mut conditions = self.conditions(filter, page);
        if let Some((timestamp, id)) = scanned_to {
            let within = match filter.order {
                Order::Ascending => "(timestamp, id) <= (",
                Order::Descending => "(timestamp, id) >= (",
            };
            conditions.with(within, timestamp.write()).also(id.write()).close();
        }
        self.rest(filter, &mut conditions);
        conditions.page(filter.order.by(), page);
        conditions
    }

    /// The conditions that an index answers.
    fn conditions(&self, filter: &'f AuditFilter, page: &'f Page<(Timestamp, EventId)>) -> Conditions<'f> {
        let mut conditions = Conditions::scoped();
        // A task has few rows and its workspace may have many: the index of the task is to be used, and only that.
        let workspace = if self.task.is_some() { "COALESCE(workspace_id, '') = " } else { "workspace_id = " };
        for (column, value) in
            [("task_id = ", &self.task), (workspace, &self.workspace), ("user_id = ", &self.user)]
        {
            if let Some(value) = value {
                conditions.with(column, value.clone());
            }
        }
        if let Some(Category::Activity) = filter.category.filter(|_| self.workspace.is_some()) {
            // Spelled out, so that the indices of one category serve it.
            conditions.that("category = 'activity'");
        }
        conditions.maybe("timestamp >= ", filter.from.as_ref());
        conditions.maybe("timestamp < ", filter.to.as_ref());
        if let Some((timestamp, id)) = &page.after {
            let beyond = match filter.order {
                Order::Ascending => "(timestamp, id) > (",
                Order::Descending => "(timestamp, id) < (",
            };
            conditions.with(beyond, timestamp.write()).also(id.write()).close();
        }
        conditions
    }

    /// The conditions that are checked row by row.
    fn rest(&self, filter: &'f AuditFilter, conditions: &mut Conditions<'f>) {
        conditions.maybe("category = ", filter.category.as_ref());
        conditions.any_of("event_type", &filter.event_types);
        if self.user.is_none() {
            // Not by the index of users, who may have any number of rows elsewhere.
            conditions.maybe("COALESCE(user_id, '') = ", filter.user_id.as_ref());
        }
        for condition in &filter.conditions {
            // A row without a value counts as having the empty one.
            let column = format!("COALESCE({}, '')", condition.column);
            match &condition.test {
                Test::In(values) => conditions.any_of(&column, values),
                Test::NotIn(values) => conditions.any_of(&format!("{column} NOT"), values),
                Test::Present => conditions.that(&format!("{column} <> ''")),
            };
        }
    }
}

impl OrgRead<'_> {
    /// Rows of the audit log in the order of time and id; the cursor is those of the last row of the page before.
    pub fn audit_list(
        &mut self,
        filter: &AuditFilter,
        page: &Page<(Timestamp, EventId)>,
    ) -> Result<AuditPage, Error> {
        let indexed = Indexed::of(filter);
        let mut scanned_to = None;
        if !indexed.is_all {
            let edge = indexed.edge(filter, page);
            let place = |row: &mut Row<'_>| Ok((row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?));
            scanned_to = self.query(&select("timestamp, id", &edge), &edge.values, place)?.pop();
        }
        let conditions = indexed.page(filter, page, scanned_to.as_ref());
        let rows = self.audit_select(&conditions)?;
        Ok(AuditPage { scanned_to: scanned_to.filter(|_| rows.len() < page.limit as usize), rows })
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

    /// The hash of the chain up to and with the row at this position; before the first row it is [`CHAIN_START`].
    pub fn audit_hash_at(&mut self, seq: u64) -> Result<Option<[u8; 32]>, Error> {
        if seq == 0 {
            return Ok(Some(CHAIN_START));
        }
        let sql = "SELECT hash FROM audit_events WHERE organization_id = ?1 AND seq = ?2";
        Ok(self.query(sql, &[seq.write()], |row| row.get(AuditEvent::TABLE))?.pop())
    }

    /// The position of the row with this id, for streams that are told an event's id.
    pub fn audit_seq_of(&mut self, id: EventId) -> Result<Option<u64>, Error> {
        let sql = "SELECT seq FROM audit_events WHERE organization_id = ?1 AND id = ?2";
        Ok(self.query(sql, &[id.write()], |row| row.get(AuditEvent::TABLE))?.pop())
    }

    /// Rows by their position, for exports and for the check of the chain.
    pub fn audit_after(&mut self, after_seq: u64, limit: u32) -> Result<Vec<AuditRow>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("seq > ", after_seq.write()).page("seq", &Page::<u64>::first(limit));
        self.audit_select(&conditions)
    }

    /// The position and the hash of the last row.
    pub(crate) fn audit_head(&mut self) -> Result<Head, Error> {
        let sql = "SELECT seq, hash FROM audit_events WHERE organization_id = ?1 ORDER BY seq DESC LIMIT 1";
        let head =
            self.query(sql, &[], |row| Ok((row.get(AuditEvent::TABLE)?, row.get(AuditEvent::TABLE)?)))?;
        Ok(head.into_iter().next().unwrap_or((0, CHAIN_START)))
    }

    fn audit_select(&mut self, conditions: &Conditions<'_>) -> Result<Vec<AuditRow>, Error> {
        let sql = select(&columns(), conditions);
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
        self.audit_add_all(std::slice::from_ref(event))
    }

    /// Appends rows that are new, in this order, and answers the position of the last; as [`Self::audit_add`].
    pub fn audit_add_all(&mut self, events: &[AuditEvent]) -> Result<u64, Error> {
        let mut head = self.chain_end()?;
        let mut rest = events;
        let pause = || {
            if events.len() <= YIELDING_ROWS_MAX {
                std::thread::yield_now();
            }
        };
        while !rest.is_empty() {
            // Few different numbers of rows, so that few statements are prepared.
            let rows = if rest.len() < INSERT_ROWS_MAX { 1 << rest.len().ilog2() } else { INSERT_ROWS_MAX };
            let (part, after) = rest.split_at(rows);
            let mut sealed = Vec::with_capacity(rows);
            for event in part {
                let event = chain::as_stored(self.organization_id(), event)?;
                head = (head.0 + 1, chain::chain(&head.1, head.0 + 1, &event)?);
                sealed.push((event, head));
            }
            let more: Vec<_> = sealed.iter().map(|(_, (seq, hash))| [seq.write(), hash.write()]).collect();
            let rows: Vec<_> =
                sealed.iter().zip(&more).map(|((event, _), more)| (event.as_ref(), &more[..])).collect();
            pause();
            self.insert_all(&["seq", "hash"], &rows)?;
            rest = after;
            pause();
        }
        self.touch(Topic::Audit);
        self.set_head(head);
        Ok(head.0)
    }

    /// Where the chain ends, by what this transaction wrote or else by the rows.
    fn chain_end(&mut self) -> Result<Head, Error> {
        self.head()?.map_or_else(|| self.audit_head(), Ok)
    }
}

#[cfg(test)]
impl OrgRead<'_> {
    /// How the database would run a query, as text.
    fn explain(&mut self, sql: &str, values: &[Value<'_>]) -> Result<String, Error> {
        let table = AuditEvent::TABLE;
        let lines = match self.dialect() {
            crate::sql::Dialect::Sqlite => self.query(&format!("EXPLAIN QUERY PLAN {sql}"), values, |row| {
                let _ids: [i64; 3] = [row.get(table)?, row.get(table)?, row.get(table)?];
                row.get::<String>(table)
            }),
            crate::sql::Dialect::Postgres => {
                self.query(&format!("EXPLAIN {sql}"), values, |row| row.get::<String>(table))
            }
        };
        Ok(lines?.join("\n") + " ")
    }
}

#[cfg(test)]
mod tests;
