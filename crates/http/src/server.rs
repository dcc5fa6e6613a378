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
    dispatch::{Route, dispatch, refuse},
    document::{BadSchema, Document},
    metrics::Metrics,
    page, route, sse,
};

/// Connections served at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 8192;
/// Time the head of a request may take to arrive.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
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
}

impl Default for Options {
    fn default() -> Self {
        Self { sse_heartbeat: sse::HEARTBEAT, sse_duration_max: sse::DURATION_MAX }
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
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
                    connections.spawn(async move {
                        connection(stream, router, stopping).await;
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
async fn connection(stream: TcpStream, router: Router, mut stopping: watch::Receiver<bool>) {
    // Answers are small: waiting to fill a packet would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection went away");
        return;
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    builder.http2().timer(TokioTimer::new());
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
