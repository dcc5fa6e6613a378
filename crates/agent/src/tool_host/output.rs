//! Output of a command, of which only the beginning and the end are kept.

use std::collections::VecDeque;

/// The most bytes kept of the beginning, and as many of the end.
const HALF_BYTES_MAX: usize = 16 * 1024;

/// Bytes with a cut middle.
#[derive(Debug, Default)]
pub(super) struct Output {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    cut: u64,
}

impl Output {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        let room = HALF_BYTES_MAX - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        bytes = rest;
        let skipped = bytes.len().saturating_sub(HALF_BYTES_MAX);
        let overflow = (self.tail.len() + bytes.len() - skipped).saturating_sub(HALF_BYTES_MAX);
        self.tail.drain(..overflow);
        self.tail.extend(&bytes[skipped..]);
        self.cut += (skipped + overflow) as u64;
    }

    /// The text so far, bytes that are not UTF-8 replaced; begins anew after that.
    pub(super) fn take(&mut self) -> String {
        let Self { mut head, tail, cut } = std::mem::take(self);
        if cut == 0 {
            head.extend(tail);
            return String::from_utf8_lossy(&head).into_owned();
        }
        let tail = Vec::from(tail);
        let (head, tail) = (String::from_utf8_lossy(&head), String::from_utf8_lossy(&tail));
        format!("{head}\n[... {cut} bytes of output cut ...]\n{tail}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_long_output_is_cut_and_counted() {
        let mut output = Output::default();
        output.push(b"begin");
        for _ in 0..100 {
            output.push(&[b'x'; 1000]);
        }
        output.push(&vec![b'y'; 3 * HALF_BYTES_MAX]);
        output.push(b"end");
        let total = 5 + 100_000 + 3 * HALF_BYTES_MAX + 3;
        let text = output.take();
        assert!(text.starts_with("beginxxx") && text.ends_with("yyyend"));
        let cut = total - 2 * HALF_BYTES_MAX;
        assert!(text.contains(&format!("[... {cut} bytes of output cut ...]")), "{cut}");
        assert_eq!(output.take(), "");
    }

    #[test]
    fn short_output_is_kept_and_made_text() {
        let mut output = Output::default();
        output.push(&[b'a'; HALF_BYTES_MAX]);
        output.push(b"b\xffc");
        let text = output.take();
        assert_eq!(text.len(), HALF_BYTES_MAX + 5);
        assert!(text.ends_with("ab\u{fffd}c"));
    }
}
