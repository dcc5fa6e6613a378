//! The fields of a request that are looked at, read without a copy of the rest: conversations are long, and a model that
//! answers at once shall take no time for them. So no list of messages is made: each goes to a [`Reader`] as it is read.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Range};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Who reads the messages of a request.
pub(crate) trait Reader {
    /// Takes the next message or item.
    fn message(&mut self, message: &Message<'_>);

    /// Says that the next message is the last, and where in the JSON the others are.
    fn last_comes(&mut self, others: Range<usize>);
}

/// The body of a request of any wire, but its messages.
#[derive(Debug, Default)]
pub(crate) struct Body<'a> {
    pub model: Field<'a>,
    pub stream: Field<'a>,
    pub include_usage: Field<'a>,
    pub max_tokens: Field<'a>,
    /// What there was for the reader.
    pub messages: Messages<'a>,
}

/// What there was of messages.
#[derive(Debug, Default)]
pub(crate) enum Messages<'a> {
    /// None, or an empty list.
    #[default]
    None,
    /// A text in the place of a list.
    Text(Cow<'a, str>),
    /// Some, which the reader has taken.
    Read,
}

impl<'a> Body<'a> {
    /// Reads `json`, whose messages are in the list `field`.
    pub(crate) fn read(
        json: &'a [u8],
        field: &'static str,
        reader: &mut dyn Reader,
    ) -> serde_json::Result<Self> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let body = deserializer.deserialize_map(BodyVisitor { json, field, reader })?;
        deserializer.end()?;
        Ok(body)
    }
}

struct BodyVisitor<'r> {
    json: &'r [u8],
    field: &'static str,
    reader: &'r mut dyn Reader,
}

impl<'de> Visitor<'de> for BodyVisitor<'_> {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body<'de>, A::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct StreamOptions<'a> {
            #[serde(borrow)]
            include_usage: Field<'a>,
        }
        let mut body = Body::default();
        let mut seen = false;
        while let Some(key) = map.next_key::<Field<'de>>()? {
            match key.str().unwrap_or_default() {
                "model" => body.model = map.next_value()?,
                "stream" => body.stream = map.next_value()?,
                "stream_options" => {
                    let options: Option<StreamOptions<'de>> = map.next_value()?;
                    body.include_usage = options.unwrap_or_default().include_usage;
                }
                "max_tokens" => body.max_tokens = map.next_value()?,
                name if name == self.field => {
                    if std::mem::replace(&mut seen, true) {
                        return Err(A::Error::duplicate_field(self.field));
                    }
                    body.messages =
                        map.next_value_seed(Each { json: self.json, reader: &mut *self.reader })?;
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(body)
    }
}

/// Gives each element of a list to the reader. A null is none.
struct Each<'r> {
    json: &'r [u8],
    reader: &'r mut dyn Reader,
}

impl Each<'_> {
    /// Where `value` stands.
    fn place(&self, value: &RawValue) -> Range<usize> {
        let begin = value.get().as_ptr().addr() - self.json.as_ptr().addr();
        begin..begin + value.get().len()
    }

    fn give<E: Error>(&mut self, value: &RawValue) -> Result<(), E> {
        if let Some(message) = serde_json::from_str::<Option<Message<'_>>>(value.get()).map_err(E::custom)? {
            self.reader.message(&message);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Each<'_> {
    type Value = Messages<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(Loose(self))
    }
}

impl<'de> Take<'de> for Each<'_> {
    type Value = Messages<'de>;

    fn text(self, text: Cow<'de, str>) -> Self::Value {
        Messages::Text(text)
    }

    fn list<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        let Some(first) = list.next_element::<&RawValue>()? else { return Ok(Messages::None) };
        let (begin, mut end, mut last) = (self.place(first).start, None, first);
        while let Some(next) = list.next_element::<&RawValue>()? {
            self.give(last)?;
            end = Some(self.place(last).end);
            last = next;
        }
        if let Some(end) = end {
            self.reader.last_comes(begin..end);
        }
        self.give(last)?;
        Ok(Messages::Read)
    }
}

/// A message or an item.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Message<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Field<'a>,
    #[serde(borrow)]
    pub role: Field<'a>,
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub call_id: Field<'a>,
    #[serde(borrow)]
    pub tool_call_id: Field<'a>,
    #[serde(borrow)]
    pub tool_calls: Content<'a>,
    #[serde(borrow)]
    pub summary: Content<'a>,
    #[serde(borrow)]
    pub encrypted_content: Field<'a>,
    #[serde(borrow)]
    pub output: Content<'a>,
}

/// A text, or a list of parts.
#[derive(Debug, Default)]
pub(crate) struct Content<'a> {
    /// The text, or the texts of the parts, a line each.
    text: Option<Cow<'a, str>>,
    /// The parts without a text.
    parts: Vec<Part<'a>>,
}

/// A part of a message that is no plain text.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Part<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Field<'a>,
    #[serde(borrow)]
    text: Field<'a>,
    #[serde(borrow)]
    pub id: Field<'a>,
    #[serde(borrow)]
    pub tool_use_id: Field<'a>,
    #[serde(borrow)]
    pub content: Content<'a>,
    #[serde(borrow)]
    pub thinking: Field<'a>,
    #[serde(borrow)]
    pub signature: Field<'a>,
}

impl<'a> Content<'a> {
    pub(crate) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// The parts of this kind; of a kind that has no text.
    pub(crate) fn parts(&self, kind: &str) -> impl Iterator<Item = &Part<'a>> {
        self.all_parts().filter(move |part| part.kind.text() == kind)
    }

    /// The parts without a text.
    pub(crate) fn all_parts(&self) -> impl Iterator<Item = &Part<'a>> {
        self.parts.iter()
    }
}

impl<'a> Take<'a> for PhantomData<Content<'a>> {
    type Value = Content<'a>;

    fn text(self, text: Cow<'a, str>) -> Self::Value {
        Content { text: Some(text), parts: Vec::new() }
    }

    fn list<A: SeqAccess<'a>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut content = Content::default();
        while let Some(part) = list.next_element::<Part<'a>>()? {
            match (part.text, &mut content.text) {
                (Field::Text(text), none @ None) => *none = Some(text),
                (Field::Text(text), Some(so_far)) => {
                    let so_far = so_far.to_mut();
                    so_far.push('\n');
                    so_far.push_str(&text);
                }
                (text, _) => content.parts.push(Part { text, ..part }),
            }
        }
        Ok(content)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Loose(PhantomData::<Content<'de>>))
    }
}

/// A value that is no list and no object.
#[derive(Debug, Default)]
pub(crate) enum Field<'a> {
    /// Absent, null, or nothing that is looked at.
    #[default]
    None,
    Flag(bool),
    Number,
    Text(Cow<'a, str>),
}

impl Field<'_> {
    pub(crate) fn is_true(&self) -> bool {
        matches!(self, Self::Flag(true))
    }

    pub(crate) fn str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::None | Self::Flag(_) | Self::Number => None,
        }
    }

    pub(crate) fn text(&self) -> &str {
        self.str().unwrap_or_default()
    }
}

impl<'a> Take<'a> for PhantomData<Field<'a>> {
    type Value = Field<'a>;

    fn text(self, text: Cow<'a, str>) -> Self::Value {
        Field::Text(text)
    }

    fn other(self, other: Field<'a>) -> Self::Value {
        other
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Loose(PhantomData::<Field<'de>>))
    }
}

/// What becomes of a value of whatever kind.
trait Take<'de>: Sized {
    type Value: Default;

    fn text(self, text: Cow<'de, str>) -> Self::Value;

    fn list<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::Value::default())
    }

    /// A flag or a number.
    fn other(self, _: Field<'de>) -> Self::Value {
        Self::Value::default()
    }
}

/// Takes values of any kind, and leaves out what is not looked at.
struct Loose<T>(T);

impl<'de, T: Take<'de>> Visitor<'de> for Loose<T> {
    type Value = T::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(T::Value::default())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.other(Field::Flag(value)))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(self.0.other(Field::Number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(T::Value::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(T::Value::default())
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.0.text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        self.0.list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(T::Value::default())
    }
}
