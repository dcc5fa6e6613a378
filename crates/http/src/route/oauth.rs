//! Consents of people, and the page that they come back to.

use axum::response::Response;
use freehold_api::{
    credential::{CONSENT_COOKIE, CredentialOauthStarted},
    error::ErrorCode,
};
use freehold_app::credential::{ConsentFailed, Return};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use url::form_urlencoded;

use crate::{
    call::{Call, Handler},
    error::Failure,
    page,
};

/// Characters of an issuer's words that are shown.
const WORDS_MAX: usize = 300;

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("credential_oauth_start", |call| Box::pin(credential_oauth_start(call))),
    ("oauth_callback", |call| Box::pin(oauth_callback(call))),
];

async fn credential_oauth_start(call: Call) -> Result<Response, Failure> {
    let id = call.id("id", ErrorCode::CredentialNotFound)?;
    let consent = call.app().credential_oauth_start(call.actor()?, id).await?;
    let cookie = cookie(&call, consent.cookie.expose(), consent.max_age_seconds)?;
    let mut response = call.json(&CredentialOauthStarted { auth_url: consent.auth_url })?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

async fn oauth_callback(call: Call) -> Result<Response, Failure> {
    let back = back(call.raw_query.as_deref().unwrap_or_default());
    let given = given(&call.headers, cookie_name(&call));
    let answer = call.app().credential_oauth_finish(back.clone(), given.as_deref()).await;
    let (status, text) = match answer {
        Ok(credential) => {
            let text =
                format!("The credential {} can be used now. You can close this page.", credential.name);
            (StatusCode::OK, page::notice("Connected", &[&text], None))
        }
        Err(ConsentFailed::Failed(error)) => return Err(error.into()),
        Err(failed) => (StatusCode::BAD_REQUEST, failure(&failed, &back)),
    };
    let mut response = call.answer("text/html; charset=utf-8", text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // What stands in the address and on the page is for nobody else.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if given.is_some() {
        headers.insert(header::SET_COOKIE, cookie(&call, "", 0)?);
    }
    Ok(response)
}

fn failure(failed: &ConsentFailed, back: &Return) -> String {
    const TITLE: &str = "Not connected";
    match failed {
        ConsentFailed::OtherBrowser => {
            let told = "This browser did not begin the consent. If you began it in a terminal, paste this line there; \
                else begin again in this browser. Give it to nobody else.";
            let mut line = form_urlencoded::Serializer::new(String::new());
            for (name, value) in [("state", &back.state), ("code", &back.code), ("error", &back.error)] {
                if let Some(value) = value {
                    line.append_pair(name, value);
                }
            }
            page::notice("One more step", &[told], Some(&line.finish()))
        }
        ConsentFailed::Refused { code, description } => {
            let told = format!("The issuer gave no access: {code}.");
            let words: Option<String> =
                description.as_ref().map(|words| words.chars().take(WORDS_MAX).collect());
            let said = words.map(|words| format!("In its words: {words}")).unwrap_or_default();
            page::notice(TITLE, &[&told, &said], None)
        }
        ConsentFailed::Unknown | ConsentFailed::Failed(_) => {
            page::notice(TITLE, &["This consent is unknown, over, or took too long. Begin again."], None)
        }
    }
}

fn back(query: &str) -> Return {
    let mut back = Return::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = match &*name {
            "state" => &mut back.state,
            "code" => &mut back.code,
            "error" => &mut back.error,
            "error_description" => &mut back.error_description,
            // Issuers send what they like besides.
            _ => continue,
        };
        *field = Some(value.into_owned());
    }
    back
}

fn is_https(call: &Call) -> bool {
    call.app().settings().public_url.starts_with("https://")
}

/// Over TLS the browser itself sees that no other host has set it.
fn cookie_name(call: &Call) -> String {
    let prefix = if is_https(call) { "__Host-" } else { "" };
    format!("{prefix}{CONSENT_COOKIE}")
}

fn cookie(call: &Call, value: &str, seconds: u32) -> Result<HeaderValue, Failure> {
    let (name, secure) = (cookie_name(call), if is_https(call) { "; Secure" } else { "" });
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    let mut cookie = HeaderValue::from_str(&text).map_err(Failure::internal)?;
    cookie.set_sensitive(true);
    Ok(cookie)
}

fn given(headers: &HeaderMap, name: String) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs =
        cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value.to_owned())
}
