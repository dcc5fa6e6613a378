//! Activity as it happens, across the streams that carry it.
//!
//! A stream ends after some minutes, and connections break. What comes out here goes on: each connection resumes after the
//! last event seen, so that none is lost and none comes twice.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bytes::Bytes;
use freehold_api::audit::AuditEvent;
use freehold_model::WorkspaceId;
use futures::{Stream, StreamExt, stream::BoxStream};

use crate::{Client, Error, call::Call, sse};

/// How long a stream may be silent. The server sends a comment every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// How long answering a request for a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often connecting is tried in a row before giving up.
const RECONNECTS_MAX: u32 = 8;
/// The pause before the second try in a row; doubled for each one after.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whose activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivityScope {
    /// Everything the caller may see in its organization.
    Organization,
    /// One workspace.
    Workspace(WorkspaceId),
}

/// One row of activity.
#[derive(Debug, Clone)]
pub struct ActivityEvent {
    /// The stream's position; give it back to resume after this row.
    pub id: String,
    /// The row; absent when it is of a kind this client does not know.
    pub row: Option<AuditEvent>,
    /// The row as the server sent it.
    pub text: String,
}

/// The events of a workspace or of the organization, from the moment this answers, or after `last_id`. Ends only with an
/// error: a stream that the server closes is opened again.
///
/// # Errors
/// When the first stream cannot be opened.
pub(crate) async fn follow(
    client: &Client,
    scope: ActivityScope,
    last_id: Option<String>,
) -> Result<BoxStream<'static, Result<ActivityEvent, Error>>, Error> {
    let call = match scope {
        ActivityScope::Organization => Call::new("activity_stream"),
        ActivityScope::Workspace(id) => Call::new("workspace_activity_stream").id(id),
    };
    let mut follower = Follower {
        client: client.clone(),
        call,
        parser: sse::Parser::new(last_id),
        chunks: None,
        ready: VecDeque::new(),
        failures: 0,
    };
    follower.open().await?;
    Ok(futures::stream::try_unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Ok(Some((event, follower)))
    })
    .boxed())
}

type Chunks = Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>;

struct Follower {
    client: Client,
    call: Call,
    parser: sse::Parser,
    chunks: Option<Chunks>,
    ready: VecDeque<ActivityEvent>,
    /// Connections in a row that brought nothing.
    failures: u32,
}

impl Follower {
    async fn next(&mut self) -> Result<ActivityEvent, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(chunks) = &mut self.chunks {
                match tokio::time::timeout(SILENCE_MAX, chunks.next()).await {
                    Ok(Some(Ok(chunk))) => self.take(&chunk)?,
                    // Closed, broken or silent: all the same to a reader that resumes where it was.
                    Ok(Some(Err(_)) | None) | Err(_) => self.chunks = None,
                }
            } else {
                self.reopen().await?;
            }
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let before = self.parser.last_id().map(str::to_owned);
        let events = self.parser.push(chunk).map_err(|error| Error::Broken {
            address: self.client.address().to_owned(),
            source: error.into(),
        })?;
        self.failures = 0;
        let mut last = before;
        for event in events {
            if is_repeated(last.as_deref(), &event.id) {
                continue;
            }
            last = Some(event.id.clone());
            let row = serde_json::from_str(&event.data).ok();
            self.ready.push_back(ActivityEvent { id: event.id, row, text: event.data });
        }
        Ok(())
    }

    /// Opens a stream again after one ended, with bounded patience.
    async fn reopen(&mut self) -> Result<(), Error> {
        if self.failures > 0 {
            let pause = PAUSE_MIN.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX);
            tokio::time::sleep(pause).await;
        }
        self.failures += 1;
        match self.open().await {
            Ok(()) => Ok(()),
            Err(error) if self.failures < RECONNECTS_MAX && error.may_pass() => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let last_id = self.parser.last_id().map(str::to_owned);
        let mut request = self.client.stream_request(&self.call);
        if let Some(id) = &last_id {
            request = request.header("last-event-id", id);
        }
        let response = tokio::time::timeout(OPEN_TIMEOUT, request.send())
            .await
            .map_err(|elapsed| Error::Broken {
                address: self.client.address().to_owned(),
                source: elapsed.into(),
            })?
            .map_err(|error| self.client.lost(error))?;
        if !response.status().is_success() {
            return Err(self.client.refusal(response).await);
        }
        // Half an event that was cut off is sent again from its beginning.
        self.parser = sse::Parser::new(last_id);
        self.chunks = Some(Box::pin(response.bytes_stream()));
        Ok(())
    }
}

/// Whether the stream sent this position already. Positions are numbers that grow.
fn is_repeated(last: Option<&str>, id: &str) -> bool {
    match (last.and_then(|last| last.parse::<u64>().ok()), id.parse::<u64>()) {
        (Some(last), Ok(id)) => id <= last,
        _ => !id.is_empty() && last == Some(id),
    }
}
