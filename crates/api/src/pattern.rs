//! What the patterns of the document ask for, in words: a client that is refused reads those, and no regular expression.

/// What a text of this pattern is, to stand behind `must be`; `None` for a pattern that the document does not have.
pub fn pattern_in_words(pattern: &str) -> Option<String> {
    let words = match pattern {
        "^[a-z0-9]+(-[a-z0-9]+)*$" => {
            "lowercase letters and digits, with single hyphens between them, e.g. `my-name`"
        }
        "^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$" => {
            "letters and digits, with `_` and `-` between them, e.g. `github-main`"
        }
        "^[A-Za-z][A-Za-z0-9_-]{0,63}$" => {
            "a letter and then up to 63 letters, digits, `_` or `-`, e.g. `stripe_key`"
        }
        "^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*(:[0-9]{1,5})?$" => {
            "a host name in lowercase without scheme or path, with a port when it is not 443, e.g. `api.example.com`"
        }
        "^/" => "an absolute path, e.g. `/workspace`",
        "^[0-9]{1,19}$" => "a number",
        _ => {
            let prefix = pattern.strip_prefix('^')?.strip_suffix("[0-9a-f]{32}$")?;
            return Some(format!("`{prefix}` and 32 lowercase hexadecimal digits"));
        }
    };
    Some(words.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn patterns<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("pattern").and_then(Value::as_str));
                fields.values().for_each(|field| patterns(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| patterns(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_pattern_of_the_document_is_said_in_words() {
        let (document, mut found) = (crate::openapi(), Vec::new());
        patterns(&document, &mut found);
        assert!(found.len() > 10);
        for pattern in found {
            assert!(pattern_in_words(pattern).is_some(), "{pattern}");
        }
    }
}
