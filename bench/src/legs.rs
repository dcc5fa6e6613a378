//! The floor of a request's bytes: as many through two TLS legs, with nothing between them but a relay.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    scratch::{Certificates, Scratch, connector},
    stats::{Samples, Summary},
};

/// The name in the certificate.
const NAME: &str = "legs.bench.test";
/// Bytes that say how many follow.
const LENGTH_BYTES: usize = 8;
/// How often each size is sent.
const ROUNDS: usize = 300;
/// The pause between two, about as long as the rest of a turn: otherwise caches are warmer than in one.
const PAUSE: Duration = Duration::from_millis(5);

/// Sends each number of bytes through two legs, one after the other, and waits for a byte that says they came.
///
/// # Errors
/// When a connection cannot be made.
pub async fn two_legs(sizes: &[usize]) -> anyhow::Result<Vec<Summary>> {
    let scratch = Scratch::new(None)?;
    let certificates = Certificates::make(scratch.path(), &[NAME])?;
    let (acceptor, tls) = (certificates.acceptor()?, connector(&certificates.authority)?);
    // What is spawned ends with this.
    let mut tasks = JoinSet::new();
    let (relay, end) =
        (TcpListener::bind(("127.0.0.1", 0)).await?, TcpListener::bind(("127.0.0.1", 0)).await?);
    let (relay_address, end_address) = (relay.local_addr()?, end.local_addr()?);
    tasks.spawn(count(end, acceptor.clone()));
    let onward = tls.clone();
    tasks.spawn(async move {
        let (near, _) = relay.accept().await?;
        near.set_nodelay(true)?;
        let mut near = acceptor.accept(near).await?;
        let mut far = connect(end_address, &onward).await?;
        copy_bidirectional(&mut near, &mut far).await?;
        anyhow::Ok(())
    });
    let mut stream = connect(relay_address, &tls).await?;
    let mut times = vec![Samples::default(); sizes.len()];
    for _ in 0..ROUNDS {
        for (&size, times) in sizes.iter().zip(&mut times) {
            let bytes = vec![b'x'; size];
            tokio::time::sleep(PAUSE).await;
            let start = Instant::now();
            stream.write_all(&(size as u64).to_be_bytes()).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            stream.read_u8().await.context("the bytes did not come")?;
            times.push(start.elapsed());
        }
    }
    Ok(times.iter().map(Samples::summary).collect())
}

async fn connect(
    address: SocketAddr,
    connector: &TlsConnector,
) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(connector.connect(ServerName::try_from(NAME)?, stream).await?)
}

/// Reads as many bytes as are announced, and says so with one, for as long as they come.
async fn count(listener: TcpListener, acceptor: TlsAcceptor) -> anyhow::Result<()> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let mut piece = vec![0; 16 * 1024];
    loop {
        let mut length = [0; LENGTH_BYTES];
        stream.read_exact(&mut length).await?;
        let mut left = usize::try_from(u64::from_be_bytes(length))?;
        while left > 0 {
            let room = left.min(piece.len());
            let read = stream.read(&mut piece[..room]).await?;
            anyhow::ensure!(read > 0, "it ends early");
            left -= read;
        }
        stream.write_all(b"!").await?;
        stream.flush().await?;
    }
}
