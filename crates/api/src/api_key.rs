//! API keys: automation's credential.

use std::fmt;

use freehold_access::Right;
use freehold_model::{ApiKeyId, OrganizationId, Timestamp, api_key::PermissionSet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{ListQuery, StatusAnswer},
};

/// An API key. Its secret is answered once, at creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKey {
    /// The id.
    #[schema(schema_with = crate::schemas::api_key_id)]
    pub id: ApiKeyId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// What it is for.
    pub label: String,
    /// The secret's recognisable ends.
    pub prefix: String,
    /// What it may do.
    #[schema(schema_with = crate::schemas::permission_set)]
    pub permission_set: PermissionSet,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &["id", "org_id", "prefix", "created_at", "value"];

/// An API key with its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyCreated {
    /// The key.
    #[serde(flatten)]
    pub key: ApiKey,
    /// The secret, shown this once.
    pub value: String,
}

impl fmt::Debug for ApiKeyCreated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeyCreated").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An API key to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyCreate {
    /// What it is for.
    #[schema(min_length = 1, max_length = 200)]
    pub label: String,
    /// What it may do.
    #[schema(schema_with = crate::schemas::permission_set)]
    pub permission_set: PermissionSet,
}

/// API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyList {
    /// The keys, oldest first.
    pub api_keys: Vec<ApiKey>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "API keys";
const GUARD: Guard = Guard::Rights(&[Right::ApiKeysWrite]);

/// Operations on API keys.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "api_key_list",
        path: "/v1/api-keys",
        tag: TAG,
        summary: "List API keys",
        guard: GUARD,
        query: Some(schema::<ListQuery>()),
        answer: Answer::Json(schema::<ApiKeyList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "api_key_create",
        method: Method::Post,
        path: "/v1/api-keys",
        tag: TAG,
        summary: "Create an API key",
        description: "The answer holds the secret, which is shown this once: a request repeated with its \
                      `Idempotency-Key` makes no second key and is answered `idempotency_conflict`.",
        guard: GUARD,
        body: Body::Json(schema::<ApiKeyCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<ApiKeyCreated>()),
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "api_key_revoke",
        method: Method::Delete,
        path: "/v1/api-keys/{id}",
        tag: TAG,
        summary: "Revoke an API key",
        description: "The next request with it is answered 401.",
        guard: GUARD,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::ApiKeyNotFound],
        ..Operation::BASE
    },
];
