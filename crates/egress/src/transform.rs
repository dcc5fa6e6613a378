//! What the transforms of a rule change of a request that it allows.
//!
//! Three steps: what they need is gathered ([`gather`], which may wait for a token to be minted), every expression is
//! evaluated over the request as it was decided on ([`evaluate`]), and what came of that is put on the request ([`Changes::apply`]).
//! A credential that cannot be had, or an expression without a value, denies the request: it never goes out half changed.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use freehold_model::provider::PLACEHOLDER_KEY as PLACEHOLDER;
use freehold_policy::{
    Applied, Formula, NormalPath, Permit, Pointer, ReadBody, Transform,
    cel::{Attribute, Fault, Map, MapSource, Scope, Value, Work},
};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value as Json;
use tokio::sync::OwnedSemaphorePermit;
use url::form_urlencoded;
use zeroize::Zeroizing;

use crate::{
    Credentials, Injection, SecretValue, Signer, Unavailable,
    grant::{Place, header_secrets},
    headers::remove_named,
    inject,
    mask::{SECRET_BYTES_MIN, SECRETS_BYTES_MAX},
    masks::Secret,
    query,
};

/// Headers that say something of a body as it was before it was changed.
const SUMS: [HeaderName; 5] = [
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
];

/// From here on a number with a point, 2 to the 63rd, may have been a whole one.
const WHOLE_MAX: f64 = 9_223_372_036_854_775_808.0;

/// Why a request was not changed, and so does not go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A credential cannot be had.
    Credential(String),
    /// A secret that a transform asks for cannot be had.
    Secret {
        /// The transform's name.
        transform: String,
        /// The secret's.
        secret: String,
    },
    /// A transform has failed.
    Transform {
        /// Its name.
        name: String,
        /// Why, as a slug.
        why: &'static str,
    },
}

/// What the transforms of a request need.
#[derive(Default)]
pub(crate) struct Gathered {
    credentials: HashMap<String, Arc<Injection>>,
    secrets: Secrets,
}

#[derive(Default)]
struct Secrets(HashMap<Box<str>, Arc<SecretValue>>);

// What a map of an expression must have; a secret has no form that could be shown.
impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// A request that transforms change.
pub(crate) struct Target<'r> {
    pub(crate) headers: &'r mut HeaderMap,
    pub(crate) query: &'r mut Option<String>,
    pub(crate) path: &'r mut String,
    /// The body, where it was read, and then the one to put in its place.
    pub(crate) read: Option<&'r ReadBody>,
    pub(crate) body: &'r mut Option<Bytes>,
}

/// What was done to a request.
#[derive(Default)]
pub(crate) struct Changes {
    /// How many transforms changed it.
    pub(crate) applied: u32,
    /// The credentials that were put on, by name.
    pub(crate) credentials: Vec<String>,
    /// What signs it, when all else is done.
    pub(crate) signer: Option<Arc<dyn Signer>>,
    /// What must not come back.
    pub(crate) secrets: Vec<Secret>,
    /// For their mask, where they are long.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// Asks for the credentials and secrets of a permit's transforms.
///
/// # Errors
/// The first that cannot be had.
pub(crate) async fn gather(credentials: &dyn Credentials, permit: &Permit) -> Result<Gathered, Failure> {
    let mut gathered = Gathered::default();
    for transform in permit.transforms() {
        if let Some(name) = &transform.credential {
            let injection = ask(credentials, name).await?;
            gathered.credentials.insert(name.clone(), injection);
        }
        let secrets = transform.formulas().flat_map(|formula| formula.expression().secrets());
        for name in secrets {
            let secret = credentials.secret(name).await.map_err(|unavailable| {
                tell(name, unavailable);
                Failure::Secret { transform: transform.name.rule.to_string(), secret: name.to_string() }
            })?;
            gathered.secrets.0.insert(name.clone(), secret);
        }
    }
    Ok(gathered)
}

/// Asks for one credential.
///
/// # Errors
/// When it cannot be had.
pub(crate) async fn ask(credentials: &dyn Credentials, name: &str) -> Result<Arc<Injection>, Failure> {
    credentials.injection(name).await.map_err(|unavailable| {
        tell(name, unavailable);
        Failure::Credential(name.to_owned())
    })
}

fn tell(name: &str, unavailable: Unavailable) {
    tracing::debug!(credential.name = name, egress.code = unavailable.code(), "a credential is unavailable");
}

impl Failure {
    fn of(transform: &Applied<Transform>, why: &'static str) -> Self {
        Self::Transform { name: transform.name.rule.to_string(), why }
    }
}

/// A value that an expression made, and whether a secret may be in it.
struct Made<T> {
    value: T,
    is_secret: bool,
}

type MadeText = Made<Zeroizing<String>>;

/// One transform with the values of its expressions.
pub(crate) struct Evaluated<'p> {
    transform: &'p Applied<Transform>,
    headers: Vec<(HeaderName, Made<HeaderValue>)>,
    query: Vec<(&'p str, MadeText)>,
    path: Option<String>,
    json: Vec<(&'p Pointer, Made<Json>)>,
    form: Vec<(&'p str, MadeText)>,
}

/// What transforms see: the request and the secrets.
struct WithSecrets<'a> {
    scope: &'a dyn Scope,
    secrets: &'a Secrets,
}

impl Scope for WithSecrets<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        match attribute {
            Attribute::Secrets => Some(Value::Map(Map::Source(self.secrets))),
            other => self.scope.get(other),
        }
    }

    fn has_unknown_body(&self) -> bool {
        self.scope.has_unknown_body()
    }
}

impl MapSource for Secrets {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        std::str::from_utf8(self.0.get(key)?.expose()).ok().map(Value::text)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| &**name).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Evaluates every expression of a permit's transforms over the request as it was decided on.
///
/// # Errors
/// The first that has no value, or one that cannot be sent.
pub(crate) fn evaluate<'p>(
    permit: &'p Permit,
    gathered: &Gathered,
    scope: &dyn Scope,
) -> Result<Vec<Evaluated<'p>>, Failure> {
    let (scope, work) = (WithSecrets { scope, secrets: &gathered.secrets }, Work::default());
    let one = |transform: &'p Arc<Applied<Transform>>| {
        let failed = |_: Fault| Failure::of(transform, "expression_failed");
        let unsendable = || Failure::of(transform, "value_unsendable");
        let mut evaluated = Evaluated {
            transform,
            headers: Vec::new(),
            query: texts(&transform.query.set, &scope, &work).map_err(failed)?,
            path: None,
            json: Vec::new(),
            form: texts(&transform.body.form, &scope, &work).map_err(failed)?,
        };
        for (name, made) in texts(&transform.headers.set, &scope, &work).map_err(failed)? {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unsendable())?;
            let mut value = HeaderValue::from_str(&made.value).map_err(|_| unsendable())?;
            value.set_sensitive(made.is_secret);
            evaluated.headers.push((name, Made { value, is_secret: made.is_secret }));
        }
        if let Some(formula) = &transform.path {
            let path = text(formula, &scope, &work).map_err(failed)?;
            let normal = NormalPath::parse(&path).map_err(|_| Failure::of(transform, "path_ambiguous"))?;
            evaluated.path = Some(normal.as_str().to_owned());
        }
        for (pointer, formula) in &transform.body.set {
            let value = formula.json(&scope, &work).map_err(failed)?;
            evaluated.json.push((pointer, Made { value, is_secret: is_secret(formula) }));
        }
        Ok(evaluated)
    };
    permit.transforms().iter().map(one).collect()
}

fn texts<'p>(
    formulas: &'p [(String, Formula)],
    scope: &dyn Scope,
    work: &Work,
) -> Result<Vec<(&'p str, MadeText)>, Fault> {
    let made = |(name, formula): &'p (String, Formula)| {
        let value = text(formula, scope, work)?;
        Ok((name.as_str(), Made { value, is_secret: is_secret(formula) }))
    };
    formulas.iter().map(made).collect()
}

fn text(formula: &Formula, scope: &dyn Scope, work: &Work) -> Result<Zeroizing<String>, Fault> {
    formula.text(scope, work).map(Zeroizing::new)
}

fn is_secret(formula: &Formula) -> bool {
    !formula.expression().secrets().is_empty()
}

/// What the client itself put on the request, and not as a placeholder.
pub(crate) struct Own {
    headers: Vec<HeaderName>,
    parameters: Vec<String>,
}

impl Own {
    pub(crate) fn of(headers: &HeaderMap, query: Option<&str>) -> Self {
        let meant = |(name, value): (&HeaderName, &HeaderValue)| {
            (!inject::is_placeholder(value)).then(|| name.clone())
        };
        let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let parameters = parameters.filter(|(_, value)| value != PLACEHOLDER);
        Self {
            headers: headers.iter().filter_map(meant).collect(),
            parameters: parameters.map(|(name, _)| name.into_owned()).collect(),
        }
    }

    fn header(&self, name: &HeaderName) -> bool {
        self.headers.contains(name)
    }

    fn parameter(&self, name: &str) -> bool {
        self.parameters.iter().any(|own| own == name)
    }
}

impl Changes {
    /// Puts what was evaluated on the request, transform by transform.
    ///
    /// # Errors
    /// When a body is not of the form that is to be changed. The request is not to be sent then.
    pub(crate) fn apply(
        &mut self,
        evaluated: Vec<Evaluated<'_>>,
        gathered: &Gathered,
        own: &Own,
        target: &mut Target<'_>,
    ) -> Result<(), Failure> {
        for one in evaluated {
            self.applied += 1;
            let transform = one.transform;
            if transform.mask {
                let named = transform.formulas().flat_map(|formula| formula.expression().secrets());
                let secrets = named.filter_map(|name| gathered.secrets.0.get(name));
                self.secrets.extend(secrets.map(|secret| Zeroizing::new(secret.expose().to_vec())));
            }
            if let Some(name) = &transform.credential {
                inject::remove_placeholder(target.headers, target.query);
                let injection = gathered.credentials.get(name);
                let injection = injection.ok_or_else(|| Failure::Credential(name.clone()))?;
                if self.put_credential(injection, transform, own, target) {
                    self.credentials.push(name.clone());
                }
            }
            self.put_headers(&one, own, target.headers);
            self.put_query(&one, own, target.query);
            if let Some(path) = &one.path {
                target.path.clone_from(path);
            }
            self.put_body(&one, target)?;
            if !self.can_be_masked() {
                return Err(Failure::of(transform, "secrets_too_long"));
            }
        }
        Ok(())
    }

    /// Puts a credential on. False: the client sent one of its own, for a narrower purpose, which stays.
    fn put_credential(
        &mut self,
        injection: &Injection,
        transform: &Transform,
        own: &Own,
        target: &mut Target<'_>,
    ) -> bool {
        let is_taken = match &injection.place {
            Place::Header(name, _) => own.header(name),
            Place::Query(name, _) => own.parameter(name),
            Place::Signer(_) => own.header(&header::AUTHORIZATION),
        };
        if is_taken && !transform.overrides {
            return false;
        }
        inject::apply(injection, target.headers, target.query);
        self.signer = injection.as_signer().cloned().or_else(|| self.signer.take());
        if transform.mask {
            self.secrets.extend(injection.secrets());
        }
        true
    }

    fn put_headers(&mut self, one: &Evaluated<'_>, own: &Own, headers: &mut HeaderMap) {
        for name in &one.transform.headers.remove {
            remove_named(headers, name);
        }
        for (name, made) in &one.headers {
            if made.is_secret && own.header(name) && !one.transform.overrides {
                continue;
            }
            remove_named(headers, name.as_str());
            headers.insert(name, made.value.clone());
            if made.is_secret && one.transform.mask {
                self.secrets.extend(header_secrets(name, made.value.as_bytes()));
            }
        }
    }

    fn put_query(&mut self, one: &Evaluated<'_>, own: &Own, given: &mut Option<String>) {
        for name in &one.transform.query.remove {
            query::remove(given, name);
        }
        for (name, made) in &one.query {
            if made.is_secret && own.parameter(name) && !one.transform.overrides {
                continue;
            }
            query::set(given, name, &made.value);
            self.keep(one, made.is_secret, &made.value);
        }
    }

    fn put_body(&mut self, one: &Evaluated<'_>, target: &mut Target<'_>) -> Result<(), Failure> {
        if one.json.is_empty() && one.form.is_empty() {
            return Ok(());
        }
        let failed = || Failure::of(one.transform, "body_unreadable");
        let kind = target.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        // What an earlier transform changed is read again, as it was made here.
        let again = target.body.as_ref().map(|body| ReadBody::new(kind, body));
        let read = again.as_ref().or(target.read).ok_or_else(failed)?;
        let value = read.value().ok_or_else(failed)?;
        let bytes = if read.is_form() {
            if !one.json.is_empty() {
                return Err(failed());
            }
            for (_, made) in &one.form {
                self.keep(one, made.is_secret, &made.value);
            }
            form(value, &one.form).ok_or_else(failed)?
        } else {
            if !one.form.is_empty() || !is_exact(value) {
                return Err(failed());
            }
            let mut value = value.clone();
            for (pointer, made) in &one.json {
                if let Json::String(text) = &made.value {
                    self.keep(one, made.is_secret, text);
                }
                if !pointer.put(&mut value, made.value.clone()) {
                    return Err(failed());
                }
            }
            value.to_string().into()
        };
        *target.body = Some(bytes);
        for name in &SUMS {
            target.headers.remove(name);
        }
        Ok(())
    }

    /// Remembers a value that must not come back.
    fn keep(&mut self, one: &Evaluated<'_>, is_secret: bool, value: &str) {
        if is_secret && one.transform.mask {
            self.secrets.push(Zeroizing::new(value.as_bytes().to_vec()));
        }
    }

    /// Whether it is no more than is looked for in a response.
    pub(crate) fn can_be_masked(&mut self) -> bool {
        let is_too_long =
            |secrets: &[Secret]| secrets.iter().map(|secret| secret.len()).sum::<usize>() > SECRETS_BYTES_MAX;
        if is_too_long(&self.secrets) {
            // What is made of a secret is often the secret.
            self.secrets.sort_unstable_by(|a, b| a.as_slice().cmp(b));
            self.secrets.dedup();
        }
        !is_too_long(&self.secrets)
    }

    /// Whether a response may hold something that is to be struck out.
    pub(crate) fn is_masked(&self) -> bool {
        self.secrets.iter().any(|secret| secret.len() >= SECRET_BYTES_MIN)
    }
}

/// Whether every number is written again as it was read. A whole one with more than 64 bits was read as the nearest that has
/// a point, which may be another.
fn is_exact(value: &Json) -> bool {
    match value {
        Json::Number(number) => !number.is_f64() || number.as_f64().is_some_and(|it| it.abs() < WHOLE_MAX),
        Json::Array(values) => values.iter().all(is_exact),
        Json::Object(members) => members.values().all(is_exact),
        Json::Null | Json::Bool(_) | Json::String(_) => true,
    }
}

/// A form with fields in the place of all of their names.
fn form(value: &Json, set: &[(&str, MadeText)]) -> Option<Bytes> {
    let mut text = form_urlencoded::Serializer::new(String::new());
    for (name, values) in value.as_object()? {
        if !set.iter().any(|(put, _)| put == name) {
            for value in values.as_array()? {
                text.append_pair(name, value.as_str()?);
            }
        }
    }
    for (name, made) in set {
        text.append_pair(name, &made.value);
    }
    Some(text.finish().into())
}
