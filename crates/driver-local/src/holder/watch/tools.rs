//! What the kernel tells of a pod's processes: the memory and the nameless files that each of them has.
//!
//! A process is looked at through its first thread, or through another one when the first has ended: then nothing but
//! `/proc/PID/task` tells of it. All threads of a process have the same descriptors, which the filter of calls sees to.

use std::{
    ffi::{CStr, CString},
    hash::{Hash, Hasher},
    io::{BufRead, BufReader},
    mem::MaybeUninit,
    ops::Range,
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat, makedev, openat, readlinkat, statat},
    process::{Signal, pidfd_send_signal},
};

use super::ENTRY_BYTES;

/// Descriptors of all tools together that one look looks at, at most.
const DESCRIPTORS_MAX: u32 = 65_536;
/// Mappings of all tools together that one look looks at, at most.
const MAPPINGS_MAX: u32 = 262_144;
/// How often a process that seems to have nothing is looked at before that is believed.
const LOOKS_MAX: u32 = 3;

/// Of `stat`: pages touched, by a process and by its children that are gone, and the time that each ran.
const TOUCHED_AND_RUN: Range<usize> = 7..15;
/// Of these, the pages touched by children that are gone.
const TOUCHED_BY_CHILDREN: Range<usize> = 8..9;

/// What is left to be looked at in one look. Tools that come after it was used up are not known, and killed.
pub struct Budget {
    descriptors: u32,
    mappings: u32,
}

impl Budget {
    pub const fn new() -> Self {
        Self { descriptors: DESCRIPTORS_MAX, mappings: MAPPINGS_MAX }
    }
}

/// It cannot be told what a tool has.
#[derive(Debug, Clone, Copy)]
pub struct Unknown;

/// A process of the pod.
pub struct Tool {
    /// Its directory of `/proc`, which can be signalled like a pidfd.
    process: OwnedFd,
    /// The directory of another thread, where the first one has ended.
    thread: Option<OwnedFd>,
}

/// Bytes of a process, by what the kernel knows without a walk over its pages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Size {
    /// In memory, to itself, with the page tables of all that it maps.
    pub own: u64,
    /// In memory, shared with others but no file on disk.
    pub shared: u64,
    /// Mapped, and neither its data nor its stacks: what it may share, in memory or not, and the files of its programs.
    pub mapped: u64,
}

/// A file that no directory names any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct File {
    pub device: u64,
    pub inode: u64,
}

/// What a tool has open, as far as it can take memory that is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// A file without a name, with its bytes.
    Nameless(File, u64),
    /// An end of a pipe.
    Pipe(File),
    /// A socket, by its inode.
    Socket(u64),
    /// What waits for events of so many files, rather too many than too few; one may be named many times.
    Epoll(u64),
}

impl Tool {
    /// `None` when there is none of this name any more, or it has ended and waits for its parent.
    pub fn find(proc: &OwnedFd, name: &CStr) -> Option<Self> {
        for _ in 0..LOOKS_MAX {
            let process = directory(proc, name)?;
            if has_memory(&process) {
                return Some(Self { process, thread: None });
            }
            if threads(&process) < 2 {
                return None;
            }
            if let Some(thread) = living_thread(&process) {
                return Some(Self { process, thread: Some(thread) });
            }
        }
        Some(Self { process: directory(proc, name)?, thread: None })
    }

    fn seen(&self) -> &OwnedFd {
        self.thread.as_ref().unwrap_or(&self.process)
    }

    /// Whether it has threads and none of them, or no longer the one that was found, tells of it.
    pub fn is_hidden(&self) -> bool {
        !has_memory(self.seen()) && threads(&self.process) > 1
    }

    pub fn kill(&self) {
        let _gone = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Kills it, unless it supervises a command: then its parent is the holder, which is outside.
    pub fn kill_unless_supervisor(&self) {
        if parent(&self.process) != Some(0) {
            self.kill();
        }
    }

    pub fn size(&self, page_bytes: u64) -> Size {
        let text = read(self.seen(), "statm");
        let mut words = text.split(' ').map(|word| word.trim().parse::<u64>().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        let (all, resident, with_files, _, _, data) = (next(), next(), next(), next(), next(), next());
        // Most have little else than the pages of programs, and a few tables; the longer file tells what they share.
        let text = read(self.seen(), "status");
        let bytes = |of: u64, but: u64| of.saturating_sub(but).saturating_mul(page_bytes);
        let own = bytes(resident, with_files).saturating_add(page_tables(&text));
        Size { own, shared: bytes_of(&text, "RssShmem"), mapped: bytes(all, data) }
    }

    /// What it has in memory to itself and shared, each page divided among those who map it; page tables are its own.
    pub fn share(&self) -> (u64, u64) {
        let text = read(self.seen(), "smaps_rollup");
        let tables = page_tables(&read(self.seen(), "status"));
        (bytes_of(&text, "Pss_Anon").saturating_add(tables), bytes_of(&text, "Pss_Shmem"))
    }

    /// Every descriptor that it has, but for files with names and devices.
    pub fn open_files(&self, budget: &mut Budget, mut visit: impl FnMut(Open)) -> Result<(), Unknown> {
        let Some(open) = directory(self.seen(), c"fd") else { return Ok(()) };
        let mut buffer = [MaybeUninit::uninit(); ENTRY_BYTES];
        let mut entries = RawDir::new(&open, &mut buffer);
        while let Some(Ok(entry)) = entries.next() {
            budget.descriptors = budget.descriptors.checked_sub(1).ok_or(Unknown)?;
            let Ok(stat) = statat(&open, entry.file_name(), AtFlags::empty()) else { continue };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Fifo => visit(Open::Pipe(File { device: stat.st_dev, inode: stat.st_ino })),
                FileType::Socket => visit(Open::Socket(stat.st_ino)),
                // What has no type is the kernel's own, and tells what it is by its link.
                FileType::Unknown if is_epoll(&open, entry.file_name()) => {
                    visit(Open::Epoll(self.lines_about(entry.file_name())));
                }
                _ => nameless(&stat, &mut |file, bytes| visit(Open::Nameless(file, bytes))),
            }
        }
        Ok(())
    }

    /// Lines that the kernel says about a descriptor.
    fn lines_about(&self, descriptor: &CStr) -> u64 {
        let path = format!("fdinfo/{}", descriptor.to_string_lossy());
        let Ok(file) = openat(self.seen(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
            return 0;
        };
        let (mut buffer, mut lines) = ([0; ENTRY_BYTES], 0);
        while let Some(piece) = rustix::io::read(&file, &mut buffer)
            .ok()
            .and_then(|read| buffer.get(..read))
            .filter(|piece| !piece.is_empty())
        {
            lines += u64::try_from(piece.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(0);
        }
        lines
    }

    /// Every file without a name that it maps and is on a device that `is_meant`, with its bytes; where this user may not
    /// know them (only root may), those up to the end of what is mapped.
    pub fn mapped_files(
        &self,
        budget: &mut Budget,
        is_meant: impl Fn(u64) -> bool,
        mut visit: impl FnMut(File, u64),
    ) -> Result<(), Unknown> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let Ok(maps) = openat(self.seen(), "maps", flags, Mode::empty()) else { return Ok(()) };
        let files = directory(&self.process, c"map_files");
        for line in BufReader::new(std::fs::File::from(maps)).split(b'\n') {
            // A process that ended meanwhile has nothing.
            let Ok(line) = line else { break };
            budget.mappings = budget.mappings.checked_sub(1).ok_or(Unknown)?;
            let line = String::from_utf8_lossy(&line);
            let Some((range, file, end)) =
                nameless_mapping(&line).filter(|(_, file, _)| is_meant(file.device))
            else {
                continue;
            };
            match files.as_ref().map(|files| statat(files, range, AtFlags::empty())) {
                Some(Ok(stat)) => nameless(&stat, &mut visit),
                _ => visit(file, end),
            }
        }
        Ok(())
    }
}

/// Visits every process of the pod but the first.
pub fn for_each(proc: &OwnedFd, mut visit: impl FnMut(&Tool, &CStr)) {
    for_each_number(proc, |name| {
        if name.to_bytes() != b"1"
            && let Some(tool) = Tool::find(proc, name)
        {
            visit(&tool, name);
        }
        true
    });
}

/// Changes whenever a process of the pod, the first one and those that are gone included, has run for some milliseconds
/// or has touched memory for the first time.
pub fn activity(proc: &OwnedFd) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for_each_number(proc, |name| {
        name.hash(&mut hasher);
        directory(proc, name).map(|process| words_of_stat(&process, TOUCHED_AND_RUN)).hash(&mut hasher);
        true
    });
    // Commands from outside are children of this process, whose own work is none of the pod's.
    if let Ok(this) =
        openat(CWD, "/proc/self", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    {
        words_of_stat(&this, TOUCHED_BY_CHILDREN).hash(&mut hasher);
    }
    hasher.finish()
}

/// Kills every tool but the supervisors of commands.
pub fn kill_all(proc: &OwnedFd) {
    for_each(proc, |tool, _| tool.kill_unless_supervisor());
}

fn is_epoll(open: &OwnedFd, name: &CStr) -> bool {
    const LINK: &[u8] = b"anon_inode:[eventpoll]";
    readlinkat(open, name, Vec::with_capacity(2 * LINK.len())).is_ok_and(|link| link.to_bytes() == LINK)
}

fn nameless(stat: &Stat, visit: &mut impl FnMut(File, u64)) {
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 0 {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        visit(File { device: stat.st_dev, inode: stat.st_ino }, bytes);
    }
}

/// The range, the file and the end in the file of a line of `maps`, for a file that no directory names.
fn nameless_mapping(line: &str) -> Option<(&str, File, u64)> {
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let line = line.strip_suffix(" (deleted)")?;
    let mut words = line.split_ascii_whitespace();
    let (range, _, offset) = (words.next()?, words.next()?, hexadecimal(words.next()?)?);
    let (upper, lower) = words.next()?.split_once(':')?;
    let device = makedev(u32::from_str_radix(upper, 16).ok()?, u32::from_str_radix(lower, 16).ok()?);
    let inode = words.next()?.parse().ok()?;
    let (start, end) = range.split_once('-')?;
    let bytes = hexadecimal(end)?.saturating_sub(hexadecimal(start)?);
    Some((range, File { device, inode }, offset.saturating_add(bytes)))
}

/// A thread of a process, the first of which has ended, that has not.
fn living_thread(process: &OwnedFd) -> Option<OwnedFd> {
    let tasks = directory(process, c"task")?;
    let mut found = None;
    for_each_number(&tasks, |name| {
        found = directory(&tasks, name).filter(has_memory);
        found.is_none()
    });
    found
}

/// Whether a process or thread has not ended.
fn has_memory(of: &OwnedFd) -> bool {
    let text = read(of, "statm");
    !text.is_empty() && !text.starts_with("0 ")
}

/// Visits entries that are numbers until told to stop.
fn for_each_number(directory: &OwnedFd, mut goes_on: impl FnMut(&CStr) -> bool) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = openat(directory, ".", flags, Mode::empty()) else { return };
    let mut buffer = [MaybeUninit::uninit(); ENTRY_BYTES];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        let name: CString = entry.file_name().to_owned();
        if name.to_bytes().iter().all(u8::is_ascii_digit) && !goes_on(&name) {
            return;
        }
    }
}

fn directory(at: &OwnedFd, name: &CStr) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty()).ok()
}

/// The parent of a process; 0 for supervisors of commands.
fn parent(process: &OwnedFd) -> Option<i32> {
    word_of_stat(process, 1)
}

fn threads(process: &OwnedFd) -> i32 {
    word_of_stat(process, 17).unwrap_or(0)
}

/// A number of a process's `stat`, counted from after its name.
fn word_of_stat(process: &OwnedFd, at: usize) -> Option<i32> {
    words_of_stat(process, at..at + 1).first()?.parse().ok()
}

fn words_of_stat(process: &OwnedFd, range: Range<usize>) -> Vec<String> {
    let text = read(process, "stat");
    let words = text.rsplit_once(')').map_or("", |(_, words)| words).split_whitespace();
    words.skip(range.start).take(range.len()).map(String::from).collect()
}

/// The first page of a file of `/proc`.
pub fn read(process: &OwnedFd, name: &str) -> String {
    let mut buffer = [0; 4096];
    let read = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::read(&file, &mut buffer));
    String::from_utf8_lossy(buffer.get(..read.unwrap_or(0)).unwrap_or_default()).into_owned()
}

/// Bytes of the kernel's tables of a process's pages, by its `status`: a page that was only read costs none of its own,
/// and a table all the same.
fn page_tables(status: &str) -> u64 {
    bytes_of(status, "VmPTE")
}

/// The number of a line `name: number kB`, in bytes.
fn bytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibibytes =
        line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok());
    kibibytes.map_or(0, |kibibytes: u64| kibibytes.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_without_a_name_is_told_from_one_with() {
        let line = "7f00-8f00 rw-s 00001000 00:01 1032                       /memfd:a b (deleted)";
        let file = File { device: makedev(0, 1), inode: 1032 };
        assert_eq!(nameless_mapping(line), Some(("7f00-8f00", file, 0x2000)));
        assert_eq!(nameless_mapping(line.strip_suffix(" (deleted)").unwrap()), None);
        assert_eq!(nameless_mapping("7f00-8f00 rw-p 00000000 00:00 0 "), None);
    }
}
