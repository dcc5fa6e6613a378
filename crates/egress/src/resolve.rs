//! From an allowed destination to addresses that may be dialled: the operator's own first, else public ones, and private
//! ones that a rule names; never this machine's own.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use freehold_policy::{
    Destination,
    address::{is_private, is_public},
    normal_host,
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use lru::LruCache;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::{ControlPlane, Options, deny::Reason, options::ms, own::without_own, state::lock};

/// Answers kept, and for how long: shorter than DNS would allow, long enough to spare kept-alive requests the way.
const ANSWERS_MAX: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
const ANSWER_AGE_MAX: Duration = Duration::from_secs(30);
/// Addresses tried for one name.
const ADDRESSES_MAX: usize = 4;

/// When an answer was found, and the addresses in it that may be dialled.
type Found = (Instant, Arc<[SocketAddr]>);

/// Where the operator said that a host is.
#[derive(Default)]
struct OfOperator {
    by_port: BTreeMap<u16, SocketAddr>,
    /// At every other port.
    other: Option<SocketAddr>,
}

/// Resolves destinations that policy has allowed.
pub(crate) struct Resolver {
    hosts: BTreeMap<String, OfOperator>,
    control_plane: ControlPlane,
    rules_name_addresses: bool,
    /// Absent where the machine has no usable configuration.
    system: Option<TokioResolver>,
    /// Where it is asked. What it keeps of a name server runs where that was asked first, and all who ask wait for it: that
    /// must be no thread of pods, which one of them may keep busy.
    runtime: Handle,
    timeout: Duration,
    answers: Mutex<LruCache<Destination, Found>>,
}

impl Resolver {
    /// Names are asked for on the runtime that this is called in.
    pub(crate) fn new(options: &Options) -> Self {
        let Options { hosts, name_servers, .. } = options;
        let builder = if name_servers.is_empty() {
            TokioResolver::builder_tokio()
        } else {
            let servers = name_servers.iter().map(|server| name_server(*server)).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), servers);
            Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
        };
        let system = builder
            .and_then(|builder| builder.build())
            .inspect_err(|error| {
                tracing::warn!(error = %error, "no name server: only the operator's hosts and IP literals resolve");
            })
            .ok();
        Self {
            hosts: of_operator(hosts),
            control_plane: options.control_plane.clone(),
            rules_name_addresses: options.rules_name_addresses,
            system,
            runtime: Handle::current(),
            timeout: ms(options.limits.resolve_ms),
            answers: Mutex::new(LruCache::new(ANSWERS_MAX)),
        }
    }

    /// The addresses to dial. Never empty; each is public, the operator's own or, where a rule `named` it and rules may, the
    /// private address of the destination itself; and none is the control plane's. Which of them are this machine's own is
    /// from an answer that may be some time old: who dials asks [`Self::to_dial`].
    pub(crate) async fn resolve(
        &self,
        destination: &Destination,
        named: bool,
    ) -> Result<Arc<[SocketAddr]>, Reason> {
        if self.control_plane.is_named(destination) {
            return Err(Reason::ControlPlaneForbidden);
        }
        if let Some(address) = self.of_operator(destination) {
            let is_forbidden = self.control_plane.is_at(address).await;
            return if is_forbidden { Err(Reason::ControlPlaneForbidden) } else { Ok(Arc::new([address])) };
        }
        self.addresses(destination, named).await
    }

    /// The same for a connection that is made now: none of the addresses is this machine's, unless the operator named it.
    pub(crate) async fn to_dial(
        &self,
        destination: &Destination,
        named: bool,
    ) -> Result<Arc<[SocketAddr]>, Reason> {
        let addresses = self.resolve(destination, named).await?;
        if self.of_operator(destination).is_some() {
            return Ok(addresses);
        }
        let others = without_own(addresses.to_vec()).await;
        if others.is_empty() { Err(Reason::AddressForbidden) } else { Ok(others.into()) }
    }

    async fn addresses(&self, destination: &Destination, named: bool) -> Result<Arc<[SocketAddr]>, Reason> {
        // It is not kept among the answers, which count for requests of other rules too.
        if let Some(address) = destination.ip().filter(|address| named && self.may_be_named(*address)) {
            return self.allowed(&[address], destination).await;
        }
        if let Some((at, addresses)) = lock(&self.answers).get(destination)
            && at.elapsed() < ANSWER_AGE_MAX
        {
            return Ok(Arc::clone(addresses));
        }
        let mut found = match destination.ip() {
            Some(address) => vec![address],
            None => self.ask(destination.host()).await?,
        };
        found.retain(|address| is_public(*address));
        let public = self.allowed(&found, destination).await?;
        lock(&self.answers).put(destination.clone(), (Instant::now(), Arc::clone(&public)));
        Ok(public)
    }

    /// Those that are not this machine's own: what listens here trusts whoever comes from here.
    async fn allowed(
        &self,
        found: &[IpAddr],
        destination: &Destination,
    ) -> Result<Arc<[SocketAddr]>, Reason> {
        let found: Vec<_> = found.iter().map(|ip| SocketAddr::new(*ip, destination.port())).collect();
        for address in &found {
            if self.control_plane.is_at(*address).await {
                return Err(Reason::ControlPlaneForbidden);
            }
        }
        let others = without_own(found.into_iter().take(ADDRESSES_MAX).collect()).await;
        if others.is_empty() { Err(Reason::AddressForbidden) } else { Ok(others.into()) }
    }

    /// Whether a rule may open this address.
    fn may_be_named(&self, address: IpAddr) -> bool {
        self.rules_name_addresses && is_private(address)
    }

    fn of_operator(&self, destination: &Destination) -> Option<SocketAddr> {
        let host = self.hosts.get(destination.host())?;
        host.by_port.get(&destination.port()).or(host.other.as_ref()).copied()
    }

    async fn ask(&self, host: &str) -> Result<Vec<IpAddr>, Reason> {
        let system = self.system.clone().ok_or(Reason::UpstreamUnresolved)?;
        // The final dot keeps the machine's search list out.
        let name = format!("{host}.");
        let asking = self.runtime.spawn(async move { system.lookup_ip(name).await });
        match tokio::time::timeout(self.timeout, AbortOnDropHandle::new(asking)).await {
            Ok(Ok(Ok(found))) => Ok(found.iter().collect()),
            Ok(Ok(Err(error))) => {
                tracing::debug!(egress.host = host, error = %error, "upstream name not resolved");
                Err(Reason::UpstreamUnresolved)
            }
            Ok(Err(_)) | Err(_) => Err(Reason::UpstreamUnresolved),
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

/// The operator's hosts by their names in normal form. What is neither `name` nor `name:port` never matches.
fn of_operator(given: &HashMap<String, SocketAddr>) -> BTreeMap<String, OfOperator> {
    let mut hosts = BTreeMap::<String, OfOperator>::new();
    for (key, address) in given {
        if let Ok(host) = normal_host(key) {
            hosts.entry(host).or_default().other = Some(*address);
        } else if let Some((host, port)) = key.rsplit_once(':')
            && let (Ok(host), Ok(port)) = (normal_host(host), port.parse())
        {
            hosts.entry(host).or_default().by_port.insert(port, *address);
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::mpsc};

    use freehold_model::WorkspaceId;
    use freehold_policy::Scheme;
    use hickory_proto::{
        op::{Message, OpCode},
        rr::{RData, Record},
    };
    use tokio::net::UdpSocket;
    use uuid::Uuid;

    use super::*;
    use crate::threads::Threads;

    async fn resolve(hosts: &[(&str, &str)], host: &str, port: u16) -> Result<Vec<SocketAddr>, Reason> {
        let mut options = Options::new("unused");
        options.hosts = hosts.iter().map(|(name, at)| ((*name).to_owned(), at.parse().unwrap())).collect();
        resolve_by(&options, host, port, false).await
    }

    async fn resolve_by(
        options: &Options,
        host: &str,
        port: u16,
        named: bool,
    ) -> Result<Vec<SocketAddr>, Reason> {
        let destination = Destination::new(Scheme::Https, host, port).unwrap();
        Resolver::new(options).resolve(&destination, named).await.map(|found| found.to_vec())
    }

    #[tokio::test]
    async fn a_rule_may_name_a_private_address_unless_the_operator_forbids_it() {
        let mut options = Options::new("unused");
        for host in ["10.255.254.5", "fd00::5"] {
            let at = SocketAddr::new(host.parse().unwrap(), 443);
            assert_eq!(resolve_by(&options, host, 443, true).await, Ok(vec![at]), "{host}");
        }
        for host in ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"] {
            assert_eq!(resolve_by(&options, host, 443, true).await, Err(Reason::AddressForbidden), "{host}");
        }
        options.rules_name_addresses = false;
        assert_eq!(resolve_by(&options, "10.255.254.5", 443, true).await, Err(Reason::AddressForbidden));
    }

    #[tokio::test]
    async fn the_operator_may_name_any_address() {
        let hosts =
            [("Api.test", "127.0.0.1:9001"), ("api.test:8443", "127.0.0.1:9002"), ("10.0.0.5", "10.0.0.5:1")];
        let at = |text: &str| Ok(vec![text.parse().unwrap()]);
        assert_eq!(resolve(&hosts, "api.test", 443).await, at("127.0.0.1:9001"));
        assert_eq!(resolve(&hosts, "api.test", 8443).await, at("127.0.0.1:9002"));
        assert_eq!(resolve(&hosts, "10.0.0.5", 443).await, at("10.0.0.5:1"));
        let metadata = [("169.254.169.254", "169.254.169.254:80")];
        assert_eq!(resolve(&metadata, "169.254.169.254", 443).await, at("169.254.169.254:80"));
    }

    #[tokio::test]
    async fn an_inside_address_is_refused_when_the_operator_does_not_name_it() {
        for host in ["127.0.0.1", "169.254.169.254", "::1", "10.0.0.5"] {
            assert_eq!(resolve(&[], host, 443).await, Err(Reason::AddressForbidden), "{host}");
        }
        let expected: SocketAddr = "1.1.1.1:8443".parse().unwrap();
        assert_eq!(resolve(&[], "1.1.1.1", 8443).await, Ok(vec![expected]));
    }

    /// Answers every question with one address.
    async fn name_server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::response(asked.metadata.id, OpCode::Query);
                reply.add_query(asked.queries[0].clone());
                let found = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
                reply.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, found));
                socket.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        address
    }

    #[tokio::test]
    async fn a_thread_that_is_busy_holds_up_no_other_threads_names() {
        let options = Options { name_servers: vec![name_server().await], ..Options::new("unused") };
        let resolver = Arc::new(Resolver::new(&options));
        let start = || Threads::start(NonZeroUsize::MIN, Duration::ZERO).unwrap();
        let (busy, other, workspace) = (start(), start(), WorkspaceId::from_uuid(Uuid::now_v7()));
        let ask = |threads: &Threads, host: &'static str| {
            let resolver = Arc::clone(&resolver);
            threads.of(workspace).spawn(async move { resolver.ask(host).await })
        };
        assert!(ask(&busy, "first.test").await.unwrap().is_ok());
        let (go_on, wait) = mpsc::channel::<()>();
        busy.of(workspace).spawn(async move { wait.recv() });
        assert!(ask(&other, "second.test").await.unwrap().is_ok());
        drop(go_on);
    }
}
