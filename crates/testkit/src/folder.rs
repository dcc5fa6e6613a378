//! A temporary folder that is removed whatever a test left in it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long removal is tried: what was killed a moment ago may still make files.
const REMOVE_MAX: Duration = Duration::from_secs(5);
/// The pause between tries.
const PAUSE: Duration = Duration::from_millis(10);

/// A temporary folder that lives as long as a test.
///
/// The kernel leaves folders without any rights in the work directories of overlays, which an ordinary user cannot look into;
/// they are opened before they are removed.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// A new folder whose name begins with `prefix`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(prefix: &str) -> io::Result<Self> {
        tempfile::Builder::new().prefix(prefix).tempdir().map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let start = Instant::now();
        while let Err(error) = remove(self.path()) {
            if start.elapsed() >= REMOVE_MAX {
                #[expect(clippy::print_stderr, reason = "a test's output is where its maker looks")]
                {
                    eprintln!("{} stays behind: {error}", self.path().display());
                }
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            open(folder)?;
            fs::remove_dir_all(folder)
        }
        Ok(()) => Ok(()),
    }
}

/// Gives the owner all rights on the folder and those in it; links are not followed.
fn open(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_closed_folders_in_it_is_removed() {
        let folder = Folder::new("freehold-testkit-").unwrap();
        let path = folder.path().to_owned();
        let closed = path.join("work/incompat/volatile");
        fs::create_dir_all(closed.join("dirty")).unwrap();
        for dir in [closed, path.join("work/incompat"), path.join("work")] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o000)).unwrap();
        }
        drop(folder);
        assert!(!path.exists());
    }
}
