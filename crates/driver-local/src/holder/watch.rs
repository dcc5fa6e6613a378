//! Stands in for limits that the kernel does not enforce for this user: sums up memory and disk use now and then, and
//! kills tools that go too far. Best effort, and reported as such.
//!
//! Memory is what processes have to themselves, what they share with each other, files in memory that have no name and are
//! open or mapped, what the pod's file systems in memory hold, what waits in the buffers of its sockets, and as much as
//! its pipes may hold. Not seen are pages of a shared mapping that no process maps any more, and files in memory on their
//! way through a socket.

mod disk;
mod sockets;
mod tools;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::CString,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{MemfdFlags, Mode, OFlags, fstat, fstatvfs, ftruncate, memfd_create, openat};

use crate::plan::Plan;
use disk::Disk;
use sockets::Buffers;
use tools::{Budget, File, Open, Tool};

/// Between two looks while the pod uses little memory.
const CALM_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks while it uses more than a quarter of its limit.
const TENSE_INTERVAL: Duration = Duration::from_millis(50);
/// A look at memory waits at least this many times as long as the last one took.
const LOOK_SHARE: u32 = 10;
/// And at most so long, so that nobody gains time by making looks take long.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// Between two looks where only disk use is watched.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// A tool with less memory than this is not killed for being the largest: what is too much is not in processes.
const VICTIM_BYTES_MIN: u64 = 4 << 20;
/// Bytes that the agent's log may have before it is emptied.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Bytes for entries of a directory that are read at once.
const ENTRY_BYTES: usize = 4096;
/// Bytes of the kernel's for a file in memory and its name; it counts attributes of files as so many files of this size.
const INODE_BYTES: u64 = 1 << 10;
/// Of the files whose events a user may wait for by epoll, a pod's tools may have one part in so many.
const AWAITED_PART: u64 = 16;
/// So few are nobody's concern.
const AWAITED_MIN: u64 = 4096;
/// Bytes of a pipe, at most: the filter of calls lets nobody give it another size.
const PIPE_BYTES: u64 = 64 << 10;
/// Pages of each further pipe of a user who has as many pages in pipes as the machine allows.
const PIPE_PAGES_MIN: u64 = 2;
/// A look at sockets waits at least this many times as long as the last one took.
const SOCKETS_SHARE: u32 = 50;
/// File systems in memory, as the pod's first process sees them.
const IN_MEMORY: &[&str] = &["1/root/tmp", "1/root/dev/shm"];

/// Watches one pod.
pub struct Watch {
    memory: Option<Memory>,
    disk: Option<Disk>,
    next: Instant,
}

struct Memory {
    max: u64,
    page_bytes: u64,
    /// The device that files in memory are on.
    device: Option<u64>,
    /// At the last look.
    used: u64,
    sockets: Buffers,
    next_sockets: Instant,
}

/// Where the kernel tells of a pod.
pub struct Sources<'a> {
    /// The pod's `/proc`.
    pub proc: &'a OwnedFd,
    /// On which it is asked about sockets in the pod's network.
    pub diagnosis: &'a OwnedFd,
}

impl Watch {
    /// Watches what the plan says. `files` is relative to the current directory.
    pub fn new(plan: &Plan, files: &Path) -> Self {
        let device = memfd_create("watch", MemfdFlags::CLOEXEC).and_then(fstat).ok().map(|stat| stat.st_dev);
        Self {
            memory: plan.watch_memory.then(|| Memory::new(plan.limits.memory_bytes, device)),
            disk: plan.watch_disk.then(|| Disk::new(plan.limits.disk_bytes, files, device)),
            // A pod that just came has used nothing yet, and its first command shall not wait.
            next: Instant::now() + CALM_INTERVAL,
        }
    }

    /// When to look again.
    pub fn next(&self) -> Option<Instant> {
        (self.memory.is_some() || self.disk.is_some()).then_some(self.next)
    }

    /// Looks, when it is time.
    pub fn look(&mut self, sources: &Sources<'_>, log: &OwnedFd) {
        let proc = sources.proc;
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let mut interval = DISK_INTERVAL;
        if let Some(memory) = &mut self.memory {
            let tense = memory.look(sources) > memory.max / 4;
            let tense_interval = (now.elapsed() * LOOK_SHARE).clamp(TENSE_INTERVAL, LOOK_INTERVAL_MAX);
            interval = if tense { tense_interval } else { CALM_INTERVAL };
        }
        if let Some(disk) = &mut self.disk
            && disk.grew_too_far(now, proc)
        {
            tools::kill_all(proc);
        }
        if fstat(log).is_ok_and(|stat| u64::try_from(stat.st_size).unwrap_or(0) > LOG_BYTES_MAX) {
            let _full = ftruncate(log, 0);
        }
        self.next = Instant::now() + interval;
    }
}

/// One process's part, in bytes. It is named and not held open: there may be more processes than descriptors.
struct Part {
    name: CString,
    /// To itself, or with the processes it forked into until they write.
    own: u64,
    /// Shared with other processes or with files in memory, each page counted for all who map it.
    shared: u64,
    /// What it maps and may share.
    mapped: u64,
    /// Files in memory without a name that it has.
    files: u64,
    /// What its pipes may hold, and what its sockets do.
    buffers: u64,
    /// Files whose events it waits for by epoll.
    awaited: u64,
}

/// What all tools have.
#[derive(Default)]
struct Seen {
    parts: Vec<Part>,
    files: Files,
    pipes: u64,
    /// Whether any has a socket.
    sockets: bool,
}

/// Files in memory without a name.
#[derive(Default)]
struct Files {
    seen: BTreeSet<File>,
    bytes: u64,
}

impl Memory {
    fn new(max: u64, device: Option<u64>) -> Self {
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let (sockets, next_sockets) = (Buffers::default(), Instant::now());
        Self { max, page_bytes, device, used: 0, sockets, next_sockets }
    }

    /// The pod's memory in bytes, rather too much than too little; kills the largest tool when it is above the limit.
    fn look(&mut self, sources: &Sources<'_>) -> u64 {
        let proc = sources.proc;
        let mut budget = Budget::new();
        let Seen { mut parts, mut files, pipes, sockets } = self.see(proc, &mut budget);
        contain_awaited(proc, &parts);
        self.look_at_sockets(sources, sockets);
        let named = IN_MEMORY.iter().map(|place| on_file_system(proc, place)).fold(0, u64::saturating_add);
        let buffers = self.sockets.all.saturating_add(self.in_pipes(proc, pipes));
        let sum = |parts: &[Part], of: fn(&Part) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
        let touched = sum(&parts, |part| part.own.saturating_add(part.shared));
        let at_most =
            |files: &Files| [touched, named, buffers, files.bytes].into_iter().fold(0, u64::saturating_add);
        if at_most(&files).saturating_add(sum(&parts, |part| part.mapped)) > self.max {
            // Files may be in memory that are mapped, and not touched where they are mapped.
            self.add_mapped(proc, &mut budget, &mut parts, &mut files);
        }
        let most = at_most(&files);
        if most > self.max {
            // Only now it is worth asking the kernel for each process's share, which costs it a walk over their pages.
            for part in &mut parts {
                let Some(tool) = Tool::find(proc, &part.name) else {
                    (part.own, part.shared) = (0, 0);
                    continue;
                };
                (part.own, part.shared) = tool.share();
                part.buffers = self.buffers_of(&tool);
            }
            // What is mapped may be what is counted as a file: the greater of both is certain.
            let outside = named.saturating_add(files.bytes);
            let own = sum(&parts, |part| part.own);
            let used = own.saturating_add(outside.max(sum(&parts, |part| part.shared)));
            self.contain(proc, &parts, used.saturating_add(buffers));
        } else {
            self.used = most;
        }
        most
    }

    /// What all tools have. Kills those of which that cannot be told.
    fn see(&self, proc: &OwnedFd, budget: &mut Budget) -> Seen {
        let mut seen = Seen::default();
        let mut pipes = BTreeSet::new();
        tools::for_each(proc, |tool, name| {
            let (mut held, mut awaited) = (0_u64, 0_u64);
            let known = tool.open_files(budget, |open| match open {
                Open::Nameless(file, bytes) if Some(file.device) == self.device => {
                    held = held.saturating_add(bytes);
                    if seen.files.seen.insert(file) {
                        seen.files.bytes = seen.files.bytes.saturating_add(bytes);
                    }
                }
                Open::Nameless(..) => {}
                Open::Pipe(pipe) => {
                    pipes.insert(pipe);
                }
                Open::Socket(_) => seen.sockets = true,
                Open::Epoll(files) => awaited = awaited.saturating_add(files),
            });
            let size = tool.size(self.page_bytes);
            if known.is_err() || (size.own == 0 && tool.is_hidden()) {
                tool.kill_unless_supervisor();
            }
            let (own, shared, mapped) = (size.own, size.shared, size.mapped);
            let name = name.to_owned();
            seen.parts.push(Part { name, own, shared, mapped, files: held, buffers: 0, awaited });
        });
        seen.pipes = u64::try_from(pipes.len()).unwrap_or(u64::MAX);
        seen
    }

    /// Where no tool has a socket there is none of a tool's, for those that are on their way are on it through one; but for
    /// those that were closed before all was sent.
    fn look_at_sockets(&mut self, sources: &Sources<'_>, any: bool) {
        let began = Instant::now();
        let some = any || self.sockets.all > 0;
        if some && began >= self.next_sockets {
            self.sockets = Buffers::look(sources.diagnosis, sources.proc, self.page_bytes, self.max);
            let wait = (began.elapsed() * SOCKETS_SHARE).min(LOOK_INTERVAL_MAX);
            self.next_sockets = Instant::now() + wait;
        }
    }

    /// Bytes that so many pipes may hold. How many they do hold can be known by opening them alone, which whoever waits
    /// for the other end would notice.
    fn in_pipes(&self, proc: &OwnedFd, pipes: u64) -> u64 {
        let all = pipes.saturating_mul(PIPE_BYTES);
        if all <= self.max / 16 {
            return all;
        }
        let most = tools::read(proc, "sys/fs/pipe-user-pages-soft").trim().parse().unwrap_or(0_u64);
        let pages = most.saturating_add(pipes.saturating_mul(PIPE_PAGES_MIN));
        if most == 0 { all } else { all.min(pages.saturating_mul(self.page_bytes)) }
    }

    fn buffers_of(&self, tool: &Tool) -> u64 {
        let mut bytes = 0_u64;
        // What is counted for nobody makes nobody the largest.
        let _too_many = tool.open_files(&mut Budget::new(), |open| {
            bytes = bytes.saturating_add(match open {
                Open::Nameless(..) | Open::Epoll(_) => 0,
                // A pipe has two ends.
                Open::Pipe(_) => PIPE_BYTES / 2,
                Open::Socket(inode) => self.sockets.by_inode.get(&inode).copied().unwrap_or(0),
            });
        });
        bytes
    }

    /// Adds files in memory that are mapped and not open anywhere.
    fn add_mapped(&self, proc: &OwnedFd, budget: &mut Budget, parts: &mut [Part], files: &mut Files) {
        let mut mapped = BTreeMap::new();
        for part in parts {
            let Some(tool) = Tool::find(proc, &part.name) else { continue };
            let mut of_tool = BTreeMap::new();
            let known = tool.mapped_files(
                budget,
                |device| Some(device) == self.device,
                |file, bytes| {
                    let most = of_tool.entry(file).or_insert(0);
                    *most = bytes.max(*most);
                },
            );
            if known.is_err() {
                tool.kill_unless_supervisor();
            }
            for (file, bytes) in of_tool.into_iter().filter(|(file, _)| !files.seen.contains(file)) {
                part.files = part.files.saturating_add(bytes);
                let most = mapped.entry(file).or_insert(0);
                *most = bytes.max(*most);
            }
        }
        files.bytes = mapped.into_values().fold(files.bytes, u64::saturating_add);
    }

    fn contain(&mut self, proc: &OwnedFd, parts: &[Part], used: u64) {
        let grew = used > self.used;
        self.used = used;
        if used <= self.max {
            return;
        }
        let size =
            |part: &Part| part.own.saturating_add(part.shared.max(part.files)).saturating_add(part.buffers);
        match parts.iter().max_by_key(|part| size(part)).filter(|part| size(part) >= VICTIM_BYTES_MIN) {
            Some(largest) => {
                if let Some(tool) = Tool::find(proc, &largest.name) {
                    tool.kill();
                }
            }
            // It is in named files: one may still remove them, and not add to them.
            None if grew => tools::kill_all(proc),
            None => {}
        }
    }
}

/// Kills the tool that waits for events of the most files where all together have too large a part of what the user may,
/// who may be the server's.
fn contain_awaited(proc: &OwnedFd, parts: &[Part]) {
    let all = parts.iter().map(|part| part.awaited).fold(0, u64::saturating_add);
    if all < AWAITED_MIN {
        return;
    }
    let of_user = tools::read(proc, "sys/fs/epoll/max_user_watches").trim().parse().unwrap_or(u64::MAX);
    if all > of_user / AWAITED_PART
        && let Some(most) = parts.iter().max_by_key(|part| part.awaited)
        && let Some(tool) = Tool::find(proc, &most.name)
    {
        tool.kill();
    }
}

/// Bytes used of a file system in memory, with what the kernel needs for its files.
fn on_file_system(proc: &OwnedFd, place: &str) -> u64 {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(proc, place, flags, Mode::empty()).and_then(fstatvfs).map_or(0, |stat| {
        let content = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
        let files = stat.f_files.saturating_sub(stat.f_ffree);
        content.saturating_add(files.saturating_mul(INODE_BYTES))
    })
}
