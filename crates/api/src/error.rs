//! Errors: one envelope, one closed set of codes with their HTTP statuses, one page of documentation for each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident => $slug:literal, $status:literal;)+) => {
        /// Why a request was refused or failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $($(#[doc = $doc])+ #[serde(rename = $slug)] $variant,)+ }

        impl ErrorCode {
            /// Every code, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// The code as it is sent.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $slug,)+ } }
            /// The HTTP status it is sent with.
            pub const fn status(self) -> u16 { match self { $(Self::$variant => $status,)+ } }
            /// What it means, in a line.
            pub const fn meaning(self) -> &'static str { match self { $(Self::$variant => concat!($($doc),+),)+ } }
        }
    };
}

codes! {
    /// A field, parameter or name is not acceptable; `details.fields` says which and why.
    ValidationError => "validation_error", 400;
    /// The body is not one well-formed JSON value.
    InvalidJson => "invalid_json", 400;
    /// The cursor was not made by this list.
    InvalidCursor => "invalid_cursor", 400;
    /// The id in the path is malformed (sessions routes only).
    InvalidId => "invalid_id", 400;
    /// The credential is missing, unknown or revoked.
    Unauthorized => "unauthorized", 401;
    /// The caller lacks a required scope.
    PermissionDenied => "permission_denied", 403;
    /// The caller may only touch workspaces it created, and this is not one.
    WorkspaceNotVisible => "workspace_not_visible", 403;
    /// No such route.
    NotFound => "not_found", 404;
    /// No such provider in the caller's organization.
    ProviderNotFound => "provider_not_found", 404;
    /// No such role in the caller's organization.
    RoleNotFound => "role_not_found", 404;
    /// No such workspace in the caller's organization.
    WorkspaceNotFound => "workspace_not_found", 404;
    /// No such task in this workspace.
    TaskNotFound => "task_not_found", 404;
    /// No such session in the caller's organization, or none that it may see.
    SessionNotFound => "session_not_found", 404;
    /// No such credential in the caller's organization.
    CredentialNotFound => "credential_not_found", 404;
    /// No such secret in the caller's organization.
    SecretNotFound => "secret_not_found", 404;
    /// No such API key in the caller's organization.
    ApiKeyNotFound => "api_key_not_found", 404;
    /// The route exists, but not with this method.
    MethodNotAllowed => "method_not_allowed", 405;
    /// Something in the organization already has this name.
    NameTaken => "name_taken", 409;
    /// The thing is not in a state that allows this.
    InvalidState => "invalid_state", 409;
    /// The thing is not archived.
    NotArchived => "not_archived", 409;
    /// The role's provider is archived.
    ProviderArchived => "provider_archived", 409;
    /// The role is archived.
    RoleArchived => "role_archived", 409;
    /// Workspaces are running under this role or provider.
    WorkspacesActive => "workspaces_active", 409;
    /// The workspace is archived.
    WorkspaceArchived => "workspace_archived", 409;
    /// The workspace is stopped or stopping.
    WorkspaceStopped => "workspace_stopped", 409;
    /// The workspace could not be started.
    WorkspaceFailed => "workspace_failed", 409;
    /// The workspace's agent is not ready yet.
    WorkspaceProvisioning => "workspace_provisioning", 409;
    /// The same idempotency key came with another request.
    IdempotencyConflict => "idempotency_conflict", 409;
    /// The body or an uploaded file is larger than allowed.
    PayloadTooLarge => "payload_too_large", 413;
    /// The body's content type is not one this route takes.
    UnsupportedMediaType => "unsupported_media_type", 415;
    /// Too many tasks wait in this workspace, or too many streams are open.
    TooManyRequests => "too_many_requests", 429;
    /// The server failed; the request id finds the cause in its log.
    InternalError => "internal_error", 500;
    /// The workspace's agent does not answer.
    AgentUnreachable => "agent_unreachable", 502;
    /// The value is in a store of secrets that is not configured on this server.
    SecretsDisabled => "secrets_disabled", 503;
    /// The server is overloaded or stopping, or its database or storage cannot be used: the message says which.
    Unavailable => "unavailable", 503;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl utoipa::PartialSchema for ErrorCode {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::new(utoipa::openapi::schema::Type::String))
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .description(Some("Closed set of codes."))
            .build()
            .into()
    }
}

impl ToSchema for ErrorCode {}

/// The body of every error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Which of the closed set it is.
    pub code: ErrorCode,
    /// Human-readable summary.
    pub message: String,
    /// The request's id, also in the `x-request-id` header and the server's log.
    pub request_id: String,
    /// Structured context. Validation errors land at `details.fields`, a map from field to reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = crate::schemas::any_object)]
    pub details: Option<serde_json::Value>,
}
