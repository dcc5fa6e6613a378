//! The audit log: immutable rows of changes, decisions and activity, one hash chain per organization.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{EventId, OrganizationId, TaskId, Timestamp, WorkspaceId, slugs};

/// The greatest whole number of a row that JSON's canonical form writes as everybody does.
pub const EXACT_MAX: u64 = 1 << 53;

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
    /// What was decided about.
    PolicyType {
        /// A request.
        Http => "http",
        /// A question for a name.
        Dns => "dns",
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
        /// A secret was created; the row has its name and never its value.
        SecretCreated => "secret_created",
        /// A secret got another value.
        SecretUpdated => "secret_updated",
        /// A secret was deleted.
        SecretDeleted => "secret_deleted",
        /// Another master key seals the organization's secrets.
        VaultRotated => "vault_rotated",
        /// A person consented, and the credential's issuer gave a token for it.
        CredentialConsented => "credential_consented",
        /// The credential's issuer gave an access token.
        CredentialMinted => "credential_minted",
        /// The credential's issuer gave none; `detail.code` says why.
        CredentialMintFailed => "credential_mint_failed",
        /// The issuer of a deleted credential was asked to revoke it; `detail.outcome` says what came of it.
        CredentialRevocation => "credential_revocation",
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
        /// A request is held until a person decides.
        ApprovalRequested => "approval_requested",
        /// A held request was approved or denied, or its hold ended otherwise: `detail.status` says.
        ApprovalDecided => "approval_decided",
        /// A standing approval was taken back.
        ApprovalRevoked => "approval_revoked",
    }
}

slugs! {
    /// A column that a list can be filtered by.
    Column {
        /// Who caused it.
        UserId => "user_id",
        /// What happened.
        EventType => "event_type",
        /// What kind of row it is.
        Category => "category",
        /// Who wrote it.
        Actor => "actor",
        /// The workspace.
        WorkspaceId => "workspace_id",
        /// The task.
        TaskId => "task_id",
        /// The role's name.
        AgentRole => "agent_role",
        /// The provider's name.
        AgentProvider => "agent_provider",
        /// Host, with a port where it is not the scheme's.
        Destination => "destination",
        /// HTTP method, or DNS question type.
        Method => "method",
        /// Path without query.
        Path => "path",
        /// Whether it went out.
        Decision => "decision",
        /// Why.
        Reason => "reason",
        /// The capability that decided.
        CapabilityName => "capability_name",
        /// Where in the exchange it was decided.
        Phase => "phase",
        /// `http` or `dns`.
        PolicyType => "policy_type",
    }
}

impl Column {
    /// Refuses a value that no row can have there, and says what one must be: closed sets and ids know what is none of theirs.
    fn check(self, value: &str) -> Result<(), String> {
        let set = |values: Vec<&str>| match values.contains(&value) {
            true => Ok(()),
            false => Err(format!("one of {}", values.join(", "))),
        };
        let id = |is_one: bool, prefix| match is_one {
            true => Ok(()),
            false => Err(format!("`{prefix}_` and 32 lowercase hexadecimal digits")),
        };
        match self {
            Self::EventType => set(EventType::ALL.iter().map(|one| one.as_str()).collect()),
            Self::Category => set(Category::ALL.iter().map(|one| one.as_str()).collect()),
            Self::Actor => set(Actor::ALL.iter().map(|one| one.as_str()).collect()),
            Self::Decision => set(Decision::ALL.iter().map(|one| one.as_str()).collect()),
            Self::PolicyType => set(PolicyType::ALL.iter().map(|one| one.as_str()).collect()),
            Self::WorkspaceId => id(value.parse::<WorkspaceId>().is_ok(), WorkspaceId::PREFIX),
            Self::TaskId => id(value.parse::<TaskId>().is_ok(), TaskId::PREFIX),
            Self::UserId
            | Self::AgentRole
            | Self::AgentProvider
            | Self::Destination
            | Self::Method
            | Self::Path
            | Self::Reason
            | Self::CapabilityName
            | Self::Phase => match value {
                "" => Err("a text; `column!=` asks for any".to_owned()),
                _ => Ok(()),
            },
        }
    }
}

/// What a filter asks of a column. A row without a value there counts as having the empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Test {
    /// One of these.
    In(Vec<String>),
    /// None of these.
    NotIn(Vec<String>),
    /// Any value at all.
    Present,
}

/// One condition of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Of which column.
    pub column: Column,
    /// What is asked.
    pub test: Test,
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.test {
            Test::In(values) => write!(f, "{}={}", self.column, values.join(",")),
            Test::NotIn(values) => write!(f, "{}!={}", self.column, values.join(",")),
            Test::Present => write!(f, "{}!=", self.column),
        }
    }
}

/// The most values of one condition.
pub const CONDITION_VALUES_MAX: usize = 64;

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadCondition(String);

impl std::str::FromStr for Condition {
    type Err = BadCondition;

    /// Reads `column=value,value`, `column!=value,value` or `column!=`.
    fn from_str(text: &str) -> Result<Self, BadCondition> {
        let columns = || Column::ALL.iter().map(|column| column.as_str()).collect::<Vec<_>>().join(", ");
        let form = || {
            let columns = columns();
            BadCondition(format!(
                "must be `column=value[,value]`, `column!=value[,value]` or `column!=`, with a column of: {columns}"
            ))
        };
        let (left, values) = text.split_once('=').ok_or_else(form)?;
        let (name, is_negative) = left.strip_suffix('!').map_or((left, false), |name| (name, true));
        let column: Column = name.parse().map_err(|_| form())?;
        if values.is_empty() && is_negative {
            return Ok(Self { column, test: Test::Present });
        }
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        if values.len() > CONDITION_VALUES_MAX {
            return Err(BadCondition(format!("has more than {CONDITION_VALUES_MAX} values")));
        }
        for value in &values {
            column.check(value).map_err(|wanted| {
                let value: String = value.chars().take(64).collect();
                BadCondition(format!("`{value}` is no value of the column `{column}`: that is {wanted}"))
            })?;
        }
        let test = if is_negative { Test::NotIn(values) } else { Test::In(values) };
        Ok(Self { column, test })
    }
}

slugs! {
    /// The form of a checkpoint's payload.
    CheckpointFormat {
        /// The first, and so far the only one.
        V1 => "freehold-audit-checkpoint-1",
    }
}

/// What a checkpoint says. Its canonical JSON (RFC 8785) is signed with Ed25519.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The form of this payload, which also keeps it from being taken for anything else that is signed.
    pub format: CheckpointFormat,
    /// The hash of the row at `seq`, in hexadecimal.
    pub hash: String,
    /// The key that signs: the SHA-256 of the public key, in hexadecimal.
    pub key_id: String,
    /// Its number, dense from 1.
    pub number: u64,
    /// The organization.
    pub org_id: OrganizationId,
    /// The SHA-256 of the payload before, in hexadecimal; zeros for the first.
    pub previous: String,
    /// The last row that it covers.
    pub seq: u64,
    /// When it was made.
    pub timestamp: Timestamp,
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
    /// Credentials that could not be injected, and secrets as `secret:NAME`, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub auth_failures: BTreeMap<String, String>,
    /// Transforms that could not be applied, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub transforms_failed: BTreeMap<String, String>,
    /// Each budget that counted this request, as it stood after: by the counter's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budget_snapshot: BTreeMap<String, Value>,
    /// Budgets whose ceiling was applied to this request, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub budget_ceilings: BTreeMap<String, String>,
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
            auth_failures: BTreeMap::new(),
            transforms_failed: BTreeMap::new(),
            budget_snapshot: BTreeMap::new(),
            budget_ceilings: BTreeMap::new(),
        }
    }
}
