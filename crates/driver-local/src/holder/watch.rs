//! Stands in for limits that the kernel does not enforce for this user: sums up memory and disk use now and then, and
//! kills tools that go too far. Best effort, and reported as such.
//!
//! Memory is what processes have to themselves, what they share with each other, files in memory that have no name, and what
//! the pod's file systems in memory hold. Pages of a shared mapping that no process maps any more, and files in memory on
//! their way through a socket, are not seen.

mod disk;

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString},
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        AtFlags, FileType, MemfdFlags, Mode, OFlags, RawDir, Stat, fstat, fstatvfs, ftruncate, memfd_create,
        openat, statat,
    },
    process::{Signal, pidfd_send_signal},
};

use crate::plan::Plan;
use disk::Disk;

/// Between two looks while the pod uses little memory.
const CALM_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks while it uses more than a quarter of its limit.
const TENSE_INTERVAL: Duration = Duration::from_millis(50);
/// A look at memory waits at least this many times as long as the last one took.
const LOOK_SHARE: u32 = 10;
/// Between two looks where only disk use is watched.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Descriptors of one process that one look looks at, at most.
const DESCRIPTORS_MAX: usize = 4096;
/// A tool with less memory than this is not killed for being the largest: what is too much is not in processes.
const VICTIM_BYTES_MIN: u64 = 4 << 20;
/// Bytes that the agent's log may have before it is emptied.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Bytes for entries of a directory that are read at once.
const ENTRY_BYTES: usize = 4096;
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
}

impl Watch {
    /// Watches what the plan says. `files` is relative to the current directory.
    pub fn new(plan: &Plan, files: &Path) -> Self {
        Self {
            memory: plan.watch_memory.then(|| Memory::new(plan.limits.memory_bytes)),
            disk: plan.watch_disk.then(|| Disk::new(plan.limits.disk_bytes, files)),
            // A pod that just came has used nothing yet, and its first command shall not wait.
            next: Instant::now() + CALM_INTERVAL,
        }
    }

    /// When to look again.
    pub fn next(&self) -> Option<Instant> {
        (self.memory.is_some() || self.disk.is_some()).then_some(self.next)
    }

    /// Looks, when it is time. `proc` is the pod's `/proc`.
    pub fn look(&mut self, proc: &OwnedFd, log: &OwnedFd) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let mut interval = DISK_INTERVAL;
        if let Some(memory) = &mut self.memory {
            let tense = memory.look(proc) > memory.max / 4;
            interval = if tense { TENSE_INTERVAL.max(now.elapsed() * LOOK_SHARE) } else { CALM_INTERVAL };
        }
        if let Some(disk) = &mut self.disk
            && disk.grew_too_far(now, proc)
        {
            kill_tools(proc);
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
    /// Files in memory without a name that it holds open.
    files: u64,
}

impl Memory {
    fn new(max: u64) -> Self {
        let device = memfd_create("watch", MemfdFlags::CLOEXEC).and_then(fstat).ok().map(|stat| stat.st_dev);
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Self { max, page_bytes, device, used: 0 }
    }

    /// The pod's memory in bytes, rather too much than too little; kills the largest tool when it is above the limit.
    fn look(&mut self, proc: &OwnedFd) -> u64 {
        let mut files = BTreeSet::new();
        let mut file_bytes = 0_u64;
        let mut parts = Vec::new();
        for_each_tool(proc, |process, name| {
            let mut held = 0_u64;
            nameless(&process, |stat| {
                if Some(stat.st_dev) == self.device {
                    let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                    held = held.saturating_add(bytes);
                    if files.insert(stat.st_ino) {
                        file_bytes = file_bytes.saturating_add(bytes);
                    }
                }
            });
            let (own, shared) = resident(&process, self.page_bytes);
            parts.push(Part { name: name.to_owned(), own, shared, files: held });
        });
        let named = IN_MEMORY.iter().map(|place| on_file_system(proc, place));
        let outside = named.fold(file_bytes, u64::saturating_add);
        let sum = |parts: &[Part], of: fn(&Part) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
        let own = sum(&parts, |part| part.own);
        let most = own.saturating_add(outside).saturating_add(sum(&parts, |part| part.shared));
        if most > self.max {
            // Only now it is worth asking the kernel for each process's share, which costs it a walk over their pages.
            for part in &mut parts {
                (part.own, part.shared) = tool(proc, &part.name).map_or((0, 0), |process| share(&process));
            }
            // What is mapped may be what is counted as a file: the greater of both is certain.
            let own = sum(&parts, |part| part.own);
            let used = own.saturating_add(outside.max(sum(&parts, |part| part.shared)));
            self.contain(proc, &parts, used);
        } else {
            self.used = most;
        }
        most
    }

    fn contain(&mut self, proc: &OwnedFd, parts: &[Part], used: u64) {
        let grew = used > self.used;
        self.used = used;
        if used <= self.max {
            return;
        }
        let size = |part: &Part| part.own.saturating_add(part.shared.max(part.files));
        match parts.iter().max_by_key(|part| size(part)).filter(|part| size(part) >= VICTIM_BYTES_MIN) {
            Some(largest) => {
                let _gone = tool(proc, &largest.name).map(|process| pidfd_send_signal(process, Signal::KILL));
            }
            // It is in named files: one may still remove them, and not add to them.
            None if grew => kill_tools(proc),
            None => {}
        }
    }
}

/// Kills every tool but the supervisors of commands.
fn kill_tools(proc: &OwnedFd) {
    for_each_tool(proc, |process, _| {
        if parent(&process) != Some(0) {
            let _gone = pidfd_send_signal(process, Signal::KILL);
        }
    });
}

/// Bytes used of a file system.
fn on_file_system(proc: &OwnedFd, place: &str) -> u64 {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(proc, place, flags, Mode::empty())
        .and_then(fstatvfs)
        .map_or(0, |stat| stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize))
}

/// The parent of a process; 0 for supervisors of commands, whose parent is the holder.
fn parent(process: &OwnedFd) -> Option<i32> {
    let text = read(process, "stat");
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn read(process: &OwnedFd, name: &str) -> String {
    let mut buffer = [0; 4096];
    let read = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut buffer));
    String::from_utf8_lossy(buffer.get(..read.unwrap_or(0)).unwrap_or_default()).into_owned()
}

/// The number of a line `name: number kB`, in bytes.
fn bytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes =
        line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes.saturating_mul(1024))
}

/// Bytes that a process has in memory: to itself, and shared with others but no file on disk.
fn resident(process: &OwnedFd, page_bytes: u64) -> (u64, u64) {
    let text = read(process, "statm");
    let mut words = text.split(' ').skip(1).filter_map(|word| word.trim().parse::<u64>().ok());
    let (all, with_files) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    let own = all.saturating_sub(with_files).saturating_mul(page_bytes);
    // Most share nothing but the pages of programs; the longer file need not be read for small ones.
    let shared = if with_files == 0 { 0 } else { bytes_of(&read(process, "status"), "RssShmem") };
    (own, shared)
}

/// The same, each page divided among those who map it.
fn share(process: &OwnedFd) -> (u64, u64) {
    let text = read(process, "smaps_rollup");
    (bytes_of(&text, "Pss_Anon"), bytes_of(&text, "Pss_Shmem"))
}

/// Every regular file without a name that a process holds open.
fn nameless(process: &OwnedFd, mut visit: impl FnMut(&Stat)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(open) = openat(process, "fd", flags, Mode::empty()) else { return };
    let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
    let mut entries = RawDir::new(&open, &mut buffer);
    for _ in 0..DESCRIPTORS_MAX {
        let Some(Ok(entry)) = entries.next() else { return };
        if let Ok(stat) = statat(&open, entry.file_name(), AtFlags::empty())
            && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_nlink == 0
        {
            visit(&stat);
        }
    }
}

/// Every process of the pod but the first, as a directory of `/proc`, which can be signalled like a pidfd.
fn for_each_tool(proc: &OwnedFd, mut visit: impl FnMut(OwnedFd, &CStr)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = openat(proc, ".", flags, Mode::empty()) else { return };
    let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if !name.iter().all(u8::is_ascii_digit) || name == b"1" {
            continue;
        }
        if let Some(process) = tool(proc, entry.file_name()) {
            visit(process, entry.file_name());
        }
    }
}

/// The directory of a process.
fn tool(proc: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(proc, name, flags, Mode::empty()).ok()
}
