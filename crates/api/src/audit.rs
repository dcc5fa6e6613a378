//! Activity and audit: immutable rows, as lists and as streams.

use std::collections::BTreeMap;

use freehold_access::Right;
use freehold_model::{
    OrganizationId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, Category, Decision, EventType},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Guard, Operation, schema},
};

/// One immutable row of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// The id.
    #[schema(schema_with = crate::schemas::event_id)]
    pub id: freehold_model::EventId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The member who caused it, or `system`.
    pub user_id: String,
    /// When it happened, at its source.
    pub timestamp: Timestamp,
    /// What happened.
    #[schema(schema_with = crate::schemas::audit_event_type)]
    pub event_type: EventType,
    /// What kind of row it is.
    #[schema(schema_with = crate::schemas::audit_category)]
    pub category: Category,
    /// Who wrote it.
    #[schema(schema_with = crate::schemas::audit_actor)]
    pub actor: Actor,
    /// The workspace, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: Option<WorkspaceId>,
    /// The task, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::task_id)]
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
    #[schema(schema_with = crate::schemas::audit_decision)]
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
    #[schema(schema_with = crate::schemas::any_object)]
    pub detail: Option<serde_json::Value>,
    /// Credentials that were injected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth_applied: Vec<String>,
    /// Credentials that could not be injected, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub auth_failures: BTreeMap<String, String>,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// Parameters of a workspace's activity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ActivityListQuery {
    /// Only rows of this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::task_id)]
    pub task_id: Option<TaskId>,
    /// Only rows of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::audit_event_type)]
    pub event_type: Option<EventType>,
    /// Only rows later than this. Excludes `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub after: Option<Timestamp>,
    /// Where the page begins, from the page before. Excludes `after`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
    /// The order; `asc` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub order: Option<Order>,
    /// Rows of a page; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
}

/// Parameters of a workspace's audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditListQuery {
    /// Only rows at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<Timestamp>,
    /// Only rows before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to: Option<Timestamp>,
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
    /// The order; `desc` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub order: Option<Order>,
    /// Rows of a page; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
}

/// Parameters of an event stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StreamQuery {
    /// An API key or personal token, for clients that cannot set headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub api_key: Option<String>,
}

/// Rows of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEventList {
    /// The rows.
    pub events: Vec<AuditEvent>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "activity and audit";
const READ: Guard = Guard::Rights(&[Right::WorkspaceRead]);
const STREAM: &str = "Server-sent events: `event: activity`, `id:` the row's commit sequence, `data:` the row. Begins with \
                      what is committed from now on, or after `Last-Event-ID` when that header is sent, without loss or \
                      duplicate. A comment is sent every 15 seconds; the stream is closed after 5 minutes, and a reader \
                      that falls too far behind is cut off: connect again.";

/// Operations on activity and audit.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "workspace_activity_list",
        path: "/v1/workspaces/{id}/activity",
        tag: TAG,
        summary: "List a workspace's activity",
        guard: READ,
        query: Some(schema::<ActivityListQuery>()),
        answer: Answer::Json(schema::<AuditEventList>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_activity_stream",
        path: "/v1/workspaces/{id}/activity/stream",
        tag: TAG,
        summary: "Follow a workspace's activity",
        description: STREAM,
        guard: READ,
        query: Some(schema::<StreamQuery>()),
        answer: Answer::Events(schema::<AuditEvent>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::TooManyRequests],
        ..Operation::BASE
    },
    Operation {
        id: "workspace_audit_list",
        path: "/v1/workspaces/{id}/audit",
        tag: TAG,
        summary: "List a workspace's decisions and changes",
        description: "The creator of the workspace sees every row of it.",
        guard: Guard::Rights(&[Right::WorkspaceRead, Right::AuditRead]),
        query: Some(schema::<AuditListQuery>()),
        answer: Answer::Json(schema::<AuditEventList>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "activity_stream",
        path: "/v1/activity/stream",
        tag: TAG,
        summary: "Follow the organization's activity",
        description: STREAM,
        guard: READ,
        query: Some(schema::<StreamQuery>()),
        answer: Answer::Events(schema::<AuditEvent>()),
        errors: &[ErrorCode::TooManyRequests],
        ..Operation::BASE
    },
];
