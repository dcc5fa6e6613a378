//! `freehold server`: opens what is on the machine, wires the parts, serves until it is told to stop.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use freehold_app::{
    App, Ports, Secret, fleet,
    ports::{NoCounts, NoWorkspaces, UploadStore},
    uploads::ObjectUploads,
};
use freehold_driver::{Enforcement, PodDriver};
use freehold_driver_local::{LocalDriver, PodRoot};
use freehold_egress::budget::Prices;
use freehold_model::UploadId;
use freehold_reconcile as reconcile;
use freehold_store::Store;
use freehold_vault::SigningKey;
use freehold_wiring::EgressStore;
use object_store::local::LocalFileSystem;
use rustix::{
    fs::FlockOperation,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    approvals::StoreApprovals,
    config::{Config, LogFormat},
    control,
    credentials::{self, Issuing},
    gate::EgressGate,
    machine,
    ports::{Agents, EgressCounts, NoAgents, Policies, Signer},
    secrets::{self, Sealer, Secrets},
};

/// The file that tells where the server listens, for programs that let it choose a port.
const ADDRESS_FILE: &str = "server.addr";

/// The file with the owner's personal token, written at the first start.
const OWNER_FILE: &str = "owner.key";
/// The database, in the data directory, where no other is configured.
const DATABASE_FILE: &str = "freehold.db";
/// The file with the key that signs the audit log.
const AUDIT_KEY_FILE: &str = "audit.key";
/// The file that a running server holds locked; it stays.
const LOCK_FILE: &str = "lock";
/// How much longer a connection may be silent than a request is held, in milliseconds.
const HELD_MARGIN_MS: u64 = 60_000;

/// The owner of the first start, who may be anybody until there is sign-in.
const OWNER_EMAIL: &str = "owner@localhost";

/// Why the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop. Pods go on.
    Stopped,
    /// Whoever started it for a while is gone. Its pods are, too.
    Abandoned,
}

/// Files that the server may have open, if the system allows as many. Each connection of a pod to the outside takes two;
/// with the usual 1,024 for all, two pods could leave nothing for the others.
const OPEN_FILES: u64 = 65_536;

/// How long the end of the server waits for issuers that were asked: what they answer must not be lost.
const ISSUERS_WAIT_MAX: Duration = Duration::from_secs(20);

/// A process that crashes leaves no image of its memory, in which the secrets of all organizations are.
fn leave_no_core() {
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, nothing) {
        tracing::warn!(%error, "a crash may leave an image of the server's memory, secrets included");
    }
}

/// Runs the server until it is told to stop: by a signal, which leaves the pods running, or by the end of its standard
/// input where `stop_with_stdin` says so, which takes them away.
pub async fn run(config: Config, stop_with_stdin: bool) -> anyhow::Result<Ended> {
    log(&config)?;
    raise_open_files();
    leave_no_core();
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone())?;
    let abandoned = CancellationToken::new();
    if stop_with_stdin {
        abandon_with_stdin(abandoned.clone(), shutdown.clone());
    }
    let data = DataDir::open(&config.server.data_dir)?;
    // Before anything is made: who takes a port in use learns it at once.
    let listener = TcpListener::bind(config.server.listen).await.with_context(|| {
        format!("cannot listen on {}; choose another address with --listen", config.server.listen)
    })?;
    let address = listener.local_addr()?;
    let store = open_store(&config, data.root(), true)?;
    let control = control::listen(&data)?;
    let vault = Arc::new(secrets::open(&config, data.root(), &store)?);
    sweep_uploads(&data)?;
    let uploads = open_uploads(data.root())?;
    let fleet = fleet::Fleet::new(store.clone(), uploads.clone(), settings(&config));

    let minter = freehold_egress::token::Minter::generate()?;
    abandon_holds(&fleet).await?;
    let (kept, approvals) = (Arc::new(EgressStore(fleet.clone())), Arc::new(StoreApprovals(fleet.clone())));
    let (egress_service, egress) =
        egress_options(&config, &data, address)?.build(minter.verifier(), kept.clone(), approvals, kept)?;
    let counts = Arc::new(EgressCounts(egress.budgets().clone()));
    let driver: Arc<dyn PodDriver> = Arc::new(open_driver(&config, &data).await?);
    report(driver.as_ref());

    let options = reconcile::Options {
        limits: config.pod.limits(),
        trust_anchors_pem: egress.ca_pem().to_owned(),
        ..reconcile::Options::default()
    };
    let values = Arc::new(Secrets::new(store.clone(), vault.clone()));
    let (broker, directory) = credentials::wire(&store, &fleet, &vault, &egress, values);
    let gate = Arc::new(EgressGate::new(egress, minter, directory));
    let reconciler = reconcile::Service::new(options, fleet, driver.clone(), gate);
    let ports = Ports {
        agent: Arc::new(Agents::new(reconciler.handle(), driver.clone())),
        sealer: Arc::new(Sealer(vault.clone())),
        issuers: Arc::new(Issuing { vault: vault.clone(), broker: Some(broker.clone()) }),
        uploads,
        counts,
        signer: Arc::new(Signer(SigningKey::open(&data.path(AUDIT_KEY_FILE))?)),
        policy: Arc::new(Policies(reconciler.handle())),
    };
    let app = App::new(store.clone(), ports, app_settings(&config, address));
    first_start(&app, &data).await?;

    let control_task =
        tokio::spawn(control::serve(control, store.clone(), vault.clone(), shutdown.child_token()));
    let egress_task = tokio::spawn(egress_service.run(shutdown.child_token()));
    let reconcile_task = tokio::spawn(reconciler.run(shutdown.clone().cancelled_owned()));
    write_file(data.root(), ADDRESS_FILE, &address.to_string(), 0o644)?;
    tracing::info!(server.address = %address, server.data_dir = %data.0.display(), "listening on http://{address}");
    let checkpoints = keep_checkpoints(app.clone());
    let api = freehold_http::Server::new(app.clone(), api_options(&config))?;
    api.serve(listener, shutdown.clone().cancelled_owned()).await?;

    shutdown.cancel();
    reconcile_task.await?;
    egress_task.await?;
    control_task.await?;
    broker.drain(ISSUERS_WAIT_MAX).await;
    // After everybody who writes rows.
    end_checkpoints(&checkpoints, &app).await;
    store.close().await;
    end_pods(driver.as_ref(), abandoned.is_cancelled()).await
}

/// Ends the server, and its pods with it, when its standard input ends.
fn abandon_with_stdin(abandoned: CancellationToken, shutdown: CancellationToken) {
    tokio::spawn(async move {
        freehold_cli::stdin_closed().await;
        abandoned.cancel();
        shutdown.cancel();
    });
}

/// What becomes of the pods of a server that has ended.
async fn end_pods(driver: &dyn PodDriver, is_abandoned: bool) -> anyhow::Result<Ended> {
    if is_abandoned {
        for pod in driver.observe().await? {
            driver.delete(pod.pod_id).await?;
        }
        tracing::info!("stopped, and the pods with it");
        return Ok(Ended::Abandoned);
    }
    tracing::info!("stopped; pods go on, and the next start finds them");
    Ok(Ended::Stopped)
}

/// Records that requests which the server before this one held went nowhere: whoever held them is gone.
async fn abandon_holds(fleet: &fleet::Fleet) -> anyhow::Result<()> {
    let abandoned = fleet.approvals_abandon_all().await?;
    if abandoned > 0 {
        tracing::info!(
            approvals = abandoned,
            "requests were held when the server ended; their approvals are abandoned"
        );
    }
    Ok(())
}

fn settings(config: &Config) -> fleet::Settings {
    fleet::Settings {
        task_timeout_seconds: config.defaults.task_timeout_seconds,
        idle_timeout_seconds: config.defaults.idle_timeout_seconds,
        max_continuations: config.defaults.max_continuations,
        max_context_tokens: config.defaults.max_context_tokens,
        journal: fleet::JournalLimits {
            task_bytes: config.pod.task_journal_bytes,
            session_bytes: config.pod.session_journal_bytes,
            ..fleet::JournalLimits::default()
        },
    }
}

fn log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .with_context(|| format!("`log.filter` is not a filter: {}", config.log.filter))?;
    // A file or a collector gets no colour codes.
    #[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A line that cannot be written, on a full disk, is left out. Else that would be said on standard error, by a macro
        // that panics when it fails too.
        .log_internal_errors(false)
        .with_ansi(!is_plain && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    });
    Ok(())
}

/// How long a start waits for an earlier server on its directory to end: one that was killed has its lock for a moment.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory of one server. The lock is held as long as this lives.
pub struct DataDir(PathBuf, #[expect(dead_code, reason = "held for its lock")] File);

impl DataDir {
    /// Makes the directory when it is not there, and takes its lock.
    ///
    /// # Errors
    /// When another server uses it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot find the data directory {}", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .with_context(|| format!("cannot use the data directory {}", path.display()))?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(path, lock)),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_WAIT_MAX => {
                    std::thread::sleep(LOCK_PAUSE)
                }
                Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
                    "another server uses {}; stop it, or choose another --data-dir",
                    path.display()
                ),
                Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
            }
        }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Opens the store that the configuration names; the server as its owner, whoever works beside it not.
pub fn open_store(config: &Config, data_dir: &Path, owner: bool) -> anyhow::Result<Store> {
    let database = match &config.server.database_url {
        None => freehold_store::Database::Sqlite { path: data_dir.join(DATABASE_FILE) },
        Some(url) => freehold_store::Database::Postgres { url: url.clone() },
    };
    let options = freehold_store::Options { owner, ..freehold_store::Options::new(database) };
    Store::open(&options).context("cannot open the database")
}

/// Refuses where opening would make a database: commands beside a server work on the server's.
///
/// # Errors
/// When the data directory is to have the database and has none.
pub fn ensure_database(config: &Config) -> anyhow::Result<()> {
    let data_dir = &config.server.data_dir;
    if config.server.database_url.is_some() || data_dir.join(DATABASE_FILE).exists() {
        return Ok(());
    }
    let dir = data_dir.display();
    anyhow::ensure!(
        !data_dir.join(LOCK_FILE).exists(),
        "there is no database in {dir}: this directory's server uses another database; give --database-url, or --config"
    );
    anyhow::bail!(
        "there is no database in {dir}; start the server once, or name its directory with --data-dir"
    )
}

fn open_uploads(data_dir: &Path) -> anyhow::Result<Arc<dyn UploadStore>> {
    let path = data_dir.join("uploads");
    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    let objects = LocalFileSystem::new_with_prefix(path)?.with_automatic_cleanup(true);
    Ok(Arc::new(ObjectUploads::new(Arc::new(objects))))
}

/// Removes what uploads that a killed server was taking in have left: `<id>#<n>`, beside the files that are whole. The lock on
/// the data directory says that no other server takes any in now.
fn sweep_uploads(data: &DataDir) -> anyhow::Result<()> {
    let folder = data.path("uploads").join(freehold_app::uploads::FOLDER);
    let sweep = || -> std::io::Result<usize> {
        let mut swept = 0;
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let staged = name.to_str().and_then(|name| name.split_once('#'));
            // What else there may be is not ours.
            if staged.is_some_and(|(id, n)| id.parse::<UploadId>().is_ok() && n.parse::<u64>().is_ok()) {
                fs::remove_file(folder.join(&name))?;
                swept += 1;
            }
        }
        Ok(swept)
    };
    match sweep() {
        Ok(0) => {}
        Ok(swept) => tracing::info!(uploads = swept, "removed uploads that were cut short"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot sweep {}", folder.display())),
    }
    Ok(())
}

/// Signs the audit log while the server runs.
fn keep_checkpoints(app: App) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { app.keep_checkpoints().await })
}

/// Signs the rest of it.
async fn end_checkpoints(running: &tokio::task::JoinHandle<()>, app: &App) {
    running.abort();
    app.checkpoint_all().await;
}

/// The use cases for commands on the server's machine, which need no agents.
pub fn offline_app(config: &Config, store: Store) -> anyhow::Result<App> {
    let data_dir = &config.server.data_dir;
    let vault = Arc::new(secrets::open(config, data_dir, &store)?);
    let ports = Ports {
        agent: Arc::new(NoAgents),
        sealer: Arc::new(Sealer(vault.clone())),
        issuers: Arc::new(Issuing { vault, broker: None }),
        uploads: open_uploads(data_dir)?,
        counts: Arc::new(NoCounts),
        signer: Arc::new(Signer(SigningKey::open(&data_dir.join(AUDIT_KEY_FILE))?)),
        policy: Arc::new(NoWorkspaces),
    };
    Ok(App::new(store, ports, app_settings(config, config.server.listen)))
}

fn app_settings(config: &Config, address: SocketAddr) -> freehold_app::Settings {
    freehold_app::Settings {
        task_timeout_seconds: config.defaults.task_timeout_seconds,
        idle_timeout_seconds: config.defaults.idle_timeout_seconds,
        public_url: config.server.public_url.clone().unwrap_or_else(|| format!("http://{address}")),
    }
}

/// Connections of callers take half of the files that may be open at most: pods and the database need theirs.
fn api_options(config: &Config) -> freehold_http::Options {
    let mut options = freehold_http::Options {
        connections_per_peer_max: config
            .server
            .connections_per_peer
            .map(|max| usize::try_from(max.get()).unwrap_or(usize::MAX)),
        ..freehold_http::Options::default()
    };
    if let Some(files) = getrlimit(Resource::Nofile).current {
        options.connections_max =
            options.connections_max.min(usize::try_from(files / 2).unwrap_or(usize::MAX));
    }
    options
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |maximum| maximum.min(OPEN_FILES));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit })
    {
        tracing::warn!(error = %error, "the limit of open files stays as it was");
    }
}

fn egress_options(
    config: &Config,
    data: &DataDir,
    address: SocketAddr,
) -> anyhow::Result<freehold_egress::Options> {
    let mut options = freehold_egress::Options::new(data.path("egress"));
    let urls = config.server.public_url.iter().chain(&config.server.other_urls);
    options.control_plane = freehold_egress::ControlPlane::new(address, urls.map(String::as_str))
        .context("the configuration is not valid: `server.public_url` or `server.other_urls`")?;
    let limits = &mut options.limits;
    limits.approval_ms = u64::from(config.egress.approval_timeout_seconds.get()) * 1_000;
    // A connection is silent while its request is held.
    limits.stalled_ms = limits.stalled_ms.max(limits.approval_ms + HELD_MARGIN_MS);
    options.hosts = config.egress.hosts.iter().map(|(name, address)| (name.clone(), *address)).collect();
    options.rules_name_addresses = config.egress.rules_name_addresses;
    options.busy_poll = Duration::from_micros(config.egress.busy_poll_microseconds.into());
    options.name_servers.clone_from(&config.egress.name_servers);
    options.budgets.prices =
        Prices::new(&config.prices).context("the configuration is not valid: `prices`")?;
    for path in &config.egress.extra_roots {
        let pem = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        anyhow::ensure!(
            pem.contains("-----BEGIN CERTIFICATE-----"),
            "the configuration is not valid: `egress.extra_roots` names {}, which holds no certificate in PEM",
            path.display()
        );
        options.upstream_roots_pem.push(pem);
    }
    Ok(options)
}

async fn open_driver(config: &Config, data: &DataDir) -> anyhow::Result<LocalDriver> {
    let root = config.pod.root.clone().map_or(PodRoot::HostUsr, PodRoot::detect);
    let options = freehold_driver_local::Options {
        state_dir: data.path("pods"),
        executable: std::env::current_exe()?,
        root,
    };
    LocalDriver::open(options).await.map_err(|error| {
        let error = anyhow::Error::new(error).context("this machine cannot run pods");
        let hint = machine::hint(Path::new("/proc/sys"), rustix::process::geteuid().is_root());
        anyhow::anyhow!("{error:#}\nhint: {hint}")
    })
}

/// Says at start what this machine enforces, and what not.
fn report(driver: &dyn PodDriver) {
    let report = driver.report();
    tracing::info!(driver = report.driver, "pods: {}", report.sandbox);
    tracing::info!(driver = report.driver, "interception: {}", report.interception);
    for limit in &report.limits {
        match limit.enforcement {
            Enforcement::Enforced => {
                tracing::info!(limit = limit.limit, "limit {}: enforced by {}", limit.limit, limit.why)
            }
            Enforcement::BestEffort => {
                tracing::warn!(limit = limit.limit, "limit {}: best effort: {}", limit.limit, limit.why)
            }
            Enforcement::Missing => {
                tracing::warn!(limit = limit.limit, "limit {}: not enforced: {}", limit.limit, limit.why)
            }
        }
    }
}

/// Makes the organization and its owner when there are none, and leaves the owner's token where only this user reads it.
async fn first_start(app: &App, data: &DataDir) -> anyhow::Result<()> {
    // The file is written before the rows are committed: a crash between the two leaves a file that the next start
    // replaces, never an owner whose token nobody has.
    let path = data.root().to_owned();
    let keep = move |token: &Secret| write_file(&path, OWNER_FILE, &format!("{}\n", token.expose()), 0o600);
    if app.bootstrap(OWNER_EMAIL, keep).await? {
        tracing::info!("first start: the owner's token is in {}", data.path(OWNER_FILE).display());
    }
    Ok(())
}

/// Writes a file as a whole: a reader sees the old one or the new one.
fn write_file(dir: &Path, name: &str, text: &str, mode: u32) -> std::io::Result<()> {
    let (path, new) = (dir.join(name), dir.join(format!("{name}.new")));
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)
}
