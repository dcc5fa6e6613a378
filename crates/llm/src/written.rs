//! What of a conversation was written for the last request, so that the next one writes only what came since.

use serde::Serialize;

/// Room for what is in a body beside its messages, in bytes.
const BODY_BYTES: usize = 16 * 1024;

/// The messages of the last request, as they went over the wire.
///
/// A conversation only grows at its end between two calls; writing all of it each time would make every step dearer than the one
/// before. What stays is a copy of bytes and their encryption.
#[derive(Debug, Default)]
pub struct Written {
    bytes: Vec<u8>,
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
        let same = self.marked.take().map_or(same, |marked| same.min(marked));
        while self.ends.last().is_some_and(|end| end.items >= same) {
            self.ends.pop();
        }
        let End { items, bytes } = self.ends.last().copied().unwrap_or(End { items: 0, bytes: 0 });
        self.bytes.truncate(bytes);
        items
    }

    /// The message that ends with item number `items` is not to be kept.
    pub(crate) const fn mark(&mut self, items: usize) {
        self.marked = Some(items);
    }

    /// Items that are written.
    pub(crate) fn items(&self) -> usize {
        self.ends.last().map_or(0, |end| end.items)
    }

    /// Adds messages, none or many, that end with item number `items`.
    pub(crate) fn add<M: Serialize>(
        &mut self,
        messages: impl IntoIterator<Item = M>,
        items: usize,
    ) -> Result<(), serde_json::Error> {
        for message in messages {
            if !self.bytes.is_empty() {
                self.bytes.push(b',');
            }
            serde_json::to_writer(&mut self.bytes, &message)?;
        }
        self.ends.push(End { items, bytes: self.bytes.len() });
        Ok(())
    }

    /// A request's body: the messages under the name `field`, after `first` if there is one, and then the fields of
    /// `rest`, an object that has some.
    pub(crate) fn body(
        &self,
        field: &str,
        first: Option<&impl Serialize>,
        rest: &impl Serialize,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let mut body = Vec::with_capacity(self.bytes.len() + BODY_BYTES);
        body.extend_from_slice(format!("{{\"{field}\":[").as_bytes());
        if let Some(first) = first {
            serde_json::to_writer(&mut body, first)?;
            if !self.bytes.is_empty() {
                body.push(b',');
            }
        }
        body.extend_from_slice(&self.bytes);
        body.extend_from_slice(b"],");
        let rest_at = body.len();
        serde_json::to_writer(&mut body, rest)?;
        // The other fields are an object of their own so far.
        body.remove(rest_at);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::event::{ContentPart, ToolCall};
    use serde_json::json;

    use super::*;
    use crate::{Item, Request, anthropic, chat, responses};

    type Body = fn(&Request<'_>, &mut Written) -> Result<Vec<u8>, serde_json::Error>;

    fn request<'a>(items: &'a [Item<'a>]) -> Request<'a> {
        let (model, system) = ("claude-x", "Work.");
        Request { model, system, items, tools: &[], thinking_effort: None, max_output_tokens: 100 }
    }

    #[test]
    fn a_request_that_goes_on_from_the_last_is_the_one_written_anew() {
        let said = [ContentPart::Text { text: "some \"words\"".into() }];
        let blank = [ContentPart::Text { text: "  ".into() }];
        let call = ToolCall { id: "c".into(), name: "bash".into(), arguments: json!({"command": "ls"}) };
        let called = [ContentPart::Text { text: "I look.".into() }, ContentPart::ToolCall(call)];
        let result = Item::ToolResult { call_id: "c", name: "bash", text: "file", is_error: false };
        let kinds = [
            Item::User(&said),
            Item::Assistant(&called),
            result,
            Item::Assistant(&said),
            Item::User(&blank),
            Item::Assistant(&blank),
        ];
        // Conversations of any order; some say nothing, some speak twice in a row.
        let pick =
            |seed: usize, index: usize| kinds[(seed * 31 + index * index * 7 + index * seed) % kinds.len()];
        for body in [anthropic::body as Body, chat::body, responses::body] {
            for seed in 0..200 {
                let mut items: Vec<Item<'_>> = Vec::new();
                let mut written = Written::default();
                for step in 0..8 {
                    let same = if step == 5 { items.len() / 2 } else { items.len() };
                    items.truncate(same);
                    items.extend((0..=(seed + step) % 3).map(|more| pick(seed, same + more + step)));
                    let kept = written.keep(same);
                    let after = body(&request(&items[kept..]), &mut written).unwrap();
                    let anew = body(&request(&items), &mut Written::default()).unwrap();
                    assert_eq!(String::from_utf8(after).unwrap(), String::from_utf8(anew).unwrap());
                }
            }
        }
    }
}
