//! What lies in the buffers of a pod's sockets, as the kernel tells of a whole network namespace: also of sockets that
//! no process has open, since they wait to be accepted or to be received, or were closed before all was sent.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use super::tools::read;
use crate::holder::netlink::{attributes, dump};

/// The kernel's name for the question about sockets of a family.
const BY_FAMILY: u16 = 20;
const UNIX_FIXED_BYTES: usize = 16;
const UNIX_INODE_AT: usize = 4;
/// What is asked of a Unix socket: its peer, the length of its queue, its memory.
const UNIX_SHOW: u32 = 0x4 | 0x10 | 0x20;
const UNIX_PEER: u16 = 2;
const UNIX_QUEUE: u16 = 4;
const UNIX_MEMORY: u16 = 5;
const INET_FIXED_BYTES: usize = 72;
const INET_INODE_AT: usize = 68;
const INET_MEMORY: u16 = 7;
const NETLINK_FIXED_BYTES: usize = 28;
const NETLINK_INODE_AT: usize = 16;
/// What is asked of a netlink socket: its memory.
const NETLINK_SHOW: u32 = 1;
const NETLINK_MEMORY: u16 = 0;
/// In memory for each byte that waits at most, when each came by itself.
const OVERHEAD: u64 = 1024;
/// Bytes that a sender may have on the way, where the machine does not say: in a container of its own network.
const BUFFER_BYTES: u64 = 212_992;
/// Messages that wait at a socket for datagrams, at most, where nobody changed it.
const DATAGRAMS_MAX: u64 = 11;
/// Pages of all TCP or UDP sockets of the machine are not worth a walk over them while they are fewer than this part of
/// the pod's limit.
const WORTH_A_WALK: u64 = 16;

/// Bytes in the buffers of sockets.
#[derive(Debug, Default)]
pub struct Buffers {
    pub all: u64,
    /// Of those that some process may have open, by inode.
    pub by_inode: BTreeMap<u64, u64>,
}

impl Buffers {
    fn add(&mut self, inode: Option<u32>, bytes: u64) {
        self.all = self.all.saturating_add(bytes);
        if let Some(inode) = inode.filter(|inode| *inode != 0 && bytes > 0) {
            self.by_inode.insert(inode.into(), bytes);
        }
    }

    /// Asks the kernel. What it does not tell is not counted.
    pub fn look(socket: &OwnedFd, proc: &OwnedFd, page_bytes: u64, max: u64) -> Self {
        let mut buffers = Self::default();
        let buffer = read(proc, "sys/net/core/wmem_default").trim().parse().unwrap_or(BUFFER_BYTES);
        let _not_told = unix(socket, |one| buffers.add(one.inode, one.bytes(buffer)));
        let used = read(proc, "1/net/sockstat");
        for (name, protocol) in [("TCP:", libc::IPPROTO_TCP), ("UDP:", libc::IPPROTO_UDP)] {
            let pages = pages(&used, name).unwrap_or(u64::MAX);
            if pages.saturating_mul(page_bytes) >= max / WORTH_A_WALK {
                for family in [libc::AF_INET, libc::AF_INET6] {
                    let _not_told =
                        inet(socket, family, protocol, |inode, bytes| buffers.add(Some(inode), bytes));
                }
            }
        }
        let _not_told = netlink(socket, |inode, bytes| buffers.add(Some(inode), bytes));
        buffers
    }
}

/// A Unix socket.
#[derive(Debug, Default, Clone, Copy)]
struct Unix {
    inode: Option<u32>,
    is_datagram: bool,
    has_peer: bool,
    /// Bytes that it can read: for datagrams, of the first one.
    queue: u64,
    /// What it sent and nobody read yet counts here.
    memory: u64,
}

impl Unix {
    /// What a sender that is gone left behind counts for nobody: at most the buffer of one sender for a stream, which may
    /// have been made larger, and for datagrams those of as many as fit the queue.
    fn bytes(self, buffer: u64) -> u64 {
        let left = match (self.queue, self.is_datagram, self.has_peer) {
            (0, _, _) | (_, false, true) => 0,
            (queue, false, false) => queue.saturating_mul(OVERHEAD).min(queue.max(buffer).saturating_mul(2)),
            (_, true, _) => buffer.saturating_mul(DATAGRAMS_MAX),
        };
        self.memory.saturating_add(left)
    }
}

fn unix(socket: &OwnedFd, mut visit: impl FnMut(Unix)) -> io::Result<()> {
    // struct unix_diag_req: family, protocol, padding, states, inode, what to show, cookie.
    let mut request = vec![libc::AF_UNIX.to_ne_bytes()[0], 0, 0, 0];
    for word in [u32::MAX, 0, UNIX_SHOW, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    dump(socket, BY_FAMILY, &request, |message| {
        let mut one = Unix {
            inode: word(message, UNIX_INODE_AT),
            is_datagram: message.get(1).copied().map(i32::from) == Some(libc::SOCK_DGRAM),
            ..Unix::default()
        };
        for (kind, value) in attributes(message.get(UNIX_FIXED_BYTES..).unwrap_or_default()) {
            match kind {
                UNIX_PEER => one.has_peer = word(value, 0).is_some_and(|peer| peer != 0),
                UNIX_QUEUE => one.queue = word(value, 0).unwrap_or(0).into(),
                UNIX_MEMORY => one.memory = memory(value),
                _ => {}
            }
        }
        visit(one);
    })
}

fn inet(socket: &OwnedFd, family: i32, protocol: i32, mut visit: impl FnMut(u32, u64)) -> io::Result<()> {
    const SOCKET_ID_BYTES: usize = 48;
    // struct inet_diag_req_v2: family, protocol, what to show, padding, states, which.
    let mut request = vec![family.to_ne_bytes()[0], protocol.to_ne_bytes()[0], 1 << (INET_MEMORY - 1), 0];
    request.extend(u32::MAX.to_ne_bytes());
    request.extend([0; SOCKET_ID_BYTES]);
    dump(socket, BY_FAMILY, &request, |message| {
        let attributes = attributes(message.get(INET_FIXED_BYTES..).unwrap_or_default());
        let bytes = attributes.filter(|(kind, _)| *kind == INET_MEMORY).map(|(_, value)| memory(value)).sum();
        visit(word(message, INET_INODE_AT).unwrap_or(0), bytes);
    })
}

fn netlink(socket: &OwnedFd, mut visit: impl FnMut(u32, u64)) -> io::Result<()> {
    const ALL_PROTOCOLS: u8 = u8::MAX;
    // struct netlink_diag_req: family, protocol, padding, inode, what to show, cookie.
    let mut request = vec![libc::AF_NETLINK.to_ne_bytes()[0], ALL_PROTOCOLS, 0, 0];
    for word in [0, NETLINK_SHOW, 0, 0_u32] {
        request.extend(word.to_ne_bytes());
    }
    dump(socket, BY_FAMILY, &request, |message| {
        let attributes = attributes(message.get(NETLINK_FIXED_BYTES..).unwrap_or_default());
        let bytes =
            attributes.filter(|(kind, _)| *kind == NETLINK_MEMORY).map(|(_, value)| memory(value)).sum();
        visit(word(message, NETLINK_INODE_AT).unwrap_or(0), bytes);
    })
}

/// Bytes of a socket's memory, as the kernel lists them: received, and its limit; sent, and its limit; reserved; in the
/// queue to be sent; for options; received while it was busy.
fn memory(list: &[u8]) -> u64 {
    let at = |index: usize| u64::from(word(list, index * 4).unwrap_or(0));
    let (received, sent, reserved, queued, busy) = (at(0), at(2), at(4), at(5), at(7));
    [received, sent.max(queued), reserved, busy].into_iter().fold(0, u64::saturating_add)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The pages of a line like `TCP: inuse 5 orphan 0 tw 0 alloc 7 mem 1`, which are of the whole machine.
fn pages(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;
    use crate::holder::netlink::{netlink_protocol::Protocol, open};

    /// What this process's network has in Unix sockets with these inodes.
    fn look(of: &[&dyn std::os::fd::AsFd]) -> Vec<Unix> {
        let inodes: Vec<u64> = of.iter().map(|one| rustix::fs::fstat(one).unwrap().st_ino).collect();
        let mut seen = Vec::new();
        unix(&open(Protocol::Sockets).unwrap(), |one| {
            if one.inode.is_some_and(|inode| inodes.contains(&inode.into())) {
                seen.push(one);
            }
        })
        .unwrap();
        seen
    }

    #[test]
    fn what_waits_in_unix_sockets_counts_also_when_its_sender_is_gone() {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let mut bytes = 0;
        while let Ok(more) = io::Write::write(&mut &one, &[1; 4096]) {
            bytes += u64::try_from(more).unwrap();
        }
        let seen: u64 = look(&[&one, &other]).into_iter().map(|one| one.bytes(BUFFER_BYTES)).sum();
        assert!((bytes..4 * bytes).contains(&seen), "{seen} of {bytes}");
        drop(one);
        let [left] = look(&[&other])[..] else { panic!("not told") };
        assert_eq!((left.has_peer, left.queue, left.bytes(1 << 20)), (false, bytes, 2 << 20));
        let (one, other) = UnixDatagram::pair().unwrap();
        one.send(&[1; 4096]).unwrap();
        drop(one);
        assert_eq!(look(&[&other])[0].bytes(1 << 20), DATAGRAMS_MAX << 20);
    }

    #[test]
    fn what_waits_in_tcp_sockets_counts() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        let mut bytes = 0;
        // Nobody accepts it: what arrived is on no descriptor.
        while let Ok(more) = io::Write::write(&mut &client, &[1; 65_536]) {
            bytes += u64::try_from(more).unwrap();
        }
        let before = |family| {
            let mut sum = 0;
            inet(&open(Protocol::Sockets).unwrap(), family, libc::IPPROTO_TCP, |_, bytes| sum += bytes)
                .unwrap();
            sum
        };
        assert!(before(libc::AF_INET) >= bytes, "{} of {bytes}", before(libc::AF_INET));
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let text = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 12\nUDP: inuse 1 mem 3\n";
        assert_eq!(
            (pages(text, "TCP:"), pages(text, "UDP:"), pages(text, "RAW:")),
            (Some(12), Some(3), None)
        );
    }
}
