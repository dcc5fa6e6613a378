//! What a workspace may do, pushed by the control plane: compiled policy and resolved injections.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use freehold_model::OrganizationId;
use freehold_policy::Policy;
use http::{HeaderName, HeaderValue, header};
use zeroize::Zeroizing;

use crate::mask::Mask;

/// What a workspace may do. Replaced as a whole by [`crate::Handle::publish`]; in force for the next request.
pub struct Grant {
    /// The organization, for audit rows.
    pub organization_id: OrganizationId,
    /// The name of the role, for audit rows.
    pub role: String,
    /// The name of the provider, for audit rows.
    pub provider: String,
    /// The compiled policy; workspaces of one role share it.
    pub policy: Arc<Policy>,
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
///
/// What was put on a request is struck out of its response, in every usual encoding, when it has 8 bytes or more. That
/// needs a search automaton, made with the first request and freed, not wiped, with the injection.
#[derive(Clone)]
pub struct Injection {
    pub(crate) place: Place,
    mask: Arc<OnceLock<Option<Arc<Mask>>>>,
}

#[derive(Clone)]
pub(crate) enum Place {
    Header(HeaderName, HeaderValue),
    /// Name and value, neither escaped.
    Query(String, Arc<Zeroizing<String>>),
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
        Ok(Self::at(Place::Header(name, value)))
    }

    /// A query parameter, which replaces every one of that name. `value` is not escaped yet.
    pub fn query(name: &str, value: &str) -> Result<Self, InvalidInjection> {
        if name.is_empty() {
            return Err(InvalidInjection);
        }
        Ok(Self::at(Place::Query(name.to_owned(), Arc::new(Zeroizing::new(value.to_owned())))))
    }

    fn at(place: Place) -> Self {
        Self { place, mask: Arc::default() }
    }

    /// What strikes the secret out of responses; `None` when it is too short for that.
    pub(crate) fn mask(&self) -> Option<Arc<Mask>> {
        let make = || match &self.place {
            Place::Header(name, value) => header_mask(name, value.as_bytes()),
            Place::Query(_, value) => Mask::new([value.as_bytes()]),
        };
        self.mask.get_or_init(|| make().map(Arc::new)).clone()
    }
}

/// The secrets of a header's value: in `Authorization` what follows the scheme and, of `Basic`, the pair that it encodes
/// and the password alone.
fn header_mask(name: &HeaderName, value: &[u8]) -> Option<Mask> {
    let space = value.iter().position(|byte| *byte == b' ').filter(|_| *name == header::AUTHORIZATION);
    let Some(space) = space else { return Mask::new([value]) };
    let (scheme, secret) = (&value[..space], value[space..].trim_ascii_start());
    let pair = BASE64_STANDARD.decode(secret).ok().filter(|_| scheme.eq_ignore_ascii_case(b"basic"));
    let pair = Zeroizing::new(pair.unwrap_or_default());
    let password = pair.iter().position(|byte| *byte == b':').map_or(&[][..], |colon| &pair[colon + 1..]);
    Mask::new([secret, pair.as_slice(), password])
}
