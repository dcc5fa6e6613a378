//! The control socket: commands on the server's machine change rows by themselves and then tell the running server, which
//! would not learn of another process's commit from SQLite.
//!
//! Invariant: when [`tell`] has answered, the server has forgotten every caller that it remembered, or none runs.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use freehold_store::{Store, Topic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::server::DataDir;

/// The socket, in the data directory, which is closed to other users.
const SOCKET: &str = "control.sock";
/// What the server says when it has looked.
const DONE: &[u8] = b"done\n";
/// How long telling may take, and hearing.
const TELL_TIME_MAX: Duration = Duration::from_secs(5);
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The socket's path by an open directory: that of the directory itself may be longer than addresses can be.
fn address(data_dir: &Path) -> io::Result<(File, PathBuf)> {
    let dir = File::open(data_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
    Ok((dir, path))
}

/// Makes the socket; one that a killed server left is taken away.
///
/// # Errors
/// When it cannot be made.
pub fn listen(data: &DataDir) -> anyhow::Result<UnixListener> {
    let make = || {
        match fs::remove_file(data.path(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let (_dir, path) = address(data.root())?;
        UnixListener::bind(path)
    };
    make().with_context(|| format!("cannot make {}", data.path(SOCKET).display()))
}

/// Hears commands until the server stops.
pub async fn serve(listener: UnixListener, store: Store, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((mut stream, _)) => {
                store.wake(Topic::Callers);
                // Whoever asked may be gone. So few bytes never wait.
                let _gone = stream.write_all(DONE).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a command was not heard");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells the server of this data directory, if one runs, to look again at who may call.
///
/// # Errors
/// When one runs and does not answer.
pub async fn tell(data_dir: &Path) -> anyhow::Result<()> {
    let ask = async {
        let (_dir, path) = address(data_dir)?;
        let mut stream = match UnixStream::connect(path).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return io::Result::Ok(());
            }
            other => other?,
        };
        let mut answer = Vec::new();
        AsyncReadExt::take(&mut stream, DONE.len() as u64 + 1).read_to_end(&mut answer).await?;
        if answer == DONE { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    let told = timeout(TELL_TIME_MAX, ask).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    told.context("it is written, but the running server did not answer: restart it")
}
