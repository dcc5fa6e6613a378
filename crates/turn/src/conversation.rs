//! The conversation: messages with the results of their tool calls, and a summary of what was dropped.

use std::sync::Arc;

use freehold_model::{
    MessageId,
    event::{ContentPart, Message, MessageRole, ToolCall, ToolStatus, Usage},
};
use serde_json::Value;

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
        self.entries.push(Entry { message, results: Vec::new() });
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
        self.entries.drain(..kept);
        self.summary = Some(summary.into());
        self.tokens = tokens_of(summary.len()) + self.entries.iter().map(Entry::tokens).sum::<u64>();
    }

    /// The conversation for a request. `input` is the task at hand, repeated when the message itself was dropped.
    pub(crate) fn items(&self, input: Option<&Message>) -> Vec<Item> {
        let mut items = Vec::with_capacity(self.entries.len() * 2 + 2);
        if let Some(summary) = &self.summary {
            items.push(Item::Note(self.summary_note(summary, input).into()));
        }
        let mut cut = false;
        for entry in &self.entries {
            let from_model = entry.message.role == MessageRole::Agent;
            if cut && from_model {
                items.push(Item::Note(GO_ON.into()));
            }
            items.push(Item::Message(entry.message.clone()));
            let before = items.len();
            for call in calls(&entry.message) {
                let result = entry.results.iter().find(|result| result.tool_call_id == call.id);
                items.push(Item::Result(result.cloned().unwrap_or_else(|| Arc::new(interrupted(call)))));
            }
            cut = from_model && items.len() == before;
        }
        if cut {
            items.push(Item::Note(GO_ON.into()));
        }
        items
    }

    fn summary_note(&self, summary: &str, input: Option<&Message>) -> String {
        let mut note = format!("Summary of the conversation so far, which was shortened:\n\n{summary}");
        if let Some(input) = input
            && !self.entries.iter().any(|entry| entry.message.id == input.id)
        {
            note.push_str("\n\nThe task at hand, word for word:\n\n");
            note.push_str(&text_of(input));
        }
        note
    }
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
