//! A request as somebody writes it down, and what conditions see of it.

use std::collections::BTreeMap;

use freehold_model::Timestamp;
use freehold_policy::{
    Body, Destination, NormalPath, RequestHead, Scheme,
    cel::{Attribute, List, Map, MapSource, Scope, Value},
    is_plain_query,
};
use serde::Deserialize;

/// The most cases of a file.
const CASES_MAX: usize = 10_000;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    method: String,
    destination: Destination,
    path: NormalPath<'static>,
    /// `None` where servers read it in different ways.
    query: Option<Values>,
    headers: Texts,
}

/// Whose request it is, and when.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// What conditions see as `role.name`
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// What conditions see as `workspace.id`
    #[arg(long, value_name = "ID")]
    workspace: Option<String>,
    /// What conditions see as `task.id`; absent without it
    #[arg(long, value_name = "ID")]
    task: Option<String>,
    /// What conditions see as `user.id`
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// What conditions see as `now`; the present time without it
    #[arg(long, value_name = "TIME")]
    now: Option<Timestamp>,
}

/// A request and what is expected.
pub(super) struct Case {
    pub name: String,
    pub request: Result<Request, String>,
    pub subject: Subject,
    pub expect: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    subject: Subject,
    expect: String,
}

/// Reads a file of cases.
///
/// # Errors
/// What is wrong with it, with its place.
pub(super) fn cases(text: &str) -> Result<Vec<Case>, String> {
    let written: Vec<Written> = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if written.is_empty() {
        return Err("there is no case in it".to_owned());
    }
    if written.len() > CASES_MAX {
        return Err(format!("more than {CASES_MAX} cases"));
    }
    let case = |Written { request, headers, subject, expect }: Written| {
        if !["allow", "deny"].contains(&expect.split(' ').next().unwrap_or_default()) {
            return Err(format!("`expect: {expect}`: it begins with `allow` or `deny`"));
        }
        let (method, url) =
            request.split_once(' ').ok_or_else(|| format!("`{request}`: expected a method and a URL"))?;
        let headers: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let parsed = match Request::parse(method, url, &headers) {
            Err(refusal) if refusal.starts_with("deny ") => Err(refusal),
            parsed => Ok(parsed?),
        };
        Ok(Case { name: request, request: parsed, subject, expect })
    };
    written.into_iter().map(case).collect()
}

impl Request {
    /// Reads a method, a URL and headers.
    ///
    /// # Errors
    /// What is wrong with them; for what egress refuses before any rule is asked, `deny` and the reason.
    pub(super) fn parse(method: &str, url: &str, headers: &[String]) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| format!("`{url}`: expected `https://` or `http://`"))?;
        let scheme = match scheme {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            other => return Err(format!("`{other}://`: there are `https` and `http`")),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, target) = rest.find(['/', '?']).map_or((rest, "/"), |at| rest.split_at(at));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = if path.is_empty() { "/" } else { path };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (authority, scheme.default_port()),
        };
        let destination =
            Destination::new(scheme, host, port).map_err(|error| format!("`{host}`: {error}"))?;
        let path =
            NormalPath::parse(path).map_err(|problem| format!("deny path_ambiguous (the path {problem})"))?;
        Ok(Self {
            method: method.to_owned(),
            destination,
            path: path.into_owned(),
            query: is_plain_query(query).then(|| Values::parse(query)),
            headers: Texts::parse(headers)?,
        })
    }

    /// What is decided on.
    pub(super) fn head<'a>(&'a self, scope: &'a Known<'a>) -> RequestHead<'a> {
        RequestHead {
            destination: &self.destination,
            method: &self.method,
            path: &self.path,
            scope,
            body: Body::NONE,
        }
    }
}

/// What conditions see.
pub(super) struct Known<'a> {
    request: &'a Request,
    subject: &'a Subject,
    now: Timestamp,
}

impl<'a> Known<'a> {
    pub(super) fn new(request: &'a Request, subject: &'a Subject) -> Self {
        Self { request, subject, now: subject.now.unwrap_or_else(super::now) }
    }
}

impl Scope for Known<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        let Self { request, subject, now } = self;
        let or = |given: &'_ Option<String>, otherwise: &'static str| {
            given.clone().unwrap_or_else(|| otherwise.to_owned())
        };
        Some(match attribute {
            Attribute::RequestMethod => Value::text(&request.method),
            Attribute::RequestScheme => Value::text(request.destination.scheme().as_str()),
            Attribute::RequestHost => Value::text(request.destination.host()),
            Attribute::RequestPort => Value::Int(request.destination.port().into()),
            Attribute::RequestPath => Value::text(request.path.as_str()),
            Attribute::RequestQuery => Value::Map(Map::Source(request.query.as_ref()?)),
            Attribute::RequestHeaders => Value::Map(Map::Source(&request.headers)),
            Attribute::RequestWebsocket => Value::Bool(false),
            Attribute::WorkspaceId => {
                Value::made(&or(&subject.workspace, "ws_00000000000000000000000000000000"))
            }
            Attribute::RoleName => Value::made(&or(&subject.role, "role")),
            Attribute::UserId => Value::made(&or(&subject.user, "system")),
            Attribute::TaskId => Value::text(subject.task.as_deref()?),
            Attribute::Now => Value::Timestamp(*now),
            _ => return None,
        })
    }
}

/// Headers.
#[derive(Debug, Default)]
struct Texts(BTreeMap<String, String>);

impl Texts {
    fn parse(headers: &[String]) -> Result<Self, String> {
        let mut texts = Self::default();
        for header in headers {
            let (name, value) =
                header.split_once(':').ok_or_else(|| format!("`{header}`: expected `name: value`"))?;
            let value = value.trim();
            let of_name = texts.0.entry(name.trim().to_ascii_lowercase()).or_default();
            if !of_name.is_empty() {
                of_name.push_str(", ");
            }
            of_name.push_str(value);
        }
        Ok(texts)
    }
}

impl MapSource for Texts {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        self.0.get(key).map(|text| Value::text(text))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Parameters of a query.
#[derive(Debug, Default)]
struct Values(BTreeMap<String, Vec<String>>);

impl Values {
    fn parse(query: &str) -> Self {
        let mut values = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            values.0.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        values
    }
}

impl MapSource for Values {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        let values = self.0.get(key)?;
        Some(Value::List(List::Made(values.iter().map(|value| Value::text(value)).collect())))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
