//! What a benchmark leaves nothing of: its folder, the processes it starts, the certificates of its upstreams.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::processes;

/// How long a process may take to end when asked, before it is killed.
const END_WITHIN: Duration = Duration::from_secs(10);
/// How long the kernel may take over a killed process.
const KILLED_WITHIN: Duration = Duration::from_secs(5);
/// How often is looked whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How much of a log is shown when its process failed.
const LOG_SHOWN_BYTES: usize = 4000;

/// A folder that goes away, with every holder of a pod that lives in it.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// A fresh folder in `parent`, or where the system keeps temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: Option<&Path>) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("freehold-bench-");
        let made = parent.map_or_else(|| builder.tempdir(), |parent| builder.tempdir_in(parent));
        Ok(Self(made.context("failed to make a folder for the benchmark")?))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Pods outlive their server by design; when a run is interrupted, nobody has deleted them.
        let holders = processes::holders(self.path()).unwrap_or_default();
        for &pid in &holders {
            signal(pid, Signal::KILL);
        }
        wait_until(KILLED_WITHIN, || holders.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));
        // An overlay mounted by an ordinary user leaves folders that even their owner may not enter.
        open_up(self.path());
    }
}

fn open_up(folder: &Path) {
    let _gone = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}

/// A process of ours that logs into a file, and ends with this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`, its output in `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(program: &Path, arguments: &[String], log: PathBuf) -> anyhow::Result<Self> {
        let file = fs::File::create(&log).with_context(|| format!("failed to make `{}`", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // An interrupt at the terminal is for the benchmark, which then ends this process in its own order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start `{}`", program.display()))?;
        Ok(Self { child, log })
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        bail!("the process ended ({status}):\n{}", self.log_end())
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_SHOWN_BYTES)..]).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        signal(self.child.id(), Signal::TERM);
        if !wait_until(END_WITHIN, || !matches!(self.child.try_wait(), Ok(None))) {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// A port that nobody listens on at this moment.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A certificate authority and a certificate of it, in files.
#[derive(Debug)]
pub struct Certificates {
    /// The authority's certificate (PEM).
    pub authority: PathBuf,
    /// The certificate (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
}

impl Certificates {
    /// Makes both for `names`, in `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn make(folder: &Path, names: &[&str]) -> anyhow::Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By default both certificates have the same name, and OpenSSL takes the second for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "Freehold bench");
        let authority = params.self_signed(&authority_key)?;
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let write = |name: &str, text: String| -> anyhow::Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("failed to write `{}`", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("upstream-ca.pem", authority.pem())?,
            certificate: write("upstream.pem", certificate.pem())?,
            key: write("upstream-key.pem", key.serialize_pem())?,
        })
    }

    /// A server's side with them.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        self.acceptor_of(&[])
    }

    /// The same that says that it speaks these.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn acceptor_of(&self, protocols: &[&[u8]]) -> anyhow::Result<TlsAcceptor> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate)?.collect();
        let key = PrivateKeyDer::from_pem_file(&self.key)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain?, key)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A client's side that trusts the certificates in `authority` (PEM) alone.
///
/// # Errors
/// When the file cannot be read.
pub fn connector(authority: &Path) -> anyhow::Result<TlsConnector> {
    Ok(TlsConnector::from(Arc::new(client_config(authority)?)))
}

/// The same that speaks these alone, and shakes hands anew for each connection.
///
/// # Errors
/// When the file cannot be read.
pub fn connector_of(authority: &Path, protocols: &[&[u8]]) -> anyhow::Result<TlsConnector> {
    let mut config = client_config(authority)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn client_config(authority: &Path) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authority);
    for certificate in certificates.context("failed to read the trusted certificates")? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

const DEBUG_HINT: &str = "figures of a debug build mean nothing; use --release, or say --allow-debug";

/// Refuses to measure with a debug build.
///
/// # Errors
/// When this is one and that is not allowed.
pub fn released(allow_debug: bool) -> anyhow::Result<()> {
    ensure!(allow_debug || !cfg!(debug_assertions), "this is a debug build: {DEBUG_HINT}");
    Ok(())
}

/// The program to measure: the one named, or the workspace's own, built now so that it is what the tree says.
///
/// # Errors
/// When there is none, or it is a debug build and that is not allowed.
pub fn freehold(named: Option<&Path>, allow_debug: bool) -> anyhow::Result<PathBuf> {
    released(allow_debug)?;
    let path = if let Some(path) = named {
        path.to_owned()
    } else {
        build()?;
        std::env::current_exe()?.with_file_name("freehold")
    };
    ensure!(path.is_file(), "there is no program `{}`", path.display());
    let path = path.canonicalize()?;
    let debug = path.parent().is_some_and(|folder| folder.ends_with("debug"));
    ensure!(allow_debug || !debug, "`{}` is a debug build: {DEBUG_HINT}", path.display());
    Ok(path)
}

fn build() -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--package", "freehold"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().context("failed to start cargo; name the program with --freehold")?;
    ensure!(status.success(), "the program does not build; name one with --freehold");
    Ok(())
}
