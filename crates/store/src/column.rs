//! How the types of the model look in a column.
//!
//! Two roundings, the same on both databases: times are cut to microseconds, and the character U+0000, which PostgreSQL
//! cannot hold, becomes U+FFFD.

use std::{borrow::Cow, collections::BTreeMap, str::FromStr};

use freehold_model::{
    ApiKeyId, ApprovalId, CredentialId, EventId, MemberId, OrganizationId, PackId, PodId, ProviderId, RoleId,
    SecretId, SessionId, TaskId, Timestamp, TokenId, TurnId, UploadId, WorkspaceId, api_key, approval, audit,
    credential, member, provider, role, session, task, workspace,
};
use serde::{Deserialize, Serialize};

use crate::sql::{Column, Value};

impl<T: Column> Column for Option<T> {
    fn write(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, Column::write)
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::read(value).map(Some),
        }
    }
}

impl Column for String {
    fn write(&self) -> Value<'_> {
        text(self)
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.into_owned()),
            Value::Null | Value::Int(_) | Value::Bytes(_) => None,
        }
    }
}

impl Column for Vec<u8> {
    fn write(&self) -> Value<'_> {
        Value::Bytes(Cow::Borrowed(self))
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(bytes.into_owned()),
            Value::Null | Value::Int(_) | Value::Text(_) => None,
        }
    }
}

impl Column for [u8; 32] {
    fn write(&self) -> Value<'_> {
        Value::Bytes(Cow::Borrowed(self))
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => bytes.as_ref().try_into().ok(),
            Value::Null | Value::Int(_) | Value::Text(_) => None,
        }
    }
}

impl Column for i64 {
    fn write(&self) -> Value<'_> {
        Value::Int(*self)
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Int(number) => Some(number),
            Value::Null | Value::Text(_) | Value::Bytes(_) => None,
        }
    }
}

impl Column for u64 {
    /// Numbers beyond the type of the column, which no count reaches, are written as the greatest one it has.
    fn write(&self) -> Value<'_> {
        Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }

    fn read(value: Value<'_>) -> Option<Self> {
        i64::read(value)?.try_into().ok()
    }
}

impl Column for u32 {
    fn write(&self) -> Value<'_> {
        Value::Int(i64::from(*self))
    }

    fn read(value: Value<'_>) -> Option<Self> {
        i64::read(value)?.try_into().ok()
    }
}

impl Column for bool {
    fn write(&self) -> Value<'_> {
        Value::Int(i64::from(*self))
    }

    fn read(value: Value<'_>) -> Option<Self> {
        match i64::read(value)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Column for Timestamp {
    fn write(&self) -> Value<'_> {
        Value::Int(self.as_microsecond())
    }

    fn read(value: Value<'_>) -> Option<Self> {
        Self::from_microsecond(i64::read(value)?).ok()
    }
}

/// Columns whose text is the type's own.
macro_rules! textual {
    ($($type:ty),+ $(,)?) => {$(
        impl Column for $type {
            fn write(&self) -> Value<'_> {
                Value::Text(Cow::Owned(self.to_string()))
            }

            fn read(value: Value<'_>) -> Option<Self> {
                from_text(value)
            }
        }
    )+};
}

textual!(
    ApiKeyId,
    ApprovalId,
    CredentialId,
    EventId,
    MemberId,
    OrganizationId,
    PodId,
    ProviderId,
    RoleId,
    SecretId,
    SessionId,
    TaskId,
    TokenId,
    TurnId,
    UploadId,
    WorkspaceId,
);

/// Columns whose text is one of a closed set.
macro_rules! slugs {
    ($($type:ty),+ $(,)?) => {$(
        impl Column for $type {
            fn write(&self) -> Value<'_> {
                Value::Text(Cow::Borrowed(self.as_str()))
            }

            fn read(value: Value<'_>) -> Option<Self> {
                from_text(value)
            }
        }
    )+};
}

slugs!(
    api_key::PermissionSet,
    approval::Abandonment,
    approval::Origin,
    approval::Reason,
    approval::Scope,
    approval::Status,
    audit::Actor,
    audit::Category,
    audit::Decision,
    audit::EventType,
    credential::Kind,
    credential::Status,
    member::MemberRole,
    provider::Kind,
    role::Environment,
    role::PoolPolicy,
    role::ThinkingEffort,
    task::Phase,
    workspace::Phase,
);

fn from_text<T: FromStr>(value: Value<'_>) -> Option<T> {
    match value {
        Value::Text(text) => text.parse().ok(),
        Value::Null | Value::Int(_) | Value::Bytes(_) => None,
    }
}

/// Columns that hold JSON: what is read whole and never looked into by a query.
macro_rules! json {
    ($($type:ty),+ $(,)?) => {$(
        impl Column for $type {
            fn write(&self) -> Value<'_> {
                to_json(self)
            }

            fn read(value: Value<'_>) -> Option<Self> {
                from_json(value)
            }
        }
    )+};
}

json!(
    serde_json::Value,
    approval::Shown,
    session::Summary,
    workspace::Backend,
    freehold_model::event::Context,
    freehold_model::event::Payload,
    Vec<PackId>,
);

/// The same where most are empty.
macro_rules! json_or_empty {
    ($($type:ty: $empty:literal),+ $(,)?) => {$(
        impl Column for $type {
            fn write(&self) -> Value<'_> {
                if self.is_empty() { Value::Text(Cow::Borrowed($empty)) } else { to_json(self) }
            }

            fn read(value: Value<'_>) -> Option<Self> {
                match value {
                    Value::Text(text) if text == $empty => Some(Self::default()),
                    value => from_json(value),
                }
            }
        }
    )+};
}

json_or_empty!(
    Vec<String>: "[]",
    BTreeMap<String, String>: "{}",
    BTreeMap<String, serde_json::Value>: "{}",
);

impl Column for task::Overrides {
    fn write(&self) -> Value<'_> {
        to_json(&Overrides {
            thinking_effort: self.thinking_effort,
            max_continuations: self.max_continuations,
            max_context_tokens: self.max_context_tokens,
        })
    }

    fn read(value: Value<'_>) -> Option<Self> {
        let Overrides { thinking_effort, max_continuations, max_context_tokens } = from_json(value)?;
        Some(Self { thinking_effort, max_continuations, max_context_tokens })
    }
}

/// The stored form of [`task::Overrides`].
#[derive(Serialize, Deserialize)]
struct Overrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thinking_effort: Option<role::ThinkingEffort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_continuations: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_context_tokens: Option<u64>,
}

/// A text as a column holds it.
pub(crate) fn text(text: &str) -> Value<'_> {
    Value::Text(match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    })
}

/// A text made for the column.
pub(crate) fn text_owned(owned: String) -> Value<'static> {
    text(&owned).into_owned()
}

/// JSON as a column holds it. What cannot be JSON, which none of our types can be, is written as no value at all and
/// refused by the column's `NOT NULL`.
pub(crate) fn to_json(value: &impl Serialize) -> Value<'static> {
    serde_json::to_string(value).map_or(Value::Null, |text| Value::Text(Cow::Owned(text)))
}

pub(crate) fn from_json<T: for<'de> Deserialize<'de>>(value: Value<'_>) -> Option<T> {
    match value {
        Value::Text(text) => serde_json::from_str(&text).ok(),
        Value::Null | Value::Int(_) | Value::Bytes(_) => None,
    }
}
