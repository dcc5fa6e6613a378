//! Globs over the parts of a name: `*` within one part, `**` for any number of parts. Linear in practice, without
//! regular expressions, so that no pattern can be made slow.

/// A pattern over one separator's parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Exactly this.
    Literal(Box<str>),
    /// One part, with `*` in it.
    Wild(Box<str>),
    /// Any number of parts (`**`).
    Any,
}

/// `**` beside other characters of a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DoubleStarInPart;

impl Glob {
    pub(crate) fn parse(pattern: &str, separator: char) -> Result<Self, DoubleStarInPart> {
        pattern
            .split(separator)
            .map(|part| match part {
                "**" => Ok(Part::Any),
                _ if part.contains("**") => Err(DoubleStarInPart),
                _ if part.contains('*') => Ok(Part::Wild(part.into())),
                _ => Ok(Part::Literal(part.into())),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The pattern when it has no wildcard.
    pub(crate) fn is_literal(&self) -> bool {
        self.0.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// How many parts at the end are literal.
    pub(crate) fn literal_tail(&self) -> usize {
        self.0.iter().rev().take_while(|part| matches!(part, Part::Literal(_))).count()
    }

    pub(crate) fn matches(&self, text: &str, separator: char) -> bool {
        let mut rest = Parts { rest: Some(text), separator };
        let mut at = 0;
        // Where to go on after the last `**`: the pattern's next part, and the text one part further each time.
        let mut retry: Option<(usize, Parts<'_>)> = None;
        loop {
            let mut ahead = rest.clone();
            match (self.0.get(at), ahead.next()) {
                (None, None) => return true,
                (Some(Part::Any), _) if at + 1 == self.0.len() => return rest.rest.is_some(),
                (Some(Part::Any), _) => {
                    at += 1;
                    retry = Some((at, rest.clone()));
                    continue;
                }
                (Some(Part::Literal(part)), Some(given)) if **part == *given => {
                    at += 1;
                    rest = ahead;
                    continue;
                }
                (Some(Part::Wild(part)), Some(given)) if wild(part.as_bytes(), given.as_bytes()) => {
                    at += 1;
                    rest = ahead;
                    continue;
                }
                _ => {}
            }
            let Some((pattern, text)) = &mut retry else { return false };
            if text.next().is_none() {
                return false;
            }
            at = *pattern;
            rest = text.clone();
        }
    }
}

#[derive(Clone)]
struct Parts<'a> {
    rest: Option<&'a str>,
    separator: char,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        match rest.split_once(self.separator) {
            Some((part, after)) => {
                self.rest = Some(after);
                Some(part)
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// Whether `text` matches `pattern`, whose `*` stand for any bytes, at least one when it is the whole pattern.
fn wild(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return false;
    }
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((pattern_at, text_at)) = &mut retry {
            *text_at += 1;
            p = *pattern_at;
            t = *text_at;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(pattern: &str, text: &str) -> bool {
        Glob::parse(pattern, '/').unwrap().matches(text, '/')
    }

    #[test]
    fn one_star_stays_in_its_part_and_two_cross_parts() {
        for (pattern, text) in [
            ("/a/b", "/a/b"),
            ("/a/*", "/a/b"),
            ("/a/*/c", "/a/b/c"),
            ("/a/b*d", "/a/bcd"),
            ("/a/*.json", "/a/x.json"),
            ("/a/**", "/a/b"),
            ("/a/**", "/a/b/c"),
            ("/a/**", "/a/"),
            ("/**", "/"),
            ("/**", "/a/b"),
            ("/**/z", "/z"),
            ("/**/z", "/a/b/z"),
            ("/a/**/c/**/e", "/a/c/d/c/e"),
            ("/**/a/*b", "/a/c/a/xb"),
        ] {
            assert!(path(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("/a/b", "/a/b/"),
            ("/a/b", "/a"),
            ("/a/*", "/a/b/c"),
            ("/a/*", "/a/"),
            ("/a/*", "/a"),
            ("/a/**", "/a"),
            ("/a/**", "/ab"),
            ("/a/b*d", "/a/b/d"),
            ("/**/z", "/a/zz"),
            ("/a/**/c", "/a/b/d"),
        ] {
            assert!(!path(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn two_stars_beside_other_characters_are_no_pattern() {
        assert_eq!(Glob::parse("/a**", '/'), Err(DoubleStarInPart));
    }
}
