//! Globs over the parts of a name: `*` within one part, `**` for any number of parts. Without regular
//! expressions, and without going back: a part takes as long as it is, and a whole pattern at most its parts times the text's,
//! of which a path has few ([`crate::path::SEGMENTS_MAX`]).

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
    pub(crate) fn parse(pattern: &str, separator: u8) -> Result<Self, DoubleStarInPart> {
        pattern
            .split(char::from(separator))
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

    pub(crate) fn matches(&self, text: &str, separator: u8) -> bool {
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
                (Some(Part::Wild(part)), Some(given)) if wild(part, given) => {
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
    /// One byte, so that to look for it is no search for a character.
    separator: u8,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let Some(end) = rest.bytes().position(|byte| byte == self.separator) else {
            self.rest = None;
            return Some(rest);
        };
        self.rest = Some(&rest[end + 1..]);
        Some(&rest[..end])
    }
}

/// Whether `text` matches `pattern`, whose `*` stand for any bytes, at least one when it is the whole pattern. Takes as long
/// as both are.
fn wild(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let (first, last) = (pieces.next().unwrap_or_default(), pieces.next_back().unwrap_or_default());
    let inner = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last));
    // Each piece where it is found first leaves the most to the others.
    let rest = pieces.try_fold(inner, |rest, piece| rest?.split_once(piece).map(|(_, rest)| Some(rest)));
    !text.is_empty() && rest.flatten().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(pattern: &str, text: &str) -> bool {
        Glob::parse(pattern, b'/').unwrap().matches(text, b'/')
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
            ("/a*b*c", "/abc"),
            ("/*ab*ab", "/xababab"),
            ("/é*é", "/éé"),
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
            ("/ab*ba", "/aba"),
            ("/*ab*b", "/ab"),
            ("/a/**/c", "/a/b/d"),
        ] {
            assert!(!path(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn no_pattern_and_no_path_take_long() {
        let one = (format!("/*{}b", "a".repeat(3_900)), format!("/{}", "a".repeat(8_000)));
        let many = (format!("/**{}/b", "/a".repeat(2_000)), "/a".repeat(crate::path::SEGMENTS_MAX));
        let started = std::time::Instant::now();
        for (pattern, text) in [one, many] {
            // As many as a document holds.
            for _ in 0..60 {
                assert!(!path(&pattern, &text));
            }
        }
        // Generous, for slow machines without optimisation: it was a minute.
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
    }

    #[test]
    fn two_stars_beside_other_characters_are_no_pattern() {
        assert_eq!(Glob::parse("/a**", b'/'), Err(DoubleStarInPart));
    }
}
