//! The figures Freehold promises, one subcommand each, measured beside peers and floors in the same run.
//!
//! Invariants: nothing here is a test, and no test is timed by it; a figure says what it includes; whatever a run makes,
//! it removes.

mod api;
mod audit;
mod egress;
mod floor;
mod legs;
mod load;
mod machine;
mod memory;
mod pod_client;
mod pod_start;
mod policy;
mod processes;
mod proxy;
mod report;
mod scratch;
mod stage;
mod stats;
mod turn;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use clap::Parser;

use report::Report;
use stage::Setting;

/// Measure Freehold
#[derive(Debug, Parser)]
#[command(name = "freehold-bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// The program to measure; the one of this workspace, built now, when absent
    #[arg(long, global = true, value_name = "PATH")]
    freehold: Option<PathBuf>,
    /// Measure a debug build all the same
    #[arg(long, global = true)]
    allow_debug: bool,
    /// Where the JSON goes; `bench/out` when absent
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the throw-away data directory is made; durable writes are as fast as this disk
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Create -> first output of a command, beside bubblewrap; delete; many at once
    PodStart(pod_start::Options),
    /// Memory of idle workspaces
    Memory(memory::Options),
    /// A turn of the agent with a model that takes no time
    Turn(turn::Options),
    /// Reads and durable writes a second
    Api(api::Options),
    /// Rows of the audit log a second, and what its pages cost
    Audit(audit::Options),
    /// A request from a pod through the interception, beside a direct one
    Egress(egress::Options),
    /// A PATCH of a role -> its policy is in force for running workspaces
    Policy(policy::Options),
    /// Egress beside other intercepting proxies, each on one core
    Proxy(proxy::Options),
    /// The egress that the benchmark of proxies starts
    #[command(hide = true)]
    ProxyEgress(proxy::egress::Options),
    /// The floor that the benchmark of proxies starts
    #[command(hide = true)]
    ProxyCopy(proxy::copy::Options),
    /// The client that the egress benchmark runs inside a pod
    #[command(hide = true)]
    PodClient(pod_client::Options),
}

impl What {
    const fn name(&self) -> &'static str {
        match self {
            Self::PodStart(_) => "pod-start",
            Self::Memory(_) => "memory",
            Self::Turn(_) => "turn",
            Self::Api(_) => "api",
            Self::Audit(_) => "audit",
            Self::Egress(_) => "egress",
            Self::Policy(_) => "policy",
            Self::Proxy(_) => "proxy",
            Self::ProxyEgress(_) => "proxy-egress",
            Self::ProxyCopy(_) => "proxy-copy",
            Self::PodClient(_) => "pod-client",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Dropping what runs is what cleans up after an interrupt.
    let done = tokio::select! {
        done = run(arguments) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let name = arguments.what.name();
    if let What::PodClient(options) = arguments.what {
        return pod_client::run(options).await;
    }
    if let What::ProxyEgress(options) = arguments.what {
        return proxy::egress::run(options).await;
    }
    if let What::ProxyCopy(options) = arguments.what {
        return proxy::copy::run(options).await;
    }
    if let What::Proxy(options) = arguments.what {
        scratch::released(arguments.allow_debug)?;
        let mut report = Report::new(name)?;
        proxy::run(options, arguments.dir.as_deref(), &mut report).await?;
        return report.publish(&out(arguments.out));
    }
    if let What::Audit(options) = arguments.what {
        let mut report = Report::new(name)?;
        audit::run(options, arguments.dir.as_deref(), &mut report).await?;
        return report.publish(&out(arguments.out));
    }
    let program = scratch::freehold(arguments.freehold.as_deref(), arguments.allow_debug)?;
    let setting = Setting { program, parent: arguments.dir, ..Setting::default() };
    let mut report = Report::new(name)?;
    match arguments.what {
        What::PodStart(options) => pod_start::run(options, setting, &mut report).await,
        What::Memory(options) => memory::run(options, setting, &mut report).await,
        What::Turn(options) => turn::run(options, setting, &mut report).await,
        What::Api(options) => api::run(options, setting, &mut report).await,
        What::Egress(options) => egress::run(options, setting, &mut report).await,
        What::Policy(options) => policy::run(options, setting, &mut report).await,
        What::Audit(_) | What::Proxy(_) | What::ProxyEgress(_) | What::ProxyCopy(_) | What::PodClient(_) => {
            bail!("this needs no server")
        }
    }?;
    report.publish(&out(arguments.out))
}

fn out(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("out"))
}
