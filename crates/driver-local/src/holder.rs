//! The holder: a pod's small single-threaded parent, which outlives the server. It makes the pod, keeps its listeners
//! and namespaces, starts its agent again when that ends, and hands the pod's ends to whichever server asks.
//!
//! Invariant: one thread, and nothing that starts another; so it may fork and go on. When it ends, the pod ends with
//! it: the kernel kills the pod's first process.

mod exec;
mod filter;
mod mounts;
mod netlink;
mod network;
mod privileges;
mod proc;
mod sandbox;
mod watch;

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, Mode, OFlags, flock},
    io::{Errno, fcntl_dupfd_cloexec},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
        sockopt::socket_peercred,
    },
    process::{PidfdFlags, WaitOptions, chdir, geteuid, getpid, pidfd_open, setsid, umask, wait, waitpid},
};

use crate::{
    groups,
    plan::{Birth, Event, Failure, Links, MESSAGE_BYTES_MAX, Plan, Request, dir, file, word},
    sys,
};
use sandbox::{Handles, Sandbox};

/// Connections to the holder at once; more wait.
const CONNECTIONS_MAX: usize = 16;
/// Connections of the agent that wait while no server is there.
const POD_API_BACKLOG: i32 = 16;
/// Starts of an agent that never lives for [`AGENT_STEADY`], at most.
const AGENT_STARTS_MAX: u32 = 6;
/// An agent that lived this long has started well.
const AGENT_STEADY: Duration = Duration::from_secs(60);
/// Wait before the first new start; doubles with each.
const AGENT_BACKOFF: Duration = Duration::from_millis(20);
/// Descriptors of the holder's own lie from here on; those below are for programs that are started.
pub const OWN_FDS_FROM: i32 = 20;

/// Runs a holder in a process that has one thread and no descriptor but the three standard ones, which lead nowhere, and
/// `launch`: a connection to the driver, on which it hears what to make and tells the outcome. `name` shows the pod's
/// directory to whoever looks at the machine's processes.
pub fn main(launch: OwnedFd, name: impl FnOnce(&Path)) -> ExitCode {
    match Holder::start(launch, name) {
        Ok(Some(holder)) => holder.run(),
        // A trial, or a pod that is not wanted any more.
        Ok(None) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

struct Holder {
    plan: Plan,
    handles: Handles,
    sandbox: Sandbox,
    pod_api: OwnedFd,
    socket: OwnedFd,
    signals: OwnedFd,
    /// Locked for as long as this process lives.
    _lock: OwnedFd,
    connections: Vec<Connection>,
    agent: Agent,
    watch: watch::Watch,
}

struct Connection {
    socket: OwnedFd,
    watches: bool,
}

/// The agent's fate.
enum Agent {
    Running { since: Instant, starts: u32 },
    Waiting { until: Instant, starts: u32 },
    Ended { reason: String },
}

impl Holder {
    fn start(launch: OwnedFd, name: impl FnOnce(&Path)) -> Result<Option<Self>, ()> {
        match Self::make(&launch, name) {
            Ok(Some(mut holder)) => {
                holder.connections.push(Connection { socket: launch, watches: true });
                holder.announce();
                Ok(Some(holder))
            }
            Ok(None) => Ok(None),
            Err(failure) => {
                tell(&launch, &Event::Failed(failure), None);
                Err(())
            }
        }
    }

    /// Makes the pod while the driver makes its directories and control groups: each part begins when what it needs is
    /// there.
    fn make(launch: &OwnedFd, name: impl FnOnce(&Path)) -> Result<Option<Self>, Failure> {
        // A session of its own: whoever ends the server's does not end the pods.
        let _leader_already = setsid();
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| Failure::at("open the holder's own process")(e.into()))?;
        sys::send_with_fds(launch.as_fd(), word::BORN, &[own.as_fd()])
            .map_err(Failure::at("speak to the driver"))?;
        drop(own);
        let Some(Birth { pod_dir, plan }) = birth(launch)? else { return Ok(None) };
        umask(Mode::empty());
        let pods = pod_dir.parent().and_then(Path::parent).unwrap_or(&pod_dir);
        chdir(pods).map_err(|e| Failure::at("enter the driver's directory")(e.into()))?;
        let mut begun = sandbox::begin(&plan)?;
        // What nobody waits for.
        name(&pod_dir);
        let signals = sys::signal_descriptor(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .and_then(|fd| Ok(fcntl_dupfd_cloexec(fd, OWN_FDS_FROM)?))
            .map_err(Failure::at("listen to signals"))?;
        let Some(()) = hear(launch, word::FILES)? else { return Ok(None) };
        // The socket's path is short when it is relative.
        let pod_dir = Path::new(dir::PODS).join(plan.pod_id.to_string());
        let Some(lock) = lock(&pod_dir.join(file::PLAN))? else { return Ok(None) };
        begun.files()?;
        let pod_api = unix_listener(SocketType::STREAM, &pod_dir.join(file::POD_API), POD_API_BACKLOG)?;
        let socket = unix_listener(SocketType::SEQPACKET, &pod_dir.join(file::HOLDER), POD_API_BACKLOG)?;
        let mut handles = Handles::open(&pod_dir)?;
        let Some(()) = hear(launch, word::GROUPS)? else { return Ok(None) };
        handles.open_groups(&plan)?;
        let sandbox = begun.groups(&plan, &handles)?;
        if plan.trial {
            let _reaped = waitpid(Some(sandbox.init), WaitOptions::empty());
            tell(launch, &Event::Running { starts: 1 }, None);
            return Ok(None);
        }
        let files = Path::new(dir::WORKSPACES).join(plan.workspace_id.to_string()).join(dir::FILES);
        let watch = watch::Watch::new(&plan, &files);
        let agent = Agent::Running { since: Instant::now(), starts: 1 };
        let connections = Vec::new();
        Ok(Some(Self {
            plan,
            handles,
            sandbox,
            pod_api,
            socket,
            signals,
            _lock: lock,
            connections,
            agent,
            watch,
        }))
    }

    /// Serves until it is told to end.
    fn run(mut self) -> ExitCode {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(_) => return self.end(),
            };
            // Its last words come before the end of the first process.
            if ready.starting || ready.signals {
                self.agent_starting();
            }
            if ready.signals && self.signalled() {
                return self.end();
            }
            if ready.socket {
                self.accept();
            }
            // From the last to the first, since a connection may go away.
            for index in ready.connections.into_iter().rev() {
                if !self.serve(index) {
                    self.connections.swap_remove(index);
                }
            }
            self.look_after_agent();
            let sources = watch::Sources { proc: &self.sandbox.proc, diagnosis: &self.sandbox.diagnosis };
            self.watch.look(&sources, &self.handles.log);
        }
    }

    fn wait(&self) -> Result<Ready, Errno> {
        let now = Instant::now();
        let agent = match self.agent {
            Agent::Waiting { until, .. } => Some(until.saturating_duration_since(now)),
            Agent::Running { .. } | Agent::Ended { .. } => None,
        };
        let watch = self.watch.next().map(|at| at.saturating_duration_since(now));
        let timeout = agent.into_iter().chain(watch).min();
        let timeout = timeout.and_then(|wait| Timespec::try_from(wait + Duration::from_millis(1)).ok());
        // A descriptor that is not there is watched twice.
        let starting = self.sandbox.starting.as_ref().unwrap_or(&self.signals);
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(starting, PollFlags::IN)];
        fds.extend(self.connections.iter().map(|connection| PollFd::new(&connection.socket, PollFlags::IN)));
        if self.connections.len() < CONNECTIONS_MAX {
            fds.push(PollFd::new(&self.socket, PollFlags::IN));
        }
        poll(&mut fds, timeout.as_ref())?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let connections =
            (0..self.connections.len()).filter(|index| ready.get(index + 2) == Some(&true)).collect();
        Ok(Ready {
            signals: ready.first() == Some(&true),
            starting: ready.get(1) == Some(&true),
            connections,
            socket: ready.get(self.connections.len() + 2) == Some(&true),
        })
    }

    /// Reads the signals. Whether it is time to end.
    fn signalled(&mut self) -> bool {
        let mut end = false;
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>() * 8];
        while let Ok(length) = rustix::io::read(&self.signals, &mut buffer) {
            for info in
                buffer.get(..length).unwrap_or_default().chunks_exact(size_of::<libc::signalfd_siginfo>())
            {
                let number = info.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                end |= number == libc::SIGTERM.cast_unsigned();
            }
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == self.sandbox.init {
                self.agent_ended(status);
            }
        }
        end
    }

    /// Hears whether the agent's program runs.
    fn agent_starting(&mut self) {
        let Some(notes) = self.sandbox.starting.take() else { return };
        if let Err(failure) = sandbox::started(&notes) {
            let reason = format!("failed to {}: {}", failure.step, sandbox::as_io(&failure));
            self.agent = Agent::Ended { reason };
            self.announce();
        }
    }

    fn agent_ended(&mut self, status: rustix::process::WaitStatus) {
        let Agent::Running { since, starts } = self.agent else { return };
        let steady = since.elapsed() >= AGENT_STEADY;
        let starts = if steady { 1 } else { starts };
        self.agent = if starts >= AGENT_STARTS_MAX {
            let how = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => format!("exited with {code}"),
                (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
            };
            Agent::Ended { reason: format!("the agent {how}, {starts} times in a row") }
        } else {
            Agent::Waiting { until: Instant::now() + AGENT_BACKOFF * (1 << (starts - 1)), starts }
        };
        if matches!(self.agent, Agent::Ended { .. }) {
            self.announce();
        }
    }

    fn look_after_agent(&mut self) {
        let Agent::Waiting { until, starts } = self.agent else { return };
        if Instant::now() < until {
            return;
        }
        self.agent = match sandbox::restart(&self.plan, &self.handles, &mut self.sandbox) {
            Ok(()) => Agent::Running { since: Instant::now(), starts: starts + 1 },
            Err(failure) => {
                let error = sandbox::as_io(&failure);
                Agent::Ended { reason: format!("failed to {}: {error}", failure.step) }
            }
        };
        self.announce();
    }

    fn event(&self) -> Event {
        match &self.agent {
            Agent::Running { starts, .. } | Agent::Waiting { starts, .. } => {
                Event::Running { starts: *starts }
            }
            Agent::Ended { reason } => Event::Ended { reason: reason.clone() },
        }
    }

    fn announce(&self) {
        let event = self.event();
        for connection in self.connections.iter().filter(|connection| connection.watches) {
            tell(&connection.socket, &event, self.init().as_ref());
        }
    }

    /// A pidfd of the pod's first process, for whoever must know that it is gone.
    fn init(&self) -> Option<OwnedFd> {
        pidfd_open(self.sandbox.init, PidfdFlags::empty()).ok()
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.socket, SocketFlags::CLOEXEC) else { return };
        let Ok(socket) = fcntl_dupfd_cloexec(socket, OWN_FDS_FROM) else { return };
        // The directory is closed to others; this is the second lock.
        if socket_peercred(&socket).is_ok_and(|peer| peer.uid == geteuid()) {
            self.connections.push(Connection { socket, watches: false });
        }
    }

    /// Answers one request. Whether the connection stays.
    fn serve(&mut self, index: usize) -> bool {
        let Some(connection) = self.connections.get_mut(index) else { return false };
        let received = sys::receive_any_with_fds(connection.socket.as_fd(), MESSAGE_BYTES_MAX);
        let Ok((bytes, fds)) = received else { return false };
        let Ok(request) = serde_json::from_slice(&bytes) else { return false };
        drop(bytes);
        match request {
            Request::Watch => {
                connection.watches = true;
                let (event, init) = (self.event(), self.init());
                self.connections
                    .get(index)
                    .is_some_and(|connection| tell(&connection.socket, &event, init.as_ref()))
            }
            Request::Links => self.links(index),
            Request::Exec { argv, cwd, environment } => {
                let moved: Result<Vec<OwnedFd>, Errno> =
                    fds.into_iter().map(|fd| fcntl_dupfd_cloexec(fd, OWN_FDS_FROM)).collect();
                // Whoever asked hears the end of the control socket; the connection may be the driver's only one.
                let Ok(Ok([stdout, stderr, control])) = moved.map(<[OwnedFd; 3]>::try_from) else {
                    return true;
                };
                let command = exec::Command { argv, cwd, environment, stdout, stderr, control };
                if matches!(self.agent, Agent::Running { .. }) {
                    exec::run(&self.plan, &self.handles, &self.sandbox, &command);
                }
                true
            }
        }
    }

    fn links(&self, index: usize) -> bool {
        let Some(connection) = self.connections.get(index) else { return false };
        let (tcp, dns) = (&self.sandbox.tcp, &self.sandbox.dns);
        let answer = Links { tcp: tcp.len(), dns: dns.len(), pod_api: 1 };
        let fds: Vec<_> = tcp.iter().chain(dns).chain([&self.pod_api]).map(AsFd::as_fd).collect();
        let Ok(bytes) = serde_json::to_vec(&answer) else { return false };
        sys::send_with_fds(connection.socket.as_fd(), &bytes, &fds).is_ok()
    }

    /// Ends the pod and then itself: when the holder is gone, so is every process of the pod.
    fn end(self) -> ExitCode {
        if matches!(self.agent, Agent::Running { .. }) {
            sandbox::abandon(self.sandbox.init);
        }
        // The driver does so too, but a pod may end when there is none any more.
        for group in &self.plan.groups {
            let _swept_later = groups::remove(&group.dir);
        }
        ExitCode::SUCCESS
    }
}

struct Ready {
    signals: bool,
    starting: bool,
    socket: bool,
    connections: Vec<usize>,
}

/// Hears what to make. Nothing when the driver is gone.
fn birth(launch: &OwnedFd) -> Result<Option<Birth>, Failure> {
    let (bytes, _) = sys::receive_any_with_fds(launch.as_fd(), MESSAGE_BYTES_MAX)
        .map_err(Failure::at("hear from the driver"))?;
    let invalid = |_| Failure { step: "understand the plan".into(), errno: libc::EINVAL };
    match bytes.as_slice() {
        [] => Ok(None),
        bytes => serde_json::from_slice(bytes).map(Some).map_err(invalid),
    }
}

/// Waits for a word of the driver's. Nothing when the driver is gone.
fn hear(launch: &OwnedFd, word: &[u8]) -> Result<Option<()>, Failure> {
    let mut buffer = [0; 16];
    match sys::receive_with_fds(launch.as_fd(), &mut buffer) {
        Ok((0, _)) => Ok(None),
        Ok((length, _)) if buffer.get(..length) == Some(word) => Ok(Some(())),
        Ok(_) => Err(Failure { step: "understand the driver".into(), errno: libc::EPROTO }),
        Err(error) => Err(Failure::at("hear from the driver")(error)),
    }
}

/// Locks the plan. Nothing when the pod was removed meanwhile.
fn lock(plan: &Path) -> Result<Option<OwnedFd>, Failure> {
    let at = |step: &'static str| move |e: Errno| Failure::at(step)(e.into());
    let lock = open(plan, OFlags::RDONLY).map_err(at("open the plan"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(at("lock the plan"))?;
    // A sweep locks, moves the directory away and unlocks; then this is not our plan any more.
    let opened = rustix::fs::fstat(&lock).map_err(at("look at the plan"))?;
    let there = rustix::fs::stat(plan);
    let same = there.is_ok_and(|there| there.st_ino == opened.st_ino && there.st_dev == opened.st_dev);
    Ok(same.then_some(lock))
}

/// Opens a file among the holder's own descriptors.
fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let file = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
    fcntl_dupfd_cloexec(file, OWN_FDS_FROM)
}

fn unix_listener(kind: SocketType, path: &Path, backlog: i32) -> Result<OwnedFd, Failure> {
    let make = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        let socket = fcntl_dupfd_cloexec(socket, OWN_FDS_FROM)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, backlog)?;
        Ok(socket)
    };
    make().map_err(|e| Failure::at(format!("listen on {}", path.display()))(e.into()))
}

/// Tells of an event. Whether somebody is there to hear it.
pub fn tell(socket: &OwnedFd, event: &Event, init: Option<&OwnedFd>) -> bool {
    let fds: Vec<_> = init.into_iter().map(AsFd::as_fd).collect();
    serde_json::to_vec(event).is_ok_and(|bytes| sys::send_with_fds(socket.as_fd(), &bytes, &fds).is_ok())
}
