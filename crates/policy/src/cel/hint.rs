//! What a slip of the pen may have meant: words and signs of other languages, names in another spelling.

use super::{check::Function, schema::Attribute};
use crate::{names::plain_header_name, suggest::nearest};

/// Words of other languages for what CEL writes otherwise.
const WORDS: &[(&str, &str)] = &[
    ("and", "&&"),
    ("or", "||"),
    ("not", "!"),
    ("True", "true"),
    ("False", "false"),
    ("None", "null"),
    ("nil", "null"),
    ("undefined", "null"),
];

/// Functions and methods of other languages.
const CALLS: &[(&str, &str)] = &[
    ("len", "size"),
    ("length", "size"),
    ("count", "size"),
    ("lower", "lowerAscii"),
    ("toLowerCase", "lowerAscii"),
    ("upper", "upperAscii"),
    ("toUpperCase", "upperAscii"),
    ("includes", "contains"),
    ("any", "exists"),
    ("str", "string"),
    ("float", "double"),
];

fn among(table: &[(&'static str, &'static str)], word: &str) -> Option<&'static str> {
    table.iter().find(|(other, _)| *other == word).map(|(_, ours)| *ours)
}

/// What is written here for a word of another language.
pub(super) fn for_word(word: &str) -> Option<String> {
    among(WORDS, word).map(|ours| format!("write `{ours}` for `{word}`"))
}

/// What may be meant by a sign that has no place.
pub(super) const fn for_sign(sign: char) -> &'static str {
    match sign {
        '=' => "; equality is `==`",
        '&' => "; both is `&&`",
        '|' => "; either is `||`",
        '$' => "; texts are put together with `+`, as in `\"Bearer \" + secrets[\"name\"]`",
        _ => "",
    }
}

/// What may be meant by a call that is not known: `known` are the names in the form asked for, `other` those in the other
/// form, which is `form`.
pub(super) fn for_call<'k>(
    name: &str,
    known: impl IntoIterator<Item = &'k str>,
    mut other: impl Iterator<Item = &'k str>,
    form: &str,
) -> String {
    if other.any(|one| one == name) {
        return format!("; it is a {form}");
    }
    let meant = among(CALLS, name).or_else(|| nearest(name, known));
    meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_default()
}

/// Why a function that reads texts and numbers has no value for what is written there, behind `... is`.
pub(super) const fn for_literal(function: Function) -> Option<&'static str> {
    Some(match function {
        Function::ToTimestamp => "no moment: write day, time and zone, as in `2026-01-31T09:00:00Z`",
        Function::ToDuration => "no length of time: write it as in `90s` or `1h30m`",
        Function::ToInt => "no integer that fits",
        Function::ToDouble => "no number",
        Function::Base64Decode => "not the Base64 of a text",
        Function::FullYear
        | Function::Month
        | Function::Date
        | Function::DayOfWeek
        | Function::Hours
        | Function::Minutes
        | Function::Seconds => "no time zone: write `UTC`, or hours and minutes from it, as in `+02:00`",
        _ => return None,
    })
}

/// The only spelling in which an attribute's value, or a key of it, ever comes. A text in another one would be compared in
/// vain: a condition that never holds, which in a rule that denies means that it never denies.
pub(super) fn spelling(attribute: Attribute, text: &str) -> Option<(&'static str, String)> {
    let (rule, spelled) = match attribute {
        Attribute::RequestHeaders | Attribute::ResponseHeaders => (
            "headers are known by their names in lower case, with `-` for `_` and other signs",
            plain_header_name(text),
        ),
        Attribute::RequestMethod => ("methods are in upper case", text.to_ascii_uppercase()),
        Attribute::RequestHost | Attribute::RequestScheme => {
            ("hosts and schemes are in lower case", text.to_ascii_lowercase())
        }
        _ => return None,
    };
    (spelled != text).then_some((rule, spelled))
}
