//! `read_file`, `write_file`, `edit_file`, and files that come with a task.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Deserialize;

use super::{Outcome, work_folder};

/// The most bytes of text in one answer of `read_file`.
const READ_BYTES_MAX: usize = 48 * 1024;
/// The most bytes of one line in it.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// Lines when the model does not say.
const LINES_DEFAULT: u64 = 2000;
/// The most bytes gone through in search of the first line asked for.
const SCAN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How much of a file's beginning decides whether it is text.
const PROBE_BYTES: usize = 8 * 1024;
/// The largest file that is edited, in bytes.
const EDIT_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Folders of an uploaded file that are put right: its task's, and that of all.
const UPLOAD_FOLDERS: usize = 2;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadFile {
    path: PathBuf,
    first_line: Option<u64>,
    line_count: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteFile {
    path: PathBuf,
    content: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EditFile {
    path: PathBuf,
    old: String,
    new: String,
    #[serde(default)]
    replace_all: bool,
}

pub(super) fn read_file(arguments: &ReadFile) -> Outcome {
    let path = work_folder().join(&arguments.path);
    match read_lines(&path, arguments.first_line.unwrap_or(1), arguments.line_count.unwrap_or(LINES_DEFAULT))
    {
        Ok(outcome) => outcome,
        Err(error) => failed("read", &path, &error),
    }
}

fn read_lines(path: &Path, first: u64, count: u64) -> io::Result<Outcome> {
    if first == 0 || count == 0 {
        return Ok(Outcome::error("Lines count from 1, and at least one must be asked for."));
    }
    let file = open_regular(path)?;
    let size = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(PROBE_BYTES, file.take(SCAN_BYTES_MAX));
    if reader.fill_buf()?.contains(&0) {
        return Ok(Outcome::error(format!("{} is a binary file of {size} bytes.", path.display())));
    }
    let (mut text, mut number) = (String::new(), 0_u64);
    let mut line = Vec::new();
    loop {
        let length = next_line(&mut reader, &mut line)?;
        if length == 0 {
            break;
        }
        number += 1;
        if number < first {
            continue;
        }
        if number - first == count || text.len() + line.len() > READ_BYTES_MAX {
            text.push_str(&format!(
                "[more lines follow; go on with first_line {number}; the file has {size} bytes]"
            ));
            return Ok(Outcome::success(text));
        }
        text.push_str(&String::from_utf8_lossy(&line));
        if length > line.len() {
            text.push_str(&format!("[... {} bytes of this line cut]\n", length - line.len()));
        }
    }
    Ok(match (text.is_empty(), number) {
        (true, 0) => Outcome::success("[the file is empty]"),
        (true, _) => Outcome::error(format!("The file has only {number} lines.")),
        (false, _) => Outcome::success(text),
    })
}

/// Reads a line, of which at most [`LINE_BYTES_MAX`] bytes are kept; returns its true length.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    line.clear();
    let mut length = 0;
    loop {
        let buffer = reader.fill_buf()?;
        let (used, ended) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(index) => (index + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        let kept = used.min(LINE_BYTES_MAX - line.len());
        line.extend_from_slice(&buffer[..kept]);
        reader.consume(used);
        length += used;
        if ended {
            return Ok(length);
        }
    }
}

pub(super) fn write_file(arguments: &WriteFile) -> Outcome {
    let path = work_folder().join(&arguments.path);
    let existed = path.exists();
    match replace(&path, arguments.content.as_bytes()) {
        Ok(()) => {
            let what = if existed { "Replaced" } else { "Created" };
            Outcome::success(format!("{what} {} ({} bytes).", path.display(), arguments.content.len()))
        }
        Err(error) => failed("write", &path, &error),
    }
}

pub(super) fn edit_file(arguments: &EditFile) -> Outcome {
    let path = work_folder().join(&arguments.path);
    let edited = read_whole(&path).and_then(|text| match edited(&text, arguments) {
        Ok((text, count)) => replace(&path, text.as_bytes()).map(|()| {
            let places = if count == 1 { "place" } else { "places" };
            Outcome::success(format!("Edited {} in {count} {places}.", path.display()))
        }),
        Err(why) => Ok(Outcome::error(format!("{why} Nothing was changed."))),
    });
    edited.unwrap_or_else(|error| failed("edit", &path, &error))
}

fn edited(text: &str, arguments: &EditFile) -> Result<(String, usize), String> {
    let EditFile { old, new, replace_all, .. } = arguments;
    if old.is_empty() {
        return Err("`old` is empty.".into());
    }
    if old == new {
        return Err("`old` and `new` are the same.".into());
    }
    match text.matches(old.as_str()).count() {
        0 => Err("`old` does not occur in the file, white space and line ends included.".into()),
        count if count > 1 && !replace_all => Err(format!(
            "`old` occurs {count} times. Add lines around it until it is unique, or set `replace_all`."
        )),
        count => Ok((text.replace(old.as_str(), new), count)),
    }
}

fn read_whole(path: &Path) -> io::Result<String> {
    let file = open_regular(path)?;
    if file.metadata()?.len() > EDIT_BYTES_MAX {
        return Err(io::Error::other(format!("files larger than {EDIT_BYTES_MAX} bytes are not edited")));
    }
    let mut bytes = Vec::new();
    file.take(EDIT_BYTES_MAX).read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// Opens without waiting for the other end of a FIFO or a device.
fn open_regular(path: &Path) -> io::Result<File> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory; list it with bash"));
    }
    if !kind.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Puts `content` in the place of the file, at once where the folder can be written, through a symbolic link where
/// there is one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = fs::metadata(&path).ok();
    if before.as_ref().is_some_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let permissions = before.map_or(Permissions::from_mode(0o666), |metadata| metadata.permissions());
    let mut builder = tempfile::Builder::new();
    builder.prefix(".freehold-").permissions(permissions.clone());
    match builder.tempfile_in(folder) {
        Ok(mut file) => {
            file.write_all(content)?;
            if path.exists() {
                file.as_file().set_permissions(permissions)?;
            }
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        }
        // The folder takes no new file, but the file itself may be writable.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && path.exists() => {
            fs::write(&path, content)
        }
        Err(error) => Err(error),
    }
}

/// Puts a piece of a file that comes with a task; the first piece makes it anew.
pub(super) fn put(path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let folders: Vec<&Path> = path.ancestors().skip(1).take(UPLOAD_FOLDERS).collect();
    for folder in folders.into_iter().rev() {
        real_folder(folder)?;
    }
    let mut options = OpenOptions::new();
    // What an earlier task left in this place, a link or a pipe for instance, is replaced and never opened.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.write(true).custom_flags(flags.bits().cast_signed());
    if offset == 0 {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        options.create_new(true);
    }
    let mut file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file any more"));
    }
    file.set_len(offset)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes)
}

/// Makes a folder, in the place of whatever else has its name.
fn real_folder(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir_all(path)
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> Outcome {
    Outcome::error(format!("Could not {verb} {}: {error}.", path.display()))
}
