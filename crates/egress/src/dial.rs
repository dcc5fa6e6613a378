//! Dials upstreams. The only code that does, and it dials a permit's destination alone, but for requests of the server's own.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use freehold_policy::{Destination, Scheme};
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error as TlsError, pki_types::ServerName};
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use crate::{Limits, deny::Reason, options::ms, peer::Peer, resolve::Resolver};

/// Bytes read from an upstream at once: a record of TLS, and the next one's beginning.
const READ_BYTES: usize = 18 * 1024;

/// What the upstreams of all workspaces share.
pub(crate) struct Dialer {
    pub(crate) resolver: Arc<Resolver>,
    /// Verified roots; each workspace gets a copy with sessions of its own.
    pub(crate) tls: ClientConfig,
}

type Stream = Either<Peer, TlsStream<BufReader<Peer>>>;

/// What an upstream is offered to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1, and when it says that it speaks none, anything.
    Http1First,
    /// HTTP/2 and HTTP/1.1, as it likes.
    Any,
}

/// Dials for one workspace. Resolves again (from a cache that has just been filled), asks the kernel which addresses are this
/// machine's, and so checks what it dials.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) resolver: Arc<Resolver>,
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

    /// The same with another offer, or for rules that name the address itself.
    pub(crate) fn with(&self, offer: Offer, named: bool) -> Self {
        Self { offer, named, ..self.clone() }
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

    /// Room for a connection, once there is some.
    pub(crate) async fn room(&self) -> Result<OwnedSemaphorePermit, Reason> {
        let room = tokio::time::timeout(self.wait, Arc::clone(&self.room).acquire_owned()).await;
        // The semaphore is never closed.
        room.ok().and_then(Result::ok).ok_or(Reason::ConnectionsFull)
    }

    /// A connection for a pool.
    pub(crate) async fn leg(
        &self,
        destination: &Destination,
        room: OwnedSemaphorePermit,
    ) -> Result<Leg, Reason> {
        let stream = TokioIo::new(self.dial(destination).await?);
        Ok(Leg { stream, kept: Arc::clone(&self.kept).try_acquire_owned().ok(), _room: room })
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

impl Broken {
    /// What a handshake failed with, where TLS knows it.
    fn by(error: Option<&TlsError>) -> Self {
        let reason = match error {
            // With a signature that does not fit, it is of another authority of the same name.
            Some(TlsError::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => Reason::UpstreamUntrusted,
            Some(TlsError::InvalidCertificate(_)) => Reason::UpstreamCertificate,
            _ => Reason::UpstreamTls,
        };
        let no_protocol =
            matches!(error, Some(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)));
        Self { reason, no_protocol }
    }
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
        Broken::by(error.get_ref().and_then(|error| error.downcast_ref()))
    })
}

/// A connection of a pool. It has its places for as long as it is open: whoever drives it may be done before.
pub(crate) struct Leg {
    stream: TokioIo<Stream>,
    /// None: it serves one request.
    kept: Option<OwnedSemaphorePermit>,
    _room: OwnedSemaphorePermit,
}

impl Leg {
    /// Whether HTTP/2 was agreed on.
    pub(crate) fn is_http2(&self) -> bool {
        let Either::Right(stream) = self.stream.inner() else { return false };
        stream.get_ref().1.alpn_protocol() == Some(b"h2")
    }

    /// Whether it may serve further requests.
    pub(crate) const fn is_kept(&self) -> bool {
        self.kept.is_some()
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
