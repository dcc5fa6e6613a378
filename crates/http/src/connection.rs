//! One connection: its requests are counted, one without any is closed after a while, and one whose client is still sending
//! when it was answered already is closed such that the client reads the answer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Version, header::CONNECTION};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use crate::{
    patient::Patient,
    peers::Place,
    server::{Options, stopped},
};

/// Time between two signs of life that a connection of HTTP/2 is asked for, and time each may take.
const PING_TIME: Duration = Duration::from_secs(20);
/// Requests at once on one connection of HTTP/2.
const STREAMS_MAX: u32 = 128;
/// Time a connection without requests may be open; one of HTTP/1 waits for the next head no longer than for the first.
pub(crate) const IDLE_TIME_MAX: Duration = Duration::from_secs(120);
/// Bytes of a body that nobody reads for which the connection stays open if they are here already.
const REST_BYTES_MAX: u64 = 16 * 1024;
/// Time a connection that is being closed may take to end.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves one connection.
pub(crate) async fn serve(
    stream: TcpStream,
    place: Place,
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
    let is_unread = Arc::new(AtomicBool::new(false));
    let stream = Patient::new(stream, options.head_time_max, options.stall_time_max, Arc::clone(&is_unread));
    let requests = Arc::new(watch::Sender::new(Requests::default()));
    let (service, counted) = (TowerToHyperService::new(router), Arc::clone(&requests));
    let answer = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        place.speaks();
        let open = Open::new(Arc::clone(&counted));
        let is_long = request.body().size_hint().upper().is_none_or(|bytes| bytes > REST_BYTES_MAX);
        let may_close = is_long && request.version() < Version::HTTP_2;
        let (unread, noted) = (Arc::clone(&is_unread), Arc::clone(&is_unread));
        let read = move |whole: bool| {
            noted.fetch_or(!whole, Ordering::Relaxed);
        };
        let asked = |body| Body::new(Watched { body, ended: Some(read) });
        let answered = service.call(request.map(asked));
        async move {
            let mut response = answered.await?;
            if may_close && unread.load(Ordering::Relaxed) {
                response.headers_mut().insert(CONNECTION, const { HeaderValue::from_static("close") });
            }
            // Until the answer's end its request is under way.
            Ok::<_, Infallible>(response.map(|body| Watched { body, ended: Some(move |_: bool| drop(open)) }))
        }
    });
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let idle = idle(requests.subscribe(), options.idle_time_max);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stopping) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = idle => {
            served.as_mut().graceful_shutdown();
            timeout(END_TIME_MAX, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &*error as &dyn std::error::Error, "a connection ended badly");
    }
}

/// The requests of a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Requests {
    /// How many are under way.
    open: usize,
    /// How many there were in all.
    begun: u64,
}

/// Resolves when there was no request for so long.
async fn idle(mut requests: watch::Receiver<Requests>, limit: Duration) {
    loop {
        // The sender lives as long as the connection.
        let Ok(begun) = requests.wait_for(|now| now.open == 0).await.map(|now| now.begun) else { return };
        let next = timeout(limit, requests.wait_for(|now| now.begun > begun));
        if next.await.is_err() {
            return;
        }
    }
}

/// Counts a request until it is answered, to its end or not.
struct Open(Arc<watch::Sender<Requests>>);

impl Open {
    fn new(requests: Arc<watch::Sender<Requests>>) -> Self {
        requests.send_modify(|now| *now = Requests { open: now.open + 1, begun: now.begun + 1 });
        Self(requests)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|now| now.open -= 1);
    }
}

/// A body that tells once when it is dropped, and whether it was whole then.
struct Watched<B: HttpBody, F: FnOnce(bool)> {
    body: B,
    ended: Option<F>,
}

impl<B: HttpBody, F: FnOnce(bool)> Drop for Watched<B, F> {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(self.body.is_end_stream());
        }
    }
}

impl<B: HttpBody + Unpin, F: FnOnce(bool) + Unpin> HttpBody for Watched<B, F> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
