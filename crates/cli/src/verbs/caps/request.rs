//! A request as somebody writes it down, the response to it, and what expressions see of both.

use std::collections::BTreeMap;

use freehold_model::Timestamp;
use freehold_policy::{
    Body, Destination, NormalPath, Policy, Query, ReadBody, Reply, RequestHead, ResponseRule, Scheme,
    Unreadable,
    cel::{Attribute, Map, MapSource, Scope, Value},
    grpc_call, plain_header_name,
};
use serde::de::IgnoredAny;

use super::cases::Subject;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    method: String,
    destination: Destination,
    path: NormalPath<'static>,
    query: String,
    message: Message,
}

/// A response.
#[derive(Debug)]
pub(super) struct Response {
    pub status: u16,
    pub message: Message,
}

/// Headers and a body.
#[derive(Debug, Default)]
pub(super) struct Message {
    headers: Texts,
    body: Vec<u8>,
    read: Option<ReadBody>,
}

impl Message {
    /// Takes a body with its type, which is among the headers where it is not given.
    ///
    /// # Errors
    /// When a header is none, or the type is given twice.
    pub(super) fn new(headers: &[String], content_type: Option<&str>, body: Vec<u8>) -> Result<Self, String> {
        let mut headers = Texts::parse(headers)?;
        if let Some(content_type) = content_type
            && headers.0.insert(CONTENT_TYPE.to_owned(), content_type.to_owned()).is_some()
        {
            return Err("the content type is given twice".to_owned());
        }
        Ok(Self { headers, body, read: None })
    }

    fn facts(&self) -> Body<'_> {
        Body {
            content_type: self.headers.0.get(CONTENT_TYPE).map(String::as_str),
            length: u64::try_from(self.body.len()).ok(),
            read: self.read.as_ref(),
        }
    }

    /// Reads the body as egress does, up to so many bytes.
    fn read(&mut self, max: u64) {
        let is_coded = self.headers.0.get("content-encoding").is_some_and(|coding| coding != "identity");
        self.read = Some(match u64::try_from(self.body.len()) {
            _ if is_coded => ReadBody::failed(Unreadable::Coded),
            Ok(length) if length <= max => ReadBody::new(self.facts().content_type, &self.body),
            _ => ReadBody::failed(Unreadable::TooLong),
        });
    }
}

const CONTENT_TYPE: &str = "content-type";

impl Request {
    /// Reads a method and a URL.
    ///
    /// # Errors
    /// What is wrong with them; for what egress refuses before any rule is asked, `deny` and the reason.
    pub(super) fn parse(method: &str, url: &str, message: Message) -> Result<Self, String> {
        if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(format!("`{method}`: methods are in upper case, `{}`", method.to_ascii_uppercase()));
        }
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
            query: query.to_owned(),
            message,
        })
    }

    /// Why rules may not see in its body what whoever wrote it sees.
    pub(super) fn doubt(&self) -> Option<String> {
        let Message { headers, body, .. } = &self.message;
        if body.is_empty() {
            return None;
        }
        let json = serde_json::from_slice::<IgnoredAny>(body);
        match (headers.0.get(CONTENT_TYPE), json) {
            (Some(content_type), Err(error)) if content_type.contains("json") => {
                Some(format!("the body is no JSON: {error}"))
            }
            (None, Ok(_)) if body.starts_with(b"{") || body.starts_with(b"[") => Some(
                "the body has no type, so that rules see none of its fields; add `--content-type application/json`"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Reads its body where the policy wants it.
    pub(super) fn read_for(&mut self, policy: &Policy, subject: &Subject) {
        let wanted = policy.body_wanted(&self.head(&Known::new(self, None, subject)));
        if let Some(max) = wanted {
            self.message.read(max);
        }
    }

    /// What is decided on.
    pub(super) fn head<'a>(&'a self, scope: &'a Known<'a>) -> RequestHead<'a> {
        RequestHead {
            destination: &self.destination,
            method: &self.method,
            path: &self.path,
            scope,
            body: self.message.facts(),
        }
    }
}

impl Response {
    /// Reads its body where the rule wants it.
    pub(super) fn read_for(&mut self, rule: &ResponseRule) {
        if let Some(max) = rule.body_wanted(&self.reply()) {
            self.message.read(max);
        }
    }

    /// What is checked.
    pub(super) fn reply(&self) -> Reply<'_> {
        Reply { status: self.status, body: self.message.facts() }
    }
}

/// What expressions see.
pub(super) struct Known<'a> {
    request: &'a Request,
    query: Option<Query<'a>>,
    response: Option<&'a Response>,
    subject: &'a Subject,
    now: Timestamp,
}

impl<'a> Known<'a> {
    pub(super) fn new(request: &'a Request, response: Option<&'a Response>, subject: &'a Subject) -> Self {
        let query = Query::parse(&request.query);
        Self { request, query, response, subject, now: subject.now.unwrap_or_else(Timestamp::now) }
    }

    fn grpc(&self) -> Option<(&str, &str)> {
        grpc_call(self.request.message.facts().content_type, &self.request.path)
    }
}

impl Scope for Known<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        let Self { request, query, response, subject, now } = self;
        Some(match attribute {
            Attribute::RequestMethod => Value::text(&request.method),
            Attribute::RequestScheme => Value::text(request.destination.scheme().as_str()),
            Attribute::RequestHost => Value::text(request.destination.host()),
            Attribute::RequestPort => Value::Int(request.destination.port().into()),
            Attribute::RequestPath => Value::text(request.path.as_str()),
            Attribute::RequestQuery => Value::Map(Map::Source(query.as_ref()?)),
            Attribute::RequestHeaders => Value::Map(Map::Source(&request.message.headers)),
            Attribute::RequestWebsocket => {
                let upgrade = request.message.headers.0.get("upgrade");
                Value::Bool(upgrade.is_some_and(|to| to.eq_ignore_ascii_case("websocket")))
            }
            Attribute::RequestGrpcService => Value::text(self.grpc()?.0),
            Attribute::RequestGrpcMethod => Value::text(self.grpc()?.1),
            Attribute::ResponseStatus => Value::Int(response.as_ref()?.status.into()),
            Attribute::ResponseHeaders => Value::Map(Map::Source(&response.as_ref()?.message.headers)),
            Attribute::ResponseBody => Value::json(response.as_ref()?.message.read.as_ref()?.value()?),
            Attribute::WorkspaceId => {
                Value::text(subject.workspace.as_deref().unwrap_or("ws_00000000000000000000000000000000"))
            }
            Attribute::RoleName => Value::text(subject.role.as_deref().unwrap_or("role")),
            Attribute::UserId => Value::text(subject.user.as_deref().unwrap_or("system")),
            Attribute::TaskId => Value::text(subject.task.as_deref()?),
            Attribute::Now => Value::Timestamp(*now),
            Attribute::Secrets => Value::Map(Map::Source(&Placeholders)),
            of_body => request.message.read.as_ref()?.request(of_body, &request.query)?,
        })
    }

    fn has_unknown_body(&self) -> bool {
        self.request.message.facts().is_unknown()
    }
}

/// Secrets are not known here: each stands for itself.
#[derive(Debug)]
struct Placeholders;

impl MapSource for Placeholders {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        Some(Value::made(&format!("secrets[{key:?}]")))
    }

    fn keys(&self) -> Vec<&str> {
        Vec::new()
    }

    fn len(&self) -> usize {
        0
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
            let of_name = texts.0.entry(plain_header_name(name.trim())).or_default();
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

    fn len(&self) -> usize {
        self.0.len()
    }
}
