//! Approvals: held requests, which people let go on or deny.

use freehold_access::Right;
use freehold_model::{
    ApprovalId, MemberId, OrganizationId, TaskId, Timestamp, WorkspaceId,
    approval::{Abandonment, Origin, Reason, Scope, Status},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::StatusAnswer,
};

/// A held request, and what was decided about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// The id.
    #[schema(schema_with = crate::schemas::approval_id)]
    pub id: ApprovalId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The workspace whose request it is.
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: WorkspaceId,
    /// The task, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::task_id)]
    pub task_id: Option<TaskId>,
    /// Where it stands: `pending`, then one of the others. An approval for a rule may be `revoked` after.
    #[schema(schema_with = crate::schemas::approval_status)]
    pub status: Status,
    /// Why it was asked.
    #[schema(schema_with = crate::schemas::approval_reason)]
    pub reason: Reason,
    /// The rule that allows the request.
    pub rule: ApprovalRule,
    /// The request.
    pub request: HeldRequest,
    /// Why nobody waits any more, where it is `abandoned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::approval_abandonment)]
    pub abandonment: Option<Abandonment>,
    /// What was approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::approval_scope)]
    pub scope: Option<Scope>,
    /// How long an approval for the rule stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The member who decided last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String)]
    pub decided_by: Option<MemberId>,
    /// When it was decided, or ended otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Timestamp>,
    /// What whoever decided had to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Since when the request waits.
    pub created_at: Timestamp,
    /// When it is denied without a decision.
    pub expires_at: Timestamp,
}

/// The rule that allows a held request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalRule {
    /// The document it stands in.
    #[schema(schema_with = crate::schemas::approval_origin)]
    pub origin: Origin,
    /// Its capability.
    pub capability: String,
    /// Its name, or its place in the capability, such as `allow[2]`.
    pub name: String,
}

/// A held request: decoded, bounded, without what may be a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldRequest {
    /// The method.
    pub method: String,
    /// Host, with a port where it is not the scheme's.
    pub destination: String,
    /// The path, in the normal form that is matched and sent.
    pub path: String,
    /// Query parameters, decoded, in their order.
    pub query: Vec<HeldField>,
    /// Headers, in their order.
    pub headers: Vec<HeldField>,
    /// The body, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<HeldBody>,
    /// Trailers, what follows the body, where it was read whole.
    pub trailers: Vec<HeldField>,
    /// Whether something was too long and is cut or left out.
    pub is_cut: bool,
}

/// A named value of a held request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldField {
    /// The name.
    pub name: String,
    /// The value; absent where it may be a secret and is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The characters of a value that is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_chars: Option<u64>,
}

/// A held request's body, as far as it was read before asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeldBody {
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether that is all of it. What comes after the part that is shown, nobody has seen.
    pub is_whole: bool,
    /// The body, where it is JSON or a form and was read whole; of values that may be secrets their
    /// kind and size alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// The beginning of the body, where it is other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What a person decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDecision {
    /// The request goes on.
    Approve,
    /// The request is denied.
    Deny,
}

/// A decision about a held request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalDecide {
    /// Approve, or deny.
    pub decision: ApprovalDecision,
    /// What is approved: `once`, this request; `rule`, every request of the workspace that this rule allows, `until` a
    /// time. `once` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::approval_scope)]
    pub scope: Option<Scope>,
    /// How long an approval for the rule stands, at most seven days from now. Required with the scope `rule`, and for it
    /// alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub until: Option<Timestamp>,
    /// What there is to say, for the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 500)]
    pub comment: Option<String>,
}

/// Parameters of a list of approvals.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalListQuery {
    /// Only those in this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::approval_status)]
    pub status: Option<Status>,
    /// Only those of this workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::workspace_id)]
    pub workspace_id: Option<WorkspaceId>,
    /// Rows of a page. Without it everything is answered, streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
}

/// Approvals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalList {
    /// The approvals, newest first.
    pub approvals: Vec<Approval>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "approvals";
const READ: Guard = Guard::Rights(&[Right::WorkspaceRead]);
const WRITE: Guard = Guard::Rights(&[Right::WorkspaceWrite]);

/// Operations on approvals.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "approval_list",
        path: "/v1/approvals",
        tag: TAG,
        summary: "List approvals, newest first",
        description: "Requests that rules with `approval: required` hold, and what was decided. Of a workspace the last \
                      200 are kept; the audit log keeps all decisions.",
        guard: READ,
        query: Some(schema::<ApprovalListQuery>()),
        answer: Answer::Json(schema::<ApprovalList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "approval_view",
        path: "/v1/approvals/{id}",
        tag: TAG,
        summary: "Get one approval",
        guard: READ,
        answer: Answer::Json(schema::<Approval>()),
        errors: &[ErrorCode::ApprovalNotFound, ErrorCode::WorkspaceNotVisible],
        ..Operation::BASE
    },
    Operation {
        id: "approval_decide",
        method: Method::Post,
        path: "/v1/approvals/{id}",
        tag: TAG,
        summary: "Approve or deny a held request",
        description: "For people: with an API key it is answered `permission_denied`. The request goes on at once, unless \
                      a rule that denies it came meanwhile. What is decided already, or whose time is over, is answered \
                      `invalid_state`.",
        guard: WRITE,
        body: Body::Json(schema::<ApprovalDecide>()),
        answer: Answer::Json(schema::<Approval>()),
        errors: &[ErrorCode::ApprovalNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidState],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "approval_revoke",
        method: Method::Delete,
        path: "/v1/approvals/{id}",
        tag: TAG,
        summary: "Take back an approval for a rule",
        description: "The rule's requests ask again. Of an approval that does not stand it is answered `invalid_state`.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::ApprovalNotFound, ErrorCode::WorkspaceNotVisible, ErrorCode::InvalidState],
        ..Operation::BASE
    },
];
