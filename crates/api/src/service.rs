//! What is not a resource: the document, the reference page, health, figures; and shapes that many resources share.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::operation::{Answer, Guard, Operation, schema};

/// The answer to a change that leaves nothing else to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatusAnswer {
    /// What the thing is now, such as `archived`, `stopping`, `deleted` or `revoked`.
    pub status: String,
}

/// The answer to stopping many workspaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stopping {
    /// How many began to stop; those already stopped are not counted.
    pub stopping: u32,
}

/// Parameters of a list of things that can be archived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ArchivableListQuery {
    /// Whether archived ones are listed too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub include_archived: Option<bool>,
    /// Rows of a page. Without it everything is answered, streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
}

/// Parameters of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListQuery {
    /// Rows of a page. Without it everything is answered, streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// Where the page begins, from the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 512)]
    pub cursor: Option<String>,
}

/// Whether the server is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The server's version.
    pub version: String,
}

const TAG: &str = "service";

/// Operations that concern the server itself.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "openapi_view",
        path: "/v1/openapi.json",
        tag: TAG,
        summary: "Get this document",
        guard: Guard::Public,
        answer: Answer::JsonAny,
        ..Operation::BASE
    },
    Operation {
        id: "docs_view",
        path: "/v1/docs",
        tag: TAG,
        summary: "Read the reference as a page",
        guard: Guard::Public,
        answer: Answer::Html,
        ..Operation::BASE
    },
    Operation {
        id: "health_view",
        path: "/health",
        tag: TAG,
        summary: "Is the server well",
        guard: Guard::Public,
        answer: Answer::Json(schema::<Health>()),
        errors: &[crate::error::ErrorCode::Unavailable],
        ..Operation::BASE
    },
    Operation {
        id: "metrics_view",
        path: "/metrics",
        tag: TAG,
        summary: "Get the server's figures",
        description: "OpenMetrics text. Holds no name, id or content of any organization.",
        guard: Guard::Public,
        answer: Answer::Metrics,
        ..Operation::BASE
    },
];
