//! Takes memory in ways that a shell cannot, then waits to be killed.

use std::{
    ffi::OsString,
    io::Write,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{UnixDatagram, UnixStream},
    },
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
        Some("epolls") => epolls(),
        Some("numbers") => return numbers(),
        Some("memfd") => memfd(bytes),
        Some("shared") => shared(bytes),
        Some("sysv") => segments(bytes),
        Some("mapped") => mapped(rustix::fs::memfd_create("hog", rustix::fs::MemfdFlags::CLOEXEC), bytes),
        Some("mapped-on-disk") => (0..bytes / PIECE).try_for_each(|_| mapped(hidden(), PIECE)),
        Some("page-tables") => page_tables(bytes),
        Some("pipes") => pipes(bytes),
        Some("sockets") => sockets(bytes, false),
        Some("left-in-sockets") => sockets(bytes, true),
        Some("left-datagrams") => left_datagrams(bytes),
        Some("connections") => connections(bytes),
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

/// Waits by epoll for an eighth of the events that the user may wait for, of few files.
fn epolls() -> std::io::Result<()> {
    let all = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches")?;
    let mut left = all.trim().parse().unwrap_or(0_usize) / 8;
    let checked = |result: i32| if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: new descriptors, which stay open.
    let files: Vec<i32> =
        (0..2000).map(|_| checked(unsafe { libc::eventfd(0, 0) })).collect::<Result<_, _>>()?;
    while left > 0 {
        // SAFETY: as above.
        let epoll = checked(unsafe { libc::epoll_create1(0) })?;
        for file in files.iter().take(left) {
            let mut event = libc::epoll_event { events: libc::EPOLLIN.cast_unsigned(), u64: 0 };
            // SAFETY: the event outlives the call.
            checked(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, *file, &raw mut event) })?;
        }
        left = left.saturating_sub(files.len());
    }
    Ok(())
}

/// Says how many terminals, watchers of files and message queues there are to be had, up to a hundred each.
fn numbers() -> ExitCode {
    fn many<T, E>(more: impl FnMut() -> Result<T, E>) -> usize {
        std::iter::repeat_with(more).take(100).map_while(Result::ok).collect::<Vec<_>>().len()
    }
    let terminals = many(|| std::fs::File::options().read(true).write(true).open("/dev/ptmx"));
    let watchers = many(|| rustix::fs::inotify::init(rustix::fs::inotify::CreateFlags::CLOEXEC));
    // SAFETY: a new queue, which goes with the pod.
    let queues = many(|| match unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) } {
        -1 => Err(()),
        _ => Ok(()),
    });
    match writeln!(std::io::stdout(), "{terminals} {watchers} {queues}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
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

/// Page tables of pages that were read and never written: all are the one page of zeros.
fn page_tables(bytes: usize) -> std::io::Result<()> {
    /// What one table of 4 KiB is for.
    const OF_TABLE: usize = 2 << 20;
    let length = bytes / 4096 * OF_TABLE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice, read within its bounds.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, flags, -1, 0);
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        libc::madvise(start, length, libc::MADV_NOHUGEPAGE);
        for offset in (0..length).step_by(OF_TABLE) {
            start.cast::<u8>().add(offset).read_volatile();
        }
    }
    Ok(())
}

/// Takes more until there is so much, or no more to be had, and keeps it.
fn until<T>(bytes: usize, mut more: impl FnMut() -> std::io::Result<(T, usize)>) -> std::io::Result<()> {
    let (mut kept, mut taken) = (Vec::new(), 0);
    while taken < bytes {
        let (one, of_it) = more()?;
        kept.push(one);
        taken += of_it;
    }
    std::mem::forget(kept);
    Ok(())
}

/// Writes until no more fits.
fn stuff(mut to: impl Write) -> usize {
    let piece = [1; 32 << 10];
    std::iter::from_fn(|| to.write(&piece).ok()).sum()
}

/// Pipes that nobody reads; the kernel gives less and less to each.
fn pipes(bytes: usize) -> std::io::Result<()> {
    until(bytes, || {
        let ends = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK)?;
        let taken = stuff(std::fs::File::from(ends.1.try_clone()?));
        Ok((ends, taken))
    })
}

/// Pairs of sockets that nobody reads; with `left`, whoever sent is gone.
fn sockets(bytes: usize, left: bool) -> std::io::Result<()> {
    until(bytes, || {
        let (one, other) = UnixStream::pair()?;
        one.set_nonblocking(true)?;
        let taken = stuff(&one);
        Ok(((other, Some(one).filter(|_| !left)), taken))
    })
}

/// Sockets with all the datagrams that they can hold, the first of which is small, and no sender.
fn left_datagrams(bytes: usize) -> std::io::Result<()> {
    let mut number = 0;
    until(bytes, || {
        number += 1;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("hog{number}"))?;
        let socket = UnixDatagram::bind_addr(&name)?;
        let mut taken = 0;
        for size in [1].into_iter().chain(std::iter::repeat(150 << 10)) {
            let sender = UnixDatagram::unbound()?;
            sender.set_nonblocking(true)?;
            match sender.send_to_addr(&vec![1; size], &name) {
                Ok(sent) => taken += sent,
                Err(_) => break,
            }
        }
        Ok((socket, taken))
    })
}

/// Connections that nobody accepts, with all that fits on the way.
fn connections(bytes: usize) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let taken = until(bytes, || {
        // Where little fits in each, there is an end to how many may wait.
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_nonblocking(true)?;
        let taken = stuff(&stream);
        Ok((stream, taken))
    });
    std::mem::forget(listener);
    taken
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
