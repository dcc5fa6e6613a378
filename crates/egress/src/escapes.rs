//! The spellings in which each character of a secret may stand as it is or escaped: percent-encoding, the strings of JSON
//! and of programming languages, and the references of HTML. Any characters, by any of these, in either case of letters.
//!
//! Invariant: work and memory are bounded by the text. A spelling is looked for from its first escape: before that it is the
//! secret as it is, so that a text without escapes costs no more than looking for their first bytes.

use std::{collections::BTreeSet, ops::Range};

use memchr::{memchr_iter, memchr3_iter};

use crate::{forms::Form, work::Work};

/// The most digits of a reference of HTML that are read; more is none.
const DIGITS_MAX: usize = 8;

/// The references of HTML by name that a key or a password may be written with.
const NAMED: [(&str, u8); 39] = [
    ("amp", b'&'),
    ("apos", b'\''),
    ("ast", b'*'),
    ("bsol", b'\\'),
    ("colon", b':'),
    ("comma", b','),
    ("commat", b'@'),
    ("dollar", b'$'),
    ("equals", b'='),
    ("excl", b'!'),
    ("grave", b'`'),
    ("gt", b'>'),
    ("hat", b'^'),
    ("lbrace", b'{'),
    ("lbrack", b'['),
    ("lcub", b'{'),
    ("lowbar", b'_'),
    ("lpar", b'('),
    ("lsqb", b'['),
    ("lt", b'<'),
    ("midast", b'*'),
    ("newline", b'\n'),
    ("num", b'#'),
    ("percnt", b'%'),
    ("period", b'.'),
    ("plus", b'+'),
    ("quest", b'?'),
    ("quot", b'"'),
    ("rbrace", b'}'),
    ("rbrack", b']'),
    ("rcub", b'}'),
    ("rpar", b')'),
    ("rsqb", b']'),
    ("semi", b';'),
    ("sol", b'/'),
    ("tab", b'\t'),
    ("verbar", b'|'),
    ("vert", b'|'),
    ("underbar", b'_'),
];

/// What follows a backslash and stands for one character.
const BACKSLASHED: [(u8, u8); 10] = [
    (b'"', b'"'),
    (b'\'', b'\''),
    (b'/', b'/'),
    (b'\\', b'\\'),
    (b'0', 0),
    (b'b', 8),
    (b'f', 12),
    (b'n', b'\n'),
    (b'r', b'\r'),
    (b't', b'\t'),
];

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What stands at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// An escape.
    Escape(Escape),
    /// The text ends before an escape does.
    Open,
    /// No escape.
    Plain,
}

/// An escape as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Escape {
    /// What it stands for, in lower case, in UTF-8.
    meaning: [u8; 4],
    /// Bytes of the meaning.
    meaning_len: usize,
    /// Bytes of the escape.
    len: usize,
}

impl Escape {
    const fn byte(byte: u8, len: usize) -> Read {
        Read::Escape(Self { meaning: [byte.to_ascii_lowercase(), 0, 0, 0], meaning_len: 1, len })
    }

    /// The character with this number, if there is one.
    fn number(number: u32, len: usize) -> Read {
        let Some(character) = char::from_u32(number) else { return Read::Plain };
        let mut meaning = [0; 4];
        let meaning_len = character.to_ascii_lowercase().encode_utf8(&mut meaning).len();
        Read::Escape(Self { meaning, meaning_len, len })
    }

    fn meaning(&self) -> &[u8] {
        &self.meaning[..self.meaning_len]
    }
}

/// Reads what stands at the beginning of a text, in either case of letters; `ended`: nothing comes after it.
fn read(text: &[u8], ended: bool) -> Read {
    match text {
        [b'%', rest @ ..] => {
            hex(rest, 2).map_or_else(|not| not, |byte| Escape::byte(byte.to_le_bytes()[0], 3))
        }
        [b'\\'] | [b'&'] => Read::Open,
        [b'\\', b'x' | b'X', rest @ ..] => {
            hex(rest, 2).map_or_else(|not| not, |byte| Escape::byte(byte.to_le_bytes()[0], 4))
        }
        [b'\\', b'u' | b'U', rest @ ..] => unit(rest),
        [b'\\', sign, ..] => {
            let known = BACKSLASHED.iter().find(|(known, _)| known.eq_ignore_ascii_case(sign));
            known.map_or(Read::Plain, |(_, byte)| Escape::byte(*byte, 2))
        }
        [b'&', b'#', ..] => reference(text, ended),
        [b'&', name @ ..] => named(name),
        _ => Read::Plain,
    }
}

/// A number of so many hexadecimal digits.
fn hex(text: &[u8], digits: usize) -> Result<u32, Read> {
    let given = text.iter().take(digits);
    let number =
        given.map(|digit| char::from(*digit).to_digit(16)).try_fold(0, |sum, digit| Some(sum * 16 + digit?));
    match number {
        None => Err(Read::Plain),
        Some(_) if text.len() < digits => Err(Read::Open),
        Some(number) => Ok(number),
    }
}

/// What follows `\u`: a unit of UTF-16, or two that belong together.
fn unit(text: &[u8]) -> Read {
    let high = match hex(text, 4) {
        Ok(high) => high,
        Err(not) => return not,
    };
    if !(0xd800..0xdc00).contains(&high) {
        return Escape::number(high, 6);
    }
    let rest = &text[4..];
    let begun = rest.len().min(2);
    if !rest[..begun].eq_ignore_ascii_case(&b"\\u"[..begun]) {
        return Read::Plain;
    }
    match hex(&rest[begun..], 4) {
        Ok(low @ 0xdc00..0xe000) => Escape::number(0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00), 12),
        Ok(_) => Read::Plain,
        Err(not) => not,
    }
}

/// `&#` and what follows. Browsers do without the `;`.
fn reference(text: &[u8], ended: bool) -> Read {
    let (start, radix) = if matches!(text.get(2), Some(b'x' | b'X')) { (3, 16) } else { (2, 10) };
    let digits = text[start..].iter().map_while(|digit| char::from(*digit).to_digit(radix));
    let (mut number, mut end) = (0_u32, start);
    for digit in digits.take(DIGITS_MAX + 1) {
        number = number.saturating_mul(radix).saturating_add(digit);
        end += 1;
    }
    match text.get(end) {
        _ if end - start > DIGITS_MAX => Read::Plain,
        None if !ended => Read::Open,
        _ if end == start => Read::Plain,
        Some(b';') => Escape::number(number, end + 1),
        _ => Escape::number(number, end),
    }
}

fn named(text: &[u8]) -> Read {
    let first = text.first().map(u8::to_ascii_lowercase);
    let mut read = Read::Plain;
    for (name, byte) in NAMED {
        if first.is_some_and(|first| name.as_bytes()[0] != first) {
            continue;
        }
        let same =
            text.iter().zip(name.bytes()).take_while(|(given, wanted)| given.eq_ignore_ascii_case(wanted));
        let same = same.count();
        match text.get(same) {
            Some(b';') if same == name.len() => return Escape::byte(byte, same + 2),
            None => read = Read::Open,
            Some(_) => {}
        }
    }
    read
}

/// Every escape of the character that the text of a secret, in lower case, begins with, and how many bytes that is. Of
/// references the shortest.
pub(crate) fn escapes(secret: &[u8]) -> Vec<(Vec<u8>, usize)> {
    let Some(&first) = secret.first() else { return Vec::new() };
    let mut all = Vec::new();
    for byte in [first, first.to_ascii_uppercase()] {
        all.extend([(format!("%{byte:02x}"), 1), (format!("\\x{byte:02x}"), 1)]);
    }
    let text = secret.get(..secret.len().min(4)).unwrap_or_default().utf8_chunks().next();
    if let Some(character) = text.and_then(|text| text.valid().chars().next()) {
        let len = character.len_utf8();
        for character in [character, character.to_ascii_uppercase()] {
            let units =
                character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let number = u32::from(character);
            all.extend([(units, len), (format!("&#{number};"), len), (format!("&#x{number:x};"), len)]);
        }
    }
    all.extend(NAMED.iter().filter(|(_, byte)| *byte == first).map(|(name, _)| (format!("&{name};"), 1)));
    let signs = BACKSLASHED.iter().filter(|(_, byte)| *byte == first);
    all.extend(signs.map(|(sign, _)| (format!("\\{}", char::from(*sign)), 1)));
    all.into_iter().map(|(text, len)| (text.into_bytes(), len)).collect()
}

/// Whether the end of a text, an escape that is not complete, may become one of what the secret begins with.
fn may_become(open: &[u8], secret: &[u8]) -> bool {
    let mut open = open.to_ascii_lowercase();
    // Zeros before a number say nothing.
    let start = open.iter().position(|byte| !b"&#x".contains(byte)).unwrap_or(open.len());
    if open.starts_with(b"&#") {
        let zeros = open[start..].iter().take_while(|digit| **digit == b'0').count();
        open.drain(start..start + zeros);
    }
    escapes(secret).iter().any(|(escape, _)| escape.starts_with(&open))
}

/// Finds some secrets where characters of them are escaped. Has no `Debug`.
pub(crate) struct Escapes {
    secrets: Vec<Escaped>,
    /// Whether this byte is in any of them.
    bytes: [bool; 256],
    /// Whether this byte, behind `%`, `\` or `&` (a bit each), may go on with an escape of any byte of theirs.
    second: [u8; 256],
}

/// A secret, in lower case.
struct Escaped(Form);

/// The first escape of a spelling that is looked for.
struct First {
    /// Where it stands.
    at: usize,
    escape: Escape,
    /// Bytes of the secret before it, at least.
    least: usize,
}

/// The bit of an escape's first byte.
const fn bit(first: u8) -> u8 {
    1 << (first & 3)
}

impl Escapes {
    /// For secrets in lower case.
    pub(crate) fn new(secrets: Vec<Form>) -> Self {
        let (mut bytes, mut second) = ([false; 256], [0; 256]);
        let mut goes_on = |first: u8, with: u8| {
            second[usize::from(with.to_ascii_lowercase())] |= bit(first);
            second[usize::from(with.to_ascii_uppercase())] |= bit(first);
        };
        for byte in secrets.iter().flat_map(|secret| secret.iter()) {
            bytes[usize::from(*byte)] = true;
            for byte in [*byte, byte.to_ascii_uppercase()] {
                goes_on(b'%', HEX_DIGITS[usize::from(byte >> 4)]);
            }
        }
        b"xu".iter().for_each(|unit| goes_on(b'\\', *unit));
        goes_on(b'&', b'#');
        let is_in = |byte: &u8| bytes[usize::from(*byte)];
        BACKSLASHED.iter().filter(|(_, byte)| is_in(byte)).for_each(|(sign, _)| goes_on(b'\\', *sign));
        NAMED.iter().filter(|(_, byte)| is_in(byte)).for_each(|(name, _)| goes_on(b'&', name.as_bytes()[0]));
        Self { secrets: secrets.into_iter().map(Escaped).collect(), bytes, second }
    }

    /// Tells every occurrence in a text that has an escape, and answers from where on the text may be the beginning of one.
    /// `ended`: nothing comes after the text. When no work is left, neither is true.
    pub(crate) fn find(
        &self,
        text: &[u8],
        ended: bool,
        work: &mut Work,
        mut each: impl FnMut(Range<usize>),
    ) -> usize {
        let mut open_from = text.len();
        for at in memchr3_iter(b'%', b'\\', b'&', text) {
            if text.get(at + 1).is_some_and(|second| self.second[usize::from(*second)] & bit(text[at]) == 0) {
                continue;
            }
            if !work.candidate() {
                break;
            }
            let read = read(&text[at..], ended);
            let may_be_one = match read {
                Read::Escape(escape) => self.bytes[usize::from(escape.meaning[0])],
                Read::Open => !ended,
                Read::Plain => false,
            };
            if !may_be_one {
                continue;
            }
            for secret in &self.secrets {
                // What begins behind there is held back with it, and looked at again.
                let least = if ended { 0 } else { (at + 1).saturating_sub(open_from) };
                if !work.candidate() {
                    break;
                }
                let from = match read {
                    Read::Escape(escape) => {
                        let first = First { at, escape, least };
                        secret.find_from(text, &first, ended, work, &mut each)
                    }
                    Read::Open | Read::Plain => secret.open_from(text, at, work),
                };
                open_from = from.map_or(open_from, |from| open_from.min(from));
            }
        }
        open_from
    }
}

impl Escaped {
    /// Tells the occurrences whose first escape is this one and that have `least` bytes before it, and answers where the
    /// first begins that may go on behind the end of the text.
    fn find_from(
        &self,
        text: &[u8],
        &First { at, escape, least }: &First,
        ended: bool,
        work: &mut Work,
        each: &mut impl FnMut(Range<usize>),
    ) -> Option<usize> {
        let mut open_from = None;
        let most = at.saturating_add(1).min(self.0.len());
        let least = least.min(most);
        work.looked(most - least);
        for index in memchr_iter(escape.meaning[0], &self.0[least..most]).map(|index| least + index) {
            // Before its first escape a spelling is the secret as it is.
            if !work.candidate() {
                break;
            }
            let fits = escape.meaning_len == 1 || self.0[index..].starts_with(escape.meaning());
            if fits && self.follows(&text[..at], index, work) {
                let (end, open) = self.follow(text, at + escape.len, index + escape.meaning_len, ended, work);
                if let Some(end) = end {
                    each(at - index..end);
                }
                // The longest beginning is the last one.
                open_from = open.then_some(at - index).or(open_from);
            }
        }
        open_from
    }

    /// Whether a text ends with the secret up to `index`. Mostly one byte tells.
    fn follows(&self, text: &[u8], index: usize, work: &mut Work) -> bool {
        let beginning = &self.0[..index];
        match (beginning.last(), text.last()) {
            (Some(wanted), Some(given)) if given.eq_ignore_ascii_case(wanted) => {
                text.len().checked_sub(index).is_some_and(|from| work.is_same(&text[from..], beginning))
            }
            (wanted, _) => wanted.is_none(),
        }
    }

    /// Where the first occurrence begins whose first escape may be this one, with which the text ends.
    fn open_from(&self, text: &[u8], at: usize, work: &mut Work) -> Option<usize> {
        let begins = |index: &usize| {
            work.candidate()
                && self.follows(&text[..at], *index, work)
                && work.open_escape()
                && may_become(&text[at..], &self.0[*index..])
        };
        (0..self.0.len()).rev().find(begins).map(|index| at - index)
    }

    /// Follows a spelling whose first `known` bytes were read up to `at`: where it ends, if it does, and whether it may go
    /// on behind the end of the text.
    fn follow(
        &self,
        text: &[u8],
        at: usize,
        known: usize,
        ended: bool,
        work: &mut Work,
    ) -> (Option<usize>, bool) {
        let (mut end, mut open) = (None, false);
        // Where a secret itself holds what reads as an escape, a text has more ways to be read than one: as many as there are
        // subsets of such places, so that each place is left only once in each way.
        let (mut way, mut others, mut forks) = (Some((at, known)), Vec::new(), BTreeSet::new());
        'ways: while let Some((mut at, mut known)) = way.take().or_else(|| others.pop()) {
            while let Some(wanted) = self.0.get(known) {
                let Some(given) = text.get(at) else {
                    open = !ended;
                    break;
                };
                if !work.character(*given) {
                    return (None, false);
                }
                let read = if b"%\\&".contains(given) { read(&text[at..], ended) } else { Read::Plain };
                match read {
                    Read::Escape(escape) if self.0[known..].starts_with(escape.meaning()) => {
                        if given.eq_ignore_ascii_case(wanted) {
                            if !work.fork() {
                                return (None, false);
                            }
                            if !forks.insert((at, known)) {
                                continue 'ways;
                            }
                            others.push((at + 1, known + 1));
                        }
                        (at, known) = (at + escape.len, known + escape.meaning_len);
                        continue;
                    }
                    Read::Open => open |= !ended && may_become(&text[at..], &self.0[known..]),
                    Read::Escape(_) | Read::Plain => {}
                }
                if !given.eq_ignore_ascii_case(wanted) {
                    break;
                }
                (at, known) = (at + 1, known + 1);
            }
            if known == self.0.len() {
                end = end.max(Some(at));
            }
        }
        (end, open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_is_read_as_what_it_stands_for_and_every_beginning_of_one_is_open() {
        for character in (0..=0x2ff).chain([0x20ac, 0x1_f600]).filter_map(char::from_u32) {
            let mut secret = character.to_ascii_lowercase().to_string().into_bytes();
            secret.extend(b"rest");
            for (escape, len) in escapes(&secret) {
                let Read::Escape(found) = read(&[&escape, &b"!"[..]].concat(), false) else {
                    panic!("{escape:?}")
                };
                assert_eq!((found.meaning(), found.len), (&secret[..len], escape.len()), "{escape:?}");
                for cut in 1..escape.len() {
                    assert_eq!(read(&escape[..cut], false), Read::Open, "{:?}", &escape[..cut]);
                    assert!(may_become(&escape[..cut], &secret), "{:?}", &escape[..cut]);
                }
            }
        }
    }

    #[test]
    fn what_is_no_escape_is_plain() {
        for text in [
            "%g0",
            "%0g",
            "\\q",
            "\\u00g0",
            "\\ud800x",
            "\\ud800\\u0041",
            "&foo;",
            "&#;",
            "&#x;",
            "&#000000097;",
        ] {
            assert_eq!(read(text.as_bytes(), false), Read::Plain, "{text}");
        }
        assert!(!may_become(b"%7", b"sk") || !may_become(b"%6", b"sk"));
        assert!(may_become(b"&#0009", b"a") && !may_become(b"&#0008", b"a"));
    }

    #[test]
    fn of_a_spelling_that_is_held_back_each_further_byte_is_little_work() {
        let secret: Vec<u8> = (0..4_000_u32).map(|at| b'a' + (at * at / 7 % 26) as u8).collect();
        let spelled: String = secret.iter().map(|byte| format!("%{byte:02x}")).collect();
        let one = Escapes::new(vec![Form::new(secret)]);
        let started = std::time::Instant::now();
        for end in spelled.len() - 300..spelled.len() {
            let mut work = Work::of(u64::MAX);
            assert_eq!(one.find(&spelled.as_bytes()[..end], false, &mut work, |_| ()), 0);
        }
        // Generous, for slow machines without optimisation: with every escape looked at as the first it is twice as long.
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{:?}", started.elapsed());
    }

    #[test]
    fn every_escape_of_a_secrets_bytes_is_read_by_its_second_byte_already() {
        for character in (0..=0x2ff).chain([0x20ac, 0x1_f600]).filter_map(char::from_u32) {
            let secret = character.to_ascii_lowercase().to_string().into_bytes();
            let one = Escapes::new(vec![Form::new(secret.clone())]);
            for escape in
                escapes(&secret).into_iter().flat_map(|(escape, _)| [escape.to_ascii_uppercase(), escape])
            {
                assert!(one.second[usize::from(escape[1])] & bit(escape[0]) != 0, "{escape:?}");
            }
        }
        assert!(bit(b'%') | bit(b'\\') | bit(b'&') == 7);
        let key = Escapes::new(vec![Form::new(b"sk-ant-api03".to_vec())]);
        for passed in [&b"% "[..], b"%0", b"%9", b"\\n", b"\\\"", b"& ", b"&g", b"&q"] {
            assert!(key.second[usize::from(passed[1])] & bit(passed[0]) == 0, "{passed:?}");
        }
    }
}
