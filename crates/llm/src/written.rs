//! What of a conversation was written for the last request, so that the next one writes only what came since.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Serialize;

/// From how many bytes on what is written becomes a piece, which requests share.
const PIECE_BYTES: usize = 32 * 1024;

/// The messages of the last request, as they went over the wire.
///
/// A conversation only grows at its end between two calls; writing or copying all of it each time would make every step dearer
/// than the one before. What stays is its encryption.
#[derive(Debug, Default)]
pub struct Written {
    pieces: Vec<Bytes>,
    /// Bytes of these.
    pieces_bytes: usize,
    /// What is written after them.
    tail: Vec<u8>,
    ends: Vec<End>,
    /// Where the message ends that bears a mark for this request only.
    marked: Option<usize>,
}

/// The end of a message.
#[derive(Debug, Clone, Copy)]
struct End {
    /// Items up to here.
    items: usize,
    /// Bytes up to here.
    bytes: usize,
}

impl Written {
    /// Keeps what comes of the first `same` items, which the next request begins with too. Answers how many items need not
    /// be given again: fewer than `same`, since the last message of a request may have to grow and bears a mark.
    pub fn keep(&mut self, same: usize) -> usize {
        let cut_back = same < self.items();
        let same = self.marked.take().map_or(same, |marked| same.min(marked));
        while self.ends.last().is_some_and(|end| end.items >= same) {
            self.ends.pop();
        }
        // What comes now may say nothing; then the last message that says something bears the mark.
        while cut_back && let Some(end) = self.ends.pop() {
            if end.bytes > self.ends.last().map_or(0, |before| before.bytes) {
                break;
            }
        }
        let End { items, bytes } = self.ends.last().copied().unwrap_or(End { items: 0, bytes: 0 });
        self.truncate(bytes);
        items
    }

    fn truncate(&mut self, bytes: usize) {
        while self.pieces_bytes > bytes
            && let Some(piece) = self.pieces.pop()
        {
            self.pieces_bytes -= piece.len();
            // A view of its beginning would keep all of it in memory.
            self.tail = piece[..bytes.saturating_sub(self.pieces_bytes)].to_vec();
        }
        self.tail.truncate(bytes - self.pieces_bytes);
    }

    /// The message that ends with item number `items` is not to be kept.
    pub(crate) const fn mark(&mut self, items: usize) {
        self.marked = Some(items);
    }

    /// Items that are written.
    pub(crate) fn items(&self) -> usize {
        self.ends.last().map_or(0, |end| end.items)
    }

    fn bytes(&self) -> usize {
        self.pieces_bytes + self.tail.len()
    }

    /// Adds messages, none or many, that end with item number `items`.
    pub(crate) fn add<M: Serialize>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
        items: usize,
    ) -> Result<(), serde_json::Error> {
        for message in messages {
            if self.bytes() > 0 {
                self.tail.push(b',');
            }
            serde_json::to_writer(&mut self.tail, &message)?;
        }
        self.ends.push(End { items, bytes: self.bytes() });
        if self.tail.len() >= PIECE_BYTES {
            self.pieces_bytes += self.tail.len();
            self.pieces.push(std::mem::take(&mut self.tail).into());
        }
        Ok(())
    }

    /// A request's body: the messages under the name `field`, after `first` if there is one, and then the fields of
    /// `rest`, an object that has some.
    pub(crate) fn body(
        &self,
        field: &str,
        first: Option<&impl Serialize>,
        rest: &impl Serialize,
    ) -> Result<Pieces, serde_json::Error> {
        let mut begin = format!("{{\"{field}\":[").into_bytes();
        if let Some(first) = first {
            serde_json::to_writer(&mut begin, first)?;
            if self.bytes() > 0 {
                begin.push(b',');
            }
        }
        let mut end = self.tail.clone();
        end.extend_from_slice(b"],");
        let rest_at = end.len();
        serde_json::to_writer(&mut end, rest)?;
        // The other fields are an object of their own so far.
        end.remove(rest_at);
        let pieces = self.pieces.iter().cloned();
        Ok(Pieces([begin.into()].into_iter().chain(pieces).chain([end.into()]).collect()))
    }
}

/// A request's body: pieces, most of them shared with the requests before and after it. Its length is known.
#[derive(Debug, Clone)]
pub(crate) struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
impl Pieces {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().flatten().copied().collect();
        assert_eq!(http_body::Body::size_hint(self).exact(), Some(bytes.len() as u64));
        String::from_utf8(bytes).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::event::{ContentPart, ToolCall};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{Item, Request, anthropic, chat, responses};

    type Write = fn(&Request<'_>, &mut Written) -> Result<Pieces, serde_json::Error>;

    fn request<'a>(items: &'a [Item<'a>]) -> Request<'a> {
        let (model, system) = ("claude-x", "Work.");
        Request { model, system, items, tools: &[], thinking_effort: None, max_output_tokens: 100 }
    }

    fn said(text: impl Into<String>) -> [ContentPart; 1] {
        [ContentPart::Text { text: text.into() }]
    }

    /// What happens between two requests.
    #[derive(Debug, Clone)]
    struct Step {
        /// Of what was there, this share goes at the end, in percent.
        gone: usize,
        /// A summary takes the place of this share at the beginning.
        compacted: Option<usize>,
        /// Kinds of items that come.
        more: Vec<usize>,
    }

    fn step() -> impl Strategy<Value = Step> {
        let gone = prop_oneof![6 => Just(0), 1 => 0..101usize];
        let compacted = prop_oneof![8 => Just(None), 1 => (0..101usize).prop_map(Some)];
        let more = proptest::collection::vec(prop_oneof![9 => 0..5usize, 1 => 5..8usize], 0..5);
        (gone, compacted, more).prop_map(|(gone, compacted, more)| Step { gone, compacted, more })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_request_that_goes_on_from_the_last_is_the_one_written_anew(steps in proptest::collection::vec(step(), 1..14)) {
            // Conversations of any order; some say nothing, some speak twice in a row, some fill pieces.
            let (words, blank, summary) = (said("some \"words\""), said("  "), said("What was before."));
            let long = ["a", "\"", "ä"].map(|letter| said(letter.repeat(PIECE_BYTES / 3)));
            let call = ToolCall { id: "c".into(), name: "bash".into(), arguments: json!({"command": "ls"}) };
            let called = [ContentPart::Text { text: "I look.".into() }, ContentPart::ToolCall(call)];
            let kinds = [
                Item::User(&words),
                Item::Assistant(&called),
                Item::ToolResult { call_id: "c", name: "bash", text: "file", is_error: false },
                Item::Assistant(&words),
                Item::User(&blank),
                Item::User(&long[0]),
                Item::Assistant(&long[1]),
                Item::User(&long[2]),
            ];
            for write in [anthropic::body as Write, chat::body, responses::body] {
                let (mut items, mut written): (Vec<Item<'_>>, _) = (Vec::new(), Written::default());
                let mut abroad: Vec<(Pieces, String)> = Vec::new();
                for Step { gone, compacted, more } in &steps {
                    let mut same = items.len() - items.len() * gone / 100;
                    items.truncate(same);
                    if let Some(share) = compacted {
                        items.splice(..items.len() * share / 100, [Item::User(&summary)]);
                        same = 0;
                    }
                    items.extend(more.iter().map(|kind| kinds[*kind]));
                    let kept = written.keep(same);
                    let after = write(&request(&items[kept..]), &mut written).unwrap();
                    let anew = write(&request(&items), &mut Written::default()).unwrap().text();
                    prop_assert_eq!(after.text(), anew.clone());
                    abroad.push((after, anew));
                }
                for (body, text) in abroad {
                    prop_assert_eq!(body.text(), text, "a body changed after it was made");
                }
            }
        }
    }

    #[test]
    fn a_conversation_that_is_cut_back_to_a_blank_message_bears_its_mark_before_that() {
        let (words, blank) = (said("words"), said("  "));
        let items = [Item::User(&words), Item::Assistant(&words), Item::User(&blank), Item::User(&words)];
        let mut written = Written::default();
        anthropic::body(&request(&items), &mut written).unwrap();
        let kept = written.keep(3);
        let after = anthropic::body(&request(&items[kept..3]), &mut written).unwrap().text();
        let anew = anthropic::body(&request(&items[..3]), &mut Written::default()).unwrap().text();
        assert_eq!(after, anew);
    }

    #[test]
    fn a_long_conversation_is_not_copied_for_a_request() {
        let long = said("a".repeat(PIECE_BYTES));
        let items = vec![Item::User(&long); 20];
        let mut written = Written::default();
        chat::body(&request(&items), &mut written).unwrap();
        let kept = written.keep(items.len());
        let body = chat::body(&request(&items[kept..]), &mut written).unwrap();
        let shared =
            body.0.iter().filter(|piece| written.pieces.iter().any(|it| it.as_ptr() == piece.as_ptr()));
        assert_eq!(shared.count(), 20);
    }
}
