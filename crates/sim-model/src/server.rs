//! The HTTP side: connections, keys, statuses and the sending of a body as scripted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use futures::stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::conversation::Conversation;
use crate::play::{self, Piece, Tries};
use crate::scenario::{Answer, Body, Refusal, Scenario, Step, Stop};
use crate::shape;
use crate::wire::{Frame, Meta, Wire, pace};

/// The most bytes of a request's body, as at Anthropic.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most connections at once; further ones wait.
pub const CONNECTIONS_MAX: usize = 4_096;
/// The longest wait for a TLS handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// The wait after a failed accept, for example when files have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes that count as one token where nothing else is scripted.
const BYTES_PER_TOKEN: usize = 4;

struct Model {
    scenario: Scenario,
    tries: Tries,
    answered: AtomicU64,
}

/// A running model server. Dropping it stops accepting and breaks its connections.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    model: Arc<Model>,
    task: JoinHandle<()>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl Handle {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests it has received on the wires' routes, refused ones included.
    pub fn requests(&self) -> u64 {
        self.model.answered.load(Ordering::Relaxed)
    }

    /// Waits until the server ends, which it does only when it is dropped or its runtime stops.
    pub async fn wait(mut self) {
        _ = (&mut self.task).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `scenario` on `listener`, over TLS when `tls` is given.
///
/// # Errors
/// When the listener has no address.
pub fn serve(
    listener: TcpListener,
    scenario: Scenario,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> io::Result<Handle> {
    let address = listener.local_addr()?;
    let model = Arc::new(Model { scenario, tries: Tries::default(), answered: AtomicU64::new(0) });
    let router = Router::new()
        .route(
            "/v1/messages",
            post(|model, headers, body| respond(Wire::AnthropicMessages, model, headers, body)),
        )
        .route(
            "/v1/responses",
            post(|model, headers, body| respond(Wire::OpenAiResponses, model, headers, body)),
        )
        .route(
            "/v1/chat/completions",
            post(|model, headers, body| respond(Wire::OpenAiChat, model, headers, body)),
        )
        .fallback(service)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::clone(&model));
    let task = tokio::spawn(accept(listener, router, tls.map(TlsAcceptor::from)));
    Ok(Handle { address, model, task })
}

async fn accept(listener: TcpListener, router: Router, tls: Option<TlsAcceptor>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, tls) = (router.clone(), tls.clone());
        connections.spawn(async move {
            let _place = place;
            _ = stream.set_nodelay(true);
            let Some(tls) = tls else { return connection(stream, router).await };
            match tokio::time::timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection(stream, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        });
    }
}

async fn connection(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    router: Router,
) {
    let server = auto::Builder::new(TokioExecutor::new());
    // A broken connection is what a cut looks like from here.
    if let Err(error) = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await
    {
        tracing::debug!(error, "a connection ended early");
    }
}

/// Answers for the scenario's plain HTTP services.
async fn service(State(model): State<Arc<Model>>, method: http::Method, uri: http::Uri) -> Response {
    let found = model.scenario.services.iter().find(|it| it.method == method && it.path == uri.path());
    found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |it| json(StatusCode::OK, &it.answer))
}

async fn respond(
    wire: Wire,
    State(model): State<Arc<Model>>,
    headers: HeaderMap,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    model.answered.fetch_add(1, Ordering::Relaxed);
    let refuse = |status, kind, message: &str| json(status, &wire.error(kind, message));
    let body = match body {
        Ok(body) => body,
        Err(error) => {
            let kind = "request_too_large";
            return refuse(error.status(), kind, "Request exceeds the maximum size");
        }
    };
    if let Some(key) = &model.scenario.require_key
        && !bears(wire, &headers, key, model.scenario.strict)
    {
        return match wire {
            Wire::AnthropicMessages => {
                refuse(StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key")
            }
            Wire::OpenAiResponses | Wire::OpenAiChat => {
                refuse(StatusCode::UNAUTHORIZED, "invalid_api_key", "Incorrect API key provided.")
            }
        };
    }
    if wire == Wire::AnthropicMessages && !headers.contains_key("anthropic-version") {
        let message = "anthropic-version: header is required";
        return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", message);
    }
    if model.scenario.strict
        && let Err(message) = shape::check(wire, &body)
    {
        return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message);
    }
    let conversation = match Conversation::parse(wire, &body) {
        Ok(conversation) => conversation,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, "invalid_request_error", &message),
    };
    let read = u64::try_from(body.len() / BYTES_PER_TOKEN).unwrap_or(u64::MAX);
    if let Some(limit) = model.scenario.context_tokens
        && read > limit
    {
        let (kind, message) = match wire {
            Wire::AnthropicMessages => {
                ("invalid_request_error", format!("prompt is too long: {read} tokens > {limit} maximum"))
            }
            _ => {
                ("context_length_exceeded", format!("This model's maximum context length is {limit} tokens."))
            }
        };
        return refuse(StatusCode::BAD_REQUEST, kind, &message);
    }
    let tried = if model.scenario.counts_tries() { model.tries.count(&body) } else { 0 };
    play(wire, model.scenario.answer(&conversation, tried), &conversation, read).await
}

/// Anthropic takes keys in `x-api-key`, which a strict model insists on, and some gateways take a bearer's.
fn bears(wire: Wire, headers: &HeaderMap, key: &str, is_strict: bool) -> bool {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let own = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    let is_anthropic = wire == Wire::AnthropicMessages;
    (is_anthropic && own == Some(key)) || (bearer == Some(key) && !(is_anthropic && is_strict))
}

/// Sends an answer of the scenario.
async fn play(wire: Wire, answer: &Answer, conversation: &Conversation, read: u64) -> Response {
    let steps = match &answer.body {
        Body::Http(refusal) => {
            tokio::time::sleep(answer.delay).await;
            return refused(wire, refusal);
        }
        Body::Steps(steps) => steps,
    };
    let pieces = play::pieces(steps, conversation);
    let calls = pieces.iter().any(|piece| matches!(piece, Piece::Call { .. }));
    let written: usize = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) | Piece::Reasoning(text) | Piece::Call { arguments: text, .. } => text.len(),
            Piece::Other(_) => 0,
        })
        .sum();
    let meta = Meta {
        model: conversation.model.clone(),
        input: answer.usage.input.unwrap_or(read),
        output: answer.usage.output.unwrap_or((written / BYTES_PER_TOKEN + 1) as u64),
        cache_read: answer.usage.cache_read,
        cache_creation: answer.usage.cache_creation,
        stop: answer.stop.unwrap_or(if calls { Stop::ToolUse } else { Stop::EndTurn }),
        include_usage: conversation.include_usage,
        chunk_chars: answer.chunk_chars,
    };
    let (status, kind, frames) = if conversation.stream {
        (StatusCode::OK, "text/event-stream; charset=utf-8", wire.stream(&pieces, meta))
    } else {
        let failed = pieces.iter().any(|piece| matches!(piece, Piece::Other(Step::Error(_))));
        let status = if failed { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        (status, "application/json", wire.whole(&pieces, &meta))
    };
    let body = HttpBody::from_stream(stream::unfold(pace(frames, answer).into_iter(), send));
    (status, [(CONTENT_TYPE, kind)], body).into_response()
}

/// The next bytes of a body, after the waits before them.
async fn send(
    mut frames: std::vec::IntoIter<Frame>,
) -> Option<(io::Result<Bytes>, std::vec::IntoIter<Frame>)> {
    loop {
        match frames.next()? {
            Frame::Bytes(bytes) => return Some((Ok(bytes.into()), frames)),
            Frame::Pause(wait) => {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
            }
            Frame::Cut => return Some((Err(io::ErrorKind::ConnectionReset.into()), frames)),
            Frame::Stall => return std::future::pending().await,
        }
    }
}

fn refused(wire: Wire, refusal: &Refusal) -> Response {
    let kind = match refusal.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    let mut response = match &refusal.body {
        Some(Value::String(text)) => (refusal.status, text.clone()).into_response(),
        Some(body) => json(refusal.status, body),
        None => {
            json(refusal.status, &wire.error(kind, refusal.status.canonical_reason().unwrap_or("Overloaded")))
        }
    };
    response.headers_mut().extend(refusal.headers.iter().cloned());
    response
}

fn json(status: StatusCode, body: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, kind)], body.to_string()).into_response()
}
