//! Reads an answer: bytes to events to parts.
//!
//! Invariant: the only way to an `Answer` is a decoder that met the wire's own end; the end of the bytes is a cut.

use std::time::Duration;

use bytes::Bytes;
use freehold_model::event::{ContentPart, ToolCall};
use futures::{Stream, StreamExt, stream};
use serde_json::Value;
use sse_stream::SseByteStream;

use crate::{Answer, Delta, Error};

/// The most bytes of one answer on the wire; more is garbage.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long to wait, after the wire's end, for the connection to become free for the next call.
const DRAIN_WAIT: Duration = Duration::from_millis(20);

/// One wire's decoder of one answer.
pub(crate) trait Decode: Send {
    /// Takes the data of one event; gives the answer at the wire's end.
    fn event(
        &mut self,
        data: &str,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Option<Answer>, Error>;
}

/// What ends a stream of bytes early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the connection broke")]
    Transport(#[source] reqwest::Error),
    #[error("nothing came for {0:?}")]
    Stalled(Duration),
    #[error("it is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        let message = broken.to_string();
        match broken {
            Broken::Transport(source) => Self::Unavailable { after: None, message, source: Some(source) },
            Broken::Stalled(_) => Self::Unavailable { after: None, message, source: None },
            Broken::TooLong => Self::Garbage { message },
        }
    }
}

/// The pieces of a response's body, each waited for at most `between`, all of them within [`ANSWER_BYTES_MAX`].
pub(crate) fn pieces(
    response: reqwest::Response,
    between: Duration,
) -> impl Stream<Item = Result<Bytes, Broken>> + Send {
    stream::try_unfold((response, 0_usize), move |(mut response, mut read)| async move {
        let piece = tokio::time::timeout(between, response.chunk()).await;
        let Some(piece) = piece.map_err(|_| Broken::Stalled(between))?.map_err(Broken::Transport)? else {
            return Ok(None);
        };
        read = read.saturating_add(piece.len());
        if read > ANSWER_BYTES_MAX {
            return Err(Broken::TooLong);
        }
        Ok(Some((piece, (response, read))))
    })
}

/// Reads one answer from `pieces`.
pub(crate) async fn answer(
    pieces: impl Stream<Item = Result<Bytes, Broken>> + Send,
    decoder: &mut dyn Decode,
    tell: &mut (dyn FnMut(Delta<'_>) + Send),
) -> Result<Answer, Error> {
    let mut events = std::pin::pin!(SseByteStream::new(pieces));
    while let Some(event) = events.next().await {
        let data = match event {
            Ok(event) => event.data.unwrap_or_default(),
            Err(sse_stream::Error::Body(cause)) => {
                return Err(match cause.downcast::<Broken>() {
                    Ok(broken) => (*broken).into(),
                    Err(other) => garbage("the stream", &other),
                });
            }
            Err(other) => return Err(garbage("the stream", &other)),
        };
        if data.is_empty() {
            continue;
        }
        if let Some(answer) = decoder.event(&data, tell)? {
            // The answer is complete whatever this finds; a connection read to its end is used again.
            _ = tokio::time::timeout(DRAIN_WAIT, events.next()).await;
            return Ok(answer);
        }
    }
    Err(Error::Unavailable {
        after: None,
        message: "the answer was cut before its end".to_owned(),
        source: None,
    })
}

/// An answer that does not parse: where, and why.
pub(crate) fn garbage(place: &str, why: &impl std::fmt::Display) -> Error {
    Error::Garbage { message: format!("{place}: {why}") }
}

/// A finished tool call. No arguments at all mean an empty object; a text that is not JSON is passed on as it is.
pub(crate) fn tool_call(id: String, name: String, arguments: &str) -> ContentPart {
    let arguments = if arguments.trim().is_empty() {
        Value::Object(serde_json::Map::new())
    } else {
        serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.to_owned()))
    };
    ContentPart::ToolCall(ToolCall { id, name, arguments })
}

/// The arguments of a call as the text the model wrote.
pub(crate) fn arguments_text(arguments: &Value) -> String {
    match arguments {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
