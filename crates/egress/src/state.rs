//! What all pods share, and the table of pods.

use std::{
    collections::HashMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwapOption;
use freehold_model::{PodId, WorkspaceId};
use rustls::crypto::CryptoProvider;
use tokio_util::sync::CancellationToken;

use crate::{
    AuditSink, Error, Grant, Listeners, Options, PodIdentity,
    ca::Authority,
    token::{Verified, Verifier},
};

/// What all pods share.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) authority: Authority,
    verifier: Verifier,
    grants: Mutex<HashMap<WorkspaceId, Arc<ArcSwapOption<Grant>>>>,
    pods: Mutex<HashMap<PodId, Pod>>,
}

/// A pod that is attached. Dropping it stops its tasks.
struct Pod {
    identity: PodIdentity,
    token: Arc<ArcSwapOption<Verified>>,
    stop: tokio_util::sync::DropGuard,
}
impl State {
    pub(crate) fn open(options: Options, verifier: Verifier) -> Result<Self, Error> {
        let dir = &options.state_dir;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| Error::State { path: dir.clone(), source })?;
        let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = Authority::open(dir, options.limits.leaf_certificates_max, provider)?;
        Ok(Self { options, authority, verifier, grants: Mutex::default(), pods: Mutex::default() })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        self.authority.pem()
    }

    pub(crate) async fn run(&self, _sink: Arc<dyn AuditSink>, shutdown: CancellationToken) {
        shutdown.cancelled().await;
        lock(&self.pods).clear();
    }

    pub(crate) fn attach(&self, pod: PodIdentity, _listeners: Listeners) -> Result<(), Error> {
        let stop = CancellationToken::new().drop_guard();
        lock(&self.pods).insert(pod.pod_id, Pod { identity: pod, token: Arc::default(), stop });
        Ok(())
    }

    pub(crate) fn set_token(&self, pod: PodId, token: &str) -> Result<(), Error> {
        let pods = lock(&self.pods);
        let pod = pods.get(&pod).ok_or(Error::UnknownPod(pod))?;
        let checked = self.verifier.verify(token).and_then(|verified| {
            let same = verified.subject.workspace_id == pod.identity.workspace_id
                && verified.subject.organization_id == pod.identity.organization_id;
            if same { Ok(verified) } else { Err(crate::token::Error::Subject) }
        });
        match checked {
            Ok(verified) => {
                pod.token.store(Some(Arc::new(verified)));
                Ok(())
            }
            Err(error) => {
                pod.token.store(None);
                Err(Error::Token(error))
            }
        }
    }

    pub(crate) fn detach(&self, pod: PodId) {
        lock(&self.pods).remove(&pod);
    }

    pub(crate) fn publish(&self, workspace: WorkspaceId, grant: Option<Arc<Grant>>) {
        self.grant_slot(workspace).store(grant);
    }

    pub(crate) fn forget(&self, workspace: WorkspaceId) {
        lock(&self.grants).remove(&workspace);
    }

    fn grant_slot(&self, workspace: WorkspaceId) -> Arc<ArcSwapOption<Grant>> {
        Arc::clone(lock(&self.grants).entry(workspace).or_default())
    }
}

/// A poisoned table is still a table: what is in it was put there whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
