//! Sums up a workspace's files: bytes, and how many there are.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, openat, statat, statvfs};

use super::{
    ENTRY_BYTES,
    tools::{self, Budget},
};

/// A walk over the files waits at least this many times as long as the last one took.
const WALK_SHARE: u32 = 20;
/// Walks over the files are at most this far apart.
const WALK_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// Of the limit in bytes, what stands for one file, as file systems reckon when they are made.
const BYTES_PER_FILE: u64 = 16 * 1024;
/// Files that a workspace may have however small its limit.
const FILES_MIN: u64 = 16 * 1024;
/// Levels of directories that are open at a time.
const OPEN_DEPTH_MAX: u32 = 64;
/// Directories so deep that they wait to be walked by themselves, at most; a workspace with more is taken for too large.
const DEEP_DIRECTORIES_MAX: usize = 64;

/// What one walk found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Used {
    bytes: u64,
    files: u64,
}

/// The watch over a workspace's files.
pub struct Disk {
    bytes_max: u64,
    files_max: u64,
    place: PathBuf,
    /// The device that files in memory are on.
    memory: Option<u64>,
    free_at_walk: Used,
    used: Used,
    next_walk: Instant,
    earliest_walk: Instant,
}

impl Disk {
    pub fn new(bytes_max: u64, place: &Path, memory: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            bytes_max,
            files_max: (bytes_max / BYTES_PER_FILE).max(FILES_MIN),
            place: place.to_owned(),
            memory,
            free_at_walk: Used::default(),
            used: Used::default(),
            next_walk: now,
            earliest_walk: now,
        }
    }

    /// Whether the workspace's files are above a limit and more than at the last look.
    pub fn grew_too_far(&mut self, now: Instant, proc: &OwnedFd) -> bool {
        let free = statvfs(&self.place).map_or_else(
            |_| Used::default(),
            |stat| Used { bytes: stat.f_bavail.saturating_mul(stat.f_frsize), files: stat.f_ffree },
        );
        let fell = self.free_at_walk.bytes.saturating_sub(free.bytes) >= (self.bytes_max / 16).max(1 << 20)
            || self.free_at_walk.files.saturating_sub(free.files) >= self.files_max / 16;
        if now < self.earliest_walk || (!fell && now < self.next_walk) {
            return false;
        }
        let before = self.used;
        let mut walk =
            Walk { used: Used::default(), files_max: self.files_max, deep: Vec::new(), is_lost: false };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Ok(directory) = rustix::fs::open(&self.place, flags, Mode::empty()) {
            walk.all(directory);
        }
        self.used = walk.used;
        self.used.bytes = self.used.bytes.saturating_add(unlinked(proc, self.memory));
        self.free_at_walk = free;
        self.earliest_walk = Instant::now() + now.elapsed() * WALK_SHARE;
        self.next_walk = now + WALK_INTERVAL_MAX;
        // At the limit, one may still remove files. A walk ends at the limit of files, and so cannot tell how many more
        // there are than before: then what is free must not have fallen.
        let grew = self.used.bytes > before.bytes || self.used.files > before.files || fell;
        let is_above = self.used.bytes > self.bytes_max || self.used.files > self.files_max || walk.is_lost;
        is_above && grew
    }
}

/// One walk over the files.
struct Walk {
    used: Used,
    files_max: u64,
    /// Directories that are too deep to be entered from where they were found.
    deep: Vec<OwnedFd>,
    /// Not everything could be counted.
    is_lost: bool,
}

impl Walk {
    fn all(&mut self, directory: OwnedFd) {
        self.deep.push(directory);
        while let Some(directory) = self.deep.pop() {
            self.below(directory.as_fd(), OPEN_DEPTH_MAX);
        }
    }

    fn below(&mut self, directory: BorrowedFd<'_>, depth: u32) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while self.used.files <= self.files_max {
            let (name, is_directory) = match entries.next() {
                None | Some(Err(_)) => return,
                Some(Ok(entry)) => (entry.file_name().to_owned(), entry.file_type() == FileType::Directory),
            };
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.used.files += 1;
            if let Ok(stat) = statat(directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
                self.used.bytes = self.used.bytes.saturating_add(bytes);
            }
            if !is_directory {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let Ok(inner) = openat(directory, &name, flags, Mode::empty()) else { continue };
            if depth > 0 {
                self.below(inner.as_fd(), depth - 1);
            } else if self.deep.len() < DEEP_DIRECTORIES_MAX {
                self.deep.push(inner);
            } else {
                self.is_lost = true;
            }
        }
    }
}

/// Bytes of files that tools hold open or map and that no directory names any more, files in memory included where they
/// are open. Kills tools of which that cannot be told.
fn unlinked(proc: &OwnedFd, memory: Option<u64>) -> u64 {
    let mut budget = Budget::new();
    let mut files = BTreeMap::new();
    tools::for_each(proc, |tool, _| {
        let mut visit = |file, bytes: u64| {
            let most = files.entry(file).or_insert(0);
            *most = bytes.max(*most);
        };
        let known = tool
            .open_files(&mut budget, &mut visit)
            .and_then(|()| tool.mapped_files(&mut budget, |device| Some(device) != memory, &mut visit));
        if known.is_err() || tool.is_hidden() {
            tool.kill_unless_supervisor();
        }
    });
    files.into_values().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(place: &Path, files_max: u64) -> (Used, bool) {
        let mut walk = Walk { used: Used::default(), files_max, deep: Vec::new(), is_lost: false };
        walk.all(std::fs::File::open(place).unwrap().into());
        (walk.used, walk.is_lost)
    }

    #[test]
    fn what_lies_deep_is_counted_and_a_walk_ends_at_the_limit_of_files() {
        const DEPTH: u64 = 500;
        let dir = tempfile::tempdir().unwrap();
        let mut parent: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&parent, "d", Mode::from_raw_mode(0o755)).unwrap();
            parent = openat(&parent, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&parent, "file", flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(&file, &[1; 300_000]).unwrap();
        rustix::fs::fsync(&file).unwrap();
        let (used, is_lost) = walked(dir.path(), 10_000);
        assert!(!is_lost && used.files == DEPTH + 1 && used.bytes >= 300_000, "{used:?}");
        assert_eq!(walked(dir.path(), 100).0.files, 101);
    }
}
