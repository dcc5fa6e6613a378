//! Audit rows: one for each decision, made here and handed on through the spool.

use async_trait::async_trait;
use freehold_model::{
    EventId, OrganizationId, SessionId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Decision, EventType, PolicyType, SYSTEM_USER},
    budget::Whose,
};

use freehold_policy::RuleName;

use crate::{Grant, PodIdentity, budget::Warning, deny::Reason, token::Verified};

/// Why a sink did not take rows. They are offered again.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where audit rows go in the end.
#[async_trait]
pub trait AuditSink: Send + Sync + 'static {
    /// Makes the rows durable. Idempotent by row id: after a crash the same rows come again.
    ///
    /// # Errors
    /// The same rows are offered again, later; while the backlog is full, requests wait.
    async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError>;
}

/// Whose traffic a connection is. Fixed when it is accepted.
#[derive(Debug, Clone)]
pub(crate) struct Attribution {
    organization_id: OrganizationId,
    workspace_id: WorkspaceId,
    session_id: Option<SessionId>,
    task_id: Option<TaskId>,
    user_id: String,
}

impl Attribution {
    pub(crate) fn new(pod: &PodIdentity, token: Option<&Verified>) -> Self {
        Self {
            organization_id: pod.organization_id,
            workspace_id: pod.workspace_id,
            session_id: token.map(|token| token.subject.session_id),
            task_id: token.and_then(|token| token.subject.task_id),
            user_id: token.map_or_else(|| SYSTEM_USER.to_owned(), |token| token.subject.user_id.clone()),
        }
    }

    pub(crate) const fn organization_id(&self) -> OrganizationId {
        self.organization_id
    }

    pub(crate) const fn workspace_id(&self) -> WorkspaceId {
        self.workspace_id
    }

    /// Whose requests budgets count; `None` without a token, with which nothing is allowed.
    pub(crate) fn whose(&self, grant: &Grant) -> Option<Whose> {
        Some(Whose {
            organization_id: self.organization_id,
            workspace_id: self.workspace_id,
            role_id: grant.role_id,
            session_id: self.session_id?,
            task_id: self.task_id,
        })
    }

    pub(crate) const fn task_id(&self) -> Option<TaskId> {
        self.task_id
    }

    pub(crate) fn user_id(&self) -> &str {
        &self.user_id
    }

    /// A row about HTTP, or about a connection that did not get as far.
    pub(crate) fn http(&self, grant: Option<&Grant>, destination: String) -> AuditEvent {
        self.row(grant, PolicyType::Http, "request_headers", destination)
    }

    /// A row about a question for a name.
    pub(crate) fn dns(&self, grant: Option<&Grant>, name: String) -> AuditEvent {
        self.row(grant, PolicyType::Dns, "dns", name)
    }

    fn row(
        &self,
        grant: Option<&Grant>,
        policy_type: PolicyType,
        phase: &str,
        destination: String,
    ) -> AuditEvent {
        let mut row = AuditEvent::new(
            EventId::from_uuid(uuid::Uuid::now_v7()),
            self.organization_id,
            self.user_id.clone(),
            Timestamp::now(),
            EventType::PolicyDecision,
            Category::Audit,
            Actor::PolicyEngine,
        );
        row.workspace_id = Some(self.workspace_id);
        row.task_id = self.task_id;
        row.agent_role = grant.map(|grant| grant.role.clone());
        row.agent_provider = grant.map(|grant| grant.provider.clone());
        row.destination = Some(destination);
        row.policy_type = Some(policy_type.as_str().to_owned());
        row.phase = Some(phase.to_owned());
        row
    }
}

/// The row that says that a limit is near. Its id is that of the count, so that it is written once, whoever says it.
pub(crate) fn warned(warning: &Warning) -> AuditEvent {
    let Warning { whose, key, used, warn_at, limit, at } = warning;
    let name = format!("{key:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, name.as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_ref()[..16]);
    let mut row = AuditEvent::new(
        EventId::from_uuid(uuid::Builder::from_custom_bytes(id).into_uuid()),
        whose.organization_id,
        SYSTEM_USER.to_owned(),
        *at,
        EventType::BudgetWarned,
        Category::Activity,
        Actor::PolicyEngine,
    );
    row.workspace_id = Some(whose.workspace_id);
    row.task_id = whose.task_id;
    row.capability_name = Some(key.capability.to_string());
    row.detail = Some(serde_json::json!({
        "counter": &*key.counter,
        "origin": key.origin,
        "unit": key.unit,
        "subject": key.subject.to_string(),
        "used": used,
        "warn_at": warn_at,
        "limit": limit,
        "window_start": (key.window_seconds > 0).then_some(key.window_start),
    }));
    row
}

/// Marks a row as denied.
pub(crate) fn denied(row: &mut AuditEvent, reason: Reason) {
    row.decision = Some(Decision::Deny);
    row.reason = Some(reason.as_str().to_owned());
}

/// Marks a row as allowed by a rule.
pub(crate) fn allowed(row: &mut AuditEvent, capability: &str) {
    row.decision = Some(Decision::Allow);
    row.reason = Some(freehold_policy::Reason::RuleMatched.as_str().to_owned());
    row.capability_name = Some(capability.to_owned());
}

/// Names the rule that decided, or would have, and whose document it stands in.
pub(crate) fn by_rule(row: &mut AuditEvent, name: &RuleName) {
    row.capability_name = Some(name.capability.to_string());
    row.detail = Some(serde_json::json!({ "rule": &*name.rule, "origin": name.origin.as_str() }));
}

/// Says one thing more in a row's detail.
pub(crate) fn noted(row: &mut AuditEvent, what: &str, value: serde_json::Value) {
    row.detail.get_or_insert_with(|| serde_json::json!({}))[what] = value;
}
