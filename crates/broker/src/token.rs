//! What is asked of a token endpoint, and what it answers (RFC 6749, 7521, 7523, 7009).

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use freehold_model::{
    Timestamp,
    credential::{Credential, Kind},
    issuer::{ClientAuth, Endpoint, TokenRequest},
};
use http::{Request, Response, header};
use serde::Deserialize;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    assertion::assertion,
    durable::{Durable, Secret},
    fault::{self, Fault},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const CLIENT_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The longest that an issuer's wish to be asked later is followed, in seconds.
pub(crate) const RETRY_AFTER_SECONDS_MAX: u64 = 300;

/// The parameters of a request, secret ones among them.
type Parameters = Vec<(&'static str, Secret)>;

/// Bytes that are wiped when the last reference is gone.
struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn text(text: &str) -> Secret {
    Zeroizing::new(text.to_owned())
}

/// The request for a token without anybody's consent, or with one that was given before.
pub(crate) fn mint(
    credential: &Credential,
    durable: &Durable,
    now: Timestamp,
) -> Result<Request<Bytes>, Fault> {
    let url = endpoint(credential, Endpoint::Token)?;
    let mut parameters = Parameters::new();
    match credential.kind {
        Kind::Oauth2AuthorizationCode => {
            let token = durable.refresh_token.clone().ok_or(Fault::Terminal("no_refresh_token"))?;
            parameters.extend([("grant_type", text("refresh_token")), ("refresh_token", token)]);
        }
        Kind::Oauth2ClientCredentials | Kind::Oauth2ClientAssertion => {
            parameters.push(("grant_type", text("client_credentials")));
            let scopes = credential.scopes.join(&credential.issuer().scope_separator);
            if !scopes.is_empty() {
                parameters.push(("scope", text(&scopes)));
            }
        }
        Kind::Oauth2JwtBearer | Kind::Oauth2JwtBearerWithSubject => {
            parameters.push(("grant_type", text(JWT_BEARER)));
            parameters.push(("assertion", assertion(credential, durable, &url, now)?));
        }
        Kind::ApiKey | Kind::BasicAuth | Kind::QueryApiKey | Kind::AwsSigv4 => {
            return Err(Fault::Wrong("not_minted"));
        }
    }
    if credential.kind == Kind::Oauth2ClientAssertion {
        parameters.push(("client_id", text(client_id(credential)?)));
        parameters.push(("client_assertion_type", text(CLIENT_ASSERTION)));
        parameters.push(("client_assertion", assertion(credential, durable, &url, now)?));
    }
    if credential.kind == Kind::Oauth2ClientCredentials
        && let Some(audience) = credential.provider_config.get("audience")
    {
        parameters.push(("audience", text(audience)));
    }
    request(credential, durable, &url, parameters)
}

/// The request that exchanges what a person's consent gave.
pub(crate) fn exchange(
    credential: &Credential,
    durable: &Durable,
    code: &str,
    verifier: &str,
    redirect_uri: &str,
) -> Result<Request<Bytes>, Fault> {
    let parameters = vec![
        ("grant_type", text("authorization_code")),
        ("code", text(code)),
        ("redirect_uri", text(redirect_uri)),
        ("code_verifier", text(verifier)),
    ];
    request(credential, durable, &endpoint(credential, Endpoint::Token)?, parameters)
}

/// The request that takes a token back; `None` where there is nothing to take back, or nobody to ask.
pub(crate) fn revoke(credential: &Credential, durable: &Durable) -> Option<Request<Bytes>> {
    let url = credential.endpoint(Endpoint::Revocation).ok()?;
    let (token, hint) = match (&durable.refresh_token, &durable.access_token) {
        (Some(token), _) => (token, "refresh_token"),
        (None, Some(token)) => (token, "access_token"),
        (None, None) => return None,
    };
    let parameters = vec![("token", token.clone()), ("token_type_hint", text(hint))];
    request(credential, durable, &url, parameters).ok()
}

fn endpoint(credential: &Credential, of: Endpoint) -> Result<String, Fault> {
    credential.endpoint(of).map_err(|_| Fault::Wrong("no_endpoint"))
}

fn client_id(credential: &Credential) -> Result<&str, Fault> {
    credential.provider_config.get("client_id").map(String::as_str).ok_or(Fault::Wrong("no_client_id"))
}

/// A request with these parameters, by a client that proves itself as its issuer wants it.
fn request(
    credential: &Credential,
    durable: &Durable,
    url: &str,
    mut parameters: Parameters,
) -> Result<Request<Bytes>, Fault> {
    let mut builder = Request::post(url).header(header::ACCEPT, "application/json");
    let by_client = matches!(credential.kind, Kind::Oauth2AuthorizationCode | Kind::Oauth2ClientCredentials);
    if by_client {
        let id = client_id(credential)?;
        match (&durable.client_secret, credential.client_auth()) {
            (Some(secret), ClientAuth::Basic) => {
                let escaped =
                    |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = Zeroizing::new(format!("{}:{}", escaped(id), escaped(secret)));
                let value = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
                builder = builder.header(header::AUTHORIZATION, value.as_str());
            }
            (Some(secret), ClientAuth::Body) => {
                parameters.extend([("client_id", text(id)), ("client_secret", secret.clone())]);
            }
            (None, _) => parameters.push(("client_id", text(id))),
        }
    }
    let (media_type, body) = match credential.issuer().token_request {
        TokenRequest::Form => ("application/x-www-form-urlencoded", form(&parameters)),
        TokenRequest::Json => ("application/json", json(&parameters)),
    };
    let body = Bytes::from_owner(Wiped(body));
    builder.header(header::CONTENT_TYPE, media_type).body(body).map_err(|_| Fault::Wrong("no_endpoint"))
}

fn form(parameters: &Parameters) -> Secret {
    // Room for every byte escaped, so that the text is not moved, which would leave copies.
    let length: usize = parameters.iter().map(|(name, value)| name.len() + value.len() * 3 + 2).sum();
    let mut serializer = form_urlencoded::Serializer::new(String::with_capacity(length));
    serializer.extend_pairs(parameters.iter().map(|(name, value)| (*name, value.as_str())));
    Zeroizing::new(serializer.finish())
}

fn json(parameters: &Parameters) -> Secret {
    let fields: std::collections::BTreeMap<&str, &str> =
        parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Zeroizing::new(serde_json::to_string(&fields).unwrap_or_default())
}

/// The tokens that an issuer gave.
pub(crate) struct Tokens {
    pub access_token: Secret,
    pub refresh_token: Option<Secret>,
    pub expires_in: Option<Duration>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: Option<Secret>,
    refresh_token: Option<Secret>,
    #[serde(default)]
    expires_in: Option<Seconds>,
    error: Option<String>,
}

/// A number, which some write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl Seconds {
    fn duration(&self) -> Option<Duration> {
        let seconds = match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.parse().ok()?,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}

/// Reads what an issuer answered.
pub(crate) fn tokens(response: &Response<Bytes>) -> Result<Tokens, Fault> {
    let status = response.status().as_u16();
    let answer: Option<Answer> = serde_json::from_slice(response.body()).ok();
    let error = answer.as_ref().and_then(|answer| answer.error.as_deref());
    if !response.status().is_success() || error.is_some() {
        return Err(fault::of(status, error, retry_after(response)));
    }
    let Answer { access_token, refresh_token, expires_in, .. } =
        answer.ok_or(Fault::Wrong("malformed_answer"))?;
    let sendable = |token: &Secret| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let access_token = access_token.filter(sendable).ok_or(Fault::Wrong("malformed_answer"))?;
    let refresh_token = refresh_token.filter(|token| !token.is_empty());
    Ok(Tokens { access_token, refresh_token, expires_in: expires_in.and_then(|seconds| seconds.duration()) })
}

/// When an issuer wants to be asked again; a date, which it may also be, is not read.
fn retry_after(response: &Response<Bytes>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(RETRY_AFTER_SECONDS_MAX)))
}
