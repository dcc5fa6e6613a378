//! The few system calls that no library wraps, and the passing of file descriptors.
//!
//! Invariant: nothing here keeps state; each function is one call and its error.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recv, recvmsg, sendmsg,
    },
    process::Pid,
};

/// Descriptors that one message carries at most.
pub const MESSAGE_FDS_MAX: usize = 40;

/// Turns the result of a raw call into one of Rust's.
fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes a process that goes on here, like `fork`, in the namespaces named by `flags`. `None` in the child.
///
/// # Safety
/// The process must have one thread only.
pub unsafe fn clone(flags: libc::c_int) -> io::Result<Option<Pid>> {
    // SAFETY: without a stack of its own the child continues on a copy of this one, as after fork(2); with one thread
    // no lock is held by anybody else.
    let pid = checked(unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) })?;
    Ok(i32::try_from(pid).ok().and_then(Pid::from_raw))
}

/// Bytes of the stack of a process that shares memory.
const STACK_BYTES: usize = 256 * 1024;

/// Makes a process that runs `run` with this process's memory, on a stack of its own, and ends with its result. Nothing
/// is copied, so that this takes a third of the time of [`clone`].
///
/// # Safety
/// The process must have one thread only. Unless `flags` has `CLONE_VFORK`, with which it waits until the new process has
/// executed a program or ended, the caller must end itself at once and touch no memory. What `run` borrows must live
/// on: the function that owns it must not return before.
pub unsafe fn clone_sharing<F: FnOnce() -> i32>(flags: libc::c_int, run: F) -> io::Result<Pid> {
    extern "C" fn enter<F: FnOnce() -> i32>(run: *mut libc::c_void) -> libc::c_int {
        // SAFETY: it is the box below, which nobody else takes.
        let run = unsafe { Box::from_raw(run.cast::<F>()) };
        run()
    }
    // Both belong to the new process; what is left of them goes with the memory.
    let stack: &mut [u128] = Vec::leak(vec![0; STACK_BYTES / size_of::<u128>()]);
    let top = stack.as_mut_ptr_range().end;
    let run = Box::into_raw(Box::new(run));
    // SAFETY: the stack is as large as said and aligned, and the caller keeps the promises above.
    let pid = checked(libc::c_long::from(unsafe {
        libc::clone(enter::<F>, top.cast(), flags | libc::CLONE_VM | libc::SIGCHLD, run.cast())
    }))?;
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Ends the process at once, without what `exit` does on the way.
pub fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) takes any status and does not return.
    unsafe { libc::_exit(status) }
}

/// Sets attributes of a mount and, when `recursive`, of those below.
pub fn mount_setattr(
    mount: BorrowedFd<'_>,
    set: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: set | user_namespace.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |fd| u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX)),
    };
    // SAFETY: the path is a static C string and the structure lives through the call, with its true size.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Enters a namespace.
pub fn setns(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns(2) takes an open descriptor and no pointer.
    checked(libc::c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), 0) })).map(drop)
}

/// Leaves the present namespaces for new ones.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: unshare(2) takes no pointer; CLONE_FILES, the one flag that could surprise other threads, is never given.
    checked(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// Sets an integer option of a socket that no library names.
pub fn set_socket_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives through the call and its size is given.
    checked(libc::c_long::from(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            u32::try_from(size_of::<i32>()).unwrap_or(4),
        )
    }))
    .map(drop)
}

/// Blocks the signals and makes a descriptor that tells of them.
pub fn signal_descriptor(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set; the other calls get that set and valid signal numbers.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        checked(libc::c_long::from(libc::sigprocmask(
            libc::SIG_SETMASK,
            set.as_ptr(),
            std::ptr::null_mut(),
        )))?;
        let fd = checked(libc::c_long::from(libc::signalfd(
            -1,
            set.as_ptr(),
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )))?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)))
    }
}

/// Blocks no signal and leaves every one to its default, as a program expects it.
pub fn reset_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, which lives through the calls.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Whether the kernel reaps this process's children as soon as they end, so that nobody can wait for them.
pub fn leave_children(leave: bool) {
    let what = if leave { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: neither is a handler that could run.
    unsafe { libc::signal(libc::SIGCHLD, what) };
}

/// Replaces the program. Returns only when that failed.
pub fn execute(
    program: &std::ffi::CStr,
    arguments: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> io::Error {
    let pointers = |strings: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer and, like the strings, outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Filters the system calls of this process and of all that come from it. It must not be able to gain privileges.
pub fn filter_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel reads the program and writes nothing.
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program lives through the call, with its true length.
    checked(libc::c_long::from(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
            &raw const program,
            0_u64,
            0_u64,
        )
    }))
    .map(drop)
}

/// Makes `from` available as descriptor `to`, also after the program is replaced.
pub fn place(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    // SAFETY: dup2(2) takes numbers only; what `to` was belongs to this single-threaded process, which is about to
    // replace its program and uses no descriptor below the placed ones any more.
    checked(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Closes every descriptor from `first` to `last`.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the callers own no descriptor in the range that they use afterwards.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Sends one message with descriptors.
pub fn send_with_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives one message of at most `bytes_max` with its descriptors, as [`receive_with_fds`] does, into as much memory as
/// it takes: what a process of each pod touches once stays its own.
pub fn receive_any_with_fds(socket: BorrowedFd<'_>, bytes_max: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (_, length) = recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::TRUNC)?;
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    let (length, fds) = receive_with_fds(socket, &mut bytes)?;
    bytes.truncate(length);
    Ok((bytes, fds))
}

/// Receives one message with its descriptors. No bytes: the other side is gone. A message longer than the buffer is an
/// error.
pub fn receive_with_fds(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((received.bytes, fds))
}
