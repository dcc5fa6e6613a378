//! The server: connections, their limits, and a graceful end.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, extract::Request, response::Response, routing::MethodFilter};
use freehold_api::{Method, error::ErrorCode, operation::Face, operations};
use freehold_app::App;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    call::Shared,
    dispatch::{BODY_TIME_MAX, Route, dispatch, refuse},
    document::{BadSchema, Document},
    metrics::Metrics,
    multipart::UPLOAD_SILENCE_MAX,
    page,
    patient::Patient,
    route, sse,
};

/// Connections served at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 8192;
/// Time the head of a request may take to arrive; a connection without requests is closed after it.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// Time a client may read nothing of what it is sent.
const STALL_TIME_MAX: Duration = Duration::from_secs(60);
/// Time between two signs of life that a connection of HTTP/2 is asked for, and time each may take.
const PING_TIME: Duration = Duration::from_secs(20);
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 128;
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
        let mut connections = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &slots) => accepted,
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let (router, stopping) = (self.router.clone(), self.shared.stop.subscribe());
                    let options = options.clone();
                    connections.spawn(async move {
                        connection(stream, router, &options, stopping).await;
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
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// Whether accepting can never succeed again, unlike for want of files or a client that went away.
fn is_fatal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Serves one connection.
async fn connection(
    stream: TcpStream,
    router: Router,
    options: &Options,
    mut stopping: watch::Receiver<bool>,
) {
    // Answers are small: waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection went away");
        return;
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(options.head_time_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(PING_TIME)
        .keep_alive_timeout(PING_TIME);
    let stream = Patient::new(stream, options.head_time_max, options.stall_time_max);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error as &dyn std::error::Error, "a connection ended badly");
    }
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
