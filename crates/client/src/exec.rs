//! A command's output as it is written.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use freehold_api::workspace::{ExecLine, OutputStream};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    io::StreamReader,
};

use crate::{ApiError, Client, Error};

/// The most bytes of one line of the answer.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// It ended. Nothing follows.
    Ended {
        /// Its exit code; 128 and the signal's number when a signal ended it.
        exit_code: i32,
        /// Whether it was killed at its timeout.
        timed_out: bool,
    },
}

/// The events of one command. Dropping it closes the connection, which kills the command.
pub struct ExecStream {
    lines: BoxStream<'static, Result<String, Error>>,
}

/// The lines of an answer, as they come.
pub(crate) fn lines(
    client: &Client,
    response: reqwest::Response,
) -> BoxStream<'static, Result<String, Error>> {
    let address = client.address().to_owned();
    let reader = StreamReader::new(response.bytes_stream().map_err(std::io::Error::other));
    let lines = FramedRead::new(reader, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
    lines.map_err(move |source| Error::Broken { address: address.clone(), source: source.into() }).boxed()
}

impl ExecStream {
    pub(crate) fn new(client: &Client, response: reqwest::Response) -> Self {
        Self { lines: lines(client, response) }
    }

    /// The next event.
    ///
    /// # Errors
    /// When the connection breaks, the server says that the command was lost, or the output ends without
    /// [`ExecEvent::Ended`].
    pub async fn next(&mut self) -> Result<ExecEvent, Error> {
        let line = self.lines.next().await.ok_or(Error::Cut)??;
        let contract = |source| Error::Contract { operation: "workspace_exec", source };
        match serde_json::from_str(&line).map_err(contract)? {
            ExecLine::Output { stream, data_base64 } => {
                let bytes = BASE64_STANDARD
                    .decode(data_base64)
                    .map_err(|error| contract(serde::de::Error::custom(error)))?
                    .into();
                Ok(match stream {
                    OutputStream::Stdout => ExecEvent::Stdout(bytes),
                    OutputStream::Stderr => ExecEvent::Stderr(bytes),
                })
            }
            ExecLine::Ended { exit_code, timed_out } => Ok(ExecEvent::Ended { exit_code, timed_out }),
            ExecLine::Failed { error } => Err(Error::Api(Box::new(ApiError {
                status: error.code.status(),
                code: error.code.as_str().to_owned(),
                message: error.message,
                request_id: error.request_id,
                details: error.details,
            }))),
        }
    }
}
