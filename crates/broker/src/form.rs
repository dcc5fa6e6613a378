//! The form in which a credential is sent: header, query parameter or signature.

use base64::{Engine, prelude::BASE64_STANDARD};
use freehold_model::credential::{Credential, Kind};
use zeroize::Zeroizing;

use crate::{
    durable::{Durable, Secret},
    sigv4::SigV4,
};

/// The longest secret that can be put on a request, in bytes.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;

/// What is put on a request. Has no `Debug`, so that it cannot be logged.
pub enum Injection {
    /// A request header.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its value. Secret.
        value: Secret,
    },
    /// A parameter of the query string.
    Query {
        /// Its name.
        name: String,
        /// Its value, not yet escaped. Secret.
        value: Secret,
    },
    /// A signature of the request as a whole.
    Signature(SigV4),
}

/// Why a stored secret cannot be injected. Carries no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Empty, too long, not text, or with characters that no header holds.
    #[error("the stored secret cannot be sent in a request")]
    Unsendable,
    /// `basic_auth` without `username` in its settings, or with a colon in it.
    #[error("the credential has no usable `username`")]
    Username,
    /// `query_api_key` whose `parameter` is not a plain name.
    #[error("the credential's `parameter` is not a plain name")]
    Parameter,
    /// The stored secret is none of this kind.
    #[error("the stored secret cannot be read")]
    Unreadable,
    /// An issuer has to be asked for what is injected.
    #[error("this kind is minted")]
    Minted,
}

/// The injection of a credential that is sent as it is stored, or signs.
///
/// - `api_key`: in the header of its provider, or that of `provider_config.header`;
/// - `basic_auth`: `authorization: Basic`, the user's name from `provider_config.username`, the secret as password;
/// - `query_api_key`: a query parameter, named by `provider_config.parameter`, else `key`;
/// - `aws_sigv4`: a signature.
///
/// # Errors
/// The caller denies the request then; see [`Error`].
pub fn injection(credential: &Credential, secret: &[u8]) -> Result<Injection, Error> {
    match credential.kind {
        Kind::ApiKey => {
            let (name, scheme) = credential.issuer().key_form(&credential.provider_config);
            Ok(header(name, &scheme, sendable(secret)?))
        }
        Kind::BasicAuth => basic(credential.provider_config.get("username"), sendable(secret)?),
        Kind::QueryApiKey => {
            let name = credential.provider_config.get("parameter").map_or("key", String::as_str);
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if name.is_empty() || !name.bytes().all(plain) {
                return Err(Error::Parameter);
            }
            Ok(Injection::Query {
                name: name.to_owned(),
                value: Zeroizing::new(sendable(secret)?.to_owned()),
            })
        }
        Kind::AwsSigv4 => {
            let durable = Durable::read(secret).map_err(|_| Error::Unreadable)?;
            SigV4::new(credential, durable).map(Injection::Signature).map_err(|_| Error::Unreadable)
        }
        Kind::Oauth2AuthorizationCode
        | Kind::Oauth2ClientCredentials
        | Kind::Oauth2JwtBearer
        | Kind::Oauth2JwtBearerWithSubject
        | Kind::Oauth2ClientAssertion => Err(Error::Minted),
    }
}

/// The injection of an access token.
pub(crate) fn bearer(token: &str) -> Injection {
    header("authorization".to_owned(), "Bearer", token)
}

fn header(name: String, scheme: &str, secret: &str) -> Injection {
    let value = if scheme.is_empty() { secret.to_owned() } else { format!("{scheme} {secret}") };
    Injection::Header { name, value: Zeroizing::new(value) }
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

fn basic(username: Option<&String>, secret: &str) -> Result<Injection, Error> {
    let username = username.filter(|name| !name.is_empty() && !name.contains(':')).ok_or(Error::Username)?;
    let pair = Zeroizing::new(format!("{username}:{secret}"));
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
    Ok(header("authorization".to_owned(), "Basic", &encoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_testkit::model::credential;

    fn made(credential: &Credential) -> Result<(String, String), Error> {
        injection(credential, b"s3cret\n").map(|injection| match injection {
            Injection::Header { name, value } => (name, value.to_string()),
            Injection::Query { name, value } => (format!("?{name}"), value.to_string()),
            Injection::Signature(_) => panic!("a signature"),
        })
    }

    fn pair(name: &str, value: &str) -> Result<(String, String), Error> {
        Ok((name.to_owned(), value.to_owned()))
    }

    #[test]
    fn a_key_takes_the_form_of_its_provider_or_of_its_settings() {
        for (provider, config, header, value) in [
            ("anthropic", &[][..], "x-api-key", "s3cret"),
            ("gemini", &[], "x-goog-api-key", "s3cret"),
            ("azure-openai", &[], "api-key", "s3cret"),
            ("openai", &[], "authorization", "Bearer s3cret"),
            ("github", &[], "authorization", "Bearer s3cret"),
            ("acme", &[("header", "authorization"), ("scheme", "Token")], "authorization", "Token s3cret"),
        ] {
            assert_eq!(made(&credential(Kind::ApiKey, provider, config)), pair(header, value), "{provider}");
        }
    }

    #[test]
    fn basic_takes_the_user_from_the_settings_and_the_secret_as_password() {
        let good = made(&credential(Kind::BasicAuth, "jira", &[("username", "bot")]));
        assert_eq!(good, pair("authorization", "Basic Ym90OnMzY3JldA=="));
        for config in [&[][..], &[("username", "")], &[("username", "a:b")]] {
            assert_eq!(made(&credential(Kind::BasicAuth, "jira", config)), Err(Error::Username));
        }
    }

    #[test]
    fn a_query_key_is_named_by_the_settings_else_key() {
        assert_eq!(made(&credential(Kind::QueryApiKey, "maps", &[])), pair("?key", "s3cret"));
        let named = made(&credential(Kind::QueryApiKey, "maps", &[("parameter", "api_key")]));
        assert_eq!(named, pair("?api_key", "s3cret"));
        let bad = made(&credential(Kind::QueryApiKey, "maps", &[("parameter", "a&b")]));
        assert_eq!(bad, Err(Error::Parameter));
    }

    #[test]
    fn what_cannot_be_sent_or_used_is_refused() {
        let key = credential(Kind::ApiKey, "openai", &[]);
        for secret in [&b""[..], b" \n", b"a\nb", b"\xff", &vec![b'a'; SECRET_BYTES_MAX + 1]] {
            assert_eq!(injection(&key, secret).err(), Some(Error::Unsendable));
        }
        let aws = credential(Kind::AwsSigv4, "aws", &[("access_key_id", "AKIA")]);
        assert_eq!(injection(&aws, b"not a document").err(), Some(Error::Unreadable));
        let minted = credential(Kind::Oauth2ClientCredentials, "x", &[]);
        assert_eq!(injection(&minted, b"{}").err(), Some(Error::Minted));
    }
}
