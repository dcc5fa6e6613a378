//! Media types, and patterns of them.

use std::fmt;

/// A media type in lower case, such as `application/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType {
    essence: Box<str>,
    slash: usize,
    /// Its `charset`, in lower case.
    charset: Option<Box<str>>,
}

impl MediaType {
    /// Reads a `Content-Type`. What is no media type, or more than one, is none.
    pub(crate) fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split(';');
        let essence = parts.next()?.trim_matches([' ', '\t']).to_ascii_lowercase();
        let (main, sub) = essence.split_once('/')?;
        if !is_token(main) || !is_token(sub) || !is_plain(header) {
            return None;
        }
        let slash = main.len();
        // Of two that are named, servers take one or the other: together they are none that is known.
        let charsets = parts.filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            let value = value.trim_matches([' ', '\t', '"']).to_ascii_lowercase();
            name.trim_matches([' ', '\t']).eq_ignore_ascii_case("charset").then_some(value)
        });
        let charset = charsets.reduce(|one, other| one + ";" + &other).map(Into::into);
        Some(Self { essence: essence.into(), slash, charset })
    }

    /// Whether it is JSON, or a type made of it (`application/ld+json`).
    pub(crate) fn is_json(&self) -> bool {
        matches!(&*self.essence, "application/json" | "text/json") || self.essence.ends_with("+json")
    }

    /// Whether it is a form whose fields are written like a query.
    pub(crate) fn is_form(&self) -> bool {
        *self.essence == *"application/x-www-form-urlencoded"
    }

    /// Whether it is a call of gRPC, or of gRPC-Web.
    pub(crate) fn is_grpc(&self) -> bool {
        let rest = self
            .essence
            .strip_prefix("application/grpc")
            .map(|rest| rest.strip_prefix("-web").unwrap_or(rest));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+') || rest.starts_with("-text"))
    }

    /// Whether its text is said to be UTF-8, or nothing is said.
    pub(crate) fn is_utf8(&self) -> bool {
        self.charset.as_deref().is_none_or(|name| matches!(name, "utf-8" | "utf8" | "us-ascii"))
    }
}

/// Whether servers cut a `Content-Type` into the same parts: quotes end, no `;` stands in them, and no `,` outside of them,
/// which would make it a list, of which some take the first and some the last.
fn is_plain(header: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in header.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return false,
            b';' if quoted => return false,
            _ => {}
        }
    }
    !quoted
}

/// Media types that a rule names: `application/json`, `image/*`, `application/*+json`. Parameters do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaPattern {
    main: Box<str>,
    /// `*` stands for anything.
    sub: Box<str>,
}

impl MediaPattern {
    /// Parses a pattern. The problem is text for the author.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let (main, sub) =
            lower.split_once('/').ok_or("expected `type/subtype`, such as `application/json`")?;
        let free = sub.strip_prefix("*+").unwrap_or(sub);
        if !is_token(main) || main.contains('*') || !(sub == "*" || is_token(free) && !free.contains('*')) {
            return Err("expected `type/subtype`, `type/*` or `type/*+suffix`, without parameters".to_owned());
        }
        Ok(Self { main: main.into(), sub: sub.into() })
    }

    pub(crate) fn matches(&self, media: &MediaType) -> bool {
        let (main, sub) = (&media.essence[..media.slash], &media.essence[media.slash + 1..]);
        *self.main == *main
            && match self.sub.strip_prefix('*') {
                Some(suffix) => sub.len() > suffix.len() && sub.ends_with(suffix),
                None => *self.sub == *sub,
            }
    }
}

impl fmt::Display for MediaPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}

/// A token of HTTP (RFC 9110).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_types_without_their_parameters() {
        for (pattern, header, matches) in [
            ("application/json", "application/json", true),
            ("application/json", "Application/JSON; charset=utf-8", true),
            ("application/json", "application/jsonx", false),
            ("application/*+json", "application/ld+json", true),
            ("application/*+json", "application/json", false),
            ("image/*", "image/png", true),
            ("image/*", "text/png", false),
        ] {
            let media = MediaType::parse(header).unwrap();
            assert_eq!(MediaPattern::parse(pattern).unwrap().matches(&media), matches, "{pattern} {header}");
        }
    }

    #[test]
    fn what_is_no_type_or_two_of_them_is_none() {
        for header in [
            "",
            "json",
            "a/b, c/d",
            "a/b/c",
            "/b",
            "a/",
            "a b/c",
            "a/b;c=d, e/f",
            "a/b; c=\"d",
            "a/b; c=\"; charset=utf-16\"",
        ] {
            assert_eq!(MediaType::parse(header), None, "{header}");
        }
        for pattern in ["", "json", "*/*", "*/json", "a/*b", "a/b; c=d", "a/*+*"] {
            assert!(MediaPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
