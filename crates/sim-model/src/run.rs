//! The subcommand `freehold sim-model`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;

use crate::scenario::{Scenario, ScenarioError};
use crate::server::{Handle, serve};

/// What the subcommand takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,
    /// The scenario file; without it every request is answered `ok` at once.
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Play the scenario of `freehold demo`.
    #[arg(long, conflicts_with = "scenario")]
    pub demo: bool,
    /// The key a request must bear, in the place of the scenario's.
    #[arg(long, value_name = "KEY")]
    pub require_key: Option<String>,
    /// Refuse requests that have not the shape the vendors document.
    #[arg(long)]
    pub strict: bool,
    /// Serve TLS for this name, with a certificate of an authority made for this run; repeatable.
    #[arg(long, value_name = "NAME", requires = "ca_out", conflicts_with = "tls_cert")]
    pub self_signed: Vec<String>,
    /// Where that authority's certificate (PEM) is written, for clients to trust.
    #[arg(long, value_name = "FILE", requires = "self_signed")]
    pub ca_out: Option<PathBuf>,
    /// The certificate chain (PEM) to serve TLS with.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// The server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file cannot be read.
    #[error("failed to read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The scenario is not one.
    #[error("failed to load the scenario `{path}`")]
    Scenario {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: ScenarioError,
    },
    /// A PEM file does not hold what it should.
    #[error("`{path}` holds no usable certificate or key: {message}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A file cannot be written.
    #[error("failed to write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// Certificate and key cannot be used.
    #[error("the certificate and its key cannot be used")]
    Tls(#[source] rustls::Error),
    /// The address cannot be listened on.
    #[error("failed to listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Starts the server; it runs until the handle is dropped.
///
/// # Errors
/// When a file, the certificate or the address is not usable.
pub async fn run(args: &Args) -> Result<Handle, RunError> {
    let mut scenario = match &args.scenario {
        Some(path) => {
            let text = std::fs::read_to_string(path);
            let text = text.map_err(|source| RunError::Read { path: path.clone(), source })?;
            Scenario::parse(&text).map_err(|source| RunError::Scenario { path: path.clone(), source })?
        }
        None if args.demo => Scenario::parse(crate::DEMO)
            .map_err(|source| RunError::Scenario { path: PathBuf::from("demo.yaml"), source })?,
        None => Scenario::default(),
    };
    if args.require_key.is_some() {
        scenario.require_key.clone_from(&args.require_key);
    }
    scenario.strict |= args.strict;
    // First of all: one that fails here has not touched the certificate of one that runs.
    let failed = |source| RunError::Listen { address: args.listen, source };
    let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
    let tls = match (&args.tls_cert, &args.tls_key, &args.ca_out) {
        (Some(cert), Some(key), _) => Some(tls(cert, key)?),
        (_, _, Some(ca_out)) => Some(self_signed(&args.self_signed, ca_out)?),
        _ => None,
    };
    serve(listener, scenario, tls).map_err(failed)
}

/// TLS with a certificate chain and key from PEM files, HTTP/1.1 and HTTP/2.
///
/// # Errors
/// When a file is not readable, or the two do not belong together.
pub fn tls(cert: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, RunError> {
    let bad = |path: &Path, error: rustls::pki_types::pem::Error| RunError::Pem {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect);
    let chain = chain.map_err(|error| bad(cert, error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
    config(chain, private)
}

/// TLS for `names`, by an authority whose key is forgotten at once; its certificate is written to `ca_out`.
fn self_signed(names: &[String], ca_out: &Path) -> Result<Arc<rustls::ServerConfig>, RunError> {
    let authority_key = rcgen::KeyPair::generate().map_err(RunError::Certificate)?;
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(rcgen::DnType::CommonName, "Freehold sim-model authority");
    let pem = authority.self_signed(&authority_key).map_err(RunError::Certificate)?.pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().map_err(RunError::Certificate)?;
    let leaf = rcgen::CertificateParams::new(names).map_err(RunError::Certificate)?;
    let leaf = leaf.signed_by(&key, &issuer).map_err(RunError::Certificate)?;
    std::fs::write(ca_out, pem).map_err(|source| RunError::Write { path: ca_out.to_owned(), source })?;
    config(vec![leaf.into()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
) -> Result<Arc<rustls::ServerConfig>, RunError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(RunError::Tls)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(RunError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
