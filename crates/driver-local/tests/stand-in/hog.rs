//! Takes memory in ways that a shell cannot, then waits to be killed.

use std::{
    ffi::OsString,
    os::fd::{AsRawFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

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
        Some("mapped") => mapped(rustix::fs::memfd_create("hog", rustix::fs::MemfdFlags::CLOEXEC), bytes),
        Some("mapped-on-disk") => (0..bytes / PIECE).try_for_each(|_| mapped(hidden(), PIECE)),
        Some("descriptors") => descriptors().and_then(|()| memfd(bytes)),
        Some("leaderless") => leaderless(move || shared(bytes)),
        Some("leaderless-private") => leaderless(move || {
            std::mem::forget(vec![1_u8; bytes]);
            Ok(())
        }),
        Some("leaderless-on-disk") => leaderless(move || {
            let files: Vec<OwnedFd> = (0..bytes / PIECE).map(|_| hidden()).collect::<Result<_, _>>()?;
            files.into_iter().try_for_each(|file| {
                fill(&file, PIECE)?;
                std::mem::forget(file);
                Ok(())
            })
        }),
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
    fill(&file, bytes)?;
    std::mem::forget(file);
    Ok(())
}

fn fill(file: &OwnedFd, bytes: usize) -> std::io::Result<()> {
    let piece = vec![1; 1 << 20];
    for _ in 0..bytes / piece.len() {
        rustix::io::write(file, &piece)?;
    }
    Ok(())
}

/// A file in the working directory that no directory names.
fn hidden() -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open("hog", OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlink("hog")?;
    Ok(file)
}

/// A file that is full, mapped, never touched where it is mapped, and not open.
fn mapped(file: rustix::io::Result<OwnedFd>, bytes: usize) -> std::io::Result<()> {
    let file = file?;
    let (access, flags) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    fill(&file, bytes)
}

/// More descriptors than a look would like to look at.
fn descriptors() -> std::io::Result<()> {
    for _ in 0..4200 {
        std::mem::forget(std::fs::File::open("/dev/null")?);
    }
    Ok(())
}

/// Goes on in another thread; the first one ends.
fn leaderless(take: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> ! {
    std::thread::spawn(move || {
        if take().is_err() {
            std::process::exit(3);
        }
        std::thread::sleep(LIFE);
        std::process::exit(0);
    });
    // SAFETY: nothing of this thread is needed any more; the process goes on without it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    std::process::abort()
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
