//! Names of fields that differ, and that some servers take for one another.

use std::collections::{HashMap, HashSet};

/// Whether two of these names of a JSON object, each once, differ in case alone: some servers (Go's, .NET's) do not care.
pub(crate) fn json_clash<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    if names.clone().all(|name| name.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase())) {
        return false;
    }
    let mut seen = HashSet::new();
    !names.map(folded).all(|name| seen.insert(name))
}

/// The same of a form or a query. There are servers, too, that drop spaces before a name, take `.` and space for `_` (PHP),
/// and put `a[]` or `a[b]` in the place of `a`, or beside it.
pub(crate) fn form_clash<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    if names.clone().all(|name| name.bytes().all(is_plain)) {
        return false;
    }
    let (mut seen, mut bases) = (HashSet::new(), HashMap::new());
    !names.map(|name| folded(name.trim_start().split('\0').next().unwrap_or_default())).all(|name| {
        let (base, inner) = name.split_at(name.find('[').unwrap_or(name.len()));
        let base = base.replace(['.', ' '], "_");
        let is_list = !inner.is_empty();
        seen.insert(format!("{base}{inner}")) && *bases.entry(base).or_insert(is_list) == is_list
    })
}

/// One spelling of all that differ in case alone. (Upper case first: `ſ` has no other way to `s`.)
pub(crate) fn folded(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_server_takes_for_one_clash() {
        for (one, other, json, form) in [
            ("amount", "total", false, false),
            ("amount", "Amount", true, true),
            ("amounts", "amountſ", true, true),
            ("key", "\u{212a}ey", true, true),
            ("é", "É", true, true),
            ("limit", " limit", false, true),
            ("a_b", "a.b", false, true),
            ("a", "a[]", false, true),
            ("a[b]", "A", false, true),
            ("a[b]", "a[c]", false, false),
            ("a[b]", "a[B]", true, true),
            ("a", "a\0b", false, true),
        ] {
            for names in [[one, other], [other, one]] {
                assert_eq!(json_clash(names.into_iter()), json, "{names:?}");
                assert_eq!(form_clash(names.into_iter()), form, "{names:?}");
            }
        }
    }
}
