//! Rows of the audit log, as use cases and the reconciler write them.

use freehold_access::Actor as Caller;
use freehold_model::{
    EventId, Timestamp,
    audit::{Actor, AuditEvent, Category, EventType, SYSTEM_USER},
    workspace::Workspace,
};
use freehold_store::{OrgRead, OrgTx};
use serde_json::Value;

use crate::{Error, new_uuid, workspace::role_and_provider};

/// Who caused a row and who writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The member, or [`SYSTEM_USER`].
    pub user_id: String,
    /// The writer.
    pub actor: Actor,
}

impl Cause {
    /// A caller of the API.
    pub fn caller(caller: &Caller) -> Self {
        Self { user_id: caller.user_id(), actor: Actor::ControlPlane }
    }

    /// What happens in a workspace by itself: its creator is named, since the work is done on that member's behalf.
    pub fn workspace(workspace: &Workspace, actor: Actor) -> Self {
        let user_id =
            workspace.created_by.map_or_else(|| SYSTEM_USER.to_owned(), |member| member.to_string());
        Self { user_id, actor }
    }

    /// The server itself.
    pub fn server() -> Self {
        Self { user_id: SYSTEM_USER.to_owned(), actor: Actor::ControlPlane }
    }
}

/// The category of a type of row: lifecycles are activity, all else is audit.
pub const fn category(event_type: EventType) -> Category {
    use EventType as E;
    match event_type {
        E::BudgetWarned
        | E::WorkspaceCreated
        | E::WorkspaceStatusChanged
        | E::WorkspaceArchived
        | E::WorkspaceUnarchived
        | E::WorkspaceDeleted
        | E::TaskSubmitted
        | E::TaskDelivered
        | E::TaskCancelRequested
        | E::TaskStarted
        | E::TaskCompleted
        | E::SessionStarted
        | E::SessionFinished
        | E::IterationStarted
        | E::IterationCompleted
        | E::IterationRetrying
        | E::ToolStarted
        | E::ToolCompleted
        | E::CompactionStarted
        | E::CompactionCompleted
        | E::ApprovalRequested
        | E::ApprovalDecided
        | E::ApprovalRevoked => Category::Activity,
        E::PolicyDecision
        | E::ProviderCreated
        | E::ProviderUpdated
        | E::ProviderArchived
        | E::ProviderUnarchived
        | E::RoleCreated
        | E::RoleUpdated
        | E::RoleArchived
        | E::RoleUnarchived
        | E::CredentialCreated
        | E::CredentialDeleted
        | E::CredentialStatusChanged
        | E::SecretCreated
        | E::SecretUpdated
        | E::SecretDeleted
        | E::VaultRotated
        | E::CredentialConsented
        | E::CredentialMinted
        | E::CredentialMintFailed
        | E::CredentialRevocation
        | E::ApiKeyCreated
        | E::ApiKeyRevoked
        | E::MemberAdded
        | E::PersonalTokenCreated
        | E::PersonalTokenRevoked
        | E::WorkspaceExec => Category::Audit,
    }
}

/// Appends a row that concerns the organization and no workspace.
pub fn append(
    tx: &mut OrgTx<'_>,
    cause: &Cause,
    event_type: EventType,
    detail: Value,
    now: Timestamp,
) -> Result<(), Error> {
    let event = row(tx, cause, event_type, Some(detail), now);
    tx.audit_add(&event)?;
    Ok(())
}

/// A row attributed to a workspace: with its id and the names of its role and provider. The caller adds what else there
/// is (the task) and appends it.
pub fn workspace_row(
    tx: &mut OrgRead<'_>,
    workspace: &Workspace,
    cause: &Cause,
    event_type: EventType,
    detail: Option<Value>,
    now: Timestamp,
) -> Result<AuditEvent, Error> {
    let mut event = row(tx, cause, event_type, detail, now);
    event.workspace_id = Some(workspace.id);
    let (role, provider) = role_and_provider(tx, workspace)?;
    (event.agent_role, event.agent_provider) = (Some(role.name), Some(provider.name));
    Ok(event)
}

fn row(
    tx: &OrgRead<'_>,
    cause: &Cause,
    event_type: EventType,
    detail: Option<Value>,
    now: Timestamp,
) -> AuditEvent {
    let id = EventId::from_uuid(new_uuid());
    let Cause { user_id, actor } = cause.clone();
    let mut event =
        AuditEvent::new(id, tx.organization_id(), user_id, now, event_type, category(event_type), actor);
    event.detail = detail;
    event
}
