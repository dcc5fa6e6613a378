//! Issuers of credentials that are known by name: where they are asked, and in which form they take what they are sent.
//!
//! The data is `issuers.json`, described in `docs/credentials.md`. What a credential's settings say goes before it, and an
//! issuer that is not in it works by settings alone.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use crate::{credential::Credential, slugs};

slugs! {
    /// How a client proves itself at a token endpoint.
    ClientAuth {
        /// Id and secret in the request's body.
        Body => "body",
        /// Id and secret by HTTP Basic.
        Basic => "basic",
    }
}

slugs! {
    /// How a token request is written.
    TokenRequest {
        /// As a form, which is the standard.
        Form => "form",
        /// As JSON.
        Json => "json",
    }
}

slugs! {
    /// Where an issuer is asked. The slug is the setting that says so.
    Endpoint {
        /// A person consents.
        Authorization => "authorization_url",
        /// Tokens are given.
        Token => "token_url",
        /// Tokens are taken back.
        Revocation => "revocation_url",
    }
}

/// What is known of an issuer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The name, which is a credential's `provider`.
    pub name: String,
    /// Where a person consents; `{setting}` stands for a setting of the credential.
    authorization_url: Option<String>,
    /// Where tokens are given.
    token_url: Option<String>,
    /// Where tokens are taken back.
    revocation_url: Option<String>,
    /// How clients prove themselves.
    #[serde(default = "body")]
    pub client_auth: ClientAuth,
    /// How token requests are written.
    #[serde(default = "form")]
    pub token_request: TokenRequest,
    /// Between scopes.
    #[serde(default = "space")]
    pub scope_separator: String,
    /// The scope without which there is no refresh token.
    pub offline_scope: Option<String>,
    /// What else is sent with a person who is to consent.
    #[serde(default)]
    pub authorization_parameters: BTreeMap<String, String>,
    /// Whom assertions are for, where it is not the token endpoint.
    pub assertion_audience: Option<String>,
    /// The algorithm that client assertions are signed by with an RSA key; `RS256` if it does not say.
    pub assertion_algorithm: Option<String>,
    /// The header that keys are sent in, in lower case; `authorization` if it does not say.
    key_header: Option<String>,
    /// What stands before a key in `authorization`; `Bearer` if it does not say, nothing if it is empty.
    key_scheme: Option<String>,
}

const fn body() -> ClientAuth {
    ClientAuth::Body
}

const fn form() -> TokenRequest {
    TokenRequest::Form
}

fn space() -> String {
    " ".to_owned()
}

/// Why there is no address to ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nobody knows it.
    #[error("is required: {0} is not known by name")]
    Unknown(String),
    /// The address has a place for a setting that the credential has not.
    #[error("needs the setting `{0}`, of letters, digits, `-` and `.`")]
    Setting(String),
}

static ISSUERS: LazyLock<Vec<Issuer>> = LazyLock::new(|| {
    // That it can be read is tested; without it every issuer works by settings.
    serde_json::from_str(include_str!("issuers.json")).unwrap_or_default()
});

/// What is taken for an issuer of another name.
static UNKNOWN: LazyLock<Issuer> = LazyLock::new(|| Issuer {
    name: String::new(),
    authorization_url: None,
    token_url: None,
    revocation_url: None,
    client_auth: body(),
    token_request: form(),
    scope_separator: space(),
    offline_scope: None,
    authorization_parameters: BTreeMap::new(),
    assertion_audience: None,
    assertion_algorithm: None,
    key_header: None,
    key_scheme: None,
});

impl Issuer {
    /// The issuer of this name; one that is as the standards say where it is not known.
    pub fn named(name: &str) -> &'static Self {
        ISSUERS.iter().find(|issuer| issuer.name == name).unwrap_or_else(|| &UNKNOWN)
    }

    /// The issuers that are known by name.
    pub fn all() -> &'static [Self] {
        &ISSUERS
    }

    /// The header that a key is sent in, and what stands before it, by the credential's settings.
    pub fn key_form(&self, config: &BTreeMap<String, String>) -> (String, String) {
        if let Some(header) = config.get("header") {
            return (header.to_ascii_lowercase(), config.get("scheme").cloned().unwrap_or_default());
        }
        let header = self.key_header.clone().unwrap_or_else(|| "authorization".to_owned());
        let scheme = match &self.key_scheme {
            Some(scheme) => scheme.clone(),
            None if header == "authorization" => "Bearer".to_owned(),
            None => String::new(),
        };
        (header, scheme)
    }

    fn url(&self, endpoint: Endpoint) -> Option<&str> {
        match endpoint {
            Endpoint::Authorization => self.authorization_url.as_deref(),
            Endpoint::Token => self.token_url.as_deref(),
            Endpoint::Revocation => self.revocation_url.as_deref(),
        }
    }
}

/// Where a credential's issuer is asked: as its settings say, else as its name tells.
///
/// # Errors
/// When neither does.
pub fn endpoint(
    provider: &str,
    config: &BTreeMap<String, String>,
    endpoint: Endpoint,
) -> Result<String, EndpointError> {
    if let Some(url) = config.get(endpoint.as_str()) {
        return Ok(url.clone());
    }
    let known = Issuer::named(provider).url(endpoint);
    let mut url = known.ok_or_else(|| EndpointError::Unknown(provider.to_owned()))?.to_owned();
    while let Some((before, rest)) = url.split_once('{') {
        let Some((setting, after)) = rest.split_once('}') else { break };
        let plain = |text: &&String| {
            !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        let value = config.get(setting).filter(plain);
        let value = value.ok_or_else(|| EndpointError::Setting(setting.to_owned()))?;
        url = format!("{before}{value}{after}");
    }
    Ok(url)
}

impl Credential {
    /// What is known of its issuer.
    pub fn issuer(&self) -> &'static Issuer {
        Issuer::named(&self.provider)
    }

    /// Where its issuer is asked; see [`endpoint`].
    pub fn endpoint(&self, of: Endpoint) -> Result<String, EndpointError> {
        endpoint(&self.provider, &self.provider_config, of)
    }

    /// How it proves itself at the token endpoint.
    pub fn client_auth(&self) -> ClientAuth {
        let set = self.provider_config.get("client_auth").and_then(|auth| auth.parse().ok());
        set.unwrap_or(self.issuer().client_auth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_data_can_be_read_is_in_order_and_leads_to_https_only() {
        let issuers: Vec<Issuer> = serde_json::from_str(include_str!("issuers.json")).unwrap();
        assert_eq!(issuers.len(), Issuer::all().len());
        assert!(issuers.is_sorted_by(|a, b| a.name < b.name));
        for known in ["google", "microsoft", "github", "slack", "anthropic", "openai"] {
            assert!(issuers.iter().any(|issuer| issuer.name == known), "{known}");
        }
        for issuer in &issuers {
            for of in Endpoint::ALL {
                assert!(issuer.url(*of).is_none_or(|url| url.starts_with("https://")), "{}", issuer.name);
            }
        }
    }

    #[test]
    fn settings_go_before_what_is_known_and_fill_what_is_left_open() {
        let token = |provider, pairs: &[_]| endpoint(provider, &config(pairs), Endpoint::Token);
        assert_eq!(token("google", &[]).unwrap(), "https://oauth2.googleapis.com/token");
        assert_eq!(token("google", &[("token_url", "https://t.test/")]).unwrap(), "https://t.test/");
        assert_eq!(token("acme", &[]), Err(EndpointError::Unknown("acme".to_owned())));
        let microsoft = token("microsoft", &[("tenant_id", "contoso.example")]).unwrap();
        assert_eq!(microsoft, "https://login.microsoftonline.com/contoso.example/oauth2/v2.0/token");
        for tenant in [&[][..], &[("tenant_id", "a/../b")], &[("tenant_id", "{tenant_id}")]] {
            assert_eq!(token("microsoft", tenant), Err(EndpointError::Setting("tenant_id".to_owned())));
        }
    }

    #[test]
    fn keys_have_the_form_of_their_issuer_unless_settings_say_another() {
        for (provider, pairs, header, scheme) in [
            ("anthropic", &[][..], "x-api-key", ""),
            ("github", &[], "authorization", "Bearer"),
            ("linear", &[], "authorization", ""),
            ("discord", &[], "authorization", "Bot"),
            ("acme", &[("header", "X-Acme-Key")], "x-acme-key", ""),
            ("acme", &[("header", "authorization"), ("scheme", "Token")], "authorization", "Token"),
        ] {
            let expected = (header.to_owned(), scheme.to_owned());
            assert_eq!(Issuer::named(provider).key_form(&config(pairs)), expected, "{provider}");
        }
    }
}
