//! Lists: a page where the caller names a limit, else everything, streamed page by page so that no list is ever whole in
//! memory.

use std::{borrow::Cow, fmt::Display, str::FromStr};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use freehold_access::Actor;
use freehold_app::{App, PAGE_MAX, Page};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::{call::Call, cursor, error::Failure};

/// Rows read in one step where everything is answered.
const STEP_ROWS: u32 = 256;
/// Bytes made ready for each row of an answer: about what a small one takes.
const ROW_BYTES: usize = 512;

/// How a list is answered.
pub(crate) struct Shape<T, C, W> {
    /// The member that holds the list; a bare array when there is none.
    pub field: Option<&'static str>,
    /// An entry's place in the list, where a page after it begins.
    pub place: fn(&T) -> C,
    /// The entry on the wire.
    pub wire: fn(T) -> W,
}

impl<T, C, W> Clone for Shape<T, C, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T, C, W> Copy for Shape<T, C, W> {}

/// Answers one page when there is a limit, and everything when there is none. `read` reads a page of it for the caller.
pub(crate) async fn respond<T, W, C, F, R>(
    call: &Call,
    shape: Shape<T, C, W>,
    limit: Option<u32>,
    cursor: Option<&str>,
    read: F,
) -> Result<Response, Failure>
where
    T: Send + 'static,
    W: Serialize + 'static,
    C: Copy + Display + FromStr + Send + 'static,
    F: Fn(App, Actor, Page<C>) -> R + Send + 'static,
    R: Future<Output = Result<Vec<T>, freehold_app::Error>> + Send + 'static,
{
    let after = cursor::id(cursor)?;
    let (app, actor) = (call.app().clone(), call.actor()?.clone());
    let fetch = move |page| read(app.clone(), actor.clone(), page);
    let Some(limit) = limit else { return everything(call, shape, after, fetch).await };
    let rows = fetch(Page { after, limit: probe(limit) }).await?;
    page(call, shape.field, limit, rows, |row| (shape.place)(row).to_string(), shape.wire)
}

/// One row more than asked for tells whether there is another page.
pub(crate) fn probe(limit: u32) -> u32 {
    limit.saturating_add(1).min(PAGE_MAX)
}

/// Answers one page of the rows that [`probe`] found.
pub(crate) fn page<T, W: Serialize>(
    call: &Call,
    field: Option<&'static str>,
    limit: u32,
    mut rows: Vec<T>,
    cursor: impl Fn(&T) -> String,
    wire: fn(T) -> W,
) -> Result<Response, Failure> {
    let is_full = cut(&mut rows, limit);
    let cursor = rows.last().filter(|_| is_full).map(cursor);
    answer(call, field, rows, cursor, wire)
}

/// Leaves a page of the rows that [`probe`] found; whether there may be another.
pub(crate) fn cut<T>(rows: &mut Vec<T>, limit: u32) -> bool {
    // At the greatest limit there is no row more to tell by; the last page may then be an empty one.
    let is_full = rows.len() > limit as usize || (limit == PAGE_MAX && rows.len() == limit as usize);
    rows.truncate(limit as usize);
    is_full
}

/// Answers these rows, and where the next page begins.
pub(crate) fn answer<T, W: Serialize>(
    call: &Call,
    field: Option<&'static str>,
    rows: Vec<T>,
    cursor: Option<String>,
    wire: fn(T) -> W,
) -> Result<Response, Failure> {
    let (open, mut close) = brackets(field);
    if let Some(cursor) = cursor.filter(|_| field.is_some()) {
        let cursor = serde_json::to_string(&cursor).map_err(Failure::internal)?;
        close = format!("],\"cursor\":{cursor}}}").into();
    }
    let mut text = Vec::with_capacity(open.len() + close.len() + rows.len() * ROW_BYTES);
    text.extend_from_slice(open.as_bytes());
    write(&mut text, rows, wire, true)?;
    text.extend_from_slice(close.as_bytes());
    Ok(call.bytes(text))
}

/// What stands before and after the entries of a list.
fn brackets(field: Option<&'static str>) -> (Cow<'static, str>, Cow<'static, str>) {
    match field {
        Some(field) => (format!("{{\"{field}\":[").into(), "]}".into()),
        None => ("[".into(), "]".into()),
    }
}

async fn everything<T, W, C, F, R>(
    call: &Call,
    shape: Shape<T, C, W>,
    after: Option<C>,
    fetch: F,
) -> Result<Response, Failure>
where
    T: Send + 'static,
    W: Serialize + 'static,
    C: Copy + Send + 'static,
    F: Fn(Page<C>) -> R + Send + 'static,
    R: Future<Output = Result<Vec<T>, freehold_app::Error>> + Send + 'static,
{
    let (open, close) = brackets(shape.field);
    // The first step is read before the answer begins, so that what is refused is refused properly.
    let first = fetch(Page { after, limit: STEP_ROWS }).await?;
    let next = next_after(&first, shape);
    let mut text = Vec::with_capacity(open.len() + close.len() + first.len() * ROW_BYTES);
    text.extend_from_slice(open.as_bytes());
    write(&mut text, first, shape.wire, true)?;
    if next.is_none() {
        text.extend_from_slice(close.as_bytes());
        return Ok(call.bytes(text));
    }
    let rest = stream::try_unfold((next, fetch), move |(next, fetch)| async move {
        let Some(after) = next else { return Ok(None) };
        let rows = fetch(Page { after: Some(after), limit: STEP_ROWS }).await.map_err(Failure::from)?;
        let next = next_after(&rows, shape);
        let mut text = Vec::with_capacity(rows.len() * ROW_BYTES);
        write(&mut text, rows, shape.wire, false)?;
        Ok(Some((Bytes::from(text), (next, fetch))))
    });
    let whole = stream::once(async move { Ok(Bytes::from(text)) })
        .chain(rest)
        .chain(stream::once(async move { Ok(Bytes::from(close.into_owned())) }));
    // A list that breaks off is not JSON, which the client sees.
    Ok(call
        .bytes(Body::from_stream(whole.map_err(|failure: Failure| std::io::Error::other(failure.message)))))
}

fn next_after<T, C, W>(rows: &[T], shape: Shape<T, C, W>) -> Option<C> {
    rows.last().filter(|_| rows.len() >= STEP_ROWS as usize).map(shape.place)
}

fn write<T, W: Serialize>(
    text: &mut Vec<u8>,
    rows: Vec<T>,
    wire: fn(T) -> W,
    first: bool,
) -> Result<(), Failure> {
    for (index, row) in rows.into_iter().enumerate() {
        if index > 0 || !first {
            text.push(b',');
        }
        serde_json::to_writer(&mut *text, &wire(row)).map_err(Failure::internal)?;
    }
    Ok(())
}
