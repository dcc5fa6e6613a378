//! What a workspace may do, pushed by the control plane: compiled policy, and where its credentials come from.

use std::sync::Arc;

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use freehold_model::{OrganizationId, RoleId};
use freehold_policy::Policy;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use zeroize::Zeroizing;

use crate::masks::Secret;

/// What a workspace may do. Replaced as a whole by [`crate::Handle::publish`]; in force for the next request.
pub struct Grant {
    /// The organization, for audit rows.
    pub organization_id: OrganizationId,
    /// The role, whose budgets its workspaces share.
    pub role_id: RoleId,
    /// The name of the role, for audit rows.
    pub role: String,
    /// The name of the provider, for audit rows.
    pub provider: String,
    /// The compiled policy; workspaces of one role share it.
    pub policy: Arc<Policy>,
    /// The digest of what the policy was made from: an approval for a rule ends with it.
    pub policy_digest: String,
    /// Where its credentials and secrets come from.
    pub credentials: Arc<dyn Credentials>,
}

/// Credentials and secrets of one workspace, by the names that its policy uses.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// What to put on a request for this credential. At once when it is known; waits for a mint otherwise.
    ///
    /// # Errors
    /// When it cannot be had: the request is denied.
    async fn injection(&self, name: &str) -> Result<Arc<Injection>, Unavailable>;

    /// Hears that an upstream answered 401 to a request that carried this credential: what was obtained for it may have been
    /// taken back. Comes for every such answer, whatever its cause, so that whoever acts on it has a limit. Does not wait.
    fn refused(&self, name: &str);

    /// An opaque secret's value.
    ///
    /// # Errors
    /// When it cannot be had: the request is denied.
    async fn secret(&self, name: &str) -> Result<Arc<SecretValue>, Unavailable>;
}

/// A credential or secret that cannot be had: its requests are denied with `auth_unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unavailable: {0}")]
pub struct Unavailable(pub &'static str);

impl Unavailable {
    /// Why, as a short slug for the log.
    pub const fn code(self) -> &'static str {
        self.0
    }
}

/// An opaque secret. Has no `Debug`; wiped when the last user is done with it.
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes the bytes over.
    pub const fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes. Secret.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Signs requests, for credentials that are not sent themselves. Applied last, to the request as it goes upstream.
pub trait Signer: Send + Sync {
    /// Whether [`Outgoing::body_sha256`] has to be given: then the whole body is read before the request goes on.
    fn needs_body(&self, request: &Outgoing<'_>) -> bool;

    /// Takes off what the client signed, and puts the signature on.
    ///
    /// # Errors
    /// When the request cannot be signed: it is denied.
    fn sign(&self, request: &mut Outgoing<'_>) -> Result<(), Unavailable>;

    /// What is sent and must not come back, such as a session token.
    fn secrets(&self) -> Vec<&[u8]>;
}

/// A request as it goes upstream, whose headers and query a signer may change.
pub struct Outgoing<'a> {
    /// The method.
    pub method: &'a Method,
    /// Host, and the port where it is not the scheme's own: the `Host` header that is sent.
    pub authority: &'a str,
    /// Whether it goes over TLS.
    pub is_tls: bool,
    /// The path, as it is sent.
    pub path: &'a str,
    /// The query, as it is sent.
    pub query: &'a mut Option<String>,
    /// The headers, without `Host`.
    pub headers: &'a mut HeaderMap,
    /// SHA-256 of the body, where the signer needs it.
    pub body_sha256: Option<[u8; 32]>,
    /// When it is sent.
    pub now: freehold_model::Timestamp,
}

/// A value that cannot be put on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a header or query parameter that can be sent")]
pub struct InvalidInjection;

/// A secret value and its place on a request. Has no `Debug`; wiped when the last user is done with it.
///
/// What was put on a request is struck out of its response, in every usual encoding, when it has 8 bytes or more. That
/// needs a table of hashes of its parts, which is kept for the workspace's next requests and freed, not wiped, in the end.
#[derive(Clone)]
pub struct Injection {
    pub(crate) place: Place,
}

#[derive(Clone)]
pub(crate) enum Place {
    Header(HeaderName, HeaderValue),
    /// Name and value, neither escaped.
    Query(String, Arc<Zeroizing<String>>),
    Signer(Arc<dyn Signer>),
}

/// Bytes that are wiped when the last reference is gone.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Injection {
    /// A request header, which replaces every one of that name.
    pub fn header(name: &str, value: &str) -> Result<Self, InvalidInjection> {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| InvalidInjection)?;
        let bytes = Bytes::from_owner(Wiped(Zeroizing::new(value.as_bytes().to_vec())));
        let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| InvalidInjection)?;
        value.set_sensitive(true);
        Ok(Self { place: Place::Header(name, value) })
    }

    /// A query parameter, which replaces every one of that name. `value` is not escaped yet.
    pub fn query(name: &str, value: &str) -> Result<Self, InvalidInjection> {
        if name.is_empty() {
            return Err(InvalidInjection);
        }
        Ok(Self { place: Place::Query(name.to_owned(), Arc::new(Zeroizing::new(value.to_owned()))) })
    }

    /// Signs each request.
    pub fn signer(signer: Arc<dyn Signer>) -> Self {
        Self { place: Place::Signer(signer) }
    }

    /// What signs the request once all else is done with it; `None` for what is put on at once.
    pub(crate) const fn as_signer(&self) -> Option<&Arc<dyn Signer>> {
        match &self.place {
            Place::Signer(signer) => Some(signer),
            Place::Header(..) | Place::Query(..) => None,
        }
    }

    /// What must not come back in a response.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let copy = |secret: &[u8]| Zeroizing::new(secret.to_vec());
        match &self.place {
            Place::Header(name, value) => header_secrets(name, value.as_bytes()),
            Place::Query(_, value) => vec![copy(value.as_bytes())],
            Place::Signer(signer) => signer.secrets().into_iter().map(copy).collect(),
        }
    }
}

/// The secrets of a header's value: in `Authorization` what follows the scheme and, of `Basic`, the pair that it encodes
/// and the password alone.
pub(crate) fn header_secrets(name: &HeaderName, value: &[u8]) -> Vec<Secret> {
    let copy = |secret: &[u8]| Zeroizing::new(secret.to_vec());
    let space = value.iter().position(|byte| *byte == b' ').filter(|_| *name == header::AUTHORIZATION);
    let Some(space) = space else { return vec![copy(value)] };
    let (scheme, secret) = (&value[..space], value[space..].trim_ascii_start());
    let pair = BASE64_STANDARD.decode(secret).ok().filter(|_| scheme.eq_ignore_ascii_case(b"basic"));
    let pair = Zeroizing::new(pair.unwrap_or_default());
    let password = pair.iter().position(|byte| *byte == b':').map_or(&[][..], |colon| &pair[colon + 1..]);
    let password = copy(password);
    vec![copy(secret), pair, password]
}
