//! The way to the control plane: connects, says hello, and does so again for ever when it is lost.

use std::{path::PathBuf, time::Duration};

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

#[derive(Debug)]
pub(crate) struct Link {
    path: PathBuf,
    stream: Option<(Reader<UnixStream>, Writer<UnixStream>)>,
    retry_at: Instant,
    delay: Duration,
}

impl Link {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stream: None, retry_at: Instant::now(), delay: RECONNECT_DELAY_FIRST }
    }

    /// The next thing that happens. Cancel safe.
    pub(crate) async fn next(&mut self) -> LinkEvent {
        let Some((reader, _)) = &mut self.stream else {
            return self.connect().await;
        };
        match reader.receive().await {
            Ok(Some(message)) => LinkEvent::Message(Box::new(message)),
            Ok(None) => self.lost(),
            Err(error) => {
                tracing::warn!(%error, "pod-api: the connection broke");
                self.lost()
            }
        }
    }

    /// Says something; a stream that does not take it is given up. What must not be lost is repeated by its sender.
    pub(crate) async fn send(&mut self, message: &FromAgent) {
        let Some((_, writer)) = &mut self.stream else { return };
        match timeout(SEND_WAIT_MAX, writer.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "pod-api: a message could not be sent");
                self.close();
            }
            Err(_) => {
                tracing::warn!("pod-api: the control plane does not read");
                self.close();
            }
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
                self.stream = Some(Connection::new(stream).split());
                LinkEvent::Connected
            }
            Err(error) => {
                tracing::debug!(%error, "pod-api: no control plane");
                self.lost()
            }
        }
    }
}
