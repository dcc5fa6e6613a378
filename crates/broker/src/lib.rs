//! Turns a stored credential and its secret into what egress puts on a request.
//!
//! Invariant: a secret is held in memory that is wiped when dropped, and no `Debug`, error or log line carries it.

use base64::{Engine, prelude::BASE64_STANDARD};
use freehold_model::credential::{Credential, Kind, Status};
use zeroize::Zeroizing;

/// The longest secret that can be put on a request, in bytes.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;

/// Where the value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// A request header of this name, in lower case.
    Header(&'static str),
    /// A parameter of the query string.
    Query(String),
}

/// A value and its place on the request. Has no `Debug`, so that it cannot be logged.
pub struct Injection {
    placement: Placement,
    value: Zeroizing<String>,
}

impl Injection {
    /// Where the value goes.
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The value as it is sent (for a query parameter: not yet escaped). Secret.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

/// Why a credential cannot be injected. Carries no part of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its status says that it cannot be used.
    #[error("the credential is {0}, not active")]
    NotActive(Status),
    /// Empty, too long, not text, or with characters that no header holds.
    #[error("the stored secret cannot be sent in a request")]
    Unsendable,
    /// `basic_auth` without `username` in its settings, or with a colon in it.
    #[error("the credential has no usable `username`")]
    Username,
    /// `query_api_key` whose `parameter` is not a plain name.
    #[error("the credential's `parameter` is not a plain name")]
    Parameter,
}

/// The injection of a credential with its secret, in the form its kind and provider have.
///
/// - `api_key`: `x-api-key` for `anthropic`, `x-goog-api-key` for `gemini` and `google`, `api-key` for `azure-openai`,
///   `authorization: Bearer` for any other;
/// - `basic_auth`: `authorization: Basic`, the user's name from `provider_config.username`, the secret as password;
/// - `query_api_key`: a query parameter, named by `provider_config.parameter`, else `key`.
///
/// # Errors
/// The caller denies the request then; see [`Error`].
pub fn injection(credential: &Credential, secret: &[u8]) -> Result<Injection, Error> {
    if credential.status != Status::Active {
        return Err(Error::NotActive(credential.status));
    }
    let secret = sendable(secret)?;
    Ok(match credential.kind {
        Kind::ApiKey => api_key(&credential.provider, secret),
        Kind::BasicAuth => basic(credential.provider_config.get("username"), secret)?,
        Kind::QueryApiKey => {
            let parameter = credential.provider_config.get("parameter").map_or("key", String::as_str);
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if parameter.is_empty() || !parameter.bytes().all(plain) {
                return Err(Error::Parameter);
            }
            let value = Zeroizing::new(secret.to_owned());
            Injection { placement: Placement::Query(parameter.to_owned()), value }
        }
    })
}

/// The secret as text. Files and editors leave a newline at the end, which belongs to nobody's key.
fn sendable(secret: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(secret).map_err(|_| Error::Unsendable)?.trim();
    let visible = !text.chars().any(char::is_control);
    if text.is_empty() || text.len() > SECRET_BYTES_MAX || !visible {
        Err(Error::Unsendable)
    } else {
        Ok(text)
    }
}

fn api_key(provider: &str, secret: &str) -> Injection {
    let (header, value) = match provider {
        "anthropic" => ("x-api-key", secret.to_owned()),
        "gemini" | "google" => ("x-goog-api-key", secret.to_owned()),
        "azure-openai" => ("api-key", secret.to_owned()),
        _ => ("authorization", format!("Bearer {secret}")),
    };
    Injection { placement: Placement::Header(header), value: Zeroizing::new(value) }
}

fn basic(username: Option<&String>, secret: &str) -> Result<Injection, Error> {
    let username = username.filter(|name| !name.is_empty() && !name.contains(':')).ok_or(Error::Username)?;
    let pair = Zeroizing::new(format!("{username}:{secret}"));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
    let value = Zeroizing::new(format!("Basic {}", encoded.as_str()));
    Ok(Injection { placement: Placement::Header("authorization"), value })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use freehold_model::{CredentialId, OrganizationId};
    use uuid::Uuid;

    use super::*;

    fn credential(kind: Kind, provider: &str, config: &[(&str, &str)]) -> Credential {
        let now = jiff::Timestamp::UNIX_EPOCH;
        Credential {
            id: CredentialId::from_uuid(Uuid::nil()),
            organization_id: OrganizationId::from_uuid(Uuid::nil()),
            member_id: None,
            name: "main".to_owned(),
            provider: provider.to_owned(),
            kind,
            scopes: Vec::new(),
            provider_config: config
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect::<BTreeMap<_, _>>(),
            last_minted_at: None,
            last_minted_status: None,
            status: Status::Active,
            created_at: now,
            updated_at: now,
        }
    }

    fn made(credential: &Credential) -> Result<(Placement, String), Error> {
        injection(credential, b"s3cret\n").map(|i| (i.placement().clone(), i.expose().to_owned()))
    }

    #[test]
    fn a_key_takes_the_form_of_its_provider() {
        for (provider, header, value) in [
            ("anthropic", "x-api-key", "s3cret"),
            ("gemini", "x-goog-api-key", "s3cret"),
            ("azure-openai", "api-key", "s3cret"),
            ("openai", "authorization", "Bearer s3cret"),
            ("github", "authorization", "Bearer s3cret"),
        ] {
            let expected = (Placement::Header(header), value.to_owned());
            assert_eq!(made(&credential(Kind::ApiKey, provider, &[])), Ok(expected));
        }
    }

    #[test]
    fn basic_takes_the_user_from_the_settings_and_the_secret_as_password() {
        let good = made(&credential(Kind::BasicAuth, "jira", &[("username", "bot")]));
        assert_eq!(good, Ok((Placement::Header("authorization"), "Basic Ym90OnMzY3JldA==".to_owned())));
        for config in [&[][..], &[("username", "")], &[("username", "a:b")]] {
            assert_eq!(made(&credential(Kind::BasicAuth, "jira", config)), Err(Error::Username));
        }
    }

    #[test]
    fn a_query_key_is_named_by_the_settings_else_key() {
        let by_default = made(&credential(Kind::QueryApiKey, "maps", &[]));
        assert_eq!(by_default, Ok((Placement::Query("key".to_owned()), "s3cret".to_owned())));
        let named = made(&credential(Kind::QueryApiKey, "maps", &[("parameter", "api_key")]));
        assert_eq!(named, Ok((Placement::Query("api_key".to_owned()), "s3cret".to_owned())));
        let bad = made(&credential(Kind::QueryApiKey, "maps", &[("parameter", "a&b")]));
        assert_eq!(bad, Err(Error::Parameter));
    }

    #[test]
    fn what_cannot_be_sent_or_used_is_refused() {
        let key = credential(Kind::ApiKey, "openai", &[]);
        for secret in [&b""[..], b" \n", b"a\nb", b"\xff", &vec![b'a'; SECRET_BYTES_MAX + 1]] {
            assert_eq!(injection(&key, secret).err(), Some(Error::Unsendable));
        }
        let revoked = Credential { status: Status::Revoked, ..key };
        assert_eq!(injection(&revoked, b"x").err(), Some(Error::NotActive(Status::Revoked)));
    }
}
