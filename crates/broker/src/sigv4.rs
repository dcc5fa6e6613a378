//! AWS Signature Version 4: each request is signed anew, whatever its client signed.
//!
//! What is signed is what is sent: the query is written in its canonical form, and `host`, `content-type` and every
//! `x-amz-` header are signed. The key itself is never sent.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write};

use aws_lc_rs::{digest, hmac};
use freehold_model::{Timestamp, credential::Credential};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use zeroize::Zeroizing;

use crate::durable::{Durable, Secret, Unreadable};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
/// A body in chunks that carry no signatures, with a checksum behind them.
const UNSIGNED_CHUNKS: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const CONTENT: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// Parameters of a request that was signed in its query.
const PRESIGNED: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];
/// Services that are signed for under another name than their host's.
const SIGNING_NAMES: [(&str, &str); 7] = [
    ("api.ecr", "ecr"),
    ("api.sagemaker", "sagemaker"),
    ("bedrock-agent", "bedrock"),
    ("bedrock-agent-runtime", "bedrock"),
    ("bedrock-runtime", "bedrock"),
    ("email", "ses"),
    ("runtime.sagemaker", "sagemaker"),
];
/// The region of services that have none in their host.
const REGION: &str = "us-east-1";

/// Signs requests with one key. Has no `Debug`.
pub struct SigV4 {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Option<HeaderValue>,
    session_secret: Option<Secret>,
    region: Option<String>,
    service: Option<String>,
}

/// A request as it goes upstream, whose query and headers the signer changes.
pub struct ToSign<'a> {
    /// The method.
    pub method: &'a Method,
    /// The `Host` header that is sent.
    pub authority: &'a str,
    /// Whether it goes over TLS.
    pub is_tls: bool,
    /// The path, as it is sent.
    pub path: &'a str,
    /// The query, as it is sent.
    pub query: &'a mut Option<String>,
    /// The headers, without `Host`.
    pub headers: &'a mut HeaderMap,
    /// SHA-256 of the body, where [`SigV4::needs_body`] asks for it.
    pub body_sha256: Option<[u8; 32]>,
    /// When it is sent.
    pub now: Timestamp,
}

/// Why a request cannot be signed, as a short slug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be signed: {0}")]
pub struct Unsignable(pub &'static str);

impl SigV4 {
    pub(crate) fn new(credential: &Credential, durable: Durable) -> Result<Self, Unreadable> {
        let setting = |name: &str| credential.provider_config.get(name).cloned();
        let session_token = durable.session_token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(token).map_err(|_| Unreadable)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            access_key_id: setting("access_key_id").ok_or(Unreadable)?,
            secret_access_key: durable.secret_access_key.ok_or(Unreadable)?,
            session_token: session_token.transpose()?,
            session_secret: durable.session_token,
            region: setting("region"),
            service: setting("service"),
        })
    }

    /// Whether the hash of the body is needed: only S3 takes bodies that are not signed, and those over TLS alone.
    pub fn needs_body(&self, authority: &str, is_tls: bool) -> bool {
        !(is_tls && self.scope(authority).is_ok_and(|(_, service)| service == "s3"))
    }

    /// What is sent and must not come back.
    pub fn secrets(&self) -> Vec<&[u8]> {
        self.session_secret.iter().map(|token| token.as_bytes()).collect()
    }

    /// Takes off what the client signed, and puts the signature on.
    ///
    /// # Errors
    /// When region or service are neither set nor in the host's name, when the hash of the body is missing, or when the
    /// body's chunks are signed by a key that is not this one.
    pub fn sign(&self, request: &mut ToSign<'_>) -> Result<(), Unsignable> {
        let (region, service) = self.scope(request.authority)?;
        let content = content(request, &service, self.needs_body(request.authority, request.is_tls))?;
        for name in [header::AUTHORIZATION, DATE, TOKEN, CONTENT] {
            request.headers.remove(name);
        }
        let now = request.now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let day = &now[..8];
        let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Unsignable("unsendable"));
        request.headers.insert(DATE, value(&now)?);
        request.headers.insert(CONTENT, value(&content)?);
        if let Some(token) = &self.session_token {
            request.headers.insert(TOKEN, token.clone());
        }
        *request.query = canonical_query(request.query.as_deref());
        let (canonical, signed_headers) = canonical_request(request, &service, &content);
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let hash = hex::encode(digest::digest(&digest::SHA256, canonical.as_bytes()));
        let to_sign = format!("{ALGORITHM}\n{now}\n{scope}\n{hash}");
        let first = Zeroizing::new(format!("AWS4{}", self.secret_access_key.as_str()));
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, first.as_bytes());
        for part in [day, &region, &service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        let signature = hex::encode(hmac::sign(&key, to_sign.as_bytes()));
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed_headers}, Signature={signature}",
            self.access_key_id
        );
        request.headers.insert(header::AUTHORIZATION, value(&authorization)?);
        Ok(())
    }

    /// The region and the service that a request to this host is signed for.
    fn scope(&self, authority: &str) -> Result<(String, String), Unsignable> {
        if let (Some(region), Some(service)) = (&self.region, &self.service) {
            return Ok((region.clone(), service.clone()));
        }
        let (region, service) = scope_of(authority).ok_or(Unsignable("no_region_or_service"))?;
        Ok((self.region.clone().unwrap_or(region), self.service.clone().unwrap_or(service)))
    }
}

/// The value of `x-amz-content-sha256`.
fn content(request: &ToSign<'_>, service: &str, needs_body: bool) -> Result<Cow<'static, str>, Unsignable> {
    let given = request.headers.get(CONTENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if service == "s3" && given.starts_with("STREAMING-") {
        return if given == UNSIGNED_CHUNKS && request.is_tls {
            Ok(UNSIGNED_CHUNKS.into())
        } else {
            Err(Unsignable("signed_chunks"))
        };
    }
    if !needs_body {
        return Ok(UNSIGNED.into());
    }
    request.body_sha256.map(|hash| hex::encode(hash).into()).ok_or(Unsignable("no_body_hash"))
}

/// The canonical request, and the names of the headers in it.
fn canonical_request(request: &ToSign<'_>, service: &str, content: &str) -> (String, String) {
    let mut headers: BTreeMap<&str, String> = BTreeMap::from([("host", request.authority.to_owned())]);
    for name in request.headers.keys() {
        if *name == header::CONTENT_TYPE || name.as_str().starts_with("x-amz-") {
            let values = request.headers.get_all(name).iter();
            let words = |value: &HeaderValue| {
                String::from_utf8_lossy(value.as_bytes()).split_whitespace().collect::<Vec<_>>().join(" ")
            };
            headers.insert(name.as_str(), values.map(words).collect::<Vec<_>>().join(","));
        }
    }
    let signed = headers.keys().copied().collect::<Vec<_>>().join(";");
    let path = match service {
        // Elsewhere the path is encoded once more than it is sent.
        "s3" => encode(&decode(request.path), true),
        _ => encode(request.path.as_bytes(), true),
    };
    let query = request.query.as_deref().unwrap_or_default();
    let mut canonical = format!("{}\n{path}\n{query}\n", request.method);
    for (name, value) in &headers {
        // Writing to a string cannot fail.
        let _ = writeln!(canonical, "{name}:{value}");
    }
    let _ = write!(canonical, "\n{signed}\n{content}");
    (canonical, signed)
}

/// The query, decoded and encoded again in the one way, in order, and without what another signature left in it.
fn canonical_query(query: Option<&str>) -> Option<String> {
    let mut pairs: Vec<(String, String)> = query?
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| {
            let plain = |text: &str| encode(&decode(&text.replace('+', "%20")), false);
            (plain(name), plain(value))
        })
        .filter(|(name, _)| !PRESIGNED.iter().any(|presigned| presigned.eq_ignore_ascii_case(name)))
        .collect();
    pairs.sort();
    let text = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    Some(text).filter(|text| !text.is_empty())
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let mut decoded = [0];
        let escaped = byte == b'%'
            && bytes
                .get(at + 1..at + 3)
                .is_some_and(|digits| hex::decode_to_slice(digits, &mut decoded).is_ok());
        out.push(if escaped { decoded[0] } else { byte });
        at += if escaped { 3 } else { 1 };
    }
    out
}

fn encode(bytes: &[u8], is_path: bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b'/' if is_path => out.push('/'),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Region and service by the name of a host of AWS.
fn scope_of(authority: &str) -> Option<(String, String)> {
    let host = authority.split(':').next()?;
    let own = |region: &str, service: &str| Some((region.to_owned(), service.to_owned()));
    if let Some(rest) = host.strip_suffix(".on.aws") {
        return match rest.rsplit('.').collect::<Vec<_>>()[..] {
            [region, "lambda-url", ..] => own(region, "lambda"),
            _ => None,
        };
    }
    let suffixes = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
    let rest = suffixes.iter().find_map(|suffix| host.strip_suffix(suffix))?;
    let labels: Vec<&str> = rest.split('.').collect();
    // A region has a number at its end: `eu-central-1`.
    let is_region = |label: &str| {
        label.split('-').count() >= 3 && label.rsplit('-').next().is_some_and(|end| end.parse::<u8>().is_ok())
    };
    match labels[..] {
        [.., "s3"] => return own(REGION, "s3"),
        [.., "s3", region] | [.., "s3", "dualstack", region] if is_region(region) => {
            return own(region, "s3");
        }
        [.., last] if last.strip_prefix("s3-").is_some_and(is_region) => return own(&last[3..], "s3"),
        [.., region, "es"] if is_region(region) => return own(region, "es"),
        [service] => return own(REGION, signing_name(service)),
        _ => {}
    }
    let (region, before) = labels.split_last().filter(|(last, _)| is_region(last))?;
    let before = if let [before @ .., "dualstack"] = before { before } else { before };
    let two = before.get(before.len().saturating_sub(2)..).map(|two| two.join("."));
    let known = two.as_deref().map(signing_name).filter(|name| Some(*name) != two.as_deref());
    own(region, known.unwrap_or_else(|| signing_name(before.last().copied().unwrap_or_default())))
}

fn signing_name(service: &str) -> &str {
    SIGNING_NAMES.iter().find(|(host, _)| *host == service).map_or(service, |(_, name)| name)
}

#[cfg(test)]
mod tests;
