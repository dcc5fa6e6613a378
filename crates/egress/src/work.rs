//! How much work it may be to look for secrets in one response, so that no response of an upstream that works with a pod, and
//! no secret, takes a thread from others.
//!
//! Nearly every byte costs next to nothing, since nothing in it looks like a secret. Work is what looks like one: a secret that
//! repeats itself, in a text that does, is near at every byte. Where there is none left, the rest of the response is struck out
//! unseen ([`mask`](crate::mask)).

/// Steps for each response: a millisecond or two.
const FREE: u64 = 16 * 1024 * 1024;

/// Steps for each byte of it, of some tenth of a nanosecond each. Pages full of escapes, with ten secrets to be looked for, take
/// an eighth of this.
const A_BYTE: u64 = 1_024;

/// Steps of a place where a text may stand.
const CANDIDATE: usize = 32;
/// Steps of a character that is read as it is or escaped; and where it may be escaped by a name.
const CHARACTER: usize = 256;
const NAMED: usize = 2_048;
/// Steps of a place where a text is read in two ways, which is remembered.
const FORK: usize = 2_048;
/// Steps of an escape that is not whole, held against every way in which a character may be escaped.
const OPEN_ESCAPE: usize = 4_096;
/// Steps of a byte that is held back, when more comes and it is looked at again.
const AGAIN: usize = 8;

/// Bytes of a text that are compared first. Mostly they tell.
const BEGINNING: usize = 32;

/// Work that is left.
pub(crate) struct Work {
    /// In steps.
    left: u64,
    /// What each byte that comes adds.
    a_byte: u64,
}

impl Work {
    /// For a response of which nothing came yet.
    pub(crate) const fn new() -> Self {
        Self { left: FREE, a_byte: A_BYTE }
    }

    /// So many bytes came.
    pub(crate) const fn came(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(self.a_byte.saturating_mul(bytes as u64));
    }

    /// Whether there is none left.
    pub(crate) const fn is_spent(&self) -> bool {
        self.left == 0
    }

    /// Whether there is so much left, which is then taken.
    const fn take(&mut self, steps: usize) -> bool {
        self.left = self.left.saturating_sub(steps as u64);
        !self.is_spent()
    }

    /// Takes the work of looking at bytes again.
    pub(crate) const fn again(&mut self, bytes: usize) -> bool {
        self.take(bytes.saturating_mul(AGAIN))
    }

    /// Takes that of a place where a text may stand.
    pub(crate) const fn candidate(&mut self) -> bool {
        self.take(CANDIDATE)
    }

    /// Takes that of reading a character, which begins with this byte.
    pub(crate) const fn character(&mut self, first: u8) -> bool {
        self.take(if first == b'&' { NAMED } else { CHARACTER })
    }

    /// Takes that of a place where a text is read in two ways.
    pub(crate) const fn fork(&mut self) -> bool {
        self.take(FORK)
    }

    /// Takes that of an escape that is not whole.
    pub(crate) const fn open_escape(&mut self) -> bool {
        self.take(OPEN_ESCAPE)
    }

    /// Takes that of looking through bytes for one.
    pub(crate) const fn looked(&mut self, bytes: usize) -> bool {
        self.take(bytes)
    }

    /// Whether two texts of one length are the same in any case of letters. False when no work is left.
    // Where it is inlined, the search for what seldom comes is slower.
    #[inline(never)]
    pub(crate) fn is_same(&mut self, one: &[u8], other: &[u8]) -> bool {
        let beginning = one.len().min(other.len()).min(BEGINNING);
        let (one, other) = (one.split_at(beginning), other.split_at(beginning));
        self.take(beginning)
            && one.0.eq_ignore_ascii_case(other.0)
            && (one.1.is_empty() || self.take(one.1.len()))
            && one.1.eq_ignore_ascii_case(other.1)
    }
}

#[cfg(test)]
impl Work {
    /// How many steps were taken, of a response of so many bytes that is not struck out unseen.
    pub(crate) const fn taken(&self, bytes: usize) -> u64 {
        FREE + A_BYTE * bytes as u64 - self.left
    }

    /// So much and no more, whatever comes.
    pub(crate) const fn of(steps: u64) -> Self {
        Self { left: steps, a_byte: 0 }
    }
}
