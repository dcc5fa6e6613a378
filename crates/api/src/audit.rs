//! Activity and audit: immutable rows, as lists and as streams.

use std::collections::BTreeMap;

use freehold_access::Right;
use freehold_model::{
    OrganizationId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, Category, Decision, EventType, PolicyType},
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
    /// Credentials that could not be injected, and secrets as `secret:NAME`, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub auth_failures: BTreeMap<String, String>,
    /// Transforms that could not be applied, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub transforms_failed: BTreeMap<String, String>,
    /// Each budget that counted this request, as it stood after, by the counter's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub budget_snapshot: BTreeMap<String, serde_json::Value>,
    /// Budgets whose ceiling was applied to this request, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub budget_ceilings: BTreeMap<String, String>,
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

/// Parameters of the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditListQuery {
    /// Conditions, all of which hold: `column=value[,value]` one of these, `column!=value[,value]` none of these,
    /// `column!=` any value at all. A row without a value counts as having the empty one; a value holds no comma. Columns:
    /// `user_id`, `event_type`, `category`, `actor`, `workspace_id`, `task_id`, `agent_role`, `agent_provider`,
    /// `destination`, `method`, `path`, `decision`, `reason`, `capability_name`, `phase`, `policy_type`. May be repeated.
    #[serde(rename = "filter[]", skip_serializing_if = "Vec::is_empty")]
    #[schema(schema_with = crate::schemas::conditions)]
    pub filter: Vec<String>,
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

/// Parameters of the review of access.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccessReviewQuery {
    /// Only what was decided so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::audit_decision)]
    pub decision: Option<Decision>,
    /// Only requests, or only names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::audit_policy_type)]
    pub policy_type: Option<PolicyType>,
    /// Only decisions at or after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<Timestamp>,
    /// Only decisions before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to: Option<Timestamp>,
}

/// Decisions that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReviewEntry {
    /// Host, with a port where it is not the scheme's.
    pub destination: String,
    /// HTTP method, or DNS question type.
    pub method: String,
    /// Path without query; empty for names.
    pub path: String,
    /// Whether it went out.
    #[schema(schema_with = crate::schemas::audit_decision)]
    pub decision: Decision,
    /// Why, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The capability that decided, the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability_name: Option<String>,
    /// How often.
    pub count: u64,
    /// When last.
    pub last_seen: Timestamp,
}

/// What the agents of a role have asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccessReview {
    /// The entries, the one seen last first.
    pub entries: Vec<AccessReviewEntry>,
    /// Present where there were more than 50,000 decisions: the newest were counted, none before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_from: Option<Timestamp>,
}

/// Parameters of the list of checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointListQuery {
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
    /// Checkpoints of a page; 100 when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
}

/// A signed statement of how far the audit log went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheckpoint {
    /// Its number, from 1.
    pub number: u64,
    /// The last row that it covers.
    pub seq: u64,
    /// The SHA-256 of the payload in hexadecimal: keep number and hash somewhere else, and nothing before can be changed
    /// or cut off without your noticing.
    pub hash: String,
    /// What is signed, as text: canonical JSON.
    pub payload: String,
    /// The Ed25519 signature of the payload, in hexadecimal.
    pub signature: String,
}

/// Checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheckpointList {
    /// The checkpoints, oldest first.
    pub checkpoints: Vec<AuditCheckpoint>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// A key that signs checkpoints, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditKey {
    /// The SHA-256 of the public key, in hexadecimal.
    pub id: String,
    /// The Ed25519 public key, in hexadecimal.
    pub public_key: String,
    /// When it signed first; absent when it has not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_used_at: Option<Timestamp>,
    /// Whether it signs now.
    pub current: bool,
}

/// The keys of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditKeyList {
    /// The keys, oldest first.
    pub keys: Vec<AuditKey>,
}

/// Parameters of an export.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuditExportQuery {
    /// Begin after the row at this position; at the first row when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, maximum = 9007199254740991_u64)]
    pub after: Option<u64>,
}

/// A line of an export. `docs/audit-log.md` describes the form, byte for byte.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum AuditExportLine {
    /// The first line.
    Header {
        /// The version of the form.
        freehold_audit: u32,
        /// The organization.
        #[schema(schema_with = crate::schemas::organization_id)]
        organization: OrganizationId,
        /// Rows begin after this position.
        after: u64,
        /// The hash of the chain there, in hexadecimal.
        previous: String,
        /// The keys that signed.
        keys: Vec<AuditExportKey>,
    },
    /// A row.
    Row {
        /// The hash of the chain up to and with this row, in hexadecimal.
        hash: String,
        /// The row with `seq`, as canonical JSON.
        #[schema(schema_with = crate::schemas::any_object)]
        row: serde_json::Value,
    },
    /// A checkpoint.
    Checkpoint {
        /// The payload, as canonical JSON.
        #[schema(schema_with = crate::schemas::any_object)]
        checkpoint: serde_json::Value,
        /// The Ed25519 signature of the payload, in hexadecimal.
        signature: String,
    },
    /// The last line. An export without it was cut off.
    End {
        /// How it ended.
        end: AuditExportEnd,
    },
}

/// A key in the first line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditExportKey {
    /// The SHA-256 of the public key, in hexadecimal.
    pub id: String,
    /// The Ed25519 public key, in hexadecimal.
    pub public_key: String,
}

/// The last line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditExportEnd {
    /// The position of the last row.
    pub seq: u64,
    /// The SHA-256 of all bytes before this line, in hexadecimal.
    pub sha256: String,
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
const WHOLE: Guard = Guard::Rights(&[Right::AuditReadAll]);
const LIST: &str = "With `audit:read:own`, the rows that the caller caused. A page looks at no more than 10,000 rows for those that \
                    fit; one that found fewer than `limit` has a `cursor` nevertheless while there is more to look at.";
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
        description: "The creator of the workspace sees every row of it. Filters and pages are those of `GET /v1/audit`.",
        guard: Guard::Rights(&[Right::WorkspaceRead, Right::AuditRead]),
        query: Some(schema::<AuditListQuery>()),
        answer: Answer::Json(schema::<AuditEventList>()),
        errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "audit_list",
        path: "/v1/audit",
        tag: TAG,
        summary: "List the organization's decisions and changes",
        description: LIST,
        guard: Guard::Rights(&[Right::AuditRead]),
        query: Some(schema::<AuditListQuery>()),
        answer: Answer::Json(schema::<AuditEventList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "audit_export",
        path: "/v1/audit/export",
        tag: TAG,
        summary: "Export the audit log for verification",
        description: "Lines of JSON: every row in the order of the hash chain, with its signed checkpoints. Ends with a checkpoint \
                      over its last row, which is made when there is none yet.",
        guard: WHOLE,
        query: Some(schema::<AuditExportQuery>()),
        answer: Answer::Lines(schema::<AuditExportLine>()),
        errors: &[ErrorCode::TooManyRequests],
        ..Operation::BASE
    },
    Operation {
        id: "audit_checkpoint_list",
        path: "/v1/audit/checkpoints",
        tag: TAG,
        summary: "List the signed checkpoints of the audit log",
        guard: WHOLE,
        query: Some(schema::<CheckpointListQuery>()),
        answer: Answer::Json(schema::<AuditCheckpointList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "audit_key_list",
        path: "/v1/audit/keys",
        tag: TAG,
        summary: "List the public keys that sign the audit log",
        answer: Answer::Json(schema::<AuditKeyList>()),
        ..Operation::BASE
    },
    Operation {
        id: "role_access_review",
        path: "/v1/agent-roles/{id}/access-review",
        tag: TAG,
        summary: "Review what a role's agents have asked for",
        description: "The policy decisions about the role's workspaces, like ones counted together: by destination, method, path and \
                      decision.",
        query: Some(schema::<AccessReviewQuery>()),
        answer: Answer::Json(schema::<AccessReview>()),
        errors: &[ErrorCode::RoleNotFound],
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
