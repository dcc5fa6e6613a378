//! Credentials on a request: the placeholder goes, the credential comes, and nobody else's key passes.

use freehold_model::provider::PLACEHOLDER_KEY as PLACEHOLDER;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use url::form_urlencoded;

use crate::{
    grant::{Injection, Place},
    headers::{is_same_name, remove_named},
    query,
};

/// Headers that carry keys of model providers.
pub(crate) const KEY_HEADERS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("api-key"),
];
/// Query parameters that carry keys of model providers.
const KEY_PARAMETERS: [&str; 4] = ["key", "api_key", "api-key", "access_token"];

/// A key on the request that is not the placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForeignKey;

/// Takes the placeholder off a request to the provider's domain. Any other key is somebody else's account.
pub(crate) fn strip_placeholder(
    headers: &mut HeaderMap,
    query: &mut Option<String>,
) -> Result<(), ForeignKey> {
    let disguised = |name: &HeaderName| {
        KEY_HEADERS.iter().any(|key| key != name && is_same_name(key.as_str(), name.as_str()))
    };
    if headers.keys().any(disguised) {
        return Err(ForeignKey);
    }
    for name in &KEY_HEADERS {
        if headers.get_all(name).iter().any(|value| !is_placeholder(value)) {
            return Err(ForeignKey);
        }
        headers.remove(name);
    }
    let Some(given) = query else { return Ok(()) };
    let mut kept = Vec::new();
    for pair in given.split('&') {
        // Some servers take `;` for `&`.
        if pair.split(';').skip(1).any(|inner| {
            form_urlencoded::parse(inner.as_bytes()).any(|(name, _)| KEY_PARAMETERS.contains(&&*name))
        }) {
            return Err(ForeignKey);
        }
        match form_urlencoded::parse(pair.as_bytes()).next() {
            Some((name, value)) if KEY_PARAMETERS.contains(&&*name) => {
                if value != PLACEHOLDER {
                    return Err(ForeignKey);
                }
            }
            _ => kept.push(pair),
        }
    }
    *query = Some(kept.join("&")).filter(|text| !text.is_empty());
    Ok(())
}

/// Puts a credential on a request; it replaces what stands in its place. One that signs comes later, when nothing of the
/// request changes any more: see [`Injection::as_signer`].
pub(crate) fn apply(injection: &Injection, headers: &mut HeaderMap, given: &mut Option<String>) {
    match &injection.place {
        Place::Header(name, value) => {
            remove_named(headers, name.as_str());
            headers.insert(name, value.clone());
        }
        Place::Query(name, value) => query::set(given, name, value),
        Place::Signer(_) => {}
    }
}

/// Takes the placeholder off a request to any domain; what else it holds stays.
pub(crate) fn remove_placeholder(headers: &mut HeaderMap, given: &mut Option<String>) {
    for name in &KEY_HEADERS {
        if headers.get_all(name).iter().any(is_placeholder) {
            headers.remove(name);
        }
    }
    query::retain(given, |name, value| !KEY_PARAMETERS.contains(&name) || value != PLACEHOLDER);
}

/// Whether a header's value is the placeholder: by itself, as a bearer's token, or as the key that a request to AWS is
/// signed with.
pub(crate) fn is_placeholder(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let signed =
        text.strip_prefix("AWS4-HMAC-SHA256 Credential=").and_then(|rest| rest.strip_prefix(PLACEHOLDER));
    if signed.is_some_and(|rest| rest.starts_with('/')) {
        return true;
    }
    let key = match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => key.trim_start(),
        _ => text,
    };
    key == PLACEHOLDER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_placeholder_is_taken_off_in_every_place_it_can_stand() {
        let mut given = headers(&[
            ("x-api-key", "freehold-placeholder"),
            ("authorization", "bearer freehold-placeholder"),
            ("accept", "*/*"),
        ]);
        let mut query = Some("a=1&key=freehold-placeholder&b=2".to_owned());
        assert_eq!(strip_placeholder(&mut given, &mut query), Ok(()));
        assert_eq!(given, headers(&[("accept", "*/*")]));
        assert_eq!(query.as_deref(), Some("a=1&b=2"));
    }

    #[test]
    fn any_other_key_is_foreign() {
        for pairs in [
            &[("x-api-key", "sk-mine")][..],
            &[("authorization", "Bearer sk-mine")],
            &[("authorization", "Basic ZnJlZWhvbGQtcGxhY2Vob2xkZXI=")],
            &[("x-api-key", "freehold-placeholder"), ("x-api-key", "sk-mine")],
            &[("x-goog-api-key", "freehold-placeholder2")],
            &[("api-key", "")],
            &[("x_api-key", "sk-mine")],
        ] {
            assert_eq!(strip_placeholder(&mut headers(pairs), &mut None), Err(ForeignKey), "{pairs:?}");
        }
        for query in ["key=mine", "a=1&api_key=mine", "k%65y=mine", "access_token=", "a=1;key=mine"] {
            let mut query = Some(query.to_owned());
            assert_eq!(strip_placeholder(&mut HeaderMap::new(), &mut query), Err(ForeignKey));
        }
    }

    #[test]
    fn a_credential_replaces_what_stands_in_its_place() {
        let mut given = headers(&[("x-api-key", "a"), ("x-api-key", "b"), ("x_api_key", "c")]);
        apply(&Injection::header("X-Api-Key", "s3cret").unwrap(), &mut given, &mut None);
        assert_eq!(given, headers(&[("x-api-key", "s3cret")]));
        assert!(given["x-api-key"].is_sensitive());
        for (before, after) in [(None, "key=a%26b"), (Some("x=1&key=mine&y"), "x=1&y&key=a%26b")] {
            let mut query = before.map(str::to_owned);
            apply(&Injection::query("key", "a&b").unwrap(), &mut HeaderMap::new(), &mut query);
            assert_eq!(query.as_deref(), Some(after));
        }
    }
}
