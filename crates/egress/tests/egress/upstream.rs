//! An upstream server on loopback with a certificate of the test's own authority.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

type Body = BoxBody<Bytes, hyper::Error>;

/// A request as the upstream got it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// The test's authority and a server for the names of the tests.
pub struct Upstream {
    pub address: SocketAddr,
    pub ca_pem: String,
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub connections: Arc<AtomicUsize>,
    /// Sends the next event of `/events`; the stream ends when it is closed.
    pub events: mpsc::Sender<Bytes>,
}

/// An address inside, for which the certificate counts too.
pub const INSIDE: &str = "10.1.2.3";

/// Whether and how the server speaks TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    Http1,
    Http2,
    /// HTTP/2 rather than HTTP/1.1.
    Either,
    Plain,
}

impl Upstream {
    pub async fn start(speaks: Speaks) -> Self {
        Self::start_at("127.0.0.1", speaks).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(address: &str, speaks: Speaks) -> Self {
        Self::start_on(std::net::TcpListener::bind((address, 0)).unwrap(), speaks).await
    }

    /// The same on a listener.
    pub async fn start_on(listener: std::net::TcpListener, speaks: Speaks) -> Self {
        let (ca_pem, tls) = certificates(speaks);
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let (events, receiver) = mpsc::channel(8);
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let server = Server { seen: Arc::clone(&seen), events: Arc::new(Mutex::new(Some(receiver))) };
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).unwrap();
                let (server, tls) = (server.clone(), tls.clone());
                tokio::spawn(async move {
                    if speaks == Speaks::Plain {
                        server.serve(stream).await;
                    } else if let Ok(stream) = tls.accept(stream).await {
                        server.serve(stream).await;
                    }
                });
            }
        });
        Self { address, ca_pem, seen, connections, events }
    }

    /// A server over TLS that answers each connection's first request with these bytes, whatever they are, and closes;
    /// with `hold` it keeps the connection open instead, without another byte.
    pub async fn scripted(answer: impl Into<Bytes>, hold: bool) -> Self {
        let (ca_pem, tls) = certificates(Speaks::Http1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, connections) = (answer.into(), Arc::<AtomicUsize>::default());
        let counter = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (tls, answer) = (tls.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    let mut head = Vec::new();
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let _ = stream.write_all(&answer).await;
                    let _ = stream.flush().await;
                    if hold {
                        let _ = stream.read_to_end(&mut head).await;
                    }
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { address, ca_pem, seen: Arc::default(), connections, events: mpsc::channel(1).0 }
    }

    pub fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().expect("no request came").clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn certificates(speaks: Speaks) -> (String, TlsAcceptor) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&params, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["api.test", "ws.test", "model.test", INSIDE].map(str::to_owned))
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = match speaks {
        Speaks::Http2 => vec![b"h2".to_vec()],
        Speaks::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        Speaks::Http1 | Speaks::Plain => vec![b"http/1.1".to_vec()],
    };
    (ca.pem(), TlsAcceptor::from(Arc::new(config)))
}

#[derive(Clone)]
struct Server {
    seen: Arc<Mutex<Vec<Seen>>>,
    events: Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>,
}

impl Server {
    async fn serve<S>(&self, stream: S)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let server = self.clone();
        let service = service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        let target = request.uri().path_and_query().unwrap().to_string();
        let upgrade =
            request.headers().contains_key(header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return Response::new(full("cut")) };
        let seen = Seen {
            method: parts.method,
            target: target.clone(),
            version: parts.version,
            headers: parts.headers,
            trailers: body.trailers().cloned(),
            body: body.to_bytes(),
        };
        let echoed = seen.body.clone();
        let reflected = seen.headers.get("x-reflect").map(|size| size.to_str().unwrap().parse().unwrap());
        let headers = seen.headers.clone();
        self.seen.lock().unwrap().push(seen);
        if let Some(upgrade) = upgrade {
            return echo_upgraded(upgrade);
        }
        if let Some(size) = reflected {
            return reflect(&headers, &echoed, size);
        }
        match target.split('?').next().unwrap() {
            "/events" => {
                let events = self.events.lock().unwrap().take().expect("one stream of events a server");
                let mut response = Response::new(channel(events));
                response
                    .headers_mut()
                    .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                response
            }
            "/trailers" => {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let frames = [Ok(Frame::data(Bytes::from_static(b"data"))), Ok(Frame::trailers(trailers))];
                let mut response = Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))));
                response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("grpc-status"));
                response
            }
            _ => {
                // Echoes the body as the request wants it: of this type, with this status, without a length.
                let wanted = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
                let mut response = match wanted("x-answer-chunk") {
                    None => Response::new(full(echoed)),
                    Some(size) => Response::new(pieces(&echoed, size.parse().unwrap())),
                };
                if let Some(kind) = wanted("x-answer-type") {
                    response.headers_mut().insert(header::CONTENT_TYPE, kind.parse().unwrap());
                }
                *response.status_mut() =
                    wanted("x-answer-status").map_or(StatusCode::OK, |status| status.parse().unwrap());
                response.headers_mut().insert(header::ALT_SVC, HeaderValue::from_static("h3=\":443\""));
                response
            }
        }
    }
}

/// A refusal that repeats the request's headers and body, as some servers do: in the body in pieces of `size` bytes, in
/// headers and in trailers.
fn reflect(headers: &HeaderMap, body: &[u8], size: usize) -> Response<Body> {
    let key = headers.get("x-api-key").or_else(|| headers.get(header::AUTHORIZATION)).unwrap();
    let mut text = Vec::new();
    for (name, value) in headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    text.extend(body);
    let mut frames: Vec<_> =
        text.chunks(size).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    frames
        .push(Ok(Frame::trailers(HeaderMap::from_iter([(HeaderName::from_static("x-echo"), key.clone())]))));
    Response::builder()
        .status(StatusCode::UNAUTHORIZED)
        .header(header::LOCATION, key)
        .header(header::SET_COOKIE, key)
        .header(header::TRAILER, "x-echo")
        .body(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames))))
        .unwrap()
}

fn echo_upgraded(upgrade: hyper::upgrade::OnUpgrade) -> Response<Body> {
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..length]).await.unwrap();
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .body(full(""))
        .unwrap()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

fn pieces(bytes: &[u8], size: usize) -> Body {
    let frames: Vec<_> =
        bytes.chunks(size).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)))
}

fn channel(receiver: mpsc::Receiver<Bytes>) -> Body {
    use tokio_stream::StreamExt;
    let frames = ReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes)));
    BodyExt::boxed(StreamBody::new(frames))
}
