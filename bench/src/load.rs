//! A closed-loop load generator: so many kept-alive connections, each sending its next request when its last is
//! answered, on threads of its own, which share the cores with what they load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use tokio::task::JoinSet;

use crate::{
    processes,
    stats::Samples,
    wire::{Connection, Target},
};

/// How hard and how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Shape {
    /// Connections, each with one request under way
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Threads of the client
    #[arg(long, default_value_t = 1)]
    pub client_threads: usize,
    /// Seconds that are measured of each kind of request
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds before, that are not
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
}

/// Makes request number `n` of connection `c`: method, path and body.
pub type Requests = Arc<dyn Fn(usize, u64) -> (Method, String, Option<Bytes>) + Send + Sync>;

/// What came of it.
#[derive(Debug)]
pub struct Load {
    /// The time from sending a request to the end of its answer.
    pub times: Samples,
    /// The time in which all of them were answered.
    pub elapsed: Duration,
    /// CPU time of the server's process meanwhile.
    pub server_cpu: Option<Duration>,
}

impl Load {
    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.times.summary().n as f64 / self.elapsed.as_secs_f64()
    }
}

/// Loads `target`, whose process is `server`. Blocks until done.
///
/// # Errors
/// When a request fails or is refused: figures of refusals would look good.
pub fn load(shape: Shape, target: &Target, server: u32, requests: &Requests) -> anyhow::Result<Load> {
    ensure!(shape.connections > 0 && shape.client_threads > 0, "a load needs a connection and a thread");
    let measuring = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..shape.client_threads)
        .map(|thread| {
            let connections: Vec<usize> = (thread..shape.connections).step_by(shape.client_threads).collect();
            let worker = Worker {
                target: target.clone(),
                requests: Arc::clone(requests),
                measuring: Arc::clone(&measuring),
                done: Arc::clone(&done),
            };
            thread::spawn(move || worker.run(connections))
        })
        .collect();
    thread::sleep(Duration::from_secs_f64(shape.warm_up));
    let cpu_before = processes::cpu_time(server);
    let start = Instant::now();
    measuring.store(true, Ordering::Relaxed);
    thread::sleep(Duration::from_secs_f64(shape.seconds));
    measuring.store(false, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let server_cpu = processes::cpu_time(server).zip(cpu_before).map(|(after, before)| after - before);
    done.store(true, Ordering::Relaxed);
    let mut times = Samples::default();
    for thread in threads {
        times.extend(thread.join().ok().context("a thread of the client panicked")??);
    }
    Ok(Load { times, elapsed, server_cpu })
}

#[derive(Clone)]
struct Worker {
    target: Target,
    requests: Requests,
    measuring: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
}

impl Worker {
    fn run(self, connections: Vec<usize>) -> anyhow::Result<Samples> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for connection in connections {
                tasks.spawn(self.clone().drive(connection));
            }
            let mut times = Samples::default();
            while let Some(ended) = tasks.join_next().await {
                times.extend(ended??);
            }
            Ok(times)
        })
    }

    async fn drive(self, number: usize) -> anyhow::Result<Samples> {
        let mut connection: Connection = self.target.connect().await?;
        let mut times = Samples::default();
        for n in 0.. {
            if self.done.load(Ordering::Relaxed) {
                break;
            }
            let (method, path, body) = (self.requests)(number, n);
            let start = Instant::now();
            let response = connection.send(method.clone(), &path, body).await?;
            let status = response.status();
            let bytes = response.into_body().collect().await?.to_bytes();
            let time = start.elapsed();
            ensure!(
                status.is_success(),
                "{method} {path} answered {status}: {}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(400)])
            );
            if self.measuring.load(Ordering::Relaxed) {
                times.push(time);
            }
        }
        Ok(times)
    }
}
