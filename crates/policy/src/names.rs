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

/// The same of a form or a query. There are servers, too, that drop spaces before a name, take `.`, space and a `[` that nothing
/// closes for `_` (PHP), and put `a[]` or `a[b]` in the place of `a`, or beside it.
pub(crate) fn form_clash<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    if names.clone().all(is_plain) {
        return false;
    }
    let (mut seen, mut bases) = (HashSet::new(), HashMap::new());
    !names.map(parts).all(|(base, inner)| {
        let is_list = !inner.is_empty();
        seen.insert(format!("{base}{inner}")) && *bases.entry(base).or_insert(is_list) == is_list
    })
}

/// Whether some server takes the one name of a body or query for the other, which it is not.
pub(crate) fn is_alike(one: &str, other: &str) -> bool {
    if is_simple(one) && is_simple(other) {
        return one != other && one.eq_ignore_ascii_case(other);
    }
    if one == other {
        return false;
    }
    let ((base, inner), (other_base, other_inner)) = (parts(one), parts(other));
    let is_any = |inner: &str| matches!(inner, "" | "[]");
    base == other_base && (inner == other_inner || is_any(&inner) || is_any(&other_inner))
}

/// A header's name as expressions know it (`request.headers`), whose spellings many servers take for one.
pub fn plain_header_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

/// Whether servers differ on its case alone.
pub(crate) fn is_simple(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Whether no server takes it for another name like it.
pub(crate) fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// What all spellings of a name have in common, and what stands in brackets behind it.
fn parts(name: &str) -> (String, String) {
    let name = folded(name.trim_start().split('\0').next().unwrap_or_default());
    let open = name.find('[').filter(|at| name[*at..].contains(']'));
    let (base, inner) = name.split_at(open.unwrap_or(name.len()));
    (base.replace(['.', ' ', '['], "_"), inner.to_owned())
}

/// One spelling of all that differ in case alone. (Upper case first: `ſ` has no other way to `s`.)
pub(crate) fn folded(name: &str) -> String {
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_more_than_three_times_as_long_as_its_other_case() {
        assert!(('\0'..=char::MAX).all(|c| c.len_utf8() <= 3 * folded(&c.to_string()).len()));
    }

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
            ("a_b", "a[b", false, true),
            ("a[b]", "a[B]", true, true),
            ("a", "a\0b", false, true),
        ] {
            for names in [[one, other], [other, one]] {
                assert_eq!(json_clash(names.into_iter()), json, "{names:?}");
                assert_eq!(form_clash(names.into_iter()), form, "{names:?}");
                assert_eq!(is_alike(names[0], names[1]), form, "{names:?}");
            }
        }
    }
}
