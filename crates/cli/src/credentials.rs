//! The credentials file: which server, with which key. Written for its owner's eyes only.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use freehold_client::Key;
use serde::{Deserialize, Serialize};

use crate::{environment::Environment, failure::Failure, output::read_text};

/// The server a login without address means.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:7070";

/// The most bytes of the file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What is kept of a login.
pub(crate) struct Saved {
    pub url: String,
    pub key: Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    url: String,
    api_key: String,
}

/// Where the file is.
pub(crate) fn path(environment: &Environment) -> Result<PathBuf, Failure> {
    let dir = environment.config_dir.as_ref().ok_or_else(|| {
        Failure::other("there is no home directory to keep credentials in")
            .hint("set HOME or XDG_CONFIG_HOME")
    })?;
    Ok(dir.join("freehold").join("credentials"))
}

/// Reads the file, if there is one.
pub(crate) fn load(environment: &Environment) -> Result<Option<Saved>, Failure> {
    let Ok(path) = path(environment) else { return Ok(None) };
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::io(format!("cannot use {}", path.display()), &error)
                .hint("the file must be yours and readable by you alone; `freehold login` writes it anew"));
        }
    };
    // The parser's message would quote the line, and the line holds the key.
    let file: File = toml::from_str(&text).map_err(|_| {
        Failure::other(format!("{} is not a credentials file", path.display()))
            .hint("sign in again with `freehold login`")
    })?;
    Ok(Some(Saved { url: file.url, key: Key::new(file.api_key) }))
}

/// Reads the file, if nobody else could have written or read it.
fn read(path: &Path) -> io::Result<String> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let opened = options.open(path);
    #[cfg(unix)]
    let opened = opened.map_err(|error| match rustix::io::Errno::from_io_error(&error) {
        Some(rustix::io::Errno::LOOP) => io::Error::other("it is a symbolic link"),
        _ => error,
    });
    let mut file = opened?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("other users may read or write it"));
        }
    }
    read_text(&mut file, FILE_BYTES_MAX)
}

/// Writes the file in one step, so that a crash leaves the old one or the new one.
pub(crate) fn save(environment: &Environment, url: &str, key: &Key) -> Result<PathBuf, Failure> {
    let path = path(environment)?;
    let failed = |error: io::Error| Failure::io(format!("cannot write {}", path.display()), &error);
    let file = File { url: url.to_owned(), api_key: key.expose().to_owned() };
    let text = toml::to_string(&file).map_err(|error| Failure::other(error.to_string()))?;
    let dir = path.parent().unwrap_or(&path);
    fs::create_dir_all(dir).map_err(failed)?;
    // A new temporary file is readable by its owner alone (0600).
    let mut new = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    new.write_all(text.as_bytes()).and_then(|()| new.as_file().sync_all()).map_err(failed)?;
    new.persist(&path).map_err(|error| failed(error.error))?;
    Ok(path)
}
