//! The client of the egress benchmark: the same code inside a pod and outside of it. It writes its figures as JSON to its
//! standard output.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::Bytes;
use freehold_driver::TRUST_ANCHORS_PATH;
use futures::future::try_join_all;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    scratch::connector,
    stats::{Samples, Summary},
};

/// What to ask for, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The server's name
    #[arg(long)]
    pub host: String,
    /// The path to GET
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Where the server is; looked up by its name when absent
    #[arg(long)]
    pub connect: Option<SocketAddr>,
    /// The certificates (PEM) to trust
    #[arg(long, default_value = TRUST_ANCHORS_PATH)]
    pub authority: PathBuf,
    /// Requests on one connection, one after the other
    #[arg(long, default_value_t = 3000)]
    pub requests: usize,
    /// New connections with one request each, one after the other
    #[arg(long, default_value_t = 200)]
    pub fresh: usize,
    /// Connections at once
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Seconds with all connections at once
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
}

/// What the client measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figures {
    /// Requests on a kept-alive connection.
    pub kept: Summary,
    /// New connections: name, TCP, TLS and one request.
    pub fresh: Summary,
    /// Requests on all connections at once.
    pub parallel: Summary,
    /// Requests a second on all connections at once.
    pub parallel_per_second: f64,
}

/// Measures and prints.
///
/// # Errors
/// When a request fails or is refused.
#[expect(clippy::print_stdout, reason = "the figures are this process's answer")]
pub async fn run(options: Options) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(&measure(&options).await?)?);
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Figures> {
    let client = Arc::new(Client::new(options.clone())?);
    let mut connection = client.connect().await?;
    let mut kept = Samples::default();
    for _ in 0..options.requests {
        kept.push(client.get(&mut connection).await?);
    }
    let mut fresh = Samples::default();
    for _ in 0..options.fresh {
        let begin = Instant::now();
        client.get(&mut client.connect().await?).await?;
        fresh.push(begin.elapsed());
    }
    let length = Duration::from_secs_f64(options.seconds);
    let connections = try_join_all((0..options.connections).map(|_| client.connect())).await?;
    let begin = Instant::now();
    let tasks = connections.into_iter().map(|mut connection| {
        let client = Arc::clone(&client);
        tokio::spawn(async move {
            let mut times = Samples::default();
            while begin.elapsed() < length {
                times.push(client.get(&mut connection).await?);
            }
            anyhow::Ok(times)
        })
    });
    let mut parallel = Samples::default();
    for times in try_join_all(tasks).await? {
        parallel.extend(times?);
    }
    let elapsed = begin.elapsed();
    let parallel = parallel.summary();
    let parallel_per_second = parallel.n as f64 / elapsed.as_secs_f64();
    Ok(Figures { kept: kept.summary(), fresh: fresh.summary(), parallel, parallel_per_second })
}

struct Client {
    options: Options,
    tls: TlsConnector,
    name: ServerName<'static>,
}

type Sender = SendRequest<Empty<Bytes>>;

impl Client {
    fn new(options: Options) -> anyhow::Result<Self> {
        let tls = connector(&options.authority)?;
        let name = ServerName::try_from(options.host.clone())?;
        Ok(Self { options, tls, name })
    }

    async fn connect(&self) -> anyhow::Result<Sender> {
        let stream = match self.options.connect {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((self.options.host.as_str(), 443)).await,
        };
        let stream = stream.context("failed to connect")?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(self.name.clone(), stream).await.context("failed to shake hands")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn get(&self, connection: &mut Sender) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let request = Request::builder()
            .uri(&self.options.path)
            .header(header::HOST, &self.options.host)
            .body(Empty::new())?;
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let time = begin.elapsed();
        ensure!(status.is_success(), "answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(time)
    }
}
