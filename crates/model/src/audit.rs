//! The audit log: immutable rows of changes, decisions and activity, one hash chain per organization.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EventId, OrganizationId, TaskId, Timestamp, WorkspaceId, slugs};

slugs! {
    /// What kind of row it is.
    Category {
        /// Configuration changes, credential states, policy decisions.
        Audit => "audit",
        /// What workspaces, tasks and agents do.
        Activity => "activity",
    }
}

slugs! {
    /// Who wrote the row.
    Actor {
        /// The control plane.
        ControlPlane => "control-plane",
        /// Egress.
        PolicyEngine => "policy-engine",
        /// The agent in the pod.
        Agent => "agent",
    }
}

slugs! {
    /// Whether a request went out.
    Decision {
        /// It did.
        Allow => "allow",
        /// It did not.
        Deny => "deny",
    }
}

slugs! {
    /// The closed set of row types.
    EventType {
        /// Egress decided a request or a name look-up.
        PolicyDecision => "policy_decision",
        /// A counter has come near its limit, for the first time in its window.
        BudgetWarned => "budget_warned",
        /// A provider was created.
        ProviderCreated => "provider_created",
        /// A provider was changed.
        ProviderUpdated => "provider_updated",
        /// A provider was archived.
        ProviderArchived => "provider_archived",
        /// A provider was unarchived.
        ProviderUnarchived => "provider_unarchived",
        /// A role was created.
        RoleCreated => "role_created",
        /// A role was changed.
        RoleUpdated => "role_updated",
        /// A role was archived.
        RoleArchived => "role_archived",
        /// A role was unarchived.
        RoleUnarchived => "role_unarchived",
        /// A credential was created.
        CredentialCreated => "credential_created",
        /// A credential was deleted.
        CredentialDeleted => "credential_deleted",
        /// A credential's status changed.
        CredentialStatusChanged => "credential_status_changed",
        /// An API key was created.
        ApiKeyCreated => "api_key_created",
        /// An API key was revoked.
        ApiKeyRevoked => "api_key_revoked",
        /// A member was added.
        MemberAdded => "member_added",
        /// A personal token was made.
        PersonalTokenCreated => "personal_token_created",
        /// A personal token was revoked.
        PersonalTokenRevoked => "personal_token_revoked",
        /// Somebody ran a command in a workspace.
        WorkspaceExec => "workspace_exec",
        /// A workspace was deleted for good.
        WorkspaceDeleted => "workspace_deleted",
        /// A workspace was archived.
        WorkspaceArchived => "workspace_archived",
        /// A workspace was unarchived.
        WorkspaceUnarchived => "workspace_unarchived",
        /// A workspace was created.
        WorkspaceCreated => "workspace_created",
        /// A workspace's status changed.
        WorkspaceStatusChanged => "workspace_status_changed",
        /// A task was submitted.
        TaskSubmitted => "task_submitted",
        /// A task was handed to its agent.
        TaskDelivered => "task_delivered",
        /// Somebody asked to cancel the running task.
        TaskCancelRequested => "task_cancel_requested",
        /// The agent began a task.
        TaskStarted => "task_started",
        /// A task reached a terminal status, which `detail.status` names.
        TaskCompleted => "task_completed",
        /// A conversation began.
        SessionStarted => "session_started",
        /// A conversation was closed.
        SessionFinished => "session_finished",
        /// The model is being called.
        IterationStarted => "iteration_started",
        /// The model answered, or could not.
        IterationCompleted => "iteration_completed",
        /// A model call failed and will be tried again.
        IterationRetrying => "iteration_retrying",
        /// A tool began.
        ToolStarted => "tool_started",
        /// A tool ended.
        ToolCompleted => "tool_completed",
        /// Compaction of the conversation began.
        CompactionStarted => "compaction_started",
        /// Compaction of the conversation ended.
        CompactionCompleted => "compaction_completed",
    }
}

/// The caller of rows that no person caused.
pub const SYSTEM_USER: &str = "system";

/// One row. Its position and hash are given when it is committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its id; committing the same id again changes nothing.
    pub id: EventId,
    /// The organization.
    pub org_id: OrganizationId,
    /// The member who caused it, or [`SYSTEM_USER`].
    pub user_id: String,
    /// When it happened, at its source.
    pub timestamp: Timestamp,
    /// What happened.
    pub event_type: EventType,
    /// What kind of row it is.
    pub category: Category,
    /// Who wrote it.
    pub actor: Actor,
    /// The workspace, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace_id: Option<WorkspaceId>,
    /// The task, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The name of the workspace's role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_role: Option<String>,
    /// The name of the role's provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_provider: Option<String>,
    /// Host, with a port where it is not the scheme's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// HTTP method, or DNS question type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path without query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether it went out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Milliseconds until the response's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Transforms applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transforms_applied: Option<u32>,
    /// Validations applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validations_applied: Option<u32>,
    /// The capability that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability_name: Option<String>,
    /// Where in the exchange it was decided: `request_headers`, `request_body`, `response_headers`, `response_body`, `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// `http` or `dns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_type: Option<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
    /// Credentials that were injected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth_applied: Vec<String>,
    /// Credentials that could not be injected, and why.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub auth_failures: std::collections::BTreeMap<String, String>,
    /// The counters of an allowed request, with the request.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub budgets: crate::budget::Snapshots,
    /// Counters that stopped a request, and why.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub budget_reasons: std::collections::BTreeMap<String, String>,
}

impl AuditEvent {
    /// A row with its required fields.
    pub const fn new(
        id: EventId,
        org_id: OrganizationId,
        user_id: String,
        timestamp: Timestamp,
        event_type: EventType,
        category: Category,
        actor: Actor,
    ) -> Self {
        Self {
            id,
            org_id,
            user_id,
            timestamp,
            event_type,
            category,
            actor,
            workspace_id: None,
            task_id: None,
            agent_role: None,
            agent_provider: None,
            destination: None,
            method: None,
            path: None,
            decision: None,
            reason: None,
            latency_ms: None,
            transforms_applied: None,
            validations_applied: None,
            capability_name: None,
            phase: None,
            policy_type: None,
            detail: None,
            auth_applied: Vec::new(),
            auth_failures: std::collections::BTreeMap::new(),
            budgets: std::collections::BTreeMap::new(),
            budget_reasons: std::collections::BTreeMap::new(),
        }
    }
}
