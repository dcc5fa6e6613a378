//! How the tool host is started: as the tools' user, in their control groups, under their limits, without capabilities,
//! with nothing of the agent's but one end of a socket.
//!
//! Invariant: what the environment demands is done or the tool host does not start.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStringExt, process::CommandExt},
    },
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit},
    thread::{CapabilitySet, CapabilitySets},
};
use tokio::net::UnixStream;

/// How tools are confined.
#[derive(Debug)]
pub(crate) struct Confinement {
    /// The program that becomes the tool host, and its arguments.
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// The user and group of tools; the agent's own when absent.
    pub(crate) uid: Option<u32>,
    /// `cgroup.procs` of the tools' control groups.
    pub(crate) cgroups: Vec<OwnedFd>,
    /// Limits of each process, soft and hard.
    pub(crate) rlimits: Vec<(Resource, u64)>,
    /// The whole environment of tools.
    pub(crate) environment: Vec<(String, String)>,
}

impl Confinement {
    /// Starts a tool host; returns it and the agent's end of its standard input.
    pub(crate) fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs.into_std()?);
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let uid = self.uid;
        let rlimits = self.rlimits.clone();
        let cgroups = self
            .cgroups
            .iter()
            .map(|cgroup| cgroup.as_fd().try_clone_to_owned())
            .collect::<io::Result<Vec<_>>>()?;
        let before_exec = move || confine(uid, &cgroups, &rlimits);
        #[expect(
            unsafe_code,
            reason = "the user, groups and limits of a child are set between fork and exec"
        )]
        // SAFETY: the closure makes system calls only; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(before_exec);
        }
        Ok((command.spawn()?, ours))
    }
}

/// Runs in the child.
fn confine(uid: Option<u32>, cgroups: &[OwnedFd], rlimits: &[(Resource, u64)]) -> io::Result<()> {
    for cgroup in cgroups {
        rustix::io::write(cgroup, b"0")?;
    }
    for &(resource, value) in rlimits {
        // One that is lower already stays.
        let value = getrlimit(resource).maximum.map_or(value, |maximum| maximum.min(value));
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?;
    }
    rustix::thread::set_no_new_privs(true)?;
    if let Some(uid) = uid {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    // Under no_new_privs not even the pod's uid 0 gets any of them back when it executes.
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}

/// How this program is started as something else: its executable, and the words up to and including `word`, which the
/// command line has. They begin with the program's own path where a loader runs it.
pub(crate) fn own_program(word: &str) -> io::Result<(PathBuf, Vec<OsString>)> {
    let line = std::fs::read("/proc/self/cmdline")?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).skip(1).collect();
    let end = words.iter().position(|candidate| *candidate == word.as_bytes());
    let end = end.ok_or_else(|| io::Error::other(format!("the command line does not say `{word}`")))?;
    let words = words[..=end].iter().map(|word| OsString::from_vec(word.to_vec())).collect();
    Ok((std::env::current_exe()?, words))
}

/// Takes over the descriptors that whoever started this process left open, and closes every inherited one to programs
/// that are started from here. To be called once, before anything else is opened.
pub(crate) fn take_inherited(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    const FIRST: u32 = 3;
    let mut taken = Vec::new();
    for &number in numbers {
        #[expect(unsafe_code, reason = "descriptors are inherited by number")]
        // SAFETY: called before this process opened anything, so each open number from 3 is inherited and owned by
        // nobody; `fcntl` checks that it is open, and each is taken once.
        let fd = unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(number)
        };
        taken.push(fd);
    }
    #[expect(unsafe_code, reason = "no safe wrapper sets close-on-exec for a range")]
    // SAFETY: marks descriptors; closes none.
    let result =
        unsafe { libc::close_range(FIRST, u32::MAX, i32::try_from(libc::CLOSE_RANGE_CLOEXEC).unwrap_or(0)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(taken) }
}
