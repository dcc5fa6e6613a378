//! Speaks to holders, without blocking.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
    process::{WaitId, WaitIdOptions, waitid},
};
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::{
    plan::{MESSAGE_BYTES_MAX, Request, file},
    sys,
};

/// Bytes of what a holder or a supervisor says, at most.
const ANSWER_BYTES_MAX: usize = 4096;

/// A socket that keeps the borders of messages.
pub struct Connection(AsyncFd<OwnedFd>);

impl Connection {
    /// Takes an open, non-blocking socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor is always the same one and stays open as long as the value lives.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// The socket itself.
    pub fn socket(&self) -> &OwnedFd {
        self.0.get_ref()
    }

    /// Connects to the holder of the pod in `pod_dir`.
    pub fn to_holder(pod_dir: &Path) -> io::Result<Self> {
        // By a descriptor, since a socket's path is short.
        let dir =
            rustix::fs::open(pod_dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&dir), file::HOLDER);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Asks. The socket's buffer takes one request at least.
    pub async fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(request)?;
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        self.0
            .async_io(tokio::io::Interest::WRITABLE, |socket| sys::send_with_fds(socket.as_fd(), &bytes, fds))
            .await
    }

    /// Hears one message, with its descriptors. None: the other side is gone.
    pub async fn hear_bytes(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; ANSWER_BYTES_MAX];
        let hear = |socket: &OwnedFd| sys::receive_with_fds(socket.as_fd(), &mut bytes);
        let (length, fds) = self.0.async_io(tokio::io::Interest::READABLE, hear).await?;
        bytes.truncate(length);
        Ok((length > 0).then_some((bytes, fds)))
    }

    /// Hears one message and understands it.
    pub async fn hear<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((bytes, fds)) = self.hear_bytes().await? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&bytes)?, fds)))
    }
}

/// A process that is waited for by its descriptor.
pub struct Process(AsyncFd<OwnedFd>);

impl Process {
    /// Takes a pidfd.
    pub fn new(pidfd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an owned descriptor is always the same one and stays open as long as the value lives.
        Ok(Self(unsafe { AsyncFd::register(pidfd) }?))
    }

    /// Sends a signal, unless it is gone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _gone = rustix::process::pidfd_send_signal(self.0.get_ref(), signal);
    }

    /// Reaps it where it is a child of this process, so after it is gone. Holders are the launcher's children; when that
    /// was killed, they fall to the machine's first process, which in a container may be this one.
    pub fn reap(&self) {
        let _not_ours =
            waitid(WaitId::PidFd(self.0.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// Waits until it is gone.
    pub async fn gone(&self) {
        // An error of the reactor ends the wait; the caller looks again by other means.
        let _gone = self.0.readable().await.map(|mut guard| guard.retain_ready());
    }
}
