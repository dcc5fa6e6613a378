//! A pod's `/proc`: what of it concerns the whole machine is read-only or hidden, as container runtimes do, and the limits that
//! the kernel keeps by files there are set first.

use std::path::Path;

use rustix::{
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_remount},
};

use freehold_driver::Limits;

use crate::plan::Failure;

/// What is read-only. `net` is no mount of its own, and what of `sys` a pod's root might change is the pod's.
const READ_ONLY: &[&str] = &["sys", "sysrq-trigger", "irq", "bus", "fs"];
/// Files that read as empty.
const HIDDEN_FILES: &[&str] = &["kcore", "keys", "timer_list", "latency_stats", "sched_debug", "interrupts"];
/// Directories that are empty.
const HIDDEN_DIRECTORIES: &[&str] = &["acpi", "scsi"];

/// Of the pod's memory, the part that shared memory of System V may be: one in this many.
const SHARED_MEMORY_PART: u64 = 4;
/// The most segments of shared memory of System V.
const SEGMENTS_MAX: u32 = 256;
/// The most message queues of System V, each of 16,384 messages or bytes.
const QUEUES_MAX: u32 = 16;
/// The most descriptors by which a pod's processes may watch files, and files that these watch.
const INOTIFY_INSTANCES_MAX: u32 = 32;
const INOTIFY_WATCHES_MAX: u32 = 16_384;
/// Semaphores of System V: in a set, in all, operations in a call, sets.
const SEMAPHORES: &str = "500 16000 100 256";

/// Mounts a new `/proc` for the process namespace that the caller is the first process of. With `limits`, those of the
/// pod's namespaces are set; they last as long as these.
pub fn mount_at(place: &str, limits: Option<&Limits>) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("proc", place, "proc", flags, Some(c"hidepid=invisible")) {
        Err(Errno::INVAL) => step("mount /proc", mount("proc", place, "proc", flags, None))?,
        other => step("mount /proc", other)?,
    }
    let place = Path::new(place);
    if let Some(limits) = limits {
        set_limits(place, limits);
    }
    let read_only = flags | MountFlags::BIND | MountFlags::RDONLY;
    for name in READ_ONLY {
        let path = place.join(name);
        if bound(&path, &path)? {
            step("make /proc read-only", mount_remount(&path, read_only, ""))?;
        }
    }
    for name in HIDDEN_FILES {
        bound(Path::new("/dev/null"), &place.join(name))?;
    }
    for name in HIDDEN_DIRECTORIES {
        match mount(
            "tmpfs",
            place.join(name),
            "tmpfs",
            read_only - MountFlags::BIND,
            Some(c"size=0,nr_inodes=1"),
        ) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => step("hide a part of /proc", Err(errno))?,
        }
    }
    Ok(())
}

/// Binds `from` over `place`; false when that is not there on this kernel.
fn bound(from: &Path, place: &Path) -> Result<bool, Failure> {
    match mount_bind(from, place) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => step("cover a part of /proc", Err(errno)).map(|()| false),
    }
}

fn set_limits(proc: &Path, limits: &Limits) {
    let bytes = limits.memory_bytes / SHARED_MEMORY_PART;
    let pages = bytes / u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    for (name, value) in [
        // A second wall beside the system call filter: no user namespace in here.
        ("user/max_user_namespaces", "0".to_owned()),
        // An ordinary user has some for all pods and everything else.
        ("user/max_inotify_instances", INOTIFY_INSTANCES_MAX.to_string()),
        ("user/max_inotify_watches", INOTIFY_WATCHES_MAX.to_string()),
        ("kernel/shmmax", bytes.to_string()),
        ("kernel/shmall", pages.to_string()),
        ("kernel/shmmni", SEGMENTS_MAX.to_string()),
        // A segment goes with the last process that has it, so that ending processes frees its memory.
        ("kernel/shm_rmid_forced", "1".to_owned()),
        ("kernel/msgmni", QUEUES_MAX.to_string()),
        ("kernel/sem", SEMAPHORES.to_owned()),
    ] {
        // Older kernels leave some of these to the host's root; the watchdog and control groups remain.
        let _absent = std::fs::write(proc.join("sys").join(name), value);
    }
}

fn step(name: &str, result: Result<(), Errno>) -> Result<(), Failure> {
    result.map_err(|errno| Failure { step: name.to_owned(), errno: errno.raw_os_error() })
}
