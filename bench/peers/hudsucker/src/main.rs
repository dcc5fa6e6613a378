//! hudsucker as a proxy that does nothing: intercepts, decides nothing, records nothing.
//!
//! `hudsucker-peer LISTEN UPSTREAM ROOTS CA`: listens on `LISTEN`, takes every name for the address `UPSTREAM`, trusts the
//! certificates in the file `ROOTS` and writes its own authority's to `CA`. As many threads as it may use cores.

use std::{convert::Infallible, error::Error, fs, iter, net::SocketAddr};

use hudsucker::{
    Proxy,
    certificate_authority::RcgenAuthority,
    rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair},
    rustls::{
        ClientConfig, RootCertStore,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, pem::PemObject},
    },
};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::{HttpConnector, dns::Name};

/// Certificates that hudsucker keeps; its own example's number.
const LEAVES: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, roots_path, authority_path] = arguments.as_slice() else {
        return Err("hudsucker-peer LISTEN UPSTREAM ROOTS CA".into());
    };
    let (listen, upstream): (SocketAddr, SocketAddr) = (listen.parse()?, upstream.parse()?);
    // P-256, as egress's: hudsucker's example has RSA, which signs far slower.
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(authority_path, params.self_signed(&key)?.pem())?;
    let authority = RcgenAuthority::new(Issuer::new(params, key), LEAVES, aws_lc_rs::default_provider());

    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(roots_path)? {
        roots.add(certificate?)?;
    }
    let tls = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // No look-up of names: egress's are configured too.
    let mut http = HttpConnector::new_with_resolver(tower::service_fn(move |_: Name| async move {
        Ok::<_, Infallible>(iter::once(upstream))
    }));
    http.enforce_http(false);
    http.set_nodelay(true);
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http);
    let proxy = Proxy::builder().with_addr(listen).with_ca(authority).with_http_connector(https).build()?;
    Ok(proxy.start().await?)
}
