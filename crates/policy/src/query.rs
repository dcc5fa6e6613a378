//! The parameters of a query, and the fields of a form, which is written like one. What servers read in different ways has none.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    cel::{List, MapSource, Value},
    names::{form_clash, is_plain},
    path::hex,
};

/// The values of each parameter of a query, unescaped, in order.
#[derive(Debug)]
pub struct Query<'q>(BTreeMap<Cow<'q, str>, Vec<Cow<'q, str>>>);

impl<'q> Query<'q> {
    /// Reads the query of a URL; `None` where servers read it in different ways.
    pub fn parse(text: &'q str) -> Option<Self> {
        let mut values = BTreeMap::<_, Vec<_>>::new();
        for (name, value) in is_unambiguous(text).then(|| fields(text))? {
            values.entry(name).or_default().push(value);
        }
        Some(Self(values))
    }
}

impl MapSource for Query<'_> {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        let values = self.0.get(key)?;
        Some(Value::List(List::Made(values.iter().map(|value| Value::text(value)).collect())))
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(AsRef::as_ref).collect()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Whether all servers read it alike: no `;`, at which some cut it as at `&`, no escape that is none, nothing that is not text
/// when it is unescaped, and no two names that some take for one.
pub(crate) fn is_unambiguous(text: &str) -> bool {
    !text.contains(';')
        && bytes(text).is_some_and(|bytes| std::str::from_utf8(&bytes).is_ok())
        && !fields_clash(text)
}

/// The names and values of one that is unambiguous.
pub(crate) fn fields(text: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> + Clone {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(name), unescaped(value))
    })
}

/// Whether some servers take two names for one.
fn fields_clash(text: &str) -> bool {
    let names = text.split('&').map(|pair| pair.split('=').next().unwrap_or(pair));
    if names.clone().all(is_plain) {
        return false;
    }
    let names: BTreeSet<_> = names.map(unescaped).collect();
    form_clash(names.iter().map(AsRef::as_ref))
}

fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(String::from_utf8_lossy(&bytes(text).unwrap_or_default()).into_owned())
}

/// What a text stands for; `None` where an escape is none.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                hex(*high)? << 4 | hex(*low)?
            }
            (b'%', _) => return None,
            (b'+', _) => b' ',
            _ => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_that_servers_read_differently_has_no_parameters() {
        for plain in ["", "a=1&b=2", "a=%C3%A9+x&a=", "a=b=c", "%3B", "a[b]=1&a[c]=2", "Ab=1&ab2=X"] {
            assert!(Query::parse(plain).is_some(), "{plain}");
        }
        for other in
            ["a=1;b=2", "a=%", "a=%2", "a=%zz", "a=%ff", "a=%C3&x=%A9", "a=1&A=2", "a=1&%41=2", "a=1&a[]=2"]
        {
            assert!(Query::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn each_parameter_has_its_values_unescaped_and_in_order() {
        let query = Query::parse("a=1&b=2&a=%C3%A9+x&&a=&c&%3B=%26%3D=").unwrap();
        let expected = r#"{";": ["&=="], "a": ["1", "é x", ""], "b": ["2"], "c": [""]}"#;
        assert_eq!(format!("{:?}", query.0), expected);
    }
}
