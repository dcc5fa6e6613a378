//! Netlink messages, written by hand: as much of rtnetlink and nf_tables as a pod's network takes.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// Bytes of an answer, at most: acknowledgements repeat the request's header only.
const ANSWER_BYTES_MAX: usize = 8192;
const HEADER_BYTES: usize = 16;
/// Bytes of a part of a longer answer, at most.
const DUMP_BYTES: usize = 16 * 1024;

/// Messages to be sent at once.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    acknowledged: usize,
}

impl Batch {
    /// Adds a message. `fixed` is the family's own header. The kernel confirms it when it has [`ACK`](libc::NLM_F_ACK).
    pub fn message(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        fixed: &[u8],
        attributes: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        let flags = flags | libc::NLM_F_REQUEST;
        self.acknowledged += usize::from(flags & libc::NLM_F_ACK != 0);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(u16::try_from(flags).unwrap_or(0).to_ne_bytes());
        self.bytes.extend([0; 8]);
        self.bytes.extend(fixed);
        align(&mut self.bytes);
        attributes(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(0);
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends the messages and waits until each is confirmed.
    ///
    /// # Errors
    /// The first error that the kernel reports.
    pub fn send(self, protocol: netlink_protocol::Protocol) -> io::Result<()> {
        let socket = open(protocol)?;
        send(&socket, &self.bytes, SendFlags::empty())?;
        let mut confirmed = 0;
        let mut answer = [0_u8; ANSWER_BYTES_MAX];
        while confirmed < self.acknowledged {
            let (length, _) = recv(socket.as_fd(), &mut answer[..], RecvFlags::empty())?;
            let mut rest = answer.get(..length).unwrap_or_default();
            while let Some((header, body)) = rest.split_at_checked(HEADER_BYTES) {
                let size = usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]))
                    .unwrap_or(0);
                let kind = i32::from(u16::from_ne_bytes([header[4], header[5]]));
                if kind == libc::NLMSG_ERROR {
                    let errno =
                        body.get(..4).map_or(libc::EIO, |b| -i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                    if errno != 0 {
                        return Err(io::Error::from_raw_os_error(errno));
                    }
                    confirmed += 1;
                }
                rest = rest.get(size.max(HEADER_BYTES).next_multiple_of(4)..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

/// Which part of the kernel is spoken to.
pub mod netlink_protocol {
    /// A netlink protocol.
    #[derive(Debug, Clone, Copy)]
    pub enum Protocol {
        /// Links, addresses and routes.
        Route,
        /// nf_tables.
        Netfilter,
        /// Sockets.
        Sockets,
    }
}

/// Asks for all of a kind, and visits what follows the header of each message of the answer. The kernel answers at once.
pub fn dump(socket: &OwnedFd, kind: u16, fixed: &[u8], mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.message(kind, libc::NLM_F_DUMP, fixed, |_| {});
    send(socket, &batch.bytes, SendFlags::empty())?;
    let mut answer = vec![0_u8; DUMP_BYTES];
    loop {
        let (length, _) = recv(socket.as_fd(), &mut answer[..], RecvFlags::DONTWAIT)?;
        let mut rest = answer.get(..length).unwrap_or_default();
        while let Some(size) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let size = usize::try_from(size).unwrap_or(0);
            let (Some(message), Some(kind)) = (rest.get(HEADER_BYTES..size), rest.get(4..6)) else { break };
            match i32::from(u16::from_ne_bytes([kind[0], kind[1]])) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => {
                    let errno = message.first_chunk().map_or(libc::EIO, |bytes| -i32::from_ne_bytes(*bytes));
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => visit(message),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The attributes of a message, from after its fixed part on: kind and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let size = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]), value))
    })
}

/// Opens a socket in the present network namespace.
pub fn open(protocol: netlink_protocol::Protocol) -> io::Result<OwnedFd> {
    let protocol = match protocol {
        netlink_protocol::Protocol::Route => None,
        netlink_protocol::Protocol::Netfilter => Some(netlink::NETFILTER),
        netlink_protocol::Protocol::Sockets => Some(netlink::SOCK_DIAG),
    };
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

fn align(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Writes a message's attributes.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// Adds an attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(0);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        align(self.0);
        self
    }

    /// Adds a text that ends with a zero byte.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::from(value);
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds a number in network byte order, as nf_tables wants it.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds an attribute made of attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nest_after(kind, &[], inner)
    }

    /// Adds an attribute made of a fixed part and attributes.
    pub fn nest_after(
        &mut self,
        kind: u16,
        fixed: &[u8],
        inner: impl FnOnce(&mut Attributes<'_>),
    ) -> &mut Self {
        const NESTED: u16 = 1 << 15;
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend((kind | NESTED).to_ne_bytes());
        self.0.extend(fixed);
        align(self.0);
        inner(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - start).unwrap_or(0);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }
}
