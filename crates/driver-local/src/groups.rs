//! Control groups: which controllers this user may use here, and a pod's groups in them.
//!
//! Three layouts are met: one hierarchy (v2), one for each controller (v1), and both at once. On v2 a pod's group holds
//! two leaves, since processes may be in leaves only; v1 is used in the same way.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use freehold_driver::Limits;

use crate::plan::Group;

/// Processes that the agent keeps for itself.
const AGENT_PROCESSES: u32 = 16;
/// Bytes of memory that the agent keeps for itself.
const AGENT_MEMORY_BYTES: u64 = 64 << 20;
/// How long the kernel may take to let go of a group whose processes are gone.
const EMPTY_WITHIN: Duration = Duration::from_secs(2);
/// Tries to make a pod's group while others take the parent away.
const MAKE_TRIES_MAX: u32 = 100;
/// Microseconds of the period in which CPU time is counted.
const CPU_PERIOD_US: u64 = 100_000;

/// What this user may use.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    hierarchies: Vec<Hierarchy>,
    /// Why a controller is missing, for people.
    missing: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone)]
struct Hierarchy {
    /// Where the driver's pods have their groups.
    base: PathBuf,
    controllers: Vec<&'static str>,
    unified: bool,
}

const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

impl Groups {
    /// Finds out by trying. `name` tells this driver's groups from those of others.
    pub fn probe(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut groups = Self::default();
        for controller in CONTROLLERS {
            let found = match place_v1(&mounts, &own, controller) {
                Some(place) => groups.use_v1(&place.join(name), controller),
                None => place_v2(&mounts, &own)
                    .ok_or_else(|| "the controller is not mounted".to_owned())
                    .and_then(|(root, own)| groups.use_v2(&root, &own, name, controller)),
            };
            if let Err(why) = found {
                groups.missing.insert(controller, why);
            }
        }
        // They are made again with the first pod, and go with the last.
        for hierarchy in &groups.hierarchies {
            let _has_pods = fs::remove_dir(&hierarchy.base);
        }
        groups
    }

    /// Whether the kernel enforces a controller's limits for this user, or why not.
    pub fn enforces(&self, controller: &str) -> Result<String, String> {
        match self.missing.get(controller) {
            Some(why) => Err(why.clone()),
            None => self
                .hierarchies
                .iter()
                .find(|hierarchy| hierarchy.controllers.contains(&controller))
                .map(|hierarchy| format!("cgroup v{}", if hierarchy.unified { 2 } else { 1 }))
                .ok_or_else(|| "the controller is not available".to_owned()),
        }
    }

    fn use_v1(&mut self, base: &Path, controller: &'static str) -> Result<(), String> {
        make(base)?;
        let same = |hierarchy: &&mut Hierarchy| hierarchy.base == base;
        if let Some(known) = self.hierarchies.iter_mut().find(same) {
            known.controllers.push(controller);
        } else {
            self.hierarchies.push(Hierarchy {
                base: base.into(),
                controllers: vec![controller],
                unified: false,
            });
        }
        Ok(())
    }

    fn use_v2(
        &mut self,
        root: &Path,
        own: &Path,
        name: &str,
        controller: &'static str,
    ) -> Result<(), String> {
        // The root of the hierarchy where that is allowed, since pods outlive the group of the server.
        let mut why = String::new();
        for parent in [root, own] {
            match enable(parent, controller)
                .and_then(|()| make(&parent.join(name)))
                .and_then(|()| enable(&parent.join(name), controller))
            {
                Ok(()) => {
                    let base = parent.join(name);
                    if let Some(known) = self.hierarchies.iter_mut().find(|hierarchy| hierarchy.base == base)
                    {
                        known.controllers.push(controller);
                    } else {
                        self.hierarchies.push(Hierarchy {
                            base,
                            controllers: vec![controller],
                            unified: true,
                        });
                    }
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// A pod's groups, whether they are there or not.
    pub fn of(&self, pod: &str) -> Vec<Group> {
        let group = |hierarchy: &Hierarchy| {
            let dir = hierarchy.base.join(pod);
            // A process that moves itself, alone, need not wait for all others: v1 has a file for that.
            let file = if hierarchy.unified { "cgroup.procs" } else { "tasks" };
            Group { agent: dir.join("agent").join(file), tools: dir.join("tools").join(file), dir }
        };
        self.hierarchies.iter().map(group).collect()
    }

    /// Makes a pod's groups and sets their limits.
    pub fn create(&self, pod: &str, limits: &Limits) -> io::Result<()> {
        for hierarchy in &self.hierarchies {
            let dir = hierarchy.base.join(pod);
            // The end of what was the last pod may take the parent away in between.
            let is_final = |result: &io::Result<()>| !matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound);
            let mut tries = (0..MAKE_TRIES_MAX).map(|_| hierarchy.make(&dir));
            tries.find(is_final).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?;
            for controller in &hierarchy.controllers {
                for (path, value) in settings(controller, hierarchy.unified, limits) {
                    match fs::write(dir.join(path), value) {
                        // Swap, and what is in TCP sockets, are not counted on every kernel.
                        Err(error)
                            if error.kind() == io::ErrorKind::NotFound
                                && ["sw", "tcp"].iter().any(|part| path.contains(part)) => {}
                        other => other?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Directories of this driver's pods in each hierarchy, wanted or not.
    pub fn pods(&self) -> Vec<PathBuf> {
        let of = |hierarchy: &Hierarchy| fs::read_dir(&hierarchy.base).into_iter().flatten().flatten();
        let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        self.hierarchies.iter().flat_map(of).filter(is_dir).map(|entry| entry.path()).collect()
    }
}

impl Hierarchy {
    /// All pods together weigh as much as a busy process on each CPU; by default it would be one in all.
    fn weigh(&self) -> io::Result<()> {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (file, weight) = if self.unified {
            ("cpu.weight", (100 * cpus).min(10_000))
        } else {
            ("cpu.shares", (1024 * cpus).min(262_144))
        };
        fs::write(self.base.join(file), weight.to_string())
    }

    /// Makes a pod's group and those below it.
    fn make(&self, dir: &Path) -> io::Result<()> {
        for path in [&self.base, dir, &dir.join("agent"), &dir.join("tools")] {
            match fs::create_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Ok(()) if *path == *self.base && self.controllers.contains(&"cpu") => self.weigh()?,
                other => other?,
            }
            // v2: a group's children have the controllers that it grants them.
            if self.unified && (*path == *self.base || path == dir) {
                let all: Vec<String> = self.controllers.iter().map(|one| format!("+{one}")).collect();
                fs::write(path.join("cgroup.subtree_control"), all.join(" "))?;
            }
        }
        Ok(())
    }
}

/// Under cgroup v1, tools may have this part of their memory once more in TCP sockets.
const TCP_PART: u64 = 8;

/// Bytes of memory that a pod's tools get together.
pub fn tools_memory(limits: &Limits) -> u64 {
    limits.memory_bytes - AGENT_MEMORY_BYTES.min(limits.memory_bytes / 4)
}

/// Processes and threads that a pod's tools get together.
pub fn tools_processes(limits: &Limits) -> u64 {
    u64::from(limits.processes - AGENT_PROCESSES.min(limits.processes / 4))
}

/// Files and values that set a controller's limits, relative to the pod's group.
fn settings(controller: &str, unified: bool, limits: &Limits) -> Vec<(&'static str, String)> {
    let memory = limits.memory_bytes;
    let tools_memory = tools_memory(limits);
    let processes = u64::from(limits.processes);
    let tools_processes = tools_processes(limits);
    let quota = u64::from(limits.cpu_millis) * CPU_PERIOD_US / 1000;
    let settings = match (controller, unified) {
        ("memory", true) => {
            vec![("memory.max", memory), ("memory.swap.max", 0), ("tools/memory.max", tools_memory)]
        }
        ("memory", false) => vec![
            ("memory.limit_in_bytes", memory),
            ("memory.memsw.limit_in_bytes", memory),
            ("tools/memory.limit_in_bytes", tools_memory),
            ("tools/memory.memsw.limit_in_bytes", tools_memory),
            // What waits in TCP sockets is counted apart there, and by nobody unless it has a limit.
            ("tools/memory.kmem.tcp.limit_in_bytes", tools_memory / TCP_PART),
        ],
        ("pids", _) => vec![("pids.max", processes), ("tools/pids.max", tools_processes)],
        // Among pods, each weighs as much as it may use. In a pod, the agent alone weighs as much as all tools, so that it
        // gets its turn also when they are busy.
        ("cpu", true) => {
            let weight = (limits.cpu_millis / 10).clamp(1, 10_000);
            return vec![("cpu.max", format!("{quota} {CPU_PERIOD_US}")), ("cpu.weight", weight.to_string())];
        }
        ("cpu", false) => {
            vec![
                ("cpu.cfs_period_us", CPU_PERIOD_US),
                ("cpu.cfs_quota_us", quota),
                ("cpu.shares", u64::from(limits.cpu_millis) * 1024 / 1000),
            ]
        }
        _ => vec![],
    };
    settings.into_iter().map(|(file, value)| (file, value.to_string())).collect()
}

/// Removes a pod's groups, after killing what may be left in them, and the driver's when no pod has any.
pub fn remove(dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    for path in [dir.join("agent"), dir.join("tools"), dir.to_owned()] {
        loop {
            match fs::remove_dir(&path) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => kill_all(&path),
            }
        }
    }
    if let Some(base) = dir.parent() {
        let _has_pods = fs::remove_dir(base);
    }
    Ok(())
}

fn kill_all(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)) {
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    std::thread::sleep(Duration::from_millis(1));
}

fn make(path: &Path) -> Result<(), String> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!(
            "no control group may be made below {}: {error}",
            path.parent().unwrap_or(path).display()
        )),
        // There already: may this user make groups in it?
        _ => rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(|errno| {
            format!("{} belongs to another user: {}", path.display(), io::Error::from(errno))
        }),
    }
}

fn enable(group: &Path, controller: &str) -> Result<(), String> {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    if !available.split_whitespace().any(|one| one == controller) {
        return Err(format!("the controller is not available in {}", group.display()));
    }
    let file = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    if enabled.split_whitespace().any(|one| one == controller) {
        return Ok(());
    }
    fs::write(&file, format!("+{controller}"))
        .map_err(|error| format!("{} cannot be divided: {error}", group.display()))
}

/// Mounts of `/proc/self/mountinfo`: root within the file system, mount point, type, options of the file system.
fn mounts(text: &str) -> impl Iterator<Item = (&str, &str, &str, &str)> {
    text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let (kind, _source, options) = (after.next()?, after.next()?, after.next()?);
        Some((before.next()?, before.next()?, kind, options))
    })
}

/// The caller's group in the v1 hierarchy of a controller.
fn place_v1(mountinfo: &str, own: &str, controller: &str) -> Option<PathBuf> {
    let (root, point, ..) = mounts(mountinfo).find(|(_, _, kind, options)| {
        *kind == "cgroup" && options.split(',').any(|option| option == controller)
    })?;
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next()?.split(',').any(|one| one == controller).then(|| parts.next())?
    })?;
    Some(below(point, root, path))
}

/// The root of the v2 hierarchy and the caller's group in it.
fn place_v2(mountinfo: &str, own: &str) -> Option<(PathBuf, PathBuf)> {
    let (root, point, ..) = mounts(mountinfo).find(|(_, _, kind, _)| *kind == "cgroup2")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((point.into(), below(point, root, path)))
}

fn below(point: &str, root: &str, path: &str) -> PathBuf {
    let relative = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
    Path::new(point).join(relative.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 25 0:28 /user.slice /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const OWN: &str = "5:cpu,cpuacct:/\n4:memory:/a/b\n0::/user.slice/me\n";

    #[test]
    fn a_process_finds_its_groups_in_every_hierarchy() {
        assert_eq!(place_v1(MOUNTS, OWN, "memory"), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(place_v1(MOUNTS, OWN, "cpu"), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(place_v1(MOUNTS, OWN, "pids"), None);
        let unified = Path::new("/sys/fs/cgroup/unified");
        assert_eq!(place_v2(MOUNTS, OWN), Some((unified.into(), unified.join("me"))));
    }

    #[test]
    fn tools_get_less_than_the_pod_and_never_nothing() {
        let tiny = Limits { memory_bytes: 1 << 20, processes: 4, ..Limits::default() };
        for limits in [tiny, Limits::default()] {
            for (controller, unified) in [("memory", false), ("memory", true), ("pids", true)] {
                let settings = settings(controller, unified, &limits);
                let of_pod: u64 = settings[0].1.parse().unwrap();
                let tools = settings.iter().find(|(path, _)| path.starts_with("tools/")).unwrap();
                let of_tools: u64 = tools.1.parse().unwrap();
                assert!(of_tools > 0 && of_tools < of_pod, "{controller}: {of_tools} of {of_pod}");
            }
        }
    }
}
