//! The client of every contender: kept-alive HTTP/1.1, HTTP/2, and a new connection for each request.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Request, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Ends, cores,
    server::{LARGE, LATER, SMALL},
};
use crate::{
    processes,
    scratch::connector_of,
    stats::{Samples, Summary},
};

/// Bytes of an answer to `CONNECT` that are read.
const CONNECT_ANSWER_BYTES_MAX: usize = 4096;
/// Streams at once on a connection of HTTP/2.
const STREAMS: usize = 4;

/// What is asked for over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// On kept-alive connections of HTTP/1.1.
    Http1,
    /// On kept-alive connections of HTTP/2, four streams on each.
    Http2,
    /// On a new connection each time, without resumption.
    New,
}

impl Mode {
    /// What tables call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "kept-alive HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::New => "new TLS connections",
        }
    }
}

/// What came of a load.
#[derive(Debug, Clone)]
pub struct Load {
    /// Requests a second.
    pub per_second: f64,
    /// The time of each.
    pub times: Summary,
    /// The proxy's CPU time for each.
    pub cpu: Option<Duration>,
}

/// The way to the upstream through a contender.
#[derive(Clone)]
pub struct Route {
    address: SocketAddr,
    /// What `CONNECT` asks for; none where the way is transparent.
    tunnel: Option<String>,
    authority: String,
    path: &'static str,
    name: ServerName<'static>,
    http1: TlsConnector,
    http2: TlsConnector,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Route {
    /// A way that begins at `address`, for the upstream called `host` (and at `port` where that must be said), whose
    /// certificate this authority (PEM file) signs.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(
        address: SocketAddr,
        tunnel: bool,
        (host, port): (&str, Option<u16>),
        authority_pem: &Path,
    ) -> anyhow::Result<Self> {
        let authority = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Self {
            address,
            tunnel: tunnel.then(|| authority.clone()),
            authority,
            path: SMALL,
            name: ServerName::try_from(host.to_owned())?,
            http1: connector_of(authority_pem, &[b"http/1.1"])?,
            http2: connector_of(authority_pem, &[b"h2"])?,
        })
    }

    /// The same, answered later.
    pub fn later(self) -> Self {
        Self { path: LATER, ..self }
    }

    /// The same that begins elsewhere.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    async fn dial(&self, tls: &TlsConnector) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(self.address).await.context("failed to connect")?;
        stream.set_nodelay(true)?;
        if let Some(authority) = &self.tunnel {
            let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                ensure!(answer.len() < CONNECT_ANSWER_BYTES_MAX, "no end to the answer to CONNECT");
                ensure!(stream.read_buf(&mut answer).await? > 0, "CONNECT was not answered");
            }
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
        tls.connect(self.name.clone(), stream).await.context("failed to shake hands")
    }

    async fn http1(&self) -> anyhow::Result<Sender> {
        let (sender, connection) = http1::handshake(TokioIo::new(self.dial(&self.http1).await?)).await?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }

    async fn http2(&self) -> anyhow::Result<Sender> {
        let stream = self.dial(&self.http2).await?;
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "HTTP/2 is not offered");
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Sender::Http2(sender))
    }

    async fn send(&self, sender: &mut Sender, path: &str) -> anyhow::Result<http::Response<Incoming>> {
        let response = match sender {
            Sender::Http1(sender) => {
                let request = Request::get(path).header(header::HOST, &self.authority).body(Empty::new())?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let uri = format!("https://{}{path}", self.authority);
                let request = Request::get(uri).version(Version::HTTP_2).body(Empty::new())?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        ensure!(response.status().is_success(), "answered {}", response.status());
        Ok(response)
    }

    async fn get(&self, sender: &mut Sender) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.send(sender, self.path).await?.into_body().collect().await?;
        Ok(begin.elapsed())
    }

    /// One request after the other on one connection of HTTP/1.1, from a thread on `core`, which sleeps while it waits or not.
    ///
    /// # Errors
    /// When one fails.
    pub async fn one_by_one(&self, requests: usize, core: usize, ends: Ends) -> anyhow::Result<Samples> {
        let route = self.clone();
        let thread = std::thread::spawn(move || {
            cores::pin_thread(&[core])?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            if ends == Ends::Awake {
                runtime.spawn(cores::stay_awake());
            }
            runtime.block_on(route.ask(requests))
        });
        let joined = tokio::task::spawn_blocking(|| thread.join()).await?;
        joined.ok().context("the client panicked")?
    }

    async fn ask(&self, requests: usize) -> anyhow::Result<Samples> {
        let mut sender = self.http1().await?;
        for _ in 0..requests / 10 {
            self.get(&mut sender).await?;
        }
        let mut times = Samples::default();
        for _ in 0..requests {
            times.push(self.get(&mut sender).await?);
        }
        Ok(times)
    }

    /// One large answer on a connection of HTTP/1.1; how long it took.
    ///
    /// # Errors
    /// When it ends early.
    pub async fn large(&self, bytes: u64) -> anyhow::Result<Duration> {
        let mut sender = self.http1().await?;
        self.get(&mut sender).await?;
        let (begin, mut came) = (Instant::now(), 0);
        let mut body = self.send(&mut sender, &format!("{LARGE}{bytes}")).await?.into_body();
        while let Some(frame) = body.frame().await {
            came += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        ensure!(came == bytes, "{came} of {bytes} bytes came");
        Ok(begin.elapsed())
    }

    /// Connections that have had a request each, `count` of them, open for as long as the answer is held.
    ///
    /// # Errors
    /// When one cannot be made.
    pub async fn idle(&self, count: usize) -> anyhow::Result<Idle> {
        let mut senders = Vec::with_capacity(count);
        while senders.len() < count {
            let some = (0..32.min(count - senders.len())).map(async |_| {
                let mut sender = self.http1().await?;
                self.get(&mut sender).await?;
                anyhow::Ok(sender)
            });
            senders.extend(try_join_all(some).await?);
        }
        Ok(Idle { _senders: senders })
    }

    /// So many requests at once, each followed by the next, for `warm_up` and then `length`; `pid` is the proxy.
    ///
    /// # Errors
    /// When a request fails.
    pub async fn load(
        &self,
        mode: Mode,
        at_once: usize,
        (warm_up, length): (Duration, Duration),
        pid: Option<u32>,
    ) -> anyhow::Result<Load> {
        let phase = Arc::new(Phase::default());
        let width = if mode == Mode::Http2 { STREAMS } else { 1 };
        let workers: Vec<_> = (0..at_once.div_ceil(width))
            .map(|_| tokio::spawn(self.clone().work(mode, width, Arc::clone(&phase))))
            .collect();
        sleep(warm_up).await;
        let (begin, before) = (Instant::now(), pid.and_then(processes::cpu_time));
        phase.measuring.store(true, Ordering::Relaxed);
        sleep(length).await;
        phase.measuring.store(false, Ordering::Relaxed);
        let (elapsed, after) = (begin.elapsed(), pid.and_then(processes::cpu_time));
        phase.done.store(true, Ordering::Relaxed);
        let mut times = Samples::default();
        for worker in workers {
            times.extend(worker.await??);
        }
        let times = times.summary();
        let cpu = after.zip(before).map(|(after, before)| {
            after.saturating_sub(before) / u32::try_from(times.n.max(1)).unwrap_or(u32::MAX)
        });
        Ok(Load { per_second: times.n as f64 / elapsed.as_secs_f64(), times, cpu })
    }

    async fn work(self, mode: Mode, width: usize, phase: Arc<Phase>) -> anyhow::Result<Samples> {
        let mut times = Samples::default();
        if mode == Mode::New {
            while !phase.done.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let mut sender = self.http1().await?;
                self.get(&mut sender).await?;
                phase.note(begin.elapsed(), &mut times);
            }
            return Ok(times);
        }
        let sender = if mode == Mode::Http1 { self.http1().await? } else { self.http2().await? };
        let senders = match sender {
            Sender::Http1(sender) => vec![Sender::Http1(sender)],
            Sender::Http2(sender) => (0..width).map(|_| Sender::Http2(sender.clone())).collect(),
        };
        let loops = senders.into_iter().map(async |mut sender| {
            let mut times = Samples::default();
            while !phase.done.load(Ordering::Relaxed) {
                phase.note(self.get(&mut sender).await?, &mut times);
            }
            anyhow::Ok(times)
        });
        for of_one in try_join_all(loops).await? {
            times.extend(of_one);
        }
        Ok(times)
    }
}

/// Connections that do nothing; closed when dropped.
pub struct Idle {
    _senders: Vec<Sender>,
}

#[derive(Default)]
struct Phase {
    measuring: AtomicBool,
    done: AtomicBool,
}

impl Phase {
    fn note(&self, time: Duration, times: &mut Samples) {
        if self.measuring.load(Ordering::Relaxed) {
            times.push(time);
        }
    }
}
