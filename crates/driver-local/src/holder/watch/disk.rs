//! Sums up a workspace's files: bytes, and how many there are.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        Access, AtFlags, FileType, Mode, OFlags, RawDir, accessat, chmod, fchmod, fstat, openat, statat,
        statvfs,
    },
    io::Errno,
};

use super::{
    ENTRY_BYTES,
    tools::{self, Budget, Open},
};

/// When what is free on the file system fell, a walk over the files waits this many times as long as the last one took.
const WALK_SHARE: u32 = 20;
/// But at most so long, so that nobody gains time by making walks take long.
const WALK_WAIT_MAX: Duration = Duration::from_secs(5);
/// When nothing tells that there is more, a walk waits this many times as long as the last one took: what is free need not
/// have fallen, since others may remove files meanwhile.
const CALM_WALK_SHARE: u32 = 1000;
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
    /// What had been done in the pod when the last walk began.
    activity: Option<u64>,
}

/// How long nobody walks after a walk that took so long: when what is free fell, and when nothing tells that there is more.
fn waits(took: Duration) -> (Duration, Duration) {
    ((took * WALK_SHARE).min(WALK_WAIT_MAX), (took * CALM_WALK_SHARE).min(WALK_INTERVAL_MAX))
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
            activity: None,
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
        let activity = Some(tools::activity(proc));
        if !fell && self.activity == activity {
            // Nobody ran, so nobody wrote.
            self.next_walk = now + WALK_WAIT_MAX;
            return false;
        }
        self.activity = activity;
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
        let (now, (earliest, next)) = (Instant::now(), waits(now.elapsed()));
        (self.earliest_walk, self.next_walk) = (now + earliest, now + next);
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
    deep: Vec<Opened>,
    /// Not everything could be counted.
    is_lost: bool,
}

impl Walk {
    fn all(&mut self, directory: OwnedFd) {
        self.deep.push(Opened { directory, was: None });
        while let Some(directory) = self.deep.pop() {
            self.below(directory.directory.as_fd(), OPEN_DEPTH_MAX);
        }
    }

    fn below(&mut self, directory: BorrowedFd<'_>, depth: u32) {
        let mut buffer = [std::mem::MaybeUninit::uninit(); ENTRY_BYTES];
        let mut entries = RawDir::new(directory, &mut buffer);
        while self.used.files <= self.files_max {
            let (name, is_directory) = match entries.next() {
                // A directory that was removed meanwhile has nothing.
                None | Some(Err(Errno::NOENT)) => return,
                Some(Err(_)) => {
                    self.is_lost = true;
                    return;
                }
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
            match Opened::at(directory, &name) {
                Ok(inner) if depth > 0 => self.below(inner.directory.as_fd(), depth - 1),
                Ok(inner) if self.deep.len() < DEEP_DIRECTORIES_MAX => self.deep.push(inner),
                // It went, or became something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Ok(_) | Err(_) => self.is_lost = true,
            }
        }
    }
}

/// A directory that is open to this user while this lives. A tool that is the same user may have closed it, and may
/// still write to files in it.
struct Opened {
    directory: OwnedFd,
    /// The mode it had, where it was closed, and the one it has.
    was: Option<(Mode, Mode)>,
}

impl Opened {
    fn at(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = openat(parent, name, flags | OFlags::RDONLY, Mode::empty());
        let may_search = |directory: &OwnedFd| accessat(directory, ".", Access::EXEC_OK, AtFlags::EACCESS);
        match opened.and_then(|directory| may_search(&directory).map(|()| directory)) {
            Ok(directory) => return Ok(Self { directory, was: None }),
            Err(Errno::ACCESS) => {}
            Err(errno) => return Err(errno),
        }
        // By what was found, and not by the name, which may lead elsewhere by now.
        let found = openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
        let was = Mode::from_raw_mode(fstat(&found)?.st_mode);
        let is = was | Mode::RUSR | Mode::XUSR;
        let place = format!("/proc/self/fd/{}", found.as_raw_fd());
        chmod(&place, is)?;
        let directory =
            rustix::fs::open(&place, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty());
        if directory.is_err() {
            let _as_before = chmod(&place, was);
        }
        Ok(Self { directory: directory?, was: Some((was, is)) })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some((was, is)) = self.was
            && fstat(&self.directory).is_ok_and(|stat| Mode::from_raw_mode(stat.st_mode) == is)
        {
            let _gone = fchmod(&self.directory, was);
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
            .open_files(&mut budget, |open| {
                if let Open::Nameless(file, bytes) = open {
                    visit(file, bytes);
                }
            })
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

    #[test]
    fn walks_are_as_far_apart_as_they_are_long_up_to_a_limit() {
        let millis = Duration::from_millis;
        assert_eq!(waits(millis(1)), (millis(20), millis(1000)));
        assert_eq!(waits(millis(40)), (millis(800), millis(40_000)));
        assert_eq!(waits(millis(1000)), (WALK_WAIT_MAX, WALK_INTERVAL_MAX));
        assert_eq!(waits(millis(86_400_000)), (WALK_WAIT_MAX, WALK_INTERVAL_MAX));
    }

    #[test]
    fn nobody_walks_while_nobody_in_the_pod_does_anything() {
        let (dir, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let run = |times: u32| {
            let process = dir.path().join("7");
            std::fs::create_dir_all(&process).unwrap();
            let stat = format!("7 (a b) S 1 7 7 0 -1 0 {times} 0 0 0 0 0 0 0 20 0 1 0");
            std::fs::write(process.join("stat"), stat).unwrap();
        };
        run(1);
        let proc: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let mut disk = Disk::new(1 << 50, files.path(), None);
        let walked = |disk: &mut Disk| {
            std::fs::write(files.path().join(uuid::Uuid::now_v7().to_string()), "").unwrap();
            let later = disk.next_walk.max(Instant::now()) + WALK_INTERVAL_MAX;
            disk.grew_too_far(later, &proc);
            disk.used.files
        };
        assert_eq!(walked(&mut disk), 1);
        assert_eq!((walked(&mut disk), walked(&mut disk)), (1, 1), "nobody ran");
        run(2);
        assert_eq!(walked(&mut disk), 4, "what ran may have written");
    }

    #[test]
    fn what_lies_in_a_closed_directory_counts_and_it_is_closed_again() {
        for mode in [0o000, 0o400, 0o100] {
            let dir = tempfile::tempdir().unwrap();
            let closed = dir.path().join("closed");
            std::fs::create_dir(&closed).unwrap();
            std::fs::write(closed.join("file"), [1; 300_000]).unwrap();
            std::fs::File::open(closed.join("file")).unwrap().sync_all().unwrap();
            chmod(&closed, Mode::from_raw_mode(mode)).unwrap();
            let (used, is_lost) = walked(dir.path(), 100);
            assert!(!is_lost && used.files == 2 && used.bytes >= 300_000, "{mode:o} {used:?}");
            let is = Mode::from_raw_mode(rustix::fs::stat(&closed).unwrap().st_mode);
            assert_eq!(is, Mode::from_raw_mode(mode));
            chmod(&closed, Mode::RWXU).unwrap();
        }
    }
}
