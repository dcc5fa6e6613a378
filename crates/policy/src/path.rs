//! The normal form of a request's path: what is matched is what is sent, and what is ambiguous is refused.

use std::borrow::Cow;

/// The longest path, in bytes, as it is sent and in normal form.
pub const PATH_BYTES_MAX: usize = 8 * 1024;

/// The most segments of a path. Patterns with `**` are held against each.
pub(crate) const SEGMENTS_MAX: usize = 256;

/// Why a path has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// It is longer than [`PATH_BYTES_MAX`].
    #[error("longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// It has more than 256 segments.
    #[error("has more than {SEGMENTS_MAX} segments")]
    TooManySegments,
    /// It does not begin with a slash (`*`, an authority, nothing).
    #[error("does not begin with `/`")]
    NotAbsolute,
    /// Two slashes in a row.
    #[error("has an empty segment (`//`)")]
    EmptySegment,
    /// A segment `.` or `..`, alone or before a `;`.
    #[error("has a dot segment")]
    DotSegment,
    /// An escape that servers decode at different times: `%2F`, `%5C`, `%2E`, `%00` and control characters, `%25xx`.
    #[error("has an ambiguous escape")]
    AmbiguousEscape,
    /// A `%` without two hexadecimal digits.
    #[error("has a malformed escape")]
    MalformedEscape,
    /// Escapes that are no UTF-8, such as the overlong `%C0%AF` for a slash, or that are a control character of it.
    #[error("has escapes that are no text in UTF-8")]
    InvalidUtf8,
    /// A backslash, control character, space or a byte outside ASCII.
    #[error("has a character that must be escaped")]
    RawCharacter,
}

/// A path in normal form, without query.
///
/// Unreserved characters are not escaped, escapes are in upper case, and characters that no path may hold (`"`, `<`,
/// `{` and so on) are escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a>(Cow<'a, str>);

impl NormalPath<'_> {
    /// The path as a server reads it that takes every escape for its character and drops parameters (`;...`) of segments.
    pub(crate) fn loosened(&self) -> Cow<'_, str> {
        if !self.0.contains(['%', ';']) {
            return Cow::Borrowed(&self.0);
        }
        let mut loose = String::with_capacity(self.0.len());
        for (index, segment) in self.0.split('/').enumerate() {
            if index > 0 {
                loose.push('/');
            }
            let plain = unescaped(segment);
            loose.push_str(plain.split(';').next().unwrap_or(&plain));
        }
        Cow::Owned(loose)
    }

    /// The same, kept by itself.
    pub fn into_owned(self) -> NormalPath<'static> {
        NormalPath(Cow::Owned(self.0.into_owned()))
    }
}

impl<'a> NormalPath<'a> {
    /// Brings `path` (without its query) into normal form; allocates only when it was not in it.
    pub fn parse(path: &'a str) -> Result<Self, PathProblem> {
        if path.len() > PATH_BYTES_MAX {
            return Err(PathProblem::TooLong);
        }
        let bytes = path.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(PathProblem::NotAbsolute);
        }
        let mut normal: Option<String> = None;
        // The escaped bytes outside ASCII that stand together.
        let mut foreign: Vec<u8> = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let (taken, piece) = next_piece(bytes, at)?;
            if piece.byte.is_ascii() {
                check_text(&foreign)?;
                foreign.clear();
            } else {
                foreign.push(piece.byte);
            }
            if normal.is_none() && piece.differs {
                normal = Some(path[..at].to_owned());
            }
            if let Some(text) = &mut normal {
                piece.push_to(text);
            }
            at += taken;
        }
        check_text(&foreign)?;
        let text = normal.map_or(Cow::Borrowed(path), Cow::Owned);
        // What had to be escaped is three times as long.
        if text.len() > PATH_BYTES_MAX {
            return Err(PathProblem::TooLong);
        }
        if hides_an_escape(&text) {
            return Err(PathProblem::AmbiguousEscape);
        }
        check_segments(&text)?;
        Ok(Self(text))
    }

    /// The path's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One character of the path: as it is, or escaped.
struct Piece {
    byte: u8,
    escaped: bool,
    differs: bool,
}

impl Piece {
    fn push_to(&self, text: &mut String) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        if self.escaped {
            text.push('%');
            text.push(char::from(HEX[usize::from(self.byte >> 4)]));
            text.push(char::from(HEX[usize::from(self.byte & 15)]));
        } else {
            text.push(char::from(self.byte));
        }
    }
}

fn next_piece(bytes: &[u8], at: usize) -> Result<(usize, Piece), PathProblem> {
    let byte = bytes[at];
    if byte != b'%' {
        return match byte {
            b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';'
            | b'=' => Ok((1, Piece { byte, escaped: false, differs: false })),
            _ if is_unreserved(byte) => Ok((1, Piece { byte, escaped: false, differs: false })),
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                Ok((1, Piece { byte, escaped: true, differs: true }))
            }
            _ => Err(PathProblem::RawCharacter),
        };
    }
    let digits = bytes.get(at + 1..at + 3).ok_or(PathProblem::MalformedEscape)?;
    let high = hex(digits[0]).ok_or(PathProblem::MalformedEscape)?;
    let low = hex(digits[1]).ok_or(PathProblem::MalformedEscape)?;
    let decoded = high << 4 | low;
    match decoded {
        b'/' | b'\\' | b'.' | 0..=0x1f | 0x7f => Err(PathProblem::AmbiguousEscape),
        _ if is_unreserved(decoded) => Ok((3, Piece { byte: decoded, escaped: false, differs: true })),
        _ => {
            let differs = digits.iter().any(u8::is_ascii_lowercase);
            Ok((3, Piece { byte: decoded, escaped: true, differs }))
        }
    }
}

/// Whether a reader that decodes twice would find an escape that this one does not: looked for in the normal form, since
/// the digits of the hidden escape may be escaped too.
fn hides_an_escape(normal: &str) -> bool {
    normal.match_indices("%25").any(|(at, found)| {
        let behind = &normal.as_bytes()[at + found.len()..];
        matches!(behind, [high, low, ..] if hex(*high).is_some() && hex(*low).is_some())
    })
}

/// Servers make different things of bytes that are no text: some drop them, some take the overlong form of a slash for
/// a slash.
fn check_text(bytes: &[u8]) -> Result<(), PathProblem> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => Ok(()),
        _ => Err(PathProblem::InvalidUtf8),
    }
}

fn check_segments(path: &str) -> Result<(), PathProblem> {
    if path.bytes().filter(|b| *b == b'/').count() > SEGMENTS_MAX {
        return Err(PathProblem::TooManySegments);
    }
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // A final slash is a path's own; an empty segment before another is not.
        if segment.is_empty() && segments.peek().is_some() {
            return Err(PathProblem::EmptySegment);
        }
        let name = segment.split(';').next().unwrap_or(segment);
        if name == "." || name == ".." {
            return Err(PathProblem::DotSegment);
        }
    }
    Ok(())
}

/// The text with its escapes of ASCII read; a normal path has no others that are malformed or hide a separator.
fn unescaped(segment: &str) -> String {
    let mut plain = String::with_capacity(segment.len());
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match digits.filter(u8::is_ascii) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 3..];
            }
            None => {
                plain.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

pub(crate) const fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(path: &str) -> Result<String, PathProblem> {
        NormalPath::parse(path).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn a_path_has_one_spelling() {
        for (given, expected) in [
            ("/", "/"),
            ("/v1/messages", "/v1/messages"),
            ("/v1/messages/", "/v1/messages/"),
            ("/%41b%7e", "/Ab~"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/%e2%82%ac%F0%9F%98%80x", "/%E2%82%AC%F0%9F%98%80x"),
            ("/models/x:generate", "/models/x:generate"),
            ("/a{b}", "/a%7Bb%7D"),
            ("/100%25", "/100%25"),
            ("/...", "/..."),
            ("/a;b=c", "/a;b=c"),
        ] {
            assert_eq!(normal(given).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn a_path_that_servers_read_differently_is_refused() {
        for (given, problem) in [
            ("", PathProblem::NotAbsolute),
            ("*", PathProblem::NotAbsolute),
            ("//", PathProblem::EmptySegment),
            ("/a//b", PathProblem::EmptySegment),
            ("/a/../b", PathProblem::DotSegment),
            ("/a/.", PathProblem::DotSegment),
            ("/..;/b", PathProblem::DotSegment),
            ("/a%2Fb", PathProblem::AmbiguousEscape),
            ("/a%2fb", PathProblem::AmbiguousEscape),
            ("/%2e%2e/b", PathProblem::AmbiguousEscape),
            ("/a%5cb", PathProblem::AmbiguousEscape),
            ("/a%00", PathProblem::AmbiguousEscape),
            ("/a%252fb", PathProblem::AmbiguousEscape),
            ("/a%25%32fb", PathProblem::AmbiguousEscape),
            ("/a%2", PathProblem::MalformedEscape),
            ("/a%zz", PathProblem::MalformedEscape),
            ("/..%C0%AFx", PathProblem::InvalidUtf8),
            ("/%c0%ae%c0%ae/x", PathProblem::InvalidUtf8),
            ("/%C1%9C", PathProblem::InvalidUtf8),
            ("/%E0%80%AF", PathProblem::InvalidUtf8),
            ("/%F0%80%80%AF", PathProblem::InvalidUtf8),
            ("/%ED%A0%80", PathProblem::InvalidUtf8),
            ("/a%C3/%A9", PathProblem::InvalidUtf8),
            ("/a%FF", PathProblem::InvalidUtf8),
            ("/a%C2%85", PathProblem::InvalidUtf8),
            ("/a%c3", PathProblem::InvalidUtf8),
            ("/a\\b", PathProblem::RawCharacter),
            ("/a b", PathProblem::RawCharacter),
            ("/é", PathProblem::RawCharacter),
            ("/a?b", PathProblem::RawCharacter),
            ("/a#b", PathProblem::RawCharacter),
        ] {
            assert_eq!(normal(given), Err(problem), "{given}");
        }
        assert_eq!(normal(&format!("/{}", "a".repeat(PATH_BYTES_MAX))), Err(PathProblem::TooLong));
        // So is one that is longer once it is in normal form.
        assert_eq!(normal(&format!("/{}", "]".repeat(PATH_BYTES_MAX / 2))), Err(PathProblem::TooLong));
    }

    proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(path in "/[ -~]{0,40}") {
            if let Ok(once) = normal(&path) {
                prop_assert_eq!(normal(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn a_normal_path_hides_no_separator_and_no_dot_segment(path in "/([a-z.;/]|%2[ef5FE]|%5c|%41){0,20}") {
            if let Ok(once) = normal(&path) {
                let lower = once.to_ascii_lowercase();
                prop_assert!(!lower.contains("%2f") && !lower.contains("%2e") && !lower.contains("%5c"));
                prop_assert!(!once.contains("//"));
                prop_assert!(once.split('/').all(|segment| segment != "." && segment != ".."));
            }
        }

        #[test]
        fn a_normal_path_is_text_when_it_is_unescaped(bytes in proptest::collection::vec(any::<u8>(), 0..8)) {
            let path: String = std::iter::once("/".to_owned()).chain(bytes.iter().map(|b| format!("%{b:02x}"))).collect();
            if normal(&path).is_ok() {
                prop_assert!(std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains(['/', '\\', '.', '\0'])));
            }
        }

        #[test]
        fn no_text_makes_it_panic(path in ".{0,60}") {
            let _ = normal(&path);
        }
    }
}
