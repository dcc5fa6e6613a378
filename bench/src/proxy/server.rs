//! The upstream of every contender: HTTPS with HTTP/1.1 and HTTP/2, small answers and one large one. On threads of its own, as it
//! would be in a process of its own: in one runtime with the client, a request without a proxy would have no thread to wake.

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, runtime::Runtime};

use super::{Ends, cores};
use crate::scratch::Certificates;

/// The name in its certificate.
pub const NAME: &str = "upstream.bench.test";
/// The path of a small answer.
pub const SMALL: &str = "/items/7";
/// The path of the same, answered so much later.
pub const LATER: &str = "/items/later";
pub const LATER_BY: Duration = Duration::from_micros(50);
/// The path below which a number says how many bytes are wanted.
pub const LARGE: &str = "/large/";
/// Bytes of a small answer.
pub const ANSWER_BYTES: usize = 1024;
/// Bytes of a large answer that are written at once.
const PIECE_BYTES: usize = 64 * 1024;

/// It, until this is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not from within another runtime does one wait for its threads.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Server {
    /// Starts it; with one thread on a core, which sleeps while it waits or not, or with as many threads as there are cores.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(certificates: &Certificates, one: Option<(usize, Ends)>) -> anyhow::Result<Self> {
        let acceptor = certificates.acceptor_of(&[b"h2", b"http/1.1"])?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        if let Some((core, _)) = one {
            builder.worker_threads(1).on_thread_start(move || {
                let _best_effort = cores::pin_thread(&[core]);
            });
        }
        let runtime = builder.enable_all().build()?;
        if let Some((_, Ends::Awake)) = one {
            runtime.spawn(cores::stay_awake());
        }
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = {
            let _in = runtime.enter();
            TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let _best_effort = stream.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http = auto::Builder::new(TokioExecutor::new());
                    let _ended = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Ok(Self { address, runtime: Some(runtime) })
    }
}

static SMALL_ANSWER: [u8; ANSWER_BYTES] = [b'x'; ANSWER_BYTES];
static PIECE: [u8; PIECE_BYTES] = [b'x'; PIECE_BYTES];

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    if request.uri().path() == LATER {
        // As long as it takes and not as long as a timer takes; nobody else waits for this thread.
        let begin = Instant::now();
        while begin.elapsed() < LATER_BY {
            std::hint::spin_loop();
        }
    }
    let wanted = request.uri().path().strip_prefix(LARGE).and_then(|length| length.parse::<u64>().ok());
    let mut response = match wanted {
        None => Response::new(Full::new(Bytes::from_static(&SMALL_ANSWER)).boxed_unsync()),
        Some(length) => {
            let pieces = stream::unfold(length, async |left| {
                let next = left.min(PIECE_BYTES as u64);
                let piece = Bytes::from_static(&PIECE[..usize::try_from(next).unwrap_or_default()]);
                (next > 0).then(|| (Ok(Frame::data(piece)), left - next))
            });
            let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            response
        }
    };
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
