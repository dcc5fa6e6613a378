//! Takes memory in ways that a shell cannot, then waits to be killed.

use std::{ffi::OsString, os::fd::OwnedFd, process::ExitCode, time::Duration};

/// How long a hog lives when nobody minds it.
const LIFE: Duration = Duration::from_secs(30);
/// Bytes of one segment or of one write.
const PIECE: usize = 8 << 20;

/// `hog KIND MEBIBYTES`. It ends with 0 when nobody minded, and with 3 when it did not get what it wanted.
pub fn hog(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
    let bytes = arguments.get(1).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0) << 20;
    let taken = match arguments.first().map(String::as_str) {
        Some("memfd") => memfd(bytes),
        Some("shared") => shared(bytes),
        Some("sysv") => segments(bytes),
        _ => return ExitCode::from(2),
    };
    if taken.is_err() {
        return ExitCode::from(3);
    }
    std::thread::sleep(LIFE);
    ExitCode::SUCCESS
}

/// A file in memory that is not mapped.
fn memfd(bytes: usize) -> std::io::Result<()> {
    let file: OwnedFd = rustix::fs::memfd_create("hog", rustix::fs::MemfdFlags::CLOEXEC)?;
    let piece = vec![1; 1 << 20];
    for _ in 0..bytes / piece.len() {
        rustix::io::write(&file, &piece)?;
    }
    std::mem::forget(file);
    Ok(())
}

/// A shared mapping of no file.
fn shared(bytes: usize) -> std::io::Result<()> {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the mapping has that many bytes, and nobody else knows of it.
    unsafe { std::ptr::write_bytes(start.cast::<u8>(), 1, bytes) };
    Ok(())
}

/// Segments of System V, filled.
fn segments(bytes: usize) -> std::io::Result<()> {
    for _ in 0..bytes / PIECE {
        // SAFETY: a new segment at an address of the kernel's choice, filled to its end.
        unsafe {
            let segment = libc::shmget(libc::IPC_PRIVATE, PIECE, libc::IPC_CREAT | 0o600);
            if segment < 0 {
                return Err(std::io::Error::last_os_error());
            }
            let start = libc::shmat(segment, std::ptr::null(), 0);
            if start.addr() == usize::MAX {
                return Err(std::io::Error::last_os_error());
            }
            std::ptr::write_bytes(start.cast::<u8>(), 1, PIECE);
        }
    }
    Ok(())
}
