//! Secrets: opaque values that transforms of policies put on requests, by name. A value goes in and never comes out.

use std::fmt;

use freehold_access::Right;
use freehold_model::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{ListQuery, StatusAnswer},
};

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Secret {
    /// Its name, by which policies refer to it: `secrets["name"]`.
    pub name: String,
    /// The member who created it; null when no person did.
    pub created_by_user_id: Option<String>,
    /// The member who last gave it a value; null when no person did.
    pub updated_by_user_id: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last got a value.
    pub updated_at: Timestamp,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &["created_by_user_id", "updated_by_user_id", "created_at", "updated_at"];

/// A secret to create.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretCreate {
    /// Its name, unique in the organization: an identifier of policies.
    #[schema(max_length = 64, pattern = "^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
    pub name: String,
    /// Its value: at most 65,536 bytes of UTF-8.
    #[schema(min_length = 1, max_length = 65536, write_only)]
    pub value: String,
}

impl fmt::Debug for SecretCreate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretCreate").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Another value for a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretUpdate {
    /// Its value: at most 65,536 bytes of UTF-8.
    #[schema(min_length = 1, max_length = 65536, write_only)]
    pub value: String,
}

impl fmt::Debug for SecretUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretUpdate").finish_non_exhaustive()
    }
}

/// Secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretList {
    /// The secrets, oldest first.
    pub secrets: Vec<Secret>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "secrets";
const WRITE: Guard = Guard::Rights(&[Right::SecretsWrite]);

/// Operations on secrets.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "secret_list",
        path: "/v1/secrets",
        tag: TAG,
        summary: "List secrets",
        description: "Names, and who gave them a value when; never values.",
        query: Some(schema::<ListQuery>()),
        answer: Answer::Json(schema::<SecretList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "secret_create",
        method: Method::Post,
        path: "/v1/secrets",
        tag: TAG,
        summary: "Create a secret",
        description: "The value is encrypted at rest and never answered.",
        guard: WRITE,
        body: Body::Json(schema::<SecretCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<Secret>()),
        errors: &[ErrorCode::NameTaken],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "secret_update",
        method: Method::Put,
        path: "/v1/secrets/{name}",
        tag: TAG,
        summary: "Give a secret another value",
        description: "Running workspaces use it for their next request.",
        guard: WRITE,
        body: Body::Json(schema::<SecretUpdate>()),
        read_only: READ_ONLY,
        answer: Answer::Json(schema::<Secret>()),
        errors: &[ErrorCode::SecretNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "secret_delete",
        method: Method::Delete,
        path: "/v1/secrets/{name}",
        tag: TAG,
        summary: "Delete a secret and its value",
        description: "Later requests that need it are denied.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::SecretNotFound, ErrorCode::SecretsDisabled],
        ..Operation::BASE
    },
];
