//! Makes a pod's namespaces and starts the agent in them; starts it again when it ended.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use freehold_driver::{
    AGENT_POD_API_FD, AGENT_PROGRAM_PATH, AGENT_TOOL_RLIMITS_VARIABLE, AGENT_TOOL_UID_VARIABLE,
    AGENT_TOOLS_CGROUP_FDS_VARIABLE,
};
use rustix::{
    fs::{Mode, OFlags},
    io::fcntl_dupfd_cloexec,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, wait, waitpid},
};

use super::{
    mounts::{self, Trees},
    network, privileges, proc,
};
use crate::{
    plan::{Failure, Plan, Users},
    sys,
};

/// Descriptors below this number are for programs that are started.
const OWN_FDS_FROM: i32 = 20;
/// Bytes of what parent and child tell each other, at most.
const NOTE_BYTES_MAX: usize = 1024;
/// Namespaces that a restarted agent finds again, in the order in which they are entered.
const KEPT: &[&str] = &["user", "mnt", "net", "uts", "ipc", "cgroup"];

/// Descriptors that the pod's processes are started with.
pub struct Handles {
    /// The socket of pod-api, as a path.
    pub pod_api: OwnedFd,
    /// Where the agent's output goes.
    pub log: OwnedFd,
    /// `/dev/null`.
    pub null: OwnedFd,
    /// The agent's groups.
    pub agent_groups: Vec<OwnedFd>,
    /// The tools' groups.
    pub tool_groups: Vec<OwnedFd>,
}

impl Handles {
    /// Opens what the plan names; `pod_api` and `log` are paths in the pod's directory, the current one.
    pub fn open(plan: &Plan, pod_api: &str, log: &str) -> Result<Self, Failure> {
        let open = |path: &Path, flags: OFlags| -> Result<OwnedFd, Failure> {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::open(path, flags | OFlags::CLOEXEC, mode)
                .and_then(|fd| fcntl_dupfd_cloexec(fd, OWN_FDS_FROM))
                .map_err(|e| Failure::at(format!("open {}", path.display()))(e.into()))
        };
        let groups = |file: fn(&crate::plan::Group) -> &Path| {
            plan.groups.iter().map(|group| open(file(group), OFlags::WRONLY)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            pod_api: open(pod_api.as_ref(), OFlags::PATH)?,
            log: open(log.as_ref(), OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?,
            null: open("/dev/null".as_ref(), OFlags::RDWR)?,
            agent_groups: groups(|group| &group.agent)?,
            tool_groups: groups(|group| &group.tools)?,
        })
    }
}

/// A pod that stands.
pub struct Sandbox {
    /// Its first process.
    pub init: Pid,
    /// What its traffic arrives on: TCP.
    pub tcp: Vec<OwnedFd>,
    /// What its traffic arrives on: DNS.
    pub dns: Vec<OwnedFd>,
    /// Its `/proc`.
    pub proc: OwnedFd,
    /// Its namespaces but the one of processes.
    pub namespaces: Vec<OwnedFd>,
}

/// Makes the pod. With `plan.trial` its first process ends when all is made.
pub fn make(plan: &Plan, handles: &Handles) -> Result<Sandbox, Failure> {
    let (ours, theirs) = notes()?;
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    // SAFETY: a holder never has a second thread.
    let child = unsafe { sys::clone(flags) }.map_err(Failure::at("make namespaces"))?;
    let Some(init) = child else {
        drop(ours);
        run_child(&theirs, || first_start(plan, handles, &theirs));
    };
    drop(theirs);
    let finish = || -> Result<Sandbox, Failure> {
        write_id_maps(init, plan.make.users)?;
        let mut trees = Vec::new();
        if plan.make.users.base().is_some() {
            let user_namespace = match plan.make.users {
                Users::Mapped { .. } => Some(namespace(init, "user")?),
                Users::Shifted { .. } | Users::Single => None,
            };
            let Trees { layers, executable } = Trees::copy(plan, user_namespace.as_ref().map(AsFd::as_fd))?;
            trees.extend(layers);
            trees.push(executable);
        }
        let borrowed: Vec<BorrowedFd<'_>> = trees.iter().map(AsFd::as_fd).collect();
        sys::send_with_fds(ours.as_fd(), b"mapped", &borrowed)
            .map_err(Failure::at("speak to the pod's first process"))?;
        drop(trees);
        let (count, mut fds) = note(&ours)?;
        // Numbers of listeners and DNS sockets; the pod's /proc and its namespaces come last.
        let (tcp, dns) = count
            .split_first()
            .map_or((0, 0), |(tcp, dns)| (usize::from(*tcp), dns.first().map_or(0, |d| usize::from(*d))));
        if fds.len() != tcp + dns + 1 + KEPT.len() {
            return Err(Failure { step: "receive the pod's listeners".into(), errno: libc::EPROTO });
        }
        let namespaces = fds.split_off(tcp + dns + 1);
        let proc = fds.remove(tcp + dns);
        let dns = fds.split_off(tcp);
        started(&ours)?;
        Ok(Sandbox { init, tcp: fds, dns, proc, namespaces })
    };
    finish().map_err(|failure| {
        abandon(init);
        // What failed there is the cause of what failed here.
        match note(&ours) {
            Err(cause) if cause.errno != libc::ESRCH => cause,
            _ => failure,
        }
    })
}

/// Starts the agent again, in a new process namespace and all other namespaces of the pod.
pub fn restart(plan: &Plan, handles: &Handles, sandbox: &mut Sandbox) -> Result<(), Failure> {
    let (ours, theirs) = notes()?;
    // SAFETY: a holder never has a second thread.
    let helper = unsafe { sys::clone(0) }.map_err(Failure::at("make a process"))?;
    let Some(helper) = helper else {
        drop(ours);
        run_child(&theirs, || {
            join(&handles.agent_groups)?;
            enter(&sandbox.namespaces)?;
            // The holder becomes the parent of the new first process, as it was of the old one.
            let flags = libc::CLONE_NEWPID | libc::CLONE_PARENT;
            // SAFETY: this process has one thread.
            match unsafe { sys::clone(flags) }.map_err(Failure::at("make namespaces"))? {
                Some(init) => {
                    let pid = init.as_raw_nonzero().get().to_le_bytes();
                    sys::send_with_fds(theirs.as_fd(), &pid, &[])
                        .map_err(Failure::at("speak to the holder"))?;
                    sys::exit(0)
                }
                None => run_child(&theirs, || next_start(plan, handles, &theirs)),
            }
        });
    };
    drop(theirs);
    let (pid, _) = note(&ours)?;
    // The helper's only task is done.
    let _reaped = waitpid(Some(helper), WaitOptions::empty());
    let pid =
        <[u8; 4]>::try_from(pid.as_slice()).ok().and_then(|bytes| Pid::from_raw(i32::from_le_bytes(bytes)));
    let init = pid.ok_or_else(|| Failure { step: "restart the agent".into(), errno: libc::EPROTO })?;
    let mut finish = || {
        // It speaks on the same socket as the helper, so only after it.
        sys::send_with_fds(ours.as_fd(), b"go", &[])
            .map_err(Failure::at("speak to the pod's first process"))?;
        let (_, mut fds) = note(&ours)?;
        sandbox.proc = fds.pop().ok_or_else(|| Failure { step: "open /proc".into(), errno: libc::EPROTO })?;
        started(&ours)
    };
    finish().inspect_err(|_: &Failure| abandon(init))?;
    sandbox.init = init;
    Ok(())
}

/// The pod's first process, in its first life.
fn first_start(plan: &Plan, handles: &Handles, parent: &OwnedFd) -> Result<(), Failure> {
    die_with_the_holder()?;
    let sockets = network::set_up(plan.make.interception)?;
    let (_, mut fds) = note(parent)?;
    let trees = fds.pop().map(|executable| Trees { layers: fds, executable });
    join(&handles.agent_groups)?;
    // Only now, so that the group just joined is the root that the pod sees.
    sys::unshare(libc::CLONE_NEWCGROUP).map_err(Failure::at("make a cgroup namespace"))?;
    mounts::build(plan, trees)?;
    rustix::system::sethostname(b"freehold").map_err(|e| Failure::at("set the host name")(e.into()))?;
    let proc = mounts::open_proc()?;
    // Opened here, since nobody else may once the program has changed.
    let own = rustix::process::getpid();
    let namespaces = KEPT.iter().map(|kind| namespace(own, kind)).collect::<Result<Vec<_>, _>>()?;
    let ends = sockets.tcp.iter().chain(&sockets.dns).chain([&proc]).chain(&namespaces);
    let fds: Vec<BorrowedFd<'_>> = ends.map(AsFd::as_fd).collect();
    let counts = [sockets.tcp.len(), sockets.dns.len()].map(|count| u8::try_from(count).unwrap_or(u8::MAX));
    sys::send_with_fds(parent.as_fd(), &counts, &fds).map_err(Failure::at("speak to the holder"))?;
    drop((sockets, proc, namespaces));
    if plan.trial {
        privileges::become_agent(plan.make.users)?;
        sys::exit(0);
    }
    execute_agent(plan, handles)
}

/// The pod's first process, in a later life.
fn next_start(plan: &Plan, handles: &Handles, parent: &OwnedFd) -> Result<(), Failure> {
    die_with_the_holder()?;
    note(parent)?;
    proc::mount_at("/proc", None)?;
    let proc = mounts::open_proc()?;
    rustix::process::chdir("/workspace").map_err(|e| Failure::at("enter the workspace")(e.into()))?;
    sys::send_with_fds(parent.as_fd(), b"proc", &[proc.as_fd()])
        .map_err(Failure::at("speak to the holder"))?;
    drop(proc);
    execute_agent(plan, handles)
}

fn execute_agent(plan: &Plan, handles: &Handles) -> Result<(), Failure> {
    let mut environment = plan.environment.clone();
    if plan.make.users.base().is_some() {
        environment.push((AGENT_TOOL_UID_VARIABLE.into(), "0".into()));
    }
    let place =
        |from: &OwnedFd, to: i32| sys::place(from.as_fd(), to).map_err(Failure::at("place a descriptor"));
    place(&handles.null, 0)?;
    place(&handles.log, 1)?;
    place(&handles.log, 2)?;
    place(&handles.pod_api, AGENT_POD_API_FD)?;
    let mut numbers = Vec::new();
    for (number, group) in (AGENT_POD_API_FD + 1..).zip(&handles.tool_groups) {
        place(group, number)?;
        numbers.push(number.to_string());
    }
    if !numbers.is_empty() {
        environment.push((AGENT_TOOLS_CGROUP_FDS_VARIABLE.into(), numbers.join(",")));
    }
    if !plan.tool_rlimits.is_empty() {
        let limits: Vec<String> =
            plan.tool_rlimits.iter().map(|(name, value)| format!("{name}={value}")).collect();
        environment.push((AGENT_TOOL_RLIMITS_VARIABLE.into(), limits.join(",")));
    }
    let arguments = strings([AGENT_PROGRAM_PATH, "agent"])?;
    let environment = strings(environment.iter().map(|(name, value)| format!("{name}={value}")))?;
    let program = strings([AGENT_PROGRAM_PATH])?.remove(0);
    sys::reset_signals();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    privileges::become_agent(plan.make.users)?;
    // Becoming another user cleared it.
    die_with_the_holder()?;
    Err(Failure::at("start the agent")(sys::execute(&program, &arguments, &environment)))
}

/// C strings of texts.
pub fn strings<T: Into<Vec<u8>>>(texts: impl IntoIterator<Item = T>) -> Result<Vec<CString>, Failure> {
    texts
        .into_iter()
        .map(|text| {
            CString::new(text).map_err(|_| Failure { step: "read a text".into(), errno: libc::EINVAL })
        })
        .collect()
}

/// Makes the calling process join groups.
pub fn join(groups: &[OwnedFd]) -> Result<(), Failure> {
    for group in groups {
        rustix::io::write(group, b"0").map_err(|e| Failure::at("join a control group")(e.into()))?;
    }
    Ok(())
}

/// Makes the calling process enter namespaces.
pub fn enter(namespaces: &[OwnedFd]) -> Result<(), Failure> {
    namespaces
        .iter()
        .try_for_each(|namespace| sys::setns(namespace.as_fd()).map_err(Failure::at("enter a namespace")))
}

/// A namespace of a process.
pub fn namespace(of: Pid, kind: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{}/ns/{kind}", of.as_raw_nonzero());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| fcntl_dupfd_cloexec(fd, OWN_FDS_FROM))
        .map_err(|e| Failure::at(format!("open the pod's {kind} namespace"))(e.into()))
}

fn die_with_the_holder() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| Failure::at("be tied to the holder")(e.into()))
}

fn notes() -> Result<(OwnedFd, OwnedFd), Failure> {
    let flags = SocketFlags::CLOEXEC;
    let pair = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((fcntl_dupfd_cloexec(ours, OWN_FDS_FROM)?, fcntl_dupfd_cloexec(theirs, OWN_FDS_FROM)?))
    };
    pair().map_err(|e| Failure::at("make a socket")(e.into()))
}

/// Runs a child's part. It returns only to say why it failed.
fn run_child(parent: &OwnedFd, part: impl FnOnce() -> Result<(), Failure>) -> ! {
    if let Err(failure) = part() {
        let mut bytes = b"!".to_vec();
        bytes.extend(failure.errno.to_le_bytes());
        bytes.extend(failure.step.bytes().take(NOTE_BYTES_MAX - bytes.len()));
        // The parent sees the end of the connection in any case.
        let _gone = sys::send_with_fds(parent.as_fd(), &bytes, &[]);
    }
    sys::exit(1)
}

/// Receives a note; a failure that the other side reports is one here.
fn note(from: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Failure> {
    let mut bytes = [0; NOTE_BYTES_MAX];
    let (length, fds) = match sys::receive_with_fds(from.as_fd(), &mut bytes) {
        // It ended without reading all it was told; its last words come after this.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            sys::receive_with_fds(from.as_fd(), &mut bytes)
        }
        other => other,
    }
    .map_err(Failure::at("hear from a process"))?;
    match bytes.get(..length).unwrap_or_default() {
        [b'!', a, b, c, d, step @ ..] => Err(Failure {
            step: String::from_utf8_lossy(step).into_owned(),
            errno: i32::from_le_bytes([*a, *b, *c, *d]),
        }),
        [] => Err(Failure { step: "hear from a process that ended".into(), errno: libc::ESRCH }),
        note => Ok((note.to_vec(), fds)),
    }
}

/// Waits until the child's program was replaced.
fn started(child: &OwnedFd) -> Result<(), Failure> {
    match note(child) {
        Err(Failure { errno: libc::ESRCH, .. }) => Ok(()),
        Err(failure) => Err(failure),
        Ok(_) => Err(Failure { step: "start the agent".into(), errno: libc::EPROTO }),
    }
}

fn write_id_maps(child: Pid, users: Users) -> Result<(), Failure> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{}/{file}", child.as_raw_nonzero());
        std::fs::write(&path, text).map_err(Failure::at(format!("write {file} of the pod")))
    };
    if let Some(base) = users.base() {
        let map = format!("0 {base} {}\n", Users::COUNT);
        write("uid_map", map.clone())?;
        write("gid_map", map)
    } else {
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {} 1\n", rustix::process::geteuid().as_raw()))?;
        write("gid_map", format!("0 {} 1\n", rustix::process::getegid().as_raw()))
    }
}

/// Kills a first process and all others of its namespace, and waits until they are gone.
pub fn abandon(init: Pid) {
    let _gone = rustix::process::kill_process(init, Signal::KILL);
    // Supervisors of commands are in that namespace and children of the holder: unless they are reaped as well, the
    // first process waits for them for ever.
    while let Ok(Some((pid, _))) = wait(WaitOptions::empty()) {
        if pid == init {
            break;
        }
    }
}

/// Turns a failure into an error that can be shown.
pub fn as_io(failure: &Failure) -> io::Error {
    io::Error::from_raw_os_error(failure.errno)
}
