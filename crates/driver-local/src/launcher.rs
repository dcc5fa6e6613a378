//! The launcher: a small process of the server's, made once, from which the holders of pods are forked. A holder so
//! starts without the copy of the server's memory map and without an execution, and shares the launcher's pages.
//!
//! ```text
//! server --"a holder, on this socket"--> launcher --fork--> holder
//!    \------------ the plan, and when its parts are made ----------------^
//! ```
//!
//! Invariants: it has one thread. It is told nothing about any pod: a pod's plan goes to the holder alone, and at a fork
//! it has no descriptor but its own and the one socket of that holder. It ends with the server, however that ends;
//! holders live on. It keeps nothing, so when it was killed the next holder is forked by a new one.

use std::{
    ffi::OsString,
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::fcntl_dupfd_cloexec,
    process::{chdir, setsid},
};

use crate::{
    holder::{self, OWN_FDS_FROM},
    plan::{Event, Failure, dir},
    sys,
};

/// What the launcher is asked; there is only one thing.
const ASK: &[u8] = b"holder";
/// How long the launcher may leave requests lying.
const ACCEPT_WITHIN: Duration = Duration::from_secs(1);
/// Characters of an id as text.
const ID_CHARS: usize = 36;
/// Bytes of `/proc/self/stat`, at most.
const STAT_BYTES_MAX: usize = 4096;

/// The server's side.
pub struct Launcher {
    executable: PathBuf,
    /// As long as the longest name that a holder takes, see [`rename`].
    padding: String,
    running: Mutex<Option<Running>>,
}

struct Running {
    socket: OwnedFd,
    process: Child,
}

/// One launcher process among those of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number(u32);

impl Drop for Running {
    fn drop(&mut self) {
        // It holds nothing that could be lost.
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Launcher {
    /// For pods in a driver's directory. The process starts with the first holder.
    pub fn new(executable: &Path, state_dir: &Path) -> Self {
        let longest = state_dir.as_os_str().len() + dir::PODS.len() + ID_CHARS + "//".len();
        Self { executable: executable.into(), padding: " ".repeat(longest), running: Mutex::default() }
    }

    /// Starts a holder that listens on `socket`, and says which process was asked for it. Blocks, if shortly. The holder
    /// says its pidfd first.
    pub fn launch(&self, socket: &OwnedFd) -> io::Result<Number> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launcher) = &*running
            && ask(launcher, socket).is_ok()
        {
            return Ok(launcher.number());
        }
        // Not there yet, or killed, or it does not read.
        *running = None;
        let launcher = running.insert(self.start()?);
        ask(launcher, socket).map(|()| launcher.number())
    }

    /// Has the next holder forked by a new process, since this one did not answer. When this returns, whatever it was
    /// asked for was forked or never will be.
    pub fn give_up(&self, which: Number) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else may have given it up, and the one of now is another.
        if running.as_ref().is_some_and(|launcher| launcher.number() == which) {
            tracing::warn!(
                launcher.pid = which.0,
                "the launcher of holders does not answer; another takes its place"
            );
            *running = None;
        }
    }

    fn start(&self) -> io::Result<Running> {
        let (ours, theirs) = crate::launch::socket_pair()?;
        let process = Command::new(&self.executable)
            .args(["launcher", &self.padding])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        tracing::debug!(launcher.pid = process.id(), "started the launcher of holders");
        Ok(Running { socket: ours, process })
    }
}

impl Running {
    fn number(&self) -> Number {
        Number(self.process.id())
    }
}

fn ask(launcher: &Running, socket: &OwnedFd) -> io::Result<()> {
    loop {
        match sys::send_with_fds(launcher.socket.as_fd(), ASK, &[socket.as_fd()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(&launcher.socket, PollFlags::OUT)];
                let timeout = Timespec::try_from(ACCEPT_WITHIN).map_err(io::Error::other)?;
                if poll(&mut fds, Some(&timeout))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            other => return other,
        }
    }
}

/// Runs the launcher, and in its children the holders. Call it first thing in the process, before any thread exists;
/// standard input is the connection to the server. `arguments` is one text that says nothing: see [`rename`].
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let name = Name::find(arguments.into_iter().map(|argument| argument.len()).sum());
    // Whatever the server left open for those it starts is not for pods. And a session of its own: a Ctrl-C is the
    // server's affair, which ends this process.
    if sys::close_range(3, u32::MAX).is_err() || setsid().is_err() || chdir("/").is_err() {
        return ExitCode::from(2);
    }
    // The kernel reaps them.
    sys::leave_children(true);
    loop {
        let mut asked = [0; ASK.len()];
        let fds = match sys::receive_with_fds(rustix::stdio::stdin(), &mut asked) {
            // The server is gone.
            Ok((0, _)) => return ExitCode::SUCCESS,
            Ok((_, fds)) => fds,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return ExitCode::FAILURE,
        };
        let Ok([socket]) = <[OwnedFd; 1]>::try_from(fds) else { continue };
        let Ok(socket) = fcntl_dupfd_cloexec(socket, OWN_FDS_FROM) else { continue };
        // SAFETY: a launcher never has a second thread.
        match unsafe { sys::clone(0) } {
            Ok(None) => {
                sys::leave_children(false);
                return match only(&socket) {
                    Ok(()) => holder::main(socket, |pod_dir| name.set(pod_dir)),
                    Err(_) => ExitCode::from(2),
                };
            }
            Ok(Some(_)) => {}
            Err(error) => {
                let _gone = holder::tell(&socket, &Event::Failed(Failure::at("fork a holder")(error)), None);
            }
        }
    }
}

/// Lets go of all that is the launcher's.
fn only(socket: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = socket.as_raw_fd().cast_unsigned();
    sys::place(rustix::stdio::stdout(), 0)?;
    sys::close_range(3, socket - 1)?;
    sys::close_range(socket + 1, u32::MAX)
}

/// Where in memory the process's command line is, which `ps` shows: `EXECUTABLE launcher PADDING`.
struct Name {
    /// Begins with the subcommand.
    at: u64,
    bytes: usize,
}

impl Name {
    fn find(padding: usize) -> Self {
        const AFTER_END: usize = 3;
        let bytes = "launcher".len() + 1 + padding + 1;
        let mut stat = String::new();
        let file = std::fs::File::open("/proc/self/stat");
        let _unknown = file.and_then(|file| file.take(STAT_BYTES_MAX as u64).read_to_string(&mut stat));
        // Three fields stand after the one that says where the arguments end.
        let end = stat.split_whitespace().rev().nth(AFTER_END).and_then(|end| end.parse::<u64>().ok());
        let at = end.and_then(|end| end.checked_sub(u64::try_from(bytes).ok()?)).unwrap_or(0);
        Self { at, bytes }
    }

    /// Makes it `EXECUTABLE holder POD_DIR`. For people only, so it may fail.
    fn set(&self, pod_dir: &Path) {
        let mut words = b"holder\0".to_vec();
        words.extend(pod_dir.as_os_str().as_bytes());
        if self.at == 0 || words.len() >= self.bytes {
            return;
        }
        words.resize(self.bytes, 0);
        let write = || -> io::Result<()> {
            let mut memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
            memory.seek(SeekFrom::Start(self.at))?;
            memory.write_all(&words)
        };
        let _unnamed = write();
    }
}
