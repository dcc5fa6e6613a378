//! The spellings in which a secret can come back: as it is, and in the encodings that programs print values in.

use base64::{
    Engine,
    alphabet::{Alphabet, STANDARD, URL_SAFE},
    engine::general_purpose::{GeneralPurpose, NO_PAD},
};
use zeroize::Zeroizing;

/// A spelling, wiped when it is dropped.
pub(crate) type Form = Zeroizing<Vec<u8>>;

/// Digits of hexadecimal numbers, both ways to write them.
const DIGITS: [&[u8; 16]; 2] = [b"0123456789abcdef", b"0123456789ABCDEF"];

/// Every spelling of `secret` that is looked for; the longest first, none twice.
///
/// In Base64 a secret can begin at each of three bits of a character. Its first and last character there may hold bits
/// of its neighbours, and are not part of a spelling that something follows: up to four bits of the first and the last
/// byte are not covered.
pub(crate) fn forms(secret: &[u8]) -> Vec<Form> {
    let mut forms = vec![secret.to_vec(), secret.to_ascii_lowercase(), secret.to_ascii_uppercase()];
    for digits in DIGITS {
        forms.push(secret.iter().flat_map(|&byte| hex(byte, digits)).collect());
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
        let query = |byte: &u8| *byte == b' ' || byte.is_ascii_alphanumeric() || b"-._*".contains(byte);
        // What JavaScript's `encodeURI` leaves as it is, beside what `encodeURIComponent` does.
        let uri = |byte: &u8| plain(byte) || b"!*'();/?:@&=+$,#".contains(byte);
        let component = |byte: &u8| plain(byte) || b"!*'()".contains(byte);
        forms.extend([percent(secret, digits, plain), percent(secret, digits, component)]);
        forms.extend([percent(secret, digits, uri), percent(secret, digits, |_| false)]);
        let mut form = percent(secret, digits, query);
        form.iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'+');
        forms.push(form);
        if let Ok(text) = std::str::from_utf8(secret) {
            for slash in [false, true] {
                forms.extend([json(text, digits, slash, false), json(text, digits, slash, true)]);
            }
        }
    }
    for alphabet in [&STANDARD, &URL_SAFE] {
        forms.extend((0..3).flat_map(|skew| base64(secret, alphabet, skew)));
    }
    forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    forms.dedup();
    forms.into_iter().map(Zeroizing::new).collect()
}

fn hex(byte: u8, digits: &[u8; 16]) -> [u8; 2] {
    [digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]
}

fn percent(secret: &[u8], digits: &[u8; 16], plain: impl Fn(&u8) -> bool) -> Vec<u8> {
    let mut form = Vec::with_capacity(secret.len() * 3);
    for byte in secret {
        if plain(byte) {
            form.push(*byte);
        } else {
            form.push(b'%');
            form.extend(hex(*byte, digits));
        }
    }
    form
}

/// The inside of a string of JSON: with or without escaped slashes, and with what pages of HTML or ASCII cannot hold as
/// numbers.
fn json(text: &str, digits: &[u8; 16], slash: bool, numbers: bool) -> Vec<u8> {
    let mut form = Vec::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '"' | '\\' => form.extend([b'\\', u8::try_from(character).unwrap_or_default()]),
            '/' if slash => form.extend(b"\\/"),
            _ if character.is_ascii_control()
                || (numbers && (!character.is_ascii() || matches!(character, '<' | '>' | '&' | '\''))) =>
            {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let [high, low] = unit.to_be_bytes();
                    form.extend(b"\\u");
                    form.extend(hex(high, digits));
                    form.extend(hex(low, digits));
                }
            }
            _ => form.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    form
}

/// The characters that a secret has in Base64 after `skew` other bytes: those it has alone, and all when it ends there.
fn base64(secret: &[u8], alphabet: &Alphabet, skew: usize) -> [Vec<u8>; 2] {
    let mut bytes = Zeroizing::new(vec![0; skew]);
    bytes.extend_from_slice(secret);
    let text = GeneralPurpose::new(alphabet, NO_PAD).encode(bytes.as_slice()).into_bytes();
    let (from, to) = ((skew * 8).div_ceil(6), bytes.len() * 8 / 6);
    [text[from..to].to_vec(), text[from..].to_vec()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(secret: &str, spelling: &str) -> bool {
        forms(secret.as_bytes()).iter().any(|form| form.as_slice() == spelling.as_bytes())
    }

    #[test]
    fn a_secret_has_the_spellings_of_common_programs() {
        for spelling in [
            "pass/Wörd \"9\"",
            "pass/wörd \"9\"",
            "pass%2FW%C3%B6rd%20%229%22",
            "pass%2fW%c3%b6rd%20%229%22",
            "pass%2FW%C3%B6rd+%229%22",
            "pass/W%C3%B6rd%20%229%22",
            "%70%61%73%73%2F%57%C3%B6%72%64%20%22%39%22",
            "pass/Wörd \\\"9\\\"",
            "pass\\/Wörd \\\"9\\\"",
            "pass/W\\u00f6rd \\\"9\\\"",
            "pass\\/W\\u00F6rd \\\"9\\\"",
            "706173732f57c3b67264202239 22".replace(' ', "").as_str(),
            "cGFzcy9Xw7ZyZCAiOSI",
        ] {
            assert!(has("pass/Wörd \"9\"", spelling), "{spelling}");
        }
    }

    #[test]
    fn a_plain_key_has_few_spellings() {
        assert!(forms(b"sk-ant-api03-0123456789abcdefghij").len() <= 16);
    }
}
