//! Credentials: what egress injects. The secret goes in and never comes out.

use std::{collections::BTreeMap, fmt};

use freehold_access::Right;
pub use freehold_model::credential::Kind;
use freehold_model::{CredentialId, OrganizationId, Timestamp, credential::Status};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
    service::{ListQuery, StatusAnswer},
};

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
    /// How it is obtained and presented.
    #[schema(schema_with = crate::schemas::credential_kind)]
    pub kind: Kind,
    /// Scopes asked for, where the kind has them.
    pub scopes: Vec<String>,
    /// Where its secret is kept: `vault/` and its id, or the path in the store of secrets, with its mount.
    pub durable_ref: String,
    /// Settings that are not secret.
    #[schema(schema_with = crate::schemas::text_map)]
    pub provider_config: BTreeMap<String, String>,
    /// When what is injected was last obtained with success.
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
    /// What makes it usable, where a person has to consent: the path to `POST` to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
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
    "next",
];

/// A credential to create. Which secrets and settings its kind needs is in `docs/credentials.md`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialCreate {
    /// Its name, unique in the organization, or among the caller's own.
    #[schema(max_length = 64, pattern = "^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$")]
    pub name: String,
    /// Whose service it is for; for a model provider's credential the provider's `kind`.
    #[schema(max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$")]
    pub provider: String,
    /// How it is obtained and presented.
    #[schema(schema_with = crate::schemas::credential_kind)]
    pub kind: Kind,
    /// Scopes to ask for; for the OAuth kinds only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub scopes: Vec<String>,
    /// Settings that are not secret, by kind: `client_id` for most OAuth kinds, `subject` for
    /// `oauth2_jwt_bearer_with_subject`, `username` for `basic_auth`, `access_key_id` for `aws_sigv4`; `token_url` and its
    /// like for issuers that are not known by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub provider_config: BTreeMap<String, String>,
    /// The key of `api_key` and `query_api_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub api_key: Option<String>,
    /// The password of `basic_auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub password: Option<String>,
    /// The client's secret of `oauth2_client_credentials` and, unless its client is public, `oauth2_authorization_code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub client_secret: Option<String>,
    /// The client's private key of `oauth2_client_assertion`, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 16384, write_only)]
    pub private_key: Option<String>,
    /// The key file of the service account of `oauth2_jwt_bearer` and `oauth2_jwt_bearer_with_subject`, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 16384, write_only)]
    pub service_account_json: Option<String>,
    /// The secret key of `aws_sigv4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub secret_access_key: Option<String>,
    /// The session token of temporary keys of `aws_sigv4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 8192, write_only)]
    pub session_token: Option<String>,
    /// Whether it is the caller's own, to stand for the organization's of this name in the caller's workspaces. For
    /// `oauth2_authorization_code`, where the organization's allows it. Without `provider_config` and `client_secret` the
    /// caller consents under the organization's client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personal: Option<bool>,
    /// Whether members may create a personal override; for `oauth2_authorization_code`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_user_override: Option<bool>,
}

impl CredentialCreate {
    /// One of this kind, with nothing else said.
    pub fn of(kind: Kind) -> Self {
        Self {
            name: String::new(),
            provider: String::new(),
            kind,
            scopes: Vec::new(),
            provider_config: BTreeMap::new(),
            api_key: None,
            password: None,
            client_secret: None,
            private_key: None,
            service_account_json: None,
            secret_access_key: None,
            session_token: None,
            personal: None,
            allow_user_override: None,
        }
    }
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

/// Where a person is sent to consent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CredentialOauthStarted {
    /// The address to open in a browser.
    #[schema(schema_with = crate::schemas::uri)]
    pub auth_url: String,
}

/// The name of the cookie that shows that the same browser began a consent; over TLS it has the prefix `__Host-`.
pub const CONSENT_COOKIE: &str = "freehold-consent";

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
        description: "The secret is encrypted at rest and never answered. With `auth:write:own` alone only a personal \
            override can be created.",
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
        description: "Requests that need it are denied from then on, those of running workspaces too. Its issuer is asked \
            to take back what it gave, where it is known how; a row of the audit log says what came of it.",
        guard: WRITE,
        answer: Answer::Json(schema::<StatusAnswer>()),
        errors: &[ErrorCode::CredentialNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "credential_oauth_start",
        method: Method::Post,
        path: "/v1/credentials/{id}/oauth/start",
        tag: TAG,
        summary: "Begin a person's consent",
        description: "Answers where to send the person, and sets a cookie that their browser must have when they come \
            back to `/oauth/callback`, within ten minutes. Only the last consent that was begun for a credential counts.",
        guard: WRITE,
        answer: Answer::Json(schema::<CredentialOauthStarted>()),
        errors: &[ErrorCode::CredentialNotFound, ErrorCode::InvalidState],
        ..Operation::BASE
    },
    Operation {
        id: "oauth_callback",
        path: "/oauth/callback",
        tag: TAG,
        summary: "Come back from a consent",
        description: "Where issuers send people back. Exchanges the code for tokens and makes the credential `active`; \
            answers a page for the person, with the status 400 where it came to nothing.",
        guard: Guard::Public,
        answer: Answer::Html,
        errors: &[ErrorCode::InternalError, ErrorCode::Unavailable],
        ..Operation::BASE
    },
];
