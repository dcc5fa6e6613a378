//! Injected secrets are struck out of what comes back, so that an upstream which repeats what it was sent does not hand
//! the pod its key.
//!
//! Invariants: of every spelling ([`forms`]) no byte passes, however the bytes were cut into pieces; every other byte
//! passes as it is; the length stays. Held back are only bytes at the end that may be the beginning of a spelling; where the
//! sender pauses behind the first byte of one, that byte passes.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forms::{Form, forms};

/// What stands in the place of each byte of a secret.
pub(crate) const STROKE: u8 = b'*';

/// The shortest secret that is struck out, in bytes. A shorter one is found by chance in what has nothing to do with it.
pub(crate) const SECRET_BYTES_MIN: usize = 8;

/// The fewest bytes that are held back while nothing more comes. A message that ends with the byte that begins a spelling
/// must not wait for the next one, which the other side may send only after an answer.
const HELD_BYTES_MIN: usize = 2;

/// Finds the spellings of some secrets. Has no `Debug`.
pub(crate) struct Mask {
    finder: AhoCorasick,
    /// The longest first.
    forms: Vec<Form>,
    /// Whether a spelling begins with this byte.
    begins: [bool; 256],
}

impl Mask {
    /// A mask for the secrets that are long enough; `None` when none is.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let long = secrets.into_iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN);
        let mut forms: Vec<Form> = long.flat_map(forms).collect();
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        // Vector instructions find candidates; the automaton is only walked on machines without, so a small one does.
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(forms.iter().map(|form| form.as_slice()))
            .ok()?;
        let mut begins = [false; 256];
        forms.iter().for_each(|form| begins[usize::from(form[0])] = true);
        (!forms.is_empty()).then_some(Self { finder, forms, begins })
    }

    fn finds(&self, text: &[u8]) -> bool {
        self.finder.is_match(Input::new(text).earliest(true))
    }

    /// Strikes out every occurrence in `text`, those that overlap included. `out` is the same text, made when needed.
    fn strike(&self, text: &[u8], out: &mut Option<Vec<u8>>) -> bool {
        let mut from = 0;
        // Every turn begins behind the last one's beginning.
        while let Some(found) = self.finder.find(Input::new(text).span(from..text.len())) {
            out.get_or_insert_with(|| text.to_vec())[found.range()].fill(STROKE);
            from = found.start() + 1;
        }
        from > 0
    }

    /// How many bytes at the end of `text` may be the beginning of a spelling.
    fn open_end(&self, text: &[u8]) -> usize {
        let longest = self.forms.first().map_or(0, |form| form.len());
        let from = text.len() - text.len().min(longest.saturating_sub(1));
        let begins = |at: &usize| {
            let end = &text[*at..];
            self.begins[usize::from(end[0])]
                && self.forms.iter().any(|form| form.len() > end.len() && form.starts_with(end))
        };
        (from..text.len()).find(begins).map_or(0, |at| text.len() - at)
    }

    /// Strikes out what headers or trailers repeat; a field whose name does is removed. True when there was any.
    pub(crate) fn headers(&self, headers: &mut HeaderMap) -> bool {
        let named: Vec<HeaderName> =
            headers.keys().filter(|name| self.finds(name.as_str().as_bytes())).cloned().collect();
        let mut found = !named.is_empty();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            let mut out = None;
            if self.strike(value.as_bytes(), &mut out) {
                found = true;
                *value = out
                    .and_then(|out| HeaderValue::from_bytes(&out).ok())
                    .unwrap_or(const { HeaderValue::from_static("") });
            }
        }
        found
    }
}

/// A stream of bytes with the secrets struck out.
pub(crate) struct Stream {
    mask: Arc<Mask>,
    /// The end of what came, held back: it may be the beginning of a spelling.
    held: Vec<u8>,
    /// The same as it will be passed on: a shorter spelling in it may be struck out already.
    struck: Vec<u8>,
    /// How many of these were passed on at a pause.
    passed: usize,
}

impl Stream {
    pub(crate) const fn new(mask: Arc<Mask>) -> Self {
        Self { mask, held: Vec::new(), struck: Vec::new(), passed: 0 }
    }

    /// The mask.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// How many bytes are held back.
    pub(crate) const fn held(&self) -> usize {
        self.struck.len() - self.passed
    }

    /// Gives what is held back and too short to wait with, when nothing comes for now. It still counts as the beginning of
    /// a spelling.
    pub(crate) fn pause(&mut self) -> Bytes {
        if self.struck.len() >= HELD_BYTES_MIN {
            return Bytes::new();
        }
        let passed = std::mem::replace(&mut self.passed, self.struck.len());
        Bytes::copy_from_slice(&self.struck[passed..])
    }

    /// Takes the next bytes and gives those that may be passed on, and whether a secret was struck out. Copies nothing
    /// when there is none and nothing is held back.
    pub(crate) fn push(&mut self, piece: Bytes) -> (Bytes, bool) {
        let mut out = None;
        let text = if self.held.is_empty() {
            piece
        } else {
            out = Some([self.struck.as_slice(), &piece].concat());
            [self.held.as_slice(), &piece].concat().into()
        };
        let found = self.mask.strike(&text, &mut out);
        let keep = text.len() - self.mask.open_end(&text);
        self.held = text[keep..].to_vec();
        let mut out = out.map_or(text, Bytes::from);
        self.struck = out.split_off(keep).to_vec();
        let passed = self.passed.min(keep);
        self.passed -= passed;
        (out.split_off(passed), found)
    }

    /// What is held back, when nothing comes after it.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.held.clear();
        Bytes::from(std::mem::take(&mut self.struck)).split_off(std::mem::take(&mut self.passed))
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::struck_out;

    fn mask(secrets: &[&str]) -> Arc<Mask> {
        Arc::new(Mask::new(secrets.iter().map(|secret| secret.as_bytes())).unwrap())
    }

    /// Passes `text` in pieces cut at these places; the pieces as they came out, the last what was held to the end.
    fn pieces(mask: &Arc<Mask>, text: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut stream = Stream::new(Arc::clone(mask));
        let text = Bytes::copy_from_slice(text);
        let mut out: Vec<Bytes> =
            cuts.windows(2).map(|pair| stream.push(text.slice(pair[0]..pair[1])).0).collect();
        out.push(stream.finish());
        out
    }

    fn whole(mask: &Arc<Mask>, text: &[u8], cuts: &[usize]) -> Vec<u8> {
        pieces(mask, text, cuts).concat()
    }

    #[test]
    fn what_cannot_begin_a_secret_is_passed_on_at_once_and_what_can_waits_for_the_next_byte() {
        let mask = mask(&["sk-secret-1"]);
        let mut stream = Stream::new(mask);
        let mut push = |text: &'static str| stream.push(Bytes::from_static(text.as_bytes())).0;
        assert_eq!(push("data: 1\n\n"), "data: 1\n\n");
        assert_eq!(push("data: sk-se"), "data: ");
        assert_eq!(push("cond\n\n"), "sk-second\n\n");
        assert_eq!(push("sk-secret-"), "");
        assert_eq!(push("1!"), "***********!");
        assert_eq!(push("sk-secret"), "");
        assert_eq!(stream.finish(), "sk-secret");
    }

    #[test]
    fn secrets_that_overlap_are_struck_out_whole() {
        let mask = mask(&["aaaabbbb", "bbbbcccc", "abbbbccccdddd"]);
        for cut in 0..20 {
            assert_eq!(whole(&mask, b"-aaaabbbbccccddd-", &[cut]), b"-************ddd-");
            assert_eq!(whole(&mask, b"-aaaabbbbccccdddd", &[cut]), b"-****************");
        }
    }

    #[test]
    fn a_message_that_ends_like_a_secret_begins_does_not_wait_and_the_secret_is_found_all_the_same() {
        let mut stream = Stream::new(mask(&["sk-secret-1"]));
        let push =
            |stream: &mut Stream, text: &'static str| stream.push(Bytes::from_static(text.as_bytes())).0;
        assert_eq!(push(&mut stream, "there is"), "there i");
        assert_eq!(stream.pause(), "s");
        assert_eq!((stream.pause(), stream.held()), (Bytes::new(), 0));
        assert_eq!(push(&mut stream, "k"), "");
        assert_eq!(stream.pause(), "", "long enough to wait");
        assert_eq!(push(&mut stream, "-secret-1, s"), "**********, ");
        assert_eq!(stream.pause(), "s");
        assert_eq!(push(&mut stream, "o s"), "o ");
        assert_eq!(stream.pause(), "s");
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn a_short_secret_is_not_looked_for() {
        assert!(Mask::new([&b"1234567"[..], b""]).is_none());
        assert!(Mask::new([&b"12345678"[..]]).is_some());
    }

    #[test]
    fn headers_are_struck_out_and_a_name_that_repeats_a_secret_goes() {
        let mask = mask(&["Sk-Secret-1"]);
        let mut headers = HeaderMap::new();
        headers.append("location", HeaderValue::from_static("/?key=Sk-Secret-1&b"));
        headers.append("x-sk-secret-1", HeaderValue::from_static("a"));
        headers.append("server", HeaderValue::from_static("b"));
        assert!(mask.headers(&mut headers));
        assert_eq!(headers.len(), 2);
        assert_eq!(headers["location"], "/?key=***********&b");
        assert!(!mask.headers(&mut headers));
    }

    #[test]
    fn a_secret_is_found_in_base64_whatever_stands_before_it() {
        let secret = "sk-ant-api03-qW3r+tz/=";
        let mask = mask(&[secret]);
        for before in ["", "u", "us", "user:"] {
            for after in ["", "a", "\"}"] {
                let text = format!("{before}{secret}{after}");
                for encoded in [BASE64_STANDARD.encode(&text), BASE64_URL_SAFE_NO_PAD.encode(&text)] {
                    let out = String::from_utf8(whole(&mask, encoded.as_bytes(), &[7])).unwrap();
                    let left = out.bytes().filter(|byte| *byte != STROKE && *byte != b'=').count();
                    let others = (before.len() * 8).div_ceil(6) + (after.len() * 8).div_ceil(6) + 1;
                    assert!(left <= others, "{encoded} {out}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_spelling_passes_however_it_is_cut_and_all_else_does(
            secrets in proptest::collection::vec("[ -~äß€]{8,24}", 1..4),
            parts in proptest::collection::vec((any::<u16>(), "[ -~]{0,12}"), 0..6),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
            let mask = Arc::new(Mask::new(secrets.iter().copied()).unwrap());
            let mut text = Vec::new();
            for (form, between) in &parts {
                text.extend_from_slice(&mask.forms[usize::from(*form) % mask.forms.len()]);
                text.extend_from_slice(between.as_bytes());
            }
            let out = whole(&mask, &text, &cuts);
            prop_assert_eq!(&out, &struck_out(&secrets, &text));
            for form in &mask.forms {
                prop_assert!(form.iter().all(|byte| *byte == STROKE) || !out.windows(form.len()).any(|at| at == form.as_slice()));
            }
        }

        #[test]
        fn hostile_bytes_of_few_kinds_come_out_as_the_plain_reading_says(
            secrets in proptest::collection::vec("[ab]{8,12}", 1..4),
            text in proptest::collection::vec(proptest::sample::select(&b"ab*"[..]), 0..120),
            cuts in proptest::collection::vec(any::<usize>(), 0..40),
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
            let mask = Arc::new(Mask::new(secrets.iter().copied()).unwrap());
            let out = pieces(&mask, &text, &cuts);
            prop_assert_eq!(out.concat(), struck_out(&secrets, &text));
            prop_assert!(out.last().unwrap().len() < mask.forms[0].len());
        }

        #[test]
        fn no_bytes_make_it_panic_or_change_their_length(
            secret in proptest::collection::vec(any::<u8>(), 8..40),
            text in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let mask = Arc::new(Mask::new([secret.as_slice()]).unwrap());
            prop_assert_eq!(whole(&mask, &text, &cuts).len(), text.len());
        }
    }
}
