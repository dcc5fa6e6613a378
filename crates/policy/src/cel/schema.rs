//! What expressions can see: the attributes, their types, and where each is known.

use std::fmt;

use crate::suggest::{nearest, suggest};

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A signed integer of 64 bits.
    Int,
    /// A floating point number of 64 bits.
    Double,
    /// Text in UTF-8.
    Text,
    /// A moment.
    Timestamp,
    /// A length of time.
    Duration,
    /// Values of one type, in order.
    List(Box<Self>),
    /// Values of one type by names.
    Map(Box<Self>),
    /// Known when the expression is evaluated: what stands in a body.
    Dyn,
}

impl Type {
    /// Whether a value of this type may be one of the other, as far as one can tell beforehand.
    pub fn may_be(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(one), Self::List(other)) | (Self::Map(one), Self::Map(other)) => one.may_be(other),
            (one, other) => one == other,
        }
    }

    /// The type of what is of either of two types.
    pub(super) fn or(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::List(one), Self::List(other)) => Self::List(Box::new(one.or(other))),
            (Self::Map(one), Self::Map(other)) => Self::Map(Box::new(one.or(other))),
            (one, other) if one == other => one.clone(),
            _ => Self::Dyn,
        }
    }

    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("a boolean"),
            Self::Int => f.write_str("an integer"),
            Self::Double => f.write_str("a floating point number"),
            Self::Text => f.write_str("a text"),
            Self::Timestamp => f.write_str("a timestamp"),
            Self::Duration => f.write_str("a duration"),
            Self::List(of) => write!(f, "a list (of {of})"),
            Self::Map(of) => write!(f, "a map (of {of})"),
            Self::Dyn => f.write_str("a value of any type"),
        }
    }
}

/// Where an expression stands, which fixes what is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// A rule's `when`: before the request goes upstream.
    Request,
    /// A rule's `response.when`.
    Response,
    /// A value of a transform, which may use secrets.
    Transform,
}

/// Something that expressions can see. Its name in the language is [`Attribute::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Attribute {
    /// The method, in upper case.
    RequestMethod,
    /// `https` or `http`.
    RequestScheme,
    /// The host in normal form.
    RequestHost,
    /// The port.
    RequestPort,
    /// The path in normal form, without the query.
    RequestPath,
    /// The query's values by name, unescaped; each name may have several.
    RequestQuery,
    /// Headers by lower-case name; several of one name are joined by `, `.
    RequestHeaders,
    /// The body: JSON as it is, a form as lists of values by name; absent for other types.
    RequestBody,
    /// Whether the request asks for a WebSocket.
    RequestWebsocket,
    /// `query`, `mutation` or `subscription`.
    RequestGraphqlType,
    /// The operation's name, empty when it has none.
    RequestGraphqlName,
    /// The names of the fields that the operation asks for at its top.
    RequestGraphqlFields,
    /// The gRPC service with its package.
    RequestGrpcService,
    /// The gRPC method.
    RequestGrpcMethod,
    /// The method of an MCP message, such as `tools/call`.
    RequestMcpMethod,
    /// The tool that an MCP message calls.
    RequestMcpTool,
    /// The arguments of that call.
    RequestMcpArguments,
    /// The status code.
    ResponseStatus,
    /// Headers, as those of the request.
    ResponseHeaders,
    /// The body, as that of the request.
    ResponseBody,
    /// The workspace's id.
    WorkspaceId,
    /// The role's name.
    RoleName,
    /// The running task's id; absent for traffic without one.
    TaskId,
    /// The id of the member for whom the workspace was made; `system` for API keys.
    UserId,
    /// The time of the decision.
    Now,
    /// Secrets by name.
    Secrets,
}

/// Every attribute with its name and its type. Those of one object stand together.
const ATTRIBUTES: &[(&str, Attribute)] = &[
    ("request.method", Attribute::RequestMethod),
    ("request.scheme", Attribute::RequestScheme),
    ("request.host", Attribute::RequestHost),
    ("request.port", Attribute::RequestPort),
    ("request.path", Attribute::RequestPath),
    ("request.query", Attribute::RequestQuery),
    ("request.headers", Attribute::RequestHeaders),
    ("request.body", Attribute::RequestBody),
    ("request.websocket", Attribute::RequestWebsocket),
    ("request.graphql.type", Attribute::RequestGraphqlType),
    ("request.graphql.name", Attribute::RequestGraphqlName),
    ("request.graphql.fields", Attribute::RequestGraphqlFields),
    ("request.grpc.service", Attribute::RequestGrpcService),
    ("request.grpc.method", Attribute::RequestGrpcMethod),
    ("request.mcp.method", Attribute::RequestMcpMethod),
    ("request.mcp.tool", Attribute::RequestMcpTool),
    ("request.mcp.arguments", Attribute::RequestMcpArguments),
    ("response.status", Attribute::ResponseStatus),
    ("response.headers", Attribute::ResponseHeaders),
    ("response.body", Attribute::ResponseBody),
    ("workspace.id", Attribute::WorkspaceId),
    ("role.name", Attribute::RoleName),
    ("task.id", Attribute::TaskId),
    ("user.id", Attribute::UserId),
    ("now", Attribute::Now),
    ("secrets", Attribute::Secrets),
];

impl Attribute {
    /// Every attribute.
    pub fn all() -> impl Iterator<Item = Self> {
        ATTRIBUTES.iter().map(|(_, attribute)| *attribute)
    }

    /// Its name in the language.
    pub fn name(self) -> &'static str {
        ATTRIBUTES.iter().find(|(_, attribute)| *attribute == self).map_or("", |(name, _)| name)
    }

    /// Its type.
    pub fn kind(self) -> Type {
        match self {
            Self::RequestPort | Self::ResponseStatus => Type::Int,
            Self::RequestWebsocket => Type::Bool,
            Self::RequestQuery => Type::Map(Box::new(Type::list(Type::Text))),
            Self::RequestHeaders | Self::ResponseHeaders | Self::Secrets => Type::Map(Box::new(Type::Text)),
            Self::RequestGraphqlFields => Type::list(Type::Text),
            Self::RequestBody | Self::ResponseBody | Self::RequestMcpArguments => Type::Dyn,
            Self::Now => Type::Timestamp,
            _ => Type::Text,
        }
    }

    /// Whether it is of a GraphQL operation.
    pub(crate) const fn is_graphql(self) -> bool {
        matches!(self, Self::RequestGraphqlType | Self::RequestGraphqlName | Self::RequestGraphqlFields)
    }

    /// Whether it is what is understood of a body by the rules of a protocol.
    pub(super) const fn is_understood(self) -> bool {
        self.needs_request_body() && !matches!(self, Self::RequestBody)
    }

    /// Whether the request's body must be known first.
    pub const fn needs_request_body(self) -> bool {
        matches!(
            self,
            Self::RequestBody
                | Self::RequestGraphqlType
                | Self::RequestGraphqlName
                | Self::RequestGraphqlFields
                | Self::RequestMcpMethod
                | Self::RequestMcpTool
                | Self::RequestMcpArguments
        )
    }

    /// Why it is not known at a place, if it is not.
    pub(super) fn refusal(self, place: Place) -> Option<&'static str> {
        match self {
            Self::ResponseStatus | Self::ResponseHeaders | Self::ResponseBody if place != Place::Response => {
                Some("the response is known in `response.when` alone")
            }
            Self::Secrets if place != Place::Transform => Some("secrets are for transforms alone"),
            _ => None,
        }
    }
}

/// What a name with dots is.
pub(super) enum Named {
    Attribute(Attribute),
    /// A group of attributes.
    Object,
    Unknown,
}

pub(super) fn named(path: &str) -> Named {
    if let Some((_, attribute)) = ATTRIBUTES.iter().find(|(name, _)| *name == path) {
        return Named::Attribute(*attribute);
    }
    if members(path).next().is_some() { Named::Object } else { Named::Unknown }
}

/// The attributes of an object, and of objects in it.
pub(super) fn members(object: &str) -> impl Iterator<Item = (&'static str, Attribute)> {
    let below = move |name: &'static str| name.strip_prefix(object).and_then(|rest| rest.strip_prefix('.'));
    ATTRIBUTES.iter().filter_map(move |(name, attribute)| below(name).map(|rest| (rest, *attribute)))
}

/// The names that an object has, or those that are known at a place at all, for a message.
pub(super) fn known_names(object: Option<&str>, place: Place) -> String {
    let all: Vec<&str> = match object {
        Some(object) => members(object).map(|(name, _)| name).collect(),
        None => {
            let known = ATTRIBUTES.iter().filter(|(_, attribute)| attribute.refusal(place).is_none());
            known.map(|(name, _)| *name).collect()
        }
    };
    let mut names: Vec<&str> = all.iter().map(|name| name.split('.').next().unwrap_or(name)).collect();
    names.dedup();
    names.join("`, `")
}

/// How a problem with an unknown name ends: with the attribute that may be meant, or with `all`.
pub(super) fn like(path: &str, all: &str) -> String {
    // The name alone, without the object that it is a field of; those of the request come first.
    let known = ATTRIBUTES.iter().map(|(name, _)| *name);
    if let Some(field) = known.clone().find(|name| name.rsplit('.').next() == Some(path)) {
        return format!("did you mean `{field}`?");
    }
    if let Some((object, field)) = path.rsplit_once('.')
        && members(object).next().is_some()
    {
        let fields = members(object).filter_map(|(name, _)| name.split('.').next());
        return nearest(field, fields)
            .map_or_else(|| all.to_owned(), |name| format!("did you mean `{object}.{name}`?"));
    }
    let objects = known.clone().filter_map(|name| name.rsplit_once('.').map(|(object, _)| object));
    suggest(path, known.chain(objects), all)
}
