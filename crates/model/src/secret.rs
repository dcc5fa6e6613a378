//! Secrets: opaque values with a name, which transforms of policies put on requests. And whose each sealed value is.

use std::{fmt, str::FromStr};

use crate::{CredentialId, MemberId, OrganizationId, SecretId, Timestamp};

/// The longest name, in characters.
pub const NAME_MAX: usize = 64;

/// The longest value, in bytes: far above any key, far below what would strain a row.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// The pattern of a name, as a regular expression for schemas and documents: that of identifiers in policies.
pub const NAME_PATTERN: &str = "^[A-Za-z][A-Za-z0-9_-]{0,63}$";

/// Whether `text` is the name of a secret: a letter, then letters, digits, `_` and `-`, [`NAME_MAX`] at most.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_MAX
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// The name of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretName(String);

/// Why a text is not the name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name is a letter, then letters, digits, `_` and `-`, {NAME_MAX} characters at most")]
pub struct MalformedName;

impl FromStr for SecretName {
    type Err = MalformedName;
    fn from_str(text: &str) -> Result<Self, MalformedName> {
        if is_name(text) { Ok(Self(text.to_owned())) } else { Err(MalformedName) }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// What its value is sealed for.
    pub id: SecretId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// Its name, unique in the organization.
    pub name: String,
    /// Who created it; none when no person did.
    pub created_by: Option<MemberId>,
    /// Who last gave it a value; none when no person did.
    pub updated_by: Option<MemberId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last got a value.
    pub updated_at: Timestamp,
}

/// Whose a sealed value is: it opens for nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Holder {
    /// A credential.
    Credential(CredentialId),
    /// A secret.
    Secret(SecretId),
}

impl Holder {
    /// What kind of thing it is: in the context that a value is sealed with, and in the path of a store of secrets.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Credential(_) => "credential",
            Self::Secret(_) => "secret",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credential(id) => id.fmt(f),
            Self::Secret(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_identifiers_of_policies() {
        for good in ["a", "Stripe_Key-2", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "1a", "_a", "-a", "a b", "a.b", "é", "a\"", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
