//! One accepted connection: where it was going, what it speaks, and serving its requests.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use freehold_policy::{Destination, Scheme, normal_host};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::LazyConfigAcceptor;

use crate::{
    audit::{self, Attribution},
    deny::Reason,
    exchange::Connection,
    frame::HEADERS_MAX,
    guard::Guarded,
    nameserver,
    options::ms,
    peer::Peer,
    pod::{Attributed, Pod},
    watch::{Activity, Patience},
};

/// The content type of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
const DNS_PORT: u16 = 53;
/// The smallest buffer that hyper takes for a request's head, in bytes.
const HEAD_BYTES_MIN: usize = 8 * 1024;

/// A connection whose protocol is known, up to its end.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves a connection to its end.
pub(crate) async fn serve(pod: Arc<Pod>, stream: TcpStream, room: OwnedSemaphorePermit) {
    // Boxed: what the beginning takes, a handshake above all, is given back before the first request.
    if let Some(serving) = Box::pin(begin(pod, stream, room)).await {
        serving.await;
    }
}

/// Finds out what a connection speaks. None: it is over.
async fn begin(pod: Arc<Pod>, mut stream: TcpStream, room: OwnedSemaphorePermit) -> Option<Serving> {
    // Before anything is waited for: whose it is does not change with the time that its client takes.
    let whose = pod.attribution();
    let original = pod.original_destination(&mut stream).await?;
    let original = SocketAddr::new(original.ip().to_canonical(), original.port());
    if original.port() == DNS_PORT {
        return Some(Box::pin(async move {
            nameserver::serve_tcp(&pod, stream).await;
            drop(room);
        }));
    }
    // Nagle's delay would hold back small answers; a socket that cannot say so still works.
    let _ = stream.set_nodelay(true);
    let destination = match destination(&pod, original) {
        Ok(destination) => destination,
        Err(reason) => {
            refuse(&pod, &whose.0, original.to_string(), reason).await;
            return None;
        }
    };
    let limit = ms(pod.state.options.limits.client_handshake_ms);
    let mut first = [0];
    match tokio::time::timeout(limit, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => begin_tls(pod, whose, stream, destination, room).await,
        Ok(Ok(1)) if first[0].is_ascii_uppercase() => {
            let activity = Activity::new();
            let stream = Peer::client(stream, Arc::clone(&activity));
            // A host in normal form is its own: this does not fail.
            let destination = Destination::new(Scheme::Http, destination.host(), destination.port()).ok()?;
            let connection = connection(pod, whose, destination, None, activity, room);
            begin_http(Arc::new(connection), stream).await
        }
        // A client that closes without a word asked for nothing.
        Ok(Ok(0) | Err(_)) => None,
        // Something else, or one that waits for the server to speak first.
        Ok(Ok(_)) | Err(_) => {
            refuse(&pod, &whose.0, destination.to_string(), Reason::ProtocolUnknown).await;
            None
        }
    }
}

/// The name whose made-up address it is, or the address itself. With TLS, as long as nobody has spoken.
fn destination(pod: &Pod, original: SocketAddr) -> Result<Destination, Reason> {
    let address = original.ip();
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(Reason::DestinationForbidden);
    }
    let host: Arc<str> = match pod.state.ranges.index(address) {
        None => address.to_string().into(),
        Some(index) => {
            let name = index.zip(pod.workspace.names()).and_then(|(index, names)| names.name(index));
            name.ok_or(Reason::AddressUnknown)?
        }
    };
    Destination::new(Scheme::Https, &host, original.port()).map_err(|_| Reason::AddressUnknown)
}

/// Records that a connection, or a request on it that could not be read, was refused.
async fn refuse(pod: &Pod, attribution: &Attribution, destination: String, reason: Reason) {
    let grant = pod.workspace.grant.load_full();
    let mut row = attribution.http(grant.as_deref(), destination);
    audit::denied(&mut row, reason);
    pod.record(&row).await;
}

fn connection(
    pod: Arc<Pod>,
    (attribution, token, retire): Attributed,
    destination: Destination,
    sni: Option<String>,
    activity: Arc<Activity>,
    room: OwnedSemaphorePermit,
) -> Connection {
    Connection { pod, attribution, token, destination, sni, activity, retire, _room: room }
}

async fn begin_tls(
    pod: Arc<Pod>,
    whose: Attributed,
    stream: TcpStream,
    destination: Destination,
    room: OwnedSemaphorePermit,
) -> Option<Serving> {
    let activity = Activity::new();
    let stream = Peer::client(stream, Arc::clone(&activity));
    let limit = ms(pod.state.options.limits.client_handshake_ms);
    let handshake = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
        let sni = start.client_hello().server_name().map(str::to_owned);
        // A client that names another host than it dialled still gets a certificate, to be told so in its language.
        let named = sni.as_deref().and_then(|sni| normal_host(sni).ok());
        let config =
            pod.state.authority.server_config(named.as_deref().unwrap_or(destination.host())).ok()?;
        let stream = start.into_stream(config).await.ok()?;
        Some((sni, stream))
    };
    let done = tokio::time::timeout(limit, handshake).await.ok().flatten();
    match done {
        Some((sni, stream)) => {
            begin_http(Arc::new(connection(pod, whose, destination, sni, activity, room)), stream).await
        }
        None => {
            refuse(&pod, &whose.0, destination.to_string(), Reason::HandshakeFailed).await;
            None
        }
    }
}

async fn begin_http<S>(connection: Arc<Connection>, stream: S) -> Option<Serving>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &connection.pod.state.options.limits;
    let head_bytes_max = limits.head_bytes_max.max(HEAD_BYTES_MIN);
    let mut stream = Guarded::new(stream, Arc::clone(&connection.activity), head_bytes_max);
    let is_http2 = tokio::select! {
        biased;
        () = connection.retire.cancelled() => return None,
        () = connection.activity.quiet(Patience::of(limits)) => return None,
        begins = stream.begins_as_http2() => begins.unwrap_or_default(),
    };
    if is_http2 && connection.destination.scheme() == Scheme::Http {
        let Connection { pod, attribution, destination, .. } = &*connection;
        refuse(pod, attribution, destination.to_string(), Reason::ProtocolUnknown).await;
        return None;
    }
    let stream = TokioIo::new(stream);
    let service = {
        let connection = Arc::clone(&connection);
        // Boxed, so that a connection that waits for its next request keeps no room for one. Open from here on, not only
        // from when its future is looked at first.
        service_fn(move |request| {
            Box::pin(Arc::clone(&connection).handle(request, connection.activity.open()))
        })
    };
    Some(if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits.client_stream_window_bytes)
            .initial_connection_window_size(limits.client_connection_window_bytes)
            .max_concurrent_streams(limits.streams_per_connection_max)
            .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX));
        let serving = Box::pin(builder.serve_connection(stream, service));
        Box::pin(drive(connection, serving, http2::Connection::graceful_shutdown))
    } else {
        let mut builder = http1::Builder::new();
        // How long a head may take is watched from outside.
        builder
            .header_read_timeout(None)
            .max_headers(limits.headers_max.min(HEADERS_MAX))
            .max_buf_size(head_bytes_max);
        let serving = Box::pin(builder.serve_connection(stream, service).with_upgrades());
        Box::pin(drive(connection, serving, http1::UpgradeableConnection::graceful_shutdown))
    })
}

/// Drives a connection to its end, or until it is quiet for too long; `retire` has it take no further request. Both are looked
/// at first: a request that came after `retire` is not taken, and a flood does not keep the time from passing.
async fn drive<C>(connection: Arc<Connection>, mut serving: Pin<Box<C>>, retire: fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let patience = Patience::of(&connection.pod.state.options.limits);
    let mut retiring = false;
    let result = loop {
        tokio::select! {
            biased;
            () = connection.retire.cancelled(), if !retiring => {
                retiring = true;
                retire(serving.as_mut());
            }
            () = connection.activity.quiet(patience) => return,
            result = serving.as_mut() => break result,
        }
    };
    if let Err(error) = result
        && error.is_parse()
    {
        let is_too_large = error.is_parse_too_large();
        let reason = if is_too_large { Reason::HeadTooLarge } else { Reason::RequestMalformed };
        let Connection { pod, attribution, destination, .. } = &*connection;
        Box::pin(refuse(pod, attribution, destination.to_string(), reason)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are thousands that wait for their next request.
    #[test]
    fn a_connection_takes_little_room() {
        fn bytes<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = bytes(serve);
        assert!(bytes <= 512, "{bytes}");
    }
}
