//! The fields of a request that are looked at, read without a copy of the rest: conversations are long, and a model that
//! answers at once shall take no time for them.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// The body of a request of any wire.
#[derive(Debug, Deserialize)]
pub(crate) struct Body<'a> {
    #[serde(borrow, default)]
    pub model: Field<'a>,
    #[serde(borrow, default)]
    pub stream: Field<'a>,
    #[serde(borrow, default)]
    pub stream_options: Option<StreamOptions<'a>>,
    #[serde(borrow, default)]
    pub max_tokens: Field<'a>,
    #[serde(borrow, default)]
    pub messages: Field<'a>,
    #[serde(borrow, default)]
    pub input: Field<'a>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamOptions<'a> {
    #[serde(borrow, default)]
    pub include_usage: Field<'a>,
}

/// A message, an item, or a part of one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Field<'a>,
    #[serde(borrow)]
    pub role: Field<'a>,
    #[serde(borrow)]
    pub content: Field<'a>,
    #[serde(borrow)]
    pub text: Field<'a>,
    #[serde(borrow)]
    pub id: Field<'a>,
    #[serde(borrow)]
    pub call_id: Field<'a>,
    #[serde(borrow)]
    pub tool_call_id: Field<'a>,
    #[serde(borrow)]
    pub tool_use_id: Field<'a>,
    #[serde(borrow)]
    pub tool_calls: Field<'a>,
    #[serde(borrow)]
    pub thinking: Field<'a>,
    #[serde(borrow)]
    pub signature: Field<'a>,
    #[serde(borrow)]
    pub summary: Field<'a>,
    #[serde(borrow)]
    pub encrypted_content: Field<'a>,
    #[serde(borrow)]
    pub output: Field<'a>,
}

/// A value of whatever kind; objects are looked at inside of lists only.
#[derive(Debug, Default)]
pub(crate) enum Field<'a> {
    /// Absent, null, or nothing that is looked at.
    #[default]
    None,
    Flag(bool),
    Number,
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

impl<'a> Field<'a> {
    pub(crate) fn is_true(&self) -> bool {
        matches!(self, Self::Flag(true))
    }

    pub(crate) fn str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::None | Self::Flag(_) | Self::Number | Self::Parts(_) => None,
        }
    }

    pub(crate) fn parts(&self) -> &[Part<'a>] {
        match self {
            Self::Parts(parts) => parts,
            Self::None | Self::Flag(_) | Self::Number | Self::Text(_) => &[],
        }
    }

    /// A text, or the texts of a list of parts.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone().into_owned(),
            Self::Parts(parts) => {
                parts.iter().filter_map(|part| part.text.str()).collect::<Vec<_>>().join("\n")
            }
            Self::None | Self::Flag(_) | Self::Number => String::new(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyField)
    }
}

struct AnyField;

impl<'de> Visitor<'de> for AnyField {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Field::Flag(value))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Field::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::None)
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = list.next_element::<Part<'de>>()? {
            parts.push(part);
        }
        Ok(Field::Parts(parts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::None)
    }
}
