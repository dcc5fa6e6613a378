//! Budgets: how much of each counter that counts a workspace is used.

use freehold_access::Right;
use freehold_model::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Guard, Operation, schema},
};

/// A counter, and how much of it is used. Amounts are in the unit; of `usd`, in dollars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Budget {
    /// The document the counter stands in: `provider` or `role`.
    pub origin: String,
    /// Its capability.
    pub capability: String,
    /// Its name.
    pub name: String,
    /// What it counts: `requests`, `request_bytes`, `response_bytes`, `tokens`, `usd` or `expression`.
    pub unit: String,
    /// Whose use is counted together: `task`, `session`, `workspace`, `role` or `organization`.
    pub per: String,
    /// The id of whose use this is. Traffic outside tasks is the workspace's.
    pub subject: String,
    /// The window's length, such as `1h`; absent for the whole life of what is counted per.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<String>,
    /// When the present window began; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start: Option<Timestamp>,
    /// How much there is.
    #[schema(schema_with = crate::schemas::amount)]
    pub limit: Number,
    /// How much is used, or held by requests under way. Tokens and money can go beyond the limit by one request's misestimate.
    #[schema(schema_with = crate::schemas::amount)]
    pub used: Number,
    /// How much is left.
    #[schema(schema_with = crate::schemas::amount)]
    pub remaining: Number,
    /// From how much on it is said that the limit is near.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::amount)]
    pub warn_at: Option<Number>,
    /// What happens at the limit: `deny` or `ask`.
    pub on_limit: String,
}

/// Counters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetList {
    /// Those of the provider, then those of the role, each in the order of its document.
    pub budgets: Vec<Budget>,
}

/// Operations on budgets.
pub const OPERATIONS: &[Operation] = &[Operation {
    id: "workspace_budget_list",
    path: "/v1/workspaces/{id}/budgets",
    tag: "workspaces",
    summary: "List a workspace's budgets",
    description: "Every counter that counts its requests, in the present window, with what is used of it.",
    guard: Guard::Rights(&[Right::WorkspaceRead]),
    answer: Answer::Json(schema::<BudgetList>()),
    errors: &[ErrorCode::WorkspaceNotFound, ErrorCode::WorkspaceNotVisible],
    ..Operation::BASE
}];
