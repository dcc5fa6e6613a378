//! Schemas of the model's ids and slugs, for fields that hold them.

use freehold_model as model;
use utoipa::openapi::{
    RefOr,
    schema::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type},
};

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::String))
}

macro_rules! id_schemas {
    ($($name:ident => $id:ty,)+) => {$(
        pub fn $name() -> Object {
            let prefix = <$id>::PREFIX;
            let description = format!("`{prefix}_` and the 32 lowercase hexadecimal digits of a UUID.");
            text().pattern(Some(format!("^{prefix}_[0-9a-f]{{32}}$"))).description(Some(description)).build()
        }
    )+};
}

id_schemas! {
    organization_id => model::OrganizationId,
    api_key_id => model::ApiKeyId,
    provider_id => model::ProviderId,
    role_id => model::RoleId,
    model_id => model::ModelId,
    credential_id => model::CredentialId,
    workspace_id => model::WorkspaceId,
    task_id => model::TaskId,
    session_id => model::SessionId,
    event_id => model::EventId,
    approval_id => model::ApprovalId,
}

macro_rules! slug_schemas {
    ($($name:ident => $slug:ty,)+) => {$(
        pub fn $name() -> Object { text().enum_values(Some(<$slug>::ALL.iter().map(|slug| slug.as_str()))).build() }
    )+};
}

slug_schemas! {
    provider_kind => model::provider::Kind,
    environment => model::role::Environment,
    thinking_effort => model::role::ThinkingEffort,
    pool_policy => model::role::PoolPolicy,
    workspace_status => model::workspace::Phase,
    task_status => model::task::Phase,
    session_status => model::session::Status,
    credential_status => model::credential::Status,
    credential_kind => model::credential::Kind,
    permission_set => model::api_key::PermissionSet,
    approval_status => model::approval::Status,
    approval_reason => model::approval::Reason,
    approval_scope => model::approval::Scope,
    approval_origin => model::approval::Origin,
    approval_abandonment => model::approval::Abandonment,
    audit_category => model::audit::Category,
    audit_actor => model::audit::Actor,
    audit_event_type => model::audit::EventType,
    audit_decision => model::audit::Decision,
    audit_policy_type => model::audit::PolicyType,
}

/// A slug that may be `null`, in a `PATCH` or where `null` means absence.
fn or_null(object: Object) -> Object {
    let mut object = object;
    object.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    if let Some(values) = &mut object.enum_values {
        values.push(serde_json::Value::Null);
    }
    object
}

pub fn thinking_effort_or_null() -> Object {
    or_null(thinking_effort())
}

pub fn model_id_or_null() -> Object {
    or_null(model_id())
}

/// Conditions of a filter.
pub fn conditions() -> utoipa::openapi::schema::Array {
    let condition = text().max_length(Some(crate::limits::CONDITION_CHARS_MAX)).build();
    utoipa::openapi::schema::ArrayBuilder::new()
        .items(RefOr::T(Schema::Object(condition)))
        .max_items(Some(crate::limits::CONDITIONS_MAX))
        .build()
}

/// A map of short texts.
pub fn text_map() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .additional_properties(Some(RefOr::T(Schema::Object(text().max_length(Some(1024)).build()))))
        .build()
}

/// A map of short texts in which `null` clears a key.
pub fn text_map_patch() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .additional_properties(Some(RefOr::T(Schema::Object(or_null(text().max_length(Some(1024)).build())))))
        .build()
}

/// An object with any members.
pub fn any_object() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::Object))
        .additional_properties(Some(utoipa::openapi::schema::AdditionalProperties::FreeForm(true)))
        .build()
}

/// A number that is not negative.
pub fn amount() -> Object {
    ObjectBuilder::new().schema_type(SchemaType::new(Type::Number)).minimum(Some(0)).build()
}

/// A time that may be `null`.
pub fn time_or_null() -> Object {
    let mut object = text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).build();
    object.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    object
}

/// An absolute address.
pub fn uri() -> Object {
    text().format(Some(SchemaFormat::Custom("uri".into()))).build()
}
