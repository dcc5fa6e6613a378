//! Pages of lists: where a page begins and how long it may be.

use crate::sql::{Column, Value};

/// The most rows of one page; a greater limit means this.
pub const PAGE_MAX: u32 = 10_000;

/// A page of a list: at most `limit` entries, after the entry `after` in the list's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<C> {
    /// The last entry of the page before, absent for the first page.
    pub after: Option<C>,
    /// The most entries wanted, up to [`PAGE_MAX`].
    pub limit: u32,
}

impl<C> Page<C> {
    /// The first page.
    pub const fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }

    /// The limit as a value.
    pub(crate) fn limit(&self) -> Value<'static> {
        Value::Int(i64::from(self.limit.min(PAGE_MAX)))
    }

    /// The page after the entry `cursor`.
    pub const fn after(cursor: C, limit: u32) -> Self {
        Self { after: Some(cursor), limit }
    }
}

/// Conditions of a list, put together as its filters ask.
#[derive(Clone)]
pub(crate) struct Conditions<'a> {
    pub(crate) sql: String,
    pub(crate) values: Vec<Value<'a>>,
    /// The number of the first placeholder.
    first: usize,
}

impl<'a> Conditions<'a> {
    /// Conditions beside that on the organization, which is `?1`.
    pub(crate) const fn scoped() -> Self {
        Self { sql: String::new(), values: Vec::new(), first: 2 }
    }

    /// Adds a condition without a value.
    pub(crate) fn that(&mut self, condition: &str) -> &mut Self {
        self.sql.push_str(" AND ");
        self.sql.push_str(condition);
        self
    }

    /// Adds a condition without a value, unless it is waived.
    pub(crate) fn unless(&mut self, waived: bool, condition: &str) -> &mut Self {
        if waived { self } else { self.that(condition) }
    }

    /// Adds another placeholder to a list.
    pub(crate) fn also(&mut self, value: Value<'a>) -> &mut Self {
        self.sql.push_str(", ");
        self.mark(value);
        self
    }

    /// Closes a parenthesis.
    pub(crate) fn close(&mut self) -> &mut Self {
        self.sql.push(')');
        self
    }

    /// Adds `condition` and then a placeholder for `value`.
    pub(crate) fn with(&mut self, condition: &str, value: Value<'a>) -> &mut Self {
        self.that(condition);
        self.mark(value);
        self
    }

    /// Adds `condition` and then a placeholder, where there is a value.
    pub(crate) fn maybe<T: Column>(&mut self, condition: &str, value: Option<&'a T>) -> &mut Self {
        if let Some(value) = value {
            self.with(condition, value.write());
        }
        self
    }

    /// Adds that `column` is one of `values`; none at all means any.
    pub(crate) fn any_of<T: Column>(&mut self, column: &str, values: &'a [T]) -> &mut Self {
        if !values.is_empty() {
            self.that(column);
            self.sql.push_str(" IN (");
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    self.sql.push_str(", ");
                }
                self.mark(value.write());
            }
            self.sql.push(')');
        }
        self
    }

    /// Ends with an order and a limit.
    pub(crate) fn page<C>(&mut self, order: &str, page: &Page<C>) -> &mut Self {
        self.sql.push_str(" ORDER BY ");
        self.sql.push_str(order);
        self.sql.push_str(" LIMIT ");
        self.mark(page.limit());
        self
    }

    /// Passes over the first `rows`; comes after [`Self::page`].
    pub(crate) fn offset(&mut self, rows: u32) -> &mut Self {
        self.sql.push_str(" OFFSET ");
        self.mark(Value::Int(i64::from(rows)));
        self
    }

    fn mark(&mut self, value: Value<'a>) {
        self.sql.push_str(&format!("?{}", self.first + self.values.len()));
        self.values.push(value);
    }
}
