//! The floor of any proxy that sleeps until bytes come: copies them both ways, and looks at none.

use std::{fs, net::SocketAddr, path::PathBuf};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

/// How it is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the bytes go
    #[arg(long)]
    upstream: SocketAddr,
    /// The file that says where it listens, once it does
    #[arg(long)]
    ready: PathBuf,
}

/// Copies until it is killed.
///
/// # Errors
/// When it cannot listen.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let part = options.ready.with_extension("part");
    fs::write(&part, listener.local_addr()?.to_string())?;
    fs::rename(part, &options.ready)?;
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut upstream = TcpStream::connect(options.upstream).await?;
            client.set_nodelay(true)?;
            upstream.set_nodelay(true)?;
            copy_bidirectional(&mut client, &mut upstream).await
        });
    }
}
