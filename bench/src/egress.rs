//! What the way out costs: HTTPS requests from inside a pod through the interception, beside the same client on the host
//! that talks to the same upstream directly.

use std::{fs, net::SocketAddr};

use anyhow::{Context, ensure};
use axum::{Router, routing::get};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{net::TcpListener, process::Command, task::JoinHandle};

use crate::{
    pod_client::Figures,
    processes,
    report::{Cell, Report, Table, say},
    scratch::{Certificates, Scratch},
    stage::{Setting, Stage, UPSTREAM_NAME, create_workspace, task_id},
    wire::Watcher,
};

/// Bytes of the upstream's answer.
const ANSWER_BYTES: usize = 1024;
/// Seconds the client in the pod may take.
const CLIENT_SECONDS: u32 = 300;
/// What the client is called in the pod.
const CLIENT_NAME: &str = "pod-client";

/// What to measure.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Requests on one kept-alive connection
    #[arg(long, default_value_t = 3000)]
    requests: usize,
    /// New connections, one after the other
    #[arg(long, default_value_t = 200)]
    fresh: usize,
    /// Connections at once
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Seconds with all connections at once
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

impl Options {
    fn arguments(&self) -> Vec<String> {
        vec![
            "pod-client".to_owned(),
            format!("--host={UPSTREAM_NAME}"),
            format!("--requests={}", self.requests),
            format!("--fresh={}", self.fresh),
            format!("--connections={}", self.connections),
            format!("--seconds={}", self.seconds),
        ]
    }
}

/// Measures.
///
/// # Errors
/// When the upstream cannot be reached or a request is denied.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    report.note(format!("GET of {ANSWER_BYTES} bytes over TLS 1.3 and HTTP/1.1 from an upstream in the benchmark's process. Through egress: two TLS legs, parsing, policy, an audit row for each request before it goes out. Direct: the same client on the host, one TLS leg. Client, egress and upstream share the cores."));
    let scratch = Scratch::new(setting.parent.as_deref())?;
    let certificates = Certificates::make(scratch.path(), &[UPSTREAM_NAME])?;
    let upstream = Upstream::start(&certificates).await?;
    let own = std::env::current_exe()?;
    let setting = Setting { upstream: Some((upstream.address, certificates.authority.clone())), ..setting };
    let stage = Stage::set(&setting).await?;
    say("direct");
    let output = Command::new(&own)
        .args(options.arguments())
        .arg(format!("--connect={}", upstream.address))
        .arg(format!("--authority={}", certificates.authority.display()))
        .output()
        .await?;
    ensure!(output.status.success(), "the client failed: {}", String::from_utf8_lossy(&output.stderr));
    let direct: Figures = serde_json::from_slice(&output.stdout)?;
    say("through egress");
    let before = processes::cpu_time(stage.server_pid());
    let through = in_pod(&stage, options).await.map_err(|error| error.context(stage.log_end()))?;
    let cpu = processes::cpu_time(stage.server_pid()).zip(before).map(|(after, before)| after - before);
    let mut table = Table::of_times("A request", "direct");
    for (name, of) in [
        ("kept-alive connection", (|figures| &figures.kept) as fn(&Figures) -> &crate::stats::Summary),
        ("new connection: name, TCP, TLS, request", |figures| &figures.fresh),
        ("all connections at once", |figures| &figures.parallel),
    ] {
        table.times(format!("{name}, through egress"), of(&through), Some(of(&direct)));
        table.times(format!("{name}, direct"), of(&direct), Some(of(&direct)));
    }
    report.tables.push(table);
    let mut table = Table::new(
        format!("{} connections at once", options.connections),
        &["path", "requests a second", "/ direct", "server CPU µs a request, all phases"],
    );
    let requests = through.kept.n + through.fresh.n + through.parallel.n;
    table.row(vec![
        Cell::text("through egress"),
        Cell::Number(through.parallel_per_second),
        Cell::Number(through.parallel_per_second / direct.parallel_per_second),
        cpu.map_or(Cell::Empty, |cpu| Cell::Number(cpu.as_secs_f64() * 1e6 / requests as f64)),
    ]);
    table.row(vec![
        Cell::text("direct"),
        Cell::Number(direct.parallel_per_second),
        Cell::Number(1.0),
        Cell::Empty,
    ]);
    report.tables.push(table);
    stage.strike().await
}

/// Takes this program into a pod and runs its client there.
async fn in_pod(stage: &Stage, options: Options) -> anyhow::Result<Figures> {
    let mut connection = stage.connect().await?;
    let watcher = Watcher::open(stage.target(), "/v1/activity/stream").await?;
    let workspace = create_workspace(&mut connection).await?;
    let program = fs::read(std::env::current_exe()?)?;
    let path = format!("/v1/workspaces/{workspace}/tasks");
    let task = connection.upload(&path, "take this", CLIENT_NAME, &program).await?;
    let task = task_id(&task)?;
    watcher.until(&task, &["completed"]).await?;
    let script = format!(
        "cp /data/uploads/{task}/{CLIENT_NAME} /workspace/ && chmod 755 /workspace/{CLIENT_NAME} && exec /workspace/{CLIENT_NAME} {}",
        options.arguments().join(" ")
    );
    let (_, output) = connection.exec(&workspace, &["sh", "-c", &script], CLIENT_SECONDS).await?;
    serde_json::from_slice(&output).context("the client in the pod did not answer with figures")
}

/// An HTTPS server that gives everybody the same bytes.
struct Upstream {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Upstream {
    async fn start(certificates: &Certificates) -> anyhow::Result<Self> {
        let acceptor = certificates.acceptor()?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", get(|| async { vec![b'x'; ANSWER_BYTES] }));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
                tokio::spawn(async move {
                    let _best_effort = stream.set_nodelay(true);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ended = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { address, task })
    }
}
