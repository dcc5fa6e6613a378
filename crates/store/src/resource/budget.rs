//! The ledger of budgets: how much of each count is leased, used or forfeited.
//!
//! Invariant: a lease never takes a count beyond the limit that it names, however many servers lease at once: they take
//! turns on the organization, and the row is changed only while there is room.

use std::borrow::Cow;

use freehold_model::{
    Timestamp, WorkspaceId,
    budget::{Ask, CounterKey, Leased},
};

use crate::{
    Error, OrgRead, OrgTx, SystemTx, column,
    sql::{Column, Value},
};

const TABLE: &str = "budget_counts";

/// The row of a key, whose values begin at `?2`.
const OF_KEY: &str = "organization_id = ?1 AND capability = ?2 AND counter = ?3 AND origin = ?4 AND unit = ?5
    AND subject = ?6 AND window_seconds = ?7 AND window_start = ?8";

/// The most that a count can be: far above every limit, and far from the end of the column's numbers.
const TAKEN_MAX: u64 = 1 << 60;

fn values(key: &CounterKey) -> Vec<Value<'_>> {
    vec![
        column::text(&key.capability),
        column::text(&key.counter),
        column::text(key.origin),
        column::text(key.unit),
        Value::Text(Cow::Owned(key.subject.to_string())),
        key.window_seconds.write(),
        key.window_start.write(),
    ]
}

impl OrgRead<'_> {
    /// How much of each count is leased, used or forfeited; 0 where nothing ever was.
    pub fn budget_taken(&mut self, keys: &[CounterKey]) -> Result<Vec<u64>, Error> {
        keys.iter().map(|key| Ok(self.budget_row(key)?.map_or(0, |(taken, _)| taken))).collect()
    }

    fn budget_row(&mut self, key: &CounterKey) -> Result<Option<(u64, bool)>, Error> {
        let sql = format!("SELECT taken, warned FROM budget_counts WHERE {OF_KEY}");
        let rows = self.query(&sql, &values(key), |row| Ok((row.get(TABLE)?, row.get(TABLE)?)))?;
        Ok(rows.into_iter().next())
    }
}

impl OrgTx<'_> {
    /// Leases a part of a count, or nothing where there is not as much.
    pub fn budget_lease(&mut self, key: &CounterKey, ask: &Ask) -> Result<Leased, Error> {
        let row = self.budget_row(key)?;
        let (taken, warned) = row.unwrap_or_default();
        let granted = ask.grant(taken);
        if granted == 0 {
            return Ok(Leased { granted, taken, warned });
        }
        if row.is_none() {
            self.budget_insert(key, granted)?;
        } else {
            let sql =
                format!("UPDATE budget_counts SET taken = taken + ?9 WHERE {OF_KEY} AND taken + ?9 <= ?10");
            let mut values = values(key);
            values.extend([granted.write(), ask.limit.write()]);
            if self.execute(&sql, &values)? == 0 {
                return Ok(Leased { granted: 0, taken, warned });
            }
        }
        Ok(Leased { granted, taken: taken + granted, warned })
    }

    /// Takes back what was leased and not used.
    pub fn budget_give_back(&mut self, key: &CounterKey, amount: u64) -> Result<(), Error> {
        let sql = format!(
            "UPDATE budget_counts SET taken = CASE WHEN taken < ?9 THEN 0 ELSE taken - ?9 END WHERE {OF_KEY}"
        );
        let mut values = values(key);
        values.push(Value::Int(i64::try_from(amount.min(TAKEN_MAX)).unwrap_or(i64::MAX)));
        self.execute(&sql, &values).map(drop)
    }

    /// Adds what was used without a lease, whatever the limit; answers the sum.
    pub fn budget_overdraw(&mut self, key: &CounterKey, amount: u64) -> Result<u64, Error> {
        let amount = amount.min(TAKEN_MAX);
        let Some((taken, _)) = self.budget_row(key)? else {
            self.budget_insert(key, amount)?;
            return Ok(amount);
        };
        let taken = taken.saturating_add(amount).min(TAKEN_MAX);
        let mut values = values(key);
        values.push(taken.write());
        self.execute(&format!("UPDATE budget_counts SET taken = ?9 WHERE {OF_KEY}"), &values)?;
        Ok(taken)
    }

    /// Notes that it was said that the limit is near.
    pub fn budget_warned(&mut self, key: &CounterKey) -> Result<(), Error> {
        self.execute(&format!("UPDATE budget_counts SET warned = 1 WHERE {OF_KEY}"), &values(key)).map(drop)
    }

    /// Forgets the counts that end with a workspace.
    pub(crate) fn budget_forget(&mut self, workspace: WorkspaceId) -> Result<(), Error> {
        let sql = "DELETE FROM budget_counts WHERE organization_id = ?1 AND workspace_id = ?2";
        self.execute(sql, &[workspace.write()]).map(drop)
    }

    fn budget_insert(&mut self, key: &CounterKey, taken: u64) -> Result<(), Error> {
        let sql = "INSERT INTO budget_counts (organization_id, capability, counter, origin, unit, subject,
            window_seconds, window_start, taken, warned, workspace_id, ends_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10, ?11)";
        let ends_at = key.ends_at().and_then(|second| Timestamp::from_second(second).ok());
        let mut values = values(key);
        values.extend([taken.write(), key.workspace_id.write(), ends_at.write()]);
        self.execute(sql, &values).map(drop)
    }
}

impl SystemTx<'_> {
    /// Forgets up to `limit` counts whose windows ended before this; answers how many.
    pub fn budget_sweep(&mut self, ended_before: Timestamp, limit: u32) -> Result<u64, Error> {
        const KEY: &str =
            "organization_id, capability, counter, origin, unit, subject, window_seconds, window_start";
        let sql = format!(
            "DELETE FROM budget_counts WHERE ({KEY}) IN
            (SELECT {KEY} FROM budget_counts WHERE ends_at < ?1 ORDER BY ends_at LIMIT ?2)"
        );
        self.execute(&sql, &[ended_before.write(), limit.write()])
    }
}
