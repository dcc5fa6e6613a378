//! A person's consent: where they are sent, and what is made of what they come back with (RFC 6749, 7636).

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use freehold_model::{
    Timestamp,
    credential::Credential,
    issuer::{Endpoint, EndpointError},
};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    Broker, Unavailable,
    durable::Durable,
    fault::{self, Fault},
    token,
};

/// Where a person is sent to consent.
///
/// # Errors
/// When it is not known where that is.
pub fn authorization_url(
    credential: &Credential,
    redirect_uri: &str,
    state: &str,
    verifier: &str,
) -> Result<String, EndpointError> {
    const OF: Endpoint = Endpoint::Authorization;
    let text = credential.endpoint(OF)?;
    let mut url = Url::parse(&text).map_err(|_| EndpointError::Unknown(credential.provider.clone()))?;
    let issuer = credential.issuer();
    let challenge =
        BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref());
    let mut scopes = credential.scopes.clone();
    scopes.extend(issuer.offline_scope.clone().filter(|offline| !scopes.contains(offline)));
    let mut query = url.query_pairs_mut();
    query
        .append_pair("response_type", "code")
        .append_pair("client_id", credential.provider_config.get("client_id").map_or("", String::as_str))
        .append_pair("redirect_uri", redirect_uri)
        .append_pair("state", state)
        .append_pair("code_challenge", &challenge)
        .append_pair("code_challenge_method", "S256");
    if !scopes.is_empty() {
        query.append_pair("scope", &scopes.join(&issuer.scope_separator));
    }
    if let Some(audience) = credential.provider_config.get("audience") {
        query.append_pair("audience", audience);
    }
    // An issuer whose addresses are set is not the one whose name it has.
    if !credential.provider_config.contains_key(OF.as_str()) {
        query.extend_pairs(&issuer.authorization_parameters);
    } else if scopes.iter().any(|scope| scope == "offline_access") {
        // OpenID Connect gives a refresh token only to who is asked again.
        query.append_pair("prompt", "consent");
    }
    drop(query);
    Ok(url.into())
}

/// The code that an issuer sent a person back with, where it is known; else one that says as little.
pub fn refusal(error: &str) -> &'static str {
    fault::known(error).unwrap_or("refused")
}

impl<T: Send + Sync + 'static> Broker<T> {
    /// Exchanges what a person's consent gave; answers the secret to keep. Asked once: a code counts once.
    ///
    /// # Errors
    /// When the issuer gives no token.
    pub async fn exchange(
        &self,
        credential: &Credential,
        secret: &[u8],
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Zeroizing<Vec<u8>>, Unavailable> {
        let exchange = async {
            let durable = Durable::read(secret)?;
            let request = token::exchange(credential, &durable, code, verifier, redirect_uri)?;
            let failed = |error: crate::HttpError| Fault::Passing { code: error.0, retry_after: None };
            let response = self.http().send(request).await.map_err(failed)?;
            let tokens = token::tokens(&response)?;
            let expires_at = tokens.expires_in.and_then(|life| Timestamp::now().saturating_add(life).ok());
            let kept = Durable {
                client_secret: durable.client_secret,
                refresh_token: tokens.refresh_token,
                access_token: Some(tokens.access_token),
                access_expires_at: expires_at,
                ..Durable::default()
            };
            Ok::<_, Fault>(kept.write())
        };
        exchange.await.map_err(|fault| Unavailable(fault.code()))
    }

    /// Asks the issuer to take back what it gave for a credential that is deleted. `None` where there is nothing to take
    /// back, or nobody is known to ask.
    pub async fn revoke(&self, credential: &Credential, secret: &[u8]) -> Option<Result<(), Unavailable>> {
        let durable = Durable::read(secret).ok()?;
        let request = token::revoke(credential, &durable)?;
        Some(match self.http().send(request).await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(_) => Err(Unavailable("refused")),
            Err(error) => Err(Unavailable(error.0)),
        })
    }
}
