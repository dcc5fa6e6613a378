//! The machine a benchmark ran on, without anything that tells whose it is.

use std::{fs, path::Path, process::Command};

use anyhow::Context;
use serde::Serialize;

/// What of a machine bears on figures.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// The processor's model, as the kernel calls it.
    pub processor: String,
    /// The kernel's release.
    pub kernel: String,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Whether root ran it.
    pub root: bool,
    /// The commit that was measured, with `+` when files differ from it.
    pub commit: String,
    /// When it began, UTC.
    pub date: String,
    /// Processes that wanted to run, averaged over the minute before: what else the machine was doing.
    pub load_before: f64,
    /// The same at the end, the benchmark itself included.
    pub load_after: f64,
    /// Of the time in which this machine's processors had something to do, how much its host gave to others meanwhile, in per cent.
    pub stolen_percent: f64,
    #[serde(skip)]
    time_before: [f64; 2],
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn read() -> anyhow::Result<Self> {
        let meminfo = fs::read_to_string("/proc/meminfo").context("failed to read the machine's memory")?;
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kibibytes: u64 =
            total.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0);
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            memory_bytes: kibibytes * 1024,
            root: rustix::process::geteuid().is_root(),
            commit: commit(),
            date: date(),
            load_before: load(),
            load_after: 0.0,
            stolen_percent: 0.0,
            time_before: time(),
        })
    }

    /// Notes how the machine was at the end.
    pub fn end(&mut self) {
        self.load_after = load();
        let ([busy, stolen], [busy_before, stolen_before]) = (time(), self.time_before);
        self.stolen_percent = 100.0 * (stolen - stolen_before) / (busy - busy_before).max(1.0);
    }

    /// One paragraph.
    pub fn markdown(&self) -> String {
        format!(
            "{} cores ({}), {} GiB, Linux {}, {}; commit {}, {}; load {:.1} before, {:.1} after, {:.1} % of the processors' time taken by the host.",
            self.cores,
            self.processor,
            self.memory_bytes >> 30,
            self.kernel,
            if self.root { "as root" } else { "as an ordinary user" },
            self.commit,
            self.date,
            self.load_before,
            self.load_after,
            self.stolen_percent,
        )
    }
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0.0)
}

/// For how long the processors had something to do since the start, and how much of it the host gave to others; in the kernel's ticks
/// (`/proc/stat`, proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal).
fn time() -> [f64; 2] {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let ticks: Vec<f64> = ticks.map(|ticks| ticks.parse().unwrap_or(0.0)).collect();
    let is_idle = |at: usize| matches!(at, 3 | 4);
    let busy = ticks.iter().enumerate().filter(|&(at, _)| !is_idle(at)).map(|(_, ticks)| ticks).sum();
    [busy, ticks.get(7).copied().unwrap_or(0.0)]
}

fn date() -> String {
    let now = freehold_model::Timestamp::now().to_string();
    now.split('.').next().unwrap_or(&now).to_owned()
}

/// The commit of the tree that this program was built in.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", ":/"])
        .is_none_or(|changed| !changed.is_empty());
    if changed { format!("{hash}+") } else { hash }
}

/// The kind of file system a folder is on, since durable writes to memory cost nothing.
pub fn file_system(folder: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(folder) else { return "unknown".to_owned() };
    match stat.f_type {
        0xEF53 => "ext4".to_owned(),
        0x0102_1994 => "tmpfs (memory: nothing written here is durable)".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683E => "btrfs".to_owned(),
        0x794C_7630 => "overlay".to_owned(),
        other => format!("type {other:#x}"),
    }
}
