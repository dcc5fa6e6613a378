//! Egress beside other intercepting proxies: the same client, the same upstream, each proxy a process of its own on one and
//! the same core, client and upstream on the others. Contenders take turns, so that what else the machine does meets all.

mod client;
mod contender;
pub mod copy;
mod cores;
pub mod egress;
mod server;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    processes,
    report::{Cell, Report, Table, say},
    scratch::{Certificates, Scratch},
    stats::{Samples, Summary},
};
use client::{Load, Mode};
use contender::{Contender, Ground, NAMES};
use server::{ANSWER_BYTES, Server};

/// What egress is called in tables, with its store on the one core too; and with the store elsewhere.
const EGRESS: &str = "egress";
const EGRESS_STORE_APART: &str = "egress, store on other cores";
/// What another build of it is called.
const EGRESS_AGAINST: &str = "egress, other build";
/// Connections of one pod in the measure of idle ones.
const IDLE_OF_POD: usize = 500;
/// How often memory is looked at during many requests.
const LOOKS: usize = 10;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Http1,
    Http2,
    New,
    Latency,
    Large,
    Memory,
    Idle,
}

/// Through what it is measured, beside nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Through {
    Copy,
    Egress,
    EgressApart,
    Hudsucker,
    Mitmproxy,
}

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Of all that is measured, only this
    #[arg(long, value_delimiter = ',')]
    only: Vec<What>,
    /// Of all contenders, only these
    #[arg(long, value_delimiter = ',')]
    through: Vec<Through>,
    /// Another build of this benchmark, whose egress takes turns with this one's
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// The core that proxies are pinned to
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Requests at once
    #[arg(long, default_value_t = 16)]
    at_once: usize,
    /// Seconds of each measure
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Times that contenders take turns; the median is said
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests one after the other in each round, for the added latency
    #[arg(long, default_value_t = 4000)]
    requests: usize,
    /// MiB of the large answer
    #[arg(long, default_value_t = 1024)]
    large_mib: u64,
    /// Requests during which memory is watched; 0 for none
    #[arg(long, default_value_t = 1_000_000)]
    memory_requests: usize,
    /// Idle connections; 0 for none
    #[arg(long, default_value_t = 5000)]
    idle: usize,
    /// Without mitmproxy
    #[arg(long)]
    no_mitmproxy: bool,
}

impl Options {
    fn wants(&self, what: What) -> bool {
        self.only.is_empty() || self.only.contains(&what)
    }

    /// Whether anything is wanted that many ask for, or much.
    fn wants_load(&self) -> bool {
        [What::Http1, What::Http2, What::New, What::Large, What::Memory]
            .into_iter()
            .any(|what| self.wants(what))
    }

    fn has(&self, through: Through) -> bool {
        self.through.is_empty() || self.through.contains(&through)
    }
}

/// What client and upstream do while they wait, where one request is asked after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// They sleep, and their core with them: what a proxy adds has in it what it takes the machine to wake a core that slept longer.
    Asleep,
    /// They look for bytes all the time: what a proxy adds is its own.
    Awake,
}

impl Ends {
    const fn words(self) -> &'static str {
        match self {
            Self::Asleep => "asleep while they wait",
            Self::Awake => "awake",
        }
    }
}

/// Turns in a round where one request is asked after the other: the machine's own speed changes within seconds.
const TURNS: usize = 5;

/// Measures.
///
/// # Errors
/// When a proxy does not start or a request fails.
pub async fn run(
    options: Options,
    parent: Option<&std::path::Path>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let cores = cores::allowed()?;
    let others: Vec<usize> = cores.into_iter().filter(|&core| core != options.core).collect();
    cores::pin_process(&others)?;
    raise_files()?;
    let scratch = Scratch::new(parent)?;
    let certificates = Certificates::make(scratch.path(), &NAMES)?;
    notes(&options, report);
    if options.wants(What::Latency) {
        // Client and upstream on a core each: on one, a request without a proxy would have no other core to wake.
        let (client_core, upstream_core) = (others[0], others[1 % others.len()]);
        for ends in [Ends::Asleep, Ends::Awake] {
            let server = Server::start(&certificates, Some((upstream_core, ends)))?;
            let ground = |name: &str| Ground {
                folder: scratch.path().join(format!("{name}-{ends:?}")),
                server: &server,
                certificates: &certificates,
                core: options.core,
            };
            let mut contenders = contenders(&options, &ground, &others, report).await?;
            contenders.insert(1, Contender::later(&server, &certificates)?);
            latency(&options, client_core, ends, &contenders, report).await?;
        }
    }
    let server = Server::start(&certificates, None)?;
    let ground = |name: &str| Ground {
        folder: scratch.path().join(name),
        server: &server,
        certificates: &certificates,
        core: options.core,
    };
    if options.wants_load() {
        let contenders = contenders(&options, &ground, &others, report).await?;
        say("all proxies are up");
        throughput(&options, &contenders, report).await?;
        if options.wants(What::Large) {
            large(&options, &contenders, report).await?;
        }
        if options.memory_requests > 0 && options.wants(What::Memory) {
            many(&options, &contenders, report).await?;
        }
    }
    if options.idle > 0 && options.wants(What::Idle) {
        let fresh = idle_contenders(&options, &ground).await?;
        idle(options.idle, &fresh, report).await?;
    }
    Ok(())
}

/// No proxy, and those that are wanted.
async fn contenders<'a>(
    options: &Options,
    ground: &impl Fn(&str) -> Ground<'a>,
    others: &[usize],
    report: &mut Report,
) -> anyhow::Result<Vec<Contender>> {
    let own = std::env::current_exe()?;
    let direct = ground("direct");
    let mut contenders = vec![Contender::direct(direct.server, direct.certificates)?];
    if options.has(Through::Copy) {
        contenders.push(Contender::copy(&ground("copy")).await?);
    }
    if options.has(Through::Egress) {
        contenders.push(Contender::egress(EGRESS, &ground("egress"), &own, 1, &[]).await?);
    }
    if let Some(other) = &options.against {
        contenders.push(Contender::egress(EGRESS_AGAINST, &ground("egress-against"), other, 1, &[]).await?);
    }
    if options.has(Through::EgressApart) {
        let ground = ground("egress-apart");
        contenders.push(Contender::egress(EGRESS_STORE_APART, &ground, &own, 1, others).await?);
    }
    if options.has(Through::Hudsucker) {
        contenders.push(Contender::hudsucker(&ground("hudsucker")).await?);
    }
    if options.has(Through::Mitmproxy) && !options.no_mitmproxy {
        match contender::install_mitmproxy() {
            Ok(program) => contenders.push(Contender::mitmproxy(&ground("mitmproxy"), &program).await?),
            Err(error) => {
                say(&format!("without mitmproxy: {error:#}"));
                report.note(format!("Without mitmproxy, which could not be had: {error:#}."));
            }
        }
    }
    Ok(contenders)
}

/// The wanted ones anew, with as many pods as the idle connections need.
async fn idle_contenders<'a>(
    options: &Options,
    ground: &impl Fn(&str) -> Ground<'a>,
) -> anyhow::Result<Vec<Contender>> {
    let own = std::env::current_exe()?;
    let pods = options.idle.div_ceil(IDLE_OF_POD);
    let mut fresh = Vec::new();
    if options.has(Through::Egress) {
        fresh.push(Contender::egress(EGRESS, &ground("egress-idle"), &own, pods, &[]).await?);
    }
    if let Some(other) = &options.against {
        let ground = ground("egress-idle-against");
        fresh.push(Contender::egress(EGRESS_AGAINST, &ground, other, pods, &[]).await?);
    }
    if options.has(Through::Hudsucker) {
        fresh.push(Contender::hudsucker(&ground("hudsucker-idle")).await?);
    }
    Ok(fresh)
}

fn notes(options: &Options, report: &mut Report) {
    report.note(format!(
        "GET of {ANSWER_BYTES} bytes over TLS 1.3; client and upstream in the benchmark's process, each on threads of its own. Each proxy is a process of its own, pinned to core {}; the benchmark is pinned to the other cores, and where one request is asked after the other, client and upstream have one thread each, on a core each. Contenders take turns, {} rounds; medians of the rounds.",
        options.core, options.rounds
    ));
    report.note("`egress`: a policy of 100 rules with an expression each, four of which name the upstream and are evaluated for every request; a credential that a transform injects (and that is searched for in every answer, to be masked); a budget counted in leased blocks; an audit row for every request, in the spool before it goes out and then in SQLite (`synchronous=full`, hashed, seven indices), whose threads are on the same core and whose CPU time is counted. Its one thread for pods stays awake up to 200 us for a quick peer's answer, as it does in the server. In the second line the store's threads may use the other cores; their CPU time is counted all the same.");
    report.note("`hudsucker` 0.25 with its no-op handler, aws-lc-rs and a P-256 authority; `mitmproxy` as mitmdump without add-ons. They decide and record nothing. They are explicit proxies: on a new connection they answer a CONNECT first.");
    report.note("`copy` copies bytes and nothing else, without TLS and HTTP: what it adds is what this machine takes for any hop in which a process sleeps until bytes come.");
    report.note("`CPU` is the proxy's process, kernel included, for a request; what a second of the core would carry is one divided by it, whatever else ran on the machine.");
}

async fn throughput(options: &Options, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    let seconds = Duration::from_secs_f64(options.seconds);
    let modes = [(What::Http1, Mode::Http1), (What::Http2, Mode::Http2), (What::New, Mode::New)];
    for (_, mode) in modes.into_iter().filter(|(what, _)| options.wants(*what)) {
        let mut loads: Vec<Vec<Load>> = vec![Vec::new(); contenders.len()];
        for round in 0..options.rounds {
            for (contender, loads) in contenders.iter().zip(&mut loads) {
                let load =
                    contender.route.load(mode, options.at_once, (seconds / 4, seconds), contender.pid());
                let load =
                    load.await.with_context(|| format!("{}: {}", contender.name, contender.log_end()))?;
                say(&format!(
                    "{}, round {}, {}: {:.0}/s, {:.1} us CPU",
                    mode.name(),
                    round + 1,
                    contender.name,
                    load.per_second,
                    load.cpu.unwrap_or_default().as_secs_f64() * 1e6
                ));
                loads.push(load);
            }
        }
        let medians: Vec<Load> = loads.into_iter().map(median).collect();
        let peer = contenders.iter().position(|contender| contender.name == "hudsucker");
        let peer = peer.and_then(|at| medians.get(at)).cloned();
        let mut table = Table::new(
            format!("{}, {} at once", mode.name(), options.at_once),
            &[
                "through",
                "requests/s",
                "/ hudsucker",
                "p50 ms",
                "p99 ms",
                "CPU us/request",
                "requests/s of CPU",
                "of CPU / hudsucker",
            ],
        );
        for (contender, load) in contenders.iter().zip(&medians) {
            let ratio = |ours: f64, theirs: Option<f64>| {
                theirs.map_or(Cell::Empty, |theirs| Cell::Number(ours / theirs))
            };
            let of_cpu = |load: &Load| load.cpu.map(|cpu| 1.0 / cpu.as_secs_f64().max(1e-9));
            table.row(vec![
                Cell::text(contender.name),
                Cell::Number(load.per_second),
                ratio(load.per_second, peer.as_ref().map(|peer| peer.per_second)),
                Cell::millis(load.times.p50),
                Cell::millis(load.times.p99),
                load.cpu.map_or(Cell::Empty, |cpu| Cell::Number(cpu.as_secs_f64() * 1e6)),
                of_cpu(load).map_or(Cell::Empty, Cell::Number),
                of_cpu(load).map_or(Cell::Empty, |ours| ratio(ours, peer.as_ref().and_then(of_cpu))),
            ]);
        }
        report.tables.push(table);
    }
    Ok(())
}

/// The load of the middle round, by requests a second.
fn median(mut loads: Vec<Load>) -> Load {
    loads.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    loads.swap_remove(loads.len() / 2)
}

async fn latency(
    options: &Options,
    client_core: usize,
    ends: Ends,
    contenders: &[Contender],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut times = vec![Samples::default(); contenders.len()];
    for _ in 0..options.rounds * TURNS {
        for (contender, times) in contenders.iter().zip(&mut times) {
            let of_turn = contender.route.one_by_one(options.requests / TURNS, client_core, ends).await?;
            let p50 = of_turn.summary().p50;
            say(&format!("one after the other, {}: {:.1} us", contender.name, p50.as_secs_f64() * 1e6));
            times.extend(of_turn);
        }
    }
    let summaries: Vec<Summary> = times.iter().map(Samples::summary).collect();
    let direct = summaries.first().context("nothing was measured")?;
    let mut table = Table::new(
        format!(
            "One kept-alive connection of HTTP/1.1, one request after the other, client and upstream {}",
            ends.words()
        ),
        &["through", "n", "p50 us", "p99 us", "added p50 us", "added p99 us"],
    );
    let micros = |time: Duration| Cell::Number(time.as_secs_f64() * 1e6);
    for (contender, summary) in contenders.iter().zip(&summaries) {
        table.row(vec![
            Cell::text(contender.name),
            Cell::count(summary.n),
            micros(summary.p50),
            micros(summary.p99),
            micros(summary.p50.saturating_sub(direct.p50)),
            micros(summary.p99.saturating_sub(direct.p99)),
        ]);
    }
    report.tables.push(table);
    Ok(())
}

async fn large(options: &Options, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    let mut table = Table::new(
        format!("{} MiB on one connection of HTTP/1.1", options.large_mib),
        &["through", "s, best", "s, median", "MiB/s, best", "CPU s, median"],
    );
    let mut took = vec![Vec::new(); contenders.len()];
    for _ in 0..options.rounds {
        for (contender, took) in contenders.iter().zip(&mut took) {
            let cpu = || contender.pid().and_then(processes::cpu_time).unwrap_or_default();
            let before = cpu();
            let time =
                contender.route.large(options.large_mib << 20).await.with_context(|| contender.name)?;
            say(&format!("{}: {} MiB in {:.2} s", contender.name, options.large_mib, time.as_secs_f64()));
            took.push((time, cpu().saturating_sub(before)));
        }
    }
    for (contender, mut took) in contenders.iter().zip(took) {
        took.sort_unstable();
        let (best, _) = *took.first().context("nothing was measured")?;
        let (median, _) = took[took.len() / 2];
        took.sort_unstable_by_key(|(_, cpu)| *cpu);
        let (_, cpu) = took[took.len() / 2];
        table.row(vec![
            Cell::text(contender.name),
            Cell::Number(best.as_secs_f64()),
            Cell::Number(median.as_secs_f64()),
            Cell::Number(options.large_mib as f64 / best.as_secs_f64()),
            contender.pid().map_or(Cell::Empty, |_| Cell::Number(cpu.as_secs_f64())),
        ]);
    }
    report.tables.push(table);
    Ok(())
}

/// Memory while many requests pass.
async fn many(options: &Options, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    let mut table = Table::new(
        "Memory over many requests, kept-alive HTTP/1.1",
        &["through", "requests", "resident MiB"],
    );
    let watched =
        contenders.iter().filter(|contender| matches!(contender.name, EGRESS | EGRESS_AGAINST | "hudsucker"));
    for contender in watched {
        let pid = contender.pid().context("a proxy without a process")?;
        table.row(vec![Cell::text(contender.name), Cell::Count(0), resident(pid)?]);
        let (mut done, mut said) = (0, 0);
        while done < options.memory_requests {
            let length = Duration::from_secs_f64(options.seconds);
            let load =
                contender.route.load(Mode::Http1, options.at_once, (Duration::ZERO, length), None).await?;
            done += load.times.n;
            if done * LOOKS / options.memory_requests > said {
                said = done * LOOKS / options.memory_requests;
                table.row(vec![Cell::text(contender.name), Cell::count(done), resident(pid)?]);
            }
        }
    }
    report.tables.push(table);
    Ok(())
}

async fn idle(count: usize, contenders: &[Contender], report: &mut Report) -> anyhow::Result<()> {
    let mut table = Table::new(
        format!("{count} idle connections, each after one request"),
        &["through", "resident MiB before", "resident MiB", "KiB a connection"],
    );
    for contender in contenders {
        let pid = contender.pid().context("a proxy without a process")?;
        let before = processes::Memory::resident(pid).context("no memory of a proxy")?;
        let mut held = Vec::new();
        let entries = contender.entries.len();
        for (n, &entry) in contender.entries.iter().enumerate() {
            let share = count * (n + 1) / entries - count * n / entries;
            held.push(contender.route.at(entry).idle(share).await.with_context(|| contender.log_end())?);
        }
        let after = processes::Memory::resident(pid).context("no memory of a proxy")?;
        table.row(vec![
            Cell::text(contender.name),
            Cell::Number(before as f64 / 1_048_576.0),
            Cell::Number(after as f64 / 1_048_576.0),
            Cell::Number(after.saturating_sub(before) as f64 / 1024.0 / count as f64),
        ]);
    }
    report.tables.push(table);
    Ok(())
}

fn resident(pid: u32) -> anyhow::Result<Cell> {
    let bytes = processes::Memory::resident(pid).context("no memory of a proxy")?;
    Ok(Cell::Number(bytes as f64 / 1_048_576.0))
}

/// As many files as the machine allows: each connection is one here, and one or two in the proxies, which inherit the limit.
fn raise_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    ensure!(limit.maximum.is_none_or(|most| most >= 16_384), "too few open files are allowed (`ulimit -Hn`)");
    Ok(())
}
