//! What a workspace may do, pushed by the control plane: compiled policy and resolved injections.

use std::collections::HashMap;

use bytes::Bytes;
use freehold_model::OrganizationId;
use freehold_policy::Policy;
use http::{HeaderName, HeaderValue};
use zeroize::Zeroizing;

/// What a workspace may do. Replaced as a whole by [`crate::Handle::publish`]; in force for the next request.
pub struct Grant {
    /// The organization, for audit rows.
    pub organization_id: OrganizationId,
    /// The name of the role, for audit rows.
    pub role: String,
    /// The name of the provider, for audit rows.
    pub provider: String,
    /// The compiled policy.
    pub policy: Policy,
    /// Credentials by name. One that is absent here is unavailable, and its requests are denied.
    pub injections: HashMap<String, Result<Injection, Unavailable>>,
}

/// A credential that cannot be resolved: its requests are denied with `auth_unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unavailable;

/// A value that cannot be put on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a header or query parameter that can be sent")]
pub struct InvalidInjection;

/// A secret value and its place on a request. Has no `Debug`; wiped when the last user is done with it.
#[derive(Clone)]
pub struct Injection(pub(crate) Place);

#[derive(Clone)]
pub(crate) enum Place {
    Header(HeaderName, HeaderValue),
    /// Name as it is, and value escaped for a query string.
    Query(String, Zeroizing<String>),
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
        Ok(Self(Place::Header(name, value)))
    }

    /// A query parameter, which replaces every one of that name. `value` is not escaped yet.
    pub fn query(name: &str, value: &str) -> Result<Self, InvalidInjection> {
        if name.is_empty() {
            return Err(InvalidInjection);
        }
        let escaped: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        Ok(Self(Place::Query(name.to_owned(), Zeroizing::new(escaped))))
    }
}
