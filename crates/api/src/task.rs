//! Tasks: pieces of work submitted to workspaces.

use freehold_access::Right;
use freehold_model::{
    OrganizationId, RoleId, TaskId, Timestamp, WorkspaceId, role::ThinkingEffort, task::Phase,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::ListQuery,
};

/// A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// The id.
    #[schema(schema_with = crate::schemas::task_id)]
    pub id: TaskId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The workspace.
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: WorkspaceId,
    /// The prompt.
    pub description: String,
    /// Lifecycle: submitted, delivered (handed to the agent), running, optional compacting interludes, terminal
    /// completed / failed / cancelled. `delivery_failed` is a separate terminal state when the agent never accepted the
    /// task (typically unreachable pod).
    #[schema(schema_with = crate::schemas::task_status)]
    pub status: Phase,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it reached a terminal status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// Wall-clock duration in seconds, populated once the task reaches a terminal status. Server-derived from
    /// (completed_at − created_at).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    /// Why it ended as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The submitter's own data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub metadata: Option<serde_json::Value>,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] =
    &["id", "org_id", "workspace_id", "status", "created_at", "completed_at", "duration_seconds", "reason"];

/// A task to submit to a new workspace. One of `role_id` and `role_name` is required; both must name the same role.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskCreate {
    /// The role, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::role_id)]
    pub role_id: Option<RoleId>,
    /// The role, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub role_name: Option<String>,
    /// The prompt.
    #[schema(min_length = 1, max_length = 262144)]
    pub description: String,
    /// A label of where the workspace works; the role's environment when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub environment: Option<String>,
    /// How hard the model should think; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::thinking_effort_or_null)]
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100000)]
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 100000000)]
    pub max_context_tokens: Option<u64>,
    /// The submitter's own data, returned as it came; at most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub metadata: Option<serde_json::Value>,
}

/// A task to submit to a workspace.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskSubmit {
    /// The prompt.
    #[schema(min_length = 1, max_length = 262144)]
    pub description: String,
    /// Whether a new session begins with this task; the earlier conversation is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_session: Option<bool>,
    /// How hard the model should think; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::thinking_effort_or_null)]
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100000)]
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction; the role's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 100000000)]
    pub max_context_tokens: Option<u64>,
    /// The submitter's own data, returned as it came; at most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub metadata: Option<serde_json::Value>,
}

/// A task was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskSubmitted {
    /// The task.
    #[schema(schema_with = crate::schemas::task_id)]
    pub task_id: TaskId,
    /// Its workspace.
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: WorkspaceId,
    /// `submitted`.
    pub status: String,
}

const TAG: &str = "tasks";
const READ: Guard = Guard::Rights(&[Right::WorkspaceRead]);
const FILES: &str = "As multipart/form-data it takes the same fields as text parts and any number of `file` parts, which \
                     are at /data/uploads/<task_id>/<filename> before the agent begins.";

/// Operations on tasks.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "task_create",
        method: Method::Post,
        path: "/v1/tasks",
        tag: TAG,
        summary: "Create a workspace and submit its first task, both or neither",
        description: FILES,
        guard: Guard::Rights(&[Right::WorkspaceWrite, Right::TasksWrite]),
        body: Body::JsonOrMultipart(schema::<TaskCreate>()),
        read_only: READ_ONLY,
        status: 202,
        answer: Answer::Json(schema::<TaskSubmitted>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::RoleArchived, ErrorCode::ProviderArchived],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "task_list",
        path: "/v1/workspaces/{id}/tasks",
        tag: TAG,
        summary: "List tasks for a workspace",
        description: "A bare JSON array, newest first. The `cursor` of the next page is the id of the last task of this one.",
        guard: READ,
        query: Some(schema::<ListQuery>()),
        answer: Answer::JsonArray(schema::<Task>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "task_submit",
        method: Method::Post,
        path: "/v1/workspaces/{id}/tasks",
        tag: TAG,
        summary: "Submit a task to a workspace",
        description: FILES,
        guard: Guard::Rights(&[Right::TasksWrite]),
        body: Body::JsonOrMultipart(schema::<TaskSubmit>()),
        read_only: READ_ONLY,
        status: 202,
        answer: Answer::Json(schema::<TaskSubmitted>()),
        errors: &[
            ErrorCode::WorkspaceNotFound,
            ErrorCode::WorkspaceNotVisible,
            ErrorCode::WorkspaceArchived,
            ErrorCode::WorkspaceStopped,
            ErrorCode::WorkspaceFailed,
            ErrorCode::TooManyRequests,
        ],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "task_view",
        path: "/v1/workspaces/{id}/tasks/{tid}",
        tag: TAG,
        summary: "Get one task",
        guard: READ,
        answer: Answer::Json(schema::<Task>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::TaskNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "task_cancel",
        method: Method::Post,
        path: "/v1/workspaces/{id}/task/cancel",
        tag: TAG,
        summary: "Cancel the running task of a workspace",
        description: "The agent finishes its present step, then ends the task as `cancelled`; a step that outlasts the \
                      grace time is killed. Accepted also when no task is running.",
        guard: Guard::Rights(&[Right::WorkspaceWrite]),
        status: 202,
        answer: Answer::Empty,
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
];
