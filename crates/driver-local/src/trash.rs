//! Takes files out of view at once and removes them later.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::plan::dir;

/// Depth of directories that are opened up for removal, at most.
const DEPTH_MAX: u32 = 1000;

/// Moves `path` away. What is not there is fine.
pub fn discard(state_dir: &Path, path: &Path) -> io::Result<()> {
    let place = state_dir.join(dir::TRASH).join(uuid::Uuid::now_v7().simple().to_string());
    match fs::rename(path, place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what was moved away. Blocks.
pub fn empty(state_dir: &Path) {
    let trash: PathBuf = state_dir.join(dir::TRASH);
    for entry in fs::read_dir(&trash).into_iter().flatten().flatten() {
        if let Err(error) = remove(&entry.path()) {
            tracing::warn!(path = %entry.path().display(), error = %error, "failed to remove discarded files");
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = |path: &Path| match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if removed(path).is_ok() {
        return Ok(());
    }
    // Overlays leave directories that nobody may enter, and programs in pods may do so too.
    open_up(path, DEPTH_MAX)?;
    removed(path)
}

fn open_up(path: &Path, depth: u32) -> io::Result<()> {
    if depth == 0 || !fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        open_up(&entry?.path(), depth - 1)?;
    }
    Ok(())
}
