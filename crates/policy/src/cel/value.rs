//! Values of expressions, borrowed from the request wherever they can be.

use std::{cmp::Ordering, rc::Rc};

use freehold_model::Timestamp;
use jiff::SignedDuration;
use serde_json::Value as Json;

use super::evaluate::{Fault, Work};

/// What a value of JSON counts for beside its text, in bytes.
const VALUE_BYTES: usize = 16;

/// A value. Cloning one costs next to nothing.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating point number.
    Double(f64),
    /// A text.
    Text(Text<'a>),
    /// A moment.
    Timestamp(Timestamp),
    /// A length of time.
    Duration(SignedDuration),
    /// A list.
    List(List<'a>),
    /// A map.
    Map(Map<'a>),
}

/// A text that was there before, or that an expression made.
#[derive(Debug, Clone)]
pub enum Text<'a> {
    /// Part of the request or of the expression.
    Borrowed(&'a str),
    /// Made.
    Made(Rc<str>),
}

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// Part of a body.
    Json(&'a [serde_json::Value]),
    /// Made.
    Made(Rc<[Value<'a>]>),
}

/// A map by texts.
#[derive(Debug, Clone, Copy)]
pub enum Map<'a> {
    /// Part of a body.
    Json(&'a serde_json::Map<String, serde_json::Value>),
    /// Looked up where it is kept.
    Source(&'a dyn MapSource),
}

/// A map that is looked up where it is kept, such as headers.
pub trait MapSource: std::fmt::Debug {
    /// The value of a key.
    fn get(&self, key: &str) -> Option<Value<'_>>;

    /// Every key, once.
    fn keys(&self) -> Vec<&str>;

    /// How many keys there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> Value<'a> {
    /// A text that was there before.
    pub const fn text(text: &'a str) -> Self {
        Self::Text(Text::Borrowed(text))
    }

    /// A text that is kept with the value.
    pub fn made(text: &str) -> Self {
        Self::Text(Text::Made(text.into()))
    }

    /// A value of a body. Integers beyond 64 signed bits are floating point numbers.
    pub fn json(value: &'a serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => {
                number.as_i64().map_or_else(|| Self::Double(number.as_f64().unwrap_or(f64::NAN)), Self::Int)
            }
            serde_json::Value::String(text) => Self::text(text),
            serde_json::Value::Array(items) => Self::List(List::Json(items)),
            serde_json::Value::Object(map) => Self::Map(Map::Json(map)),
        }
    }

    /// The value as JSON, which may be much larger than the expression that made it.
    ///
    /// # Errors
    /// When it is, or holds, what JSON has not (a moment, a length of time, a number that is none), or when it is longer than
    /// the work that is left may make.
    pub fn to_json(&self, work: &Work) -> Result<Json, Fault> {
        work.makes(VALUE_BYTES)?;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) => (*value).into(),
            Self::Double(value) => {
                serde_json::Number::from_f64(*value).map(Json::Number).ok_or(Fault::Range)?
            }
            Self::Text(text) => {
                work.makes(text.as_str().len())?;
                Json::String(text.as_str().to_owned())
            }
            Self::List(list) => {
                Json::Array(list.iter().map(|item| item.to_json(work)).collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut made = serde_json::Map::new();
                for key in map.keys() {
                    work.makes(key.len())?;
                    let value = map.get(key).ok_or(Fault::Absent)?;
                    made.insert(key.to_owned(), value.to_json(work)?);
                }
                Json::Object(made)
            }
            Self::Timestamp(_) | Self::Duration(_) => return Err(Fault::Type),
        })
    }

    /// Whether two values are equal; of different types they are not, but for numbers.
    ///
    /// # Errors
    /// When they hold more than the work that is left may go through.
    pub(super) fn equals(&self, other: &Value<'_>, work: &Work) -> Result<bool, Fault> {
        work.compares(self, other)?;
        Ok(match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(one), Value::Bool(other)) => one == other,
            (Self::Text(one), Value::Text(other)) => one.as_str() == other.as_str(),
            (Self::Timestamp(one), Value::Timestamp(other)) => one == other,
            (Self::Duration(one), Value::Duration(other)) => one == other,
            (Self::List(one), Value::List(other)) => {
                if one.len() != other.len() {
                    return Ok(false);
                }
                for (one, other) in one.iter().zip(other.iter()) {
                    if !one.equals(&other, work)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(one), Value::Map(other)) => {
                if one.len() != other.len() {
                    return Ok(false);
                }
                work.steps(one.len())?;
                for key in one.keys() {
                    work.reads(key.len())?;
                    let Some((one, other)) = one.get(key).zip(other.get(key)) else { return Ok(false) };
                    if !one.equals(&other, work)? {
                        return Ok(false);
                    }
                }
                true
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        })
    }

    /// The order of two values, if there is one.
    pub(super) fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
            (Self::Int(one), Value::Int(other)) => Some(one.cmp(other)),
            (Self::Double(one), Value::Double(other)) => one.partial_cmp(other),
            (Self::Int(one), Value::Double(other)) => compare_numbers(*one, *other),
            (Self::Double(one), Value::Int(other)) => compare_numbers(*other, *one).map(Ordering::reverse),
            (Self::Text(one), Value::Text(other)) => Some(one.as_str().cmp(other.as_str())),
            (Self::Timestamp(one), Value::Timestamp(other)) => Some(one.cmp(other)),
            (Self::Duration(one), Value::Duration(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

/// Compares as numbers, and not as the nearest number of the other type.
#[expect(clippy::cast_possible_truncation, reason = "what is lost is compared after")]
fn compare_numbers(int: i64, double: f64) -> Option<Ordering> {
    // The first double above every integer.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= BEYOND {
        return Some(Ordering::Less);
    }
    if double < -BEYOND {
        return Some(Ordering::Greater);
    }
    let whole = double.trunc();
    let order = int.cmp(&(whole as i64));
    Some(order.then_with(|| whole.partial_cmp(&double).unwrap_or(Ordering::Equal)))
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Made(text) => text,
        }
    }
}

impl<'a> List<'a> {
    /// How many items it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at a place.
    pub fn get(&self, at: usize) -> Option<Value<'a>> {
        match self {
            Self::Json(items) => items.get(at).map(Value::json),
            Self::Made(items) => items.get(at).cloned(),
        }
    }

    /// Its items, in order.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }
}

impl<'a> Map<'a> {
    /// The value of a key.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        match self {
            Self::Json(map) => map.get(key).map(Value::json),
            Self::Source(source) => source.get(key),
        }
    }

    /// How many keys it has.
    pub fn len(self) -> usize {
        match self {
            Self::Json(map) => map.len(),
            Self::Source(source) => source.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Its keys.
    pub fn keys(self) -> Vec<&'a str> {
        match self {
            Self::Json(map) => map.keys().map(String::as_str).collect(),
            Self::Source(source) => source.keys(),
        }
    }
}
