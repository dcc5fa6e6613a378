//! Finds some texts by looking at few places: the shortest of them is longer than a step from one place to the next, so that
//! of each text that occurs four bytes stand at a place. Where four bytes of none stand, nothing else is read.
//!
//! Invariant: every occurrence is told. An occurrence of a text has a place among its first `stride` bytes; the four bytes
//! from there on belong to it, as it has at least `stride` bytes and three more; and all four bytes that begin among the
//! first `stride` bytes of a text are known. What is found there is a hint: what is told was compared byte by byte.

use std::ops::Range;

use crate::forms::Form;

/// Bytes that are looked at in one place.
const GRAM_BYTES: usize = 4;

/// Steps from one place to the next, in bytes. Each is a search of its own, as a step that the compiler does not know takes
/// twice the time. With longer ones little would be saved, and for each form as many places are known.
const STRIDES: [usize; 6] = [32, 24, 16, 12, 8, 5];

/// Places that are looked at before it is asked whether there was anything.
const GROUP: usize = 8;

/// Bits of a hash that say where in the table it stands. Of one key's places the table is filled to a fortieth, and stays
/// in the processor's first cache.
const SLOT_BITS: u32 = 15;

/// The table's slots, of a byte each: a bit takes longer to read.
const SLOTS: usize = 1 << SLOT_BITS;

/// Lists for each place that is known, at least, so that most are empty.
const LISTS_OF_A_PLACE: usize = 4;

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
            lists: vec![0; (forms.len() * stride * LISTS_OF_A_PLACE).next_power_of_two()],
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

    /// The list of a hash, by other bits than its slot.
    fn list(&self, hash: u32) -> usize {
        (hash >> 5) as usize % self.lists.len()
    }

    /// Tells where which forms may occur, or begin: no others do, but for such as begin behind the last place.
    fn candidates<'a>(&'a self, text: &[u8], each: impl FnMut(usize, &'a Form)) {
        match self.stride {
            32 => self.candidates_by::<32>(text, each),
            24 => self.candidates_by::<24>(text, each),
            16 => self.candidates_by::<16>(text, each),
            12 => self.candidates_by::<12>(text, each),
            8 => self.candidates_by::<8>(text, each),
            _ => self.candidates_by::<5>(text, each),
        }
    }

    fn candidates_by<'a, const STRIDE: usize>(&'a self, text: &[u8], mut each: impl FnMut(usize, &'a Form)) {
        let mut look = |from: usize, to: usize| {
            for at in (from..to).step_by(STRIDE) {
                let hash = text[at..].first_chunk().map(|gram| hash(*gram));
                let Some(hash) = hash.filter(|hash| self.knows(*hash)) else { continue };
                let mut place = self.lists[self.list(hash)] as usize;
                // A list ends, as each place is in one of them once.
                while place > 0 {
                    if let Some(start) = at.checked_sub((place - 1) % STRIDE) {
                        each(start, &self.forms[(place - 1) / STRIDE]);
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
    /// after the text.
    pub(crate) fn find(&self, text: &[u8], ended: bool, mut each: impl FnMut(Range<usize>)) -> usize {
        let mut open_from = text.len();
        self.candidates(text, |start, form| {
            let found = start..text.len().min(start + form.len());
            if text[found.clone()].eq_ignore_ascii_case(&form[..found.len()]) {
                if found.len() == form.len() {
                    each(found);
                } else {
                    open_from = open_from.min(start);
                }
            }
        });
        if ended { text.len() } else { open_from.min(self.open_from(text)) }
    }

    /// From where on the end of a text, shorter than every form, may be the beginning of one.
    fn open_from(&self, text: &[u8]) -> usize {
        let begins = |at: &usize| {
            let end = &text[*at..];
            if end.first_chunk().is_some_and(|gram| !self.knows(hash(*gram))) {
                return false;
            }
            let first = usize::from(end[0].to_ascii_lowercase());
            let forms = &self.forms[self.begins[first]..self.begins[first + 1]];
            forms.iter().any(|form| form[..end.len()].eq_ignore_ascii_case(end))
        };
        (text.len().saturating_sub(self.shortest - 1)..text.len()).find(begins).unwrap_or(text.len())
    }
}
