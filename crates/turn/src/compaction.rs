//! What is dropped, what is kept, and how the model is asked for a summary.

use std::fmt::Write;

use freehold_model::{
    MessageId,
    event::{ContentPart, MessageRole},
};

use crate::{
    Conversation, Item, ModelRequest, RequestKind,
    conversation::{Entry, text_of},
};

/// Of the context limit, the part that the newest messages may keep: one in this many.
const KEPT_PART: u64 = 4;

/// The most bytes of a tool result or of tool arguments in the text to summarise.
const EXCERPT_BYTES_MAX: usize = 2000;

/// How often the older half is left out when even the summary's request is too long.
pub(crate) const HALVINGS_MAX: u32 = 5;

const ASK: &str = "Below is the record of your work so far. It has become too long and will be replaced by your summary. \
     Write down everything you need to go on without it: what the user wants, word for word where it matters; \
     what was done and found, with file names, commands, values and decisions; what failed and why; what is left \
     to do, and the very next step. Write only the summary.";

/// The first message that stays when everything shall fit `context_tokens_max` comfortably; `None` when none stays.
pub(crate) fn first_kept(conversation: &Conversation, context_tokens_max: u64) -> Option<MessageId> {
    let budget = context_tokens_max / KEPT_PART;
    let mut sum = 0;
    let mut first = None;
    for (index, entry) in conversation.entries().iter().enumerate().rev() {
        sum += entry.tokens();
        if sum > budget {
            return first;
        }
        // Keeping everything would shorten nothing.
        first = (index > 0).then_some(entry.message.id);
    }
    None
}

/// Asks for a summary of everything before `first_kept`; `halvings` times the older half is left out.
pub(crate) fn request(
    conversation: &Conversation,
    first_kept: Option<MessageId>,
    halvings: u32,
    attempt: u32,
) -> ModelRequest {
    let entries = conversation.entries();
    let end = first_kept
        .and_then(|id| entries.iter().position(|entry| entry.message.id == id))
        .unwrap_or(entries.len());
    let begin = end - (end >> halvings.min(HALVINGS_MAX));
    let mut text = format!("{ASK}\n\n<record>\n");
    if let Some(summary) = conversation.summary() {
        let _ = write!(text, "[earlier summary]\n{summary}\n\n");
    }
    if begin > 0 {
        let _ = write!(text, "[{begin} older messages are left out]\n\n");
    }
    for entry in &entries[begin..end] {
        write_entry(&mut text, entry);
    }
    text.push_str("</record>");
    ModelRequest { kind: RequestKind::Compact, attempt, items: Item::Note(text.into()).into() }
}

fn write_entry(text: &mut String, entry: &Entry) {
    let who = match entry.message.role {
        MessageRole::User => "user",
        MessageRole::Agent => "you",
    };
    let _ = write!(text, "[{who}]\n{}\n", text_of(&entry.message));
    for part in &entry.message.content {
        if let ContentPart::ToolCall(call) = part {
            let _ = writeln!(text, "[call {}] {}", call.name, excerpt(&call.arguments.to_string()));
            if let Some(result) = entry.results.iter().find(|result| result.tool_call_id == call.id) {
                let _ = writeln!(text, "[result] {}", excerpt(&result.text));
            }
        }
    }
    text.push('\n');
}

fn excerpt(text: &str) -> String {
    cut_middle(text, EXCERPT_BYTES_MAX)
}

/// `text`, or when it is longer than `bytes_max` its beginning and end, and how much is missing between them.
pub(crate) fn cut_middle(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(bytes_max / 2);
    let tail = text.ceil_char_boundary(text.len() - bytes_max / 2);
    format!("{}\n[... {} bytes cut ...]\n{}", &text[..head], tail - head, &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_a_long_text_is_cut_between_characters() {
        assert_eq!(cut_middle("short", 10), "short");
        let cut = cut_middle(&"ä".repeat(100), 11);
        assert!(cut.starts_with("ää\n[... ") && cut.ends_with("\nää"), "{cut}");
        assert!(cut.contains("192 bytes"), "{cut}");
    }
}
