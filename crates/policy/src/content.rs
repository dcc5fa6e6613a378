//! What stands in a body that was read: JSON, a form, and what is understood of both.
//!
//! One reading for all who need it: egress decides on it, and `freehold caps` shows it. It is strict: what two programs
//! could read in two ways has no value, and then no rule that looks into it allows anything.

use std::{fmt, sync::OnceLock};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value as Json};

use crate::{
    cel::{Attribute, List, Value},
    graphql::{self, Operation},
    media::MediaType,
    names::json_clash,
    query,
};

/// The most values (texts, numbers, lists, objects, keys) of a body that is read.
pub const BODY_VALUES_MAX: usize = 100_000;
/// How deep a body that is read may be nested.
pub const BODY_DEPTH_MAX: usize = 64;
/// The method of an MCP message that calls a tool.
pub(crate) const MCP_CALL: &str = "tools/call";

/// Why it cannot be told what stands in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is longer than the rules read.
    #[error("it is longer than the rules read")]
    TooLong,
    /// It has a content coding, such as gzip.
    #[error("it is compressed")]
    Coded,
    /// It is not what its type says.
    #[error("it is not what its type says")]
    Malformed,
    /// It is JSON that names a key twice, also where case alone differs, a form that servers read in different ways, or not
    /// in UTF-8.
    #[error("servers read it in different ways")]
    Ambiguous,
    /// It has too many values, or is nested too deep.
    #[error("it has too many values or too many levels")]
    TooComplex,
}

/// A body that was read.
#[derive(Debug)]
pub struct ReadBody {
    content: Result<Option<Json>, Unreadable>,
    /// Bytes; `None` when it was not read to its end.
    length: Option<u64>,
    values: usize,
    is_form: bool,
    /// Beside the query of the one request that it is of.
    graphql: OnceLock<Option<Operation>>,
}

impl ReadBody {
    /// Reads a whole body, without content coding, of a type as it was sent.
    pub fn new(content_type: Option<&str>, bytes: &[u8]) -> Self {
        let mut counted = Counted { left: BODY_VALUES_MAX, trouble: None };
        let media = content_type.and_then(MediaType::parse);
        let is_form = media.as_ref().is_some_and(MediaType::is_form);
        let content = match media {
            _ if bytes.is_empty() => Ok(None),
            Some(media) if media.is_json() || media.is_form() => match std::str::from_utf8(bytes) {
                Ok(text) if media.is_utf8() && media.is_json() => counted.json(text).map(Some),
                Ok(text) if media.is_utf8() => counted.form(text).map(Some),
                _ => Err(Unreadable::Ambiguous),
            },
            _ => Ok(None),
        };
        Self {
            content,
            length: u64::try_from(bytes.len()).ok(),
            values: BODY_VALUES_MAX - counted.left,
            is_form,
            graphql: OnceLock::new(),
        }
    }

    /// A body that could not be read, or not to its end.
    pub fn failed(why: Unreadable) -> Self {
        Self { content: Err(why), length: None, values: 0, is_form: false, graphql: OnceLock::new() }
    }

    /// Its value: JSON as it is, a form as an object of lists of texts. `None` for an empty body, another type, and what
    /// cannot be read.
    pub fn value(&self) -> Option<&Json> {
        self.content.as_ref().ok()?.as_ref()
    }

    /// Whether it is a form, and no JSON.
    pub const fn is_form(&self) -> bool {
        self.is_form
    }

    /// Why it cannot be told what stands in it.
    pub fn unreadable(&self) -> Option<Unreadable> {
        self.content.as_ref().err().copied()
    }

    /// Its length in bytes, when it was read to its end.
    pub const fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many values it has.
    pub(crate) const fn values(&self) -> usize {
        self.values
    }

    /// What an expression sees of it as the body of a request, for each attribute that is about it
    /// ([`Attribute::needs_request_body`]); nothing for others. `url_query` is the query of the request's URL, where there
    /// might be another GraphQL operation.
    pub fn request(&self, attribute: Attribute, url_query: &str) -> Option<Value<'_>> {
        let value = self.value()?;
        match attribute {
            Attribute::RequestBody => Some(Value::json(value)),
            Attribute::RequestGraphqlType => Some(Value::text(self.graphql(url_query)?.kind())),
            Attribute::RequestGraphqlName => Some(Value::text(self.graphql(url_query)?.name())),
            Attribute::RequestGraphqlFields => {
                let fields = self.graphql(url_query)?.fields().iter().map(|field| Value::text(field));
                Some(Value::List(List::Made(fields.collect())))
            }
            Attribute::RequestMcpMethod => text(mcp(value)?.get("method")),
            Attribute::RequestMcpTool => text(mcp_call(value)?.get("name")),
            Attribute::RequestMcpArguments => mcp_call(value)?.get("arguments").map(Value::json),
            _ => None,
        }
    }

    fn graphql(&self, url_query: &str) -> Option<&Operation> {
        let read = || self.value().filter(|_| !graphql::is_in_url(url_query)).and_then(Operation::read);
        self.graphql.get_or_init(read).as_ref()
    }
}

fn text(value: Option<&Json>) -> Option<Value<'_>> {
    value.and_then(Json::as_str).map(Value::text)
}

/// A message of JSON-RPC that asks for something. A batch is none.
fn mcp(body: &Json) -> Option<&Map<String, Json>> {
    let message = body.as_object()?;
    let is_request = message.get("jsonrpc")?.as_str() == Some("2.0") && message.get("method")?.is_string();
    is_request.then_some(message)
}

/// The parameters of an MCP message that calls a tool.
fn mcp_call(body: &Json) -> Option<&Map<String, Json>> {
    let message = mcp(body)?;
    (message.get("method")?.as_str() == Some(MCP_CALL)).then(|| message.get("params")?.as_object()).flatten()
}

/// Reads with bounds.
struct Counted {
    left: usize,
    /// What was wrong, where it was more than the syntax.
    trouble: Option<Unreadable>,
}

impl Counted {
    fn json(&mut self, text: &str) -> Result<Json, Unreadable> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = Part { counted: self, depth: 0 }.deserialize(&mut deserializer);
        let whole = read.and_then(|value| deserializer.end().map(|()| value));
        whole.map_err(|_| self.trouble.unwrap_or(Unreadable::Malformed))
    }

    fn form(&mut self, text: &str) -> Result<Json, Unreadable> {
        // Counted first: to compare names takes a multiple of their room.
        for _ in text.split('&') {
            self.one().map_err(|()| Unreadable::TooComplex)?;
        }
        if !query::is_unambiguous(text) {
            return Err(Unreadable::Ambiguous);
        }
        let mut fields = Map::new();
        for (name, value) in query::fields(text) {
            let list = fields.entry(name.into_owned()).or_insert_with(|| Json::Array(Vec::new()));
            if let Json::Array(values) = list {
                values.push(Json::String(value.into_owned()));
            }
        }
        Ok(Json::Object(fields))
    }

    fn one(&mut self) -> Result<(), ()> {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.trouble = Some(Unreadable::TooComplex);
                Err(())
            }
        }
    }
}

/// One value of JSON, and what is in it.
struct Part<'c> {
    counted: &'c mut Counted,
    depth: usize,
}

impl Part<'_> {
    fn inner(&mut self) -> Part<'_> {
        Part { counted: self.counted, depth: self.depth + 1 }
    }

    fn trouble<E: serde::de::Error>(&mut self, trouble: Unreadable) -> E {
        self.counted.trouble = Some(trouble);
        E::custom("refused")
    }

    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        if self.depth >= BODY_DEPTH_MAX { Err(self.trouble(Unreadable::TooComplex)) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        self.counted.one().map_err(|()| D::Error::custom("too many"))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Json, A::Error> {
        self.enter()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.inner())? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Json, A::Error> {
        self.enter()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.counted.one().map_err(|()| A::Error::custom("too many"))?;
            let value = access.next_value_seed(self.inner())?;
            // Servers take the first, the last, or none.
            if map.insert(key, value).is_some() {
                return Err(self.trouble(Unreadable::Ambiguous));
            }
        }
        if json_clash(map.keys().map(String::as_str)) {
            return Err(self.trouble(Unreadable::Ambiguous));
        }
        Ok(Json::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_has_the_value_that_every_server_reads() {
        for (kind, text, value) in [
            (
                "application/json",
                r#"{"a": [1, -2, 0.5, "x", null, true]}"#,
                json!({"a": [1, -2, 0.5, "x", null, true]}),
            ),
            ("application/ld+json; charset=UTF-8", "\"é\"", json!("é")),
            (
                "application/x-www-form-urlencoded",
                "a=1&b=x+y%26&a=2&c",
                json!({"a": ["1", "2"], "b": ["x y&"], "c": [""]}),
            ),
        ] {
            let read = ReadBody::new(Some(kind), text.as_bytes());
            assert_eq!((read.value(), read.unreadable()), (Some(&value), None), "{text}");
            assert_eq!(read.length(), Some(text.len() as u64));
        }
        for kind in [None, Some("text/plain"), Some("multipart/form-data; boundary=x")] {
            let read = ReadBody::new(kind, b"{}");
            assert_eq!((read.value(), read.unreadable()), (None, None), "{kind:?}");
        }
    }

    #[test]
    fn a_body_that_servers_read_differently_is_unreadable() {
        let many = format!("[{}1]", "1,".repeat(BODY_VALUES_MAX));
        let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
        let fields = "A&a&".repeat(BODY_VALUES_MAX);
        for (kind, text, why) in [
            ("application/json", r#"{"a": 1, "a": 1}"#, Unreadable::Ambiguous),
            ("application/json", r#"{"a": 1, "\u0061": 1}"#, Unreadable::Ambiguous),
            ("application/json", r#"{"x": [{"amount": 1, "Amount": 1000}]}"#, Unreadable::Ambiguous),
            ("application/x-www-form-urlencoded", "a=1&A=2", Unreadable::Ambiguous),
            ("application/x-www-form-urlencoded", "a=1&a%5B%5D=2", Unreadable::Ambiguous),
            ("application/x-www-form-urlencoded", "a=1&+a=2", Unreadable::Ambiguous),
            ("application/json; charset=utf-8; charset=utf-16", "{}", Unreadable::Ambiguous),
            ("application/json; charset=utf-16", "{}", Unreadable::Ambiguous),
            ("application/x-www-form-urlencoded", "a=1;b=2", Unreadable::Ambiguous),
            ("application/json", "{} {}", Unreadable::Malformed),
            ("application/json", "\u{feff}{}", Unreadable::Malformed),
            ("application/json", "{a: 1}", Unreadable::Malformed),
            ("application/json", "NaN", Unreadable::Malformed),
            ("application/json", "1e999", Unreadable::Malformed),
            ("application/json", &many, Unreadable::TooComplex),
            ("application/json", &deep, Unreadable::TooComplex),
            ("application/x-www-form-urlencoded", &fields, Unreadable::TooComplex),
        ] {
            let read = ReadBody::new(Some(kind), text.as_bytes());
            assert_eq!(
                (read.value(), read.unreadable()),
                (None, Some(why)),
                "{}",
                &text[..text.len().min(40)]
            );
        }
        assert_eq!(
            ReadBody::new(Some("application/json"), b"\"\xff\"").unreadable(),
            Some(Unreadable::Ambiguous)
        );
    }
}
