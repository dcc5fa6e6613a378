//! What egress is told once, at start. Every limit has its unit in its name.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;

use crate::ControlPlane;

/// How long a thread looks for an answer if nobody says otherwise: as long as the kernel does for virtual machines on x86
/// (`halt_poll_ns` of KVM).
const BUSY_POLL: Duration = Duration::from_micros(200);

/// What egress needs to start. Build it with [`Options::build`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it keeps its CA, names and spool; made when absent, mode 0700.
    pub state_dir: PathBuf,
    /// Certificates (PEM, several in one text allowed) that upstream servers may be signed by, beside the system's.
    pub upstream_roots_pem: Vec<String>,
    /// Addresses set by the operator: `name` or `name:port` (the port asked for) to the address to dial. They may be private
    /// or loopback.
    pub hosts: HashMap<String, SocketAddr>,
    /// Whether a rule that names an IP address opens it also where it is private. Never this machine's own, and never where
    /// clouds keep their metadata.
    pub rules_name_addresses: bool,
    /// The name servers that allowed names are resolved by; the machine's own when empty.
    pub name_servers: Vec<SocketAddr>,
    /// The first address of the IPv4 range (a /15) that names are answered from.
    pub fake_ipv4_base: Ipv4Addr,
    /// The first address of the IPv6 range (a /111) that names are answered from.
    pub fake_ipv6_base: Ipv6Addr,
    /// Where the control plane is reached, which no pod's request reaches.
    pub control_plane: ControlPlane,
    /// How long a thread looks for a peer's answer before it sleeps, where that peer's last one came within that time. Saves the time
    /// of waking it, and takes the core's as long; zero: it sleeps at once.
    pub busy_poll: Duration,
    /// The limits.
    pub limits: Limits,
    /// How budgets are kept.
    pub budgets: crate::budget::Options,
}

impl Options {
    /// The defaults, with this state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            upstream_roots_pem: Vec::new(),
            hosts: HashMap::new(),
            rules_name_addresses: true,
            name_servers: Vec::new(),
            fake_ipv4_base: Ipv4Addr::new(198, 18, 0, 0),
            fake_ipv6_base: Ipv6Addr::new(0xfd66, 0x7265, 0x6568, 0, 0, 0, 0, 0),
            control_plane: ControlPlane::default(),
            busy_poll: BUSY_POLL,
            limits: Limits::default(),
            budgets: crate::budget::Options::default(),
        }
    }
}

/// Every limit of the proxy. At a limit: connections wait to be accepted, requests are denied, streams are cut; what
/// happens is said at each.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Open connections of one pod; more wait in the kernel's queue.
    pub connections_per_pod_max: usize,
    /// Bytes of a request's head; more is answered 431.
    pub head_bytes_max: usize,
    /// Headers of a request, at most 256; more is answered 431.
    pub headers_max: usize,
    /// Requests at once on one HTTP/2 connection.
    pub streams_per_connection_max: u32,
    /// Bytes that a client may send ahead of what an upstream takes, on one HTTP/2 stream.
    pub client_stream_window_bytes: u32,
    /// The same for a connection, all its streams together.
    pub client_connection_window_bytes: u32,
    /// Bytes that an upstream may send ahead of what a client takes, on one HTTP/2 stream.
    pub upstream_stream_window_bytes: u32,
    /// The same for an upstream connection, which the workspace's streams to one destination share. Several times a
    /// stream's, so that a client that stops reading does not hold up the others.
    pub upstream_connection_window_bytes: u32,
    /// Milliseconds for a client to send its first bytes and finish its TLS handshake, and for a redirector to send its preface.
    pub client_handshake_ms: u64,
    /// Milliseconds a connection may be without a request, a head that is not whole included; it is closed then. Where
    /// bytes still go to the client, `stalled_ms`.
    pub idle_ms: u64,
    /// Milliseconds a request may pass without a byte either way; it is cut then.
    pub stalled_ms: u64,
    /// Kibibytes of request bodies that rules look into and that are held for one pod at once, and the same again of
    /// responses; further ones wait.
    pub bodies_per_pod_kibibytes_max: u32,
    /// Milliseconds a body waits to be read; its request is denied then.
    pub body_wait_ms: u64,
    /// Milliseconds a request of HTTP/1.1 may pass without a byte when its client has closed its side of the connection: it
    /// may wait for the answer, or be gone.
    pub half_closed_ms: u64,
    /// Milliseconds to resolve an upstream's name.
    pub resolve_ms: u64,
    /// Milliseconds to connect to one upstream address, TLS included.
    pub connect_ms: u64,
    /// Milliseconds until the head of an upstream's response.
    pub response_head_ms: u64,
    /// Milliseconds an upstream connection is kept for the next request.
    pub upstream_idle_ms: u64,
    /// Idle upstream connections kept per destination and workspace.
    pub upstream_idle_max: usize,
    /// Upstream connections per workspace, to whatever destinations, but for tunnels; requests wait for one.
    pub upstream_connections_max: usize,
    /// Milliseconds a request waits for one; it is refused then.
    pub upstream_wait_ms: u64,
    /// Upstream connections per workspace, to whatever destinations, that serve more than one request; further ones end with theirs.
    pub upstream_kept_max: usize,
    /// Names one workspace may ask for in its life; further ones get SERVFAIL.
    pub names_per_workspace_max: u32,
    /// Certificates kept for names.
    pub leaf_certificates_max: usize,
    /// Audit rows that the sink has not acknowledged; requests wait at this number.
    pub audit_backlog_rows_max: usize,
    /// Those of one pod; its own requests wait at this number, and no other's.
    pub audit_backlog_rows_per_pod_max: usize,
    /// Rows in one call of the sink.
    pub audit_batch_rows_max: usize,
    /// Milliseconds a request waits for room in the spool; it is denied then.
    pub audit_wait_ms: u64,
    /// Milliseconds a row waits for its latency before it goes to the sink without.
    pub audit_settle_ms: u64,
    /// Milliseconds a row waits at most for others to go to the sink with it, which as many as go in one call do not: each call
    /// costs far more than a row.
    pub audit_linger_ms: u64,
    /// Bytes of a spool file before the next one is begun.
    pub spool_segment_bytes_max: u64,
    /// Milliseconds a request is held until a person decides; it is denied then.
    pub approval_ms: u64,
    /// Milliseconds that are waited for the beginning of a held request's body; people are shown what came until then.
    pub approval_body_ms: u64,
    /// Held requests of one pod; more are denied.
    pub approvals_per_pod_max: usize,
    /// Held requests of one organization; more are denied.
    pub approvals_per_organization_max: usize,
    /// Held requests; more are denied. Each keeps up to 32 KiB of its body.
    pub approvals_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_pod_max: 512,
            head_bytes_max: 64 * 1024,
            headers_max: 128,
            streams_per_connection_max: 128,
            client_stream_window_bytes: 256 * 1024,
            client_connection_window_bytes: 1024 * 1024,
            upstream_stream_window_bytes: 2 * 1024 * 1024,
            upstream_connection_window_bytes: 16 * 1024 * 1024,
            client_handshake_ms: 30_000,
            idle_ms: 300_000,
            stalled_ms: 1_800_000,
            bodies_per_pod_kibibytes_max: 64 * 1024,
            body_wait_ms: 30_000,
            half_closed_ms: 5_000,
            resolve_ms: 5_000,
            connect_ms: 10_000,
            response_head_ms: 900_000,
            upstream_idle_ms: 60_000,
            upstream_idle_max: 16,
            upstream_connections_max: 2_048,
            upstream_wait_ms: 30_000,
            upstream_kept_max: 512,
            names_per_workspace_max: 8_192,
            leaf_certificates_max: 1_024,
            audit_backlog_rows_max: 10_000,
            audit_backlog_rows_per_pod_max: 2_500,
            audit_batch_rows_max: 500,
            audit_wait_ms: 30_000,
            audit_settle_ms: 2_000,
            audit_linger_ms: 100,
            spool_segment_bytes_max: 8 * 1024 * 1024,
            approval_ms: 600_000,
            approval_body_ms: 5_000,
            approvals_per_pod_max: 16,
            approvals_per_organization_max: 128,
            approvals_max: 1_024,
        }
    }
}

/// A limit in milliseconds as a duration.
pub(crate) const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
