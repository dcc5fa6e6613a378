//! The spellings of a secret that are one text each: as it is, and in the encodings that write all of its bytes anew.
//! Those in which a character may stand as it is or escaped, one by one, are in [`escapes`](crate::escapes).

use zeroize::Zeroizing;

/// A spelling, wiped when it is dropped.
pub(crate) type Form = Zeroizing<Vec<u8>>;

/// How bytes are written in groups of bits.
struct Base {
    /// Bits of a character.
    bits: usize,
    /// Bytes after which the next one begins a character again.
    group: usize,
    alphabet: &'static [u8],
}

const BASE32: Base = Base { bits: 5, group: 5, alphabet: b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" };
/// The standard alphabet, and the one for URLs and file names.
const BASE64: [Base; 2] = [
    Base { bits: 6, group: 3, alphabet: b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" },
    Base { bits: 6, group: 3, alphabet: b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" },
];
const HEX: Base = Base { bits: 4, group: 1, alphabet: b"0123456789abcdef" };

/// Every such spelling of `secret`, in lower case as the text is in which it is looked for; in order, none twice.
///
/// In Base64 a secret can begin at each of three bits of a character, in Base32 at each of five. Its first and last
/// character there may hold bits of its neighbours, and are not part of a spelling that something follows: up to four bits
/// of the first and the last byte are not covered, and in Base64 of Base64 up to ten.
pub(crate) fn forms(secret: &[u8]) -> Vec<Form> {
    // In a query a space is a plus.
    let query: Vec<u8> = secret.iter().map(|byte| if *byte == b' ' { b'+' } else { *byte }).collect();
    let mut forms = vec![Form::new(secret.to_vec()), HEX.encode(secret), Form::new(query)];
    forms.extend((0..BASE32.group).flat_map(|skew| BASE32.within(secret, skew)));
    for base in &BASE64 {
        for skew in 0..base.group {
            let [inner, to_the_end] = base.within(secret, skew);
            // Both alphabets write text alike.
            let [outer, _] = &BASE64;
            forms.extend((0..outer.group).map(|skew| outer.within(&inner, skew)[0].clone()));
            forms.extend([inner, to_the_end]);
        }
    }
    forms.iter_mut().for_each(|form| form.make_ascii_lowercase());
    forms.sort_unstable_by(|a, b| a.as_slice().cmp(b));
    forms.dedup();
    forms
}

impl Base {
    /// The bytes in this base, without padding.
    fn encode(&self, bytes: &[u8]) -> Form {
        let digit = |bits: usize| self.alphabet[bits & (self.alphabet.len() - 1)];
        let mut text = Form::new(Vec::with_capacity((bytes.len() * 8).div_ceil(self.bits)));
        let (mut waiting, mut count) = (0_usize, 0);
        for byte in bytes {
            (waiting, count) = ((waiting & 0xff) << 8 | usize::from(*byte), count + 8);
            while count >= self.bits {
                count -= self.bits;
                text.push(digit(waiting >> count));
            }
        }
        if count > 0 {
            text.push(digit(waiting << (self.bits - count)));
        }
        text
    }

    /// The characters that a secret has after `skew` other bytes: those it has alone, and all when it ends there.
    fn within(&self, secret: &[u8], skew: usize) -> [Form; 2] {
        let mut bytes = Form::new(vec![0; skew]);
        bytes.extend_from_slice(secret);
        let text = self.encode(&bytes);
        let (from, to) = ((skew * 8).div_ceil(self.bits), bytes.len() * 8 / self.bits);
        [&text[from..to], &text[from..]].map(|form| Form::new(form.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD},
    };

    use super::*;

    #[test]
    fn bases_are_written_as_everybody_writes_them() {
        let bytes: Vec<u8> = (0..=255).collect();
        for end in 0..=255 {
            assert_eq!(
                *BASE64[0].encode(&bytes[end..]),
                BASE64_STANDARD_NO_PAD.encode(&bytes[end..]).as_bytes()
            );
            assert_eq!(
                *BASE64[1].encode(&bytes[end..]),
                BASE64_URL_SAFE_NO_PAD.encode(&bytes[end..]).as_bytes()
            );
        }
        // RFC 4648, section 10.
        for (text, encoded) in
            [("f", "MY"), ("foob", "MZXW6YQ"), ("fooba", "MZXW6YTB"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(*BASE32.encode(text.as_bytes()), encoded.as_bytes());
        }
        assert_eq!(*HEX.encode(b"\x00\xa5f"), b"00a566");
    }

    #[test]
    fn a_plain_key_has_few_spellings() {
        assert!(forms(b"sk-ant-api03-0123456789abcdefghij").len() <= 32);
    }

    #[test]
    fn no_spelling_is_shorter_than_the_secret() {
        for length in 8..=64 {
            let secret: Vec<u8> = (0..length).map(|at: u8| at.wrapping_mul(37)).collect();
            assert!(forms(&secret).iter().all(|form| form.len() >= secret.len()));
        }
    }
}
