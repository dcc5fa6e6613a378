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
    OWN_FDS_FROM,
    mounts::{self, Trees},
    netlink::{self, netlink_protocol::Protocol},
    network::{self, Sockets},
    privileges, proc,
};
use crate::{
    plan::{Failure, Plan, Users, file},
    sys,
};

/// Bytes of what parent and child tell each other, at most.
const NOTE_BYTES_MAX: usize = 1024;
/// Namespaces that a restarted agent finds again, in the order in which they are entered; the network's comes last.
const KEPT: &[&str] = &["user", "mnt", "uts", "ipc", "cgroup"];
/// These, the network's, and the pod's `/proc`.
const KEPT_AND_MORE: usize = KEPT.len() + 2;

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
    /// Opens what lies in the pod's directory, which is relative to the current one. What the holder itself has to say to
    /// people goes to the log from here on.
    pub fn open(pod_dir: &Path) -> Result<Self, Failure> {
        let log = open(&pod_dir.join(file::LOG), OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND)?;
        sys::place(log.as_fd(), libc::STDERR_FILENO).map_err(Failure::at("place a descriptor"))?;
        Ok(Self {
            pod_api: open(&pod_dir.join(file::POD_API), OFlags::PATH)?,
            log,
            null: open("/dev/null".as_ref(), OFlags::RDWR)?,
            agent_groups: Vec::new(),
            tool_groups: Vec::new(),
        })
    }

    /// Opens the pod's control groups.
    pub fn open_groups(&mut self, plan: &Plan) -> Result<(), Failure> {
        for group in &plan.groups {
            self.agent_groups.push(open(&group.agent, OFlags::WRONLY)?);
            self.tool_groups.push(open(&group.tools, OFlags::WRONLY)?);
        }
        Ok(())
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Failure> {
    super::open(path, flags).map_err(|e| Failure::at(format!("open {}", path.display()))(e.into()))
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
    /// On which the kernel is asked about the sockets in its network.
    pub diagnosis: OwnedFd,
    /// Ends when the agent's program runs; until then it may tell why it does not.
    pub starting: Option<OwnedFd>,
}

/// A pod that is being made by its first process. Dropped, it is gone.
pub struct Begun {
    init: Pid,
    notes: OwnedFd,
    trees: Vec<OwnedFd>,
    stands: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.stands {
            abandon(self.init);
        }
    }
}

/// Makes the pod's namespaces, and begins with what takes neither its files nor its control groups.
pub fn begin(plan: &Plan) -> Result<Begun, Failure> {
    let (ours, theirs) = notes()?;
    let flags = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    // SAFETY: a holder never has a second thread.
    let child = unsafe { sys::clone(flags) }.map_err(Failure::at("make namespaces"))?;
    let Some(init) = child else {
        drop(ours);
        run_child(&theirs, || first_start(plan, &theirs));
    };
    drop(theirs);
    let mut begun = Begun { init, notes: ours, trees: Vec::new(), stands: false };
    let mut make = || -> Result<(), Failure> {
        write_id_maps(init, plan.make.users)?;
        if plan.make.users.base().is_some() {
            let user_namespace = match plan.make.users {
                Users::Mapped { .. } => Some(namespace(init, "user")?),
                Users::Shifted { .. } | Users::Single => None,
            };
            let Trees { layers, executable } = Trees::copy(plan, user_namespace.as_ref().map(AsFd::as_fd))?;
            begun.trees.extend(layers);
            begun.trees.push(executable);
        }
        Ok(())
    };
    make().map_err(|failure| begun.cause(failure))?;
    Ok(begun)
}

impl Begun {
    /// The workspace's files are there.
    pub fn files(&mut self) -> Result<(), Failure> {
        let trees = std::mem::take(&mut self.trees);
        self.tell(trees.iter())
    }

    /// The pod's control groups are there: all is. Waits until the pod stands; where agent and tools are one user, until
    /// the agent's program runs, and in a trial until all is over.
    pub fn groups(mut self, plan: &Plan, handles: &Handles) -> Result<Sandbox, Failure> {
        let finish = || -> Result<Sandbox, Failure> {
            let first = [&handles.pod_api, &handles.log, &handles.null];
            self.tell(first.into_iter().chain(&handles.agent_groups).chain(&handles.tool_groups))?;
            let (counts, fds) = note(&self.notes)?;
            // The pod's /proc, what is kept of its namespaces, the network's, and what asks about its sockets follow.
            let (Sockets { tcp, dns }, mut rest) = Sockets::of(&counts, fds)?;
            let (Some(diagnosis), KEPT_AND_MORE) = (rest.pop(), rest.len()) else {
                return Err(Failure { step: "receive the pod's listeners".into(), errno: libc::EPROTO });
            };
            let namespaces = rest.split_off(1);
            let proc = rest.remove(0);
            if plan.trial || plan.make.users.base().is_none() {
                started(&self.notes)?;
            }
            Ok(Sandbox { init: self.init, tcp, dns, proc, namespaces, diagnosis, starting: None })
        };
        let mut sandbox = finish().map_err(|failure| self.cause(failure))?;
        self.stands = true;
        sandbox.starting = fcntl_dupfd_cloexec(&self.notes, OWN_FDS_FROM).ok();
        Ok(sandbox)
    }

    fn tell<'a>(&self, fds: impl Iterator<Item = &'a OwnedFd>) -> Result<(), Failure> {
        let fds: Vec<BorrowedFd<'_>> = fds.map(AsFd::as_fd).collect();
        sys::send_with_fds(self.notes.as_fd(), b"there", &fds)
            .map_err(Failure::at("speak to the pod's first process"))
    }

    /// What failed there is the cause of what failed here.
    fn cause(&mut self, failure: Failure) -> Failure {
        abandon(self.init);
        self.stands = true;
        match note(&self.notes) {
            Err(cause) if cause.errno != libc::ESRCH => cause,
            _ => failure,
        }
    }
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

/// The pod's first process, in its first life. A helper makes the network meanwhile, which takes as long as all mounts.
fn first_start(plan: &Plan, holder: &OwnedFd) -> Result<(), Failure> {
    die_with_the_holder()?;
    let (net, its) = notes()?;
    // SAFETY: this process has one thread.
    let helper = unsafe { sys::clone(0) }.map_err(Failure::at("make a process"))?;
    let Some(helper) = helper else { run_child(&its, || make_network(plan, &its)) };
    drop(its);
    mounts::leave_the_hosts()?;
    let (_, mut layers) = note(holder)?;
    let trees = layers.pop().map(|executable| Trees { layers, executable });
    mounts::build(plan, trees)?;
    rustix::system::sethostname(b"freehold").map_err(|e| Failure::at("set the host name")(e.into()))?;
    let (_, fds) = note(holder)?;
    let handles = given(fds)?;
    join(&handles.agent_groups)?;
    // Only now, so that the group just joined is the root that the pod sees.
    sys::unshare(libc::CLONE_NEWCGROUP).map_err(Failure::at("make a cgroup namespace"))?;
    let proc = open("/proc".as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let program = Program::of_agent(plan, &handles)?;
    privileges::prepare_agent(plan.make.users)?;
    // Opened here, since nobody else may once the program has changed.
    let this = rustix::process::getpid();
    let others = KEPT.iter().map(|kind| namespace(this, kind)).collect::<Result<Vec<_>, _>>()?;
    let (counts, fds) = note(&net)?;
    let (sockets, mut network) = Sockets::of(&counts, own(fds)?)?;
    let diagnosis = network.split_off(network.len().min(1));
    enter(&network)?;
    let namespaces: Vec<OwnedFd> = others.into_iter().chain(network).chain(diagnosis).collect();
    program.execute(plan, || {
        // Nobody else is here when the agent comes.
        waitpid(Some(helper), WaitOptions::empty()).map_err(|e| Failure::at("end the helper")(e.into()))?;
        let ends = sockets.all().chain([&proc]).chain(&namespaces);
        let fds: Vec<BorrowedFd<'_>> = ends.map(AsFd::as_fd).collect();
        sys::send_with_fds(holder.as_fd(), &sockets.counts(), &fds)
            .map_err(Failure::at("speak to the holder"))
    })
}

/// The helper: makes the network, in a namespace of its own until that is handed over with the network's ends.
fn make_network(plan: &Plan, first: &OwnedFd) -> Result<(), Failure> {
    sys::unshare(libc::CLONE_NEWNET).map_err(Failure::at("make a network namespace"))?;
    let sockets = network::set_up(plan.make)?;
    // By another name than its own, which is another one in the host's /proc.
    let network = open("/proc/self/ns/net".as_ref(), OFlags::RDONLY)?;
    let diagnosis = netlink::open(Protocol::Sockets).map_err(Failure::at("open a netlink socket"))?;
    let fds: Vec<BorrowedFd<'_>> = sockets.all().chain([&network, &diagnosis]).map(AsFd::as_fd).collect();
    sys::send_with_fds(first.as_fd(), &sockets.counts(), &fds)
        .map_err(Failure::at("speak to the pod's first process"))?;
    sys::exit(0)
}

/// What [`Begun::groups`] handed over.
fn given(fds: Vec<OwnedFd>) -> Result<Handles, Failure> {
    let mut fds = own(fds)?.into_iter();
    let (Some(pod_api), Some(log), Some(null)) = (fds.next(), fds.next(), fds.next()) else {
        return Err(Failure { step: "receive the agent's descriptors".into(), errno: libc::EPROTO });
    };
    let mut agent_groups: Vec<OwnedFd> = fds.collect();
    let tool_groups = agent_groups.split_off(agent_groups.len() / 2);
    Ok(Handles { pod_api, log, null, agent_groups, tool_groups })
}

/// Moves descriptors to where they are in nobody's way.
fn own(fds: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, Failure> {
    let moved: rustix::io::Result<_> =
        fds.into_iter().map(|fd| fcntl_dupfd_cloexec(fd, OWN_FDS_FROM)).collect();
    moved.map_err(|e| Failure::at("place a descriptor")(e.into()))
}

/// The pod's first process, in a later life.
fn next_start(plan: &Plan, handles: &Handles, parent: &OwnedFd) -> Result<(), Failure> {
    mounts::become_root(plan.make.users)?;
    die_with_the_holder()?;
    note(parent)?;
    proc::mount_at("/proc", None)?;
    let proc = open("/proc".as_ref(), OFlags::RDONLY | OFlags::DIRECTORY)?;
    mounts::enter_workspace()?;
    let program = Program::of_agent(plan, handles)?;
    privileges::prepare_agent(plan.make.users)?;
    program.execute(plan, || {
        sys::send_with_fds(parent.as_fd(), b"proc", &[proc.as_fd()])
            .map_err(Failure::at("speak to the holder"))
    })
}

/// A program to execute.
struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// The agent. Its descriptors are placed where it looks for them.
    fn of_agent(plan: &Plan, handles: &Handles) -> Result<Self, Failure> {
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
        Ok(Self {
            path: strings([AGENT_PROGRAM_PATH])?.remove(0),
            arguments: strings([AGENT_PROGRAM_PATH, "agent"])?,
            environment: strings(environment.iter().map(|(name, value)| format!("{name}={value}")))?,
        })
    }

    /// Becomes the agent. `stand` is called as the agent's user with the agent's capabilities, when all of the pod is
    /// made and nothing is left but to filter this process's calls and to execute the program; not in a trial.
    fn execute(self, plan: &Plan, stand: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        sys::reset_signals();
        rustix::process::umask(Mode::from_raw_mode(0o022));
        privileges::become_agent(plan.make.users)?;
        // Becoming another user cleared it.
        die_with_the_holder()?;
        stand()?;
        privileges::restrict_calls(plan.make.users)?;
        if plan.trial {
            sys::exit(0);
        }
        Err(Failure::at("start the agent")(sys::execute(&self.path, &self.arguments, &self.environment)))
    }
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
pub fn started(child: &OwnedFd) -> Result<(), Failure> {
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
