//! What the conditions of rules see of a request: the head as it goes upstream, and whose it is.

use std::cell::OnceCell;

use freehold_model::Timestamp;
use freehold_policy::{
    Body, Destination, NormalPath, Query, ReadBody,
    cel::{Attribute, Map, MapSource, Scope, Value},
    grpc_call,
};
use http::{HeaderMap, HeaderValue, header, request::Parts};

use crate::{
    Grant,
    audit::Attribution,
    headers::{is_same_name, plain_name, single},
};

/// One request, and its response where there is one. What an expression does not ask for costs nothing.
pub(crate) struct Facts<'a> {
    destination: &'a Destination,
    path: &'a NormalPath<'a>,
    grant: &'a Grant,
    attribution: &'a Attribution,
    websocket: bool,
    method: &'a str,
    headers: Headers<'a>,
    url_query: &'a str,
    query: OnceCell<Option<Query<'a>>>,
    read: Option<&'a ReadBody>,
    has_unknown_body: bool,
    response: Option<Answer<'a>>,
    ids: OnceCell<Ids>,
}

struct Ids {
    workspace: String,
    task: Option<String>,
}

struct Answer<'a> {
    status: u16,
    headers: Headers<'a>,
    read: Option<&'a ReadBody>,
}

#[derive(Debug)]
struct Headers<'a> {
    given: &'a HeaderMap,
    /// Their names, where they are spelled otherwise.
    plain: OnceCell<Vec<Option<String>>>,
}

impl<'a> Headers<'a> {
    const fn new(given: &'a HeaderMap) -> Self {
        Self { given, plain: OnceCell::new() }
    }
}

impl<'a> Facts<'a> {
    /// The head of a request.
    pub(crate) fn new(
        destination: &'a Destination,
        path: &'a NormalPath<'a>,
        parts: &'a Parts,
        grant: &'a Grant,
        attribution: &'a Attribution,
    ) -> Self {
        Self {
            destination,
            path,
            grant,
            attribution,
            websocket: false,
            method: parts.method.as_str(),
            headers: Headers::new(&parts.headers),
            url_query: parts.uri.query().unwrap_or_default(),
            query: OnceCell::new(),
            read: None,
            has_unknown_body: false,
            response: None,
            ids: OnceCell::new(),
        }
    }

    /// And whether it asks for a WebSocket, and its body.
    pub(crate) fn with(mut self, websocket: bool, body: &Body<'a>) -> Self {
        (self.websocket, self.read, self.has_unknown_body) = (websocket, body.read, body.is_unknown());
        self
    }

    /// And its response.
    pub(crate) fn answered(mut self, parts: &'a http::response::Parts, read: Option<&'a ReadBody>) -> Self {
        self.response =
            Some(Answer { status: parts.status.as_u16(), headers: Headers::new(&parts.headers), read });
        self
    }

    fn ids(&self) -> &Ids {
        self.ids.get_or_init(|| Ids {
            workspace: self.attribution.workspace_id().to_string(),
            task: self.attribution.task_id().map(|id| id.to_string()),
        })
    }

    fn grpc(&self) -> Option<(&str, &str)> {
        grpc_call(single(self.headers.given, &header::CONTENT_TYPE), self.path)
    }
}

impl Scope for Facts<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        Some(match attribute {
            Attribute::RequestMethod => Value::text(self.method),
            Attribute::RequestScheme => Value::text(self.destination.scheme().as_str()),
            Attribute::RequestHost => Value::text(self.destination.host()),
            Attribute::RequestPort => Value::Int(self.destination.port().into()),
            Attribute::RequestPath => Value::text(self.path.as_str()),
            Attribute::RequestQuery => {
                let query = self.query.get_or_init(|| Query::parse(self.url_query));
                Value::Map(Map::Source(query.as_ref()?))
            }
            Attribute::RequestHeaders => Value::Map(Map::Source(&self.headers)),
            Attribute::RequestWebsocket => Value::Bool(self.websocket),
            Attribute::RequestGrpcService => Value::text(self.grpc()?.0),
            Attribute::RequestGrpcMethod => Value::text(self.grpc()?.1),
            Attribute::ResponseStatus => Value::Int(self.response.as_ref()?.status.into()),
            Attribute::ResponseHeaders => Value::Map(Map::Source(&self.response.as_ref()?.headers)),
            Attribute::ResponseBody => Value::json(self.response.as_ref()?.read?.value()?),
            Attribute::WorkspaceId => Value::text(&self.ids().workspace),
            Attribute::RoleName => Value::text(&self.grant.role),
            Attribute::TaskId => Value::text(self.ids().task.as_deref()?),
            Attribute::UserId => Value::text(self.attribution.user_id()),
            Attribute::Now => Value::Timestamp(Timestamp::now()),
            of_body if of_body.needs_request_body() => self.read?.request(of_body, self.url_query)?,
            _ => return None,
        })
    }

    fn has_unknown_body(&self) -> bool {
        self.has_unknown_body
    }
}

impl MapSource for Headers<'_> {
    /// Fields of one name together, in whatever spelling: servers that hand headers on as variables make no difference.
    fn get(&self, key: &str) -> Option<Value<'_>> {
        let mut values =
            self.given.iter().filter(|(name, _)| is_same_name(name.as_str(), key)).map(|(_, value)| value);
        let (first, second) = (values.next()?, values.next());
        // What is no text is shown with marks in the place of what cannot be read, so that no condition takes it for a
        // header that is not there.
        match (second, first.to_str()) {
            (None, Ok(text)) => Some(Value::text(text)),
            _ => {
                let all: Vec<_> =
                    [first].into_iter().chain(second).chain(values).map(HeaderValue::as_bytes).collect();
                Some(Value::made(&String::from_utf8_lossy(&all.join(&b", "[..]))))
            }
        }
    }

    fn keys(&self) -> Vec<&str> {
        let plain = || self.given.keys().map(|name| plain_name(name.as_str())).collect();
        let names = self.given.keys().zip(self.plain.get_or_init(plain));
        names.map(|(name, plain)| plain.as_deref().unwrap_or(name.as_str())).collect()
    }

    fn len(&self) -> usize {
        self.given.keys_len()
    }
}
