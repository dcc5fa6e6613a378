//! What a job sees: one organization's rows, or, for the few things that cross organizations, all of them.
//!
//! Invariant: an [`OrgRead`] or [`OrgTx`] cannot name another organization's rows. Every statement on a resource goes
//! through the helpers here, which put the organization into its first condition.

use std::{
    collections::HashMap,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use freehold_model::{OrganizationId, WorkspaceId};

use crate::{
    Error,
    record::Record,
    signal::{Topic, Topics},
    sql::{Column, Connection, Dialect, Row, Value},
    work::Work,
};

/// A connection, and what the present job did with it.
pub(crate) struct Session {
    pub(crate) connection: Box<dyn Connection>,
    /// What subscribers are told once the job is committed.
    touched: Topics,
    /// What whoever works on workspaces is told once the job is committed.
    work: Work,
    /// Whether a statement failed, after which the job may not be committed: PostgreSQL would refuse, SQLite would not.
    failed: bool,
    /// The ends of the chains of the audit log that this transaction has written to. Whoever writes holds the lock of the
    /// organization, so that nobody else moves them meanwhile.
    heads: HashMap<OrganizationId, Head>,
    /// The job before in the same transaction.
    before: Before,
    /// Statements that insert, by table, the number of columns that the record does not carry, and that of records.
    inserts: HashMap<(&'static str, usize, usize), Arc<str>>,
}

/// What is known of the job before in the same transaction.
enum Before {
    /// It stands or was taken back, or there is none.
    Certain,
    /// Statements of it were sent and may yet fail. Their answers come with the present job's first question.
    Open,
    /// A statement of it has failed since it ended, and what it did was taken back.
    Failed(Error),
}

/// The position and the hash of the last row of a chain.
pub(crate) type Head = (u64, [u8; 32]);

impl Session {
    pub(crate) fn new(connection: Box<dyn Connection>) -> Self {
        Self {
            connection,
            touched: Topics::default(),
            work: Work::default(),
            failed: false,
            heads: HashMap::new(),
            before: Before::Certain,
            inserts: HashMap::new(),
        }
    }

    /// Forgets what the job before did.
    pub(crate) fn start_job(&mut self) {
        self.touched = Topics::default();
        self.work = Work::default();
        self.failed = false;
    }

    /// Forgets what the transaction before did.
    pub(crate) fn start_transaction(&mut self) {
        self.heads.clear();
        self.before = Before::Certain;
    }

    /// Ends the present job, which stands unless a statement of it fails yet.
    pub(crate) fn end_job(&mut self) {
        if self.connection.has_sent() {
            self.before = Before::Open;
        }
    }

    /// Takes back what was done since the savepoint of the present job.
    pub(crate) fn take_back(&mut self) -> Result<(), Error> {
        // Whoever reads where a chain ends reads it anew.
        self.heads.clear();
        // What was sent and failed is taken back with the rest.
        drop(self.connection.settle());
        self.connection.execute("ROLLBACK TO SAVEPOINT job", &[]).map(drop)
    }

    /// Waits until it is certain whether the job before stands.
    pub(crate) fn settle_before(&mut self) -> Result<(), Error> {
        if !matches!(self.before, Before::Open) {
            return Ok(());
        }
        self.before = Before::Certain;
        let outcome = self.connection.settle();
        outcome.or_else(|error| self.take_back_before(error))
    }

    /// Takes back the job before, of which a statement failed. The database has refused the savepoint that was to come
    /// behind it, so that the one of that job is the last, and becomes the present job's.
    fn take_back_before(&mut self, error: Error) -> Result<(), Error> {
        self.take_back()?;
        self.before = Before::Failed(error);
        Ok(())
    }

    /// Why the job before was taken back after it had ended, if it was.
    pub(crate) fn failure_before(&mut self) -> Option<Error> {
        match std::mem::replace(&mut self.before, Before::Certain) {
            Before::Failed(error) => Some(error),
            before @ (Before::Certain | Before::Open) => {
                self.before = before;
                None
            }
        }
    }

    pub(crate) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) const fn touched(&self) -> Topics {
        self.touched
    }

    pub(crate) fn take_work(&mut self) -> Work {
        std::mem::take(&mut self.work)
    }

    pub(crate) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        let executed = self.settle_before().and_then(|()| self.connection.execute(sql, values));
        executed.inspect_err(|_| self.failed = true)
    }

    /// Runs a statement that must change a row of `table`; that it did not may be answered by a later call, or once the
    /// job has ended.
    pub(crate) fn send(&mut self, sql: &str, values: &[Value<'_>], table: &'static str) -> Result<(), Error> {
        let sent = self.settle_before().and_then(|()| self.connection.send(sql, values, table));
        sent.inspect_err(|_| self.failed = true)
    }

    /// Runs a query and reads each of its rows. The first of a job takes the answers along that the job before did not
    /// wait for.
    pub(crate) fn query<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        mut read: impl FnMut(&mut Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let mut answer = Vec::new();
        let mut each = |row: &mut Row<'_>| read(row).map(|read| answer.push(read));
        let is_first = matches!(self.before, Before::Open);
        if is_first {
            self.before = Before::Certain;
        }
        let mut outcome = self.connection.query(sql, values, &mut each);
        if let Err(error) = &outcome
            && is_first
            && self.connection.was_refused()
        {
            let error = error.clone();
            outcome =
                self.take_back_before(error).and_then(|()| self.connection.query(sql, values, &mut each));
        }
        outcome.inspect_err(|_| self.failed = true)?;
        Ok(answer)
    }

    /// The records of any organization for which `rest` holds.
    fn select<R: Record>(&mut self, rest: &str, values: &[Value<'_>]) -> Result<Vec<R>, Error> {
        let sql = format!("SELECT organization_id, {} FROM {} {rest}", R::COLUMNS, R::TABLE);
        self.query(&sql, values, |row| R::read(row.get(R::TABLE)?, row))
    }
}

/// One organization's rows, all as of the same moment.
pub struct OrgRead<'a> {
    session: &'a mut Session,
    organization: OrganizationId,
}

impl<'a> OrgRead<'a> {
    pub(crate) const fn new(session: &'a mut Session, organization: OrganizationId) -> Self {
        Self { session, organization }
    }

    /// The organization whose rows these are.
    pub const fn organization_id(&self) -> OrganizationId {
        self.organization
    }

    /// Which database it is.
    #[cfg(test)]
    pub(crate) fn dialect(&self) -> Dialect {
        self.session.connection.dialect()
    }

    /// Runs a query whose `?1` is the organization, and reads each of its rows.
    pub(crate) fn query<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&mut Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.session.query(sql, &scoped(&self.organization, values), read)
    }

    /// The organization's records for which `rest` holds, which begins with ` AND`; its values begin at `?2`.
    pub(crate) fn select<R: Record>(&mut self, rest: &str, values: &[Value<'_>]) -> Result<Vec<R>, Error> {
        let sql = format!("SELECT {} FROM {} WHERE organization_id = ?1{rest}", R::COLUMNS, R::TABLE);
        let organization = self.organization;
        self.query(&sql, values, |row| R::read(organization, row))
    }

    /// The organization's only record for which `rest` holds.
    pub(crate) fn find<R: Record>(&mut self, rest: &str, values: &[Value<'_>]) -> Result<Option<R>, Error> {
        Ok(self.select(rest, values)?.pop())
    }
}

/// One organization's rows, to read and to write. What it writes is committed as a whole once the job answers `Ok`.
pub struct OrgTx<'a>(OrgRead<'a>);

impl<'a> Deref for OrgTx<'a> {
    type Target = OrgRead<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for OrgTx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a> OrgTx<'a> {
    pub(crate) const fn new(session: &'a mut Session, organization: OrganizationId) -> Self {
        Self(OrgRead::new(session, organization))
    }

    /// Runs a statement whose `?1` is the organization.
    pub(crate) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        let values = scoped(&self.0.organization, values);
        self.0.session.execute(sql, &values)
    }

    /// Runs a statement whose `?1` is the organization and which must change a row of `table`, as [`Session::send`] does.
    pub(crate) fn send(&mut self, sql: &str, values: &[Value<'_>], table: &'static str) -> Result<(), Error> {
        let values = scoped(&self.0.organization, values);
        self.0.session.send(sql, &values, table)
    }

    /// Wakes the subscribers of `topic` once this is committed.
    pub(crate) fn touch(&mut self, topic: Topic) {
        self.0.session.touched.add(topic);
    }

    /// Tells once this is committed that this workspace has to be looked at.
    pub(crate) fn touch_workspace(&mut self, workspace: WorkspaceId) {
        self.touch(Topic::Work);
        self.0.session.work.workspaces.insert(workspace);
    }

    /// Tells once this is committed that any workspace may have to be looked at.
    pub(crate) fn touch_configuration(&mut self) {
        self.touch(Topic::Work);
        self.0.session.work.everything = true;
    }

    /// The end of the organization's chain, if this transaction has moved it.
    pub(crate) fn head(&mut self) -> Result<Option<Head>, Error> {
        let session = &mut *self.0.session;
        // The job before may have moved it and yet be taken back.
        session.settle_before().inspect_err(|_| session.failed = true)?;
        Ok(session.heads.get(&self.0.organization).copied())
    }

    /// Remembers where the organization's chain ends now.
    pub(crate) fn set_head(&mut self, head: Head) {
        self.0.session.heads.insert(self.0.organization, head);
    }

    /// Inserts a record with columns that its type does not carry.
    pub(crate) fn insert_with<R: Record>(
        &mut self,
        record: &R,
        more: &[(&str, Value<'_>)],
    ) -> Result<(), Error> {
        let (columns, values): (Vec<&str>, Vec<Value<'_>>) =
            more.iter().map(|(column, value)| (*column, value.borrowed())).unzip();
        self.insert_all(&columns, &[(record, &values)])
    }

    /// Inserts records with one statement, each with its values of columns that its type does not carry. A statement is
    /// kept for each number of records, so callers come with few different ones.
    pub(crate) fn insert_all<R: Record>(
        &mut self,
        more: &[&str],
        rows: &[(&R, &[Value<'_>])],
    ) -> Result<(), Error> {
        let organization = self.0.organization;
        let width = R::COLUMNS.split(", ").count() + more.len();
        let mut values = Vec::with_capacity(1 + width * rows.len());
        values.push(organization.write());
        for (record, of_more) in rows {
            self.own(*record)?;
            values.append(&mut record.values());
            values.extend(of_more.iter().map(Value::borrowed));
        }
        let session = &mut *self.0.session;
        let sql = session.inserts.entry((R::TABLE, more.len(), rows.len())).or_insert_with(|| {
            let more: String = more.iter().map(|column| format!(", {column}")).collect();
            let row = |n: usize| {
                let marks = (0..width).map(|at| format!(", ?{}", 2 + n * width + at));
                format!("(?1{})", marks.collect::<String>())
            };
            let rows: Vec<String> = (0..rows.len()).map(row).collect();
            let (table, columns, rows) = (R::TABLE, R::COLUMNS, rows.join(", "));
            format!("INSERT INTO {table} (organization_id, {columns}{more}) VALUES {rows}").into()
        });
        let sql = Arc::clone(sql);
        session.send(&sql, &values, R::TABLE)
    }

    pub(crate) fn insert<R: Record>(&mut self, record: &R) -> Result<(), Error> {
        self.insert_with(record, &[])
    }

    /// Writes every column of the record with this id.
    pub(crate) fn update<R: Record>(&mut self, record: &R) -> Result<(), Error> {
        self.own(record)?;
        let columns = R::COLUMNS.split(", ").enumerate().skip(1);
        let sets: Vec<String> = columns.map(|(n, column)| format!("{column} = ?{}", n + 2)).collect();
        let sql =
            format!("UPDATE {} SET {} WHERE organization_id = ?1 AND id = ?2", R::TABLE, sets.join(", "));
        self.send(&sql, &record.values(), R::TABLE)
    }

    /// Refuses a record that says it belongs to another organization.
    fn own<R: Record>(&self, record: &R) -> Result<(), Error> {
        match record.organization() {
            Some(organization) if organization != self.0.organization => {
                Err(Error::WrongOrganization { table: R::TABLE })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What crosses organizations, to read: authentication, and the work of the whole server.
pub struct SystemRead<'a>(&'a mut Session);

impl<'a> SystemRead<'a> {
    pub(crate) const fn new(session: &'a mut Session) -> Self {
        Self(session)
    }

    /// The rows of one organization.
    pub const fn organization(&mut self, organization: OrganizationId) -> OrgRead<'_> {
        OrgRead::new(self.0, organization)
    }

    pub(crate) fn query<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl FnMut(&mut Row<'_>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.0.query(sql, values, read)
    }

    pub(crate) fn select<R: Record>(&mut self, rest: &str, values: &[Value<'_>]) -> Result<Vec<R>, Error> {
        self.0.select(rest, values)
    }

    pub(crate) fn find<R: Record>(&mut self, rest: &str, values: &[Value<'_>]) -> Result<Option<R>, Error> {
        Ok(self.0.select(rest, values)?.pop())
    }
}

/// What crosses organizations, to read and to write.
pub struct SystemTx<'a>(SystemRead<'a>);

impl<'a> Deref for SystemTx<'a> {
    type Target = SystemRead<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for SystemTx<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a> SystemTx<'a> {
    pub(crate) const fn new(session: &'a mut Session) -> Self {
        Self(SystemRead::new(session))
    }

    /// The rows of one organization, locked against other servers until this job is committed.
    pub fn organization(&mut self, organization: OrganizationId) -> Result<OrgTx<'_>, Error> {
        let session = &mut *self.0.0;
        lock(session, organization)?;
        Ok(OrgTx::new(session, organization))
    }

    pub(crate) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        self.0.0.execute(sql, values)
    }
}

/// Keeps other servers from writing rows of `organization` until the transaction ends. SQLite has one writer anyway.
pub(crate) fn lock(session: &mut Session, organization: OrganizationId) -> Result<(), Error> {
    match session.connection.dialect() {
        Dialect::Sqlite => Ok(()),
        Dialect::Postgres => session
            .execute("SELECT id FROM organizations WHERE id = ?1 FOR UPDATE", &[organization.write()])
            .map(drop),
    }
}

/// `Missing`, unless a statement changed something.
pub(crate) fn changed(rows: u64, table: &'static str) -> Result<(), Error> {
    if rows == 0 { Err(Error::Missing { table }) } else { Ok(()) }
}

fn scoped<'a>(organization: &'a OrganizationId, values: &[Value<'a>]) -> Vec<Value<'a>> {
    let mut all = Vec::with_capacity(values.len() + 1);
    all.push(organization.write());
    all.extend_from_slice(values);
    all
}
