//! Runs a command in a pod that stands.
//!
//! ```text
//! holder -> entrance (enters the namespaces, ends) -> supervisor (in the pod) -> command
//! ```
//!
//! The supervisor is the one to whom orphans of the command fall, so that all of it can be ended. It reports on a
//! socket of the driver's; the holder takes no further part.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Access, Mode, access},
    io::Errno,
    process::{
        DumpableBehavior, Pid, Signal, WaitOptions, chdir, getpid, kill_process, kill_process_group,
        set_child_subreaper, set_dumpable_behavior, setsid, umask, wait,
    },
};

use super::{
    privileges,
    sandbox::{Handles, Sandbox, enter, join, namespace, strings},
};
use crate::{
    plan::{ExecEvent, Failure, Plan},
    sys,
};

/// Added to a command's score in the choice of whom to end for want of memory, in thousandths of all memory.
const OOM_SCORE_OF_COMMANDS: &str = "300";
/// Rounds of killing what a command left, after which the rest is left to the pod's first process.
const KILL_ROUNDS_MAX: usize = 1000;
/// Descriptor of the socket to the driver, in the supervisor.
const CONTROL_FD: i32 = 3;

/// A command to run, with the descriptors that came along.
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Where.
    pub cwd: String,
    /// Variables beside those of the plan.
    pub environment: Vec<(String, String)>,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// The socket to the driver.
    pub control: OwnedFd,
}

/// Starts a command. What becomes of it is told on its control socket.
pub fn run(plan: &Plan, handles: &Handles, sandbox: &Sandbox, command: &Command) {
    let failed = |failure: Failure| {
        // The driver sees the end of the connection in any case.
        let _gone =
            sys::send_with_fds(command.control.as_fd(), &ExecEvent::Broken(failure.errno).encode(), &[]);
    };
    // SAFETY: a holder never has a second thread.
    match unsafe { sys::clone(0) } {
        Err(error) => failed(Failure::at("make a process")(error)),
        Ok(Some(_)) => {}
        Ok(None) => {
            if let Err(failure) = entrance(plan, handles, sandbox, command) {
                failed(failure);
            }
            sys::exit(0)
        }
    }
}

fn entrance(plan: &Plan, handles: &Handles, sandbox: &Sandbox, command: &Command) -> Result<(), Failure> {
    let processes = namespace(sandbox.init, "pid")?;
    join(&handles.tool_groups)?;
    enter(&sandbox.namespaces)?;
    sys::setns(processes.as_fd()).map_err(Failure::at("enter a namespace"))?;
    drop(processes);
    // Nothing of the host goes with it.
    let place =
        |from: &OwnedFd, to: i32| sys::place(from.as_fd(), to).map_err(Failure::at("place a descriptor"));
    // Sources lie above the holder's own, see `Handles`; those that came with the request were moved there.
    place(&handles.null, 0)?;
    place(&command.stdout, 1)?;
    place(&command.stderr, 2)?;
    place(&command.control, CONTROL_FD)?;
    sys::close_range(CONTROL_FD.cast_unsigned() + 1, u32::MAX).map_err(Failure::at("close descriptors"))?;
    privileges::become_tool(plan.make.users)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::at("hide from the pod")(e.into()))?;
    // SAFETY: this process has one thread.
    match unsafe { sys::clone(libc::CLONE_PARENT) }.map_err(Failure::at("make a process"))? {
        Some(_) => Ok(()),
        None => supervise(plan, command),
    }
}

/// Tells the driver of an event.
fn tell(event: ExecEvent) {
    // SAFETY: the descriptor was placed by `entrance` and stays open until the process ends.
    let control = unsafe { std::os::fd::BorrowedFd::borrow_raw(CONTROL_FD) };
    let _gone = sys::send_with_fds(control, &event.encode(), &[]);
}

fn supervise(plan: &Plan, command: &Command) -> ! {
    let started = (|| -> Result<Result<(Pid, OwnedFd), i32>, Failure> {
        let signals = sys::signal_descriptor(&[libc::SIGCHLD]).map_err(Failure::at("listen to signals"))?;
        set_child_subreaper(Some(getpid())).map_err(|e| Failure::at("become a reaper")(e.into()))?;
        // SAFETY: the descriptor was placed by `entrance` and stays open until the process ends.
        let control = unsafe { std::os::fd::BorrowedFd::borrow_raw(CONTROL_FD) };
        rustix::io::fcntl_setfd(control, rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| Failure::at("keep the socket from the command")(e.into()))?;
        let flags = rustix::pipe::PipeFlags::CLOEXEC;
        let (heard, told) =
            rustix::pipe::pipe_with(flags).map_err(|e| Failure::at("make a pipe")(e.into()))?;
        // SAFETY: this process has one thread.
        let Some(child) = unsafe { sys::clone(0) }.map_err(Failure::at("make a process"))? else {
            let errno = execute(plan, command);
            let _gone = rustix::io::write(&told, &errno.to_le_bytes());
            sys::exit(127)
        };
        drop(told);
        let mut errno = [0; 4];
        match rustix::io::read(&heard, &mut errno) {
            Ok(4) => Ok(Err(i32::from_le_bytes(errno))),
            _ => Ok(Ok((child, signals))),
        }
    })();
    match started {
        Err(failure) => tell(ExecEvent::Broken(failure.errno)),
        Ok(Err(errno)) => tell(ExecEvent::Failed(errno)),
        Ok(Ok((child, signals))) => {
            prefer_to_kill(child);
            tell(ExecEvent::Started);
            // Whoever reads the output shall see its end when the command closed it.
            // SAFETY: nothing here uses the three descriptors after this.
            let _closed = unsafe { libc::syscall(libc::SYS_close_range, 0, 2, 0) };
            match wait_for(child, &signals) {
                Some(status) => tell(ExecEvent::Exited(status)),
                None => end(child),
            }
        }
    }
    sys::exit(0)
}

/// When memory runs out, the kernel shall end commands before their supervisors, which tell how they ended.
fn prefer_to_kill(command: Pid) {
    let path = format!("/proc/{}/oom_score_adj", command.as_raw_nonzero());
    let _ended = std::fs::write(path, OOM_SCORE_OF_COMMANDS);
}

/// The command's process: becomes the program. Returns the error number when it cannot.
fn execute(plan: &Plan, command: &Command) -> i32 {
    sys::reset_signals();
    umask(Mode::from_raw_mode(0o022));
    let _leader_already = setsid();
    privileges::limit(&plan.tool_rlimits);
    if let Err(errno) = chdir(&command.cwd) {
        return errno.raw_os_error();
    }
    let variables = plan.tool_environment.iter().chain(&command.environment);
    let path =
        variables.clone().filter(|(name, _)| name == "PATH").map(|(_, value)| value.as_str()).next_back();
    let Ok(environment) = strings(variables.map(|(name, value)| format!("{name}={value}"))) else {
        return libc::EINVAL;
    };
    let Ok(arguments) = strings(command.argv.iter().map(String::as_str)) else { return libc::EINVAL };
    let Some(program) = command.argv.first() else { return libc::EINVAL };
    let candidates: Vec<String> = if program.contains('/') {
        vec![program.clone()]
    } else {
        path.unwrap_or_default().split(':').map(|dir| format!("{dir}/{program}")).collect()
    };
    let mut errno = libc::ENOENT;
    for candidate in candidates {
        let Ok(candidate) = CString::new(candidate) else { return libc::EINVAL };
        // Cheaper than an attempt to execute.
        if matches!(access(&candidate, Access::EXISTS), Err(Errno::NOENT | Errno::NOTDIR)) {
            continue;
        }
        match sys::execute(&candidate, &arguments, &environment).raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) | None => {}
            Some(libc::EACCES) => errno = libc::EACCES,
            Some(other) => return other,
        }
    }
    errno
}

/// The command's status, or nothing when the driver does not want it any more.
fn wait_for(child: Pid, signals: &OwnedFd) -> Option<i32> {
    // SAFETY: the descriptor was placed by `entrance` and stays open until the process ends.
    let control = unsafe { std::os::fd::BorrowedFd::borrow_raw(CONTROL_FD) };
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == child {
                return Some(status.as_raw());
            }
        }
        let mut fds =
            [PollFd::new(signals, PollFlags::IN), PollFd::from_borrowed_fd(control, PollFlags::RDHUP)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
        if !fds[1].revents().is_empty() {
            return None;
        }
        let mut told = [0; 1024];
        let _drained = rustix::io::read(signals, &mut told);
    }
}

/// Kills the command and all that it started: what the killed leave behind falls to this process.
fn end(child: Pid) {
    let _gone = kill_process_group(child, Signal::KILL);
    for _ in 0..KILL_ROUNDS_MAX {
        for pid in children() {
            let _gone = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// This process's children, found by looking at all: not every kernel lists them.
fn children() -> Vec<Pid> {
    let own = getpid().as_raw_nonzero().get();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    pids.filter(|pid| parent(&format!("/proc/{}/stat", pid.as_raw_nonzero())) == Some(own)).collect()
}

/// The parent of a process by its `stat`: the second number after the name, which may hold anything but ends with the
/// last parenthesis.
fn parent(stat: &str) -> Option<i32> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
