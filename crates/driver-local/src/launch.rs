//! Makes plans, starts holders, and tries out what this machine allows by doing just that.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_driver::{Error, Limits, PodSpec, TRUST_ANCHORS_PATH, TRUST_ENVIRONMENT};
use freehold_model::{PodId, WorkspaceId};
use rustix::{
    fs::{IFlags, ioctl_getflags, ioctl_setflags},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Resource, Signal, getrlimit},
};

use crate::{
    client::{Connection, Process},
    driver::{Inner, Options, PodRoot, step},
    groups::{self, Groups},
    launcher::{Launcher, Number},
    layers::{self, Layers},
    plan::{
        Birth, Event, Failure, Interception, Link, MESSAGE_BYTES_MAX, Make, Plan, Users, dir, file, word,
    },
    sys, trash,
};

/// How long a pod may take to stand.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long a holder may take to be forked before another launcher is tried, and that one, and so on.
const BORN_WITHIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Files that a tool may have open, and that may be on their way through sockets, all of one user's together.
pub const OPEN_FILES_MAX: u64 = 16_384;
/// Of the hard limit, what a tool may have open is one part in so many: the server and holders of the same user need
/// descriptors on their way when tools have as many there as they may.
pub const OPEN_FILES_PART: u64 = 2;
/// The host's uid of pods' root users, when the driver runs as root: above what people and containers are given.
const USERS_BASE: u32 = 1_900_000_000;
/// Variables of every program in a pod.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
];

/// A holder that was started or found.
pub struct Launched {
    /// Its plan.
    pub plan: Plan,
    /// The pod's directory.
    pub dir: PathBuf,
    /// A connection on which it tells of events.
    pub connection: Connection,
    /// Its pidfd.
    pub holder: OwnedFd,
    /// What it said last.
    pub event: Event,
    /// A pidfd of the pod's first process.
    pub init: Option<OwnedFd>,
}

/// A holder that is making its pod. Dropped, both end.
pub struct Starting {
    plan: Plan,
    dir: PathBuf,
    called: Called,
    /// What the holder is told first.
    birth: Vec<u8>,
}

/// A holder that was asked for. Dropped, it ends.
pub struct Called {
    holder: OwnedFd,
    by: Number,
}

/// Makes the driver's directories.
pub fn prepare(options: &Options) -> io::Result<()> {
    for name in ["", dir::PODS, dir::WORKSPACES, dir::TRASH, dir::STAGE, dir::LAYERS, dir::ROOTS] {
        let path = options.state_dir.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
    }
    spread(&options.state_dir.join(dir::PODS));
    spread(&options.state_dir.join(dir::WORKSPACES));
    let executable = fs::metadata(&options.executable)?;
    if executable.permissions().mode() & 0o005 != 0o005 {
        let message =
            format!("{} must be readable and executable by all users", options.executable.display());
        return Err(io::Error::other(message));
    }
    if options.root != PodRoot::HostUsr && wants_a_loader(&fs::read(&options.executable)?) {
        let message =
            format!("{} must be linked statically to run in a root of its own", options.executable.display());
        return Err(io::Error::other(message));
    }
    Ok(())
}

/// Asks the file system to keep the directories made in this one apart, as it does for home directories.
///
/// Ext4 does not reuse an inode for minutes after its file was removed, and searches past all such inodes of a group of
/// blocks for each file it makes there. Where all pods share a group, pods that come and go make a new file cost 700 µs
/// instead of 30 µs, and a pod begins with some twenty. Other file systems refuse; nothing depends on it.
fn spread(path: &Path) {
    let asked = fs::File::open(path).and_then(|directory| {
        let flags = ioctl_getflags(&directory)?;
        Ok(ioctl_setflags(&directory, flags | IFlags::TOPDIR)?)
    });
    if let Err(error) = asked {
        tracing::debug!(path = %path.display(), error = %error, "this file system does not keep directories apart");
    }
}

/// Whether a program (ELF, 64 bits, as all machines are that we build for) names a loader.
fn wants_a_loader(program: &[u8]) -> bool {
    const INTERPRETER: u16 = 3;
    let short = |at: usize| {
        program.get(at..at + 2).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    // The table of segments: where it is, how long an entry is, how many there are.
    let (start, size, count) = (short(0x20), short(0x36), short(0x38));
    (0..count).any(|index| short(start + index * size) == usize::from(INTERPRETER))
}

/// A name for this driver's control groups, one for each directory.
pub fn groups_name(state_dir: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    state_dir.hash(&mut hasher);
    format!("freehold-{:016x}", hasher.finish())
}

/// Makes trial pods, the best kind first, until one stands.
pub async fn try_out(
    launcher: &Launcher,
    options: &Options,
    groups: &Groups,
    interceptions: &[Interception],
) -> Result<Make, Error> {
    let users = candidates();
    let mut interceptions = interceptions.iter().copied().peekable();
    let mut users = users.into_iter().peekable();
    let mut links = [Link::Dummy, Link::Ifb, Link::Veth].into_iter().peekable();
    let mut last =
        step("map users")(io::Error::other("root's user namespace has no room for the users of pods"));
    while let (Some(user), Some(interception), Some(link)) =
        (users.peek(), interceptions.peek(), links.peek())
    {
        let make = Make { users: *user, interception: *interception, link: *link };
        match try_one(launcher, options, groups, make).await {
            Ok(()) => return Ok(make),
            Err(Error::Step { step, source }) => {
                tracing::debug!(?make, step, error = %source, "this kind of pod cannot be made here; trying the next");
                if step.starts_with("intercept") {
                    interceptions.next();
                } else if step.starts_with("make the pod's network links") {
                    links.next();
                } else {
                    users.next();
                }
                last = Error::Step { step, source };
            }
            Err(other) => return Err(other),
        }
    }
    Err(last)
}

/// Root gives pods users of their own or makes none: a pod whose root were the host's is no sandbox.
fn candidates() -> Vec<Users> {
    if !rustix::process::geteuid().is_root() {
        return vec![Users::Single];
    }
    let maps = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let ranges = maps.lines().filter_map(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u32>().ok());
        let (first, _, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        Some((first, count))
    });
    let base = ranges.filter_map(|(first, count)| {
        let end = first.saturating_add(count);
        let base = USERS_BASE.min(end.checked_sub(Users::COUNT)?);
        // The driver's own ids are not for pods.
        (base >= first.max(Users::COUNT)).then_some(base)
    });
    base.max().map_or_else(Vec::new, |base| vec![Users::Mapped { base }, Users::Shifted { base }])
}

async fn try_one(launcher: &Launcher, options: &Options, groups: &Groups, make: Make) -> Result<(), Error> {
    let spec = PodSpec {
        pod_id: PodId::from_uuid(uuid::Uuid::now_v7()),
        workspace_id: WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
        generation: 0,
        limits: Limits::default(),
        trust_anchors_pem: String::new(),
        environment: Vec::new(),
    };
    let layers = layers::of(options, &options.state_dir.join(dir::LAYERS), make.users, "")
        .map_err(step("make the lower layers"))?;
    let mut plan = make_plan(options, groups, make, &spec, layers);
    plan.trial = true;
    let outcome = match call(launcher).and_then(|holder| start(holder, options, plan, || Ok(()))) {
        Ok(starting) => starting.ready(launcher).await,
        Err(error) => Err(error),
    };
    if let Ok(Launched { holder, .. }) = &outcome {
        let holder = holder.try_clone().and_then(Process::new).map_err(step("follow the holder"))?;
        holder.gone().await;
    }
    undo(&options.state_dir, groups, &spec.pod_id.to_string(), spec.workspace_id);
    let files = options.state_dir.join(dir::WORKSPACES).join(spec.workspace_id.to_string());
    trash::discard(&options.state_dir, &files).map_err(step("remove a trial's files"))?;
    outcome.map(drop)
}

/// The plan of a pod.
pub fn plan(inner: &Inner, spec: &PodSpec, layers: Layers) -> Plan {
    let groups = inner.groups.of(&spec.pod_id.to_string());
    Plan { groups, ..make_plan(&inner.options, &inner.groups, inner.make, spec, layers) }
}

fn make_plan(options: &Options, groups: &Groups, make: Make, spec: &PodSpec, layers: Layers) -> Plan {
    let limits = spec.limits;
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let tool_environment: Vec<_> = ENVIRONMENT
        .iter()
        .map(|(name, value)| pair(name, value))
        .chain(TRUST_ENVIRONMENT.iter().map(|name| pair(name, TRUST_ANCHORS_PATH)))
        .collect();
    let environment = tool_environment.iter().cloned().chain(spec.environment.iter().cloned()).collect();
    let watch_memory = groups.enforces("memory").is_err();
    let files = open_files();
    let mut tool_rlimits =
        vec![("core".to_owned(), 0), ("fsize".to_owned(), limits.disk_bytes), ("nofile".to_owned(), files)];
    if watch_memory {
        tool_rlimits.push(("data".to_owned(), groups::tools_memory(&limits)));
    }
    if groups.enforces("pids").is_err() {
        tool_rlimits.push(("nproc".to_owned(), groups::tools_processes(&limits)));
    }
    Plan {
        pod_id: spec.pod_id,
        workspace_id: spec.workspace_id,
        generation: spec.generation,
        trial: false,
        make,
        root_layers: layers.root,
        usr_layers: layers.usr,
        executable: options.executable.clone(),
        environment,
        tool_environment,
        groups: Vec::new(),
        tool_rlimits,
        limits,
        watch_memory,
        watch_disk: true,
    }
}

/// Files that a tool may have open.
pub fn open_files() -> u64 {
    let of_all = getrlimit(Resource::Nofile).maximum;
    of_all.map_or(OPEN_FILES_MAX, |most| (most / OPEN_FILES_PART).min(OPEN_FILES_MAX))
}

/// Has a holder started.
pub fn call(launcher: &Launcher) -> Result<Called, Error> {
    let call = || -> io::Result<Called> {
        let (ours, theirs) = socket_pair()?;
        let by = launcher.launch(&theirs)?;
        Ok(Called { holder: ours, by })
    };
    call().map_err(step("start a holder"))
}

/// Tells a holder what to make, and meanwhile makes what its pod needs: the directories, and by `make_groups` the
/// control groups. Blocks for as long as that takes; see [`Starting::ready`] for the rest.
pub fn start(
    called: Called,
    options: &Options,
    plan: Plan,
    make_groups: impl FnOnce() -> io::Result<()>,
) -> Result<Starting, Error> {
    let pod_dir = options.state_dir.join(dir::PODS).join(plan.pod_id.to_string());
    let workspace = options.state_dir.join(dir::WORKSPACES).join(plan.workspace_id.to_string());
    let birth = Birth { pod_dir, plan };
    let bytes = serde_json::to_vec(&birth).map_err(|error| step("start a holder")(error.into()))?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(step("start a holder")(io::Error::from_raw_os_error(libc::E2BIG)));
    }
    // A holder that has ended says why by itself, or is found to be gone.
    called.tell(&bytes);
    let Birth { pod_dir, plan } = birth;
    let write = || -> io::Result<()> {
        layers::workspace_files(&workspace.join(dir::FILES), plan.make.users)?;
        write_generation(&workspace, plan.generation)?;
        fs::create_dir(&pod_dir)?;
        fs::set_permissions(&pod_dir, fs::Permissions::from_mode(0o700))?;
        fs::write(pod_dir.join(file::PLAN), serde_json::to_vec(&plan)?)
    };
    write().map_err(step("write the pod's plan"))?;
    called.tell(word::FILES);
    make_groups().map_err(step("make the pod's control groups"))?;
    called.tell(word::GROUPS);
    Ok(Starting { plan, dir: pod_dir, called, birth: bytes })
}

impl Called {
    fn tell(&self, bytes: &[u8]) {
        let _gone = sys::send_with_fds(self.holder.as_fd(), bytes, &[]);
    }
}

/// What a holder said first.
enum Born {
    /// Its pidfd.
    Holder(OwnedFd),
    /// The launcher, in its place, why there is none.
    Failed(Failure),
    /// There is none, and will be none: the launcher ended.
    Never,
}

async fn born(connection: &Connection) -> io::Result<Born> {
    let heard = match connection.hear_bytes().await {
        // So it is when the socket goes with what was sent to it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => None,
        heard => heard?,
    };
    Ok(match heard {
        Some((word, mut fds)) if word == word::BORN => fds.pop().map_or(Born::Never, Born::Holder),
        Some((bytes, _)) => match serde_json::from_slice(&bytes)? {
            Event::Failed(failure) => Born::Failed(failure),
            Event::Running { .. } | Event::Ended { .. } => return Err(io::ErrorKind::InvalidData.into()),
        },
        None => Born::Never,
    })
}

impl Starting {
    /// Waits until the pod stands and its agent was started.
    pub async fn ready(self, launcher: &Launcher) -> Result<Launched, Error> {
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        let late = |_| io::Error::from(io::ErrorKind::TimedOut);
        let Self { plan, dir, called, birth } = self;
        let (connection, holder) = holder(launcher, called, &birth, deadline).await?;
        let heard = tokio::time::timeout_at(deadline, connection.hear::<Event>()).await;
        let failed = match heard.map_err(late).flatten() {
            Ok(Some((Event::Failed(failure), _))) => failed(failure),
            Ok(Some((event, mut fds))) => {
                return Ok(Launched { plan, dir, connection, holder, event, init: fds.pop() });
            }
            Ok(None) => step("start a holder")(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => step("hear from a holder")(error),
        };
        if let Ok(holder) = Process::new(holder) {
            holder.signal(Signal::KILL);
            holder.gone().await;
        }
        Err(failed)
    }
}

fn failed(failure: Failure) -> Error {
    step(failure.step)(io::Error::from_raw_os_error(failure.errno))
}

/// Waits until the holder was forked, if need be by another launcher: one that was stopped or killed must not cost
/// each pod its time to start.
async fn holder(
    launcher: &Launcher,
    mut called: Called,
    birth: &[u8],
    deadline: tokio::time::Instant,
) -> Result<(Connection, OwnedFd), Error> {
    for patience in BORN_WITHIN {
        let connection = Connection::new(called.holder).map_err(step("start a holder"))?;
        let soon = (tokio::time::Instant::now() + patience).min(deadline);
        let mut heard = tokio::time::timeout_at(soon, born(&connection)).await;
        if heard.is_err() {
            launcher.give_up(called.by);
            // Either it was forked, and speaks; or nobody has the other end of the socket now.
            heard = tokio::time::timeout_at(deadline, born(&connection)).await;
        }
        match heard.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Born::Holder(holder)) => return Ok((connection, holder)),
            Ok(Born::Failed(failure)) => return Err(failed(failure)),
            Ok(Born::Never) => {}
            Err(error) => return Err(step("start a holder")(error)),
        }
        called = call(launcher)?;
        for bytes in [birth, word::FILES, word::GROUPS] {
            // What it needs was made meanwhile.
            called.tell(bytes);
        }
    }
    Err(step("start a holder")(io::ErrorKind::UnexpectedEof.into()))
}

/// Removes what a pod that does not stand left behind, so also what its overlays worked in: they refuse to begin where
/// others did not come to an end.
pub fn undo(state_dir: &Path, groups: &Groups, pod: &str, workspace: WorkspaceId) {
    let ours = groups.pods().into_iter().filter(|group| group.file_name().is_some_and(|name| name == pod));
    let removed = ours.map(|group| groups::remove(&group));
    let workspace = state_dir.join(dir::WORKSPACES).join(workspace.to_string());
    let left = [state_dir.join(dir::PODS).join(pod), workspace.join(dir::FILES).join("work")];
    let discarded = left.iter().map(|path| trash::discard(state_dir, path));
    if let Err(error) = removed.chain(discarded).collect::<io::Result<()>>() {
        tracing::warn!(pod.id = pod, error = %error, "failed to remove what a failed start left; the next start sweeps it");
    }
}

/// Notes the newest generation seen. Whoever is killed meanwhile leaves the old note or the new one, as a whole.
///
/// It is not synchronized: a start does not wait for the disk, and what an outage of the machine may leave is understood.
fn write_generation(workspace: &Path, generation: u64) -> io::Result<()> {
    let new = workspace.join(file::GENERATION).with_extension("new");
    fs::write(&new, generation.to_string())?;
    fs::rename(new, workspace.join(file::GENERATION))
}

/// Refuses a generation older than the newest seen of the workspace.
///
/// The note is the second guard against a late caller, after the rows of the one that calls. So one that an outage emptied
/// (or filled with zeros, as some file systems do) refuses nothing: the start that follows writes it again, while refusing
/// would keep the workspace down for ever. Anything else that is no number is not ours, and refused.
pub fn check_generation(workspace: &Path, asked: u64) -> Result<(), Error> {
    let seen = match fs::read_to_string(workspace.join(file::GENERATION)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(step("read the workspace's generation"))?,
    };
    let seen = seen.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    if seen.is_empty() {
        tracing::warn!(path = %workspace.display(), "the workspace's generation was lost; it is noted again");
        return Ok(());
    }
    match seen.parse() {
        Ok(seen) if asked < seen => Err(Error::OldGeneration { asked, seen }),
        Ok(_) => Ok(()),
        Err(_) => Err(step("understand the workspace's generation")(io::ErrorKind::InvalidData.into())),
    }
}

/// A pair of connected sockets that keep the borders of messages: ours does not block, the other one does.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}
