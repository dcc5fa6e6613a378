//! Wires egress to the reconciler: what the rows say of a workspace becomes its grant, its pod's traffic gets tokens. Credentials are
//! found when a request needs them: see `credentials.rs`.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::Context;
use async_trait::async_trait;
use freehold_app::fleet::Look;
use freehold_driver::OriginalDestination;
use freehold_egress::{
    Grant, Handle, Listeners, PodIdentity,
    token::{Minter, Subject},
};
use freehold_model::{PodId, SessionId, TaskId, Timestamp, WorkspaceId, audit};
use freehold_policy::{Document, Policy, ProviderGrant};
use freehold_reconcile::{Gate, GateLinks};
use rustix::net::sockopt;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;

use crate::credentials::Directory;

/// How long a token counts. It is renewed at half of this, while its pod is wanted.
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);

/// Egress, as the reconciler needs it.
pub struct EgressGate {
    egress: Handle,
    minter: Minter,
    directory: Arc<Directory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each workspace's grant was made from, and the digest of its policy.
    published: HashMap<WorkspaceId, (Source, String)>,
    /// Whose each pod's token says its traffic is, and since when.
    tokens: HashMap<PodId, (Option<TaskId>, SessionId, Instant)>,
    /// The policies in force, by digest: workspaces of one role share theirs.
    policies: HashMap<String, Weak<Policy>>,
}

/// When the rows behind a grant last changed: the same times, the same grant.
type Source = (Timestamp, Timestamp);

impl EgressGate {
    /// A gate over this egress.
    pub fn new(egress: Handle, minter: Minter, directory: Arc<Directory>) -> Self {
        Self { egress, minter, directory, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is valid at every point, so that a panic elsewhere spoils nothing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mint(&self, look: &Look, task: Option<TaskId>) -> io::Result<String> {
        let workspace = look.workspace.id;
        let policy_digest = self.state().published.get(&workspace).map(|(_, digest)| digest.clone());
        let user = look.workspace.created_by;
        let subject = Subject {
            organization_id: look.workspace.organization_id,
            workspace_id: workspace,
            session_id: look.workspace.session_id,
            task_id: task,
            role: look.role.name.clone(),
            policy_digest: policy_digest.unwrap_or_default(),
            user_id: user.map_or_else(|| audit::SYSTEM_USER.to_owned(), |member| member.to_string()),
        };
        self.minter.mint(&subject, TOKEN_LIFETIME).map_err(io::Error::other)
    }

    /// The workspace's policy, compiled unless another workspace has the same.
    async fn policy(&self, look: &Look) -> anyhow::Result<Arc<Policy>> {
        let digest = policy_digest(look);
        if let Some(policy) = self.state().policies.get(&digest).and_then(Weak::upgrade) {
            return Ok(policy);
        }
        let provider = ProviderGrant {
            kind: look.provider.kind,
            domain: look.provider.domain.clone(),
            credential: look.provider.credential_name.clone(),
        };
        let (base, own) = (look.provider.capabilities.clone(), look.role.capabilities.clone());
        // A long one takes a while, for which no other workspace waits.
        let compile = tokio::task::spawn_blocking(move || {
            let base = document(base.as_deref()).context("the provider's capabilities")?;
            let own = document(own.as_deref()).context("the role's capabilities")?;
            freehold_policy::compile(&provider, &base, &own).map_err(anyhow::Error::msg)
        });
        let policy = Arc::new(compile.await??);
        let mut state = self.state();
        state.policies.retain(|_, policy| policy.strong_count() > 0);
        state.policies.insert(digest, Arc::downgrade(&policy));
        Ok(policy)
    }

    async fn grant(&self, look: &Look) -> anyhow::Result<Grant> {
        let policy = self.policy(look).await?;
        Ok(Grant {
            organization_id: look.workspace.organization_id,
            role_id: look.role.id,
            role: look.role.name.clone(),
            provider: look.provider.name.clone(),
            policy,
            policy_digest: policy_digest(look),
            credentials: self.directory.of(look),
        })
    }
}

/// Where a connection was going before netfilter redirected it.
fn destination_before_redirect(stream: &TcpStream) -> io::Result<SocketAddr> {
    Ok(match stream.local_addr()? {
        SocketAddr::V4(_) => SocketAddr::V4(sockopt::ip_original_dst(stream)?),
        SocketAddr::V6(_) => SocketAddr::V6(sockopt::ipv6_original_dst(stream)?),
    })
}

/// The digest of all that the policy is made from, as evidence in tokens of what was in force.
fn policy_digest(look: &Look) -> String {
    let mut digest = Sha256::new();
    let (provider, role) = (look.provider.capabilities.as_deref(), look.role.capabilities.as_deref());
    let (kind, credential) = (look.provider.kind.as_str(), look.provider.credential_name.as_deref());
    for text in [Some(kind), Some(look.provider.domain.as_str()), credential, provider, role] {
        let text = text.unwrap_or_default();
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    format!("sha256:{}", hex::encode(digest.finalize()))
}

fn document(text: Option<&str>) -> anyhow::Result<Document> {
    match text {
        None => Ok(Document::default()),
        Some(text) => freehold_policy::parse(text).map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("{}", lines.join("; "))
        }),
    }
}

#[async_trait]
impl Gate for EgressGate {
    async fn open(&self, look: &Look, pod: PodId, links: GateLinks) -> io::Result<()> {
        let identity = PodIdentity {
            pod_id: pod,
            workspace_id: look.workspace.id,
            organization_id: look.workspace.organization_id,
        };
        let task = look.current_task.as_ref().map(|task| task.id);
        let token = self.mint(look, task)?;
        let listeners = match links.original_destination {
            OriginalDestination::Netfilter => {
                Listeners::asking(links.tcp, links.dns, destination_before_redirect)
            }
            OriginalDestination::LocalAddress => Listeners::tproxy(links.tcp, links.dns),
        };
        self.egress.attach(identity, listeners, Some(&token)).map_err(io::Error::other)?;
        self.state().tokens.insert(pod, (task, look.workspace.session_id, Instant::now()));
        Ok(())
    }

    async fn attribute(&self, look: &Look, pod: PodId, task: Option<TaskId>) -> io::Result<()> {
        let session = look.workspace.session_id;
        if let Some((current, of, minted)) = self.state().tokens.get(&pod)
            && (*current, *of) == (task, session)
            && minted.elapsed() < TOKEN_LIFETIME / 2
        {
            return Ok(());
        }
        let token = self.mint(look, task)?;
        self.egress.set_token(pod, &token).map_err(io::Error::other)?;
        self.state().tokens.insert(pod, (task, session, Instant::now()));
        Ok(())
    }

    async fn publish(&self, look: &Look) -> io::Result<()> {
        self.egress.set_standing(look.workspace.id, look.standing.clone());
        let source = (look.role.updated_at, look.provider.updated_at);
        if self.state().published.get(&look.workspace.id).is_some_and(|(published, _)| *published == source) {
            return Ok(());
        }
        let digest = match self.grant(look).await {
            Ok(grant) => {
                self.egress.publish(look.workspace.id, Arc::new(grant));
                policy_digest(look)
            }
            Err(error) => {
                // What cannot be understood allows nothing. The pod is served all the same, so that who works in it is told so.
                tracing::error!(
                    workspace.id = %look.workspace.id,
                    role.name = look.role.name,
                    provider.name = look.provider.name,
                    error = format!("{error:#}"),
                    "the capabilities that are stored cannot be used: nothing goes out of the workspace until they are corrected"
                );
                self.egress.revoke(look.workspace.id);
                String::new()
            }
        };
        self.state().published.insert(look.workspace.id, (source, digest));
        Ok(())
    }

    async fn close(&self, workspace: WorkspaceId, pod: PodId) {
        self.egress.detach(pod);
        self.egress.release(workspace);
        self.directory.forget(workspace);
        let mut state = self.state();
        state.tokens.remove(&pod);
        state.published.remove(&workspace);
    }

    fn forget(&self, workspace: WorkspaceId) {
        self.egress.forget(workspace);
        self.directory.forget(workspace);
        self.state().published.remove(&workspace);
    }
}
