//! Workspaces: the unit of continuity.

use freehold_access::Right;
use freehold_model::{
    CredentialId, OrganizationId, ProviderId, RoleId, Timestamp, WorkspaceId, workspace::Phase,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{StatusAnswer, Stopping},
};

/// A workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// The id.
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub id: WorkspaceId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The role its agent works under.
    #[schema(schema_with = crate::schemas::role_id)]
    pub role_id: RoleId,
    /// A label of where it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Archived workspaces keep their status (typically stopped) and carry a non-null `archived_at`; archive is not a
    /// status value.
    #[schema(schema_with = crate::schemas::workspace_status)]
    pub status: Phase,
    /// Its creator; absent when an API key created it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by_user_id: Option<String>,
    /// Where its last snapshot is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ref: Option<String>,
    /// Populated when Stop ran against a pod that no longer existed and the snapshot save failed, paired with an empty
    /// `snapshot_ref`. Cleared on the next successful snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot_error: Option<String>,
    /// Set on forked workspaces; references the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_workspace_id: Option<String>,
    /// Set on forked workspaces; references the snapshot the fork was created from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_source_snapshot_ref: Option<String>,
    /// Set on forked workspaces; how many parent tasks were included before the fork boundary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork_point_task_count: Option<u32>,
    /// Whether the workspace's running pod reflects the role's current pack set. Computed at fetch time, not persisted.
    pub pack_status: PackStatus,
    /// Which model it was started with; absent until its agent is ready, and when it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub started_with: Option<StartedWith>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Set when the workspace has been archived; null otherwise.
    #[schema(schema_with = crate::schemas::time_or_null)]
    pub archived_at: Option<Timestamp>,
}

/// The model that a workspace was started with. Its agent calls this one, there, until the workspace is stopped, whatever its role
/// and provider say meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StartedWith {
    /// The provider.
    #[schema(schema_with = crate::schemas::provider_id)]
    pub provider_id: ProviderId,
    /// Where the provider was.
    pub domain: String,
    /// The name of the provider's credential then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<String>,
    /// What had that name for this workspace. While the provider's `domain` is the one above, the provider's credential of today
    /// is put on, whichever that is; once the provider has another domain, this credential alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, schema_with = crate::schemas::credential_id)]
    pub credential_id: Option<CredentialId>,
    /// The model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Whether a running pod has its role's current packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PackStatus {
    /// It has.
    Current,
    /// The role's packs changed since the pod began.
    Stale,
    /// There is no running pod.
    Unknown,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &[
    "id",
    "org_id",
    "status",
    "created_by_user_id",
    "snapshot_ref",
    "last_snapshot_error",
    "parent_workspace_id",
    "fork_source_snapshot_ref",
    "fork_point_task_count",
    "pack_status",
    "started_with",
    "created_at",
    "updated_at",
    "archived_at",
];

/// A workspace to create. One of `role_id` and `role_name` is required; both must name the same role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspaceCreate {
    /// The role, by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::role_id)]
    pub role_id: Option<RoleId>,
    /// The role, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub role_name: Option<String>,
    /// A label of where it works; the role's environment when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub environment: Option<String>,
}

/// Parameters of the list of workspaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspaceListQuery {
    /// Whether archived ones are listed too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub include_archived: Option<bool>,
    /// Only those under the role of this name; 404 `role_not_found` when there is none, so that typos show.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 64)]
    pub role_name: Option<String>,
    /// Rows of a page. Without it everything is answered, streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
}

/// Workspaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceList {
    /// The workspaces, newest first.
    pub workspaces: Vec<Workspace>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A command to run in a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceExec {
    /// The program and its arguments; no shell reads them.
    #[schema(min_items = 1, max_items = 256)]
    pub command: Vec<String>,
    /// Seconds it may run before it is killed; 60 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3600)]
    pub timeout_seconds: Option<u32>,
    /// Where it runs; `/workspace` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096, pattern = "^/")]
    pub working_directory: Option<String>,
}

/// One line of a command's answer: output, or how it ended. The last line has `exit_code` or `error`; a stream without
/// such a line was cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ExecLine {
    /// Some bytes of output.
    Output {
        /// Where they were written.
        stream: OutputStream,
        /// The bytes in base64, since output need not be text.
        data_base64: String,
    },
    /// The command ended.
    Ended {
        /// Its exit code; 128 and the signal's number when a signal ended it. As in a shell, 127 when there is no such
        /// program or directory and 126 when it may not or cannot be executed; standard error says which then.
        exit_code: i32,
        /// Whether it was killed at its timeout.
        timed_out: bool,
    },
    /// How it ended is unknown.
    Failed {
        /// What went wrong.
        error: crate::error::ErrorDetail,
    },
}

/// Where a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

const TAG: &str = "workspaces";
const READ: Guard = Guard::Rights(&[Right::WorkspaceRead]);
const WRITE: Guard = Guard::Rights(&[Right::WorkspaceWrite]);

/// Operations on workspaces.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "workspace_list",
        path: "/v1/workspaces",
        tag: TAG,
        summary: "List workspaces",
        description: "`workspace:read` lists every workspace of the organization, `workspace:read:own` the caller's.",
        guard: READ,
        query: Some(schema::<WorkspaceListQuery>()),
        answer: Answer::Json(schema::<WorkspaceList>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_create",
        method: Method::Post,
        path: "/v1/workspaces",
        tag: TAG,
        summary: "Create a workspace",
        description: "It begins as `provisioning` and becomes `idle`.",
        guard: WRITE,
        body: Body::Json(schema::<WorkspaceCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<Workspace>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::RoleArchived, ErrorCode::ProviderArchived],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "workspace_stop_all",
        method: Method::Post,
        path: "/v1/workspaces/stop-all",
        tag: TAG,
        summary: "Stop every running workspace of the organization",
        guard: Guard::Rights(&[Right::WorkspaceWriteAll]),
        answer: Answer::Json(schema::<Stopping>()),
        ..Operation::BASE
    },
    Operation {
        id: "workspace_view",
        path: "/v1/workspaces/{id}",
        tag: TAG,
        summary: "Get one workspace",
        guard: READ,
        answer: Answer::Json(schema::<Workspace>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_delete",
        method: Method::Delete,
        path: "/v1/workspaces/{id}",
        tag: TAG,
        summary: "Remove an archived workspace for good",
        description: "Files, tasks and conversation are gone; its audit rows stay.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::NotArchived],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_session_view",
        path: "/v1/workspaces/{id}/session",
        tag: TAG,
        summary: "Get the agent's enriched session view",
        description: "Proxied from the agent in the pod: task history, iteration counters, context window use. Its shape \
                      belongs to the agent; key off documented fields only.",
        guard: READ,
        answer: Answer::JsonAny,
        errors: &[
            ErrorCode::WorkspaceNotFound,
            ErrorCode::WorkspaceNotVisible,
            ErrorCode::WorkspaceStopped,
            ErrorCode::WorkspaceFailed,
            ErrorCode::WorkspaceProvisioning,
            ErrorCode::AgentUnreachable,
        ],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_stop",
        method: Method::Post,
        path: "/v1/workspaces/{id}/stop",
        tag: TAG,
        summary: "Stop a workspace",
        description: "Ends its pod and cancels its tasks; files and conversation are kept. Stopping a stopped one changes \
                      nothing.",
        guard: WRITE,
        status: 202,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_archive",
        method: Method::Post,
        path: "/v1/workspaces/{id}/archive",
        tag: TAG,
        summary: "Archive a workspace",
        description: "Hides it from lists and keeps its state. It must be `stopped` or `failed`.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidState],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_unarchive",
        method: Method::Post,
        path: "/v1/workspaces/{id}/unarchive",
        tag: TAG,
        summary: "Unarchive a workspace",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::NotArchived],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_exec",
        method: Method::Post,
        path: "/v1/workspaces/{id}/exec",
        tag: TAG,
        summary: "Run a command in a workspace",
        description: "For people who debug. Answers with one JSON object a line while the command runs. Closing the \
                      connection kills it, as does revoking the caller's credential.",
        guard: WRITE,
        body: Body::Json(schema::<WorkspaceExec>()),
        answer: Answer::Lines(schema::<ExecLine>()),
        errors: &[
            ErrorCode::WorkspaceNotFound,
            ErrorCode::WorkspaceNotVisible,
            ErrorCode::WorkspaceStopped,
            ErrorCode::WorkspaceFailed,
            ErrorCode::WorkspaceProvisioning,
            ErrorCode::TooManyRequests,
            ErrorCode::AgentUnreachable,
        ],
        ..Operation::BASE
    },
];
