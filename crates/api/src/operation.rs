//! The operation table: what is served, to whom, and with which shapes.

use std::borrow::Cow;

use freehold_access::Right;
use utoipa::{
    ToSchema,
    openapi::{RefOr, schema},
};

use crate::error::ErrorCode;

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Method {
    /// The method's name in a request.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Anybody.
    Public,
    /// Any authenticated caller.
    SignedIn,
    /// Callers with every one of these rights.
    Rights(&'static [Right]),
}

/// A named schema of the document.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    pub(crate) name: fn() -> Cow<'static, str>,
    pub(crate) schema: fn() -> RefOr<schema::Schema>,
    pub(crate) dependencies: fn(&mut Vec<(String, RefOr<schema::Schema>)>),
}

impl Schema {
    /// The schema's name among the document's components.
    pub fn name(&self) -> String {
        (self.name)().into_owned()
    }
}

/// The schema of `T`.
pub(crate) const fn schema<T: ToSchema>() -> Schema {
    Schema { name: T::name, schema: T::schema, dependencies: T::schemas }
}

/// What the request's body holds.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// Nothing; a body is not read.
    None,
    /// One JSON object.
    Json(Schema),
    /// One JSON object, or the same fields as a form with repeatable `file` parts.
    JsonOrMultipart(Schema),
}

/// What a success answers.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Nothing.
    Empty,
    /// One JSON object.
    Json(Schema),
    /// A bare JSON array.
    JsonArray(Schema),
    /// An object whose fields are not ours to promise.
    JsonAny,
    /// Server-sent events, each with this as `data`.
    Events(Schema),
    /// One JSON object a line.
    Lines(Schema),
    /// A page for people.
    Html,
    /// Figures for machines.
    Metrics,
}

/// Which error shape a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// The envelope. A malformed id in the path is 404.
    ControlPlane,
    /// The envelope with problem+json members. A malformed id in the path is 400. Also served under `/api`.
    Sessions,
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Resource first, verb second; the same in CLI and use case. Renaming it breaks clients.
    pub id: &'static str,
    /// The method.
    pub method: Method,
    /// The path from the server's root, with `{parameters}`.
    pub path: &'static str,
    /// The resource.
    pub tag: &'static str,
    /// One line.
    pub summary: &'static str,
    /// What else there is to know.
    pub description: &'static str,
    /// Who may call.
    pub guard: Guard,
    /// Query parameters: the properties of this schema.
    pub query: Option<Schema>,
    /// The body.
    pub body: Body,
    /// Fields of the resource that only the server sets; in a body they are ignored.
    pub read_only: &'static [&'static str],
    /// The status of a success.
    pub status: u16,
    /// What a success answers.
    pub answer: Answer,
    /// Codes beyond those that every operation of its kind may answer.
    pub errors: &'static [ErrorCode],
    /// Whether an `Idempotency-Key` header makes a repeated request answer as the first did.
    pub idempotent: bool,
    /// The error shape.
    pub face: Face,
}

impl Operation {
    /// What most operations have in common.
    pub(crate) const BASE: Self = Self {
        id: "",
        method: Method::Get,
        path: "",
        tag: "",
        summary: "",
        description: "",
        guard: Guard::SignedIn,
        query: None,
        body: Body::None,
        read_only: &[],
        status: 200,
        answer: Answer::Empty,
        errors: &[],
        idempotent: false,
        face: Face::ControlPlane,
    };

    /// Every code it may answer.
    pub fn error_codes(&self) -> Vec<ErrorCode> {
        use ErrorCode as E;
        let mut codes = self.errors.to_vec();
        match self.guard {
            Guard::Public => {}
            Guard::SignedIn => codes.push(E::Unauthorized),
            Guard::Rights(_) => codes.extend([E::Unauthorized, E::PermissionDenied]),
        }
        if self.query.is_some() {
            codes.push(E::ValidationError);
        }
        if !matches!(self.body, Body::None) {
            codes.extend([E::ValidationError, E::InvalidJson, E::PayloadTooLarge, E::UnsupportedMediaType]);
        }
        if self.idempotent {
            codes.push(E::IdempotencyConflict);
        }
        if self.guard != Guard::Public {
            codes.extend([E::InternalError, E::Unavailable]);
        }
        codes.sort_by_key(|code| (code.status(), code.as_str()));
        codes.dedup();
        codes
    }

    /// Whether its answer goes on, so that it must end when its caller's secret is revoked.
    pub const fn is_stream(&self) -> bool {
        matches!(self.answer, Answer::Events(_) | Answer::Lines(_))
    }

    /// Whether it answers with a stream of server-sent events, where alone `?api_key=` is accepted.
    pub const fn is_event_stream(&self) -> bool {
        matches!(self.answer, Answer::Events(_))
    }
}

/// Every operation, in the order of the document.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    [
        crate::config::OPERATIONS,
        crate::provider::OPERATIONS,
        crate::role::OPERATIONS,
        crate::workspace::OPERATIONS,
        crate::budget::OPERATIONS,
        crate::task::OPERATIONS,
        crate::session::OPERATIONS,
        crate::approval::OPERATIONS,
        crate::audit::OPERATIONS,
        crate::credential::OPERATIONS,
        crate::secret::OPERATIONS,
        crate::api_key::OPERATIONS,
        crate::service::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}
