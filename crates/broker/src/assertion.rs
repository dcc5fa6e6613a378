//! Assertions: short-lived JWTs, signed with a key that the issuer knows.

use aws_lc_rs::rand;
use freehold_model::{
    Timestamp,
    credential::{Credential, Kind},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    durable::{Durable, Secret, Unreadable},
    fault::Fault,
};

/// How long an assertion counts, in seconds. Issuers take no longer than five minutes to an hour.
const LIFETIME_SECONDS: i64 = 300;

/// A private key, and the algorithm that it signs by where nothing says another.
pub(crate) struct Key {
    key: EncodingKey,
    algorithm: Algorithm,
}

impl Key {
    /// Reads a key of PEM. None where it cannot sign.
    pub fn read(pem: &str) -> Option<Self> {
        let bytes = pem.as_bytes();
        let candidates = [
            (EncodingKey::from_rsa_pem(bytes), Algorithm::RS256),
            (EncodingKey::from_ec_pem(bytes), Algorithm::ES256),
            (EncodingKey::from_ec_pem(bytes), Algorithm::ES384),
            (EncodingKey::from_ed_pem(bytes), Algorithm::EdDSA),
        ];
        let readable =
            candidates.into_iter().filter_map(|(key, algorithm)| Some(Self { key: key.ok()?, algorithm }));
        readable.into_iter().find(|key| key.sign(&Header::new(key.algorithm), &json!({})).is_some())
    }

    fn sign(&self, header: &Header, claims: &Value) -> Option<String> {
        jsonwebtoken::encode(header, claims, &self.key).ok()
    }
}

/// The assertion by which this credential asks for a token at `token_url`.
pub(crate) fn assertion(
    credential: &Credential,
    durable: &Durable,
    token_url: &str,
    now: Timestamp,
) -> Result<Secret, Fault> {
    let pem = durable.private_key.as_ref().ok_or(Unreadable)?;
    let key = Key::read(pem).ok_or(Unreadable)?;
    let setting = |name: &str| credential.provider_config.get(name).map(String::as_str);
    let issuer = credential.issuer();
    let is_client = credential.kind == Kind::Oauth2ClientAssertion;
    let mut header = Header::new(key.algorithm);
    if is_client {
        let named = setting("algorithm").or(issuer.assertion_algorithm.as_deref());
        if let (Some(named), Algorithm::RS256) = (named, key.algorithm) {
            header.alg = named.parse().map_err(|_| Fault::Wrong("unknown_algorithm"))?;
        }
    }
    header.kid = setting("key_id").map(str::to_owned).or_else(|| durable.key_id.clone());
    header.x5t_s256 = setting("certificate_thumbprint").map(str::to_owned);
    let issued = now.as_second();
    let audience = setting("audience").or(issuer.assertion_audience.as_deref()).unwrap_or(token_url);
    let mut claims =
        json!({ "aud": audience, "iat": issued, "exp": issued + LIFETIME_SECONDS, "jti": nonce()? });
    if is_client {
        let client = setting("client_id").ok_or(Fault::Wrong("no_client_id"))?;
        claims["iss"] = client.into();
        claims["sub"] = client.into();
        claims["nbf"] = issued.into();
    } else {
        claims["iss"] = setting("issuer").or(durable.client_email.as_deref()).ok_or(Unreadable)?.into();
        if let Some(subject) = setting("subject") {
            claims["sub"] = subject.into();
        }
        if !credential.scopes.is_empty() {
            claims["scope"] = credential.scopes.join(&issuer.scope_separator).into();
        }
    }
    key.sign(&header, &claims).map(Zeroizing::new).ok_or(Fault::Wrong("cannot_sign"))
}

/// 128 random bits, so that no assertion is taken twice.
fn nonce() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Fault::Wrong("no_randomness"))?;
    Ok(hex::encode(bytes))
}
