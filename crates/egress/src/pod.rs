//! What a pod brings: who it is, and the listeners that its traffic arrives at.

use std::{io, net::SocketAddr, sync::Arc};

use freehold_model::{OrganizationId, PodId, WorkspaceId};
use tokio::net::TcpStream;

/// Who a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodIdentity {
    /// The pod.
    pub pod_id: PodId,
    /// The workspace it belongs to, whose grant is in force.
    pub workspace_id: WorkspaceId,
    /// The organization, for rows about traffic without a valid token.
    pub organization_id: OrganizationId,
}

/// Tells where a connection was going before it was redirected.
pub type OriginalDestination = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// The sockets a pod's traffic arrives at. They live in the pod's network namespace.
pub struct Listeners {
    /// Listeners of redirected TCP connections.
    pub tcp: Vec<std::net::TcpListener>,
    /// Sockets of DNS over UDP, with `IP_PKTINFO` or `IPV6_RECVPKTINFO` where they are bound to any address.
    pub dns: Vec<std::net::UdpSocket>,
    /// How to learn a connection's original destination.
    pub original_destination: OriginalDestination,
}

impl Listeners {
    /// Listeners behind TPROXY: the accepted socket's own address is the original destination.
    pub fn tproxy(tcp: Vec<std::net::TcpListener>, dns: Vec<std::net::UdpSocket>) -> Self {
        Self { tcp, dns, original_destination: Arc::new(TcpStream::local_addr) }
    }
}
