//! Failures, and the one envelope they are answered in.

use std::{collections::BTreeMap, error::Error as StdError};

use axum::response::Response;
use freehold_access::Denied;
use freehold_api::{
    error::{ErrorBody, ErrorCode, ErrorDetail},
    operation::Face,
};
use freehold_app::{Error, Thing, ports::SealError};
use freehold_model::workspace;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// The header that names a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why a request was refused or failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: ErrorCode,
    pub message: String,
    pub details: Option<Value>,
    /// What the log is told and the caller is not.
    pub cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None, cause: None }
    }

    /// The code with its own meaning as message.
    pub fn of(code: ErrorCode) -> Self {
        Self::new(code, code.meaning().trim().trim_end_matches('.'))
    }

    pub fn fields(fields: &BTreeMap<String, String>) -> Self {
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        let mut failure =
            Self::new(ErrorCode::ValidationError, format!("not acceptable: {}", names.join(", ")));
        failure.details = Some(json!({ "fields": fields }));
        failure
    }

    pub fn field(name: &str, reason: impl Into<String>) -> Self {
        Self::fields(&BTreeMap::from([(name.to_owned(), reason.into())]))
    }

    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let mut failure = Self::of(ErrorCode::InternalError);
        failure.cause = Some(cause.into());
        failure
    }

    fn caused(code: ErrorCode, cause: Error) -> Self {
        let mut failure = Self::new(code, cause.to_string());
        failure.cause = Some(Box::new(cause));
        failure
    }

    /// The body of the answer.
    pub fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                code: self.code,
                message: self.message.clone(),
                request_id: request_id.to_owned(),
                details: self.details.clone(),
            },
        }
    }

    /// The answer, after what people who run the server should know of it was logged.
    pub fn respond(self, face: Face, request_id: &str) -> Response {
        self.log(request_id);
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body = serde_json::to_value(self.body(request_id)).unwrap_or(Value::Null);
        let media_type = match face {
            Face::ControlPlane => "application/json",
            Face::Sessions => {
                body["title"] = status.canonical_reason().unwrap_or("Error").into();
                body["status"] = status.as_u16().into();
                body["detail"] = self.message.into();
                body["code"] = self.code.as_str().into();
                "application/problem+json"
            }
        };
        let mut response = Response::new(body.to_string().into());
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    fn log(&self, request_id: &str) {
        let cause = self.cause.as_deref().map(|cause| cause as &dyn StdError);
        if self.code == ErrorCode::InternalError {
            tracing::error!(request.id = request_id, error = cause, "a request failed");
        } else if self.code.status() >= 500 {
            tracing::warn!(request.id = request_id, error.code = %self.code, error = cause, "a request was not served");
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use ErrorCode as E;
        let code = match &error {
            Error::Invalid { fields } => return Self::fields(fields),
            Error::Denied(denied) => return Self::from(*denied),
            Error::NotFound(thing) => missing(*thing),
            Error::NameTaken { .. } => E::NameTaken,
            Error::InvalidState(_) => E::InvalidState,
            Error::NotArchived(_) => E::NotArchived,
            Error::ProviderArchived => E::ProviderArchived,
            Error::RoleArchived => E::RoleArchived,
            Error::WorkspacesActive { count } => {
                let mut failure = Self::new(E::WorkspacesActive, error.to_string());
                failure.details = Some(json!({ "workspaces": count }));
                return failure;
            }
            Error::WorkspaceArchived => E::WorkspaceArchived,
            Error::WorkspacePhase(denied) => match denied {
                workspace::Denied::Stopping | workspace::Denied::Stopped => E::WorkspaceStopped,
                workspace::Denied::Failed => E::WorkspaceFailed,
                workspace::Denied::Provisioning => E::WorkspaceProvisioning,
            },
            Error::TooMany(_) => E::TooManyRequests,
            Error::IdempotencyConflict(_) => E::IdempotencyConflict,
            Error::Agent(_) => return Self::caused(E::AgentUnreachable, error),
            Error::Upload(_) => return Self::caused(E::Unavailable, error),
            Error::Store(store) => return Self::store(store.clone()),
            Error::Seal(SealError::NotConfigured) => return Self::caused(E::SecretsDisabled, error),
            Error::Seal(SealError::Unavailable(_)) => return Self::caused(E::Unavailable, error),
            Error::Seal(SealError::Failed(_)) | Error::OwnerToken(_) | Error::Inconsistent { .. } => {
                return Self::internal(error);
            }
        };
        Self::new(code, error.to_string())
    }
}

impl Failure {
    fn store(error: freehold_app::StoreError) -> Self {
        use freehold_app::StoreError as S;
        let mut failure = match &error {
            S::Unavailable { .. } => Self::new(
                ErrorCode::Unavailable,
                error.unavailability().unwrap_or("the database is unavailable"),
            ),
            S::Closed => Self::new(ErrorCode::Unavailable, "the server is stopping"),
            S::Owned => Self::new(ErrorCode::Unavailable, "another server works on this database"),
            S::Uncertain { .. } => {
                Self::new(ErrorCode::Unavailable, "the database was lost; the change may have been made")
            }
            S::Violation { .. }
            | S::Missing { .. }
            | S::WrongOrganization { .. }
            | S::Corrupt { .. }
            | S::Statement { .. }
            | S::Poisoned
            | S::Panicked
            | S::NewerSchema { .. }
            | S::Open { .. } => Self::of(ErrorCode::InternalError),
        };
        failure.cause = Some(Box::new(error));
        failure
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::MissingScope { needed } => {
                let mut failure = Self::new(ErrorCode::PermissionDenied, denied.to_string());
                failure.details = Some(json!({ "needed": needed }));
                failure
            }
            Denied::NotOwner => Self::new(ErrorCode::WorkspaceNotVisible, denied.to_string()),
            Denied::OtherOrganization => Self::of(ErrorCode::NotFound),
        }
    }
}

const fn missing(thing: Thing) -> ErrorCode {
    match thing {
        Thing::Provider => ErrorCode::ProviderNotFound,
        Thing::Role => ErrorCode::RoleNotFound,
        Thing::Workspace => ErrorCode::WorkspaceNotFound,
        Thing::Task => ErrorCode::TaskNotFound,
        Thing::Session => ErrorCode::SessionNotFound,
        Thing::Credential => ErrorCode::CredentialNotFound,
        Thing::Secret => ErrorCode::SecretNotFound,
        Thing::ApiKey => ErrorCode::ApiKeyNotFound,
        Thing::Member | Thing::PersonalToken | Thing::Organization => ErrorCode::NotFound,
    }
}
