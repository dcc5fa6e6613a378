//! Secrets in an OpenBao or a HashiCorp Vault, by the protocol of the KV engine, version 2.
//!
//! A secret is at `<prefix>/<organization>/<kind>/<id>` as `{"value_base64": ...}`, and its row refers to the version that was
//! written for it: a row and its secret change together, whichever of two writers was later.
//!
//! Invariant: nothing that the store of secrets answered is in an error or a log, its own words of refusal excepted.

use std::{
    error::Error as StdError,
    fmt, fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::{Host, Url};
use vaultrs::{
    api::EndpointMiddleware,
    auth::approle,
    client::{VaultClient, VaultClientSettings},
    error::ClientError,
    kv2,
};
use zeroize::Zeroizing;

use crate::{Error, Keeper, Place, Secret, form::Reference};

/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
/// How often a request is made that fails in a way that may pass.
const ATTEMPTS_MAX: u32 = 3;
/// The pause before the second attempt; doubled for each one after.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest token, in bytes.
const TOKEN_BYTES_MAX: u64 = 16 * 1024;
/// A login is renewed after this part of its time, in percent.
const LOGIN_RENEWED_PERCENT: u64 = 66;

/// How this server shows who it is.
#[derive(Debug, Clone)]
pub enum Login {
    /// A token that is in a file, where an agent of the store of secrets may renew it.
    TokenFile(PathBuf),
    /// A role of the AppRole method, whose secret id is in a file.
    AppRole {
        /// Where the method is mounted: `approle`.
        mount: String,
        /// The role's id.
        role_id: String,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
}

/// Which store of secrets, and where in it.
#[derive(Debug, Clone)]
pub struct Options {
    /// `https://host:port`; plain `http` to this machine only.
    pub address: String,
    /// Where the KV engine (version 2) is mounted.
    pub mount: String,
    /// The folder in it for this server's secrets.
    pub prefix: String,
    /// The namespace, where the store has them.
    pub namespace: Option<String>,
    /// How this server shows who it is.
    pub login: Login,
    /// Certificates (PEM) of the authorities that the store may be signed by; the system's when absent.
    pub ca_pem: Option<String>,
}

/// The secret as it is written there.
#[derive(Serialize, Deserialize)]
struct Stored {
    value_base64: String,
}

impl Drop for Stored {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.value_base64);
    }
}

/// A store of secrets.
pub struct OpenBao {
    options: Options,
    address: Url,
    http: reqwest::Client,
    session: Mutex<Option<Arc<Session>>>,
}

impl fmt::Debug for OpenBao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenBao").field("address", &self.address.as_str()).finish_non_exhaustive()
    }
}

/// A client with its token.
struct Session {
    client: VaultClient,
    until: Option<Instant>,
}

type Asked<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

impl OpenBao {
    /// A client of this store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] when the options cannot be right.
    pub fn new(options: Options) -> Result<Self, Error> {
        let wrong = |why: String| Error::Misconfigured { address: options.address.clone(), why };
        let address = parse_address(&options.address).map_err(|why| wrong(why.to_owned()))?;
        for (what, path) in [("mount", &options.mount), ("prefix", &options.prefix)] {
            if !is_path(path) {
                return Err(wrong(format!(
                    "the {what} must be letters, digits, `-`, `_`, `.` and `/` between them"
                )));
            }
        }
        let tls = tls(options.ca_pem.as_deref()).map_err(wrong)?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            // A redirect would carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME_MAX)
            .timeout(REQUEST_TIME_MAX)
            .no_proxy()
            .build()
            .map_err(|error| wrong(chain(&error)))?;
        Ok(Self { options, address, http, session: Mutex::default() })
    }

    /// A path as people look for it: with its mount.
    pub(crate) fn shown(&self, path: &str) -> String {
        format!("{}/{path}", self.options.mount)
    }

    fn misconfigured(&self, why: impl Into<String>) -> Error {
        Error::Misconfigured { address: self.options.address.clone(), why: why.into() }
    }

    fn unavailable(&self, why: impl Into<String>) -> Error {
        Error::Unavailable { address: self.options.address.clone(), why: why.into() }
    }

    fn path(&self, place: Place) -> String {
        format!("{}/{}", self.options.prefix, place.path())
    }

    /// What a row refers to, if it is this holder's, wherever the prefix was then.
    fn reference(&self, place: Place, kept: &[u8]) -> Result<Reference, Error> {
        let reference = Reference::parse(kept).ok_or(Error::UnknownForm)?;
        let is_its_own = reference.path.ends_with(&format!("/{}", place.path()));
        if is_its_own && is_path(&reference.path) { Ok(reference) } else { Err(Error::NotAuthentic) }
    }

    fn client(&self, token: &str) -> VaultClient {
        let settings = VaultClientSettings {
            address: self.address.clone(),
            ca_certs: Vec::new(),
            identity: None,
            timeout: Some(REQUEST_TIME_MAX),
            token: String::new(),
            verify: true,
            version: 1,
            wrapping: false,
            namespace: self.options.namespace.clone(),
            proxy: None,
        };
        let middle = EndpointMiddleware {
            token: token.to_owned(),
            version: "v1".to_owned(),
            wrap: None,
            namespace: self.options.namespace.clone(),
        };
        let base = self.address.as_str().trim_end_matches('/');
        let http = rustify::clients::reqwest::Client::new(base, self.http.clone());
        VaultClient { http, middle, settings }
    }

    /// The session in force, or a new one. Who waits for a login waits for one and the same.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut session = self.session.lock().await;
        if let Some(session) = session.as_ref()
            && session.until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(Arc::clone(session));
        }
        let (token, until) = match &self.options.login {
            Login::TokenFile(path) => (self.read(path)?, None),
            Login::AppRole { mount, role_id, secret_id_file } => {
                let secret_id = self.read(secret_id_file)?;
                let client = self.client("");
                let login = || {
                    Box::pin(approle::login(&client, mount, role_id, &secret_id))
                        as Asked<'_, vaultrs::api::AuthInfo>
                };
                let login = self.patiently("log in", login).await?;
                let seconds = login.lease_duration.saturating_mul(LOGIN_RENEWED_PERCENT) / 100;
                let until = (seconds > 0).then(|| Instant::now().checked_add(Duration::from_secs(seconds)));
                (Zeroizing::new(login.client_token), until.flatten())
            }
        };
        let made = Arc::new(Session { client: self.client(&token), until });
        *session = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Forgets a session whose token is not taken any more, unless another has done so and there is a newer one.
    async fn forget(&self, refused: &Arc<Session>) {
        let mut session = self.session.lock().await;
        if session.as_ref().is_some_and(|session| Arc::ptr_eq(session, refused)) {
            *session = None;
        }
    }

    fn read(&self, path: &Path) -> Result<Zeroizing<String>, Error> {
        let failed =
            |why: &dyn fmt::Display| self.misconfigured(format!("cannot read {}: {why}", path.display()));
        let length = fs::metadata(path).map_err(|error| failed(&error))?.len();
        if length > TOKEN_BYTES_MAX {
            return Err(failed(&"it is too long"));
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(|error| failed(&error))?);
        let text = Zeroizing::new(text.trim().to_owned());
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(failed(&"it holds no token"));
        }
        Ok(text)
    }

    /// Asks, again after faults that may pass.
    async fn patiently<'a, T>(&self, what: &str, ask: impl Fn() -> Asked<'a, T>) -> Result<T, Error> {
        let mut attempt = 1;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.explain(what, &error),
            };
            if !matches!(error, Error::Unavailable { .. }) || attempt >= ATTEMPTS_MAX {
                return Err(error);
            }
            tracing::debug!(error = &error as &dyn StdError, "the store of secrets is asked again");
            tokio::time::sleep(RETRY_PAUSE * (1 << (attempt - 1))).await;
            attempt += 1;
        }
    }

    /// Asks with the session's token, and once more with a new one when it is refused.
    async fn ask<'a, T>(
        &'a self,
        what: &str,
        ask: impl Fn(Arc<Session>) -> Asked<'a, T>,
    ) -> Result<T, Error> {
        let session = self.session().await?;
        let first = self.patiently(what, || ask(Arc::clone(&session))).await;
        match first {
            Err(Error::Misconfigured { .. }) => {}
            other => return other,
        }
        self.forget(&session).await;
        let session = self.session().await?;
        self.patiently(what, || ask(Arc::clone(&session))).await
    }

    fn explain(&self, what: &str, error: &ClientError) -> Error {
        use rustify::errors::ClientError as Rest;
        match error {
            ClientError::APIError { code, errors } => self.refused(what, *code, errors),
            ClientError::RestClientError { source: Rest::ServerResponseError { code, .. } } => {
                self.refused(what, *code, &[])
            }
            ClientError::RestClientError { source: Rest::RequestError { source, .. } } => {
                self.unavailable(format!("{source:#}"))
            }
            ClientError::RestClientError { source: Rest::ResponseError { .. } } => {
                self.unavailable("its answer broke off")
            }
            // What others say may be what was answered.
            _ => self.unavailable("its answer is none of the KV engine, version 2"),
        }
    }

    fn refused(&self, what: &str, code: u16, errors: &[String]) -> Error {
        let said = if errors.is_empty() { String::new() } else { format!(": {}", errors.join("; ")) };
        match code {
            404 if what == "read" => Error::Gone,
            404 => self.misconfigured(format!(
                "failed to {what}: there is no KV engine (version 2) mounted at `{}`{said}",
                self.options.mount
            )),
            412 | 429 | 500.. => self.unavailable(format!("it answered {code}{said}")),
            _ => self.misconfigured(format!("failed to {what}: it answered {code}{said}")),
        }
    }
}

#[async_trait]
impl Keeper for OpenBao {
    async fn keep(&self, place: Place, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let stored = Arc::new(Stored { value_base64: STANDARD.encode(secret) });
        let (path, mount) = (self.path(place), self.options.mount.as_str());
        let written = self
            .ask("write", |session| {
                let (stored, path) = (Arc::clone(&stored), path.clone());
                Box::pin(async move { kv2::set(&session.client, mount, &path, &*stored).await })
            })
            .await?;
        Ok(Reference { version: written.version, path }.to_bytes())
    }

    async fn open(&self, place: Place, kept: &[u8]) -> Result<Secret, Error> {
        let Reference { version, path } = self.reference(place, kept)?;
        let mount = self.options.mount.as_str();
        let stored: Stored = self
            .ask("read", |session| {
                let path = path.clone();
                Box::pin(async move { kv2::read_version(&session.client, mount, &path, version).await })
            })
            .await?;
        let bytes = STANDARD.decode(stored.value_base64.as_bytes());
        bytes
            .map(Secret::new)
            .map_err(|_| self.unavailable("what it has there was not written by this program"))
    }

    async fn discard(&self, place: Place, kept: &[u8]) -> Result<(), Error> {
        let Reference { path, .. } = self.reference(place, kept)?;
        let mount = self.options.mount.as_str();
        self.ask("delete", |session| {
            let path = path.clone();
            Box::pin(async move { kv2::delete_metadata(&session.client, mount, &path).await })
        })
        .await
    }

    async fn is_current(&self, place: Place, kept: &[u8]) -> Result<bool, Error> {
        Ok(Reference::parse(kept).is_some_and(|reference| reference.path == self.path(place)))
    }
}

/// Letters, digits, `-`, `_` and `.` in parts between single slashes; nothing that a URL would read otherwise.
fn is_path(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.split('/').all(|part| !part.is_empty() && part.bytes().all(is_plain) && !matches!(part, "." | ".."))
}

fn parse_address(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "the address must be https://host:port")?;
    let is_loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => {}
        "http" if is_loopback => {}
        "http" => return Err("over plain http anybody on the way could read the secrets"),
        _ => return Err("the address must be https://host:port"),
    }
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !is_bare || !url.username().is_empty() || url.password().is_some() {
        return Err("the address must be https://host:port and nothing else");
    }
    Ok(url)
}

/// TLS by aws-lc-rs, with these authorities or the system's.
fn tls(ca_pem: Option<&str>) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_pem {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|_| "the authority's certificate is no PEM".to_owned())?;
                roots.add(certificate).map_err(|error| format!("the authority's certificate: {error}"))?;
            }
            if roots.is_empty() {
                return Err("the file of the authority holds no certificate".to_owned());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(&format!(": {next}"));
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_over_tls_or_to_this_machine_only() {
        for good in ["https://bao.example.com:8200", "http://127.0.0.1:8200", "http://localhost:8200/"] {
            assert!(parse_address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://bao.example.com:8200",
            "bao.example.com",
            "https://me:pw@bao.example.com",
            "https://bao.example.com/v1",
            "ftp://localhost",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_what_no_url_reads_otherwise() {
        for good in ["secret", "kv/team-1", "a.b_c"] {
            assert!(is_path(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", "..", "a/../b", "a b", "a%2f", "a?b", "é"] {
            assert!(!is_path(bad), "{bad}");
        }
    }
}
