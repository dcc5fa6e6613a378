//! What is kept sealed for a credential: its key or password as it is, or, where there is more than one text, a document.

use std::collections::BTreeMap;

use freehold_model::{Timestamp, credential::Kind};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::assertion::Key;

/// A text that is wiped when it is dropped.
pub type Secret = Zeroizing<String>;

/// The secrets of a credential that has, or comes to have, more than one text.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Durable {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Secret>,
    /// A private key in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Secret>,
    /// The issuer's name for that key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Whose the key is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// The last access token, where a person consented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_access_key: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_token: Option<Secret>,
}

/// The stored secret is none of its credential's kind. Says nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Durable {
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        serde_json::from_slice(bytes).map_err(|_| Unreadable)
    }

    pub fn write(&self) -> Zeroizing<Vec<u8>> {
        let texts = [
            &self.client_secret,
            &self.private_key,
            &self.refresh_token,
            &self.access_token,
            &self.secret_access_key,
            &self.session_token,
        ];
        // Room for every character escaped, so that the bytes are not moved, which would leave copies.
        let length: usize = texts.iter().filter_map(|text| text.as_ref()).map(|text| text.len() * 6).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length + 2048));
        // What is written is text and times, which cannot fail.
        let written = serde_json::to_writer(&mut *bytes, self);
        debug_assert!(written.is_ok());
        bytes
    }
}

/// The secrets that a caller gave for a new credential, by the names of their fields.
#[derive(Clone, Default)]
pub struct Given {
    /// `api_key`.
    pub api_key: Option<Secret>,
    /// `password`.
    pub password: Option<Secret>,
    /// `client_secret`.
    pub client_secret: Option<Secret>,
    /// `private_key`: PEM.
    pub private_key: Option<Secret>,
    /// `service_account_json`.
    pub service_account_json: Option<Secret>,
    /// `secret_access_key`.
    pub secret_access_key: Option<Secret>,
    /// `session_token`.
    pub session_token: Option<Secret>,
}

impl Given {
    fn take(&mut self) -> [(&'static str, Option<Secret>); 7] {
        [
            ("api_key", self.api_key.take()),
            ("password", self.password.take()),
            ("client_secret", self.client_secret.take()),
            ("private_key", self.private_key.take()),
            ("service_account_json", self.service_account_json.take()),
            ("secret_access_key", self.secret_access_key.take()),
            ("session_token", self.session_token.take()),
        ]
    }
}

/// What is to be sealed for a new credential.
pub struct Packed {
    /// The bytes.
    pub secret: Zeroizing<Vec<u8>>,
    /// Where its service account says that tokens are given.
    pub token_url: Option<String>,
}

/// The key file of a service account, as far as it is used.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: Secret,
    private_key_id: Option<String>,
    token_uri: Option<String>,
}

/// Fields that the kind needs, and those that it takes besides.
const fn fields(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        // A public client has none, and is held by PKCE alone.
        Kind::Oauth2AuthorizationCode => (&[], &["client_secret"]),
        Kind::Oauth2ClientCredentials => (&["client_secret"], &[]),
        Kind::Oauth2JwtBearer | Kind::Oauth2JwtBearerWithSubject => (&["service_account_json"], &[]),
        Kind::Oauth2ClientAssertion => (&["private_key"], &[]),
        Kind::ApiKey | Kind::QueryApiKey => (&["api_key"], &[]),
        Kind::BasicAuth => (&["password"], &[]),
        Kind::AwsSigv4 => (&["secret_access_key"], &["session_token"]),
    }
}

/// Puts together what is to be sealed for a new credential of this kind.
///
/// # Errors
/// Fields that are missing, not of this kind or not usable, each with the reason.
pub fn pack(kind: Kind, mut given: Given) -> Result<Packed, BTreeMap<String, String>> {
    let (needed, optional) = fields(kind);
    let mut bad = BTreeMap::new();
    let mut found: BTreeMap<&str, Secret> = BTreeMap::new();
    for (field, value) in given.take() {
        let known = needed.contains(&field) || optional.contains(&field);
        match value {
            None if needed.contains(&field) => {
                drop(bad.insert(field.to_owned(), "is required for this kind".to_owned()))
            }
            None => {}
            Some(_) if !known => drop(bad.insert(field.to_owned(), "is not a field of this kind".to_owned())),
            Some(text) => {
                let is_file = matches!(field, "private_key" | "service_account_json");
                let trimmed = text.trim();
                let control = |c: char| c.is_control() && !(is_file && matches!(c, '\n' | '\r' | '\t'));
                let lines = trimmed.lines().count();
                if lines > 1 && !is_file {
                    bad.insert(field.to_owned(), format!("must be a single line, and this has {lines}"));
                } else if trimmed.is_empty() || trimmed.contains(control) {
                    bad.insert(field.to_owned(), "cannot be empty or hold control characters".to_owned());
                }
                found.insert(field, Zeroizing::new(trimmed.to_owned()));
            }
        }
    }
    if !bad.is_empty() {
        return Err(bad);
    }
    let mut token_url = None;
    let mut take = |field: &str| found.remove(field);
    let durable = match kind {
        Kind::ApiKey | Kind::QueryApiKey | Kind::BasicAuth => {
            let text = take(needed[0]).unwrap_or_default();
            return Ok(Packed { secret: Zeroizing::new(text.as_bytes().to_vec()), token_url });
        }
        Kind::Oauth2AuthorizationCode | Kind::Oauth2ClientCredentials => {
            Durable { client_secret: take("client_secret"), ..Durable::default() }
        }
        Kind::AwsSigv4 => Durable {
            secret_access_key: take("secret_access_key"),
            session_token: take("session_token"),
            ..Durable::default()
        },
        Kind::Oauth2ClientAssertion => {
            let key = take("private_key").unwrap_or_default();
            usable(&key, "private_key")?;
            Durable { private_key: Some(key), ..Durable::default() }
        }
        Kind::Oauth2JwtBearer | Kind::Oauth2JwtBearerWithSubject => {
            const FIELD: &str = "service_account_json";
            let text = take(FIELD).unwrap_or_default();
            let account: ServiceAccount = serde_json::from_str(&text)
                .map_err(|_| one(FIELD, "must be a JSON object with `client_email` and `private_key`"))?;
            usable(&account.private_key, FIELD)?;
            token_url = account.token_uri;
            Durable {
                private_key: Some(account.private_key),
                key_id: account.private_key_id,
                client_email: Some(account.client_email),
                ..Durable::default()
            }
        }
    };
    Ok(Packed { secret: durable.write(), token_url })
}

/// The secrets of a client alone, for a member's own credential under the organization's client.
///
/// # Errors
/// When the stored secret cannot be read.
pub fn client_of(secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, crate::Error> {
    let Durable { client_secret, .. } = Durable::read(secret).map_err(|_| crate::Error::Unreadable)?;
    Ok(Durable { client_secret, ..Durable::default() }.write())
}

fn usable(key: &str, field: &str) -> Result<(), BTreeMap<String, String>> {
    match Key::read(key) {
        Some(_) => Ok(()),
        None => Err(one(
            field,
            "has no private key that can sign: RSA of 2048 bits or more, P-256, P-384 or Ed25519, in PEM",
        )),
    }
}

fn one(field: &str, reason: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(field.to_owned(), reason.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_lines_is_refused_in_words_and_the_line_end_after_one_is_not_part_of_it() {
        let secret = |text: &str| Some(Zeroizing::new(text.to_owned()));
        let key = |text: &str| pack(Kind::ApiKey, Given { api_key: secret(text), ..Given::default() });
        for (text, says) in [
            ("key-1\nkey-2\n", "must be a single line, and this has 2"),
            ("key-1\r\n\r\nkey-2", "must be a single line, and this has 3"),
            ("\n", "cannot be empty or hold control characters"),
            ("a\u{7}b", "cannot be empty or hold control characters"),
        ] {
            assert_eq!(key(text).err().unwrap()["api_key"], says);
        }
        assert_eq!(key("key-1\r\n").unwrap().secret.as_slice(), b"key-1");
    }
}
