//! The conversation: messages with the results of their tool calls, and a summary of what was dropped.

use std::sync::Arc;

use freehold_model::{
    MessageId,
    event::{ContentPart, Message, MessageRole, ToolCall, ToolStatus, Usage},
};
use serde_json::Value;

use crate::Items;

/// Said between two answers of the model when the first one was cut.
const GO_ON: &str = "Your last message was cut off at the output limit. Go on exactly where it stopped.";

/// What the model is told of a call whose outcome was lost.
pub(crate) const INTERRUPTED: &str = "The tool was interrupted: the agent restarted while it was due to run. How far \
     it came is unknown, and it was not run again. Check before you repeat it.";

/// What a tool told the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolResult {
    /// The call.
    pub tool_call_id: String,
    /// The tool.
    pub tool_name: String,
    /// How it ended.
    pub status: ToolStatus,
    /// What the model is told.
    pub text: String,
}

/// One piece of a request, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A message of the user or the model.
    Message(Arc<Message>),
    /// The result of a call in the last message of the model.
    Result(Arc<ToolResult>),
    /// Something the loop itself says, in the user's place.
    Note(Arc<str>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) message: Arc<Message>,
    pub(crate) results: Vec<Arc<ToolResult>>,
}

impl Entry {
    pub(crate) fn tokens(&self) -> u64 {
        let results: u64 = self.results.iter().map(|result| tokens_of(result.text.len())).sum();
        tokens_of(message_bytes(&self.message)) + results
    }
}

/// The conversation as the next request will see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    summary: Option<Arc<str>>,
    entries: Vec<Entry>,
    /// The pieces of all entries but the last, to which alone anything is added.
    settled: Arc<Vec<Item>>,
    /// Whether these end with an answer that was cut.
    settled_cut: bool,
    tokens: u64,
}

impl Conversation {
    /// Tokens of context: as the provider last counted, and an estimate of what came since.
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Messages, a summary included.
    pub fn message_count(&self) -> usize {
        self.entries.len() + usize::from(self.summary.is_some())
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(crate) fn summary(&self) -> Option<&Arc<str>> {
        self.summary.as_ref()
    }

    pub(crate) fn push(&mut self, message: Arc<Message>, usage: Option<&Usage>) {
        self.tokens = match usage {
            Some(usage) if usage.input_tokens > 0 => usage.input_tokens.saturating_add(usage.output_tokens),
            Some(_) | None => self.tokens.saturating_add(tokens_of(message_bytes(&message))),
        };
        self.settle();
        self.entries.push(Entry { message, results: Vec::new() });
    }

    /// Takes over the pieces of the last entry, which is the last no more. Copies nothing while no request is about.
    fn settle(&mut self) {
        if let Some(entry) = self.entries.last() {
            self.settled_cut = write_items(Arc::make_mut(&mut self.settled), entry, self.settled_cut);
        }
    }

    /// Adds the result of a call in the last message. A second result of a call, or one of no call, is dropped.
    pub(crate) fn push_result(&mut self, result: ToolResult) {
        let open = self.open_calls().any(|call| call.id == result.tool_call_id);
        if let (true, Some(last)) = (open, self.entries.last_mut()) {
            self.tokens = self.tokens.saturating_add(tokens_of(result.text.len()));
            last.results.push(Arc::new(result));
        }
    }

    /// Calls in the last message that have no result.
    pub(crate) fn open_calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.entries.last().into_iter().flat_map(|entry| {
            calls(&entry.message)
                .filter(|call| !entry.results.iter().any(|done| done.tool_call_id == call.id))
        })
    }

    /// Puts `summary` in the place of everything before `first_kept`, or of everything. Where reading began behind that
    /// message, all that is here comes after it.
    pub(crate) fn compact(&mut self, summary: &str, first_kept: Option<MessageId>) {
        let kept = first_kept.map_or(self.entries.len(), |id| {
            self.entries.iter().position(|entry| entry.message.id == id).unwrap_or(0)
        });
        let entries = self.entries.split_off(kept);
        self.entries.clear();
        (self.settled, self.settled_cut) = (Arc::default(), false);
        for entry in entries {
            self.settle();
            self.entries.push(entry);
        }
        self.summary = Some(summary.into());
        self.tokens = tokens_of(summary.len()) + self.entries.iter().map(Entry::tokens).sum::<u64>();
    }

    /// The conversation for a request. `input` is the task at hand, repeated when the message itself was dropped.
    pub(crate) fn items(&self, input: Option<&Message>) -> Items {
        let note = |summary: &Arc<str>| Item::Note(self.summary_note(summary, input).into());
        let mut rest = Vec::new();
        let mut cut = self.settled_cut;
        if let Some(entry) = self.entries.last() {
            cut = write_items(&mut rest, entry, cut);
        }
        if cut {
            rest.push(Item::Note(GO_ON.into()));
        }
        Items::new(self.summary.as_ref().map(note), self.settled.clone(), rest)
    }

    fn summary_note(&self, summary: &str, input: Option<&Message>) -> String {
        let mut note = format!("Summary of the conversation so far, which was shortened:\n\n{summary}");
        if let Some(input) = input
            // It is among the last, if it is there.
            && !self.entries.iter().rev().any(|entry| entry.message.id == input.id)
        {
            note.push_str("\n\nThe task at hand, word for word:\n\n");
            note.push_str(&text_of(input));
        }
        note
    }
}

/// Adds the pieces of `entry`, before which an answer was cut or not; whether it is such an answer itself.
fn write_items(items: &mut Vec<Item>, entry: &Entry, after_cut: bool) -> bool {
    let from_model = entry.message.role == MessageRole::Agent;
    if after_cut && from_model {
        items.push(Item::Note(GO_ON.into()));
    }
    items.push(Item::Message(entry.message.clone()));
    let before = items.len();
    for call in calls(&entry.message) {
        let result = entry.results.iter().find(|result| result.tool_call_id == call.id);
        items.push(Item::Result(result.cloned().unwrap_or_else(|| Arc::new(interrupted(call)))));
    }
    from_model && items.len() == before
}

fn interrupted(call: &ToolCall) -> ToolResult {
    ToolResult {
        tool_call_id: call.id.clone(),
        tool_name: call.name.clone(),
        status: ToolStatus::Interrupted,
        text: INTERRUPTED.into(),
    }
}

/// The tool calls of a message.
pub(crate) fn calls(message: &Message) -> impl Iterator<Item = &ToolCall> {
    message.content.iter().filter_map(|part| match part {
        ContentPart::ToolCall(call) => Some(call),
        ContentPart::Text { .. } | ContentPart::Reasoning { .. } => None,
    })
}

/// The text of a message.
pub(crate) fn text_of(message: &Message) -> String {
    let texts = message.content.iter().filter_map(|part| match part {
        ContentPart::Text { text } => Some(text.as_str()),
        ContentPart::ToolCall(_) | ContentPart::Reasoning { .. } => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// A careful guess where no provider counted.
pub(crate) fn tokens_of(bytes: usize) -> u64 {
    bytes as u64 / 4 + 4
}

/// The size of a message in bytes, about as it goes over the wire.
pub(crate) fn message_bytes(message: &Message) -> usize {
    let part = |part: &ContentPart| match part {
        ContentPart::Text { text } => text.len(),
        ContentPart::ToolCall(call) => call.id.len() + call.name.len() + value_bytes(&call.arguments),
        ContentPart::Reasoning { text, replay } => text.len() + replay.as_ref().map_or(0, value_bytes),
    };
    message.content.iter().map(part).sum()
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(values) => values.iter().map(|value| value_bytes(value) + 1).sum::<usize>() + 2,
        Value::Object(map) => {
            map.iter().map(|(key, value)| key.len() + value_bytes(value) + 4).sum::<usize>() + 2
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    /// What may happen to a conversation.
    #[derive(Debug, Clone)]
    enum Change {
        User,
        /// An answer with so many tool calls.
        Agent(usize),
        /// The result of this call of the last answer.
        Result(usize),
        /// A summary, keeping this message and what follows.
        Compact(Option<usize>),
        /// A request that is still about while other things happen.
        Request,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            3 => Just(Change::User),
            4 => (0..3usize).prop_map(Change::Agent),
            5 => (0..3usize).prop_map(Change::Result),
            1 => proptest::option::of(0..30usize).prop_map(Change::Compact),
            2 => Just(Change::Request),
        ]
    }

    fn message(number: usize, role: MessageRole, calls: usize) -> Arc<Message> {
        let id = |call| format!("{number}-{call}");
        let call = |call| ToolCall { id: id(call), name: "bash".into(), arguments: json!({}) };
        let text = ContentPart::Text { text: format!("message {number}") };
        let content = [text].into_iter().chain((0..calls).map(call).map(ContentPart::ToolCall)).collect();
        Arc::new(Message { id: message_id(number), role, content })
    }

    fn message_id(number: usize) -> MessageId {
        MessageId::from_uuid(Uuid::from_u128(number as u128))
    }

    /// The pieces as the entries alone say.
    fn written_anew(conversation: &Conversation, input: &Message) -> Vec<Item> {
        let mut items = Vec::new();
        if let Some(summary) = &conversation.summary {
            items.push(Item::Note(conversation.summary_note(summary, Some(input)).into()));
        }
        let mut cut = false;
        for entry in &conversation.entries {
            cut = write_items(&mut items, entry, cut);
        }
        items.extend(cut.then(|| Item::Note(GO_ON.into())));
        items
    }

    proptest! {
        #[test]
        fn a_request_says_what_one_written_anew_would_say(changes in proptest::collection::vec(change(), 0..60)) {
            let mut conversation = Conversation::default();
            let (input, mut abroad) = (message(7, MessageRole::User, 0), Vec::new());
            for (number, change) in changes.into_iter().enumerate() {
                match change {
                    Change::User => conversation.push(message(number, MessageRole::User, 0), None),
                    Change::Agent(calls) => conversation.push(message(number, MessageRole::Agent, calls), None),
                    Change::Result(call) => {
                        let open = conversation.open_calls().nth(call).cloned();
                        if let Some(call) = open {
                            conversation.push_result(interrupted(&call));
                        }
                    }
                    Change::Compact(kept) => conversation.compact("summary", kept.map(message_id)),
                    Change::Request => {
                        let items = conversation.items(Some(&input));
                        abroad.push((items, written_anew(&conversation, &input)));
                    }
                }
                let items = conversation.items(Some(&input));
                prop_assert!(items.iter().eq(&written_anew(&conversation, &input)));
                prop_assert_eq!(items.len(), items.iter().count());
            }
            for (items, said) in abroad {
                prop_assert!(items.iter().eq(&said), "a request changed after it was made");
            }
        }
    }

    #[test]
    fn what_a_conversation_has_for_good_is_written_once() {
        let mut conversation = Conversation::default();
        for number in 0..20 {
            conversation.push(message(number, MessageRole::User, 0), None);
            let place = Arc::as_ptr(&conversation.settled);
            drop(conversation.items(None));
            conversation.push(message(number + 100, MessageRole::Agent, 0), None);
            assert_eq!(Arc::as_ptr(&conversation.settled), place, "the same list grows");
        }
    }
}
