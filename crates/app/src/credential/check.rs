//! What a new credential needs and may have, by its kind.

use freehold_model::{
    credential::Kind,
    issuer::{self, ClientAuth, Endpoint, Issuer},
};
use freehold_policy::nearest;
use url::Url;

use super::CredentialNew;
use crate::{
    Error,
    error::Fields,
    ports::{Issuers, PackedSecret},
};

/// The longest scope, in characters.
const SCOPE_CHARS_MAX: usize = 512;

/// Settings that the kind needs, and those that it takes besides.
const fn settings(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Oauth2AuthorizationCode => (
            &["client_id"],
            &["tenant_id", "authorization_url", "token_url", "revocation_url", "client_auth", "audience"],
        ),
        Kind::Oauth2ClientCredentials => {
            (&["client_id"], &["tenant_id", "token_url", "client_auth", "audience"])
        }
        Kind::Oauth2JwtBearer => (&[], &["token_url", "audience", "issuer"]),
        Kind::Oauth2JwtBearerWithSubject => (&["subject"], &["token_url", "audience", "issuer"]),
        Kind::Oauth2ClientAssertion => (
            &["client_id"],
            &["tenant_id", "token_url", "audience", "key_id", "certificate_thumbprint", "algorithm"],
        ),
        Kind::ApiKey => (&[], &["header", "scheme"]),
        Kind::BasicAuth => (&["username"], &[]),
        Kind::QueryApiKey => (&[], &["parameter"]),
        Kind::AwsSigv4 => (&["access_key_id"], &["region", "service"]),
    }
}

/// Checks the fields, and puts the secret together.
pub(super) fn fields(new: &mut CredentialNew, issuers: &dyn Issuers) -> Result<PackedSecret, Error> {
    let mut fields = Fields::default();
    let (needed, optional) = settings(new.kind);
    for name in needed.iter().filter(|name| !new.provider_config.contains_key(**name)) {
        fields.add(&format!("provider_config.{name}"), "is required for this kind");
    }
    for (name, value) in &new.provider_config {
        let known = needed.contains(&name.as_str()) || optional.contains(&name.as_str());
        let wrong = if known {
            setting(name, value).map(str::to_owned)
        } else {
            let all = [needed, optional].concat().join("`, `");
            Some(format!("not a setting of this kind, which has `{all}`"))
        };
        if let Some(reason) = wrong {
            fields.add(&format!("provider_config.{name}"), reason);
        }
    }
    if new.provider_config.contains_key("scheme") && !new.provider_config.contains_key("header") {
        fields.add("provider_config.scheme", "needs `header`");
    }
    fields.refuse(
        !new.scopes.is_empty() && !new.kind.is_minted(),
        "scopes",
        "credentials of this kind have no scopes",
    );
    let plain = |scope: &String| {
        (1..=SCOPE_CHARS_MAX).contains(&scope.len())
            && scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b','))
    };
    fields.refuse(
        !new.scopes.iter().all(plain),
        "scopes",
        "a scope has visible characters, but no `\"`, `\\` or `,`",
    );
    let is_consented = new.kind == Kind::Oauth2AuthorizationCode;
    fields.refuse(new.personal && !is_consented, "personal", "is for `oauth2_authorization_code` only");
    fields.refuse(
        new.allow_user_override && (!is_consented || new.personal),
        "allow_user_override",
        "is for the organization's `oauth2_authorization_code` only",
    );
    let packed = issuers.pack(new.kind, std::mem::take(&mut new.secrets));
    let packed =
        packed.map_err(|refused| refused.iter().for_each(|(name, reason)| fields.add(name, reason.clone())));
    let mut packed = packed.ok();
    endpoints(new, packed.as_mut(), &mut fields);
    fields.check()?;
    packed.ok_or_else(|| Error::field("kind", "cannot be used"))
}

/// That it is known where the issuer is asked. A key file's word counts where nothing else is known.
fn endpoints(new: &CredentialNew, packed: Option<&mut PackedSecret>, fields: &mut Fields) {
    let mut needed: Vec<Endpoint> = Vec::new();
    if new.kind.is_minted() {
        needed.push(Endpoint::Token);
    }
    if new.kind == Kind::Oauth2AuthorizationCode {
        needed.push(Endpoint::Authorization);
    }
    let mut told = packed.and_then(|packed| {
        let known = issuer::endpoint(&new.provider, &new.provider_config, Endpoint::Token).is_ok();
        if known {
            packed.token_url = None;
        }
        packed.token_url.clone()
    });
    for endpoint in needed {
        if endpoint == Endpoint::Token
            && let Some(url) = told.take()
        {
            fields.refuse(
                !is_https(&url),
                "service_account_json",
                "has a `token_uri` that is no https address",
            );
            continue;
        }
        if let Err(error) = issuer::endpoint(&new.provider, &new.provider_config, endpoint) {
            let name = match &error {
                issuer::EndpointError::Unknown(_) => endpoint.as_str(),
                issuer::EndpointError::Setting(setting) => setting,
            };
            let meant = match &error {
                issuer::EndpointError::Unknown(given) => nearest(given, names()),
                issuer::EndpointError::Setting(_) => None,
            };
            let hint = meant.map(|name| format!("; did you mean the provider `{name}`?"));
            fields.add(&format!("provider_config.{name}"), format!("{error}{}", hint.unwrap_or_default()));
        }
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    Issuer::all().iter().map(|issuer| issuer.name.as_str())
}

/// What is wrong with the value of a known setting.
fn setting(name: &str, value: &str) -> Option<&'static str> {
    if value.is_empty() || value.chars().any(char::is_control) {
        return Some("cannot be empty or hold control characters");
    }
    let token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let (good, reason) = match name {
        "authorization_url" | "token_url" | "revocation_url" => {
            (is_https(value), "must be an https address without user, password or fragment")
        }
        "client_auth" => (value.parse::<ClientAuth>().is_ok(), "must be `basic` or `body`"),
        "username" => (!value.contains(':'), "cannot hold a colon"),
        "parameter" => (value.bytes().all(token), "must be letters, digits, `-`, `_` and `.`"),
        "header" => (
            value.bytes().all(token) && !is_framing(value),
            "must be the name of a header, and none that frames the request",
        ),
        "scheme" | "algorithm" | "region" | "service" | "access_key_id" => {
            (value.bytes().all(token), "must be letters, digits, `-`, `_` and `.`")
        }
        _ => (true, ""),
    };
    Some(reason).filter(|_| !good)
}

/// Whether a header of this name says where a request begins, ends or goes.
fn is_framing(name: &str) -> bool {
    const FRAMING: [&str; 8] =
        ["connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];
    FRAMING.iter().any(|framing| framing.eq_ignore_ascii_case(name))
}

fn is_https(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        url.scheme() == "https"
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    })
}
