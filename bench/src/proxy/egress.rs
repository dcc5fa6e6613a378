//! Egress in a process of its own, as the server has it: a policy of 100 rules with expressions, an injected credential, a
//! budget, the spool, and the store on SQLite behind it. Only the pods are missing: their listeners are plain ones here,
//! behind which every connection is taken for one to the upstream.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use freehold_egress::{
    Credentials, Grant, Handle, Injection, Listeners, NoApprovals, Options as EgressOptions, PodIdentity,
    SecretValue, Unavailable,
    token::{Minter, Subject},
};
use freehold_model::{OrganizationId, PodId, RoleId, SessionId, WorkspaceId, provider::Kind};
use freehold_policy::{Policy, ProviderGrant, compile, parse};
use freehold_store::{Database, Options as StoreOptions, Store};
use freehold_wiring::EgressStore;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use serde::{Deserialize, Serialize};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{cores, server::NAME};
use crate::audit;

/// Rules of the policy.
const RULES: usize = 100;
/// Of them, those that name the upstream, whose expressions are evaluated for each request.
const NEAR_RULES: usize = 4;
/// The credential that is injected.
const CREDENTIAL: &str = "upstream-key";
/// How long its tokens count.
const TOKEN: Duration = Duration::from_secs(24 * 3600);
/// How long the name server may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How it is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where it keeps everything
    #[arg(long)]
    folder: PathBuf,
    /// Where the upstream is
    #[arg(long)]
    upstream: SocketAddr,
    /// The certificates (PEM) that the upstream's is signed by
    #[arg(long)]
    authority: PathBuf,
    /// Pods to serve
    #[arg(long, default_value_t = 1)]
    pods: usize,
    /// Cores of the store's threads; those of this process when absent
    #[arg(long, value_delimiter = ',')]
    store_cores: Vec<usize>,
}

/// What it writes when it is ready.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Where connections of each pod arrive.
    pub listeners: Vec<SocketAddr>,
    /// Its authority (PEM file).
    pub authority: PathBuf,
}

impl Ready {
    /// Where it writes it.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("ready.json")
    }
}

struct Kept(HashMap<&'static str, Arc<Injection>>);

#[async_trait]
impl Credentials for Kept {
    async fn injection(&self, name: &str) -> Result<Arc<Injection>, Unavailable> {
        self.0.get(name).cloned().ok_or(Unavailable("unknown"))
    }

    fn refused(&self, _: &str) {}

    async fn secret(&self, _: &str) -> Result<Arc<SecretValue>, Unavailable> {
        Err(Unavailable("unknown"))
    }
}

/// Serves until it is told to end.
///
/// # Errors
/// When it cannot start.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut ends = signal(SignalKind::terminate())?;
    let store = open(&options)?;
    let organization = audit::organization(&store).await?;
    let sink = Arc::new(EgressStore(audit::fleet(&store, &options.folder)?));
    let minter = Minter::generate()?;
    let mut egress = EgressOptions::new(options.folder.join("egress"));
    egress.upstream_roots_pem = vec![fs::read_to_string(&options.authority)?];
    egress.hosts.insert(NAME.to_owned(), options.upstream);
    let (service, handle) =
        egress.build(minter.verifier(), Arc::clone(&sink) as _, Arc::new(NoApprovals), sink)?;
    let stop = CancellationToken::new();
    let served = tokio::spawn(service.run(stop.clone()));
    let policy = Arc::new(policy()?);
    let mut listeners = Vec::with_capacity(options.pods);
    for _ in 0..options.pods {
        listeners.push(pod(&handle, &minter, organization, &policy).await?);
    }
    let authority = options.folder.join("egress-ca.pem");
    fs::write(&authority, handle.ca_pem())?;
    let (path, part) = (Ready::path(&options.folder), options.folder.join("ready.part"));
    fs::write(&part, serde_json::to_vec(&Ready { listeners, authority })?)?;
    fs::rename(part, path)?;
    ends.recv().await;
    stop.cancel();
    served.await?;
    store.close().await;
    Ok(())
}

/// Opens the store from a thread that may use its cores alone: those that it starts inherit that.
fn open(options: &Options) -> anyhow::Result<Store> {
    let (path, cores) = (options.folder.join("freehold.db"), options.store_cores.clone());
    let opened = std::thread::spawn(move || {
        if !cores.is_empty() {
            cores::pin_thread(&cores)?;
        }
        anyhow::Ok(Store::open(&StoreOptions::new(Database::Sqlite { path }))?)
    });
    opened.join().ok().context("the store panicked")?
}

/// 100 rules: most of other hosts; some of this host whose expressions do not hold; the last one matches.
fn document() -> String {
    let mut text = String::from("- name: all\n  type: http\n  allow:\n");
    for rule in 0..RULES - NEAR_RULES {
        let _infallible = writeln!(
            text,
            "    - {{name: r{rule}, domains: ['*.host{rule}.example.com'], methods: [GET, POST], paths: ['/a/{rule}/**'], when: 'request.path != \"/a/{rule}/x\"'}}"
        );
    }
    for rule in 1..NEAR_RULES {
        let _infallible = writeln!(
            text,
            "    - {{name: near{rule}, domains: [{NAME}], methods: [GET], when: 'request.path.startsWith(\"/near/{rule}/\")'}}"
        );
    }
    let _infallible = writeln!(
        text,
        "    - {{name: wanted, domains: [{NAME}], methods: [GET], when: 'request.method == \"GET\" && !request.path.endsWith(\".git\")'}}
  transforms:
    - {{name: key, auth: {{credential: {CREDENTIAL}}}}}
  budgets:
    calls: {{unit: requests, per: workspace, window: 1d, limit: 1000000000}}"
    );
    text
}

fn policy() -> anyhow::Result<Policy> {
    let provider =
        ProviderGrant { kind: Kind::Anthropic, domain: "model.bench.test".to_owned(), credential: None };
    let invalid = |error| anyhow::anyhow!("the policy of the benchmark is not valid: {error:?}");
    let none = parse("").map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let own = parse(&document()).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    compile(&provider, &none, &own).map_err(invalid)
}

/// Attaches a pod with a workspace of its own; answers where its connections arrive.
async fn pod(
    handle: &Handle,
    minter: &Minter,
    organization_id: OrganizationId,
    policy: &Arc<Policy>,
) -> anyhow::Result<SocketAddr> {
    let pod = PodIdentity {
        pod_id: PodId::from_uuid(Uuid::now_v7()),
        workspace_id: WorkspaceId::from_uuid(Uuid::now_v7()),
        organization_id,
    };
    let (tcp, dns) = (TcpListener::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    let (address, name_server) = (tcp.local_addr()?, dns.local_addr()?);
    let made_up = Arc::new(std::sync::OnceLock::new());
    let original = Arc::clone(&made_up);
    let listeners = Listeners {
        tcp: vec![tcp],
        dns: vec![dns],
        original_destination: Arc::new(move |_| {
            original.get().copied().ok_or_else(|| std::io::Error::other("before its name was asked for"))
        }),
    };
    let injection = Injection::header("x-api-key", "bench-upstream-key-0123456789")?;
    let grant = Grant {
        organization_id,
        policy_digest: "bench".to_owned(),
        role_id: RoleId::from_uuid(Uuid::from_u128(3)),
        role: "bench".to_owned(),
        provider: "bench".to_owned(),
        policy: Arc::clone(policy),
        credentials: Arc::new(Kept(HashMap::from([(CREDENTIAL, Arc::new(injection))]))),
    };
    let subject = Subject {
        organization_id,
        workspace_id: pod.workspace_id,
        session_id: SessionId::from_uuid(Uuid::now_v7()),
        task_id: None,
        role: "bench".to_owned(),
        policy_digest: "bench".to_owned(),
        user_id: "user_bench".to_owned(),
    };
    handle.publish(pod.workspace_id, Arc::new(grant));
    handle.attach(pod, listeners, Some(&minter.mint(&subject, TOKEN)?))?;
    let resolved = timeout(ANSWER_WITHIN, resolve(name_server)).await.context("no answer for the name")??;
    let _first = made_up.set(resolved);
    Ok(address)
}

/// The address that the pod's name server makes up for the upstream.
async fn resolve(name_server: SocketAddr) -> anyhow::Result<SocketAddr> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(NAME)?, RecordType::A));
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(name_server).await?;
    socket.send(&message.to_vec()?).await?;
    let mut buffer = [0; 1500];
    let length = socket.recv(&mut buffer).await?;
    let answer = Message::from_vec(&buffer[..length])?;
    match answer.answers.first().map(|record| &record.data) {
        Some(RData::A(address)) => Ok(SocketAddr::new((**address).into(), 443)),
        other => bail!("no address for the name: {other:?}"),
    }
}
