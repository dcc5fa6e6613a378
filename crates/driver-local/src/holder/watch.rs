//! Stands in for limits that the kernel does not enforce for this user: sums up memory and disk use now and then, and
//! kills tools that go too far. Best effort, and reported as such.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, ftruncate, openat, statat, statvfs},
    io::Errno,
    process::{Signal, pidfd_send_signal},
};

use crate::plan::Plan;

/// Between two looks while the pod uses little memory.
const CALM_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks while it uses more than a quarter of its limit.
const TENSE_INTERVAL: Duration = Duration::from_millis(50);
/// Between two looks where only disk use is watched.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// A walk over the files waits at least this many times as long as the last one took.
const WALK_SHARE: u32 = 20;
/// Walks over the files are at most this far apart.
const WALK_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Files that one walk looks at, at most; a pod with more is counted too low.
const WALK_FILES_MAX: u64 = 2_000_000;
/// Files without a name that one look counts, at most.
const UNLINKED_FILES_MAX: usize = 4096;
/// Depth of directories that a walk enters, at most.
const WALK_DEPTH_MAX: u32 = 128;
/// Bytes that the agent's log may have before it is emptied.
const LOG_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a page of the smallest size; figures in /proc are in pages.
const ENTRY_BYTES: usize = 4096;

/// Watches one pod.
pub struct Watch {
    memory_max: Option<u64>,
    disk: Option<Disk>,
    next: Instant,
    page_bytes: u64,
}

struct Disk {
    max: u64,
    files: PathBuf,
    free_at_walk: u64,
    used: u64,
    next_walk: Instant,
    earliest_walk: Instant,
}

impl Watch {
    /// Watches what the plan says. `files` is relative to the current directory.
    pub fn new(plan: &Plan, files: &Path) -> Self {
        let now = Instant::now();
        let disk = plan.watch_disk.then(|| Disk {
            max: plan.limits.disk_bytes,
            files: files.to_owned(),
            free_at_walk: 0,
            used: 0,
            next_walk: now,
            earliest_walk: now,
        });
        let page_bytes = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Self {
            memory_max: plan.watch_memory.then_some(plan.limits.memory_bytes),
            disk,
            // A pod that just came has used nothing yet, and its first command shall not wait.
            next: now + CALM_INTERVAL,
            page_bytes,
        }
    }

    /// When to look again.
    pub fn next(&self) -> Option<Instant> {
        (self.memory_max.is_some() || self.disk.is_some()).then_some(self.next)
    }

    /// Looks, when it is time. `proc` is the pod's `/proc`.
    pub fn look(&mut self, proc: &OwnedFd, log: &OwnedFd) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let mut interval = DISK_INTERVAL;
        if let Some(max) = self.memory_max {
            let tense = look_at_memory(proc, max, self.page_bytes) > max / 4;
            interval = if tense { TENSE_INTERVAL } else { CALM_INTERVAL };
        }
        if let Some(disk) = &mut self.disk
            && disk.grew_too_far(now, proc)
        {
            for_each_tool(proc, |process| {
                if parent(&process) != Some(0) {
                    let _gone = pidfd_send_signal(process, Signal::KILL);
                }
            });
        }
        if fstat(log).is_ok_and(|stat| u64::try_from(stat.st_size).unwrap_or(0) > LOG_BYTES_MAX) {
            let _full = ftruncate(log, 0);
        }
        self.next = Instant::now() + interval;
    }
}

/// The pod's memory in bytes; kills the largest tool when it is above the limit.
fn look_at_memory(proc: &OwnedFd, max: u64, page_bytes: u64) -> u64 {
    let mut sum = 0;
    let mut largest: Option<(u64, OwnedFd)> = None;
    for_each_tool(proc, |process| {
        let bytes = resident_pages(&process).saturating_mul(page_bytes);
        sum += bytes;
        if largest.as_ref().is_none_or(|(most, _)| *most < bytes) {
            largest = Some((bytes, process));
        }
    });
    if let Some((_, process)) = largest
        && sum > max
    {
        let _gone = pidfd_send_signal(process, Signal::KILL);
    }
    sum
}

/// The parent of a process; 0 for supervisors of commands, whose parent is the holder.
fn parent(process: &OwnedFd) -> Option<i32> {
    let text = read(process, "stat");
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn read(process: &OwnedFd, name: &str) -> String {
    let mut buffer = [0; 512];
    let read = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut buffer));
    String::from_utf8_lossy(buffer.get(..read.unwrap_or(0)).unwrap_or_default()).into_owned()
}

/// Pages that a process has in memory and shares with no file.
fn resident_pages(process: &OwnedFd) -> u64 {
    let text = read(process, "statm");
    let mut words = text.split(' ').skip(1).filter_map(|word| word.trim().parse::<u64>().ok());
    let (resident, shared) = (words.next().unwrap_or(0), words.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

/// Every process of the pod but the first, as a directory of `/proc`, which can be signalled like a pidfd.
fn for_each_tool(proc: &OwnedFd, mut visit: impl FnMut(OwnedFd)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = openat(proc, ".", flags, Mode::empty()) else { return };
    let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_bytes();
        if !name.iter().all(u8::is_ascii_digit) || name == b"1" {
            continue;
        }
        if let Ok(process) = openat(proc, entry.file_name(), flags, Mode::empty()) {
            visit(process);
        }
    }
}

impl Disk {
    /// Whether the workspace's files are above the limit and more than at the last look.
    fn grew_too_far(&mut self, now: Instant, proc: &OwnedFd) -> bool {
        let free = statvfs(&self.files).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        let fell = self.free_at_walk.saturating_sub(free) >= (self.max / 16).max(1 << 20);
        if now < self.earliest_walk || (!fell && now < self.next_walk) {
            return false;
        }
        let before = self.used;
        let mut files_left = WALK_FILES_MAX;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        self.used = rustix::fs::open(&self.files, flags, Mode::empty())
            .map_or(0, |directory| walk(directory.as_fd(), WALK_DEPTH_MAX, &mut files_left))
            .saturating_add(unlinked(proc));
        self.free_at_walk = free;
        self.earliest_walk = Instant::now() + now.elapsed() * WALK_SHARE;
        self.next_walk = now + WALK_INTERVAL_MAX;
        // At the limit, one may still remove files.
        self.used > self.max && self.used > before
    }
}

/// Bytes of files that tools hold open and that no directory names any more, files in memory included.
fn unlinked(proc: &OwnedFd) -> u64 {
    let mut seen = BTreeSet::new();
    let mut bytes = 0_u64;
    for_each_tool(proc, |process| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(open) = openat(&process, "fd", flags, Mode::empty()) else { return };
        let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
        let mut entries = RawDir::new(&open, &mut buffer);
        while let Some(Ok(entry)) = entries.next()
            && seen.len() < UNLINKED_FILES_MAX
        {
            if let Ok(stat) = statat(&open, entry.file_name(), AtFlags::empty())
                && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_nlink == 0
                && seen.insert((stat.st_dev, stat.st_ino))
            {
                bytes = bytes.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512));
            }
        }
    });
    bytes
}

/// Bytes on disk below a directory.
fn walk(directory: std::os::fd::BorrowedFd<'_>, depth: u32, files_left: &mut u64) -> u64 {
    let mut bytes = 0_u64;
    let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
    let mut entries = RawDir::new(directory, &mut buffer);
    loop {
        let (name, is_directory) = match entries.next() {
            None | Some(Err(_)) => return bytes,
            Some(Ok(entry)) => (entry.file_name().to_owned(), entry.file_type() == FileType::Directory),
        };
        if matches!(name.to_bytes(), b"." | b"..") || *files_left == 0 {
            continue;
        }
        *files_left -= 1;
        if let Ok(stat) = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        }
        if is_directory && depth > 0 {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let inner: Result<OwnedFd, Errno> = openat(directory, &name, flags, Mode::empty());
            bytes += inner.map_or(0, |inner| walk(inner.as_fd(), depth - 1, files_left));
        }
    }
}
