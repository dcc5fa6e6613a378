//! The way to the control plane: connects, says hello, and does so again for ever when it is lost.

use std::{collections::VecDeque, future::Future, path::PathBuf, pin::Pin, time::Duration};

use freehold_pod_api::{Connection, FromAgent, Reader, ToAgent, Writer};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep_until, timeout},
};

/// The delay before the first new attempt; it doubles up to [`RECONNECT_DELAY_MAX`].
const RECONNECT_DELAY_FIRST: Duration = Duration::from_millis(20);
/// The longest delay between two attempts.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(2);
/// How long a message may take to be written before the peer is taken for dead.
const SEND_WAIT_MAX: Duration = Duration::from_secs(30);
/// The most messages that wait to be written.
const OUTBOX_MESSAGES_MAX: usize = 1024;

/// What happened on the link.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// There is a stream; nothing was said on it yet.
    Connected,
    /// The control plane said something.
    Message(Box<ToAgent>),
    /// The stream is gone.
    Lost,
}

pub(crate) struct Link {
    path: PathBuf,
    stream: Option<Stream>,
    retry_at: Instant,
    delay: Duration,
}

/// Reading goes on while a message is written: two peers that wait for each other to read would wait for ever.
struct Stream {
    reader: Reader<UnixStream>,
    /// Absent while a message is written.
    writer: Option<Writer<UnixStream>>,
    writing: Option<Writing>,
    outbox: VecDeque<FromAgent>,
}

/// A message being written; gives the writer back when it is.
type Writing = Pin<Box<dyn Future<Output = Option<Writer<UnixStream>>>>>;

impl Stream {
    async fn next(&mut self) -> Option<ToAgent> {
        loop {
            if let Some(writer) = self.writer.take_if(|_| !self.outbox.is_empty()) {
                let message = self.outbox.pop_front()?;
                self.writing = Some(Box::pin(write(writer, message)));
            }
            tokio::select! {
                received = self.reader.receive() => return received.unwrap_or_else(|error| {
                    tracing::warn!(%error, "pod-api: the connection broke");
                    None
                }),
                writer = written(&mut self.writing) => {
                    self.writing = None;
                    self.writer = Some(writer?);
                }
            }
        }
    }
}

async fn write(mut writer: Writer<UnixStream>, message: FromAgent) -> Option<Writer<UnixStream>> {
    match timeout(SEND_WAIT_MAX, writer.send(&message)).await {
        Ok(Ok(())) => Some(writer),
        Ok(Err(error)) => {
            tracing::warn!(%error, "pod-api: a message could not be sent");
            None
        }
        Err(_) => {
            tracing::warn!("pod-api: the control plane does not read");
            None
        }
    }
}

async fn written(writing: &mut Option<Writing>) -> Option<Writer<UnixStream>> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}

impl Link {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stream: None, retry_at: Instant::now(), delay: RECONNECT_DELAY_FIRST }
    }

    /// The next thing that happens; messages are written meanwhile. Cancel safe.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let Some(stream) = &mut self.stream else {
            return self.connect().await;
        };
        match stream.next().await {
            Some(message) => LinkEvent::Message(Box::new(message)),
            None => self.lost(),
        }
    }

    /// Says something, if there is anybody; a peer that does not take it is given up. What must not be lost is repeated
    /// by its sender.
    pub(crate) fn send(&mut self, message: FromAgent) {
        let Some(stream) = &mut self.stream else { return };
        if stream.outbox.len() < OUTBOX_MESSAGES_MAX {
            stream.outbox.push_back(message);
        } else {
            tracing::warn!("pod-api: the control plane does not keep up");
            // The next read finds the end.
            stream.outbox.clear();
            stream.writing = Some(Box::pin(std::future::ready(None)));
        }
    }

    /// The control plane welcomed us: the next loss is a new one.
    pub(crate) const fn settled(&mut self) {
        self.delay = RECONNECT_DELAY_FIRST;
    }

    /// Gives the stream up; it is made anew after a delay.
    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.retry_at = Instant::now() + self.delay;
        self.delay = (self.delay * 2).min(RECONNECT_DELAY_MAX);
    }

    fn lost(&mut self) -> LinkEvent {
        self.close();
        LinkEvent::Lost
    }

    async fn connect(&mut self) -> LinkEvent {
        sleep_until(self.retry_at).await;
        match UnixStream::connect(&self.path).await {
            Ok(stream) => {
                let (reader, writer) = Connection::new(stream).split();
                let (writer, outbox) = (Some(writer), VecDeque::new());
                self.stream = Some(Stream { reader, writer, writing: None, outbox });
                LinkEvent::Connected
            }
            Err(error) => {
                tracing::debug!(%error, "pod-api: no control plane");
                self.lost()
            }
        }
    }
}
