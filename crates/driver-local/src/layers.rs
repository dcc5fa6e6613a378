//! Lower layers that are made here: the skeleton of a pod's root, and the directories of `/usr` in which a pod without
//! users of its own may write.
//!
//! Nothing of the host's configuration is taken over but what programs of its `/usr` need to run at all: links of
//! alternatives, the loader's cache, the time zone, names of services.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use freehold_driver::TRUST_ANCHORS_PATH;

use crate::{
    driver::{Options, PodRoot},
    plan::Users,
};

/// Entries of `/etc/alternatives` that are copied, at most.
const ALTERNATIVES_MAX: usize = 10_000;
/// Directories that the layer of `/usr` repeats, at most.
const USR_DIRECTORIES_MAX: usize = 5_000;

/// What lies in the skeleton.
const DIRECTORIES: &[(&str, u32)] = &[
    ("data", 0o755),
    ("dev", 0o755),
    ("dev/pts", 0o755),
    ("dev/shm", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("opt/freehold", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/tmp", 0o1777),
    ("workspace", 0o755),
];
/// Mount points.
const EMPTY_FILES: &[&str] =
    &["dev/null", "dev/zero", "dev/full", "dev/random", "dev/urandom", "dev/tty", "opt/freehold/freehold"];
const LINKS: &[(&str, &str)] = &[
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/ptmx", "pts/ptmx"),
    ("etc/mtab", "/proc/self/mounts"),
    ("var/run", "/run"),
];
/// The pod's own configuration, whatever its root is: names and trust.
const NETWORK_FILES: &[(&str, &str)] = &[
    ("etc/hostname", "freehold\n"),
    ("etc/hosts", "127.0.0.1 localhost freehold\n::1 localhost ip6-localhost ip6-loopback\n"),
    // Any address would do: every one leads to egress.
    ("etc/resolv.conf", "nameserver 10.88.0.1\n"),
];
const FILES: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nagent:x:900:900:agent:/nonexistent:/usr/sbin/nologin\n\
         nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\ntty:x:5:\nagent:x:900:\nnogroup:x:65534:\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    ),
    ("etc/shells", "/bin/sh\n/bin/bash\n"),
    ("etc/profile", "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
];
/// Files of the host's `/etc` that say nothing of the host.
const COPIED: &[&str] = &["ld.so.cache", "mime.types", "protocols", "services"];
/// Top-level links into `/usr`.
const USR_LINKS: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Which root a skeleton is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    /// This machine's `/usr`.
    HostUsr,
    /// A root of its own; the skeleton lies above it and adds only what a pod must have.
    OwnRoot,
}

/// The lower layers of a pod.
pub struct Layers {
    /// Of its root, the topmost first.
    pub root: Vec<PathBuf>,
    /// Of its `/usr`.
    pub usr: Vec<PathBuf>,
}

/// Makes the lower layers of pods that trust `anchors`, unless they are there.
pub fn of(options: &Options, layers: &Path, users: Users, anchors: &str) -> io::Result<Layers> {
    match &options.root {
        PodRoot::HostUsr => {
            let mut usr = vec![PathBuf::from("/usr")];
            if !matches!(users, Users::Mapped { .. }) {
                usr.insert(0, writable_usr(layers, users)?);
            }
            Ok(Layers { root: vec![skeleton(layers, users, Below::HostUsr, anchors)?], usr })
        }
        // An image was unpacked when the driver was opened, and is a directory since.
        PodRoot::Directory(root) | PodRoot::OciLayout(root) => {
            let root = vec![skeleton(layers, users, Below::OwnRoot, anchors)?, root.clone()];
            Ok(Layers { root, usr: Vec::new() })
        }
    }
}

/// Makes the skeleton of roots that trust `anchors`, unless it is there, and names it.
fn skeleton(layers: &Path, users: Users, below: Below, anchors: &str) -> io::Result<PathBuf> {
    let kind = match below {
        Below::HostUsr => "usr",
        Below::OwnRoot => "own",
    };
    let path = layers.join(format!("skeleton-{kind}-{:016x}", digest(&format!("{users:?}{anchors}"))));
    if path.exists() {
        return Ok(path);
    }
    let new = layers.join(format!("new-{}", uuid::Uuid::now_v7().simple()));
    fs::create_dir_all(&new)?;
    fill(&new, below, anchors)?;
    // On an owner-mapping mount the pod's root owns what the host's root owns.
    if let Users::Shifted { base } = users {
        own(&new, base)?;
    }
    match fs::rename(&new, &path) {
        // Another pod was faster.
        Err(_) if path.exists() => fs::remove_dir_all(&new)?,
        other => other?,
    }
    Ok(path)
}

fn fill(root: &Path, below: Below, anchors: &str) -> io::Result<()> {
    let write = |path: &str, bytes: &[u8]| {
        fs::write(root.join(path), bytes)?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o644))
    };
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    for (path, mode) in DIRECTORIES {
        fs::create_dir(root.join(path))?;
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))?;
    }
    for path in EMPTY_FILES {
        write(path, b"")?;
    }
    for (path, target) in LINKS {
        symlink(target, root.join(path))?;
    }
    for (path, text) in NETWORK_FILES {
        write(path, text.as_bytes())?;
    }
    write(TRUST_ANCHORS_PATH.trim_start_matches('/'), anchors.as_bytes())?;
    if below == Below::OwnRoot {
        return Ok(());
    }
    for (path, text) in FILES {
        write(path, text.as_bytes())?;
    }
    for name in USR_LINKS {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, root.join(name))?;
        }
    }
    for name in COPIED {
        if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
            write(&format!("etc/{name}"), &bytes)?;
        }
    }
    symlink("/usr/lib/os-release", root.join("etc/os-release"))?;
    if let Ok(zone) = fs::read_link("/etc/localtime") {
        symlink(zone, root.join("etc/localtime"))?;
    }
    fs::create_dir(root.join("etc/alternatives"))?;
    for entry in fs::read_dir("/etc/alternatives").into_iter().flatten().take(ALTERNATIVES_MAX).flatten() {
        // Most of them are manual pages.
        if let Ok(target) = fs::read_link(entry.path())
            && !target.starts_with("/usr/share/man")
            && target.extension().is_none_or(|extension| extension != "gz")
        {
            symlink(target, root.join("etc/alternatives").join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Makes a layer with the directories of `/usr` in which a pod may add files although their owner is nobody in it: all of
/// `/usr/local`, and the first two levels of the rest. The owner of a directory is that of its topmost layer.
fn writable_usr(layers: &Path, users: Users) -> io::Result<PathBuf> {
    let path = layers.join(format!("usr-{:016x}", digest(&format!("{users:?}"))));
    fs::create_dir_all(&path)?;
    let mut left = USR_DIRECTORIES_MAX;
    repeat(Path::new("/usr"), &path, 2, &mut left)?;
    repeat(Path::new("/usr/local"), &path.join("local"), usize::MAX, &mut left)?;
    if let Users::Shifted { base } = users {
        own(&path, base)?;
    }
    Ok(path)
}

fn repeat(from: &Path, to: &Path, depth: usize, left: &mut usize) -> io::Result<()> {
    fs::create_dir_all(to)?;
    if depth == 0 {
        return Ok(());
    }
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        if *left == 0 {
            break;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            *left -= 1;
            repeat(&entry.path(), &to.join(entry.file_name()), depth - 1, left)?;
        }
    }
    Ok(())
}

/// Gives a tree to the pod's root.
fn own(path: &Path, owner: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            own(&entry?.path(), owner)?;
        }
    }
    Ok(())
}

/// Makes a workspace's writable layers, unless they are there, and an empty place for the overlays to work in.
pub fn workspace_files(files: &Path, users: Users) -> io::Result<()> {
    for name in ["root", "usr", "work/root", "work/usr"] {
        let path = files.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    if let Some(base) = users.base() {
        for name in ["", "root", "usr", "work", "work/root", "work/usr"] {
            chown(files.join(name), Some(base), Some(base))?;
        }
    }
    fs::set_permissions(files, fs::Permissions::from_mode(0o700))
}

/// Tells contents apart; not a matter of security, since all of them are the operator's.
fn digest(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    // A skeleton made by another version of this file is another one.
    (env!("CARGO_PKG_VERSION"), DIRECTORIES, EMPTY_FILES, LINKS, NETWORK_FILES, FILES, text)
        .hash(&mut hasher);
    hasher.finish()
}
