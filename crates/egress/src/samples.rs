//! Finds some texts by looking at few places: the shortest of them is longer than a step from one place to the next, so that
//! of each text that occurs four bytes stand at a place. Where four bytes of none stand, nothing else is read.
//!
//! Invariant: every occurrence is told. An occurrence of a text has a place among its first `stride` bytes; the four bytes
//! from there on belong to it, as it has at least `stride` bytes and three more; and all four bytes that begin among the
//! first `stride` bytes of a text are known. What is found there is a hint: what is told was compared byte by byte.

use std::ops::Range;

use crate::{forms::Form, work::Work};

/// Bytes that are looked at in one place.
const GRAM_BYTES: usize = 4;

/// Steps from one place to the next, in bytes. Each is a search of its own, as a step that the compiler does not know takes
/// half as long again. With longer ones little would be saved, and for each form as many places are known.
const STRIDES: [usize; 6] = [32, 24, 16, 12, 8, 5];

/// Places that are looked at before it is asked whether there was anything.
const GROUP: usize = 8;

/// Bits of a hash that say where in the table it stands. Of one key's places the table is filled to a fortieth, and stays
/// in the processor's first cache.
const SLOT_BITS: u32 = 15;

/// The table's slots, of a byte each: a bit takes longer to read.
const SLOTS: usize = 1 << SLOT_BITS;

/// Lists for each place that is known, so that most are empty; and the most there are, since which one it is the bits of a hash say
/// that do not say its slot.
const LISTS_OF_A_PLACE: usize = 4;
const LISTS_MAX: usize = 1 << (u32::BITS - SLOT_BITS);

/// Finds forms. Has no `Debug`.
pub(crate) struct Samples {
    /// In lower case, in order.
    pub(crate) forms: Vec<Form>,
    /// Which of the forms begin with this byte: from this one to that of the next byte.
    begins: [usize; 257],
    /// The length of the shortest form.
    shortest: usize,
    /// Bytes from one place to the next.
    stride: usize,
    /// Whether this is the slot of a hash of what stands at the first `stride` bytes of a form.
    known: Box<[bool; SLOTS]>,
    /// Where such hashes belong: each list's first place. Places are numbered form by form, from one; none is zero.
    lists: Vec<u32>,
    /// The place that follows a place in its list.
    following: Vec<u32>,
}

/// Four bytes; those that differ only in the case of letters have the same hash.
fn hash(gram: [u8; GRAM_BYTES]) -> u32 {
    // Joins other bytes too, which costs a comparison.
    (u32::from_le_bytes(gram) | 0x2020_2020).wrapping_mul(0x9e37_79b1)
}

/// Where a hash stands in the table.
const fn slot(hash: u32) -> usize {
    (hash >> (u32::BITS - SLOT_BITS)) as usize
}

impl Samples {
    /// For forms in lower case, none shorter than 8 bytes; `None` when there are none.
    pub(crate) fn new(mut forms: Vec<Form>) -> Option<Self> {
        forms.sort_unstable_by(|a, b| a.as_slice().cmp(b));
        forms.dedup();
        let shortest = forms.iter().map(|form| form.len()).min()?;
        let stride = STRIDES.into_iter().find(|stride| stride + GRAM_BYTES - 1 <= shortest);
        let stride = stride.expect("a form is shorter than any secret that is looked for");
        let grams = || forms.iter().flat_map(|form| form.array_windows().take(stride));
        let mut samples = Self {
            begins: std::array::from_fn(|byte| forms.partition_point(|form| usize::from(form[0]) < byte)),
            shortest,
            stride,
            known: Box::new([false; SLOTS]),
            lists: vec![0; (forms.len() * stride * LISTS_OF_A_PLACE).next_power_of_two().min(LISTS_MAX)],
            following: vec![0],
            forms: Vec::new(),
        };
        for (place, gram) in (1..).zip(grams()) {
            let hash = hash(*gram);
            samples.known[slot(hash)] = true;
            let list = samples.list(hash);
            samples.following.push(std::mem::replace(&mut samples.lists[list], place));
        }
        samples.forms = forms;
        Some(samples)
    }

    fn knows(&self, hash: u32) -> bool {
        self.known[slot(hash)]
    }

    /// The list of a hash, by the bits that follow those of its slot.
    fn list(&self, hash: u32) -> usize {
        ((hash << SLOT_BITS) >> (u32::BITS - self.lists.len().ilog2())) as usize
    }

    /// Tells where which forms may occur, or begin, as long as there is work left: no others do, but for such as begin behind the
    /// last place.
    fn candidates<'a>(&'a self, text: &[u8], work: &mut Work, each: impl FnMut(usize, &'a Form, &mut Work)) {
        match self.stride {
            32 => self.candidates_by::<32>(text, work, each),
            24 => self.candidates_by::<24>(text, work, each),
            16 => self.candidates_by::<16>(text, work, each),
            12 => self.candidates_by::<12>(text, work, each),
            8 => self.candidates_by::<8>(text, work, each),
            _ => self.candidates_by::<5>(text, work, each),
        }
    }

    fn candidates_by<'a, const STRIDE: usize>(
        &'a self,
        text: &[u8],
        work: &mut Work,
        mut each: impl FnMut(usize, &'a Form, &mut Work),
    ) {
        let mut look = |from: usize, to: usize| {
            for at in (from..to).step_by(STRIDE) {
                let hash = text[at..].first_chunk().map(|gram| hash(*gram));
                let Some(hash) = hash.filter(|hash| self.knows(*hash)) else { continue };
                let mut place = self.lists[self.list(hash)] as usize;
                // A list ends, as each place is in one of them once.
                while place > 0 {
                    if !work.candidate() {
                        return;
                    }
                    if let Some(start) = at.checked_sub((place - 1) % STRIDE) {
                        each(start, &self.forms[(place - 1) / STRIDE], work);
                    }
                    place = self.following[place] as usize;
                }
            }
        };
        let (groups, _) = text.as_chunks::<STRIDE>().0.as_chunks::<GROUP>();
        for (group, from) in groups.iter().zip((0..).step_by(GROUP * STRIDE)) {
            let any = group.iter().fold(false, |any, step| {
                any | step.first_chunk().is_some_and(|gram| self.knows(hash(*gram)))
            });
            if any {
                look(from, from + GROUP * STRIDE);
            }
        }
        look(groups.len() * GROUP * STRIDE, text.len());
    }

    /// Tells every occurrence in a text, and answers from where on it may be the beginning of one. `ended`: nothing comes
    /// after the text. When no work is left, neither is true.
    pub(crate) fn find(
        &self,
        text: &[u8],
        ended: bool,
        work: &mut Work,
        mut each: impl FnMut(Range<usize>),
    ) -> usize {
        let mut open_from = text.len();
        self.candidates(text, work, |start, form, work| {
            let found = start..text.len().min(start + form.len());
            let is_whole = found.len() == form.len();
            // All behind the first beginning is open anyway. Of a secret that repeats itself there are as many as bytes.
            let counts = is_whole || (!ended && start < open_from);
            if counts && work.is_same(&text[found.clone()], &form[..found.len()]) {
                if is_whole { each(found) } else { open_from = start }
            }
        });
        if ended { text.len() } else { open_from.min(self.open_from(text, work)) }
    }

    /// From where on the end of a text, shorter than every form, may be the beginning of one.
    fn open_from(&self, text: &[u8], work: &mut Work) -> usize {
        let mut begins = |at: &usize| {
            let end = &text[*at..];
            if end.first_chunk().is_some_and(|gram| !self.knows(hash(*gram))) {
                return false;
            }
            let first = usize::from(end[0].to_ascii_lowercase());
            let forms = &self.forms[self.begins[first]..self.begins[first + 1]];
            forms.iter().any(|form| work.is_same(&form[..end.len()], end))
        };
        (text.len().saturating_sub(self.shortest - 1)..text.len()).find(|at| begins(at)).unwrap_or(text.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{collection::vec, prelude::*, sample::Index};
    use zeroize::Zeroizing;

    use super::*;
    use crate::forms::forms;

    fn samples(secrets: &[Vec<u8>]) -> Samples {
        Samples::new(secrets.iter().flat_map(|secret| forms(secret)).collect()).unwrap()
    }

    /// What is found in a text, and from where on it is open.
    fn found(samples: &Samples, text: &[u8]) -> (BTreeSet<(usize, usize)>, usize) {
        let mut all = BTreeSet::new();
        let mut work = Work::of(u64::MAX);
        let open_from =
            samples.find(text, false, &mut work, |found| _ = all.insert((found.start, found.end)));
        let mut ended = BTreeSet::new();
        let end = samples.find(text, true, &mut work, |found| _ = ended.insert((found.start, found.end)));
        assert_eq!(end, text.len());
        assert_eq!(all, ended);
        (all, open_from)
    }

    /// The same by looking at every form at every byte.
    fn plainly(samples: &Samples, text: &[u8]) -> (BTreeSet<(usize, usize)>, usize) {
        let (lower, mut all, mut open_from) = (text.to_ascii_lowercase(), BTreeSet::new(), text.len());
        for (at, form) in (0..text.len()).flat_map(|at| samples.forms.iter().map(move |form| (at, form))) {
            let rest = &lower[at..];
            if rest.starts_with(form) {
                all.insert((at, at + form.len()));
            } else if form.starts_with(rest) {
                open_from = open_from.min(at);
            }
        }
        (all, open_from)
    }

    /// Some byte of a text, and what it is joined with: also so that both have the same hash.
    fn change() -> impl Strategy<Value = (Index, u8)> {
        (any::<Index>(), prop_oneof![Just(0x20), Just(1), any::<u8>()])
    }

    /// Bytes of which many have the hash of others.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        vec(prop_oneof![any::<u8>(), proptest::sample::select(&b"\0@[`{ \x7fAz"[..])], 0..40)
    }

    proptest! {
        #[test]
        fn every_form_is_found_wherever_it_stands_and_every_beginning_of_one_is_open(
            secrets in vec(prop_oneof![
                vec(any::<u8>(), 8..64),
                vec(proptest::sample::select(&b"aA@`[{0\x10Z\x00 "[..]), 8..64),
                vec(proptest::sample::select(&b"ab"[..]), 8..24),
            ], 1..4),
            parts in vec(
                (any::<Index>(), any::<(Index, Index)>(), 0..4_u8, proptest::option::of(change()), bytes()),
                0..8,
            ),
        ) {
            let samples = samples(&secrets);
            let mut text = Vec::new();
            for (form, (from, to), case, change, between) in parts {
                let form = form.get(&samples.forms);
                // Mostly whole.
                let (from, to) = (from.index(form.len() * 4), to.index(form.len() * 4));
                let from = if from < form.len() { from } else { 0 };
                let mut part = form[from..to.clamp(from, form.len())].to_vec();
                match case {
                    0 => part.make_ascii_uppercase(),
                    1 => part.iter_mut().step_by(3).for_each(|byte| byte.make_ascii_uppercase()),
                    _ => {}
                }
                if let Some((at, with)) = change && !part.is_empty() {
                    let at = at.index(part.len());
                    part[at] ^= with;
                }
                text.extend([part, between].concat());
            }
            prop_assert_eq!(found(&samples, &text), plainly(&samples, &text));
            for cut in text.len().saturating_sub(12)..text.len() {
                prop_assert_eq!(found(&samples, &text[..cut]), plainly(&samples, &text[..cut]));
            }
        }

        #[test]
        fn nothing_is_compared_twice_whatever_the_text(
            secrets in vec(vec(proptest::sample::select(&b"ab"[..]), 8..40), 1..3),
            text in vec(proptest::sample::select(&b"abAB"[..]), 0..400),
        ) {
            let (samples, mut seen) = (samples(&secrets), BTreeSet::new());
            samples.candidates(&text, &mut Work::of(u64::MAX), |start, form, _| assert!(seen.insert((start, form.as_ptr()))));
        }
    }

    #[test]
    fn a_form_is_found_at_every_offset_and_open_at_every_cut_whatever_its_length() {
        for length in 8..64 {
            let form: Vec<u8> = (0..length).map(|at| b'a' + at % 26 * 7 % 26).collect();
            let samples = Samples::new(vec![Zeroizing::new(form.clone())]).unwrap();
            for before in 0..40 {
                let text = [&vec![b'-'; before][..], &form.to_ascii_uppercase(), b"-"].concat();
                assert_eq!(found(&samples, &text).0, BTreeSet::from([(before, before + form.len())]));
                for end in before + 1..before + form.len() {
                    assert_eq!(found(&samples, &text[..end]), (BTreeSet::new(), before));
                }
            }
        }
    }

    #[test]
    fn of_a_secret_that_repeats_itself_not_every_byte_is_compared_as_its_beginning() {
        let samples = samples(&[vec![b'a'; 16_000]]);
        let text = vec![b'a'; 15_999];
        let started = std::time::Instant::now();
        for _ in 0..1_500 {
            assert_eq!(samples.find(&text, false, &mut Work::of(u64::MAX), |_| ()), 0);
        }
        // Generous, for slow machines without optimisation: with every byte compared it is twice that on a quick one.
        assert!(started.elapsed() < std::time::Duration::from_secs(6), "{:?}", started.elapsed());
    }

    #[test]
    fn a_text_full_of_near_misses_is_compared_with_less_than_a_form_for_each_two_bytes() {
        let secrets: [&[u8]; 3] =
            [b"hUnt3r-2", b"sk-ant-api03-0aB1cD2eF3gH4iJ5", b"AKIAIOSFODNN7EXAMPLE/sk-ant-api03"];
        for secrets in [&secrets[..1], &secrets[1..2], &secrets[..]] {
            let samples = samples(&secrets.iter().map(|secret| secret.to_vec()).collect::<Vec<_>>());
            for form in &samples.forms {
                for missing in 0..form.len() {
                    let mut near = form.to_vec();
                    near[missing] ^= 0x80;
                    let (text, mut compared) = (near.repeat(50), 0);
                    samples.candidates(&text, &mut Work::of(u64::MAX), |_, _, _| compared += 1);
                    assert!(compared * 2 <= text.len(), "{compared} for {} bytes", text.len());
                }
            }
        }
    }
}
