//! Providers: model backends.

use std::collections::BTreeMap;

use freehold_access::Right;
use freehold_model::{OrganizationId, ProviderId, Timestamp, provider::Kind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::ErrorCode,
    operation::{Answer, Body, Guard, Method, Operation, schema},
};

/// A model backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Provider {
    /// The id.
    #[schema(schema_with = crate::schemas::provider_id)]
    pub id: ProviderId,
    /// The organization.
    #[schema(schema_with = crate::schemas::organization_id)]
    pub org_id: OrganizationId,
    /// A slug, unique in the organization.
    pub name: String,
    /// What kind of backend it is; fixes the wire format.
    #[schema(schema_with = crate::schemas::provider_kind)]
    pub kind: Kind,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The upstream host, with a port when it is not 443.
    pub domain: String,
    /// The credential that is injected, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<String>,
    /// The model of roles that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_model: Option<String>,
    /// Base capabilities (YAML) of every role that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<String>,
    /// Settings of the kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub config: BTreeMap<String, String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
}

/// Fields only the server sets.
pub const READ_ONLY: &[&str] = &["id", "org_id", "created_at", "updated_at", "archived_at"];

/// A provider to create.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderCreate {
    /// A slug, unique in the organization.
    #[schema(max_length = 64, pattern = "^[a-z0-9]+(-[a-z0-9]+)*$")]
    pub name: String,
    /// What kind of backend it is; `gemini`, `vertex` and `azure-openai` are not served yet and refused.
    #[schema(schema_with = crate::schemas::provider_kind)]
    pub kind: Kind,
    /// The upstream host, lowercase, with a port when it is not 443.
    #[schema(
        max_length = 259,
        pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$"
    )]
    pub domain: String,
    /// A label for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub display_name: Option<String>,
    /// The credential that is injected, by name; its `provider` must equal `kind`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub credential_name: Option<String>,
    /// The model of roles that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 200)]
    pub default_model: Option<String>,
    /// Base capabilities (YAML) of every role that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 262144)]
    pub capabilities: Option<String>,
    /// Settings of the kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map)]
    pub config: BTreeMap<String, String>,
}

/// What to change of a provider. Absent leaves alone, `null` clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderUpdate {
    /// The upstream host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        max_length = 259,
        pattern = "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$"
    )]
    pub domain: Option<String>,
    /// A label for people.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 200)]
    pub display_name: Option<Option<String>>,
    /// The credential that is injected.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 64)]
    pub credential_name: Option<Option<String>>,
    /// The model of roles that name none.
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200)]
    pub default_model: Option<Option<String>>,
    /// Base capabilities (YAML).
    #[serde(deserialize_with = "crate::patch::present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, max_length = 262144)]
    pub capabilities: Option<Option<String>>,
    /// Settings, merged key by key: a string sets, `null` clears, absent leaves alone.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(schema_with = crate::schemas::text_map_patch)]
    pub config: BTreeMap<String, Option<String>>,
}

/// Providers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderList {
    /// The providers, oldest first.
    pub providers: Vec<Provider>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// The answer to archiving a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderArchived {
    /// `archived`.
    pub status: String,
    /// How many of its roles were archived with it.
    pub cascaded_roles: u32,
}

const TAG: &str = "providers";
const WRITE: Guard = Guard::Rights(&[Right::ConfigWrite]);

/// Operations on providers.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        id: "provider_list",
        path: "/v1/providers",
        tag: TAG,
        summary: "List providers",
        query: Some(schema::<crate::service::ArchivableListQuery>()),
        answer: Answer::Json(schema::<ProviderList>()),
        errors: &[ErrorCode::InvalidCursor],
        ..Operation::BASE
    },
    Operation {
        id: "provider_create",
        method: Method::Post,
        path: "/v1/providers",
        tag: TAG,
        summary: "Create a provider",
        guard: WRITE,
        body: Body::Json(schema::<ProviderCreate>()),
        read_only: READ_ONLY,
        status: 201,
        answer: Answer::Json(schema::<Provider>()),
        errors: &[ErrorCode::NameTaken],
        idempotent: true,
        ..Operation::BASE
    },
    Operation {
        id: "provider_view",
        path: "/v1/providers/{id}",
        tag: TAG,
        summary: "Get one provider",
        answer: Answer::Json(schema::<Provider>()),
        errors: &[ErrorCode::ProviderNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "provider_update",
        method: Method::Patch,
        path: "/v1/providers/{id}",
        tag: TAG,
        summary: "Change a provider",
        description: "Only the fields present are changed. `name` and `kind` cannot be.",
        guard: WRITE,
        body: Body::Json(schema::<ProviderUpdate>()),
        read_only: READ_ONLY,
        answer: Answer::Json(schema::<Provider>()),
        errors: &[ErrorCode::ProviderNotFound],
        ..Operation::BASE
    },
    Operation {
        id: "provider_archive",
        method: Method::Post,
        path: "/v1/providers/{id}/archive",
        tag: TAG,
        summary: "Archive a provider and every role that uses it",
        description: "Refused while a workspace under one of those roles is running.",
        guard: WRITE,
        answer: Answer::Json(schema::<ProviderArchived>()),
        errors: &[ErrorCode::ProviderNotFound, ErrorCode::WorkspacesActive],
        ..Operation::BASE
    },
    Operation {
        id: "provider_unarchive",
        method: Method::Post,
        path: "/v1/providers/{id}/unarchive",
        tag: TAG,
        summary: "Unarchive a provider",
        description: "Its roles stay archived.",
        guard: WRITE,
        answer: Answer::Json(schema::<crate::service::StatusAnswer>()),
        errors: &[ErrorCode::ProviderNotFound, ErrorCode::NotArchived],
        ..Operation::BASE
    },
];
