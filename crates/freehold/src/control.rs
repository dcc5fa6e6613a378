//! The control socket: commands on the server's machine change rows by themselves and then tell the running server, which
//! would not learn of another process's commit from SQLite.
//!
//! Invariant: when [`tell`] has answered, the server has forgotten every caller that it remembered and seals under no master
//! key but the newest, or none runs.

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use freehold_store::{Store, Topic};
use freehold_vault::Vault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::server::DataDir;

/// The socket, in the data directory, which is closed to other users.
const SOCKET: &str = "control.sock";
/// What the server says when it has looked, before the name of the master key that it seals under.
const DONE: &str = "done ";
/// The most bytes of what it says.
const ANSWER_BYTES_MAX: u64 = 64;
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
pub async fn serve(listener: UnixListener, store: Store, vault: Arc<Vault>, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((mut stream, _)) => {
                store.wake(Topic::Callers);
                if let Err(error) = vault.reload().await {
                    // Whoever asked is not told that it is done.
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the master keys cannot be read anew"
                    );
                    continue;
                }
                let answer = format!("{DONE}{}\n", vault.newest_key().await);
                // Whoever asked may be gone. So few bytes never wait.
                let _gone = stream.write_all(answer.as_bytes()).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a command was not heard");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells the server of this data directory, if one runs, to look again at who may call and at the master keys. Answers the
/// name of the master key that it seals under now; nothing when none runs.
///
/// # Errors
/// When one runs and does not answer.
pub async fn tell(data_dir: &Path) -> anyhow::Result<Option<String>> {
    let ask = async {
        let (_dir, path) = address(data_dir)?;
        let mut stream = match UnixStream::connect(path).await {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return io::Result::Ok(None);
            }
            other => other?,
        };
        let mut answer = Vec::new();
        AsyncReadExt::take(&mut stream, ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer).map_err(io::Error::other)?;
        match answer.strip_prefix(DONE).and_then(|key| key.strip_suffix('\n')) {
            Some(key) => Ok(Some(key.to_owned())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    let told = timeout(TELL_TIME_MAX, ask).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    told.context("the running server did not answer: restart it")
}
