//! Requests as the tests write them, and their decisions as they read them.

use std::fmt::Write;

use freehold_model::provider::Kind;
use freehold_policy::{
    Approval, Body, Decision, Denial, Destination, DnsDecision, NormalPath, Permit, Policy, ProviderGrant,
    Query, ReadBody, Reply, RequestHead, Scheme, Unreadable,
    cel::{Attribute, Map, Scope, Value},
    compile, grpc_call, parse,
};
use serde_json::json;

/// The provider of most tests.
pub(crate) fn provider() -> ProviderGrant {
    ProviderGrant {
        kind: Kind::Anthropic,
        domain: "api.anthropic.com".to_owned(),
        credential: Some("main-key".to_owned()),
    }
}

/// The policy of a role's document alone.
pub(crate) fn policy(document: &str) -> Policy {
    merged("", document)
}

/// The policy of a provider's document and a role's.
pub(crate) fn merged(base: &str, role: &str) -> Policy {
    let document = |text: &str| parse(text).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"));
    compile(&provider(), &document(base), &document(role)).unwrap()
}

/// A body, or none.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) kind: Option<String>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) read: Option<ReadBody>,
}

impl Content {
    /// `TYPE TEXT`, or nothing.
    pub(crate) fn new(text: &str) -> Self {
        match text.split_once(' ') {
            Some((kind, body)) => {
                Self { kind: Some(kind.to_owned()), bytes: body.as_bytes().to_vec(), read: None }
            }
            None => Self::default(),
        }
    }

    pub(crate) fn facts(&self) -> Body<'_> {
        Body {
            content_type: self.kind.as_deref(),
            length: Some(self.bytes.len() as u64),
            read: self.read.as_ref(),
        }
    }

    fn read(&mut self, wanted: Option<u64>) {
        self.read = wanted.map(|max| match self.bytes.len() as u64 <= max {
            true => ReadBody::new(self.kind.as_deref(), &self.bytes),
            false => ReadBody::failed(Unreadable::TooLong),
        });
    }
}

/// What expressions see: the request, and a fixed rest.
struct Seen<'a> {
    method: &'a str,
    path: &'a NormalPath<'a>,
    query: &'a Option<Query<'a>>,
    url_query: &'a str,
    body: &'a Content,
    reply: Option<(u16, &'a Content)>,
    headers: serde_json::Value,
}

impl Scope for Seen<'_> {
    fn get(&self, attribute: Attribute) -> Option<Value<'_>> {
        let call = || grpc_call(self.body.kind.as_deref(), self.path);
        Some(match attribute {
            Attribute::RequestMethod => Value::text(self.method),
            Attribute::RequestPath => Value::text(self.path.as_str()),
            Attribute::RequestQuery => Value::Map(Map::Source(self.query.as_ref()?)),
            Attribute::RequestHeaders | Attribute::ResponseHeaders => Value::json(&self.headers),
            Attribute::RequestWebsocket => Value::Bool(false),
            Attribute::RequestGrpcService => Value::text(call()?.0),
            Attribute::RequestGrpcMethod => Value::text(call()?.1),
            Attribute::ResponseStatus => Value::Int(self.reply?.0.into()),
            Attribute::ResponseBody => Value::json(self.reply?.1.read.as_ref()?.value()?),
            Attribute::WorkspaceId => Value::text("ws_0190c1f2d3a47b5c8d9e0f1a2b3c4d5e"),
            Attribute::RoleName => Value::text("coder"),
            Attribute::UserId => Value::text("system"),
            Attribute::Now => Value::Timestamp("2026-11-23T09:30:00Z".parse().unwrap()),
            of_body => self.body.read.as_ref()?.request(of_body, self.url_query)?,
        })
    }

    fn has_unknown_body(&self) -> bool {
        self.body.facts().is_unknown()
    }
}

/// A request: `METHOD scheme://host[:port]/path[?query][ TYPE BODY]`.
pub(crate) struct Request {
    method: String,
    destination: Destination,
    pub(crate) path: Result<NormalPath<'static>, String>,
    query: String,
    pub(crate) body: Content,
}

impl Request {
    pub(crate) fn new(text: &str) -> Self {
        let (method, rest) = text.split_once(' ').unwrap();
        let (url, body) = rest.split_once(' ').unwrap_or((rest, ""));
        let (scheme, rest) = url.split_once("://").unwrap();
        let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap()),
            _ => (authority, scheme.default_port()),
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let path = NormalPath::parse(path).map(NormalPath::into_owned);
        Self {
            method: method.to_owned(),
            destination: Destination::new(scheme, host, port).unwrap(),
            path: path.map_err(|problem| format!("no path: {problem}")),
            query: query.to_owned(),
            body: Content::new(body),
        }
    }

    /// Decides it, and more of what is seen then.
    pub(crate) fn decide<T>(
        &mut self,
        policy: &Policy,
        then: impl FnOnce(Decision, &RequestHead<'_>) -> T,
    ) -> T {
        let path = self.path.as_ref().unwrap();
        let headers = json!({"accept": "*/*"});
        let (destination, method, url_query) = (&self.destination, self.method.as_str(), self.query.as_str());
        let query = Query::parse(&self.query);
        let seen = |body| Seen {
            method,
            path,
            query: &query,
            url_query,
            body,
            reply: None,
            headers: headers.clone(),
        };
        let wanted = {
            let scope = seen(&self.body);
            let head = RequestHead { destination, method, path, scope: &scope, body: self.body.facts() };
            policy.body_wanted(&head)
        };
        self.body.read(wanted);
        let scope = Seen { method, path, query: &query, url_query, body: &self.body, reply: None, headers };
        let head = RequestHead { destination, method, path, scope: &scope, body: self.body.facts() };
        then(policy.decide(&head), &head)
    }

    /// What is said of a response, `STATUS[ TYPE BODY]`, to this request.
    pub(crate) fn answered(&self, permit: &Permit, text: &str) -> String {
        let (status, body) = text.split_once(' ').unwrap_or((text, ""));
        let (status, mut body) = (status.parse().unwrap(), Content::new(body));
        let Some(rule) = permit.response() else { return "passed".to_owned() };
        let wanted = rule.body_wanted(&Reply { status, body: body.facts() });
        body.read(wanted);
        let query = Query::parse(&self.query);
        let scope = Seen {
            method: &self.method,
            path: self.path.as_ref().unwrap(),
            query: &query,
            url_query: &self.query,
            body: &self.body,
            reply: Some((status, &body)),
            headers: json!({"x-class": "internal"}),
        };
        match rule.check(&Reply { status, body: body.facts() }, &scope) {
            Ok(()) => "passed".to_owned(),
            Err(reason) => format!("deny {}", reason.as_str()),
        }
    }
}

fn denied(denial: &Denial) -> String {
    let by = denial.rule.as_ref().map(|rule| format!(" by {}/{}", rule.capability, rule.rule));
    format!("deny {}{}", denial.reason.as_str(), by.unwrap_or_default())
}

/// `allow <capability>/<rule>` with all that the permit says, or `deny <reason>[ by <capability>/<rule>]`.
pub(crate) fn said(decision: &Decision) -> String {
    let permit = match decision {
        Decision::Deny(denial) => return denied(denial),
        Decision::Allow(permit) => permit,
    };
    let mut text = format!("allow {}/{}", permit.rule().capability, permit.rule().rule);
    if let Some(credential) = permit.credential() {
        write!(text, " with {credential}").unwrap();
    }
    if permit.approval() == Approval::Required {
        text.push_str(" after approval");
    }
    let names = |names: Vec<&str>, what: &str| match names.as_slice() {
        [] => String::new(),
        names => format!(" {what} by {}", names.join(", ")),
    };
    text += &names(permit.transforms().iter().map(|one| &*one.name.rule).collect(), "changed");
    text + &names(permit.counters().iter().map(|one| &*one.name.rule).collect(), "counted")
}

/// The decision on a request, or on `DNS name`.
pub(crate) fn decided(policy: &Policy, text: &str) -> String {
    if let Some(name) = text.strip_prefix("DNS ") {
        return match policy.decide_dns(name) {
            DnsDecision::Allow { capability } => format!("allow {capability}"),
            DnsDecision::Deny(denial) => denied(&denial),
        };
    }
    let mut request = Request::new(text);
    if let Err(problem) = &request.path {
        return problem.clone();
    }
    let destination = request.destination.clone();
    request.decide(policy, |decision, _| {
        if let Decision::Allow(permit) = &decision {
            assert_eq!(permit.destination(), &destination);
        }
        said(&decision)
    })
}
