//! The caller's session and the server's defaults.

use freehold_model::{OrganizationId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operation::{Answer, Operation, schema};

/// Who is calling, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeSession {
    /// The member, or `system` for an API key.
    pub user_id: String,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The member's address; empty for an API key.
    pub email: String,
    /// The member's role; empty for an API key.
    pub role: String,
    /// The caller's scopes.
    pub permissions: Vec<String>,
    /// The member's organizations; empty for an API key.
    pub memberships: Vec<MeMembership>,
    /// What the API key is for. Documentary: `permissions` decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_label: Option<String>,
    /// The API key's template. Documentary: `permissions` decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_permission_set: Option<String>,
}

/// One of the caller's memberships.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MeMembership {
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// The role in it.
    pub role: String,
    /// Whether it may create things; always `active` here, since nothing is billed.
    pub billing_status: String,
    /// When the invitation was accepted; null while pending.
    pub accepted_at: Option<Timestamp>,
}

/// The server's configuration, as far as clients need it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Config {
    /// What holds where a role says nothing.
    pub defaults: ConfigDefaults,
}

/// What holds where a role says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConfigDefaults {
    /// The most seconds a task may run.
    pub task_timeout_seconds: u32,
    /// Seconds a workspace may sit idle before it is stopped; 0 for ever.
    pub idle_timeout_seconds: u32,
    /// The absolute callback to register in one's own OAuth application.
    #[schema(schema_with = crate::schemas::uri)]
    pub oauth_redirect_uri: String,
}

/// Operations of this module.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "me_session_view",
        path: "/v1/me/session",
        tag: "session and config",
        summary: "Who am I, and what may I do",
        answer: Answer::Json(schema::<MeSession>()),
        ..Operation::BASE
    },
    Operation {
        id: "config_view",
        path: "/v1/config",
        tag: "session and config",
        summary: "Get the server's defaults",
        answer: Answer::Json(schema::<Config>()),
        ..Operation::BASE
    },
];
