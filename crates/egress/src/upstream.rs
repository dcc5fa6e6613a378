//! Upstream connections of one workspace. The only code that dials, and it dials a [`Permit`]'s destination alone, but for
//! requests of the server's own.
//!
//! Each workspace has its own pool and TLS sessions, so that two identities never share a connection.

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use freehold_policy::{Destination, Permit, Scheme};
use http::{
    HeaderValue, Request, Response, Uri, Version, header,
    uri::{self, Authority, PathAndQuery},
};
use http_body_util::Empty;
use hyper::body::{Body, Incoming};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{AlertDescription, ClientConfig, pki_types::ServerName};
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::{Limits, deny::Reason, options::ms, passage::Passage, peer::Peer, resolve::Resolver};

/// Bytes read from an upstream at once: a record of TLS, and the next one's beginning.
const READ_BYTES: usize = 18 * 1024;

/// What the upstreams of all workspaces share.
pub(crate) struct Dialer {
    pub(crate) resolver: Arc<Resolver>,
    /// Verified roots; each workspace gets a copy with sessions of its own.
    pub(crate) tls: ClientConfig,
}

/// The upstream side of one workspace.
pub(crate) struct Upstream {
    pools: Pools,
    /// For addresses that rules name, which may be inside. Pools of their own: no other request gets their connections.
    named: Pools,
    connector: Connector,
    response_head: Duration,
}

/// Connections by what the client speaks, since a translation costs time and a little of what was said: who speaks HTTP/1.1
/// has it spoken upstream too, if it is spoken there.
struct Pools {
    http1: Client<Connector, Passage>,
    other: Client<Connector, Passage>,
}

impl Upstream {
    pub(crate) fn new(dialer: &Dialer, limits: &Limits) -> Self {
        let connector = Connector::new(dialer, limits);
        let mut pool = Client::builder(TokioExecutor::new());
        pool.pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(ms(limits.upstream_idle_ms))
            .pool_max_idle_per_host(limits.upstream_idle_max)
            .http1_max_buf_size(limits.head_bytes_max.max(8 * 1024))
            .http2_initial_stream_window_size(limits.upstream_stream_window_bytes)
            .http2_initial_connection_window_size(limits.upstream_connection_window_bytes);
        let pools = |named| {
            let client = |offer| pool.build(Connector { offer, named, ..connector.clone() });
            Pools { http1: client(Offer::Http1First), other: client(Offer::Any) }
        };
        let (pools, named) = (pools(false), pools(true));
        Self { pools, named, connector, response_head: ms(limits.response_head_ms) }
    }

    /// Whether the permitted destination has an address that may be dialled.
    pub(crate) async fn resolve(&self, permit: &Permit) -> Result<(), Reason> {
        self.connector.resolver.resolve(permit.destination(), permit.names_address()).await.map(|_| ())
    }

    /// Sends a request whose target is a path and returns the answer's head; bodies pass as they come.
    pub(crate) async fn send(
        &self,
        permit: &Permit,
        mut request: Request<Passage>,
    ) -> Result<Response<Incoming>, Reason> {
        let pools = if permit.names_address() { &self.named } else { &self.pools };
        let client = if request.version() == Version::HTTP_2 { &pools.other } else { &pools.http1 };
        *request.uri_mut() = absolute(permit.destination(), request.uri())?;
        // What is spoken is the connection's.
        *request.version_mut() = Version::HTTP_11;
        say_length(&mut request);
        match tokio::time::timeout(self.response_head, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                tracing::debug!(
                    egress.destination = %permit.destination(),
                    error = &error as &dyn Error,
                    "upstream failed"
                );
                Err(reason_of(&error))
            }
            Err(_) => Err(Reason::UpstreamTimeout),
        }
    }

    /// Sends a request that asks for an upgrade on an HTTP/1.1 connection of its own.
    pub(crate) async fn send_upgrade(
        &self,
        permit: &Permit,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, Reason> {
        let connector = Connector { named: permit.names_address(), ..self.connector.clone() };
        let sent = connector.send_alone(permit.destination(), request);
        tokio::time::timeout(self.response_head, sent).await.unwrap_or(Err(Reason::UpstreamTimeout))
    }
}

/// Of methods that seldom have a body, hyper sends none whose length it does not know, unless it is told how. (Over HTTP/2 it
/// takes the header off again.)
fn say_length(request: &mut Request<Passage>) {
    if request.body().size_hint().exact().is_none() {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

fn absolute(destination: &Destination, target: &Uri) -> Result<Uri, Reason> {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match destination.scheme() {
        Scheme::Http => uri::Scheme::HTTP,
        Scheme::Https => uri::Scheme::HTTPS,
    });
    parts.authority = Authority::try_from(destination.to_string()).ok();
    parts.path_and_query =
        Some(target.path_and_query().cloned().unwrap_or(const { PathAndQuery::from_static("/") }));
    Uri::from_parts(parts).map_err(|_| Reason::RequestMalformed)
}

/// The reason in an error's chain; what has none broke off.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut chain = std::iter::successors(Some(error), |&error| error.source());
    chain.find_map(|error| error.downcast_ref().copied()).unwrap_or(Reason::UpstreamFailed)
}

type Stream = Either<Peer, TlsStream<BufReader<Peer>>>;

/// What an upstream is offered to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1, and when it says that it speaks none, anything.
    Http1First,
    /// HTTP/2 and HTTP/1.1, as it likes.
    Any,
}

/// Dials for the pool. Resolves again (from a cache that has just been filled), asks the kernel which addresses are this
/// machine's, and so checks what it dials.
#[derive(Clone)]
pub(crate) struct Connector {
    resolver: Arc<Resolver>,
    tls: TlsConnector,
    tls_http1: TlsConnector,
    offer: Offer,
    timeout: Duration,
    /// Whether it dials for rules that name the address itself.
    named: bool,
    /// Room for connections that are kept for further requests: there is no end of destinations, but one of sockets.
    kept: Arc<Semaphore>,
    /// Room for connections, of which those that are kept take a part at most.
    room: Arc<Semaphore>,
    /// How long room is waited for.
    wait: Duration,
}

impl Connector {
    /// One that offers HTTP/1.1 alone, and dials for no rule that names an address.
    pub(crate) fn new(dialer: &Dialer, limits: &Limits) -> Self {
        let tls = |protocols: &[&[u8]]| {
            let mut config = dialer.tls.clone();
            config.resumption = rustls::client::Resumption::in_memory_sessions(32);
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        let places = |max: usize| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        Self {
            resolver: Arc::clone(&dialer.resolver),
            tls: tls(&[b"h2", b"http/1.1"]),
            tls_http1: tls(&[b"http/1.1"]),
            offer: Offer::Http1,
            timeout: ms(limits.connect_ms),
            named: false,
            kept: places(limits.upstream_kept_max),
            room: places(limits.upstream_connections_max),
            wait: ms(limits.upstream_wait_ms),
        }
    }

    async fn dial(&self, destination: &Destination) -> Result<Stream, Reason> {
        let addresses = self.resolver.to_dial(destination, self.named).await?;
        let mut last = Reason::UpstreamUnreachable;
        for &address in addresses.iter() {
            let connected = tokio::time::timeout(self.timeout, self.connect(address, destination)).await;
            match connected.unwrap_or(Err(Reason::UpstreamUnreachable)) {
                Ok(stream) => return Ok(stream),
                Err(reason) => last = reason,
            }
        }
        Err(last)
    }

    /// Sends a request on a connection of its own, by a connector that offers HTTP/1.1 alone.
    pub(crate) async fn send_alone(
        &self,
        destination: &Destination,
        request: Request<impl Body<Data = Bytes, Error = Infallible> + Send + 'static>,
    ) -> Result<Response<Incoming>, Reason> {
        let stream = self.dial(destination).await?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|_| Reason::UpstreamFailed)?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(|_| Reason::UpstreamFailed)
    }

    async fn connect(&self, address: SocketAddr, destination: &Destination) -> Result<Stream, Reason> {
        let tls = if self.offer == Offer::Any { &self.tls } else { &self.tls_http1 };
        match connect(address, destination, tls).await {
            Err(Broken { no_protocol: true, .. }) if self.offer == Offer::Http1First => {
                connect(address, destination, &self.tls).await
            }
            connected => connected,
        }
        .map_err(|broken| broken.reason)
    }
}

/// Why there is no connection.
struct Broken {
    reason: Reason,
    /// The upstream speaks nothing that it was offered.
    no_protocol: bool,
}

impl From<Reason> for Broken {
    fn from(reason: Reason) -> Self {
        Self { reason, no_protocol: false }
    }
}

async fn connect(
    address: SocketAddr,
    destination: &Destination,
    tls: &TlsConnector,
) -> Result<Stream, Broken> {
    let stream = TcpStream::connect(address).await.map_err(|_| Reason::UpstreamUnreachable)?;
    stream.set_nodelay(true).map_err(|_| Reason::UpstreamUnreachable)?;
    let stream = Peer::upstream(stream);
    if destination.scheme() == Scheme::Http {
        return Ok(Either::Left(stream));
    }
    let name = ServerName::try_from(destination.host().to_owned()).map_err(|_| Reason::UpstreamTls)?;
    // TLS asks for 4 KiB at a time, a quarter of a record.
    let stream = BufReader::with_capacity(READ_BYTES, stream);
    tls.connect(name, stream).await.map(Either::Right).map_err(|error| {
        tracing::debug!(egress.destination = %destination, error = %error, "upstream handshake failed");
        Broken { reason: Reason::UpstreamTls, no_protocol: is_no_protocol(&error) }
    })
}

fn is_no_protocol(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

impl tower_service::Service<Uri> for Connector {
    type Response = Leg;
    type Error = Reason;
    type Future = Pin<Box<dyn Future<Output = Result<Leg, Reason>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let scheme = if uri.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
            let port = uri.port_u16().unwrap_or_else(|| scheme.default_port());
            let destination = Destination::new(scheme, uri.host().unwrap_or_default(), port)
                .map_err(|_| Reason::UpstreamUnresolved)?;
            let room = Arc::clone(&connector.room).acquire_owned();
            // The semaphore is never closed.
            let Ok(Ok(room)) = tokio::time::timeout(connector.wait, room).await else {
                return Err(Reason::ConnectionsFull);
            };
            let stream = TokioIo::new(connector.dial(&destination).await?);
            Ok(Leg { stream, kept: connector.kept.try_acquire_owned().ok(), _room: room })
        })
    }
}

/// A connection of a pool, which says whether HTTP/2 was agreed on.
pub(crate) struct Leg {
    stream: TokioIo<Stream>,
    /// None: it serves one request.
    kept: Option<OwnedSemaphorePermit>,
    _room: OwnedSemaphorePermit,
}

impl Connection for Leg {
    fn connected(&self) -> Connected {
        let connected = match self.stream.inner() {
            Either::Right(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        };
        if self.kept.is_none() {
            connected.poison();
        }
        connected
    }
}

impl hyper::rt::Read for Leg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Leg {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }
}
