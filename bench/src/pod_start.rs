//! From "make a pod" to the first output of a command in it, at the driver and through the API, beside bubblewrap on the
//! same root in the same run; how long a pod takes to be gone; and a hundred pods at once.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use freehold_driver::{ExecSpec, Limits, PodDriver, PodSpec};
use freehold_driver_local::{LocalDriver, PodRoot};
use freehold_model::{PodId, WorkspaceId};
use futures::future::try_join_all;
use http::Method;
use serde_json::json;
use tokio::{io::AsyncReadExt, process::Command};
use uuid::Uuid;

use crate::{
    processes,
    report::{Cell, Report, Table, say},
    scratch::Scratch,
    stage::{ROLE, Setting, Stage, create_workspace, id},
    stats::{Samples, Summary},
    wire::{Connection, Watcher},
};

/// The command whose first output ends a measurement.
const COMMAND: [&str; 3] = ["sh", "-c", "echo"];
/// Seconds the command may run.
const COMMAND_SECONDS: u32 = 60;
/// What the agent must be told to start.
const POD_ID_VARIABLE: &str = "FREEHOLD_POD_ID";
/// What deleting a pod may take, in milliseconds.
const DELETE_TARGET_MS: f64 = 20.0;

/// What to measure.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Pods that are measured, one after the other
    #[arg(long, default_value_t = 200)]
    runs: usize,
    /// Pods before, that are not
    #[arg(long, default_value_t = 10)]
    warm_up: usize,
    /// Pods at once
    #[arg(long, default_value_t = 100)]
    crowd: usize,
    /// Only the driver, no server
    #[arg(long)]
    skip_api: bool,
}

/// Measures.
///
/// # Errors
/// When a pod cannot be made or its command fails.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    report.note("Create -> first byte of the output of `sh -c echo`, no pool, kinds of sandbox taking turns in one loop. A pod of ours includes its network with the interception in place, control groups and limits, a writable overlay, the started agent, and then the command; `bwrap` includes `--unshare-all`, the same read-only `/usr`, `/proc`, `/dev`, `/tmp`, and has no network, overlay, limits, seccomp filter or second process.");
    report.note("Delete: from the call until every process of the pod is gone and nothing of it is in view.");
    let bwrap = is_there().await;
    if !bwrap {
        report.note("bubblewrap is not installed: no peer. Install the Debian package `bubblewrap`.");
    }
    let mut targets = Table::new("Targets", &["figure", "target", "measured"]);
    at_driver(options, bwrap, &setting, report, &mut targets).await?;
    if !options.skip_api {
        let stage = Stage::set(&setting).await?;
        let measured = through_api(options, bwrap, &stage, report, &mut targets).await;
        measured.map_err(|error| error.context(stage.log_end()))?;
        stage.strike().await?;
    }
    report.tables.push(targets);
    Ok(())
}

/// A pod's times.
struct Life {
    first_output: Duration,
    delete: Duration,
}

async fn at_driver(
    options: Options,
    bwrap: bool,
    setting: &Setting,
    report: &mut Report,
    targets: &mut Table,
) -> anyhow::Result<()> {
    say("pods at the driver");
    let scratch = Scratch::new(setting.parent.as_deref())?;
    let driver = LocalDriver::open(freehold_driver_local::Options {
        state_dir: scratch.path().join("driver"),
        executable: setting.program.clone(),
        root: PodRoot::HostUsr,
    })
    .await?;
    let report_of_driver = driver.report();
    report.note(format!("Driver: {}; {}.", report_of_driver.sandbox, report_of_driver.interception));
    let (mut ours, mut deletes) = (Samples::default(), Samples::default());
    let (mut peers, mut plain) = (Samples::default(), Samples::default());
    for run in 0..options.warm_up + options.runs {
        let life = live(&driver).await?;
        ensure!(processes::holders(scratch.path())?.is_empty(), "a deleted pod has a process");
        let peer = if bwrap { Some(first_output(bubblewrap()).await?) } else { None };
        let without = first_output(bare("sh", &COMMAND[1..])).await?;
        if run >= options.warm_up {
            ours.push(life.first_output);
            deletes.push(life.delete);
            peers.extend(peer.into_iter().collect());
            plain.push(without);
        }
    }
    let (ours, deletes) = (ours.summary(), deletes.summary());
    let peers = bwrap.then(|| peers.summary());
    let mut table = Table::of_times("At the driver, one after the other", "bwrap");
    table.times("driver-local: create -> first output", &ours, peers.as_ref());
    rows_of_peers(&mut table, peers.as_ref(), &plain.summary());
    table.times("driver-local: delete", &deletes, None);
    report.tables.push(table);
    target(targets, "driver p50 / bwrap", "at most 1", peers.map(|peer| ratio(ours.p50, peer.p50)));
    target(targets, "driver p99 / bwrap", "at most 1", peers.map(|peer| ratio(ours.p99, peer.p99)));
    let under = format!("under {DELETE_TARGET_MS}");
    target(targets, "pod delete p50 ms", &under, Some(deletes.p50.as_secs_f64() * 1e3));
    target(targets, "pod delete p99 ms", &under, Some(deletes.p99.as_secs_f64() * 1e3));
    say(&format!("{} pods at once at the driver", options.crowd));
    let begin = Instant::now();
    let crowd = try_join_all((0..options.crowd).map(|_| start(&driver))).await?;
    let all = begin.elapsed();
    let pods: Vec<PodId> = crowd.iter().map(|(spec, _)| spec.pod_id).collect();
    let begin = Instant::now();
    try_join_all(pods.iter().map(|&pod| driver.delete(pod))).await?;
    let gone = begin.elapsed();
    ensure!(processes::holders(scratch.path())?.is_empty(), "a deleted pod has a process");
    let mut table = at_once(format!("{} at once, at the driver", options.crowd));
    crowd_row(
        &mut table,
        "driver-local: create -> first output",
        all,
        &crowd.iter().map(|(_, time)| *time).collect(),
    );
    if bwrap {
        let begin = Instant::now();
        let times = try_join_all((0..options.crowd).map(|_| first_output(bubblewrap()))).await?;
        crowd_row(&mut table, "bwrap", begin.elapsed(), &times.into_iter().collect());
    }
    crowd_row(&mut table, "driver-local: delete of all", gone, &Samples::default());
    report.tables.push(table);
    Ok(())
}

fn rows_of_peers(table: &mut Table, peers: Option<&Summary>, plain: &Summary) {
    if let Some(peers) = peers {
        table.times("bwrap: start -> first output", peers, Some(peers));
    }
    table.times("floor: the command without a sandbox", plain, peers);
}

fn target(table: &mut Table, figure: &str, target: &str, measured: Option<f64>) {
    table.row(vec![Cell::text(figure), Cell::text(target), measured.map_or(Cell::Empty, Cell::Number)]);
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

fn at_once(title: String) -> Table {
    Table::new(title, &["what", "all done ms", "n", "p50 ms", "p99 ms", "max ms", "a second"])
}

fn crowd_row(table: &mut Table, what: &str, all: Duration, times: &Samples) {
    let summary = times.summary();
    let time = |time| if summary.n == 0 { Cell::Empty } else { Cell::millis(time) };
    table.row(vec![
        Cell::text(what),
        Cell::millis(all),
        if summary.n == 0 { Cell::Empty } else { Cell::count(summary.n) },
        time(summary.p50),
        time(summary.p99),
        time(summary.max),
        if summary.n == 0 { Cell::Empty } else { Cell::Number(summary.n as f64 / all.as_secs_f64()) },
    ]);
}

/// Makes a pod, has it say something, takes it away.
async fn live(driver: &LocalDriver) -> anyhow::Result<Life> {
    let (spec, first_output) = start(driver).await?;
    let begin = Instant::now();
    driver.delete(spec.pod_id).await?;
    let delete = begin.elapsed();
    driver.purge(spec.workspace_id).await?;
    Ok(Life { first_output, delete })
}

/// Makes a pod and waits for the first output of a command in it.
async fn start(driver: &LocalDriver) -> anyhow::Result<(PodSpec, Duration)> {
    let pod_id = PodId::from_uuid(Uuid::now_v7());
    let spec = PodSpec {
        pod_id,
        workspace_id: WorkspaceId::from_uuid(Uuid::now_v7()),
        generation: 1,
        limits: Limits::default(),
        trust_anchors_pem: String::new(),
        environment: vec![(POD_ID_VARIABLE.to_owned(), pod_id.to_string())],
    };
    let command = ExecSpec {
        argv: COMMAND.iter().map(|&word| word.to_owned()).collect(),
        cwd: None,
        environment: Vec::new(),
    };
    let begin = Instant::now();
    driver.ensure(&spec).await?;
    let mut exec = driver.exec(spec.pod_id, command).await?;
    let mut output = [0];
    exec.stdout.read_exact(&mut output).await.context("the command in the pod wrote nothing")?;
    let time = begin.elapsed();
    let status = exec.exit.await?;
    ensure!(status.success(), "the command in the pod ended with {status}");
    Ok((spec, time))
}

/// A process with nothing of our environment but a path.
fn bare(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command
}

/// The peer, on the root that our pods have by default.
fn bubblewrap() -> Command {
    let mut arguments = vec!["--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr"];
    for (target, link) in
        [("usr/bin", "/bin"), ("usr/sbin", "/sbin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")]
    {
        if Path::new(link).exists() {
            arguments.extend(["--symlink", target, link]);
        }
    }
    arguments.extend(["--dir", "/etc", "--dir", "/workspace", "--chdir", "/workspace"]);
    arguments.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--"]);
    arguments.extend(COMMAND);
    bare("bwrap", &arguments)
}

async fn is_there() -> bool {
    let mut command = bare("bwrap", &["--version"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

/// The time from starting a process until it writes something. It has ended when this returns.
async fn first_output(mut command: Command) -> anyhow::Result<Duration> {
    command.stdout(Stdio::piped()).kill_on_drop(true);
    let begin = Instant::now();
    let mut child = command.spawn().context("failed to start the peer")?;
    let mut output = [0];
    let stdout = child.stdout.as_mut().context("the peer has no output")?;
    stdout.read_exact(&mut output).await.context("the peer wrote nothing")?;
    let time = begin.elapsed();
    let status = child.wait().await?;
    ensure!(status.success(), "the peer ended with {status}");
    Ok(time)
}

/// A workspace's times.
#[derive(Default)]
struct Workspaces {
    answered: Samples,
    idle: Samples,
    first_output: Samples,
    stopped: Samples,
}

async fn through_api(
    options: Options,
    bwrap: bool,
    stage: &Stage,
    report: &mut Report,
    targets: &mut Table,
) -> anyhow::Result<()> {
    say("workspaces through the API");
    report.note("Through the API: `POST /v1/workspaces` -> `idle` read from an event stream that was open before -> `POST .../exec` -> first chunk of its answer, on one kept-alive connection. Stop: `POST .../stop` -> `stopped` read from the stream; the pod is gone then.");
    let mut connection = stage.connect().await?;
    let watcher = Watcher::open(stage.target(), "/v1/activity/stream").await?;
    let mut ours = Workspaces::default();
    let mut peers = Samples::default();
    for run in 0..options.warm_up + options.runs {
        let mut one = Workspaces::default();
        let workspace = up(&mut connection, &watcher, &mut one).await?;
        let begin = Instant::now();
        connection.call(Method::POST, &format!("/v1/workspaces/{workspace}/stop"), None).await?;
        one.stopped.push(watcher.until(&workspace, &["stopped"]).await? - begin);
        connection.call(Method::POST, &format!("/v1/workspaces/{workspace}/archive"), None).await?;
        connection.call(Method::DELETE, &format!("/v1/workspaces/{workspace}"), None).await?;
        let peer = if bwrap { Some(first_output(bubblewrap()).await?) } else { None };
        if run >= options.warm_up {
            ours.answered.extend(one.answered);
            ours.idle.extend(one.idle);
            ours.first_output.extend(one.first_output);
            ours.stopped.extend(one.stopped);
            peers.extend(peer.into_iter().collect());
        }
    }
    let first_output = ours.first_output.summary();
    let peers = bwrap.then(|| peers.summary());
    let mut table = Table::of_times("Through the API, one after the other", "bwrap");
    table.times("create answered", &ours.answered.summary(), None);
    table.times("create -> idle", &ours.idle.summary(), None);
    table.times("create -> first output", &first_output, peers.as_ref());
    if let Some(peers) = &peers {
        table.times("bwrap: start -> first output", peers, Some(peers));
    }
    table.times("stop -> stopped", &ours.stopped.summary(), None);
    report.tables.push(table);
    target(targets, "API p50 / bwrap", "at most 3", peers.map(|peer| ratio(first_output.p50, peer.p50)));
    target(targets, "API p99 / bwrap", "at most 3", peers.map(|peer| ratio(first_output.p99, peer.p99)));
    crowd_through_api(options.crowd, stage, &watcher, report).await
}

/// Creates a workspace and waits for the first output of a command in it.
async fn up(
    connection: &mut Connection,
    watcher: &Watcher,
    times: &mut Workspaces,
) -> anyhow::Result<String> {
    let begin = Instant::now();
    let workspace = id(&connection.post("/v1/workspaces", &json!({"role_name": ROLE})).await?)?;
    times.answered.push(begin.elapsed());
    times.idle.push(watcher.until(&workspace, &["idle"]).await? - begin);
    let (first, _) = connection.exec(&workspace, &COMMAND, COMMAND_SECONDS).await?;
    times.first_output.push(first - begin);
    Ok(workspace)
}

async fn crowd_through_api(
    crowd: usize,
    stage: &Stage,
    watcher: &Watcher,
    report: &mut Report,
) -> anyhow::Result<()> {
    say(&format!("{crowd} workspaces at once"));
    let connections = try_join_all((0..crowd).map(|_| stage.connect())).await?;
    let begin = Instant::now();
    let one = async |mut connection: Connection| -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let workspace = create_workspace(&mut connection).await?;
        watcher.until(&workspace, &["idle"]).await?;
        let (first, _) = connection.exec(&workspace, &COMMAND, COMMAND_SECONDS).await?;
        Ok(first - begin)
    };
    let times: Samples = try_join_all(connections.into_iter().map(one)).await?.into_iter().collect();
    let mut table = at_once(format!("{crowd} at once, through the API"));
    crowd_row(&mut table, "create -> first output", begin.elapsed(), &times);
    report.tables.push(table);
    Ok(())
}
