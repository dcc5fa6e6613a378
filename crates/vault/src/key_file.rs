//! The files of the master key: each made once, whole or not at all, and trusted only in the state it was made in.
//!
//! A rotation has two of them: the one in force, and the next one beside it, which becomes the one in force by being renamed
//! once nothing is sealed under the old one any more.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::rand;
use rustix::{fs::OFlags, process::geteuid};
use tempfile::NamedTempFile;
use zeroize::Zeroizing;

use crate::{Error, KEY_BYTES};

/// The bits of a mode that let others than the owner in.
const OTHERS: u32 = 0o077;

type Key = Zeroizing<[u8; KEY_BYTES]>;

/// Where the next key of a rotation is.
pub(crate) fn next_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(".next");
    path.with_file_name(name)
}

/// The key of a file, which is made when it is not there.
pub(crate) fn read_or_make(path: &Path) -> Result<Key, Error> {
    if let Some(key) = read_if_there(path)? {
        return Ok(key);
    }
    make(path).map_err(|source| Error::KeyFile { what: "make", path: path.to_owned(), source })?;
    // What counts is what is there now, by whomever of two that started at once.
    let missing = || failed_to_read(path, io::ErrorKind::NotFound.into());
    read_if_there(path)?.ok_or_else(missing)
}

/// The key of a file, where there is one.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Key>, Error> {
    match open(path) {
        Ok(file) => read(path, file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed_to_read(path, source)),
    }
}

/// Puts the next key in the place of the one in force.
pub(crate) fn install(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::KeyFile { what: "replace", path: path.to_owned(), source };
    fs::rename(next_of(path), path).map_err(failed)?;
    File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn failed_to_read(path: &Path, source: io::Error) -> Error {
    Error::KeyFile { what: "read", path: path.to_owned(), source }
}

fn open(path: &Path) -> io::Result<File> {
    // Neither a link to somewhere else is followed, nor does a pipe make us wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read(path: &Path, mut file: File) -> Result<Key, Error> {
    let refused = |why| Error::KeyFileRefused { path: path.to_owned(), why };
    let found = file.metadata().map_err(|source| failed_to_read(path, source))?;
    if !found.is_file() {
        return Err(refused("is not a plain file".to_owned()));
    }
    if found.uid() != geteuid().as_raw() {
        return Err(refused("belongs to another user".to_owned()));
    }
    if found.mode() & OTHERS != 0 {
        let mode = found.mode() & 0o777;
        return Err(refused(format!("has mode {mode:04o} and must have 0600, for nobody else to read")));
    }
    if found.len() != KEY_BYTES as u64 {
        return Err(refused(format!("has {} bytes and must have {KEY_BYTES}", found.len())));
    }
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    file.read_exact(key.as_mut_slice()).map_err(|source| failed_to_read(path, source))?;
    Ok(key)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the file under another name and gives it its own once it is on disk, so that a crash leaves no half file, and a
/// file that is there already stays as it is.
fn make(path: &Path) -> io::Result<()> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    rand::fill(key.as_mut_slice()).map_err(|_| io::Error::other("no random bytes"))?;
    // Its mode is 0600 from the beginning.
    let mut file = NamedTempFile::new_in(folder(path))?;
    file.write_all(key.as_slice())?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Err(refused) if refused.error.kind() != io::ErrorKind::AlreadyExists => return Err(refused.error),
        Ok(_) | Err(_) => {}
    }
    File::open(folder(path))?.sync_all()
}
