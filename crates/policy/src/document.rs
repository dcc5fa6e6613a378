//! A checked document: the values that [`crate::parse`] makes and [`crate::compile`] takes.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use crate::{
    Problem,
    body::BodyRule,
    budget::Counter,
    cel::{CelProblem, Expression, Fault, Place, Scope, Type, Value, Work},
    glob::Glob,
    path::NormalPath,
    respond::ResponseRule,
    transform::Transform,
};

/// A checked `caps.yaml`: capabilities in the order written, names unique.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Document {
    /// Its capabilities.
    pub capabilities: Vec<Capability>,
    /// What is no error, and probably not what its author means.
    pub warnings: Vec<Problem>,
}

impl Document {
    /// The names of the credentials that its transforms put on, each once and sorted.
    pub fn credentials(&self) -> BTreeSet<&str> {
        self.transforms().filter_map(|transform| transform.credential.as_deref()).collect()
    }

    /// The names of the secrets that its transforms use, each once and sorted.
    pub fn secrets(&self) -> BTreeSet<&str> {
        self.transforms().flat_map(Transform::secrets).collect()
    }

    fn transforms(&self) -> impl Iterator<Item = &Transform> {
        self.capabilities.iter().flat_map(|capability| &capability.transforms)
    }
}

/// Something a role may do. Its type is `http`, the only one there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capability {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub allow: Vec<Rule>,
    /// What it denies, whatever any rule allows.
    pub deny: Vec<Rule>,
    /// What is changed of requests that it allows, in order.
    pub transforms: Vec<Transform>,
    /// How much of what it allows may be used.
    pub budgets: Vec<Counter>,
}

/// One kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name, when it has one.
    pub name: Option<String>,
    /// The hosts; never empty.
    pub domains: Vec<DomainPattern>,
    /// The methods; empty in a rule that denies every method.
    pub methods: Vec<Method>,
    /// The paths; empty for any.
    pub paths: Vec<PathPattern>,
    /// Whether plain HTTP is allowed beside HTTPS. A rule that denies has it.
    pub allow_insecure: bool,
    /// What must hold besides.
    pub when: Vec<Condition>,
    /// What the request's body must be.
    pub body: Option<BodyRule>,
    /// What the response must be. Never in a rule that denies.
    pub response: Option<ResponseRule>,
    /// Whether a person is asked. Never in a rule that denies.
    pub approval: Approval,
}

/// Whether a person must agree to a request that a rule allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Approval {
    /// Nobody is asked.
    #[default]
    NotNeeded,
    /// A person must agree.
    Required,
}

/// An expression that must hold.
pub type Condition = Formula;

/// An expression as it is written. Two are equal when they are written alike.
#[derive(Debug, Clone)]
pub struct Formula {
    source: Box<str>,
    expression: Arc<Expression>,
}

impl Formula {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(source: &str, place: Place, wanted: &Type) -> Result<Self, CelProblem> {
        let expression = Expression::compile(source, place, wanted)?;
        Ok(Self { source: source.into(), expression: Arc::new(expression) })
    }

    /// As it is written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value, a text.
    ///
    /// # Errors
    /// When it has none, or another.
    pub fn text(&self, scope: &dyn Scope, work: &Work) -> Result<String, Fault> {
        match self.expression.evaluate(scope, work)? {
            Value::Text(text) => Ok(text.as_str().to_owned()),
            _ => Err(Fault::Type),
        }
    }

    /// Its value, as JSON.
    ///
    /// # Errors
    /// When it has none, or one that JSON has not.
    pub fn json(&self, scope: &dyn Scope, work: &Work) -> Result<serde_json::Value, Fault> {
        self.expression.evaluate(scope, work)?.to_json(work)
    }

    /// The expression.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }
}

impl PartialEq for Formula {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Formula {}

/// The methods a rule can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// PATCH.
    Patch,
    /// HEAD.
    Head,
    /// OPTIONS.
    Options,
}

impl Method {
    /// Every method, in the order documented.
    pub const ALL: &'static [Self] =
        &[Self::Get, Self::Post, Self::Put, Self::Delete, Self::Patch, Self::Head, Self::Options];

    /// The method of this exact spelling; any other (`CONNECT`, `TRACE`, lower case) is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.as_str() == text)
    }

    /// Its spelling on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }
}

/// Hosts that a rule names: `*` for characters of one label, `**` for any number of labels, an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainPattern {
    text: Box<str>,
    pub(crate) glob: Glob,
    /// `None`: the port of the request's scheme.
    pub(crate) port: Option<u16>,
}

impl DomainPattern {
    /// Parses `host`, `host:port`, `[v6]:port`, with wildcards in names. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let is_network = text.rsplit_once('/').is_some_and(|(of, bits)| {
                of.parse::<IpAddr>().is_ok() && bits.bytes().all(|byte| byte.is_ascii_digit())
            });
            return Err(match is_network {
                true => "there are no networks here: name each address, or a name",
                false => "name the host alone, without scheme or path",
            }
            .to_owned());
        }
        let (host, port) = split_port(text)?;
        let host = if host.contains('*') { wild_host(host)? } else { plain_host(host)? };
        let glob = Glob::parse(&host, b'.').map_err(|_| "`**` must be a whole label".to_owned())?;
        Ok(Self { text: host.into(), glob, port: port.filter(|&port| port != 443) })
    }

    /// The host, as it is matched.
    pub fn host(&self) -> &str {
        &self.text
    }
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.rfind(':') {
        // The colons of a bare IPv6 literal are its own.
        Some(at) if text.ends_with(']') || text[..at].contains(':') && !text[..at].ends_with(']') => {
            return Ok((text, None));
        }
        Some(at) => (&text[..at], &text[at + 1..]),
        None => return Ok((text, None)),
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(number))),
        _ => Err("the port must be a number from 1 to 65535".to_owned()),
    }
}

fn plain_host(host: &str) -> Result<String, String> {
    crate::normal_host(host).map_err(|_| {
        "not a host name or IP address (write international names in their `xn--` form)".to_owned()
    })
}

fn wild_host(host: &str) -> Result<String, String> {
    // With a letter in the stars' place the rest must be a host.
    let normal = plain_host(&host.replace('*', "x"))?;
    let trimmed = host.strip_suffix('.').unwrap_or(host);
    debug_assert_eq!(normal.len(), trimmed.len());
    Ok(trimmed.to_ascii_lowercase())
}

/// Paths that a rule names: `*` for characters of one segment, `**` for any number of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    exact: Glob,
    /// The same without what servers read in different ways.
    loose: Glob,
}

impl PathPattern {
    /// Parses a pattern. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(bad) = text.chars().find(|c| matches!(c, '?' | '[' | ']' | '{' | '}' | '#')) {
            return Err(format!("`{bad}` has no place in a path; only `*` and `**` are wildcards"));
        }
        let normal = NormalPath::parse(text).map_err(|problem| format!("the path {problem}"))?;
        let glob =
            |text: &str| Glob::parse(text, b'/').map_err(|_| "`**` must be a whole segment".to_owned());
        let exact = glob(normal.as_str())?;
        let loose = glob(&normal.loosened()).unwrap_or_else(|_| exact.clone());
        Ok(Self { exact, loose })
    }

    /// Whether the path, in normal form, is one of these.
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        self.exact.matches(path.as_str(), b'/')
    }

    /// Whether a server may take the path for one of these: with escaped characters read as themselves, and without what
    /// stands behind a `;` in each segment.
    pub fn may_match(&self, path: &NormalPath<'_>) -> bool {
        self.matches(path) || self.loose.matches(&path.loosened(), b'/')
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
