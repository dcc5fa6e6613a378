//! The server as `freehold demo` starts it: its own scenario, a key, names of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::{path::Path, sync::Arc};

use clap::Parser;
use freehold_sim_model::{Args, run};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Parser)]
struct SimModel {
    #[command(flatten)]
    args: Args,
}

/// Sends a request over TLS and reads the answer to its end.
async fn ask(address: std::net::SocketAddr, ca: &Path, name: &str, request: &str) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(format!("{request}\r\nhost: x\r\nconnection: close\r\n").as_bytes()).await?;
    stream.write_all(b"content-length: 0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn the_demo_serves_its_names_and_service_over_tls_and_asks_for_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let line =
        ["sim-model", "--listen", "127.0.0.1:0", "--demo", "--require-key", "sk-demo", "--self-signed"];
    let names = ["model.freehold.test", "--self-signed", "facts.freehold.test", "--ca-out"];
    let args = SimModel::parse_from(line.iter().chain(&names).copied().chain([ca.to_str().unwrap()])).args;
    let server = run(&args).await.unwrap();

    let fact = ask(server.address(), &ca, "facts.freehold.test", "GET /v1/fact HTTP/1.1").await.unwrap();
    assert!(fact.starts_with("HTTP/1.1 200") && fact.contains("Euclid"), "{fact}");
    let absent = ask(server.address(), &ca, "facts.freehold.test", "POST /v1/fact HTTP/1.1").await.unwrap();
    assert!(absent.starts_with("HTTP/1.1 404"), "{absent}");
    let refused =
        ask(server.address(), &ca, "model.freehold.test", "POST /v1/messages HTTP/1.1").await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    assert!(ask(server.address(), &ca, "other.freehold.test", "GET / HTTP/1.1").await.is_err());
}

#[tokio::test]
async fn a_server_that_cannot_listen_leaves_the_certificate_of_one_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, "another's").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line =
        ["sim-model", "--listen", &address, "--demo", "--self-signed", "model.freehold.test", "--ca-out"];
    let args = SimModel::parse_from(line.into_iter().chain([ca.to_str().unwrap()])).args;
    assert!(run(&args).await.is_err());
    assert_eq!(std::fs::read_to_string(&ca).unwrap(), "another's");
}
