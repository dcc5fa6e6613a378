//! The proxies that are compared, each in a process of its own on one core.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::sleep;

use super::{
    client::Route,
    egress::Ready,
    server::{NAME, Server},
};
use crate::scratch::{Certificates, Process, free_address};

/// How long a proxy may take to start.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where the folders of peers are.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
/// mitmproxy resolves names itself.
const LOCAL_NAME: &str = "localhost";
/// The names that the upstream's certificate has to have.
pub const NAMES: [&str; 2] = [NAME, LOCAL_NAME];

/// What a contender is started with.
pub struct Ground<'a> {
    /// The throw-away folder of this contender.
    pub folder: PathBuf,
    /// The upstream.
    pub server: &'a Server,
    /// Its certificates.
    pub certificates: &'a Certificates,
    /// The core that the proxy is pinned to.
    pub core: usize,
}

/// A proxy, or none.
pub struct Contender {
    /// What tables call it.
    pub name: &'static str,
    /// The way through it.
    pub route: Route,
    /// Where the connections of each of its pods arrive.
    pub entries: Vec<SocketAddr>,
    process: Option<Process>,
}

impl Contender {
    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The end of its log.
    pub fn log_end(&self) -> String {
        self.process.as_ref().map(Process::log_end).unwrap_or_default()
    }

    /// No proxy at all.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn direct(server: &Server, certificates: &Certificates) -> anyhow::Result<Self> {
        let route = Route::new(server.address, false, (NAME, None), &certificates.authority)?;
        Ok(Self { name: "direct", route, entries: vec![server.address], process: None })
    }

    /// No proxy, and an answer that comes later: what a wait that is so much longer costs by itself.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn later(server: &Server, certificates: &Certificates) -> anyhow::Result<Self> {
        let direct = Self::direct(server, certificates)?;
        Ok(Self { name: "direct, answered 50 us later", route: direct.route.later(), ..direct })
    }

    /// What only copies bytes.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn copy(ground: &Ground<'_>) -> anyhow::Result<Self> {
        fs::create_dir_all(&ground.folder)?;
        let ready = ground.folder.join("ready");
        let arguments = [
            "proxy-copy".to_owned(),
            format!("--upstream={}", ground.server.address),
            format!("--ready={}", ready.display()),
        ];
        let mut process = pinned(ground, &std::env::current_exe()?, &arguments)?;
        until(&mut process, || ready.exists()).await?;
        let address = fs::read_to_string(ready)?.parse()?;
        let route = Route::new(address, false, (NAME, None), &ground.certificates.authority)?;
        Ok(Self { name: "copy", route, entries: vec![address], process: Some(process) })
    }

    /// Egress of this build of the benchmark; the store's threads on `store_cores`, or on the one core with everything else.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn egress(
        name: &'static str,
        ground: &Ground<'_>,
        program: &Path,
        pods: usize,
        store_cores: &[usize],
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(&ground.folder)?;
        let mut arguments = vec![
            "proxy-egress".to_owned(),
            format!("--folder={}", ground.folder.display()),
            format!("--upstream={}", ground.server.address),
            format!("--authority={}", ground.certificates.authority.display()),
            format!("--pods={pods}"),
        ];
        if !store_cores.is_empty() {
            let cores: Vec<String> = store_cores.iter().map(usize::to_string).collect();
            arguments.push(format!("--store-cores={}", cores.join(",")));
        }
        let mut process = pinned(ground, program, &arguments)?;
        let path = Ready::path(&ground.folder);
        until(&mut process, || path.exists()).await?;
        let ready: Ready = serde_json::from_slice(&fs::read(path)?)?;
        let first = *ready.listeners.first().context("egress has no pod")?;
        let route = Route::new(first, false, (NAME, None), &ready.authority)?;
        Ok(Self { name, route, entries: ready.listeners, process: Some(process) })
    }

    /// hudsucker, which does nothing.
    ///
    /// # Errors
    /// When it does not build or start.
    pub async fn hudsucker(ground: &Ground<'_>) -> anyhow::Result<Self> {
        let program = build_hudsucker()?;
        fs::create_dir_all(&ground.folder)?;
        let (address, authority) = (free_address()?, ground.folder.join("ca.pem"));
        let arguments = [
            address.to_string(),
            ground.server.address.to_string(),
            ground.certificates.authority.display().to_string(),
            authority.display().to_string(),
        ];
        let process = pinned(ground, &program, &arguments)?;
        Self::tunnelled("hudsucker", process, address, NAME, ground, &authority).await
    }

    /// mitmproxy, this program of it, which does nothing.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn mitmproxy(ground: &Ground<'_>, program: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(&ground.folder)?;
        let (address, home) = (free_address()?, ground.folder.join("home"));
        let set = |option: String| ["--set".to_owned(), option];
        let mut arguments =
            vec!["--quiet".to_owned(), "--mode".to_owned(), format!("regular@{}", address.port())];
        for option in [
            "listen_host=127.0.0.1".to_owned(),
            format!("confdir={}", home.display()),
            format!("ssl_verify_upstream_trusted_ca={}", ground.certificates.authority.display()),
            "connection_strategy=lazy".to_owned(),
            "flow_detail=0".to_owned(),
            // Otherwise it keeps a large answer whole.
            "stream_large_bodies=1m".to_owned(),
        ] {
            arguments.extend(set(option));
        }
        let process = pinned(ground, program, &arguments)?;
        let authority = home.join("mitmproxy-ca-cert.pem");
        Self::tunnelled("mitmproxy", process, address, LOCAL_NAME, ground, &authority).await
    }

    async fn tunnelled(
        name: &'static str,
        mut process: Process,
        address: SocketAddr,
        host: &str,
        ground: &Ground<'_>,
        authority: &Path,
    ) -> anyhow::Result<Self> {
        until(&mut process, || authority.exists() && TcpStream::connect(address).is_ok()).await?;
        let port = Some(ground.server.address.port());
        let route = Route::new(address, true, (host, port), authority)?;
        Ok(Self { name, route, entries: vec![address], process: Some(process) })
    }
}

/// Starts a program that may use the one core alone, so that it also has no more threads than that.
fn pinned(ground: &Ground<'_>, program: &Path, arguments: &[String]) -> anyhow::Result<Process> {
    let mut all = vec!["--cpu-list".to_owned(), ground.core.to_string(), program.display().to_string()];
    all.extend_from_slice(arguments);
    Process::start(Path::new("taskset"), &all, ground.folder.join("log"))
        .context("`taskset` of util-linux is needed")
}

async fn until(process: &mut Process, ready: impl Fn() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !ready() {
        process.alive()?;
        ensure!(begin.elapsed() < READY_WITHIN, "the proxy does not start:\n{}", process.log_end());
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn build_hudsucker() -> anyhow::Result<PathBuf> {
    let (folder, target) = (Path::new(PEERS).join("hudsucker"), out().join("target"));
    let built = Command::new(env!("CARGO"))
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--release", "--locked", "--message-format=json-render-diagnostics"])
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo")?;
    ensure!(built.status.success(), "hudsucker does not build");
    // Where it is depends on the user's configuration of cargo.
    let messages = built.stdout.split(|&byte| byte == b'\n');
    let artifacts = messages.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let mut programs = artifacts.filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
    programs.next_back().context("cargo does not say where hudsucker is")
}

/// mitmproxy from PyPI, in an environment of its own that is kept for the next run.
///
/// # Errors
/// When it cannot be had.
pub fn install_mitmproxy() -> anyhow::Result<PathBuf> {
    let folder = out().join("mitmproxy");
    let program = folder.join("bin/mitmdump");
    if !program.exists() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&folder).status()?;
        ensure!(made.success(), "python3 makes no environment");
        let mut pip = Command::new(folder.join("bin/pip"));
        let installed = pip.args(["install", "--quiet", "mitmproxy>=11,<13"]).status()?;
        ensure!(installed.success(), "pip does not install it");
    }
    Ok(program)
}

/// What peers are built into: kept, and no part of the repository.
fn out() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("out/peers")
}
