//! The query layer: one small trait over both databases, and values that both can hold.
//!
//! SQL text is the same for both. Placeholders are `?1..?n`, as SQLite numbers them, and become `$1..$n` when PostgreSQL
//! prepares the statement; no `?` stands for anything else. Times are microseconds since 1970, JSON is text, ids are text.

use std::borrow::Cow;

use crate::Error;

/// A value that both databases can hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// The same value, borrowing nothing.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Int(number) => Value::Int(number),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }
}

/// A connection to either database.
pub(crate) trait Connection: Send {
    /// Runs one statement and answers how many rows it changed.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error>;
    /// Runs one query and answers its rows; queries that may find many say `LIMIT`.
    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error>;
    /// Runs statements without values, for migrations.
    fn batch(&mut self, sql: &str) -> Result<(), Error>;
    /// Whether the connection is in a transaction and usable; after a disk error SQLite may have left it by itself.
    fn in_transaction(&mut self) -> bool;
    /// Whether it must be opened anew before it is used again.
    fn is_lost(&self) -> bool;
    /// What the two databases say differently.
    fn dialect(&self) -> Dialect;
}

/// Which of the two databases it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// One row of an answer, read column by column from the left.
#[derive(Debug)]
pub(crate) struct Row {
    values: Vec<Value<'static>>,
    next: usize,
}

impl Row {
    pub(crate) const fn new(values: Vec<Value<'static>>) -> Self {
        Self { values, next: 0 }
    }

    /// Reads the next column of a row of `table`.
    pub(crate) fn get<T: Column>(&mut self, table: &'static str) -> Result<T, Error> {
        let column = self.next;
        self.next += 1;
        let value = self.values.get_mut(column).map(|value| std::mem::replace(value, Value::Null));
        value.and_then(T::read).ok_or(Error::Corrupt { table, column, expected: std::any::type_name::<T>() })
    }
}

/// What can be a column. `read` takes what `write` gave.
pub(crate) trait Column: Sized {
    fn write(&self) -> Value<'_>;
    fn read(value: Value<'static>) -> Option<Self>;
}
