//! PostgreSQL as a [`Connection`], and the listener for other servers' signals.

mod address;

use std::{collections::HashMap, error, io, sync::Arc, thread, time::Duration};

use postgres::{
    Client, Statement,
    error::{DbError, SqlState},
    fallible_iterator::FallibleIterator,
    types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use crate::{
    Error, Rule,
    signal::{Signals, Topics},
    sql::{Connection, Dialect, Row, Value},
    writer::CHANNEL,
};

/// How long a connection may take to be made, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 5_000;

/// How long sent data may stay unacknowledged before the connection counts as lost, in milliseconds.
const SILENCE_MS: u64 = 15_000;

/// The most prepared statements a connection keeps; beyond, all are forgotten and the needed ones prepared again.
const PREPARED_MAX: usize = 512;

/// How long the listener sleeps before it looks whether the store was closed, and between tries to connect, in
/// milliseconds.
const LISTEN_STEP_MS: u64 = 1_000;

pub(crate) struct Postgres {
    client: Client,
    prepared: HashMap<Box<str>, Statement>,
}

impl Postgres {
    pub(crate) fn open(url: &str) -> Result<Self, Error> {
        Ok(Self { client: connect(url)?, prepared: HashMap::new() })
    }

    fn prepare(&mut self, sql: &str) -> Result<Statement, postgres::Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql.replace('?', "$"))?;
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert(sql.into(), statement.clone());
        Ok(statement)
    }
}

fn connect(url: &str) -> Result<Client, Error> {
    // The address is not repeated in the error: it may hold a password.
    let opened = |source| Error::open("connect to PostgreSQL", source);
    let (mut config, tls) =
        address::parse(url).map_err(|error| Error::open("use the address of PostgreSQL", error))?;
    config.application_name("freehold");
    config.connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS));
    config.tcp_user_timeout(Duration::from_millis(SILENCE_MS));
    config.connect(tls).map_err(opened)
}

impl Connection for Postgres {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        if values.is_empty() {
            // Transaction control, mostly: one message there and one back, with nothing to prepare.
            return self.batch(sql).map(|()| 0);
        }
        let mut run = || {
            let statement = self.prepare(sql)?;
            let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
            self.client.execute(&statement, &values)
        };
        run().map_err(error)
    }

    fn query(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Error> {
        let mut run = || {
            let statement = self.prepare(sql)?;
            let mut rows = self.client.query_raw(&statement, values)?;
            let mut answer = Vec::new();
            while let Some(row) = rows.next()? {
                let values = (0..row.len()).map(|column| row.try_get(column));
                answer.push(Row::new(values.collect::<Result<_, _>>()?));
            }
            Ok(answer)
        };
        run().map_err(error)
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).map_err(error)
    }

    fn in_transaction(&mut self) -> bool {
        !self.client.is_closed()
    }

    fn is_lost(&self) -> bool {
        self.client.is_closed()
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql_checked(ty, out),
            Self::Text(text) => text.to_sql_checked(ty, out),
            Self::Bytes(bytes) => bytes.as_ref().to_sql_checked(ty, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        // Each variant checks for itself.
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value<'static> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::BYTEA => Self::Bytes(raw.to_vec().into()),
            _ => Self::Text(String::from_sql(ty, raw)?.into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::INT8 || *ty == Type::BYTEA || <String as FromSql>::accepts(ty)
    }
}

/// Tells errors apart by what can be done about them.
fn error(error: postgres::Error) -> Error {
    let Some(told) = error.as_db_error() else {
        // Not told by the server: the connection is gone, or the client refused to send or to read a value.
        let is_gone =
            error.is_closed() || error::Error::source(&error).is_some_and(|source| source.is::<io::Error>());
        let source = Arc::new(error);
        return if is_gone { Error::Unavailable { source } } else { Error::Statement { source } };
    };
    if let Some(rule) = rule(told.code()) {
        return Error::Violation { rule, constraint: told.constraint().map(str::to_owned) };
    }
    let is_passing = is_passing(told);
    let source = Arc::new(error);
    if is_passing { Error::Unavailable { source } } else { Error::Statement { source } }
}

fn rule(code: &SqlState) -> Option<Rule> {
    if *code == SqlState::UNIQUE_VIOLATION {
        Some(Rule::Unique)
    } else if *code == SqlState::FOREIGN_KEY_VIOLATION {
        Some(Rule::Reference)
    } else if *code == SqlState::CHECK_VIOLATION || *code == SqlState::NOT_NULL_VIOLATION {
        Some(Rule::Check)
    } else {
        None
    }
}

/// Whether it may be otherwise later: lost connections (class 08), transactions that met (40), resources (53), an
/// operator's hand (57), the system (58).
fn is_passing(told: &DbError) -> bool {
    ["08", "40", "53", "57", "58"].iter().any(|class| told.code().code().starts_with(class))
}

/// Hears what other servers committed, until the store is closed. A connection that is lost is made again, and then
/// everything is looked at, since signals may have been missed.
pub(crate) fn listen(url: &str, signals: &Signals) {
    let step = Duration::from_millis(LISTEN_STEP_MS);
    while !signals.is_closed() {
        match listen_once(url, signals, step) {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn error::Error,
                    "not hearing other servers; trying again"
                );
                thread::sleep(step);
            }
        }
    }
}

fn listen_once(url: &str, signals: &Signals, step: Duration) -> Result<(), Error> {
    let mut client = connect(url)?;
    client.batch_execute(&format!("LISTEN {CHANNEL}")).map_err(error)?;
    signals.wake(Topics::all());
    while !signals.is_closed() {
        hear(&mut client, signals, step)?;
        if client.is_closed() {
            break;
        }
    }
    Ok(())
}

/// Hears until nothing came for as long as a step.
fn hear(client: &mut Client, signals: &Signals, step: Duration) -> Result<(), Error> {
    let mut notifications = client.notifications();
    let mut heard = notifications.timeout_iter(step);
    while let Some(notification) = heard.next().map_err(error)? {
        signals.take_message(notification.payload());
    }
    Ok(())
}
