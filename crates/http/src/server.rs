//! The server: connections, their limits, and a graceful end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response, routing::MethodFilter};
use freehold_api::{Method, error::ErrorCode, operation::Face, operations};
use freehold_app::App;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    call::Shared,
    connection,
    dispatch::{BODY_TIME_MAX, Route, dispatch, refuse},
    document::{BadSchema, Document},
    metrics::Metrics,
    multipart::UPLOAD_SILENCE_MAX,
    page,
    peers::Peers,
    route, sse,
};

/// Connections served at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 8192;
/// Time the head of a request may take to arrive; a connection without requests is closed after it.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Time a client may read nothing of what it is sent.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// Which part of all connections one peer may have: a reverse proxy is one.
const PEER_SHARE: usize = 2;
/// Which part of these may be such that no request came on them yet.
const SILENT_SHARE: usize = 4;
/// Time between two attempts to accept when the system has no more to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Time requests may take to end once the server is asked to stop.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// How the API is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between two signs of life on a stream where nothing happens.
    pub sse_heartbeat: Duration,
    /// The longest life of one stream; clients connect again.
    pub sse_duration_max: Duration,
    /// Connections served at once; more wait to be accepted.
    pub connections_max: usize,
    /// Connections of one peer; more are closed at once. Half of all when absent.
    pub connections_per_peer_max: Option<usize>,
    /// Time a connection may be open without a request.
    pub idle_time_max: Duration,
    /// Time the head of a request may take to arrive.
    pub head_time_max: Duration,
    /// Time a JSON body may take to arrive.
    pub body_time_max: Duration,
    /// Time between two pieces of a form with files.
    pub upload_silence_max: Duration,
    /// Time a client may read nothing of what it is sent.
    pub stall_time_max: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sse_heartbeat: sse::HEARTBEAT,
            sse_duration_max: sse::DURATION_MAX,
            connections_max: CONNECTIONS_MAX,
            connections_per_peer_max: None,
            idle_time_max: connection::IDLE_TIME_MAX,
            head_time_max: HEAD_TIME_MAX,
            body_time_max: BODY_TIME_MAX,
            upload_silence_max: UPLOAD_SILENCE_MAX,
            stall_time_max: STALL_TIME_MAX,
        }
    }
}

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The document is broken: a bug.
    #[error("the API's document is broken")]
    Document(#[from] BadSchema),
    /// An operation of the document has nothing that answers it: a bug.
    #[error("nothing answers the operation `{0}`")]
    Unanswered(&'static str),
    /// Connections cannot be accepted.
    #[error("failed to accept connections")]
    Accept(#[source] io::Error),
}

/// The API, ready to be served.
pub struct Server {
    router: Router,
    shared: Arc<Shared>,
}

impl Server {
    /// Puts routes and handlers together.
    ///
    /// # Errors
    /// When document and handlers do not fit each other, which is a bug.
    pub fn new(app: App, options: Options) -> Result<Self, ServeError> {
        let document = Document::new()?;
        let metrics = Arc::new(Metrics::new());
        let shared = Arc::new(Shared {
            app,
            options,
            document,
            reference: page::reference(),
            metrics,
            stop: watch::Sender::new(false),
        });
        Ok(Self { router: router(&shared)?, shared })
    }

    /// The routes, for a server of one's own and for tests.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Serves connections until `shutdown` ends, then lets requests end for a while.
    ///
    /// # Errors
    /// When connections cannot be accepted.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let options = self.shared.options.clone();
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let per_peer =
            options.connections_per_peer_max.unwrap_or(options.connections_max / PEER_SHARE).max(1);
        let peers = Peers::new(per_peer, (per_peer / SILENT_SHARE).max(1));
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &slots) => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            match accepted {
                Ok((stream, address, slot)) => {
                    let Some(place) = peers.admit(address.ip()) else { continue };
                    let (router, stopping) = (self.router.clone(), self.shared.stop.subscribe());
                    let options = options.clone();
                    connections.spawn(async move {
                        connection::serve(stream, place, router, &options, stopping).await;
                        drop(slot);
                    });
                }
                Err(error) if is_fatal(&error) => return Err(ServeError::Accept(error)),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        self.shared.stop.send_replace(true);
        let ended = timeout(STOP_TIME_MAX, async { while connections.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(connections = connections.len(), "connections were cut at the end");
        }
        Ok(())
    }
}

/// Accepts a connection once there is room for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, slot))
}

/// Whether accepting can never succeed again, unlike for want of files or a client that went away.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Waits until the server stops, or is gone.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    drop(stopping.wait_for(|stopping| *stopping).await);
}

fn router(shared: &Arc<Shared>) -> Result<Router, ServeError> {
    let mut router = Router::new();
    for (figures, operation) in operations().enumerate() {
        let handler = route::handler(operation.id).ok_or(ServeError::Unanswered(operation.id))?;
        // Routes live as long as the process: a server is made once.
        let route: &'static Route = Box::leak(Box::new(Route { operation, handler, figures }));
        let filter = match operation.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Put => MethodFilter::PUT,
            Method::Patch => MethodFilter::PATCH,
            Method::Delete => MethodFilter::DELETE,
        };
        let answer = |shared: &Arc<Shared>| {
            let shared = Arc::clone(shared);
            move |request: Request| dispatch(Arc::clone(&shared), route, request)
        };
        router = router.route(operation.path, axum::routing::on(filter, answer(shared)));
        if operation.face == Face::Sessions {
            let path = format!("/api{}", operation.path);
            router = router.route(&path, axum::routing::on(filter, answer(shared)));
        }
    }
    let (missing, wrong) = (Arc::clone(shared), Arc::clone(shared));
    Ok(router
        .fallback(move || async move { refuse(&missing, ErrorCode::NotFound) })
        .method_not_allowed_fallback(move || async move { refuse_method(&wrong) }))
}

fn refuse_method(shared: &Shared) -> Response {
    refuse(shared, ErrorCode::MethodNotAllowed)
}
