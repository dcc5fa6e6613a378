//! Sessions: the durable record of conversations.

use freehold_access::Right;
use freehold_model::{
    ModelId, OrganizationId, RoleId, SessionId, Timestamp, WorkspaceId, event::Usage, session::Status,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Face, Guard, Operation, schema},
};

/// Instance of agentic loop execution. A session represents a single conversation with an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Unique identifier for the session (format: session_{32-hex}).
    #[schema(schema_with = crate::schemas::session_id)]
    pub id: SessionId,
    /// Organization this session belongs to (format: org_{32-hex}).
    #[schema(schema_with = crate::schemas::organization_id)]
    pub organization_id: OrganizationId,
    /// ID of the agent working in this session (format: agent_{32-hex}): the workspace's role.
    #[schema(schema_with = crate::schemas::role_id)]
    pub agent_id: RoleId,
    /// Where it runs.
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: WorkspaceId,
    /// Session-level capabilities (additive to agent capabilities).
    pub capabilities: Vec<SessionCapability>,
    /// LLM model ID to use for this session (format: model_{32-hex}). Overrides the agent's default model if set.
    #[schema(schema_with = crate::schemas::model_id_or_null)]
    pub model_id: Option<ModelId>,
    /// Current execution status of the session. A finished one is `idle` and has `finished_at`.
    #[schema(schema_with = crate::schemas::session_status)]
    pub status: Status,
    /// Human-readable title for the session.
    pub title: Option<String>,
    /// Preview text from the first user message (truncated).
    pub preview: Option<String>,
    /// Preview text from the last assistant response (truncated).
    pub output_preview: Option<String>,
    /// Tags for organizing and filtering sessions.
    pub tags: Vec<String>,
    /// Tokens used by all turns; null until a model answered.
    #[schema(value_type = Option<SessionUsage>)]
    pub usage: Option<Usage>,
    /// Timestamp when the session was created.
    pub created_at: Timestamp,
    /// Timestamp when the session was last updated.
    pub updated_at: Timestamp,
    /// Timestamp when the session started executing.
    pub started_at: Option<Timestamp>,
    /// Timestamp when the session finished (completed or failed).
    pub finished_at: Option<Timestamp>,
}

/// Per-agent capability configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionCapability {
    /// Reference to the capability ID.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Per-agent configuration for this capability (capability-specific).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub config: Option<serde_json::Value>,
}

/// Tokens of one or many model calls.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the schema of the model's `Usage`, which this crate does not own")]
struct SessionUsage {
    /// Tokens read, those from the cache included.
    input_tokens: u64,
    /// Tokens written, reasoning included.
    output_tokens: u64,
    /// Tokens read from the provider's cache.
    cache_read_tokens: u64,
    /// Tokens written to the provider's cache.
    cache_creation_tokens: u64,
}

/// Parameters of the list of sessions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SessionListQuery {
    /// Only those of this agent (role).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::role_id)]
    pub agent_id: Option<RoleId>,
    /// Only those of this workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: Option<WorkspaceId>,
    /// How many to pass over; 0 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, maximum = 10000000)]
    pub offset: Option<u32>,
    /// How many to answer; 20 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 100)]
    pub limit: Option<u32>,
}

/// Sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SessionList {
    /// The sessions, newest first.
    pub data: Vec<Session>,
    /// How many there are in all.
    pub total: u64,
    /// How many were passed over.
    pub offset: u32,
    /// How many were asked for.
    pub limit: u32,
}

const TAG: &str = "sessions";
const READ: Guard = Guard::Rights(&[Right::WorkspaceRead]);

/// Operations on sessions.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "session_list",
        path: "/v1/sessions",
        tag: TAG,
        summary: "List sessions",
        guard: READ,
        query: Some(schema::<SessionListQuery>()),
        answer: Answer::Json(schema::<SessionList>()),
        face: Face::Sessions,
        ..Operation::BASE
    },
    Operation {
        id: "session_view",
        path: "/v1/sessions/{session_id}",
        tag: TAG,
        summary: "Get session",
        description: "The durable record, pod or no pod.",
        guard: READ,
        answer: Answer::Json(schema::<Session>()),
        errors: &[ErrorCode::InvalidId, ErrorCode::SessionNotFound],
        face: Face::Sessions,
        ..Operation::BASE
    },
];
