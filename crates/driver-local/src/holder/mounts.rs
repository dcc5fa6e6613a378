//! A pod's root: overlays over shared lower layers, its own `/proc`, `/tmp` and devices, and nothing else of the host.
//!
//! Runs in the pod's namespaces, the driver's directory being the current one.

use std::{
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, renameat, unlinkat},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
        mount_change, move_mount, open_tree, unmount,
    },
    process::{chdir, fchdir, pivot_root},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::proc;
use crate::{
    plan::{Failure, Plan, Users, dir},
    sys,
};

/// Device nodes of the host that a pod has too.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
/// Terminals of a pod, at most; the machine has some thousand for all.
const TERMINALS_MAX: u32 = 64;
/// A file system in memory may have one file for so many of its bytes, for a file takes memory of the kernel's own. What
/// attributes of files take, in KiB, counts as files too (Linux 6.6 or newer).
const BYTES_OF_INODE: u64 = 16 << 10;
/// And at least so many.
const INODES_MIN: u64 = 16_384;
/// Where the program lies in a pod.
const PROGRAM: &str = "opt/freehold/freehold";
/// Where a pod works.
const WORKSPACE: &str = "workspace";

/// Copies of mounts that are not attached anywhere yet.
pub struct Trees {
    /// The layers of the plan: of the root, then of `/usr`.
    pub layers: Vec<OwnedFd>,
    /// This program.
    pub executable: OwnedFd,
}

impl Trees {
    /// Copies what the plan names. With `mapped_by`, owners appear as that user namespace maps them; this takes the
    /// privileges of the host's root.
    pub fn copy(plan: &Plan, mapped_by: Option<BorrowedFd<'_>>) -> Result<Self, Failure> {
        let mut layers = Vec::new();
        for path in plan.root_layers.iter().chain(&plan.usr_layers) {
            let tree = copy(path)?;
            if let Some(user_namespace) = mapped_by {
                let step = format!("map the owners of {}", path.display());
                sys::mount_setattr(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, Some(user_namespace))
                    .map_err(Failure::at(step))?;
            }
            layers.push(tree);
        }
        let read_only = |path: &PathBuf| -> Result<OwnedFd, Failure> {
            let tree = copy(path)?;
            let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
            sys::mount_setattr(tree.as_fd(), attributes, None)
                .map_err(Failure::at("make the program read-only"))?;
            Ok(tree)
        };
        Ok(Self { layers, executable: read_only(&plan.executable)? })
    }
}

/// A copy of the mount that `path` is on, from there on.
fn copy(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(CWD, path, flags)
        .map_err(|e| Failure::at(format!("copy the mount of {}", path.display()))(e.into()))
}

/// What is mounted from now on is mounted here alone.
pub fn leave_the_hosts() -> Result<(), Failure> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    step("leave the host's mounts", mount_change("/", private))
}

/// Puts the root together and moves into it.
pub fn build(plan: &Plan, trees: Option<Trees>) -> Result<(), Failure> {
    // Still the host's user: the driver's directory is open to nobody else.
    let trees = match trees {
        Some(trees) => trees,
        None => Trees::copy(plan, None)?,
    };
    let files = Path::new(dir::WORKSPACES).join(plan.workspace_id.to_string()).join(dir::FILES);
    let files = copy(&files)?;
    tmpfs(dir::STAGE, "mode=0755,uid=0,gid=0,size=64k,nr_inodes=256")?;
    step("enter the stage", chdir(dir::STAGE))?;
    // From here on everything is reached from the stage, by users that the pod has.
    become_root(plan.make.users)?;
    let make_dir =
        |name: &str| step("make a mount point", rustix::fs::mkdir(name, Mode::from_raw_mode(0o755)));
    for (index, tree) in trees.layers.iter().enumerate() {
        make_dir(&index.to_string())?;
        attach(tree.as_fd(), index.to_string().as_ref())?;
    }
    make_dir("files")?;
    attach(files.as_fd(), "files".as_ref())?;
    make_dir("root")?;

    let of_root = plan.root_layers.len();
    overlay("root", 0..of_root, "root")?;
    if !plan.usr_layers.is_empty() {
        overlay("usr", of_root..trees.layers.len(), "root/usr")?;
    }
    step("enter the root", chdir("root"))?;
    place(PROGRAM, Kind::File)?;
    attach(trees.executable.as_fd(), PROGRAM.as_ref())?;
    own_file_systems(plan)?;
    step("change the root", pivot_root(".", "."))?;
    step("let go of the host's root", unmount(".", UnmountFlags::DETACH))?;
    enter_workspace()
}

/// Enters the workspace of the pod whose root is this process's.
pub fn enter_workspace() -> Result<(), Failure> {
    step("enter the root", chdir("/"))?;
    let workspace = place(WORKSPACE, Kind::Directory)?;
    step("enter the workspace", fchdir(workspace))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// Makes a mount point below the current directory, unless it is there, and opens it. What an earlier pod put in its way
/// goes: programs in pods own the root and may take anything away or plant links in its place, none of which is followed.
fn place(path: &str, kind: Kind) -> Result<OwnedFd, Failure> {
    let make = || -> Result<OwnedFd, Errno> {
        let mut at = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let kind = if names.peek().is_some() { Kind::Directory } else { kind };
            at = place_one(&at, name, kind)?;
        }
        Ok(at)
    };
    make().map_err(|errno| Failure::at(format!("make the mount point {path}"))(errno.into()))
}

fn place_one(at: &OwnedFd, name: &str, kind: Kind) -> Result<OwnedFd, Errno> {
    let open = || openat(at, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    match open() {
        Ok(found) => match (FileType::from_raw_mode(fstat(&found)?.st_mode), kind) {
            (FileType::Directory, Kind::Directory) => return Ok(found),
            // Somebody's files may be in it.
            (FileType::Directory, Kind::File) => {
                renameat(at, name, at, format!("{name}.{}", uuid::Uuid::now_v7().simple()))?;
            }
            (FileType::Symlink, _) | (_, Kind::Directory) => unlinkat(at, name, AtFlags::empty())?,
            (_, Kind::File) => return Ok(found),
        },
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match kind {
        Kind::Directory => mkdirat(at, name, Mode::from_raw_mode(0o755))?,
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            drop(openat(at, name, flags, Mode::from_raw_mode(0o644))?);
        }
    }
    open()
}

/// Becomes the root user of the pod, who alone may make anything in its root.
pub fn become_root(users: Users) -> Result<(), Failure> {
    if users.base().is_some() {
        step("become root", set_thread_groups(&[]))?;
    }
    let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
    step("become root", set_thread_res_gid(gid, gid, gid))?;
    step("become root", set_thread_res_uid(uid, uid, uid))
}

fn own_file_systems(plan: &Plan) -> Result<(), Failure> {
    for name in DEVICES {
        place(&format!("dev/{name}"), Kind::File)?;
        step("mount a device", mount_bind(format!("/dev/{name}"), format!("dev/{name}")))?;
    }
    for path in ["dev/pts", "dev/shm", "tmp", "proc"] {
        place(path, Kind::Directory)?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let options = text(format!("newinstance,ptmxmode=0666,mode=0620,max={TERMINALS_MAX}"))?;
    step("mount /dev/pts", mount("devpts", "dev/pts", "devpts", flags, Some(options.as_c_str())))?;
    let bytes = plan.limits.tmp_bytes;
    let inodes = (bytes / BYTES_OF_INODE).max(INODES_MIN);
    for place in ["tmp", "dev/shm"] {
        tmpfs(place, &format!("mode=1777,size={bytes},nr_inodes={inodes}"))?;
    }
    proc::mount_at("proc", Some(&plan.limits))
}

fn overlay(name: &str, layers: std::ops::Range<usize>, target: &str) -> Result<(), Failure> {
    let lower: Vec<String> = layers.map(|index| index.to_string()).collect();
    // `volatile`: what a pod syncs is as durable as the host's page cache. Durability is the snapshot's affair, and
    // without it the end of a pod would wait for the host's disk.
    let options = format!(
        "userxattr,volatile,lowerdir={},upperdir=files/{name},workdir=files/work/{name}",
        lower.join(":")
    );
    let options = text(options)?;
    step(
        "mount the overlay",
        mount("overlay", target, "overlay", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str())),
    )
}

fn tmpfs(place: &str, options: &str) -> Result<(), Failure> {
    let options = text(options.to_owned())?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    step(&format!("mount {place}"), mount("tmpfs", place, "tmpfs", flags, Some(options.as_c_str())))
}

fn attach(tree: BorrowedFd<'_>, place: &Path) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step(&format!("attach a mount at {}", place.display()), move_mount(tree, "", CWD, place, flags))
}

fn text(value: String) -> Result<CString, Failure> {
    CString::new(value).map_err(|_| Failure { step: "write mount options".into(), errno: libc::EINVAL })
}

fn step(name: &str, result: Result<(), Errno>) -> Result<(), Failure> {
    result.map_err(|errno| Failure { step: name.to_owned(), errno: errno.raw_os_error() })
}
