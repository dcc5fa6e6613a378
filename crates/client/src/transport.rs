//! The connection to a server: where it is, how it is reached, and with which key.

use std::{fmt, sync::Arc, time::Duration};

use reqwest::header::{AUTHORIZATION, HeaderValue};
use url::{Host, Url};

use crate::Error;

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A key or personal token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Takes a key as it was given out.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself, to send or to keep.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// A caller of one server with one key. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) base: Url,
    pub(crate) authorization: HeaderValue,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `address` (`https://...`, or `http://` on this machine's loopback). Nothing is sent yet.
    ///
    /// # Errors
    /// When the address or the key cannot be used, or TLS cannot be set up.
    pub fn new(address: &str, key: Key) -> Result<Self, Error> {
        let base = parse_address(address)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
            .ok()
            .filter(|_| !key.expose().is_empty() && key.expose().bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or(Error::MalformedKey)?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(base.scheme() == "https")?)
            // A redirect could carry the key elsewhere; this API has none.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")));
        // A proxy of the environment must not see what is meant for this machine.
        let http = if base.scheme() == "http" { http.no_proxy() } else { http };
        let http = http.build().map_err(|source| Error::Tls { source: source.into() })?;
        Ok(Self { http, base, authorization })
    }

    /// The server's address, without a path.
    pub fn address(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// A request with the key on it.
    pub(crate) fn request(&self, method: reqwest::Method, url: Url) -> reqwest::RequestBuilder {
        self.http.request(method, url).header(AUTHORIZATION, self.authorization.clone())
    }
}

fn parse_address(address: &str) -> Result<Url, Error> {
    let refuse = |why: &str| Error::Address { address: address.to_owned(), why: why.to_owned() };
    let address = address.trim();
    if !address.is_empty() && !address.contains("://") {
        // Whatever stands before an `@` may be a password.
        let shown = address.rsplit_once('@').map_or(address, |(_, host)| host);
        return Err(Error::Address { address: shown.to_owned(), why: without_scheme(address) });
    }
    let mut url = Url::parse(address).map_err(|error| refuse(&error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Address {
            address: url.host_str().unwrap_or_default().to_owned(),
            why: "an address holds no user name or password".to_owned(),
        });
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("an address ends before `?` and `#`"));
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(refuse("it names no host")),
    };
    match url.scheme() {
        "https" => {}
        "http" if loopback => {}
        "http" => return Err(refuse("over plain http anybody on the way could read the key")),
        _ => return Err(refuse("it is neither http nor https")),
    }
    // People paste the API's base as documents give it; operations bring their own `/v1`.
    let path = url.path().trim_end_matches('/').trim_end_matches("/v1").to_owned();
    url.set_path(&path);
    Ok(url)
}

/// What to write for an address such as `localhost:7070`.
fn without_scheme(address: &str) -> String {
    let whole = |scheme: &str| format!("{scheme}://{address}");
    let meant = [whole("http"), whole("https")].into_iter().find(|whole| parse_address(whole).is_ok());
    match meant {
        Some(meant) => format!("it does not begin with http:// or https://; did you mean {meant}?"),
        None => "it does not begin with http:// or https://".to_owned(),
    }
}

/// TLS by aws-lc-rs. The machine's certificates are read only when they are needed: it takes a while.
fn tls(needed: bool) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    if needed {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if let (true, Some(error)) = (roots.is_empty(), found.errors.into_iter().next()) {
            return Err(Error::Tls { source: Box::new(error) });
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| Error::Tls { source: source.into() })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_over_tls_or_to_loopback_only() {
        for good in [
            "http://127.0.0.1:7070",
            "http://[::1]:7070/",
            "http://localhost:7070/v1/",
            "https://freehold.example.com/v1",
        ] {
            let url = parse_address(good).unwrap();
            assert_eq!(url.path(), "/", "{good}");
        }
        for bad in [
            "http://10.0.0.1:7070",
            "http://example.com",
            "ftp://localhost",
            "localhost:7070",
            "",
            "https://x/?a=b",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_without_its_beginning_is_refused_with_the_whole_of_it() {
        for (given, meant) in [
            ("127.0.0.1:7070", "http://127.0.0.1:7070?"),
            ("localhost:7070", "http://localhost:7070?"),
            ("localhost", "http://localhost?"),
            ("freehold.example.com/v1", "https://freehold.example.com/v1?"),
        ] {
            let said = parse_address(given).unwrap_err().to_string();
            assert!(said.contains(&format!("did you mean {meant}")), "{said}");
        }
        assert!(
            parse_address("user:hunter2@example.com").is_err_and(|error| !error.to_string().contains("mean"))
        );
    }

    #[test]
    fn neither_key_nor_password_is_ever_shown() {
        let client = Client::new("http://127.0.0.1:1", Key::new("sk_very-secret")).unwrap();
        assert!(!format!("{client:?} {:?}", Key::new("sk_very-secret")).contains("very-secret"));
        let error = Client::new("https://user:hunter2@example.com", Key::new("sk_x")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[test]
    fn a_key_that_no_header_holds_is_refused() {
        for bad in ["", "sk_\n", "sk_ x", "sk_é"] {
            assert!(
                matches!(Client::new("http://127.0.0.1:1", Key::new(bad)), Err(Error::MalformedKey)),
                "{bad:?}"
            );
        }
    }
}
