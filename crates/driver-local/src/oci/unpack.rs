//! Unpacks the layers of an image, one above the other, into a directory.
//!
//! Invariant: nothing outside of that directory is touched, whatever a layer says: every path is resolved by the kernel
//! as if the directory were `/`, and what a path ends in is replaced, never followed.

use std::{
    collections::{HashMap, HashSet},
    ffi::{OsStr, OsString},
    fs::{self, File, FileTimes},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, fchown, lchown},
        },
    },
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use tar::EntryType;

/// Bytes that an image may have unpacked, at most.
const ROOT_BYTES_MAX: u64 = 64 << 30;
/// Entries that the layers of an image may have, at most.
const ENTRIES_MAX: u64 = 5_000_000;
/// Before the name of what a layer takes away.
const WHITEOUT: &[u8] = b".wh.";
/// In a directory of which a layer takes all away that was there before.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Set-user-id bits mean nothing in a pod.
const MODE_BITS: u32 = 0o1777;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive cannot be read.
    #[error("failed to read the archive")]
    Archive(#[source] io::Error),
    /// A path that leads out, or nowhere.
    #[error("{0:?} is no path within the root")]
    Path(PathBuf),
    /// An entry cannot be made.
    #[error("failed to make {path:?}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hard link to what is not there or lies outside.
    #[error("{path:?} is a hard link to {target:?}, which cannot be linked to")]
    Link {
        /// The link.
        path: PathBuf,
        /// What it should lead to.
        target: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// More than any image has.
    #[error("the image is larger than {ROOT_BYTES_MAX} bytes or {ENTRIES_MAX} entries unpacked")]
    TooLarge,
}

/// A directory in the making.
pub struct Root {
    directory: OwnedFd,
    /// Whether owners can be kept; else everything belongs to the caller.
    owners: bool,
    bytes_left: u64,
    entries_left: u64,
    /// Modes of directories, set at last: one may be closed to its owner.
    modes: HashMap<PathBuf, u32>,
}

impl Root {
    /// Unpacks into a new directory.
    pub fn new(path: &Path) -> io::Result<Self> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(Self {
            directory: rustix::fs::open(path, flags, Mode::empty())?,
            owners: rustix::process::geteuid().is_root(),
            bytes_left: ROOT_BYTES_MAX,
            entries_left: ENTRIES_MAX,
            modes: HashMap::new(),
        })
    }

    /// Puts a layer above those before.
    pub fn add(&mut self, blob: File, compression: Compression) -> Result<(), Error> {
        let blob = io::BufReader::with_capacity(1 << 16, blob);
        match compression {
            Compression::None => self.add_archive(blob),
            Compression::Gzip => self.add_archive(flate2::bufread::MultiGzDecoder::new(blob)),
            Compression::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(blob)
                    .map_err(|error| Error::Archive(io::Error::new(io::ErrorKind::InvalidData, error)))?;
                self.add_archive(decoder)
            }
        }
    }

    fn add_archive(&mut self, archive: impl Read) -> Result<(), Error> {
        let mut archive = tar::Archive::new(archive);
        // What this layer made is not taken away by it.
        let mut made = HashSet::new();
        for entry in archive.entries().map_err(Error::Archive)? {
            let mut entry = entry.map_err(Error::Archive)?;
            self.entries_left = self.entries_left.checked_sub(1).ok_or(Error::TooLarge)?;
            let path = relative(&entry.path().map_err(Error::Archive)?)?;
            let Some((parent, name)) = path.parent().zip(path.file_name()) else {
                // The root itself.
                self.set_attributes(&path, &entry)?;
                continue;
            };
            let (parent, name) = (parent.to_owned(), name.to_owned());
            if name.as_bytes() == OPAQUE {
                self.empty(&parent, &made)?;
            } else if let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT) {
                let gone = OsStr::from_bytes(gone);
                if gone.is_empty() || gone == "." || gone == ".." {
                    return Err(Error::Path(path));
                }
                if !made.contains(&parent.join(gone))
                    && let Some(directory) = self.find(&parent)?
                {
                    remove(&directory, gone).map_err(at(&path))?;
                }
            } else {
                self.make(&path, &parent, &name, &mut entry)?;
                made.extend(path.ancestors().map(Path::to_owned));
            }
        }
        Ok(())
    }

    /// A directory within the root, links resolved within the root, unless it is not there.
    fn find(&self, path: &Path) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path_or_root = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.directory, path_or_root, flags, Mode::empty(), resolve) {
            Ok(found) => Ok(Some(found)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(at(path)(errno.into())),
        }
    }

    /// The same, made when absent, with those above it.
    fn find_or_make(&self, path: &Path) -> Result<OwnedFd, Error> {
        let mut so_far = PathBuf::new();
        if let Some(found) = self.find(path)? {
            return Ok(found);
        }
        for name in path.components() {
            let parent = self.find(&so_far)?.ok_or_else(|| Error::Path(path.to_owned()))?;
            so_far.push(name);
            if self.find(&so_far)?.is_none() {
                rustix::fs::mkdirat(&parent, name.as_os_str(), Mode::from_raw_mode(0o755))
                    .map_err(|errno| at(path)(errno.into()))?;
            }
        }
        self.find(path)?.ok_or_else(|| Error::Path(path.to_owned()))
    }

    fn make<R: Read>(
        &mut self,
        path: &Path,
        parent: &Path,
        name: &OsStr,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Block | EntryType::Char | EntryType::Fifo) {
            // A pod has its own devices.
            return Ok(());
        }
        let directory = self.find_or_make(parent)?;
        let is_directory = fs::symlink_metadata(within(&directory, name)).is_ok_and(|seen| seen.is_dir());
        if !(kind == EntryType::Directory && is_directory) {
            remove(&directory, name).map_err(at(path))?;
            self.modes.retain(|made, _| !made.starts_with(path));
        }
        match kind {
            EntryType::Directory => {
                if !is_directory {
                    // Open to its owner until all is unpacked.
                    rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o700))
                        .map_err(|errno| at(path)(errno.into()))?;
                }
                self.set_attributes(path, entry)
            }
            EntryType::Symlink => {
                let target = link(entry, path)?;
                std::os::unix::fs::symlink(target, within(&directory, name)).map_err(at(path))?;
                self.own_link(path, &within(&directory, name), entry)
            }
            EntryType::Link => self.make_hard_link(path, &directory, name, entry),
            _ => self.make_file(path, &directory, name, entry),
        }
    }

    fn make_file<R: Read>(
        &mut self,
        path: &Path,
        directory: &OwnedFd,
        name: &OsStr,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Error> {
        let mut options = File::options();
        let mut file =
            options.write(true).create_new(true).open(within(directory, name)).map_err(at(path))?;
        let mut content = entry.by_ref().take(self.bytes_left + 1);
        let written = io::copy(&mut content, &mut file).map_err(at(path))?;
        self.bytes_left = self.bytes_left.checked_sub(written).ok_or(Error::TooLarge)?;
        let header = entry.header();
        let (uid, gid) = owner(header)?;
        let mode = header.mode().map_err(Error::Archive)? & MODE_BITS;
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(header.mtime().map_err(Error::Archive)?);
        let mut set = || -> io::Result<()> {
            if self.owners {
                fchown(&file, Some(uid), Some(gid))?;
            }
            // Its owner must be able to read what overlays copy.
            let mode = if self.owners { mode } else { mode | 0o400 };
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            // Compiled files know their source by its time.
            file.set_times(FileTimes::new().set_modified(modified))?;
            file.flush()
        };
        set().map_err(at(path))
    }

    fn make_hard_link<R: Read>(
        &self,
        path: &Path,
        directory: &OwnedFd,
        name: &OsStr,
        entry: &tar::Entry<'_, R>,
    ) -> Result<(), Error> {
        let target = relative(&link(entry, path)?)?;
        let failed = |source| Error::Link { path: path.to_owned(), target: target.clone(), source };
        let (of, old) = target.parent().zip(target.file_name()).ok_or_else(|| Error::Path(target.clone()))?;
        let of = self.find(of)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        rustix::fs::linkat(&of, old, directory, name, AtFlags::empty()).map_err(|errno| failed(errno.into()))
    }

    fn own_link<R: Read>(&self, path: &Path, place: &Path, entry: &tar::Entry<'_, R>) -> Result<(), Error> {
        let (uid, gid) = owner(entry.header())?;
        if self.owners { lchown(place, Some(uid), Some(gid)).map_err(at(path)) } else { Ok(()) }
    }

    /// Gives a directory its owner, and remembers its mode.
    fn set_attributes<R: Read>(&mut self, path: &Path, entry: &tar::Entry<'_, R>) -> Result<(), Error> {
        let mode = entry.header().mode().map_err(Error::Archive)? & MODE_BITS;
        self.modes.insert(path.to_owned(), if self.owners { mode } else { mode | 0o500 });
        let (uid, gid) = owner(entry.header())?;
        if self.owners
            && let Some(directory) = self.find(path)?
        {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(&directory, "", uid, gid, AtFlags::EMPTY_PATH)
                .map_err(|errno| at(path)(errno.into()))?;
        }
        Ok(())
    }

    /// Takes away what earlier layers have in a directory.
    fn empty(&mut self, path: &Path, made: &HashSet<PathBuf>) -> Result<(), Error> {
        let Some(directory) = self.find(path)? else { return Ok(()) };
        let entries = fs::read_dir(within(&directory, OsStr::new("."))).map_err(at(path))?;
        let names: Vec<OsString> = entries.flatten().map(|entry| entry.file_name()).collect();
        for name in names.iter().filter(|name| !made.contains(&path.join(name))) {
            remove(&directory, name).map_err(at(&path.join(name)))?;
            self.modes.retain(|made, _| !made.starts_with(path.join(name)));
        }
        Ok(())
    }

    /// Closes what shall be closed.
    pub fn finish(self) -> io::Result<()> {
        let mut modes: Vec<(&PathBuf, &u32)> = self.modes.iter().collect();
        // The innermost first, or it could not be reached.
        modes.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in modes {
            if let Ok(Some(directory)) = self.find(path) {
                let place = within(&directory, OsStr::new("."));
                fs::set_permissions(place, fs::Permissions::from_mode(*mode))?;
            }
        }
        Ok(())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Make { path, source }
}

/// A path of an archive, relative to the root. What goes up is refused, even where it would come back.
fn relative(path: &Path) -> Result<PathBuf, Error> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Error::Path(path.to_owned())),
        }
    }
    Ok(clean)
}

/// What is called `name` in an open directory.
fn within(directory: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

fn link<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf, Error> {
    let target = entry.link_name().map_err(Error::Archive)?;
    target.map(|target| target.into_owned()).ok_or_else(|| Error::Path(path.to_owned()))
}

fn owner(header: &tar::Header) -> Result<(u32, u32), Error> {
    let id = |id: io::Result<u64>| {
        let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
        id.and_then(|id| u32::try_from(id).map_err(invalid)).map_err(Error::Archive)
    };
    Ok((id(header.uid())?, id(header.gid())?))
}

/// Removes whatever has this name. What is not there is fine.
fn remove(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let path = within(directory, name);
    let removed = match fs::symlink_metadata(&path) {
        Ok(seen) if seen.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
