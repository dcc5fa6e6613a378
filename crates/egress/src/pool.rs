//! Connections to upstreams that are kept for further requests, by destination.
//!
//! A connection of HTTP/1.1 is put back as soon as the head of its answer has come, and is taken again when the rest has: to ask
//! it costs an atomic read, to wait for it would cost each request a task.

use std::{
    collections::BTreeMap,
    error::Error,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use freehold_policy::{Destination, Scheme};
use http::{
    HeaderValue, Request, Response, Uri, Version, header,
    request::Parts,
    uri::{self, Authority, PathAndQuery},
};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::{Limits, dial::Connector, options::ms, passage::Passage};

/// How often it is looked for connections that were kept long enough, where they are to be kept for less.
const SWEEP_MIN: Duration = Duration::from_millis(100);

/// How often a request that waits for room for a connection looks whether one that was kept is free.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a request failed with; somewhere in it may be a [`Reason`](crate::Reason).
type Failure = Box<dyn Error + Send + Sync>;

/// Connections that one connector dialled.
pub(crate) struct Pool {
    connector: Connector,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    kept: Arc<Kept>,
}

/// Those that may be asked again.
struct Kept {
    hosts: Mutex<Hosts>,
    /// How long one is kept without being asked.
    idle: Duration,
    /// How many of HTTP/1.1 that nobody uses are kept for a destination.
    idle_max: usize,
    /// After how many that were put back it is looked for those that were closed.
    closed_max: usize,
}

#[derive(Default)]
struct Hosts {
    by_destination: BTreeMap<Destination, Host>,
    /// Connections that were put back since it was looked for closed ones.
    put_back: usize,
    /// Whether a task looks for what was kept long enough.
    is_swept: bool,
}

/// The connections to a destination.
#[derive(Default)]
struct Host {
    /// What was used last is last. They may still be busy with an answer's body.
    http1: Vec<(http1::SendRequest<Box<Passage>>, Instant)>,
    /// All requests share one.
    http2: Option<(http2::SendRequest<Box<Passage>>, Instant)>,
}

enum Sender {
    Http1(http1::SendRequest<Box<Passage>>),
    Http2(http2::SendRequest<Box<Passage>>),
}

/// A connection for a request.
struct Taken {
    sender: Sender,
    /// Whether it may serve others after it.
    is_kept: bool,
    /// Whether it served none before it.
    is_new: bool,
}

impl Pool {
    pub(crate) fn new(connector: Connector, limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1.max_buf_size(limits.head_bytes_max.max(8 * 1024));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.upstream_stream_window_bytes)
            .initial_connection_window_size(limits.upstream_connection_window_bytes);
        let kept = Kept {
            hosts: Mutex::default(),
            idle: ms(limits.upstream_idle_ms),
            idle_max: limits.upstream_idle_max,
            closed_max: limits.upstream_kept_max / 4,
        };
        Self { connector, http1, http2, kept: Arc::new(kept) }
    }

    /// Sends a request whose target is a path, and returns the head of the answer. A connection that was kept may have been closed
    /// by the upstream meanwhile: a request of which nothing was written yet goes on another one.
    pub(crate) async fn send(
        &self,
        destination: &Destination,
        mut parts: Box<Parts>,
        mut body: Box<Passage>,
    ) -> Result<Response<Incoming>, Failure> {
        loop {
            let Taken { mut sender, is_kept, is_new } = match self.kept.take(destination) {
                Some(taken) => taken,
                None => Box::pin(self.dial(destination)).await?,
            };
            match sender.send(destination, parts, body).await {
                Ok(response) => {
                    // One of HTTP/2 is there already.
                    if is_kept && matches!(sender, Sender::Http1(_)) {
                        self.keep(destination, sender);
                    }
                    return Ok(response);
                }
                Err(mut error) => match error.take_message().filter(|_| !is_new) {
                    Some(unsent) => {
                        let (head, rest) = unsent.into_parts();
                        (parts, body) = (Box::new(head), rest);
                    }
                    None => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// A new connection; or, while there is no room for one, one that was kept and becomes free.
    async fn dial(&self, destination: &Destination) -> Result<Taken, Failure> {
        let mut room = pin!(self.connector.room());
        let room = loop {
            match tokio::time::timeout(LOOK_AGAIN, &mut room).await {
                Ok(room) => break room?,
                Err(_) => {
                    if let Some(taken) = self.kept.take(destination) {
                        return Ok(taken);
                    }
                }
            }
        };
        let leg = self.connector.leg(destination, room).await?;
        let is_kept = leg.is_kept();
        if leg.is_http2() {
            let (sender, connection) = self.http2.handshake(leg).await?;
            tokio::spawn(connection);
            if is_kept {
                // Others need not wait for the first answer.
                self.keep(destination, Sender::Http2(sender.clone()));
            }
            return Ok(Taken { sender: Sender::Http2(sender), is_kept, is_new: true });
        }
        let (sender, connection) = self.http1.handshake(leg).await?;
        tokio::spawn(connection);
        Ok(Taken { sender: Sender::Http1(sender), is_kept, is_new: true })
    }

    fn keep(&self, destination: &Destination, sender: Sender) {
        let mut hosts = self.kept.hosts();
        hosts.put_back += 1;
        if hosts.put_back >= self.kept.closed_max {
            // What was closed meanwhile has no place any more among those that are counted, but takes some KiB.
            hosts.put_back = 0;
            hosts.by_destination.retain(|_, host| host.is_open());
        }
        if !hosts.by_destination.contains_key(destination) {
            hosts.by_destination.insert(destination.clone(), Host::default());
        }
        if let Some(host) = hosts.by_destination.get_mut(destination) {
            host.keep(sender, self.kept.idle_max);
        }
        if !hosts.is_swept {
            hosts.is_swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.kept), self.kept.idle.max(SWEEP_MIN)));
        }
    }
}

/// Ends connections that were kept long enough, for as long as there are any.
async fn sweep(kept: Weak<Kept>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut hosts = kept.hosts();
        let now = Instant::now();
        hosts.by_destination.retain(|_, host| host.sweep(now, &kept));
        hosts.is_swept = !hosts.by_destination.is_empty();
        if !hosts.is_swept {
            return;
        }
    }
}

impl Kept {
    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, destination: &Destination) -> Option<Taken> {
        let sender = self.hosts().by_destination.get_mut(destination)?.take(self.idle)?;
        Some(Taken { sender, is_kept: true, is_new: false })
    }
}

impl Host {
    /// The connection that was used last, of those that are free.
    fn take(&mut self, idle: Duration) -> Option<Sender> {
        if let Some((sender, used)) = self.http2.as_mut().filter(|(sender, _)| sender.is_ready()) {
            *used = Instant::now();
            return Some(Sender::Http2(sender.clone()));
        }
        loop {
            let free = self.http1.iter().rposition(|(sender, _)| sender.is_ready())?;
            let (sender, used) = self.http1.remove(free);
            // The upstream of one that was kept for longer may be about to close it.
            if used.elapsed() < idle {
                return Some(Sender::Http1(sender));
            }
        }
    }

    fn keep(&mut self, sender: Sender, idle_max: usize) {
        let now = Instant::now();
        match sender {
            // Of two that were dialled at the same time the first is kept.
            Sender::Http2(sender) => {
                let first = self.http2.take().filter(|(first, _)| first.is_ready());
                self.http2 = first.or(Some((sender, now)));
            }
            Sender::Http1(sender) if idle_max > 0 => {
                self.http1.push((sender, now));
                self.trim(idle_max);
            }
            Sender::Http1(_) => {}
        }
    }

    /// Drops what was closed, and of what is free what was used first beyond so many.
    fn trim(&mut self, idle_max: usize) {
        if self.http1.len() <= idle_max {
            return;
        }
        self.http1.retain(|(sender, _)| !sender.is_closed());
        let free = self.http1.iter().filter(|(sender, _)| sender.is_ready()).count();
        let mut beyond = free.saturating_sub(idle_max);
        self.http1.retain(|(sender, _)| {
            let is_dropped = beyond > 0 && sender.is_ready();
            beyond -= usize::from(is_dropped);
            !is_dropped
        });
    }

    /// Drops what was closed. False: nothing is left.
    fn is_open(&mut self) -> bool {
        self.http1.retain(|(sender, _)| !sender.is_closed());
        self.http2 = self.http2.take().filter(|(sender, _)| sender.is_ready());
        self.http2.is_some() || !self.http1.is_empty()
    }

    /// Drops what was kept long enough. False: nothing is left.
    fn sweep(&mut self, now: Instant, kept: &Kept) -> bool {
        self.trim(kept.idle_max);
        let is_old = |used: Instant| now.saturating_duration_since(used) >= kept.idle;
        self.http1.retain_mut(|(sender, used)| {
            if !sender.is_ready() {
                *used = now;
            }
            !is_old(*used)
        });
        self.http2 = self.http2.take().filter(|(_, used)| !is_old(*used));
        self.is_open()
    }
}

impl Sender {
    async fn send(
        &mut self,
        destination: &Destination,
        mut parts: Box<Parts>,
        body: Box<Passage>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Box<Passage>>>> {
        // What is spoken is the connection's.
        parts.version = Version::HTTP_11;
        match self {
            Self::Http1(sender) => {
                to_origin(destination, &mut parts);
                sender.try_send_request(Request::from_parts(*parts, body)).await
            }
            Self::Http2(sender) => {
                parts.uri = absolute(destination, &parts.uri);
                sender.try_send_request(Request::from_parts(*parts, body)).await
            }
        }
    }
}

/// Gives a request the form that it has on a connection of HTTP/1.1: a path as its target, and the host in a header.
fn to_origin(destination: &Destination, parts: &mut Parts) {
    if parts.uri.authority().is_some() {
        parts.uri = Uri::from(path_of(&parts.uri));
    }
    if !parts.headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::try_from(destination.to_string())
    {
        parts.headers.insert(header::HOST, host);
    }
}

/// The target of a request over HTTP/2, with the destination in it. One that cannot be put together has none, and is refused by h2.
fn absolute(destination: &Destination, target: &Uri) -> Uri {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match destination.scheme() {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Authority::try_from(destination.to_string()).ok();
    parts.path_and_query = Some(path_of(target));
    Uri::from_parts(parts).unwrap_or_default()
}

fn path_of(target: &Uri) -> PathAndQuery {
    target.path_and_query().cloned().unwrap_or(const { PathAndQuery::from_static("/") })
}
