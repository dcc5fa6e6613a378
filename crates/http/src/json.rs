//! JSON bodies, strictly: one value, no key twice, bounded depth.

use std::{cell::Cell, fmt};

use freehold_api::{error::ErrorCode, limits::JSON_DEPTH_MAX};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::Failure;

/// Reads one JSON value.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Failure> {
    let invalid = |error: serde_json::Error| {
        Failure::new(ErrorCode::InvalidJson, format!("the body is not JSON: {error}"))
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::new(ErrorCode::InvalidJson, "the body is empty"));
    }
    let depth = Cell::new(0);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict(&depth).deserialize(&mut deserializer).map_err(invalid)?;
    deserializer.end().map_err(invalid)?;
    Ok(value)
}

/// Reads a value and counts how deep it is nested.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a Cell<usize>);

impl Strict<'_> {
    fn nested<T, E: de::Error>(self, read: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let depth = self.0.get() + 1;
        if depth > JSON_DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {JSON_DEPTH_MAX} levels")));
        }
        self.0.set(depth);
        let value = read()?;
        self.0.set(depth - 1);
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        // No file name, argument or header can hold it, and neither can a text of PostgreSQL.
        if value.contains('\0') {
            return Err(E::custom("a text with U+0000"));
        }
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.nested(|| {
            let mut list = Vec::new();
            while let Some(item) = items.next_element_seed(self)? {
                list.push(item);
            }
            Ok(Value::Array(list))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        self.nested(|| {
            let mut map = Map::new();
            while let Some(key) = members.next_key::<String>()? {
                let value = members.next_value_seed(self)?;
                if map.contains_key(&key) {
                    return Err(de::Error::custom(format_args!(
                        "the key `{key}` stands twice in one object"
                    )));
                }
                map.insert(key, value);
            }
            Ok(Value::Object(map))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &[u8]) -> String {
        let failure = parse(text).expect_err("must be refused");
        assert_eq!(failure.code, ErrorCode::InvalidJson);
        failure.message
    }

    #[test]
    fn a_key_that_stands_twice_is_refused() {
        assert!(refusal(br#"{"a":{"b":1,"b":2}}"#).contains("`b` stands twice"));
    }

    #[test]
    fn deep_nesting_is_refused_before_the_stack_is() {
        let deep = "[".repeat(100_000);
        assert!(refusal(deep.as_bytes()).contains("nested deeper than 64 levels"));
        let fits = format!("{}{}", "[".repeat(JSON_DEPTH_MAX), "]".repeat(JSON_DEPTH_MAX));
        assert!(parse(fits.as_bytes()).is_ok());
    }

    #[test]
    fn what_is_not_one_whole_utf_8_value_is_refused() {
        for bad in [
            b"".as_slice(),
            b" ",
            b"{",
            b"{} {}",
            b"\"\xff\"",
            b"nul",
            b"{\"a\":1e999}",
            b"{'a':1}",
            b"[\"\\u0000\"]",
        ] {
            refusal(bad);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_either_a_value_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            let ours = parse(&bytes).ok();
            if let Some(value) = ours {
                assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), value);
            }
        }
    }
}
