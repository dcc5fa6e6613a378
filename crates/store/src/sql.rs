//! The query layer: one small trait over both databases, and values that both can hold.
//!
//! SQL text is the same for both. Placeholders are `?1..?n`, as SQLite numbers them, and become `$1..$n` when PostgreSQL
//! prepares the statement; no `?` stands for anything else. Times are microseconds since 1970, JSON is text, ids are text.

use std::borrow::Cow;

use crate::{Error, database::Purpose};

/// A value that both databases can hold.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

impl Value<'_> {
    /// The same value, borrowing from this one.
    pub(crate) fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Int(number) => Value::Int(*number),
            Self::Text(text) => Value::Text(Cow::Borrowed(text)),
            Self::Bytes(bytes) => Value::Bytes(Cow::Borrowed(bytes)),
        }
    }

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
    /// Begins a transaction.
    fn begin(&mut self, purpose: Purpose) -> Result<(), Error>;
    /// Runs one statement and answers how many rows it changed.
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error>;
    /// Runs one statement that must change a row of `table`, without waiting for it where that saves a way to the database
    /// and back: what goes wrong is then answered by the next call, at the latest by [`Connection::settle`].
    fn send(&mut self, sql: &str, values: &[Value<'_>], table: &'static str) -> Result<(), Error>;
    /// Runs statements without values; as [`Connection::send`], nothing is waited for.
    fn send_batch(&mut self, sql: &'static str) -> Result<(), Error>;
    /// Waits for all that was sent, and answers the first error.
    fn settle(&mut self) -> Result<(), Error>;
    /// Whether anything was sent whose answer was not taken yet.
    fn has_sent(&self) -> bool;
    /// Whether what the last call answered was not its own error but that of something sent before it. The database has
    /// refused the call then, as all that followed the failed statement.
    fn was_refused(&self) -> bool;
    /// Runs one query and gives its rows to `each`; queries that may find many say `LIMIT`.
    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), Error>;
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

/// What takes the rows of an answer, one after the other.
pub(crate) type Each<'e> = &'e mut dyn FnMut(&mut Row<'_>) -> Result<(), Error>;

/// The columns of a row as the database's own library holds them, to be read where they are.
pub(crate) trait Columns {
    /// The value of a column; none when there is no such column or no value of ours in it.
    fn value(&self, column: usize) -> Option<Value<'_>>;
}

/// One row of an answer, read column by column from the left.
pub(crate) struct Row<'a> {
    columns: &'a dyn Columns,
    next: usize,
}

impl<'a> Row<'a> {
    pub(crate) const fn new(columns: &'a dyn Columns) -> Self {
        Self { columns, next: 0 }
    }

    /// Reads the next column of a row of `table`.
    pub(crate) fn get<T: Column>(&mut self, table: &'static str) -> Result<T, Error> {
        let column = self.next;
        self.next += 1;
        let value = self.columns.value(column).and_then(T::read);
        value.ok_or_else(|| Error::Corrupt { table, column, expected: std::any::type_name::<T>() })
    }
}

/// Values that were written and not stored, to be read back.
impl Columns for Vec<Value<'_>> {
    fn value(&self, column: usize) -> Option<Value<'_>> {
        self.get(column).map(Value::borrowed)
    }
}

/// What can be a column. `read` takes what `write` gave.
pub(crate) trait Column: Sized {
    fn write(&self) -> Value<'_>;
    fn read(value: Value<'_>) -> Option<Self>;
}
