//! The pod's name server: over UDP on port 53, and over TCP for connections to port 53.
//!
//! Every name has a made-up address; nothing is resolved until a request is allowed. Whether any rule names it is
//! recorded; the refusal itself is the 403 at HTTP, which tells the agent what happened.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

use freehold_policy::{DnsDecision, normal_host};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
};

use crate::{
    audit,
    deny::Reason,
    dns::{self, Answer, PACKET_BYTES_MAX, Parsed, Question},
    names::NameError,
    options::ms,
    pod::{FAULT_PAUSE, Pod},
};

/// Questions over UDP that one pod may have open at a time on one socket; further ones wait in the socket's queue.
const QUESTIONS_AT_ONCE_MAX: usize = 32;

/// Asks the kernel to say which of its addresses a packet was sent to, so that the answer can leave with it: a client
/// drops answers from any other.
pub(crate) fn ask_for_queried_address(socket: &std::net::UdpSocket) -> io::Result<()> {
    if socket.local_addr()?.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    }
    Ok(())
}

/// Answers questions, several at once: one that waits for room in the audit log must not hold up those that a later
/// token or grant lets through. At the limit the socket's own queue fills up, and then the kernel drops.
pub(crate) async fn serve_udp(pod: Arc<Pod>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; PACKET_BYTES_MAX + 1];
    // Dropped with this future, and every open question with it.
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        if open.len() >= QUESTIONS_AT_ONCE_MAX {
            open.join_next().await;
        }
        let received = socket.async_io(Interest::READABLE, || receive(socket.as_fd(), &mut buffer)).await;
        let (length, peer, queried) = match received {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(pod.id = %pod.identity.pod_id, error = %error, "DNS socket");
                tokio::time::sleep(FAULT_PAUSE).await;
                continue;
            }
        };
        let (pod, socket, packet) = (Arc::clone(&pod), Arc::clone(&socket), buffer[..length].to_vec());
        open.spawn(async move {
            let Some(reply) = answer(&pod, &packet).await else { return };
            let sent = socket
                .async_io(Interest::WRITABLE, || send(socket.as_fd(), &reply, &peer, queried.as_ref()))
                .await;
            if let Err(error) = sent {
                tracing::debug!(pod.id = %pod.identity.pod_id, error = %error, "DNS answer not sent");
            }
        });
    }
}

/// The address a question was sent to, in the form an answer's source is given.
enum Queried {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, SockaddrStorage, Option<Queried>)> {
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_DONTWAIT)?;
    let queried = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(mut info) => {
            // The queried address becomes the source; the interface is the kernel's to choose.
            info.ipi_spec_dst = info.ipi_addr;
            info.ipi_ifindex = 0;
            Some(Queried::V4(info))
        }
        ControlMessageOwned::Ipv6PacketInfo(mut info) => {
            info.ipi6_ifindex = 0;
            Some(Queried::V6(info))
        }
        _ => None,
    });
    let peer = message.address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((message.bytes, peer, queried))
}

fn send(
    fd: BorrowedFd<'_>,
    reply: &[u8],
    peer: &SockaddrStorage,
    queried: Option<&Queried>,
) -> io::Result<()> {
    let control = queried.map(|queried| match queried {
        Queried::V4(info) => ControlMessage::Ipv4PacketInfo(info),
        Queried::V6(info) => ControlMessage::Ipv6PacketInfo(info),
    });
    sendmsg(fd.as_raw_fd(), &[IoSlice::new(reply)], control.as_slice(), MsgFlags::MSG_DONTWAIT, Some(peer))?;
    Ok(())
}

/// Answers the questions of one connection, one after the other.
pub(crate) async fn serve_tcp(pod: &Pod, mut stream: TcpStream) {
    let limit = ms(pod.state.options.limits.client_handshake_ms);
    loop {
        let exchange = async {
            let length = usize::from(stream.read_u16().await.ok()?);
            if length > PACKET_BYTES_MAX {
                return None;
            }
            let mut packet = vec![0; length];
            stream.read_exact(&mut packet).await.ok()?;
            let reply = answer(pod, &packet).await?;
            let mut framed = u16::try_from(reply.len()).ok()?.to_be_bytes().to_vec();
            framed.extend(reply);
            stream.write_all(&framed).await.ok()
        };
        if !matches!(tokio::time::timeout(limit, exchange).await, Ok(Some(()))) {
            return;
        }
    }
}

async fn answer(pod: &Pod, packet: &[u8]) -> Option<Vec<u8>> {
    match dns::parse(packet) {
        Parsed::Question(query, question) => query.reply(decide(pod, question).await),
        Parsed::Reply(reply) => Some(reply),
        Parsed::Ignore => None,
    }
}

/// Decides and records a question. Nothing is answered that is not recorded.
async fn decide(pod: &Pod, question: Question) -> Answer {
    let (attribution, token, _) = pod.attribution();
    let grant = pod.workspace.grant.load_full();
    let mut row = attribution.dns(grant.as_deref(), question.name.clone());
    row.method = Some(question.kind);
    let mut answer = match normal_host(&question.name) {
        Ok(name) => address(pod, &name),
        Err(_) => Ok(Answer::NoSuchName),
    };
    let decision = grant.as_deref().map(|grant| grant.policy.decide_dns(&question.name));
    match (&answer, token.is_some(), decision) {
        (Err(reason), ..) => audit::denied(&mut row, *reason),
        (_, false, _) => audit::denied(&mut row, Reason::NoToken),
        (_, _, None) => audit::denied(&mut row, Reason::NoGrant),
        (_, _, Some(DnsDecision::Deny(denial))) => {
            audit::denied(&mut row, Reason::Policy(denial.reason));
            if let Some(rule) = &denial.rule {
                audit::by_rule(&mut row, rule);
            }
        }
        (_, _, Some(DnsDecision::Allow { capability })) => audit::allowed(&mut row, &capability),
    }
    if !pod.record(&row).await {
        answer = Err(Reason::AuditUnavailable);
    }
    answer.unwrap_or(Answer::Failure)
}

fn address(pod: &Pod, name: &str) -> Result<Answer, Reason> {
    let names = pod.workspace.names().ok_or(Reason::NamesExhausted)?;
    match names.index(name) {
        Ok(index) => {
            let (v4, v6) = pod.state.ranges.addresses(index);
            Ok(Answer::Addresses(v4, v6))
        }
        Err(NameError::Exhausted) => Err(Reason::NamesExhausted),
        Err(NameError::Closed) => Err(Reason::NoGrant),
        Err(error @ NameError::File(_)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "names");
            Err(Reason::NamesExhausted)
        }
    }
}
