//! From text to tokens.

use super::{CelProblem, hint};

/// One token and where it begins, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) offset: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// A name, or one of the words `true`, `false`, `null` and `in`.
    Name(String),
    /// The digits of an integer; a sign is an operator.
    Int(u64),
    Double(f64),
    Text(String),
    Symbol(&'static str),
    End,
}

/// Longer ones before those they begin with.
const SYMBOLS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "+", "-", "*", "/",
    "%", "!", "<", ">",
];

/// All tokens, the last of which is [`Kind::End`].
pub(super) fn tokens(source: &str) -> Result<Vec<Token>, CelProblem> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at = skip_blank(source, at);
        let (kind, length) =
            one(&source[at..]).map_err(|(inner, message)| CelProblem::new(at + inner, message))?;
        let ends = kind == Kind::End;
        tokens.push(Token { kind, offset: at });
        if ends {
            return Ok(tokens);
        }
        at += length;
    }
}

fn skip_blank(source: &str, mut at: usize) -> usize {
    loop {
        let rest = &source[at..];
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}']).len();
        at += blank;
        if !source[at..].starts_with("//") {
            return at;
        }
        at += source[at..].find('\n').unwrap_or(source.len() - at);
    }
}

/// The first token of a text and its length, or what is wrong with it and where.
fn one(text: &str) -> Result<(Kind, usize), (usize, String)> {
    let Some(first) = text.chars().next() else { return Ok((Kind::End, 0)) };
    if let Some(found) = literal_text(text)? {
        return Ok(found);
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let length = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        return Ok((Kind::Name(text[..length].to_owned()), length));
    }
    let starts_fraction = text.starts_with('.') && text[1..].starts_with(|c: char| c.is_ascii_digit());
    if first.is_ascii_digit() || starts_fraction {
        return number(text).map_err(|message| (0, message));
    }
    let symbol = SYMBOLS.iter().find(|symbol| text.starts_with(**symbol));
    symbol
        .map(|symbol| (Kind::Symbol(symbol), symbol.len()))
        .ok_or_else(|| (0, format!("`{first}` has no place here{}", hint::for_sign(first))))
}

fn number(text: &str) -> Result<(Kind, usize), String> {
    let digits_end = |from: usize, of: fn(&u8) -> bool| {
        from + text.as_bytes()[from..].iter().take_while(|byte| of(byte)).count()
    };
    let (kind, length) = if text.starts_with("0x") || text.starts_with("0X") {
        let end = digits_end(2, u8::is_ascii_hexdigit);
        (u64::from_str_radix(&text[2..end], 16).ok().map(Kind::Int), end)
    } else {
        let mut end = digits_end(0, u8::is_ascii_digit);
        let whole = end;
        if text[end..].starts_with('.') && text[end + 1..].starts_with(|c: char| c.is_ascii_digit()) {
            end = digits_end(end + 1, u8::is_ascii_digit);
        }
        let exponent =
            text[end..].strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
        if let Some(rest) = exponent.filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
            end = digits_end(text.len() - rest.len(), u8::is_ascii_digit);
        }
        let value = &text[..end];
        let kind = if end == whole {
            value.parse().ok().map(Kind::Int)
        } else {
            value.parse::<f64>().ok().filter(|number| number.is_finite()).map(Kind::Double)
        };
        (kind, end)
    };
    let next = text[length..].chars().next();
    match (kind, next) {
        (Some(_), Some('u' | 'U')) => {
            Err("there are no unsigned integers here: leave the `u` out".to_owned())
        }
        (Some(_), Some(c)) if c.is_ascii_alphanumeric() || c == '_' => {
            Err("a number may not run into a name".to_owned())
        }
        (Some(kind), _) => Ok((kind, length)),
        (None, _) => Err(format!("`{}` is no number, or too large a one", &text[..length])),
    }
}

/// A text in quotes, when that is what comes first.
fn literal_text(text: &str) -> Result<Option<(Kind, usize)>, (usize, String)> {
    let prefix = text.bytes().take_while(|byte| matches!(byte, b'r' | b'R' | b'b' | b'B')).count();
    if prefix > 2 || !text[prefix..].starts_with(['"', '\'']) {
        return Ok(None);
    }
    if text[..prefix].contains(['b', 'B']) {
        return Err((0, "there are no bytes here: write a text".to_owned()));
    }
    let is_raw = prefix > 0;
    let quote = &text[prefix..=prefix];
    let triple = quote.repeat(3);
    let fence = if text[prefix..].starts_with(&triple) { triple.as_str() } else { quote };
    let mut value = String::new();
    let mut at = prefix + fence.len();
    loop {
        let rest = &text[at..];
        if rest.starts_with(fence) {
            return Ok(Some((Kind::Text(value), at + fence.len())));
        }
        let Some(c) = rest.chars().next() else {
            return Err((0, "this text has no end".to_owned()));
        };
        if c == '\n' && fence.len() == 1 {
            return Err((at, "a text in single quotes or double quotes ends on its line".to_owned()));
        }
        if c == '\\' && !is_raw {
            let (escaped, length) = escape(&rest[1..]).map_err(|message| (at, message))?;
            value.push(escaped);
            at += 1 + length;
        } else {
            value.push(c);
            at += c.len_utf8();
        }
    }
}

/// What stands behind a backslash, and its length.
fn escape(text: &str) -> Result<(char, usize), String> {
    let code = |from: usize, digits: usize, radix: u32| {
        let number = text.get(from..from + digits).and_then(|digits| u32::from_str_radix(digits, radix).ok());
        let c = number.and_then(char::from_u32).ok_or("this escape names no character")?;
        Ok((c, from + digits))
    };
    let plain = |c| Ok((c, 1));
    match text.bytes().next() {
        Some(b'n') => plain('\n'),
        Some(b't') => plain('\t'),
        Some(b'r') => plain('\r'),
        Some(b'a') => plain('\u{7}'),
        Some(b'b') => plain('\u{8}'),
        Some(b'f') => plain('\u{c}'),
        Some(b'v') => plain('\u{b}'),
        Some(byte @ (b'\\' | b'"' | b'\'' | b'`' | b'?')) => plain(char::from(byte)),
        Some(b'x' | b'X') => code(1, 2, 16),
        Some(b'u') => code(1, 4, 16),
        Some(b'U') => code(1, 8, 16),
        Some(b'0'..=b'3') => code(0, 3, 8),
        _ => Err("there is no such escape; `\\\\` is a backslash, and in r\"...\" it needs none".to_owned()),
    }
}
