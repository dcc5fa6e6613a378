//! The terminal: lines that are typed without being shown, and Ctrl-C.

use std::io;

use crate::failure::{Failure, exit};

/// The most bytes of a line; terminals give no longer one.
#[cfg(unix)]
const LINE_BYTES_MAX: u64 = 4096;

/// Takes Ctrl-C upon itself: from now on it no longer ends the process, and what is answered resolves at it.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    #[cfg(unix)]
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    async move {
        #[cfg(unix)]
        if let Ok(mut signal) = signal {
            signal.recv().await;
            return;
        }
        #[cfg(not(unix))]
        if tokio::signal::ctrl_c().await.is_ok() {
            return;
        }
        // It cannot be listened to, so it goes on ending the process.
        std::future::pending().await
    }
}

/// What Ctrl-C makes of a verb.
pub(crate) fn interruption() -> Failure {
    Failure::new(exit::INTERRUPTED, "interrupted")
}

/// Reads a line from standard input, a terminal, which does not show what is typed. `ask` is called once nothing is shown
/// any more.
///
/// # Errors
/// When the terminal cannot be told to show nothing, or the line cannot be read, or at Ctrl-C.
#[cfg(unix)]
pub(crate) async fn hidden_line(ask: impl FnOnce()) -> Result<String, Failure> {
    use std::io::{BufRead, Read};
    let failed = |error: io::Error| Failure::io("cannot read the terminal", &error);
    let interrupted = interrupted();
    let _hushed = Hushed::new().map_err(failed)?;
    ask();
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().take(LINE_BYTES_MAX).read_line(&mut line).map(|_| line)
    });
    tokio::select! {
        line = line => line.map_err(io::Error::other).and_then(|line| line).map_err(failed),
        () = interrupted => Err(interruption()),
    }
}

/// Elsewhere a terminal cannot be hushed, so nothing secret is typed.
#[cfg(not(unix))]
pub(crate) async fn hidden_line(_: impl FnOnce()) -> Result<String, Failure> {
    Err(Failure::io("cannot hide what is typed", &io::Error::from(io::ErrorKind::Unsupported)))
}

/// The terminal at standard input shows nothing that is typed while this lives, except the end of the line.
#[cfg(unix)]
struct Hushed(rustix::termios::Termios);

#[cfg(unix)]
impl Hushed {
    fn new() -> io::Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut hushed = before.clone();
        hushed.local_modes.remove(LocalModes::ECHO);
        hushed.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &hushed)?;
        Ok(Self(before))
    }
}

#[cfg(unix)]
impl Drop for Hushed {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        // A terminal that is gone needs no echo.
        _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}
