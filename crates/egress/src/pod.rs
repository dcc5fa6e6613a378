//! A pod that is attached: who it is, its listeners, its token, and the loops that accept.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::{ArcSwap, ArcSwapOption};
use freehold_model::{OrganizationId, PodId, WorkspaceId, audit::AuditEvent};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use crate::{
    audit::Attribution,
    connection,
    masking::Told,
    nameserver,
    options::ms,
    preface,
    spool::Unsettled,
    state::{State, Workspace},
    token::Verified,
};

/// How long to wait after a socket failed (no file descriptors left, say) before the next connection or question.
pub(crate) const FAULT_PAUSE: Duration = Duration::from_millis(50);

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

/// Learns a connection's original destination from its socket.
type Ask = Box<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// What tells where a connection was going before it was redirected.
pub(crate) enum OriginalDestination {
    /// Its socket.
    Socket(Ask),
    /// Its preface, with which it begins.
    Preface,
}

/// The sockets a pod's traffic arrives at. They live in the pod's network namespace.
pub struct Listeners {
    /// Of redirected TCP connections.
    pub(crate) tcp: Vec<std::net::TcpListener>,
    /// Of DNS over UDP.
    pub(crate) dns: Vec<std::net::UdpSocket>,
    pub(crate) original_destination: OriginalDestination,
}

impl Listeners {
    /// Listeners behind TPROXY: the accepted socket's own address is the original destination.
    pub fn tproxy(tcp: Vec<std::net::TcpListener>, dns: Vec<std::net::UdpSocket>) -> Self {
        Self::asking(tcp, dns, TcpStream::local_addr)
    }

    /// Listeners of connections whose original destination is learnt from their sockets by `ask`.
    pub fn asking(
        tcp: Vec<std::net::TcpListener>,
        dns: Vec<std::net::UdpSocket>,
        ask: impl Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync + 'static,
    ) -> Self {
        Self { tcp, dns, original_destination: OriginalDestination::Socket(Box::new(ask)) }
    }

    /// Listeners that a redirector in another process or on another machine hands the pod's connections on to, those to port
    /// 53 included. Each connection begins with a preface of the PROXY protocol, version 2, that says where it was going.
    /// Whoever reaches such a listener has the pod's rights: none but the redirector may.
    pub fn handed_on(tcp: Vec<std::net::TcpListener>, dns: Vec<std::net::UdpSocket>) -> Self {
        Self { tcp, dns, original_destination: OriginalDestination::Preface }
    }
}

/// Whose traffic a connection is, by which token, and what ends it.
pub(crate) type Attributed = (Attribution, Option<Arc<Verified>>, CancellationToken);

/// A pod that is attached.
pub(crate) struct Pod {
    pub(crate) identity: PodIdentity,
    pub(crate) state: Arc<State>,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) token: ArcSwapOption<Verified>,
    /// Cancelled, and replaced, when the pod's traffic becomes another task's.
    retire: ArcSwap<CancellationToken>,
    /// Cancelled when the pod is detached.
    pub(crate) stop: CancellationToken,
    original_destination: OriginalDestination,
    room: Arc<Semaphore>,
    /// The pod's share of the backlog of audit rows.
    rows: Arc<Semaphore>,
    /// Room for bodies that rules look into, in kibibytes. Two, so that no request waits for room that it holds itself.
    pub(crate) request_bodies: Arc<Semaphore>,
    pub(crate) response_bodies: Arc<Semaphore>,
    /// When the log was told of masked responses.
    pub(crate) masked: Told,
}

impl Pod {
    pub(crate) fn new(
        identity: PodIdentity,
        state: Arc<State>,
        workspace: Arc<Workspace>,
        original_destination: OriginalDestination,
    ) -> Self {
        let limits = &state.options.limits;
        let places = |max: usize| Arc::new(Semaphore::new(max.clamp(1, Semaphore::MAX_PERMITS)));
        let room = places(limits.connections_per_pod_max);
        let rows = places(limits.audit_backlog_rows_per_pod_max);
        let bodies = usize::try_from(limits.bodies_per_pod_kibibytes_max).unwrap_or(usize::MAX);
        let (request_bodies, response_bodies) = (places(bodies), places(bodies));
        Self {
            identity,
            state,
            workspace,
            token: ArcSwapOption::empty(),
            retire: ArcSwap::from_pointee(CancellationToken::new()),
            stop: CancellationToken::new(),
            original_destination,
            room,
            rows,
            request_bodies,
            response_bodies,
            masked: Told::default(),
        }
    }

    /// Whose traffic a connection is that is accepted now.
    pub(crate) fn attribution(&self) -> Attributed {
        // In this order: `set_token` changes the token first, so that a connection with the old one is never missed.
        let retire = self.retire.load().child_token();
        let token = self.token.load_full();
        (Attribution::new(&self.identity, token.as_deref()), token, retire)
    }

    /// Puts a token in force. When it is another task's or session's, open connections finish what is under way and end, so that
    /// no request of the new task is counted as the old one's.
    pub(crate) fn set_token(&self, token: Option<Arc<Verified>>) {
        let now = token.as_ref().map(|token| token.subject.whose());
        let before = self.token.swap(token);
        if before.map(|token| token.subject.whose()) != now {
            self.retire.swap(Arc::new(CancellationToken::new())).cancel();
        }
    }

    /// Writes an audit row. False: it is not written, and what it is about must not happen.
    pub(crate) async fn record(&self, row: &AuditEvent) -> bool {
        self.state.record(row, &self.rows).await
    }

    /// The same for a row that [`State::settle`] completes.
    pub(crate) async fn record_unsettled(&self, row: &AuditEvent) -> Option<Unsettled> {
        self.state.record_unsettled(row, &self.rows).await
    }

    /// Where a connection was going. None where it does not say so: then nothing can be done for it.
    pub(crate) async fn original_destination(&self, stream: &mut TcpStream) -> Option<SocketAddr> {
        let pod = self.identity.pod_id;
        match &self.original_destination {
            OriginalDestination::Socket(ask) => ask(stream).ok(),
            OriginalDestination::Preface => {
                let limit = ms(self.state.options.limits.client_handshake_ms);
                let found = preface::read(stream, limit).await;
                found
                    .inspect_err(|error| tracing::warn!(pod.id = %pod, error = %error, "connection refused"))
                    .ok()
            }
        }
    }
}

/// Takes a pod's sockets into the runtime, all or none.
pub(crate) struct Sockets {
    tcp: Vec<TcpListener>,
    dns: Vec<UdpSocket>,
}

impl Sockets {
    pub(crate) fn new(tcp: Vec<std::net::TcpListener>, dns: Vec<std::net::UdpSocket>) -> io::Result<Self> {
        let tcp = tcp
            .into_iter()
            .map(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            })
            .collect::<io::Result<_>>()?;
        let dns = dns
            .into_iter()
            .map(|socket| {
                socket.set_nonblocking(true)?;
                nameserver::ask_for_queried_address(&socket)?;
                UdpSocket::from_std(socket)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { tcp, dns })
    }

    /// Serves the sockets until the pod is stopped.
    pub(crate) fn serve(self, pod: &Arc<Pod>) {
        for listener in self.tcp {
            tokio::spawn(accept(Arc::clone(pod), listener));
        }
        for socket in self.dns {
            let pod = Arc::clone(pod);
            tokio::spawn(async move {
                let stop = pod.stop.clone();
                tokio::select! {
                    () = nameserver::serve_udp(pod, socket) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

async fn accept(pod: Arc<Pod>, listener: TcpListener) {
    loop {
        let next = async {
            let room = Arc::clone(&pod.room).acquire_owned().await;
            (room, listener.accept().await)
        };
        let (room, accepted) = tokio::select! {
            next = next => next,
            () = pod.stop.cancelled() => return,
        };
        match (room, accepted) {
            (Ok(room), Ok((stream, _))) => {
                let pod = Arc::clone(&pod);
                tokio::spawn(async move {
                    let stop = pod.stop.clone();
                    tokio::select! {
                        () = connection::serve(pod, stream, room) => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
            (_, Err(error)) => {
                tracing::warn!(pod.id = %pod.identity.pod_id, error = %error, "accept failed");
                tokio::time::sleep(FAULT_PAUSE).await;
            }
            // The semaphore is never closed.
            (Err(_), Ok(_)) => return,
        }
    }
}
