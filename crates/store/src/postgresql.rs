//! PostgreSQL as a [`Connection`], and the listener for other servers' signals.
//!
//! What a write costs here is mostly the way to the database and back. Statements whose answer nobody needs at once are
//! therefore sent without waiting, and the next one that is waited for takes their answers with it: the server runs them
//! in the order they were sent, and refuses all that follow a failed one until its savepoint is rolled back to.

mod address;

use std::{
    collections::{HashMap, VecDeque},
    error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::{self, Runtime};
use tokio_postgres::{
    AsyncMessage, Client, Socket, Statement,
    error::{DbError, Severity, SqlState},
    types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked},
};

use crate::{
    Error, Rule,
    database::Purpose,
    scope::changed,
    signal::{Signals, Topics},
    sql::{Columns, Connection, Dialect, Each, Row, Value},
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

/// The most statements that are sent and not waited for, in statements; then their answers are taken.
const SENT_MAX: usize = 128;

/// How long plans are kept, in milliseconds. PostgreSQL plans a prepared statement once, by what it knows of the tables
/// then. Of tables that are new it knows nothing: any index that begins with the organization looks as good to it as the
/// one that finds the row, and it would read every row of the organization until its statistics are collected, minutes
/// later.
const PLANS_KEPT_MS: u64 = 1_000;

/// The lock that the owner of the database holds for as long as its connection lives. Any number, the same in every
/// version, and another than that of migrations.
const OWNER: i64 = 0x6672_6565_686f_6c65;

/// How long is waited for the lock, in milliseconds: an owner that was killed has it until the server notices.
const OWNER_WAIT_MS: u64 = 5_000;

/// The same for one who had it and lost its connection, in milliseconds: requests wait meanwhile.
const OWNER_AGAIN_WAIT_MS: u64 = 500;

/// The time between two tries to get it, in milliseconds.
const OWNER_STEP_MS: u64 = 50;

/// How soon the server notices that the owner's machine is gone, which says no word: after 5 s and three questions.
const OWNER_SIGNS: &str =
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 3; SET tcp_keepalives_count = 3";

/// The answer to come of a statement that was sent.
type Answer = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

pub(crate) struct Postgres {
    // Before the runtime, which drives the connection for it.
    sent: VecDeque<Answer>,
    /// Whether something failed that was sent before the last call.
    refused: bool,
    client: Arc<Client>,
    prepared: HashMap<Box<str>, Statement>,
    planned: Instant,
    /// Whether the server said that it ends the connection.
    ended: bool,
    runtime: Runtime,
}

impl Postgres {
    pub(crate) fn open(url: &str) -> Result<Self, Error> {
        let runtime = runtime()?;
        let client = runtime.block_on(async {
            let (client, connection) = connect(url).await?;
            runtime.spawn(async move {
                // The client is told of its end by every call.
                if let Err(error) = connection.await {
                    tracing::debug!(error = &error as &dyn error::Error, "a connection to PostgreSQL ended");
                }
            });
            Ok::<_, Error>(Arc::new(client))
        })?;
        let (sent, prepared) = (VecDeque::new(), HashMap::new());
        Ok(Self { sent, refused: false, client, prepared, planned: Instant::now(), ended: false, runtime })
    }

    /// Makes this connection the owner's, for its life; `again` for one who was the owner before.
    pub(crate) fn own(&mut self, again: bool) -> Result<(), Error> {
        let wait = Duration::from_millis(if again { OWNER_AGAIN_WAIT_MS } else { OWNER_WAIT_MS });
        self.batch(OWNER_SIGNS)
            .map_err(|source| Error::open("set up the connection to PostgreSQL", source))?;
        let start = Instant::now();
        loop {
            let sql = "SELECT pg_try_advisory_lock(?1)::int::bigint";
            let mut is_ours = false;
            self.query(sql, &[Value::Int(OWNER)], &mut |row| {
                is_ours = row.get("pg_locks")?;
                Ok(())
            })?;
            if is_ours {
                return Ok(());
            }
            if start.elapsed() >= wait {
                return Err(Error::Owned);
            }
            thread::sleep(Duration::from_millis(OWNER_STEP_MS));
        }
    }

    /// The statement, prepared once for the life of the connection.
    fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.prepared.get(sql) {
            return Ok(statement.clone());
        }
        let text = sql.replace('?', "$");
        let statement = self.wait(|client| async move { client.prepare(&text).await })?;
        if self.prepared.len() >= PREPARED_MAX {
            self.prepared.clear();
        }
        self.prepared.insert(sql.into(), statement.clone());
        Ok(statement)
    }

    /// Waits for one call and, in the same time, for all that was sent before it, whose errors come first.
    fn wait<T, F>(&mut self, call: impl FnOnce(Arc<Client>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        let sent = std::mem::take(&mut self.sent);
        let call = call(Arc::clone(&self.client));
        let (before, answer) = self.runtime.block_on(async move {
            let mut call = pin!(call);
            // Its first step sends it, behind what is on its way.
            let early = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
            let before = take_all(sent).await;
            let answer = match early {
                Poll::Ready(answer) => answer,
                Poll::Pending => call.await,
            };
            (before, answer.map_err(error))
        });
        self.refused = before.is_err();
        self.note_end(before.and(answer))
    }

    /// Notes whether this was the last that the server had to say on this connection.
    fn note_end<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Unavailable { source }) = &outcome {
            let told = source.downcast_ref().and_then(tokio_postgres::Error::as_db_error);
            let severity = told.and_then(DbError::parsed_severity);
            self.ended |= matches!(severity, Some(Severity::Fatal | Severity::Panic));
        }
        outcome
    }

    /// Sends one call; what it answers is looked at later.
    fn send_call<F>(&mut self, call: impl FnOnce(Arc<Client>) -> F) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let mut answer: Answer = Box::pin(call(Arc::clone(&self.client)));
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {}
            // It could not even be sent. What went wrong before is the reason, if anything did.
            Poll::Ready(Err(error)) => return self.settle().and(Err(error)),
            Poll::Pending => self.sent.push_back(answer),
        }
        Ok(())
    }
}

/// Takes the answers to all that was sent: the first error, if there is one.
async fn take_all(sent: VecDeque<Answer>) -> Result<(), Error> {
    let mut outcome = Ok(());
    for answer in sent {
        let answer = answer.await;
        outcome = outcome.and(answer);
    }
    outcome
}

fn runtime() -> Result<Runtime, Error> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|source| Error::open("start a runtime for PostgreSQL", source))
}

type Wire = tokio_postgres::Connection<Socket, address::Stream>;

async fn connect(url: &str) -> Result<(Client, Wire), Error> {
    // The address is not repeated in the error: it may hold a password.
    let opened = |source| Error::open("connect to PostgreSQL", source);
    let (mut config, tls) =
        address::parse(url).map_err(|error| Error::open("use the address of PostgreSQL", error))?;
    config.application_name("freehold");
    config.connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS));
    config.tcp_user_timeout(Duration::from_millis(SILENCE_MS));
    config.connect(tls).await.map_err(opened)
}

impl Connection for Postgres {
    fn begin(&mut self, purpose: Purpose) -> Result<(), Error> {
        if self.planned.elapsed() >= Duration::from_millis(PLANS_KEPT_MS) {
            self.batch("DISCARD PLANS")?;
            self.planned = Instant::now();
        }
        self.batch(purpose.begin(Dialect::Postgres))
    }

    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, Error> {
        if values.is_empty() {
            // Transaction control, mostly: one message there and one back, with nothing to prepare.
            return self.batch(sql).map(|()| 0);
        }
        let statement = self.prepare(sql)?;
        self.wait(|client| async move { client.execute_raw(&statement, values).await })
    }

    fn send(&mut self, sql: &str, values: &[Value<'_>], table: &'static str) -> Result<(), Error> {
        let statement = match sql.starts_with("UPDATE") {
            true => self
                .prepare(&format!("WITH changed AS ({sql} RETURNING 1) SELECT 1 / count(*) FROM changed"))?,
            false => self.prepare(sql)?,
        };
        let values: Vec<Value<'static>> = values.iter().map(|value| value.clone().into_owned()).collect();
        self.send_call(|client| async move {
            match client.execute_raw(&statement, values).await {
                Ok(rows) => changed(rows, table),
                Err(failed) if failed.code() == Some(&SqlState::DIVISION_BY_ZERO) => changed(0, table),
                Err(failed) => Err(error(failed)),
            }
        })?;
        if self.sent.len() < SENT_MAX { Ok(()) } else { self.settle() }
    }

    fn send_batch(&mut self, sql: &'static str) -> Result<(), Error> {
        self.send_call(|client| async move { client.batch_execute(sql).await.map_err(error) })
    }

    fn settle(&mut self) -> Result<(), Error> {
        if self.sent.is_empty() {
            return Ok(());
        }
        let sent = std::mem::take(&mut self.sent);
        let outcome = self.runtime.block_on(take_all(sent));
        self.refused = outcome.is_err();
        self.note_end(outcome)
    }

    fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }

    fn was_refused(&self) -> bool {
        self.refused
    }

    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), Error> {
        let statement = self.prepare(sql)?;
        let references: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        let rows = self.wait(|client| async move { client.query(&statement, &references).await })?;
        rows.iter().try_for_each(|row| each(&mut Row::new(row)))
    }

    fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.wait(|client| async move { client.batch_execute(sql).await })
    }

    fn in_transaction(&mut self) -> bool {
        !self.is_lost()
    }

    fn is_lost(&self) -> bool {
        self.ended || self.client.is_closed()
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

impl Columns for tokio_postgres::Row {
    fn value(&self, column: usize) -> Option<Value<'_>> {
        self.try_get(column).ok()
    }
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_sql(ty, raw)?),
            Type::BYTEA => Self::Bytes(raw.into()),
            _ => Self::Text(<&str>::from_sql(ty, raw)?.into()),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::INT8 || *ty == Type::BYTEA || <&str as FromSql>::accepts(ty)
    }
}

/// Tells errors apart by what can be done about them.
fn error(error: tokio_postgres::Error) -> Error {
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
/// everything is looked at, since signals may have been missed. Calls `pulse` about once a step.
pub(crate) fn listen(url: &str, signals: &Signals, pulse: &dyn Fn()) {
    let step = Duration::from_millis(LISTEN_STEP_MS);
    while !signals.is_closed() {
        pulse();
        match listen_once(url, signals, step, pulse) {
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

fn listen_once(url: &str, signals: &Signals, step: Duration, pulse: &dyn Fn()) -> Result<(), Error> {
    runtime()?.block_on(async {
        let (client, mut wire) = connect(url).await?;
        let listen = format!("LISTEN {CHANNEL}");
        let mut ask = pin!(client.batch_execute(&listen));
        let mut asked = false;
        while !signals.is_closed() {
            let heard = poll_fn(|context| {
                if !asked && let Poll::Ready(answer) = ask.as_mut().poll(context) {
                    asked = true;
                    return Poll::Ready(Some(answer.map(|()| None)));
                }
                wire.poll_message(context).map(|message| message.map(|message| message.map(Some)))
            });
            match tokio::time::timeout(step, heard).await {
                // Nothing for as long as a step.
                Err(_) => pulse(),
                Ok(None) => return Ok(()),
                Ok(Some(Err(lost))) => return Err(error(lost)),
                // It listens from now on; what was said before was missed.
                Ok(Some(Ok(None))) => signals.wake(Topics::all()),
                Ok(Some(Ok(Some(AsyncMessage::Notification(heard))))) => {
                    signals.take_message(heard.payload())
                }
                Ok(Some(Ok(Some(_)))) => {}
            }
        }
        Ok(())
    })
}
