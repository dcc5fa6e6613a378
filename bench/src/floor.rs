//! Floors: the least that a figure could be on this machine, measured by the same generator in the same run.

use std::{
    fs::File,
    io::Write,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use axum::{Router, http::header::CONTENT_TYPE, routing::any};
use tokio::sync::oneshot;

use crate::stats::Samples;

/// Bytes of one durable write of the floor: a page.
const WRITE_BYTES: usize = 4096;

/// An axum server in this process that answers every request with the same JSON, on as many threads as there are cores.
#[derive(Debug)]
pub struct ConstantServer {
    /// Where it listens.
    pub address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl ConstantServer {
    /// Starts it; it ends with this value.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(answer: String) -> anyhow::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let answer: &'static str = answer.leak();
                let handler = any(move || async move { ([(CONTENT_TYPE, "application/json")], answer) });
                let router: Router = Router::new().fallback_service(handler);
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
                let serve = axum::serve(listener, router).with_graceful_shutdown(async {
                    let _dropped = stopped.await;
                });
                let _ended = serve.await;
            });
        });
        Ok(Self { address, _stop: stop })
    }
}

/// Writes a page and makes it durable, again and again: what one durable write costs when nothing else does.
///
/// # Errors
/// When the folder cannot be written.
pub fn durable_writes(folder: &Path, length: Duration) -> anyhow::Result<(Samples, Duration)> {
    let path = folder.join("floor");
    let mut file = File::create(&path).context("failed to write to the folder of the benchmark")?;
    let page = vec![0xAA; WRITE_BYTES];
    let mut times = Samples::default();
    let begin = Instant::now();
    while begin.elapsed() < length {
        let start = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    let elapsed = begin.elapsed();
    std::fs::remove_file(path)?;
    Ok((times, elapsed))
}
