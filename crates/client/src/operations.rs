//! The operations, a method each, in the order of the API's document.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use freehold_api::{
    api_key::{ApiKeyCreate, ApiKeyCreated, ApiKeyList},
    approval::{Approval, ApprovalDecide, ApprovalList, ApprovalListQuery},
    audit::{
        AccessReview, AccessReviewQuery, ActivityListQuery, AuditCheckpointList, AuditEventList,
        AuditExportQuery, AuditKeyList, AuditListQuery, CheckpointListQuery,
    },
    budget::BudgetList,
    config::{Config, MeSession},
    credential::{Credential, CredentialCreate, CredentialList, CredentialOauthStarted},
    limits::EXEC_TIMEOUT_SECONDS_DEFAULT,
    provider::{Provider, ProviderArchived, ProviderCreate, ProviderList, ProviderUpdate},
    role::{Role, RoleCreate, RoleList, RoleUpdate},
    secret::{Secret, SecretCreate, SecretList, SecretUpdate},
    service::{ArchivableListQuery, Health, ListQuery, StatusAnswer, Stopping},
    session::{Session, SessionList, SessionListQuery},
    task::{Task, TaskCreate, TaskSubmit, TaskSubmitted},
    workspace::{Workspace, WorkspaceCreate, WorkspaceExec, WorkspaceList, WorkspaceListQuery},
};
use freehold_model::{
    ApiKeyId, ApprovalId, CredentialId, ProviderId, RoleId, SessionId, TaskId, WorkspaceId,
    secret::SecretName,
};
use futures::stream::BoxStream;
use serde_json::Value;

use crate::{ActivityEvent, ActivityScope, Answer, Client, Error, ExecStream, activity, call::Call, exec};

/// How long one connection of an export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How much longer than its command an exec request may take.
const EXEC_MARGIN: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<Answer<T>, Error>;

/// Methods that send path parameters, perhaps a query or a JSON body, and read a JSON answer.
macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $name:ident ($($id:ident: $id_type:ty),*) $(query $query:ident)? $(body $body:ident)? => $answer:ty;)+) => {
        impl Client {$(
            $(#[doc = $doc])+
            ///
            /// # Errors
            /// Those of [`Error`].
            pub async fn $name(&self $(, $id: $id_type)* $(, query: &$query)? $(, body: &$body)?) -> Result<$answer> {
                let call = Call::new(stringify!($name))$(.id($id))*;
                $(let call = call.query::<$query>(query);)?
                $(let call = call.json::<$body>(body);)?
                self.call(call).await
            }
        )+}

        /// The ids of the operations above.
        #[cfg(test)]
        pub(crate) const PLAIN: &[&str] = &[$(stringify!($name)),+];
    };
}

operations! {
    /// Who the caller is, and what it may do.
    me_session_view() => MeSession;
    /// The server's defaults.
    config_view() => Config;
    /// Providers, newest first.
    provider_list() query ArchivableListQuery => ProviderList;
    /// Creates a provider.
    provider_create() body ProviderCreate => Provider;
    /// One provider.
    provider_view(id: ProviderId) => Provider;
    /// Changes the fields that are present.
    provider_update(id: ProviderId) body ProviderUpdate => Provider;
    /// Archives a provider and every role that uses it.
    provider_archive(id: ProviderId) => ProviderArchived;
    /// Unarchives a provider.
    provider_unarchive(id: ProviderId) => StatusAnswer;
    /// Roles, newest first.
    role_list() query ArchivableListQuery => RoleList;
    /// Creates a role.
    role_create() body RoleCreate => Role;
    /// One role.
    role_view(id: RoleId) => Role;
    /// Changes the fields that are present.
    role_update(id: RoleId) body RoleUpdate => Role;
    /// Archives a role.
    role_archive(id: RoleId) => StatusAnswer;
    /// Unarchives a role.
    role_unarchive(id: RoleId) => StatusAnswer;
    /// Stops every workspace under a role.
    role_stop_workspaces(id: RoleId) => Stopping;
    /// Workspaces, newest first.
    workspace_list() query WorkspaceListQuery => WorkspaceList;
    /// Creates a workspace.
    workspace_create() body WorkspaceCreate => Workspace;
    /// Stops every running workspace of the organization.
    workspace_stop_all() => Stopping;
    /// One workspace.
    workspace_view(id: WorkspaceId) => Workspace;
    /// Removes an archived workspace for good.
    workspace_delete(id: WorkspaceId) => StatusAnswer;
    /// How much is used of each counter that counts a workspace.
    workspace_budget_list(id: WorkspaceId) => BudgetList;
    /// The agent's own view of its session; its shape is the agent's.
    workspace_session_view(id: WorkspaceId) => Value;
    /// Stops a workspace.
    workspace_stop(id: WorkspaceId) => StatusAnswer;
    /// Archives a workspace.
    workspace_archive(id: WorkspaceId) => StatusAnswer;
    /// Unarchives a workspace.
    workspace_unarchive(id: WorkspaceId) => StatusAnswer;
    /// Tasks of a workspace, newest first.
    task_list(id: WorkspaceId) query ListQuery => Vec<Task>;
    /// One task.
    task_view(workspace: WorkspaceId, task: TaskId) => Task;
    /// Sessions, newest first.
    session_list() query SessionListQuery => SessionList;
    /// One session: the durable record.
    session_view(id: SessionId) => Session;
    /// Approvals, newest first.
    approval_list() query ApprovalListQuery => ApprovalList;
    /// One approval.
    approval_view(id: ApprovalId) => Approval;
    /// Approves or denies a held request.
    approval_decide(id: ApprovalId) body ApprovalDecide => Approval;
    /// Takes back an approval for a rule.
    approval_revoke(id: ApprovalId) => StatusAnswer;
    /// A workspace's activity.
    workspace_activity_list(id: WorkspaceId) query ActivityListQuery => AuditEventList;
    /// A workspace's decisions and changes.
    workspace_audit_list(id: WorkspaceId) query AuditListQuery => AuditEventList;
    /// The organization's decisions and changes.
    audit_list() query AuditListQuery => AuditEventList;
    /// The signed checkpoints of the audit log, oldest first.
    audit_checkpoint_list() query CheckpointListQuery => AuditCheckpointList;
    /// The public keys that sign the audit log.
    audit_key_list() => AuditKeyList;
    /// What a role's agents have asked for.
    role_access_review(id: RoleId) query AccessReviewQuery => AccessReview;
    /// Credentials, without their secrets.
    credential_list() query ListQuery => CredentialList;
    /// Creates a credential.
    credential_create() body CredentialCreate => Credential;
    /// One credential, without its secret.
    credential_view(id: CredentialId) => Credential;
    /// Deletes a credential and its secret.
    credential_delete(id: CredentialId) => StatusAnswer;
    /// Secrets, without their values.
    secret_list() query ListQuery => SecretList;
    /// Creates a secret.
    secret_create() body SecretCreate => Secret;
    /// Gives a secret another value.
    secret_update(name: SecretName) body SecretUpdate => Secret;
    /// Deletes a secret and its value.
    secret_delete(name: SecretName) => StatusAnswer;
    /// API keys, newest first.
    api_key_list() query ListQuery => ApiKeyList;
    /// Creates an API key. The answer holds the secret, this once.
    api_key_create() body ApiKeyCreate => ApiKeyCreated;
    /// Revokes an API key.
    api_key_revoke(id: ApiKeyId) => StatusAnswer;
    /// Whether the server is well.
    health_view() => Health;
}

impl Client {
    /// Creates a workspace and submits its first task, both or neither. Files are at `/data/uploads/<task_id>/<name>`
    /// before the agent begins.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn task_create(&self, body: &TaskCreate, files: &[PathBuf]) -> Result<TaskSubmitted> {
        self.call(Call::new("task_create").with_files(body, files)).await
    }

    /// Begins a consent to a credential; answers where to send the person, and the cookie, as `name=value`, that ends it.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn credential_oauth_start(
        &self,
        id: CredentialId,
    ) -> std::result::Result<(Answer<CredentialOauthStarted>, String), Error> {
        self.call_with_cookie(Call::new("credential_oauth_start").id(id)).await
    }

    /// Ends a consent with what its person came back with. What became of it, the credential tells.
    ///
    /// # Errors
    /// Those of [`Error`]; it came to nothing where the status is 400.
    pub async fn oauth_callback(&self, back: &BTreeMap<String, String>, cookie: &str) -> Result<()> {
        self.call_empty(Call::new("oauth_callback").query(back).cookie(cookie)).await
    }

    /// Submits a task to a workspace.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn task_submit(
        &self,
        workspace: WorkspaceId,
        body: &TaskSubmit,
        files: &[PathBuf],
    ) -> Result<TaskSubmitted> {
        self.call(Call::new("task_submit").id(workspace).with_files(body, files)).await
    }

    /// Cancels the running task of a workspace.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn task_cancel(&self, workspace: WorkspaceId) -> Result<()> {
        self.call_empty(Call::new("task_cancel").id(workspace)).await
    }

    /// Runs a command in a workspace.
    ///
    /// # Errors
    /// Those of [`Error`], before the command begins; later ones come from the stream.
    pub async fn workspace_exec(
        &self,
        workspace: WorkspaceId,
        body: &WorkspaceExec,
    ) -> std::result::Result<ExecStream, Error> {
        let mut call = Call::new("workspace_exec").id(workspace).json(body);
        let seconds = body.timeout_seconds.unwrap_or(EXEC_TIMEOUT_SECONDS_DEFAULT);
        call.timeout = Duration::from_secs(u64::from(seconds)) + EXEC_MARGIN;
        Ok(ExecStream::new(self, self.send(&call).await?))
    }

    /// The lines of an export of the audit log, as the server sends them and without their ends. One that breaks off has no
    /// `end` line.
    ///
    /// # Errors
    /// Those of [`Error`], before the first line; later ones come from the stream.
    pub async fn audit_export(
        &self,
        query: &AuditExportQuery,
    ) -> std::result::Result<BoxStream<'static, std::result::Result<String, Error>>, Error> {
        let mut call = Call::new("audit_export").query(query);
        call.timeout = EXPORT_TIMEOUT;
        Ok(exec::lines(self, self.send(&call).await?))
    }

    /// Follows activity: rows as they are committed, from the moment this answers, or after the row at `last_id`. The
    /// stream goes on over connections that end or break, without loss or duplicate; it ends only with an error.
    ///
    /// # Errors
    /// Those of [`Error`], when the first connection cannot be made.
    pub async fn activity_stream(
        &self,
        scope: ActivityScope,
        last_id: Option<String>,
    ) -> std::result::Result<BoxStream<'static, std::result::Result<ActivityEvent, Error>>, Error> {
        activity::follow(self, scope, last_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_method_for_every_operation_a_program_calls() {
        let others = [
            "task_create",
            "task_submit",
            "task_cancel",
            "workspace_exec",
            "activity_stream",
            "audit_export",
            "workspace_activity_stream",
            "credential_oauth_start",
            "oauth_callback",
            // For browsers, documents and collectors.
            "openapi_view",
            "docs_view",
            "metrics_view",
        ];
        let mut ours: Vec<&str> = PLAIN.iter().copied().chain(others).collect();
        let mut all: Vec<&str> = freehold_api::operations().map(|operation| operation.id).collect();
        ours.sort_unstable();
        all.sort_unstable();
        assert_eq!(ours, all);
    }
}
