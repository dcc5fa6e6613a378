//! The address of a PostgreSQL server, and how connections to it are kept from others.
//!
//! Invariant: a connection that leaves this machine is under TLS, with the server's certificate and name verified, unless the
//! address says `sslmode=disable`; there is no mode that falls back by itself.

use std::{io, net::IpAddr, path::Path, pin::Pin, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Config, Socket,
    config::{Host, SslMode},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect},
};
use tokio_rustls::{TlsConnector, client};

/// The name of the protocol in TLS, which servers that are spoken to without a question before ask for.
const PROTOCOL: &[u8] = b"postgresql";

/// Parses an address.
///
/// # Errors
/// When it is none, or asks for what cannot be had. The address is not repeated: it may hold a password.
pub(super) fn parse(url: &str) -> io::Result<(Config, Tls)> {
    if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(refused("an address begins with postgres://"));
    }
    let Parameters { rest, mode, roots } = parameters(url)?;
    let mut config: Config = rest.parse().map_err(io::Error::other)?;
    let is_local = config.get_hosts().iter().all(is_local);
    let mode = match mode.as_deref() {
        None if is_local => SslMode::Disable,
        None | Some("require" | "verify-full") => SslMode::Require,
        Some("disable") => SslMode::Disable,
        Some("allow" | "prefer") => {
            return Err(refused(
                "this sslmode falls back to a connection without TLS; say require or disable",
            ));
        }
        Some("verify-ca") => {
            return Err(refused("this sslmode leaves the server's name unchecked; say verify-full"));
        }
        Some(_) => return Err(refused("sslmode is disable, require or verify-full")),
    };
    config.ssl_mode(mode);
    let roots = if mode == SslMode::Require { trusted(roots.as_deref())? } else { RootCertStore::empty() };
    Ok((config, Tls::new(roots)?))
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Whether nobody is between this process and the server.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

/// What an address says of TLS, and the rest of it.
struct Parameters {
    rest: String,
    mode: Option<String>,
    roots: Option<String>,
}

fn parameters(url: &str) -> io::Result<Parameters> {
    // A password may hold a question mark.
    let authority = url.find('@').unwrap_or(0);
    let Some(query) = url[authority..].find('?').map(|at| authority + at) else {
        return Ok(Parameters { rest: url.to_owned(), mode: None, roots: None });
    };
    let (mut rest, mut mode, mut roots) = (Vec::new(), None, None);
    for pair in url[query + 1..].split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let place = match name {
            "sslmode" => &mut mode,
            "sslrootcert" => &mut roots,
            _ => {
                rest.push(pair);
                continue;
            }
        };
        if place.replace(decoded(value)?).is_some() {
            return Err(refused("a parameter of the address is given twice"));
        }
    }
    let (mark, rest) = (if rest.is_empty() { "" } else { "?" }, rest.join("&"));
    Ok(Parameters { rest: format!("{}{mark}{rest}", &url[..query]), mode, roots })
}

/// A value without its percent signs.
fn decoded(value: &str) -> io::Result<String> {
    let malformed = || refused("a parameter of the address is not percent-encoded as it should be");
    let (mut bytes, mut rest) = (Vec::new(), value);
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        let (digits, behind) = after.split_at_checked(2).ok_or_else(malformed)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        rest = behind;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).map_err(|_| malformed())
}

/// Authorities that may sign the server's certificate: those of the file alone, or else the machine's.
fn trusted(file: Option<&str>) -> io::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match file.filter(|file| *file != "system") {
        Some(file) => {
            let failed =
                |error: &dyn std::fmt::Display| refused(&format!("cannot use sslrootcert {file}: {error}"));
            let certificates =
                CertificateDer::pem_file_iter(Path::new(file)).map_err(|error| failed(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
            if roots.is_empty() {
                return Err(failed(&"it holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(refused(
                    "this machine has no certificate authorities; name a file as sslrootcert",
                ));
            }
        }
    }
    Ok(roots)
}

/// TLS for connections, by the library that all of this program uses.
#[derive(Clone)]
pub(super) struct Tls(TlsConnector);

impl Tls {
    fn new(roots: RootCertStore) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Stream;
    type TlsConnect = Connect;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connect> {
        // Asked also where there will be no TLS, for a socket's path say; only a connection refuses.
        Ok(Connect { connector: self.0.clone(), name: ServerName::try_from(host.to_owned()).ok() })
    }
}

/// One connection to be made.
pub(super) struct Connect {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl TlsConnect<Socket> for Connect {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        Box::pin(async move {
            let name = self.name.ok_or_else(|| refused("the server's name cannot be in a certificate"))?;
            Ok(Stream(self.connector.connect(name, socket).await?))
        })
    }
}

/// A connection under TLS.
pub(super) struct Stream(client::TlsStream<Socket>);

impl tokio_postgres::tls::TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        // The certificate is verified; binding the password to it too is not built.
        ChannelBinding::none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> Result<SslMode, String> {
        parse(url).map(|(config, _)| config.get_ssl_mode()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_leaves_this_machine_is_under_tls_unless_the_address_says_otherwise() {
        for (url, expected) in [
            ("postgres://u@db.test/x", SslMode::Require),
            ("postgres://u:p?w@10.0.0.1/x", SslMode::Require),
            ("postgres://u@db.test/x?sslmode=disable", SslMode::Disable),
            ("postgresql://u@db.test/x?connect_timeout=3&sslmode=verify-full", SslMode::Require),
            ("postgres://u@localhost/x", SslMode::Disable),
            ("postgres://u@127.0.0.1:5433/x", SslMode::Disable),
            ("postgres://u@%2Frun%2Fpostgresql/x", SslMode::Disable),
            ("postgres://u@localhost/x?sslmode=require", SslMode::Require),
            ("postgres://u@localhost,db.test/x", SslMode::Require),
        ] {
            assert_eq!(mode(url), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_would_fall_back_or_is_not_understood_is_refused_without_the_password() {
        for url in [
            "postgres://u:hunter2@db.test/x?sslmode=prefer",
            "postgres://u:hunter2@db.test/x?sslmode=allow",
            "postgres://u:hunter2@db.test/x?sslmode=verify-ca",
            "postgres://u:hunter2@db.test/x?sslmode=REQUIRE",
            "postgres://u:hunter2@db.test/x?sslmode=require&sslmode=disable",
            "postgres://u:hunter2@db.test/x?sslmode=%zz",
            "postgres://u:hunter2@db.test/x?sslrootcert=%2Fnowhere",
            "postgres://u:hunter2@db.test/x?sslcert=client.pem",
            "host=db.test password=hunter2",
        ] {
            let error = mode(url).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn values_are_decoded_and_the_rest_of_the_address_stays() {
        let found = parameters("postgres://u@h/x?a=1&sslrootcert=%2Fetc%2Fca.pem&b=%20").unwrap();
        assert_eq!(found.rest, "postgres://u@h/x?a=1&b=%20");
        assert_eq!(found.roots.as_deref(), Some("/etc/ca.pem"));
    }
}
