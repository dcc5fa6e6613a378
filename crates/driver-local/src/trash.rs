//! Takes files out of view at once and removes them later.
//!
//! Invariant: what programs in pods left behind cannot exhaust anything here, however deep, wide or closed it is. Trees are
//! taken apart from the top: a directory's files go, its directories move up into the trash, and then it is empty. So
//! neither the stack nor paths nor open descriptors grow with the depth of a tree, and no link is ever followed.

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Dir, Mode, OFlags, chmod, openat, renameat, unlinkat},
    io::Errno,
};

use crate::plan::dir;

/// Directories that moved up and wait for their turn, at most; a later pass comes back for the rest.
const WAITING_MAX: usize = 4096;

/// Moves `path` away. What is not there is fine.
pub fn discard(state_dir: &Path, path: &Path) -> io::Result<()> {
    match fs::rename(path, state_dir.join(dir::TRASH).join(new_name())) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn new_name() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// Removes what was moved away. Blocks. Others may do the same meanwhile.
pub fn empty(state_dir: &Path) {
    let path = state_dir.join(dir::TRASH);
    let emptied = || -> rustix::io::Result<()> {
        let trash = openat(CWD, &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        loop {
            let mut pass = Pass { trash: &trash, waiting: Vec::new(), done: 0, failed: None };
            pass.run()?;
            // Whatever is done leaves less to do, so this ends.
            if pass.done == 0 {
                return pass.failed.map_or(Ok(()), Err);
            }
        }
    };
    if let Err(errno) = emptied() {
        let error = io::Error::from(errno);
        tracing::warn!(path = %path.display(), error = %error, "failed to remove discarded files");
    }
}

/// One look at all that lies in the trash.
struct Pass<'a> {
    trash: &'a OwnedFd,
    /// Names of directories in the trash.
    waiting: Vec<String>,
    /// What was removed or moved up.
    done: u64,
    failed: Option<Errno>,
}

impl Pass<'_> {
    fn run(&mut self) -> rustix::io::Result<()> {
        for entry in Dir::read_from(self.trash)? {
            let entry = entry?;
            if is_itself(entry.file_name()) {
                continue;
            }
            let top = self.take_apart(entry.file_name());
            self.note(top);
            while let Some(name) = self.waiting.pop() {
                let deeper = std::ffi::CString::new(name).map_err(|_| Errno::INVAL);
                let deeper = deeper.and_then(|name| self.take_apart(&name));
                self.note(deeper);
            }
        }
        Ok(())
    }

    /// One failure does not keep the rest.
    fn note(&mut self, outcome: rustix::io::Result<()>) {
        self.failed = outcome.err().or(self.failed);
    }

    /// Removes what bears this name in the trash, but for directories in it, which move into the trash.
    fn take_apart(&mut self, name: &CStr) -> rustix::io::Result<()> {
        if self.remove(self.trash, name)? {
            return Ok(());
        }
        let Some(directory) = open_up(self.trash, name)? else { return Ok(()) };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if is_itself(entry.file_name()) {
                continue;
            }
            match self.remove(&directory, entry.file_name()) {
                Ok(false) if self.waiting.len() >= WAITING_MAX => return Ok(()),
                Ok(false) => {
                    let moved = self.move_up(&directory, entry.file_name());
                    self.note(moved);
                }
                removed => self.note(removed.map(drop)),
            }
        }
        self.remove(self.trash, name).map(drop)
    }

    /// Removes a file or an empty directory. Whether it is gone.
    fn remove(&mut self, at: &OwnedFd, name: &CStr) -> rustix::io::Result<bool> {
        let removed = match unlinkat(at, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => unlinkat(at, name, AtFlags::REMOVEDIR),
            other => other,
        };
        match removed {
            Ok(()) => self.done += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }

    fn move_up(&mut self, from: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        let new = new_name();
        // Only who may write in a directory may give it another parent.
        drop(open_up(from, name)?);
        match renameat(from, name, self.trash, new.as_str()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        }
        self.done += 1;
        self.waiting.push(new);
        Ok(())
    }
}

fn is_itself(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// Opens a directory. Overlays leave directories that nobody may enter, and programs in pods may do so too.
fn open_up(at: &OwnedFd, name: &CStr) -> rustix::io::Result<Option<OwnedFd>> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = match openat(at, name, flags | OFlags::PATH, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other?,
    };
    let _says_the_next_step =
        chmod(format!("/proc/self/fd/{}", place.as_fd().as_raw_fd()), Mode::from_raw_mode(0o700));
    openat(&place, c".", flags | OFlags::RDONLY, Mode::empty()).map(Some)
}
