//! Workspaces and the only function that changes their phase.
//!
//! ```text
//!              start                    agent ready            task started
//!   (new) ------------> provisioning ---------------> idle <----------------> busy
//!                         |    ^  ^                     |     task ended        |
//!                 gave up |    |  +---- pod lost -------+-----------------------+
//!                         v    | start                  | stop                  | stop
//!                       failed-+                        v                       v
//!                         |                          stopping <-----------------+
//!                         +--------- stop ------------->|
//!                                                       | pod gone
//!                              provisioning <- start - stopped
//! ```
//!
//! `archived_at` is beside the phase on purpose: archiving hides a stopped or failed workspace and keeps its phase.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    CredentialId, MemberId, Next, OrganizationId, PodId, ProviderId, RoleId, SessionId, Timestamp,
    WorkspaceId, credential, provider::Provider, role::Role, slugs,
};

slugs! {
    /// The phase of a workspace: what its `status` says.
    Phase {
        /// A pod is wanted and its agent is not connected yet.
        Provisioning => "provisioning",
        /// The agent is connected and has no task.
        Idle => "idle",
        /// The agent is running a task.
        Busy => "busy",
        /// The pod is being taken down; files stay.
        Stopping => "stopping",
        /// No pod. Files and conversation are kept.
        Stopped => "stopped",
        /// The pod could not be started often enough to be worth another try.
        Failed => "failed",
    }
}

slugs! {
    /// What can happen to a workspace.
    Event {
        /// Somebody wants it running: creation, and later resume.
        StartAsked => "start_asked",
        /// The agent in the pod completed its handshake.
        AgentReady => "agent_ready",
        /// A task began to run.
        TaskStarted => "task_started",
        /// The running task reached a terminal status.
        TaskEnded => "task_ended",
        /// Somebody wants it stopped.
        StopAsked => "stop_asked",
        /// The driver no longer sees a pod that is wanted.
        PodLost => "pod_lost",
        /// The pod of a stopping workspace is gone.
        PodGone => "pod_gone",
        /// The pod failed to start too many times in a row.
        GaveUp => "gave_up",
    }
}

/// Why a phase refuses an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is being stopped: wait until it is `stopped`.
    #[error("the workspace is stopping")]
    Stopping,
    /// It has no running agent.
    #[error("the workspace is stopped")]
    Stopped,
    /// It failed to start.
    #[error("the workspace has failed")]
    Failed,
    /// Its agent is not ready yet.
    #[error("the workspace is provisioning")]
    Provisioning,
}

/// The only place where a workspace's phase changes. Reports from the driver and the agent are never denied: late or
/// repeated ones are ignored.
pub fn next(phase: Phase, event: Event) -> Result<Next<Phase>, Denied> {
    use Event::{AgentReady, GaveUp, PodGone, PodLost, StartAsked, StopAsked, TaskEnded, TaskStarted};
    use Phase::{Busy, Failed, Idle, Provisioning, Stopped, Stopping};
    Ok(match (phase, event) {
        (Stopped | Failed, StartAsked) => Next::Go(Provisioning),
        (Provisioning | Idle | Busy, StartAsked) => Next::Ignore,
        (Stopping, StartAsked) => return Err(Denied::Stopping),

        (Provisioning, AgentReady) => Next::Go(Idle),
        (Idle, TaskStarted) => Next::Go(Busy),
        (Busy, TaskEnded) => Next::Go(Idle),

        (Provisioning | Idle | Busy | Failed, StopAsked) => Next::Go(Stopping),
        (Stopping | Stopped, StopAsked) => Next::Ignore,

        (Idle | Busy, PodLost) => Next::Go(Provisioning),
        (Stopping, PodGone | PodLost) => Next::Go(Stopped),
        (Provisioning, GaveUp) => Next::Go(Failed),

        // Late or repeated reports: already accounted for.
        (
            Provisioning | Idle | Busy | Stopping | Stopped | Failed,
            AgentReady | TaskStarted | TaskEnded | PodLost | PodGone | GaveUp,
        ) => Next::Ignore,
    })
}

/// Whether somebody who needs the agent (session view, cancel, exec) can be served in this phase.
pub fn agent_expected(phase: Phase) -> Result<(), Denied> {
    match phase {
        Phase::Idle | Phase::Busy => Ok(()),
        Phase::Provisioning => Err(Denied::Provisioning),
        Phase::Stopping | Phase::Stopped => Err(Denied::Stopped),
        Phase::Failed => Err(Denied::Failed),
    }
}

/// Whether a pod is wanted in this phase.
pub fn pod_wanted(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Idle | Phase::Busy)
}

/// Whether a workspace in this phase keeps its role and provider from being archived.
pub fn is_active(phase: Phase) -> bool {
    matches!(phase, Phase::Provisioning | Phase::Idle | Phase::Busy | Phase::Stopping)
}

/// Whether a workspace in this phase may be archived.
pub fn is_archivable(phase: Phase) -> bool {
    matches!(phase, Phase::Stopped | Phase::Failed)
}

/// Which model a workspace was started with, and where that is: what its agents call until it is stopped, whatever is said of
/// its role and provider meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    provider_id: ProviderId,
    domain: String,
    credential_name: Option<String>,
    /// What had that name; rows of earlier versions do not say.
    #[serde(default)]
    credential_id: Option<CredentialId>,
    model: Option<String>,
    config: BTreeMap<String, String>,
}

impl Backend {
    /// What these say; `credential` is what the provider's credential name stands for.
    pub fn of(role: &Role, provider: &Provider, credential: Option<CredentialId>) -> Self {
        Self {
            provider_id: provider.id,
            domain: provider.domain.clone(),
            credential_name: provider.credential_name.clone(),
            credential_id: credential,
            model: role.model.clone().or_else(|| provider.default_model.clone()),
            config: provider.config.clone(),
        }
    }

    /// The provider.
    pub const fn provider_id(&self) -> ProviderId {
        self.provider_id
    }

    /// Where the provider was.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The name of the credential that it wanted.
    pub fn credential_name(&self) -> Option<&str> {
        self.credential_name.as_deref()
    }

    /// What had that name, where it is known.
    pub const fn credential_id(&self) -> Option<CredentialId> {
        self.credential_id
    }

    /// The model.
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// The role as the workspace has it.
    pub fn role(&self, role: Role) -> Role {
        Role { provider_id: self.provider_id, model: self.model.clone(), ..role }
    }

    /// The provider of that role as the workspace has it. Another credential counts at once, but never goes to a host that it
    /// was not named for: when the provider has moved, the name is [bound](credential::bound).
    pub fn provider(&self, provider: Provider) -> Provider {
        let credential_name = match provider.domain == self.domain {
            true => provider.credential_name,
            false => self.credential_name.as_ref().map(|name| credential::bound(name, self.credential_id)),
        };
        Provider { domain: self.domain.clone(), config: self.config.clone(), credential_name, ..provider }
    }
}

/// A workspace: the unit of continuity (files, conversation, audit trail).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// The role its agent works under.
    pub role_id: RoleId,
    /// Free environment label, copied from the request or the role.
    pub environment: Option<String>,
    /// Where it stands.
    pub phase: Phase,
    /// Its creator; absent when an API key created it.
    pub created_by: Option<MemberId>,
    /// The current session.
    pub session_id: SessionId,
    /// The pod that is wanted or being taken down, if any.
    pub pod_id: Option<PodId>,
    /// Counts changes of what is desired of the pod; drivers refuse an older one.
    pub generation: u64,
    /// Starts of the pod in a row that did not end with a ready agent.
    pub failed_starts: u32,
    /// Which model it was started with; absent until its agent is ready, and when it is stopped.
    pub backend: Option<Backend>,
    /// Where its last snapshot is.
    pub snapshot_ref: Option<String>,
    /// Why the last snapshot could not be saved.
    pub last_snapshot_error: Option<String>,
    /// Forks only: the parent.
    pub parent_id: Option<WorkspaceId>,
    /// Forks only: the parent's snapshot it began from.
    pub fork_source_snapshot_ref: Option<String>,
    /// Forks only: how many of the parent's tasks came before the fork.
    pub fork_point_task_count: Option<u32>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
    /// When it was archived, if it is.
    pub archived_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_table_of_phases_and_events_is_the_golden_one() {
        let mut table = String::new();
        for &phase in Phase::ALL {
            for &event in Event::ALL {
                let answer = match next(phase, event) {
                    Ok(Next::Go(to)) => format!("-> {to}"),
                    Ok(Next::Ignore) => "ignore".to_owned(),
                    Err(denied) => format!("denied: {denied}"),
                };
                writeln!(table, "{phase:12} {event:12} {answer}").unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn reports_of_driver_and_agent_are_never_denied() {
        use Event::{AgentReady, GaveUp, PodGone, PodLost, TaskEnded, TaskStarted};
        for &phase in Phase::ALL {
            for event in [AgentReady, GaveUp, PodGone, PodLost, TaskEnded, TaskStarted] {
                assert!(next(phase, event).is_ok(), "{phase} {event}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_stopped_workspace_moves_only_when_somebody_starts_it(events in proptest::collection::vec(0..Event::ALL.len(), 0..64)) {
            let mut phase = Phase::Provisioning;
            for event in events.into_iter().map(|index| Event::ALL[index]) {
                if let Ok(Next::Go(to)) = next(phase, event) {
                    assert!(!matches!(phase, Phase::Stopped | Phase::Failed) || matches!(event, Event::StartAsked | Event::StopAsked));
                    assert!(pod_wanted(to) || event != Event::StartAsked);
                    phase = to;
                }
            }
        }
    }
}
