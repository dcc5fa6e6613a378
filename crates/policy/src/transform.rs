//! Transforms: what is changed of a request that a rule allows, before it goes upstream.

use std::fmt;

use crate::document::Formula;

/// A change of allowed requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// Its name, for audit rows; unique in its capability.
    pub name: String,
    /// The names of the rules whose requests it changes; `None` for every rule of its capability.
    pub applies_to: Option<Vec<String>>,
    /// The credential that is put on.
    pub credential: Option<String>,
    /// Whether what the transform puts on replaces what the client sent in its place. Otherwise what the client sent stays;
    /// the placeholder is replaced always.
    pub overrides: bool,
    /// Whether what was put on, the credential and secrets, is struck out of the response.
    pub mask: bool,
    /// Headers, by lower-case name. None that egress needs for itself.
    pub headers: Edits,
    /// Parameters of the query, by unescaped name.
    pub query: Edits,
    /// The path, which must come out in normal form; never made with a secret, for the audit log shows it.
    pub path: Option<Formula>,
    /// The body.
    pub body: BodyEdits,
}

impl Transform {
    /// Every expression that it holds.
    pub fn formulas(&self) -> impl Iterator<Item = &Formula> {
        let sets = [&self.headers.set, &self.query.set, &self.body.form];
        let texts = sets.into_iter().flatten().map(|(_, formula)| formula);
        texts.chain(self.body.set.iter().map(|(_, formula)| formula)).chain(&self.path)
    }

    /// The names of the secrets that they use; one may come more than once.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.formulas().flat_map(|formula| formula.expression().secrets()).map(|name| &**name)
    }
}

/// What is put and what is taken away, by name; no name is in both. What is taken away goes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Names and the expressions (of type text) that make their values, in the order written. One value takes the place of
    /// all of the name.
    pub set: Vec<(String, Formula)>,
    /// Names.
    pub remove: Vec<String>,
}

impl Edits {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// What is put into a body. A request whose body is of neither kind that has edits here, or cannot be read, is denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BodyEdits {
    /// Into JSON: places and the expressions that make their values, of any type of JSON, in the order written.
    pub set: Vec<(Pointer, Formula)>,
    /// Into a form: fields and the expressions (of type text) that make their values, each in the place of all of the name.
    pub form: Vec<(String, Formula)>,
}

impl BodyEdits {
    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.set.is_empty() && self.form.is_empty()
    }
}

/// The longest JSON pointer, in bytes.
pub const POINTER_BYTES_MAX: usize = 1024;
/// The most segments of a JSON pointer.
pub const POINTER_SEGMENTS_MAX: usize = 32;

/// A place in JSON (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    segments: Vec<String>,
}

impl Pointer {
    /// Parses a pointer. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > POINTER_BYTES_MAX {
            return Err(format!("longer than {POINTER_BYTES_MAX} bytes"));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a JSON pointer begins with `/`, such as `/metadata/user`".to_owned());
        };
        let segment = |part: &str| {
            let bad = part.match_indices('~').any(|(at, _)| !part[at + 1..].starts_with(['0', '1']));
            if bad {
                return Err("in a JSON pointer `~` stands before `0` (for `~`) or `1` (for `/`)".to_owned());
            }
            Ok(part.replace("~1", "/").replace("~0", "~"))
        };
        let segments = rest.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
        if segments.len() > POINTER_SEGMENTS_MAX {
            return Err(format!("more than {POINTER_SEGMENTS_MAX} segments"));
        }
        Ok(Self { segments })
    }

    /// Its segments, unescaped: keys of objects, and in lists an index or `-` for the place behind the last; at least one.
    pub fn segments(&self) -> &[String] {
        &self.segments
    }

    /// Puts a value at this place. Objects on the way that are not there are made; a list has to have the place, or `-`.
    /// `false`, and nothing changed, when the way leads through what is neither object nor list.
    pub fn put(&self, body: &mut serde_json::Value, value: serde_json::Value) -> bool {
        let Some((last, way)) = self.segments.split_last() else { return false };
        if !self.leads(body) {
            return false;
        }
        let mut at = body;
        for segment in way {
            let next = match at {
                serde_json::Value::Object(map) => map
                    .entry(segment.as_str())
                    .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new())),
                serde_json::Value::Array(items) => {
                    let Some(item) = index(segment).and_then(|at| items.get_mut(at)) else { return false };
                    item
                }
                _ => return false,
            };
            at = next;
        }
        match at {
            serde_json::Value::Object(map) => {
                map.insert(last.clone(), value);
            }
            serde_json::Value::Array(items) if last == "-" => items.push(value),
            serde_json::Value::Array(items) => {
                let Some(item) = index(last).and_then(|at| items.get_mut(at)) else { return false };
                *item = value;
            }
            _ => return false,
        }
        true
    }

    /// Whether there is a way to the place.
    fn leads(&self, body: &serde_json::Value) -> bool {
        let mut at = body;
        for (number, segment) in self.segments.iter().enumerate() {
            let is_last = number + 1 == self.segments.len();
            at = match at {
                serde_json::Value::Object(map) => match map.get(segment) {
                    Some(next) => next,
                    // From here on objects are made.
                    None => return true,
                },
                serde_json::Value::Array(_) if is_last && segment == "-" => return true,
                serde_json::Value::Array(items) => match index(segment).and_then(|at| items.get(at)) {
                    Some(next) => next,
                    None => return false,
                },
                _ => return false,
            };
        }
        true
    }
}

fn index(segment: &str) -> Option<usize> {
    let is_plain = segment == "0" || !segment.starts_with(['0', '+']);
    segment.parse().ok().filter(|_| is_plain)
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|part| write!(f, "/{}", part.replace('~', "~0").replace('/', "~1")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_puts_where_there_is_a_way() {
        let body = json!({"a": [1, {"b": 2}], "t": "x", "~/": 0});
        for (pointer, expected) in [
            ("/c", Some(json!({"a": [1, {"b": 2}], "t": "x", "~/": 0, "c": 9}))),
            ("/a/0", Some(json!({"a": [9, {"b": 2}], "t": "x", "~/": 0}))),
            ("/a/-", Some(json!({"a": [1, {"b": 2}, 9], "t": "x", "~/": 0}))),
            ("/a/1/c/d", Some(json!({"a": [1, {"b": 2, "c": {"d": 9}}], "t": "x", "~/": 0}))),
            ("/~0~1", Some(json!({"a": [1, {"b": 2}], "t": "x", "~/": 9}))),
            ("/a/2", None),
            ("/a/01", None),
            ("/a/-/b", None),
            ("/t/x", None),
        ] {
            let mut changed = body.clone();
            let done = Pointer::parse(pointer).unwrap().put(&mut changed, json!(9));
            assert_eq!(done.then_some(&changed), expected.as_ref(), "{pointer}");
            assert!(done || changed == body, "{pointer}");
            assert_eq!(Pointer::parse(pointer).unwrap().to_string(), pointer);
        }
        for bad in ["", "a", "/~", "/~2", &"/a".repeat(33)] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
    }
}
