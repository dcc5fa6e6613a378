//! The service and its handle.

use std::sync::Arc;

use freehold_model::{PodId, WorkspaceId, approval::Standing};
use tokio_util::sync::CancellationToken;

use crate::{
    Approvals, AuditSink, Error, Grant, Listeners, Options, Outbound, PodIdentity,
    budget::{Budgets, Ledger},
    state::State,
    token::Verifier,
};

impl Options {
    /// Opens the state directory, makes the platform CA at the first start and takes up what an earlier process left
    /// in the spool. Nothing is accepted before a pod is attached. People are asked by `approvals`, budgets are counted in
    /// `ledger`, names are asked for on the runtime that this is called in.
    pub fn build(
        self,
        verifier: Verifier,
        sink: Arc<dyn AuditSink>,
        approvals: Arc<dyn Approvals>,
        ledger: Arc<dyn Ledger>,
    ) -> Result<(Service, Handle), Error> {
        let state = Arc::new(State::open(self, verifier, approvals, ledger)?);
        Ok((Service { state: Arc::clone(&state), sink }, Handle { state }))
    }
}

/// The part that must run: it hands audit rows to the sink, and tells the ledger of budgets what it has to know.
pub struct Service {
    state: Arc<State>,
    sink: Arc<dyn AuditSink>,
}

impl Service {
    /// Runs until `shutdown`; then lets go of every pod, gives back what was leased of budgets and hands over the rows that
    /// are left, as far as the sink takes them at once. What it does not take stays in the spool for the next start.
    pub async fn run(self, shutdown: CancellationToken) {
        self.state.run(self.sink, shutdown).await;
    }
}

/// The way to tell egress about pods and grants. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    state: Arc<State>,
}

impl Handle {
    /// Begins to serve a pod. Attaching a pod again (the server was restarted, say) replaces what was there. The token
    /// is in force before the first connection is accepted; without one everything is denied until
    /// [`Handle::set_token`].
    ///
    /// # Errors
    /// The pod is not attached then: its token is refused, its sockets or its table of names cannot be used.
    pub fn attach(&self, pod: PodIdentity, listeners: Listeners, token: Option<&str>) -> Result<(), Error> {
        self.state.attach(pod, listeners, token)
    }

    /// Sets whose traffic the pod's next connections are. A token that is refused leaves the pod without one.
    pub fn set_token(&self, pod: PodId, token: &str) -> Result<(), Error> {
        self.state.set_token(pod, token)
    }

    /// Stops serving a pod: its listeners are closed here and its connections cut.
    pub fn detach(&self, pod: PodId) {
        self.state.detach(pod);
    }

    /// Puts a grant in force for the workspace's next request, on open connections too.
    pub fn publish(&self, workspace: WorkspaceId, grant: Arc<Grant>) {
        self.state.publish(workspace, Some(grant));
    }

    /// Puts in force what people approved for rules of the workspace until a time, in the place of what was before.
    pub fn set_standing(&self, workspace: WorkspaceId, standing: Vec<Standing>) {
        self.state.set_standing(workspace, standing);
    }

    /// Takes the workspace's grant away: everything is denied.
    pub fn revoke(&self, workspace: WorkspaceId) {
        self.state.publish(workspace, None);
    }

    /// Takes the grant of a workspace that is stopped away and, when no pod of it is attached, all else that is kept of it but
    /// the file of its names: connections, masks, what people approved. [`Handle::publish`] and [`Handle::attach`] begin anew.
    pub fn release(&self, workspace: WorkspaceId) {
        self.state.release(workspace);
    }

    /// Forgets a workspace that will never run again: its grant and the addresses its names were answered with.
    pub fn forget(&self, workspace: WorkspaceId) {
        self.state.forget(workspace);
    }

    /// The budgets, as they are counted here.
    pub fn budgets(&self) -> &Budgets {
        &self.state.budgets
    }

    /// The way out for requests of the server's own, which no policy decides.
    pub fn outbound(&self) -> Outbound {
        self.state.outbound()
    }

    /// The platform CA's certificate, to be trusted inside pods.
    pub fn ca_pem(&self) -> &str {
        self.state.ca_pem()
    }
}
