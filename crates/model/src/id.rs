//! Typed identifiers: `<prefix>_<32 lowercase hex digits of a UUIDv7>`, in rows, URLs and on the wire alike.

use std::{fmt, str::FromStr};

use uuid::{Uuid, fmt::Simple};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `{prefix}_` and 32 lowercase hex digits")]
pub struct MalformedId {
    /// The prefix that was expected.
    pub prefix: &'static str,
}

fn parse(prefix: &'static str, text: &str) -> Result<Uuid, MalformedId> {
    let malformed = MalformedId { prefix };
    let hex = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_'));
    match hex {
        Some(hex) if hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Uuid::try_parse(hex).map_err(|_| malformed)
        }
        _ => Err(malformed),
    }
}

/// Writes an id to where there is just room for it.
fn write<'a>(start: &str, uuid: Uuid, text: &'a mut [u8]) -> &'a str {
    let (before, digits) = text.split_at_mut(start.len());
    before.copy_from_slice(start.as_bytes());
    uuid.simple().encode_lower(digits);
    std::str::from_utf8(text).unwrap_or_default()
}

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident => $prefix:literal;)+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// What stands before the underscore.
            pub const PREFIX: &'static str = $prefix;
            /// Takes a UUID, version 7 for every new thing, made by the caller.
            pub const fn from_uuid(uuid: Uuid) -> Self { Self(uuid) }
            /// The UUID behind the id.
            pub const fn uuid(self) -> Uuid { self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                const START: usize = $prefix.len() + 1;
                let mut text = [0; START + Simple::LENGTH];
                f.write_str(write(concat!($prefix, "_"), self.0, &mut text))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl FromStr for $name {
            type Err = MalformedId;
            fn from_str(text: &str) -> Result<Self, MalformedId> { parse($prefix, text).map(Self) }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                const START: usize = $prefix.len() + 1;
                let mut text = [0; START + Simple::LENGTH];
                serializer.serialize_str(write(concat!($prefix, "_"), self.0, &mut text))
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// A tenant.
    OrganizationId => "org";
    /// A person in an organization.
    MemberId => "user";
    /// An API key of an organization.
    ApiKeyId => "api_key";
    /// A member's personal token.
    TokenId => "token";
    /// A model backend.
    ProviderId => "provider";
    /// An agent role; the same thing is the *agent* of the sessions API.
    RoleId => "agent";
    /// One model of one provider.
    ModelId => "model";
    /// A content pack.
    PackId => "pack";
    /// A credential that egress injects.
    CredentialId => "cred";
    /// A secret that transforms of policies put on requests. It is known by its name; the id is what its value is sealed for.
    SecretId => "secret";
    /// A workspace.
    WorkspaceId => "ws";
    /// The running sandbox of a workspace.
    PodId => "pod";
    /// A piece of work submitted to a workspace.
    TaskId => "task";
    /// A conversation.
    SessionId => "session";
    /// One turn of a conversation; carries the same UUID as its task.
    TurnId => "turn";
    /// A message of a conversation.
    MessageId => "message";
    /// An immutable row: of a session, or of the audit log.
    EventId => "event";
    /// A file that came with a task.
    UploadId => "upload";
}

impl From<TaskId> for TurnId {
    fn from(task: TaskId) -> Self {
        Self(task.0)
    }
}

impl From<TurnId> for TaskId {
    fn from(turn: TurnId) -> Self {
        Self(turn.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        let id = WorkspaceId::from_uuid(Uuid::from_u128(0x0193_3b5a_0000_7000_8000_0000_0000_0001));
        assert_eq!(id.to_string(), "ws_01933b5a000070008000000000000001");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"ws_01933b5a000070008000000000000001\"");
    }

    #[test]
    fn what_is_not_exactly_an_id_is_refused() {
        for text in [
            "",
            "ws_",
            "ws_01HZ",
            "task_01933b5a000070008000000000000001",
            "ws_01933B5A000070008000000000000001",
            "ws_01933b5a-0000-7000-8000-000000000001",
            "ws_01933b5a0000700080000000000000012",
            " ws_01933b5a000070008000000000000001",
        ] {
            assert_eq!(text.parse::<WorkspaceId>(), Err(MalformedId { prefix: "ws" }), "{text}");
        }
    }
}
