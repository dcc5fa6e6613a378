//! HTTP out of a pod, for the model's client and for any other: TLS that trusts what the pod trusts, no proxy of its own
//! (the road is chosen below us), names remembered.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::Error;

/// How long an answer of the name server is used again: as long as egress allows. A connection of another task then
/// costs no question, and no two audit rows for it.
const NAME_AGE_MAX: Duration = Duration::from_secs(60);
/// The most names that are remembered; at the limit all are forgotten.
const NAMES_MAX: usize = 64;

/// A client to be, which trusts the certificates in the PEM file `roots` and no others.
///
/// # Errors
/// When the file cannot be read or holds no certificate.
pub fn builder(roots: Option<&Path>) -> Result<reqwest::ClientBuilder, Error> {
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls(roots)?)
        .dns_resolver(Arc::new(Names::default()))
        .no_proxy()
        .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION"))))
}

fn tls(roots: Option<&Path>) -> Result<rustls::ClientConfig, Error> {
    let mut store = rustls::RootCertStore::empty();
    if let Some(path) = roots {
        let unreadable = |message: String| Error::Roots { path: path.to_owned(), message };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(error.to_string()))?;
        // Bundles of the world's authorities hold old ones that no longer parse; they are trusted for nothing.
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(unreadable("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(config)
}

/// Names asked for lately. The system's resolver answers on a thread of its own and remembers nothing.
#[derive(Debug, Default)]
struct Names {
    known: Arc<Mutex<HashMap<String, Known>>>,
}

type Known = (Instant, Vec<SocketAddr>);

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let known = Arc::clone(&self.known);
        Box::pin(async move {
            let name = name.as_str();
            let fresh = |known: &HashMap<String, Known>| {
                let (at, addresses) = known.get(name)?;
                (at.elapsed() < NAME_AGE_MAX).then(|| addresses.clone())
            };
            let remembered = fresh(&known.lock().unwrap_or_else(PoisonError::into_inner));
            let addresses = match remembered {
                Some(addresses) => addresses,
                None => {
                    // The port is the request's to say.
                    let found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
                    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                    if known.len() >= NAMES_MAX {
                        known.clear();
                    }
                    known.insert(name.to_owned(), (Instant::now(), found.clone()));
                    found
                }
            };
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_asked_for_once() {
        let names = Names::default();
        let ask = |name: &str| names.resolve(name.parse().unwrap());
        let first: Vec<_> = ask("localhost").await.unwrap().collect();
        assert!(first.iter().all(|address| address.ip().is_loopback()));
        // What is remembered is what is answered.
        let made_up: Vec<SocketAddr> = vec!["192.0.2.1:0".parse().unwrap()];
        names.known.lock().unwrap().insert("localhost".to_owned(), (Instant::now(), made_up.clone()));
        assert_eq!(ask("localhost").await.unwrap().collect::<Vec<_>>(), made_up);
    }

    #[tokio::test]
    async fn names_are_forgotten_before_there_are_too_many() {
        let names = Names::default();
        let old = Instant::now();
        for index in 0..NAMES_MAX {
            names.known.lock().unwrap().insert(format!("{index}.test"), (old, Vec::new()));
        }
        let _ = names.resolve("localhost".parse().unwrap()).await;
        assert!(names.known.lock().unwrap().len() <= NAMES_MAX);
    }
}
