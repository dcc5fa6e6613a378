//! Framing: one JSON value a line, each at most [`FRAME_BYTES_MAX`] bytes.

use futures::{SinkExt, StreamExt};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LinesCodec, LinesCodecError};

/// The longest line, in bytes.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream broke.
    #[error("the pod-api stream broke")]
    Io(#[source] std::io::Error),
    /// A line was longer than [`FRAME_BYTES_MAX`].
    #[error("a pod-api message was longer than {FRAME_BYTES_MAX} bytes")]
    TooLong,
    /// A line was not a message.
    #[error("a pod-api message could not be understood")]
    Malformed(#[source] serde_json::Error),
}

impl From<LinesCodecError> for Error {
    fn from(error: LinesCodecError) -> Self {
        match error {
            LinesCodecError::MaxLineLengthExceeded => Self::TooLong,
            LinesCodecError::Io(source) => Self::Io(source),
        }
    }
}

/// A stream that carries messages.
#[derive(Debug)]
pub struct Connection<S> {
    reader: Reader<S>,
    writer: Writer<S>,
}

/// The receiving half.
#[derive(Debug)]
pub struct Reader<S>(FramedRead<ReadHalf<S>, LinesCodec>);

/// The sending half.
#[derive(Debug)]
pub struct Writer<S>(FramedWrite<WriteHalf<S>, LinesCodec>);

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    /// Carries messages over `stream`.
    pub fn new(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        let codec = || LinesCodec::new_with_max_length(FRAME_BYTES_MAX);
        Self {
            reader: Reader(FramedRead::new(read, codec())),
            writer: Writer(FramedWrite::new(write, codec())),
        }
    }

    /// The two halves, for tasks of their own.
    pub fn split(self) -> (Reader<S>, Writer<S>) {
        (self.reader, self.writer)
    }

    /// Receives one message; `None` when the peer closed the stream. Cancel safe.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        self.reader.receive().await
    }

    /// Sends one message.
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T) -> Result<(), Error> {
        self.writer.send(message).await
    }
}

impl<S: AsyncRead> Reader<S> {
    /// Receives one message; `None` when the peer closed the stream. Cancel safe.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        match self.0.next().await {
            None => Ok(None),
            Some(line) => serde_json::from_str(&line?).map(Some).map_err(Error::Malformed),
        }
    }
}

impl<S: AsyncWrite> Writer<S> {
    /// Sends one message.
    pub async fn send<T: Serialize + Sync>(&mut self, message: &T) -> Result<(), Error> {
        let line = serde_json::to_string(message).map_err(Error::Malformed)?;
        if line.len() > FRAME_BYTES_MAX {
            return Err(Error::TooLong);
        }
        Ok(self.0.send(line).await?)
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::PodId;

    use super::*;
    use crate::{AgentInfo, FromAgent, PROTOCOL};

    #[tokio::test]
    async fn a_message_arrives_as_it_was_sent() {
        let (here, there) = tokio::io::duplex(64);
        let (mut here, mut there) = (Connection::new(here), Connection::new(there));
        let hello = FromAgent::Hello {
            protocols: vec![PROTOCOL],
            agent: AgentInfo { name: "a\nb".into(), version: "1".into() },
            pod_id: "pod_01933b5a000070008000000000000001".parse::<PodId>().unwrap(),
        };
        let (sent, received) = tokio::join!(here.send(&hello), there.receive::<FromAgent>());
        sent.unwrap();
        assert_eq!(received.unwrap(), Some(hello));
        drop(here);
        assert_eq!(there.receive::<FromAgent>().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error_and_not_a_panic() {
        for bytes in [&b"{}\n"[..], b"null\n", b"\xff\xfe\n", b"{\"type\":\"hello\"}\n", b"[[[[\n"] {
            let (mut raw, there) = tokio::io::duplex(64);
            tokio::io::AsyncWriteExt::write_all(&mut raw, bytes).await.unwrap();
            assert!(Connection::new(there).receive::<FromAgent>().await.is_err(), "{bytes:?}");
        }
    }
}
