//! What all pods share, and the tables of pods and workspaces.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder},
    io,
    num::NonZero,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use freehold_model::{PodId, WorkspaceId, approval::Standing, audit::AuditEvent};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    Approvals, AuditSink, Error, Grant, Listeners, Options, PodIdentity,
    approval::Desk,
    audit,
    budget::{Budgets, Ledger, Warning, WarningSink},
    ca::Authority,
    dial::{Connector, Dialer},
    masks::Masks,
    names::{Names, Ranges},
    outbound::Outbound,
    pod::{Pod, Sockets},
    resolve::Resolver,
    spool::{Settlement, Spool, SpoolError, Unsettled},
    threads::Threads,
    token::{self, Verified, Verifier},
    upstream::Upstream,
};

/// Rows that say that a limit is near, and that the sink has not acknowledged; more wait.
const WARNINGS_MAX: usize = 100;

/// What all pods share.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) authority: Authority,
    pub(crate) ranges: Ranges,
    pub(crate) desk: Desk,
    pub(crate) budgets: Budgets,
    /// The share of the backlog of rows that say that a limit is near.
    warnings: Arc<Semaphore>,
    spool: Spool,
    dialer: Dialer,
    verifier: Verifier,
    threads: Threads,
    workspaces: Mutex<HashMap<WorkspaceId, Arc<Workspace>>>,
    /// Locked before the other table where both are.
    pods: Mutex<HashMap<PodId, Arc<Pod>>>,
}

/// What the pods of one workspace share: usually one pod, two for a moment when it is replaced.
pub(crate) struct Workspace {
    pub(crate) grant: ArcSwapOption<Grant>,
    /// What people approved for rules of its policy until a time.
    pub(crate) standing: ArcSwap<Vec<Standing>>,
    pub(crate) upstream: Upstream,
    pub(crate) masks: Masks,
    /// Opened when the first pod is attached.
    names: ArcSwapOption<Names>,
}

impl Workspace {
    pub(crate) fn names(&self) -> Option<Arc<Names>> {
        self.names.load_full()
    }
}

impl State {
    pub(crate) fn open(
        options: Options,
        verifier: Verifier,
        approvals: Arc<dyn Approvals>,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self, Error> {
        let dir = options.state_dir.clone();
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at(&dir))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let limits = &options.limits;
        let spool_dir = dir.join("spool");
        let cores = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
        Ok(Self {
            authority: Authority::open(&dir, limits.leaf_certificates_max, Arc::clone(&provider))?,
            ranges: Ranges { v4: options.fake_ipv4_base, v6: options.fake_ipv6_base },
            desk: Desk::new(approvals, limits),
            budgets: Budgets::new(options.budgets.clone(), ledger),
            warnings: Arc::new(Semaphore::new(WARNINGS_MAX)),
            spool: Spool::open(&spool_dir, limits).map_err(at(&spool_dir))?,
            dialer: Dialer {
                resolver: Arc::new(Resolver::new(&options)),
                tls: client_config(&options.upstream_roots_pem, provider)?,
            },
            verifier,
            threads: Threads::start(cores, options.busy_poll).map_err(Error::Threads)?,
            workspaces: Mutex::default(),
            pods: Mutex::default(),
            options,
        })
    }

    /// The way out for requests of the server's own.
    pub(crate) fn outbound(&self) -> Outbound {
        Outbound::new(Connector::new(&self.dialer, &self.options.limits))
    }

    pub(crate) fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    pub(crate) async fn run(&self, sink: Arc<dyn AuditSink>, shutdown: CancellationToken) {
        let drained = CancellationToken::new();
        let stop_pods = async {
            shutdown.cancelled().await;
            self.desk.begin_close();
            for (_, pod) in lock(&self.pods).drain() {
                pod.stop.cancel();
            }
            // Rows of holds that ended by this are handed over too.
            self.desk.close().await;
        };
        let count = async {
            self.budgets.run(self, &shutdown).await;
        };
        let end = async {
            tokio::join!(stop_pods, count);
            drained.cancel();
        };
        tokio::join!(end, self.spool.drain(&*sink, &drained));
    }

    pub(crate) fn attach(
        self: &Arc<Self>,
        identity: PodIdentity,
        listeners: Listeners,
        token: Option<&str>,
    ) -> Result<(), Error> {
        let token = token.map(|token| self.verify(&identity, token)).transpose()?;
        let _thread = self.threads.of(identity.workspace_id).enter();
        let Listeners { tcp, dns, original_destination } = listeners;
        let failed = |source| Error::Listener { pod: identity.pod_id, source };
        let sockets = Sockets::new(tcp, dns).map_err(failed)?;
        // The table of pods is held, so that what the workspace has is neither released nor forgotten meanwhile.
        let mut pods = lock(&self.pods);
        let workspace = self.workspace(identity.workspace_id);
        self.open_names(identity.workspace_id, &workspace)?;
        let pod = Arc::new(Pod::new(identity, Arc::clone(self), workspace, original_destination));
        pod.set_token(token);
        if let Some(before) = pods.insert(identity.pod_id, Arc::clone(&pod)) {
            before.stop.cancel();
        }
        drop(pods);
        sockets.serve(&pod);
        Ok(())
    }

    fn open_names(&self, id: WorkspaceId, workspace: &Workspace) -> Result<(), Error> {
        // Under the table's lock, so that two pods of a workspace never have two tables over one file.
        let _opening = lock(&self.workspaces);
        if workspace.names().is_none() {
            let path = Names::path(&self.options.state_dir, id);
            let names = Names::open(&path, self.options.limits.names_per_workspace_max)
                .map_err(|source| Error::State { path, source })?;
            workspace.names.store(Some(Arc::new(names)));
        }
        Ok(())
    }

    pub(crate) fn set_token(&self, pod_id: PodId, token: &str) -> Result<(), Error> {
        let pod = lock(&self.pods).get(&pod_id).cloned().ok_or(Error::UnknownPod(pod_id))?;
        let checked = self.verify(&pod.identity, token);
        // A token that is refused takes the one before with it.
        let (token, result) = match checked {
            Ok(token) => (Some(token), Ok(())),
            Err(error) => (None, Err(error)),
        };
        pod.set_token(token);
        result
    }

    fn verify(&self, pod: &PodIdentity, token: &str) -> Result<Arc<Verified>, Error> {
        let verified = self.verifier.verify(token).map_err(Error::Token)?;
        let same = verified.subject.workspace_id == pod.workspace_id
            && verified.subject.organization_id == pod.organization_id;
        if same { Ok(Arc::new(verified)) } else { Err(Error::Token(token::Error::Subject)) }
    }

    pub(crate) fn detach(&self, pod: PodId) {
        if let Some(pod) = lock(&self.pods).remove(&pod) {
            pod.stop.cancel();
        }
    }

    pub(crate) fn publish(&self, workspace: WorkspaceId, grant: Option<Arc<Grant>>) {
        self.workspace(workspace).grant.store(grant);
    }

    pub(crate) fn set_standing(&self, workspace: WorkspaceId, standing: Vec<Standing>) {
        self.workspace(workspace).standing.store(Arc::new(standing));
    }

    pub(crate) fn release(&self, id: WorkspaceId) {
        let pods = lock(&self.pods);
        let mut workspaces = lock(&self.workspaces);
        if let Some(workspace) = workspaces.get(&id) {
            workspace.grant.store(None);
        }
        if pods.values().all(|pod| pod.identity.workspace_id != id) {
            Self::drop_workspace(&mut workspaces, id);
        }
    }

    /// What still serves one of its connections, which were cut, has neither grant nor names any more.
    fn drop_workspace(workspaces: &mut HashMap<WorkspaceId, Arc<Workspace>>, id: WorkspaceId) {
        let Some(workspace) = workspaces.remove(&id) else { return };
        workspace.grant.store(None);
        if let Some(names) = workspace.names() {
            names.close();
        }
    }

    pub(crate) fn forget(&self, id: WorkspaceId) {
        let _pods = lock(&self.pods);
        let mut workspaces = lock(&self.workspaces);
        Self::drop_workspace(&mut workspaces, id);
        let path = Names::path(&self.options.state_dir, id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(workspace.id = %id, error = %error, "the table of names is left behind");
            }
            _ => {}
        }
    }

    /// Writes an audit row within a pod's share of the backlog. False: it is not written, and what it is about must not
    /// happen.
    pub(crate) async fn record(&self, row: &AuditEvent, share: &Arc<Semaphore>) -> bool {
        self.spool.append(row, share).await.inspect_err(tell_unwritten).is_ok()
    }

    /// The same for a row that [`Self::settle`] completes. None: it is not written.
    pub(crate) async fn record_unsettled(
        &self,
        row: &AuditEvent,
        share: &Arc<Semaphore>,
    ) -> Option<Unsettled> {
        self.spool.append_unsettled(row, share).await.inspect_err(tell_unwritten).ok()
    }

    pub(crate) fn settle(&self, row: Unsettled, settlement: Settlement) {
        self.spool.settle(row, settlement);
    }

    fn workspace(&self, id: WorkspaceId) -> Arc<Workspace> {
        let mut workspaces = lock(&self.workspaces);
        let made = workspaces.entry(id).or_insert_with(|| {
            Arc::new(Workspace {
                grant: ArcSwapOption::empty(),
                standing: ArcSwap::default(),
                upstream: Upstream::new(&self.dialer, &self.options.limits),
                masks: Masks::default(),
                names: ArcSwapOption::empty(),
            })
        });
        Arc::clone(made)
    }
}

fn tell_unwritten(error: &SpoolError) {
    tracing::error!(error = error as &dyn std::error::Error, "audit row not written, request refused");
}

#[async_trait]
impl WarningSink for State {
    async fn warned(&self, warning: &Warning) -> bool {
        self.record(&audit::warned(warning), &self.warnings).await
    }
}

/// The upstream side's TLS: the system's roots and the operator's.
fn client_config(extra_pem: &[String], provider: Arc<CryptoProvider>) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(error = %error, "a system root was not read");
    }
    roots.add_parsable_certificates(system.certs);
    for pem in extra_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|_| Error::Roots)?).map_err(Error::Tls)?;
        }
        if roots.len() == before {
            return Err(Error::Roots);
        }
    }
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A poisoned table is still a table: what is in it was put there whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
