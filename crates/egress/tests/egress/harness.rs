//! A proxy with one attached pod, and clients inside that pod.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_egress::{
    Approvals, AuditSink, Credentials, Grant, Handle, Injection, Listeners, NoApprovals, Options,
    PodIdentity, SecretValue, SinkError, Unavailable,
    token::{Minter, Subject},
};
use freehold_model::{
    OrganizationId, PodId, RoleId, SessionId, TaskId, WorkspaceId, audit::AuditEvent, provider::Kind,
};
use freehold_policy::{ProviderGrant, compile, parse};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{Notify, watch},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    counts::Counts,
    upstream::{Speaks, Upstream},
};

/// How long any one thing may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The role's policy of most tests.
pub const CAPS: &str = "
- name: api
  type: http
  allow:
    - name: read
      domains: [api.test, ws.test]
      methods: [GET, HEAD, POST]
      paths: [/open/**, /events, /trailers, /ws]
    - name: plain
      domains: [plain.test]
      methods: [GET]
      allow_insecure: true
- name: inside
  type: http
  allow:
    - domains: [127.0.0.1, 10.0.0.5, 169.254.169.254]
      methods: [GET]
";

/// Audit rows as the sink got them.
#[derive(Default)]
pub struct Rows {
    rows: Mutex<Vec<AuditEvent>>,
    changed: Notify,
    /// While true, the sink takes nothing.
    pub refuse: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl AuditSink for Rows {
    async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError> {
        if self.refuse.load(std::sync::atomic::Ordering::SeqCst) {
            return Err("refused by the test".into());
        }
        self.rows.lock().unwrap().extend(rows);
        self.changed.notify_waiters();
        Ok(())
    }
}

impl Rows {
    /// Waits for the first row that `wanted` says yes to.
    pub async fn find(&self, wanted: impl Fn(&AuditEvent) -> bool) -> AuditEvent {
        tokio::time::timeout(PATIENCE, async {
            loop {
                let changed = self.changed.notified();
                if let Some(row) = self.all().into_iter().find(&wanted) {
                    return row;
                }
                changed.await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("no such row in {:#?}", self.all()))
    }

    /// Waits for the row of a reason.
    pub async fn with_reason(&self, reason: &str) -> AuditEvent {
        self.find(|row| row.policy_type.as_deref() == Some("http") && row.reason.as_deref() == Some(reason))
            .await
    }

    pub fn all(&self) -> Vec<AuditEvent> {
        self.rows.lock().unwrap().clone()
    }
}

/// The proxy, its pod and what a test needs to change about them.
pub struct Proxy {
    pub handle: Handle,
    pub minter: Arc<Minter>,
    pub rows: Arc<Rows>,
    /// The ledger of budgets.
    pub counts: Arc<Counts>,
    pub pod: PodIdentity,
    pub state_dir: Arc<TempDir>,
    pub listener: SocketAddr,
    pub dns: SocketAddr,
    options: Options,
    approvals: Arc<dyn Approvals>,
    destinations: Arc<Mutex<HashMap<u16, SocketAddr>>>,
    /// Where connections go whose client is not ours (curl).
    pub default_destination: watch::Sender<Option<SocketAddr>>,
    stop: CancellationToken,
    listeners: (std::net::TcpListener, std::net::UdpSocket),
    stopped: watch::Receiver<bool>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The reason of an answer that the proxy gave itself.
    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["error"]["reason"].as_str().unwrap().to_owned()
    }
}

impl Proxy {
    /// A proxy whose `*.test` names lead to `upstream`, with a pod that has a grant and a token.
    pub async fn start(upstream: &Upstream) -> Self {
        Self::start_with(upstream, |_| {}).await
    }

    pub async fn start_with(upstream: &Upstream, change: impl FnOnce(&mut Options)) -> Self {
        Self::start_asking(upstream, Arc::new(NoApprovals), change).await
    }

    /// The same where people are asked.
    pub async fn start_asking(
        upstream: &Upstream,
        approvals: Arc<dyn Approvals>,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let state_dir = Arc::new(tempfile::tempdir().unwrap());
        let mut options = Options::new(state_dir.path().join("egress"));
        options.upstream_roots_pem = vec![upstream.ca_pem.clone()];
        for name in ["api.test", "ws.test", "plain.test", "model.test"] {
            options.hosts.insert(name.to_owned(), upstream.address);
        }
        change(&mut options);
        let listeners = (
            std::net::TcpListener::bind("127.0.0.1:0").unwrap(),
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        let pod = PodIdentity {
            pod_id: PodId::from_uuid(Uuid::now_v7()),
            workspace_id: WorkspaceId::from_uuid(Uuid::now_v7()),
            organization_id: OrganizationId::from_uuid(Uuid::now_v7()),
        };
        let proxy = Self::run(options, listeners, pod, Arc::default(), state_dir, approvals);
        proxy.publish(CAPS, Ok(("x-api-key", "s3cret")));
        proxy.set_token(None, Duration::from_secs(60));
        proxy
    }

    fn run(
        options: Options,
        listeners: (std::net::TcpListener, std::net::UdpSocket),
        pod: PodIdentity,
        rows: Arc<Rows>,
        state_dir: Arc<TempDir>,
        approvals: Arc<dyn Approvals>,
    ) -> Self {
        let minter = Arc::new(Minter::generate().unwrap());
        let sink: Arc<dyn AuditSink> = Arc::clone(&rows) as _;
        let counts = Arc::<Counts>::default();
        let ledger = Arc::clone(&counts) as _;
        let (service, handle) =
            options.clone().build(minter.verifier(), sink, approvals.clone(), ledger).unwrap();
        let stop = CancellationToken::new();
        let (ended, stopped) = watch::channel(false);
        let shutdown = stop.clone();
        tokio::spawn(async move {
            service.run(shutdown).await;
            ended.send_replace(true);
        });
        let proxy = Self {
            handle,
            minter,
            rows,
            counts,
            pod,
            state_dir,
            listener: listeners.0.local_addr().unwrap(),
            dns: listeners.1.local_addr().unwrap(),
            options,
            approvals,
            destinations: Arc::default(),
            default_destination: watch::Sender::default(),
            stop,
            listeners,
            stopped,
        };
        proxy.attach();
        proxy
    }

    pub fn attach(&self) {
        let (destinations, fallback) = (Arc::clone(&self.destinations), self.default_destination.subscribe());
        let tcp = vec![self.listeners.0.try_clone().unwrap()];
        let dns = vec![self.listeners.1.try_clone().unwrap()];
        let listeners = Listeners::asking(tcp, dns, move |stream| {
            let known = destinations.lock().unwrap().get(&stream.peer_addr()?.port()).copied();
            Ok(known.or(*fallback.borrow()).expect("a client that no test made"))
        });
        self.handle.attach(self.pod, listeners, None).unwrap();
    }

    /// Stops the service as a server that ends.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut stopped = self.stopped.clone();
        tokio::time::timeout(PATIENCE, stopped.wait_for(|ended| *ended)).await.unwrap().unwrap();
    }

    /// Stops the service as a server that ends, and starts another on the same files and the same listeners. The new
    /// pod has neither grant nor token yet.
    pub async fn restart(self) -> Self {
        self.stop().await;
        let listeners = (self.listeners.0.try_clone().unwrap(), self.listeners.1.try_clone().unwrap());
        Self::run(
            self.options.clone(),
            listeners,
            self.pod,
            Arc::clone(&self.rows),
            Arc::clone(&self.state_dir),
            Arc::clone(&self.approvals),
        )
    }

    /// Publishes a grant: provider `model.test` (Anthropic) with this credential, and the role's document.
    pub fn publish(&self, caps: &str, credential: Result<(&str, &str), Unavailable>) {
        let injection = credential.map(|(header, value)| match header.strip_prefix('?') {
            Some(parameter) => Injection::query(parameter, value).unwrap(),
            None => Injection::header(header, value).unwrap(),
        });
        let injections = injection.map(|injection| ("main", Arc::new(injection))).into_iter().collect();
        self.publish_with(caps, Kept { injections, ..Kept::default() });
    }

    /// The same with other credentials and secrets.
    pub fn publish_with(&self, caps: &str, kept: Kept) {
        let provider = ProviderGrant {
            kind: Kind::Anthropic,
            domain: "model.test".to_owned(),
            credential: Some("main".to_owned()),
        };
        let grant = Grant {
            organization_id: self.pod.organization_id,
            policy_digest: caps.to_owned(),
            role_id: RoleId::from_uuid(Uuid::from_u128(3)),
            role: "reviewer".to_owned(),
            provider: "prod".to_owned(),
            policy: Arc::new(compile(&provider, &parse("").unwrap(), &parse(caps).unwrap()).unwrap()),
            credentials: Arc::new(kept),
        };
        self.handle.publish(self.pod.workspace_id, Arc::new(grant));
    }

    pub fn subject(&self, task: Option<TaskId>) -> Subject {
        Subject {
            organization_id: self.pod.organization_id,
            workspace_id: self.pod.workspace_id,
            session_id: SessionId::from_uuid(Uuid::from_u128(4)),
            task_id: task,
            role: "reviewer".to_owned(),
            policy_digest: "digest".to_owned(),
            user_id: "user_7".to_owned(),
        }
    }

    pub fn set_token(&self, task: Option<TaskId>, lifetime: Duration) {
        let token = self.minter.mint(&self.subject(task), lifetime).unwrap();
        self.handle.set_token(self.pod.pod_id, &token).unwrap();
    }

    /// Asks the pod's name server for an address.
    pub async fn resolve(&self, name: &str) -> SocketAddr {
        let reply = self.ask(name, RecordType::A).await;
        match reply.answers.first().map(|record| &record.data) {
            Some(RData::A(address)) => SocketAddr::new((**address).into(), 0),
            other => panic!("{name}: {other:?}"),
        }
    }

    pub async fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.ask_name(Name::from_ascii(name).unwrap(), kind).await
    }

    pub async fn ask_name(&self, name: Name, kind: RecordType) -> Message {
        let mut message = Message::new(77, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, kind));
        let socket = UdpSocket::bind((self.dns.ip(), 0)).await.unwrap();
        // Connected: an answer from another address than was asked is never seen.
        socket.connect(self.dns).await.unwrap();
        socket.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 1500];
        let length = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    /// A connection from inside the pod to an address, redirected to the proxy.
    pub async fn connect(&self, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.destinations.lock().unwrap().insert(socket.local_addr().unwrap().port(), to);
        let stream = socket.connect(self.listener).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection to a name, resolved inside the pod.
    pub async fn connect_name(&self, name: &str, port: u16) -> TcpStream {
        let mut to = self.resolve(name).await;
        to.set_port(port);
        self.connect(to).await
    }

    /// A TLS client inside the pod, which trusts the platform CA alone.
    pub fn tls_client(&self, alpn: &[u8]) -> TlsConnector {
        TlsConnector::from(Arc::new(self.tls_config(alpn)))
    }

    /// The same that does not say which host it means.
    pub fn tls_client_without_sni(&self) -> TlsConnector {
        let mut config = self.tls_config(b"http/1.1");
        config.enable_sni = false;
        TlsConnector::from(Arc::new(config))
    }

    fn tls_config(&self, alpn: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.handle.ca_pem().as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    pub async fn tls(&self, stream: TcpStream, sni: &str, alpn: &[u8]) -> TlsStream<TcpStream> {
        let name = ServerName::try_from(sni.to_owned()).unwrap();
        self.tls_client(alpn).connect(name, stream).await.unwrap()
    }

    pub async fn https(&self, name: &str) -> TlsStream<TcpStream> {
        let stream = self.connect_name(name, 443).await;
        self.tls(stream, name, b"http/1.1").await
    }

    pub async fn http1(&self, name: &str) -> http1::SendRequest<Full<Bytes>> {
        http1_on(self.https(name).await).await
    }

    pub async fn http2(&self, name: &str) -> http2::SendRequest<Full<Bytes>> {
        let stream = self.connect_name(name, 443).await;
        let stream = self.tls(stream, name, b"h2").await;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    /// One HTTP/1.1 request on a connection of its own.
    pub async fn send(&self, name: &str, request: http::request::Builder) -> Answer {
        let mut sender = self.http1(name).await;
        read(sender.send_request(request.header("host", name).body(Full::default()).unwrap()).await.unwrap())
            .await
    }

    /// The same with a body.
    pub async fn send_body(
        &self,
        name: &str,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = request.header("host", name).body(Full::new(body.into())).unwrap();
        read(self.http1(name).await.send_request(request).await.unwrap()).await
    }

    pub async fn get(&self, name: &str, path: &str) -> Answer {
        self.send(name, Request::get(path)).await
    }
}

/// An upstream that speaks this, and a proxy whose pod is under this policy, without any credential.
pub async fn under(caps: &str, speaks: Speaks) -> (Upstream, Proxy) {
    let upstream = Upstream::start(speaks).await;
    let proxy = Proxy::start(&upstream).await;
    proxy.publish_with(caps, Kept::default());
    (upstream, proxy)
}

/// A client's connection to an upstream that the test plays itself.
pub async fn plain_by_hand() -> (Proxy, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = Upstream::start(Speaks::Plain).await;
    let proxy = Proxy::start_with(&upstream, |options| {
        options.hosts.insert("plain.test".to_owned(), address);
    })
    .await;
    let client = proxy.connect_name("plain.test", 80).await;
    (proxy, listener, client)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub async fn http1_on<S>(stream: S) -> http1::SendRequest<Full<Bytes>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

/// Reads an answer to its end.
pub async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// The credentials and secrets that a test has.
#[derive(Default)]
pub struct Kept {
    pub injections: HashMap<&'static str, Arc<Injection>>,
    pub secrets: HashMap<&'static str, &'static str>,
    /// The credentials that an upstream refused.
    pub refused: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Credentials for Kept {
    async fn injection(&self, name: &str) -> Result<Arc<Injection>, Unavailable> {
        self.injections.get(name).cloned().ok_or(Unavailable("unknown"))
    }

    fn refused(&self, name: &str) {
        self.refused.lock().unwrap().push(name.to_owned());
    }

    async fn secret(&self, name: &str) -> Result<Arc<SecretValue>, Unavailable> {
        let value = self.secrets.get(name).ok_or(Unavailable("unknown"))?;
        Ok(Arc::new(SecretValue::new(Zeroizing::new(value.as_bytes().to_vec()))))
    }
}
