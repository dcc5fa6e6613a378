//! Agent roles: what an operator ships.

use freehold_access::Right;
use freehold_model::{
    OrganizationId, PackId, ProviderId, RoleId, Timestamp,
    role::{Environment, PoolPolicy, ThinkingEffort},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{ArchivableListQuery, StatusAnswer, Stopping},
};

/// An agent role: provider, model, policy, packs, limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Role {
    /// The id.
    #[schema(schema_with = crate::schemas::role_id)]
    pub id: RoleId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// A slug, unique in the organization.
    pub name: String,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The provider its agents call.
    #[schema(schema_with = crate::schemas::provider_id)]
    pub provider_id: ProviderId,
    /// The model; the provider's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The policy: an inline `caps.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<String>,
    /// Where its agents work.
    #[schema(schema_with = crate::schemas::environment)]
    pub environment: Environment,
    /// Told to the agent, so that it knows where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment_description: Option<String>,
    /// The most seconds a task may run; the default of `GET /v1/config` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_timeout_seconds: Option<u32>,
    /// Seconds a workspace may sit idle; the default of `GET /v1/config` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_seconds: Option<u32>,
    /// How hard the model should think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::thinking_effort)]
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context_tokens: Option<u64>,
    /// How it keeps warm pods; empty for none.
    #[schema(schema_with = crate::schemas::pool_policy)]
    pub pool_policy: PoolPolicy,
    /// Warm pods kept, or the floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_size: Option<u32>,
    /// The ceiling of a dynamic pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool_max_size: Option<u32>,
    /// Attached packs.
    #[schema(value_type = Vec<String>)]
    pub pack_ids: Vec<PackId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &["id", "org_id", "created_at", "updated_at", "archived_at"];

/// A role to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleCreate {
    /// A slug, unique in the organization.
    #[schema(max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$")]
    pub name: String,
    /// The provider its agents call.
    #[schema(schema_with = crate::schemas::provider_id)]
    pub provider_id: ProviderId,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub display_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4000)]
    pub description: Option<String>,
    /// The model; the provider's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub model: Option<String>,
    /// The policy: an inline `caps.yaml`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262144)]
    pub capabilities: Option<String>,
    /// Where its agents work; `development` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::environment)]
    pub environment: Option<Environment>,
    /// Told to the agent, so that it knows where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4000)]
    pub environment_description: Option<String>,
    /// The most seconds a task may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 604800)]
    pub task_timeout_seconds: Option<u32>,
    /// Seconds a workspace may sit idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31536000)]
    pub idle_timeout_seconds: Option<u32>,
    /// How hard the model should think.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::thinking_effort_or_null)]
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100000)]
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1000, maximum = 100000000)]
    pub max_context_tokens: Option<u64>,
    /// Warm pods are not built yet: anything but the empty text is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::pool_policy)]
    pub pool_policy: Option<PoolPolicy>,
    /// Warm pods are not built yet: anything but 0 is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub pool_size: Option<u32>,
    /// Warm pods are not built yet: anything but 0 is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub pool_max_size: Option<u32>,
    /// Packs are not built yet: anything but an empty list is refused.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub pack_ids: Vec<String>,
}

/// What to change of a role. Absent leaves alone, `null` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoleUpdate {
    /// A label for people.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 200)]
    pub display_name: Option<Option<String>>,
    /// What it is for.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 4000)]
    pub description: Option<Option<String>>,
    /// The provider its agents call.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::provider_id)]
    pub provider_id: Option<ProviderId>,
    /// The model.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    pub model: Option<Option<String>>,
    /// The policy: an inline `caps.yaml`.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 262144)]
    pub capabilities: Option<Option<String>>,
    /// Where its agents work.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::environment)]
    pub environment: Option<Environment>,
    /// Told to the agent.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 4000)]
    pub environment_description: Option<Option<String>>,
    /// The most seconds a task may run.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 604800)]
    pub task_timeout_seconds: Option<Option<u32>>,
    /// Seconds a workspace may sit idle.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 31536000)]
    pub idle_timeout_seconds: Option<Option<u32>>,
    /// How hard the model should think.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::thinking_effort_or_null)]
    pub thinking_effort: Option<Option<ThinkingEffort>>,
    /// The most model calls in a task.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100000)]
    pub max_continuations: Option<Option<u32>>,
    /// The most tokens of conversation before compaction.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1000, maximum = 100000000)]
    pub max_context_tokens: Option<Option<u64>>,
    /// Warm pods are not built yet: anything but the empty text is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::pool_policy)]
    pub pool_policy: Option<PoolPolicy>,
    /// Warm pods are not built yet: anything but 0 is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub pool_size: Option<u32>,
    /// Warm pods are not built yet: anything but 0 is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub pool_max_size: Option<u32>,
    /// Packs are not built yet: anything but an empty list is refused. Replaces the whole list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_items = 64)]
    pub pack_ids: Option<Vec<String>>,
}

/// Roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RoleList {
    /// The roles, oldest first.
    pub agent_roles: Vec<Role>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "agent roles";
const WRITE: Guard = Guard::Rights(&[Right::ConfigWrite]);

/// Operations on roles.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "role_list",
        path: "/v1/agent-roles",
        tag: TAG,
        summary: "List agent roles",
        query: Some(schema::<ArchivableListQuery>()),
        answer: Answer::Json(schema::<RoleList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "role_create",
        method: Method::Post,
        path: "/v1/agent-roles",
        tag: TAG,
        summary: "Create an agent role",
        guard: WRITE,
        body: Body::Json(schema::<RoleCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<Role>()),
        errors: &[ErrorCode::NameTaken, ErrorCode::ProviderNotFound, ErrorCode::ProviderArchived],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "role_view",
        path: "/v1/agent-roles/{id}",
        tag: TAG,
        summary: "Get one agent role",
        answer: Answer::Json(schema::<Role>()),
        errors: &[ErrorCode::RoleNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "role_update",
        method: Method::Patch,
        path: "/v1/agent-roles/{id}",
        tag: TAG,
        summary: "Change an agent role",
        description: "Only the fields present are changed; `name` cannot be. `capabilities` hold for running workspaces at \
                      once, everything else from their next start.",
        guard: WRITE,
        body: Body::Json(schema::<RoleUpdate>()),
        read_only: READ_ONLY,
        answer: Answer::Json(schema::<Role>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::ProviderNotFound, ErrorCode::ProviderArchived],
        ..Operation::BASE
    },
    Operation {
        id: "role_archive",
        method: Method::Post,
        path: "/v1/agent-roles/{id}/archive",
        tag: TAG,
        summary: "Archive an agent role",
        description: "Refused while a workspace under it is running.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::WorkspacesActive],
        ..Operation::BASE
    },
    Operation {
        id: "role_unarchive",
        method: Method::Post,
        path: "/v1/agent-roles/{id}/unarchive",
        tag: TAG,
        summary: "Unarchive an agent role",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::RoleNotFound, ErrorCode::NotArchived, ErrorCode::ProviderArchived],
        ..Operation::BASE
    },
    Operation {
        id: "role_stop_workspaces",
        method: Method::Post,
        path: "/v1/agent-roles/{id}/stop-workspaces",
        tag: TAG,
        summary: "Stop every workspace under an agent role",
        description: "Idempotent: those already stopped are skipped.",
        guard: Guard::Rights(&[Right::WorkspaceWriteAll]),
        answer: Answer::Json(schema::<Stopping>()),
        errors: &[ErrorCode::RoleNotFound],
        ..Operation::BASE
    },
];
