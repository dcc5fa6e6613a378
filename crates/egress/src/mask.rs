//! Injected secrets are struck out of what comes back, so that an upstream which repeats what it was sent does not hand
//! the pod its key.
//!
//! Invariants: of every spelling ([`forms`], [`Escapes`]) no byte passes, however the bytes were cut into pieces; every other byte
//! passes as it is; the length stays. Held back are only bytes at the end that may be the beginning of a spelling; where the
//! sender pauses behind the first byte of one, that byte passes. Where to tell one from the other would be more [`Work`] than
//! a response may be, all that follows is struck out.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::{escapes::Escapes, forms::forms, samples::Samples, work::Work};

/// What stands in the place of each byte of a secret.
pub(crate) const STROKE: u8 = b'*';

/// The shortest secret that is struck out, in bytes. A shorter one is found by chance in what has nothing to do with it.
pub(crate) const SECRET_BYTES_MIN: usize = 8;

/// The most bytes of secrets that are struck out of one response, all together: what is put on one request. A mask of a
/// long one takes some seventy times as much, and three milliseconds to be made for as many.
pub(crate) const SECRETS_BYTES_MAX: usize = 32 * 1024;

/// The fewest bytes that are held back while nothing more comes. A message that ends with the byte that begins a spelling
/// must not wait for the next one, which the other side may send only after an answer.
const HELD_BYTES_MIN: usize = 2;

/// Finds the spellings of some secrets. Has no `Debug`.
pub(crate) struct Mask {
    samples: Samples,
    escapes: Escapes,
}

/// What a search found.
#[derive(Debug, Clone, Copy)]
struct Found {
    /// Whether there was a secret.
    any: bool,
    /// From here on the text may be the beginning of one.
    open_from: usize,
}

impl Mask {
    /// A mask for the secrets that are long enough; `None` when none is.
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let long = secrets.into_iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN);
        let (mut forms, mut escaped) = (Vec::new(), Vec::new());
        for secret in long {
            forms.extend(self::forms(secret));
            let lower = Zeroizing::new(secret.to_ascii_lowercase());
            if lower.contains(&b' ') {
                // In a query a space is a plus.
                let mut query = lower.clone();
                query.iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'+');
                escaped.push(query);
            }
            escaped.push(lower);
        }
        Some(Self { samples: Samples::new(forms)?, escapes: Escapes::new(escaped) })
    }

    /// Strikes out every occurrence in `text`, those that overlap included. `out`: the same as it goes out, made when
    /// needed. `ended`: nothing comes after it. All of it is struck out when no work is left.
    fn strike(&self, text: &[u8], ended: bool, work: &mut Work, out: &mut Option<Vec<u8>>) -> Found {
        let mut any = false;
        let mut strike = |found: Range<usize>| {
            any = true;
            out.get_or_insert_with(|| text.to_vec())[found].fill(STROKE);
        };
        let open_from = self.samples.find(text, ended, work, &mut strike);
        let open_from = open_from.min(self.escapes.find(text, ended, work, &mut strike));
        if work.is_spent() {
            *out = Some(vec![STROKE; text.len()]);
            return Found { any: true, open_from: text.len() };
        }
        Found { any, open_from }
    }

    /// Strikes out every occurrence in a text that is whole; `None` when there is none.
    fn whole(&self, text: &[u8], work: &mut Work) -> Option<Vec<u8>> {
        work.came(text.len());
        let mut out = None;
        self.strike(text, true, work, &mut out);
        out
    }

    /// Strikes out what headers or trailers repeat; a field whose name does is removed. True when there was any.
    pub(crate) fn headers(&self, headers: &mut HeaderMap) -> bool {
        let mut work = Work::new();
        let mut is_named = |name: &&HeaderName| self.whole(name.as_str().as_bytes(), &mut work).is_some();
        let named: Vec<HeaderName> = headers.keys().filter(|name| is_named(name)).cloned().collect();
        let mut found = !named.is_empty();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            if let Some(out) = self.whole(value.as_bytes(), &mut work) {
                found = true;
                *value = HeaderValue::from_bytes(&out).unwrap_or(const { HeaderValue::from_static("") });
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
    /// The same as it will be passed on, where a shorter spelling in it is struck out already.
    struck: Option<Vec<u8>>,
    /// How many of these were passed on at a pause.
    passed: usize,
    /// What looking for secrets may still be.
    work: Work,
}

impl Stream {
    pub(crate) const fn new(mask: Arc<Mask>) -> Self {
        Self { mask, held: Vec::new(), struck: None, passed: 0, work: Work::new() }
    }

    /// The mask.
    pub(crate) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Whether all that follows is struck out unseen.
    pub(crate) const fn is_unseen(&self) -> bool {
        self.work.is_spent()
    }

    /// How many bytes are held back.
    pub(crate) const fn held(&self) -> usize {
        self.held.len() - self.passed
    }

    /// Gives what is held back and too short to wait with, when nothing comes for now. It still counts as the beginning of
    /// a spelling.
    pub(crate) fn pause(&mut self) -> Bytes {
        if self.held.len() >= HELD_BYTES_MIN {
            return Bytes::new();
        }
        let passed = std::mem::replace(&mut self.passed, self.held.len());
        Bytes::copy_from_slice(&self.struck.as_ref().unwrap_or(&self.held)[passed..])
    }

    /// Takes the next bytes and gives those that may be passed on, and whether a secret was struck out. The bytes that are
    /// given are no copy when there is none and nothing is held back.
    pub(crate) fn push(&mut self, piece: Bytes) -> (Bytes, bool) {
        // Once there was none left, there is never any: nothing says where a secret begins that is not seen.
        if !self.is_unseen() {
            self.work.came(piece.len());
            self.work.again(self.held.len());
        }
        let mut out = self.struck.take().map(|struck| [&struck, &*piece].concat());
        let text = if self.held.is_empty() { piece } else { [&self.held, &*piece].concat().into() };
        let found = self.mask.strike(&text, false, &mut self.work, &mut out);
        self.held.clear();
        self.held.extend_from_slice(&text[found.open_from..]);
        let struck = out.as_ref().map(|out| &out[found.open_from..]);
        self.struck = struck.filter(|struck| *struck != self.held).map(<[u8]>::to_vec);
        let mut out = out.map_or(text, Bytes::from);
        out.truncate(found.open_from);
        let passed = self.passed.min(found.open_from);
        self.passed -= passed;
        (out.split_off(passed), found.any)
    }

    /// What is held back, when nothing comes after it, and whether a secret was struck out.
    pub(crate) fn finish(&mut self) -> (Bytes, bool) {
        let held = std::mem::take(&mut self.held);
        let mut out = self.struck.take();
        let found = self.mask.strike(&held, true, &mut self.work, &mut out);
        (Bytes::from(out.unwrap_or(held)).split_off(std::mem::take(&mut self.passed)), found.any)
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
    use crate::{escapes::escapes, fuzz::struck_out};

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
        out.push(stream.finish().0);
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
        assert_eq!(stream.finish().0, "sk-secret");
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
        assert_eq!(stream.finish().0, "");
    }

    /// Secrets, and texts that are near them at every byte.
    fn hostile() -> Vec<(Vec<u8>, Vec<u8>)> {
        let escaped =
            |text: &[u8]| text.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect();
        let (one, eight) = (vec![b'a'; 16 * 1024], b"abcdefgh".repeat(2 * 1024));
        let ambiguous = b"%25".repeat(5 * 1024);
        vec![
            (one.clone(), vec![b'a'; 64 * 1024]),
            (one.clone(), escaped(&one)),
            (one.clone(), [&[b'a'; 100][..], b"%61"].concat().repeat(600)),
            (eight.clone(), eight.repeat(4)),
            (eight.clone(), escaped(&eight)),
            (ambiguous.clone(), ambiguous.repeat(4)),
            (ambiguous, b"%2525".repeat(12 * 1024)),
            (vec![b'<'; 16 * 1024], b"&lt;".repeat(16 * 1024)),
            ([&[b'a'; 2_000][..], b"p"].concat(), [&[b'a'; 98][..], b"%7"].concat().repeat(600)),
        ]
    }

    #[test]
    fn no_secret_and_no_text_make_more_work_than_a_response_may_be() {
        for (secret, text) in hostile() {
            let mask = Arc::new(Mask::new([secret.as_slice()]).unwrap());
            for size in [16 * 1024, 100] {
                let (mut stream, text) = (Stream::new(Arc::clone(&mask)), Bytes::from(text.clone()));
                let (started, mut out) = (std::time::Instant::now(), Vec::new());
                for at in (0..text.len()).step_by(size) {
                    out.extend(stream.push(text.slice(at..text.len().min(at + size))).0);
                }
                out.extend(stream.finish().0);
                assert_eq!(out.len(), text.len());
                // Generous, for slow machines without optimisation, where without a bound it is up to minutes.
                assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
            }
        }
    }

    #[test]
    fn a_page_full_of_escapes_is_a_part_of_the_work_that_it_may_be() {
        let page = br#"<a href="/q?a=%20b&amp;c=%2Fd%41%73k">it&#39;s &lt;ok&gt; &#115;k-an</a> \u0073k\n"#
            .repeat(200);
        let mask = mask(&[
            "sk-ant-api03-0aB1cD2eF3gH4iJ5",
            "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "correct horse battery staple",
            "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "sk-proj-9zY8xW7vU6tS5rQ4pO3nM2lK1jI0",
            "AKIAIOSFODNN7EXAMPLE",
            "xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOp",
            "YW5hOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==",
            "glpat-Zy_Xw-Vu5Ts4Rq3Po2",
        ]);
        let mut stream = Stream::new(mask);
        stream.push(page.clone().into());
        let taken = stream.work.taken(page.len());
        assert!(taken < 160 * page.len() as u64, "{} steps a byte", taken / page.len() as u64);
    }

    #[test]
    fn a_secret_that_is_full_of_escapes_itself_is_found_where_one_of_its_characters_is_escaped() {
        let lines = "MIIJQgIBADANBgkqhkiG9w0BAQEFAASC\\\\n".repeat(70);
        let key_file = format!("{{\"private_key\":\"-----BEGIN-----\\\\n{lines}\"}}");
        let percent = "%25".repeat(70);
        for (secret, spelled) in [
            (key_file.clone(), key_file.replace('"', "&quot;")),
            (percent.clone(), format!("%25{}", &percent[1..])),
            ("&amp;".repeat(200), format!("&amp;{}", &"&amp;".repeat(200)[1..])),
            (format!("{}n", "\\".repeat(200)), format!("%5c{}n", "\\".repeat(199))),
        ] {
            let mask = mask(&[&secret]);
            let text = format!("-{spelled}-");
            for cut in [0, text.len() / 2, text.len() - 3] {
                let out = whole(&mask, text.as_bytes(), &[cut]);
                assert!(out[1..out.len() - 1].iter().all(|byte| *byte == STROKE), "{secret}");
            }
        }
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
    fn the_spellings_of_common_programs_are_struck_out_whole() {
        let mask = mask(&["pass/Wörd \"9\"", "sk-Key_0<A>"]);
        for spelling in [
            "pass/Wörd \"9\"",
            "PASS/Wörd \"9\"",
            "pass%2FW%C3%B6rd%20%229%22",
            "pass%2fW%c3%b6rd+%229%22",
            "pass/W%C3%B6rd%20%229%22",
            "%70%61%73%73%2F%57%C3%B6%72%64%20%22%39%22",
            "p%61ss/Wörd \"9\"",
            "pass\\/W\\u00F6rd \\\"9\\\"",
            "\\u0070ass/W\\u00f6rd \\x229\"",
            "pass/W&#246;rd &quot;9&quot;",
            "pass&#x2F;W&#xf6;rd &#34;9&#0034;",
            "pass&sol;W&#246;rd &#34;9&#34",
            "706173732F57c3b67264202239 22",
            "cGFzcy9Xw7ZyZCAiOSI",
            "OBQXG4ZPK7B3M4TEEARDSIQ",
            "sk%2DKey%5F0%3CA%3e",
            "sk\\u002dKey\\u005F0\\u003cA>",
            "736B2d4b65795f303C413e",
            "sk-Key&lowbar;0&lt;A&GT;",
        ] {
            let spelling =
                if spelling.starts_with('7') { spelling.replace(' ', "") } else { spelling.to_owned() };
            for cut in 0..spelling.len() {
                let out = whole(&mask, spelling.as_bytes(), &[cut]);
                assert!(
                    out.iter().all(|byte| *byte == STROKE),
                    "{spelling} {:?}",
                    String::from_utf8_lossy(&out)
                );
            }
        }
    }

    #[test]
    fn of_base64_of_base64_two_bytes_at_each_end_are_left_at_most() {
        let secret = "sk-ant-api03-qW3r+tz/=";
        let mask = mask(&[secret]);
        for (before, after) in [("", ""), ("u", "a"), ("us", "\"}"), ("user:", "...")] {
            let inner = BASE64_STANDARD.encode(format!("{before}{secret}{after}"));
            for begin in ["", "x", "xy"] {
                let outer = BASE64_STANDARD.encode(format!("{begin}{inner}"));
                let out = String::from_utf8(whole(&mask, outer.as_bytes(), &[5])).unwrap();
                let struck = out.bytes().filter(|byte| *byte == STROKE).count();
                assert!(struck * 9 / 16 >= secret.len() - 4, "{outer} {out}");
            }
        }
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
                text.extend_from_slice(&mask.samples.forms[usize::from(*form) % mask.samples.forms.len()]);
                text.extend_from_slice(between.as_bytes());
            }
            let out = whole(&mask, &text, &cuts);
            prop_assert_eq!(&out, &struck_out(&secrets, &text));
            for form in &mask.samples.forms {
                prop_assert!(form.iter().all(|byte| *byte == STROKE) || !out.windows(form.len()).any(|at| at == form.as_slice()));
            }
        }

        #[test]
        fn secrets_of_any_bytes_come_out_as_the_plain_reading_says_in_any_form_and_case_wherever_it_is_cut(
            secrets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 8..64), 1..4),
            parts in proptest::collection::vec(
                (any::<u16>(), any::<bool>(), proptest::option::of((any::<u16>(), 5..8_u8)), proptest::collection::vec(any::<u8>(), 0..9)),
                0..5,
            ),
            size in 1..40_usize,
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(Vec::as_slice).collect();
            let mask = Arc::new(Mask::new(secrets.iter().copied()).unwrap());
            let escaped = secrets.iter().map(|secret| secret.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect());
            let forms: Vec<Vec<u8>> = mask.samples.forms.iter().map(|form| form.to_vec()).chain(escaped).collect();
            let mut text = Vec::new();
            for (form, upper, change, between) in parts {
                let mut form = forms[usize::from(form) % forms.len()].clone();
                if upper {
                    form.make_ascii_uppercase();
                }
                if let Some((at, bit)) = change {
                    let at = usize::from(at) % form.len();
                    form[at] ^= 1 << bit;
                }
                text.extend([form, between].concat());
            }
            let plain = struck_out(&secrets, &text);
            let cuts: Vec<usize> = (0..text.len()).step_by(size).collect();
            prop_assert_eq!(&whole(&mask, &text, &cuts), &plain);
            for cut in (0..text.len()).step_by(size) {
                prop_assert_eq!(&whole(&mask, &text, &[cut]), &plain);
            }
        }

        #[test]
        fn no_character_passes_that_is_escaped_in_any_way_however_it_is_cut(
            secret in "[ -~äß€😀]{8,16}",
            ways in proptest::collection::vec(any::<u16>(), 16),
            (zeros, upper, before, after) in (0_usize..3, any::<bool>(), "[ -~]{0,12}", "[ -~]{0,12}"),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let mask = Arc::new(Mask::new([secret.as_bytes()]).unwrap());
            let mut spelled = Vec::new();
            for (at, way) in secret.char_indices().map(|(at, _)| at).zip(&ways) {
                let character = secret[at..].chars().next().unwrap();
                // What a program escapes, it escapes in all of its places.
                let lower = character.to_ascii_lowercase().to_string().into_bytes();
                let mut escapes = escapes(&lower);
                escapes.retain(|(_, len)| *len == lower.len());
                match escapes.get(usize::from(*way) % (escapes.len() * 2 + 1)) {
                    Some((escape, _)) if escape.starts_with(b"&#") => {
                        let start = if escape[2] == b'x' { 3 } else { 2 };
                        spelled.extend_from_slice(&escape[..start]);
                        spelled.extend(std::iter::repeat_n(b'0', zeros));
                        spelled.extend_from_slice(&escape[start..]);
                    }
                    Some((escape, _)) => spelled.extend_from_slice(escape),
                    None if "%&\\".contains(character) => spelled.extend(format!("%{:02x}", u32::from(character)).bytes()),
                    None => spelled.extend_from_slice(character.to_string().as_bytes()),
                }
            }
            if upper {
                spelled.make_ascii_uppercase();
            }
            let text = [before.as_bytes(), &spelled, after.as_bytes()].concat();
            let out = whole(&mask, &text, &cuts);
            prop_assert!(out[before.len()..before.len() + spelled.len()].iter().all(|byte| *byte == STROKE));
            prop_assert_eq!(&out, &struck_out(&[secret.as_bytes()], &text));
        }

        #[test]
        fn half_escapes_and_secrets_that_look_like_escapes_come_out_as_the_plain_reading_says(
            secrets in proptest::collection::vec("(%25|%2|&lt;|&#3|\\\\|[5lu;]){8,10}", 1..3),
            text in proptest::collection::vec(proptest::sample::select(
                vec!["%", "2", "5", "%25", "&", "&#", "&#x", "0", "lt;", ";", "amp;", "\\", "u00", "3", "6c", "l", "u", "X"]), 0..60),
            inside in any::<proptest::sample::Index>(),
            cuts in proptest::collection::vec(any::<usize>(), 0..20),
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
            let mask = Arc::new(Mask::new(secrets.iter().copied()).unwrap());
            let mut text = text.concat().into_bytes();
            let at = inside.index(text.len() + 1);
            text.splice(at..at, secrets[0].iter().copied().chain(escapes(secrets[0])[0].0.iter().copied()));
            prop_assert_eq!(whole(&mask, &text, &cuts), struck_out(&secrets, &text));
        }

        #[test]
        fn what_holds_no_secret_passes_unchanged(
            text in proptest::collection::vec(any::<u8>().prop_map(|byte| b"%\\&#x;u0123456789abcdefsk-\n "[usize::from(byte) % 28]), 0..400),
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let mask = mask(&["sk-zzzzzzzzzzzz", "Zzzz zzzz%zz"]);
            prop_assert_eq!(whole(&mask, &text, &cuts), text);
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
            prop_assert!(mask.samples.forms.iter().any(|form| out.last().unwrap().len() < form.len()));
        }

        #[test]
        fn where_no_work_is_left_all_that_follows_is_struck_out_and_what_passed_holds_no_secret(
            secrets in proptest::collection::vec("[ab%6]{8,12}", 1..3),
            text in proptest::collection::vec(proptest::sample::select(vec!["a", "b", "%61", "%62", "%", "6"]), 0..120),
            inside in any::<proptest::sample::Index>(),
            (steps, size, pauses) in (0..20_000_u64, 1..40_usize, any::<bool>()),
        ) {
            let secrets: Vec<&[u8]> = secrets.iter().map(String::as_bytes).collect();
            let mask = Arc::new(Mask::new(secrets.iter().copied()).unwrap());
            let mut text = text.concat().into_bytes();
            let at = inside.index(text.len() + 1);
            text.splice(at..at, secrets[0].iter().copied());
            let mut stream = Stream { work: Work::of(steps), ..Stream::new(mask) };
            let (mut out, mut found, mut at_pauses) = (Vec::new(), false, 0);
            for piece in text.chunks(size) {
                let (passed, any) = stream.push(Bytes::copy_from_slice(piece));
                out.extend(passed);
                if pauses {
                    let passed = stream.pause();
                    at_pauses += passed.len();
                    out.extend(passed);
                }
                found |= any;
            }
            let (rest, any) = stream.finish();
            out.extend(rest);
            let plain = struck_out(&secrets, &text);
            prop_assert_eq!(out.len(), plain.len());
            prop_assert!(found || any);
            let last = out.iter().rposition(|byte| *byte != STROKE).map_or(0, |at| at + 1);
            // Only what passed at a pause may be seen of a secret.
            let seen = (0..last).filter(|at| out[*at] != STROKE && plain[*at] == STROKE).count();
            prop_assert!(seen <= at_pauses);
            prop_assert!((0..last).all(|at| out[at] == plain[at] || out[at] == STROKE || plain[at] == STROKE));
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
