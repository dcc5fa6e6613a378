//! Credentials: what egress injects. The secret goes in and never comes out.

use std::{collections::BTreeMap, fmt};

use freehold_access::Right;
use freehold_model::{CredentialId, OrganizationId, Timestamp, credential::Status};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{ListQuery, StatusAnswer},
};

/// How a credential is obtained and presented. This server takes `api_key`, `basic_auth` and `query_api_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// A person consents; not served yet.
    Oauth2AuthorizationCode,
    /// A client's own secret; not served yet.
    Oauth2ClientCredentials,
    /// A service account; not served yet.
    Oauth2JwtBearer,
    /// A service account that acts for a person; not served yet.
    Oauth2JwtBearerWithSubject,
    /// A client's own key; not served yet.
    Oauth2ClientAssertion,
    /// A key in a header.
    ApiKey,
    /// HTTP Basic.
    BasicAuth,
    /// A key in the query string.
    QueryApiKey,
}

/// A credential, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// The id.
    #[schema(schema_with = crate::schemas::credential_id)]
    pub id: CredentialId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// Its owner; null unless it is personal.
    pub user_id: Option<String>,
    /// Its name, which providers and transforms refer to.
    pub name: String,
    /// Whose service it is for.
    pub provider: String,
    /// How it is presented.
    pub kind: CredentialKind,
    /// Scopes asked for, where the kind has them.
    pub scopes: Vec<String>,
    /// Where its secret is kept.
    pub durable_ref: String,
    /// Settings that are not secret.
    #[schema(schema_with = crate::schemas::text_map)]
    pub provider_config: BTreeMap<String, String>,
    /// When it was last used with success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_minted_at: Option<Timestamp>,
    /// The code of the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_minted_status: Option<String>,
    /// Whether members may create a personal override.
    pub allow_user_override: bool,
    /// Whether it can be used.
    #[schema(schema_with = crate::schemas::credential_status)]
    pub status: Status,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &[
    "id",
    "org_id",
    "user_id",
    "durable_ref",
    "last_minted_at",
    "last_minted_status",
    "status",
    "created_at",
    "updated_at",
];

/// A credential to create. `api_key` holds the secret of the kinds `api_key` and `query_api_key`, `password` that of
/// `basic_auth`, whose `provider_config.username` is required.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialCreate {
    /// Its name, unique in the organization.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")]
    pub name: String,
    /// Whose service it is for; for a model provider's credential the provider's `kind`.
    #[schema(max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$")]
    pub provider: String,
    /// How it is presented.
    pub kind: CredentialKind,
    /// No kind served so far has scopes: anything but an empty list is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub scopes: Vec<String>,
    /// Settings that are not secret: `username` (required) for `basic_auth`, `parameter` for `query_api_key`, none
    /// for `api_key`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub provider_config: BTreeMap<String, String>,
    /// The key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub api_key: Option<String>,
    /// The password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub password: Option<String>,
    /// Personal credentials are not served yet: `true` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<bool>,
    /// Personal overrides are not served yet: `true` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_user_override: Option<bool>,
}

impl fmt::Debug for CredentialCreate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCreate")
            .field("name", &self.name)
            .field("provider", &self.provider)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// Credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialList {
    /// The credentials, oldest first.
    pub credentials: Vec<Credential>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

const TAG: &str = "credentials";
const WRITE: Guard = Guard::Rights(&[Right::CredentialWrite]);

/// Operations on credentials.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "credential_list",
        path: "/v1/credentials",
        tag: TAG,
        summary: "List credentials",
        description: "Without `auth:write` only the organization's and the caller's own personal ones.",
        query: Some(schema::<ListQuery>()),
        answer: Answer::Json(schema::<CredentialList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "credential_create",
        method: Method::Post,
        path: "/v1/credentials",
        tag: TAG,
        summary: "Create a credential",
        description: "The secret is encrypted at rest and never answered.",
        guard: WRITE,
        body: Body::Json(schema::<CredentialCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<Credential>()),
        errors: &[ErrorCode::NameTaken],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "credential_view",
        path: "/v1/credentials/{id}",
        tag: TAG,
        summary: "Get one credential",
        answer: Answer::Json(schema::<Credential>()),
        errors: &[ErrorCode::CredentialNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "credential_delete",
        method: Method::Delete,
        path: "/v1/credentials/{id}",
        tag: TAG,
        summary: "Delete a credential and its secret",
        description: "Later requests that need it are denied.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::CredentialNotFound],
        ..Operation::BASE
    },
];
