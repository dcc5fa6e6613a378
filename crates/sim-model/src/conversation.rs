//! A request of any wire as one conversation, with what the vendors themselves check of it.

use crate::{
    request::{Body, Field, Part},
    wire::{Wire, signature},
};

/// One entry of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    User(String),
    /// An answer of the model, with the ids of its tool calls.
    Assistant(Vec<String>),
    ToolResult {
        id: String,
        text: String,
    },
}

/// What a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a Chat Completions stream ends with its usage.
    pub include_usage: bool,
    entries: Vec<Entry>,
}

impl Conversation {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// With the text of the vendor's refusal.
    pub(crate) fn parse(wire: Wire, body: &[u8]) -> Result<Self, String> {
        let body: Body<'_> =
            serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        let mut conversation = Self {
            model: body.model.str().ok_or("model: Field required")?.to_owned(),
            stream: body.stream.is_true(),
            include_usage: body.stream_options.is_some_and(|options| options.include_usage.is_true()),
            entries: Vec::new(),
        };
        match wire {
            Wire::AnthropicMessages => {
                let Field::Number = body.max_tokens else {
                    return Err("max_tokens: Field required".into());
                };
                let messages = list(&body.messages, "messages")?;
                messages.iter().try_for_each(|message| conversation.anthropic(message))?;
            }
            Wire::OpenAiChat => {
                list(&body.messages, "messages")?.iter().for_each(|message| conversation.chat(message));
            }
            Wire::OpenAiResponses => match &body.input {
                Field::Text(said) => conversation.entries.push(Entry::User(said.clone().into_owned())),
                input => list(input, "input")?.iter().try_for_each(|item| conversation.responses(item))?,
            },
        }
        conversation.check_tool_results()?;
        Ok(conversation)
    }

    /// What the user said last.
    pub(crate) fn user(&self) -> &str {
        let said = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::User(text) => Some(text.as_str()),
            _ => None,
        });
        said.unwrap_or_default()
    }

    /// The number of this call, from 1.
    pub(crate) fn call(&self) -> usize {
        answers(&self.entries) + 1
    }

    /// The answers given since the user spoke last.
    pub(crate) fn position(&self) -> usize {
        answers(self.since_user())
    }

    /// The tool results since the user spoke last.
    pub(crate) fn tool_results(&self) -> Vec<&str> {
        let results = self.since_user().iter().filter_map(|entry| match entry {
            Entry::ToolResult { text, .. } => Some(text.as_str()),
            _ => None,
        });
        results.collect()
    }

    fn since_user(&self) -> &[Entry] {
        let at = self.entries.iter().rposition(|entry| matches!(entry, Entry::User(_)));
        &self.entries[at.map_or(0, |at| at + 1)..]
    }

    fn anthropic(&mut self, message: &Part<'_>) -> Result<(), String> {
        let blocks = message.content.parts();
        let is = |block: &Part<'_>, kind: &str| block.kind.str() == Some(kind);
        if message.role.str() == Some("assistant") {
            let calls = blocks.iter().filter(|block| is(block, "tool_use"));
            self.assistant(calls.map(|call| call.id.text()).collect());
            let changed = |block: &&Part<'_>| {
                is(block, "thinking") && block.signature.text() != signature(&block.thinking.text())
            };
            return match blocks.iter().find(changed) {
                Some(_) => Err("Invalid `signature` in `thinking` block".to_owned()),
                None => Ok(()),
            };
        }
        for result in blocks.iter().filter(|block| is(block, "tool_result")) {
            self.tool_result(&result.tool_use_id, &result.content);
        }
        let said = message.content.text();
        if !said.is_empty() {
            self.entries.push(Entry::User(said));
        }
        Ok(())
    }

    fn chat(&mut self, message: &Part<'_>) {
        match message.role.str().unwrap_or_default() {
            "user" => self.entries.push(Entry::User(message.content.text())),
            "assistant" => {
                self.assistant(message.tool_calls.parts().iter().map(|call| call.id.text()).collect());
            }
            "tool" => self.tool_result(&message.tool_call_id, &message.content),
            _ => {}
        }
    }

    fn responses(&mut self, item: &Part<'_>) -> Result<(), String> {
        match (item.kind.str().unwrap_or("message"), item.role.str()) {
            ("message", Some("user")) => self.entries.push(Entry::User(item.content.text())),
            ("message", Some("assistant")) => self.assistant(Vec::new()),
            ("reasoning", _) => {
                self.assistant(Vec::new());
                if item.encrypted_content.text() != signature(&item.summary.text()) {
                    return Err("The encrypted content could not be verified.".to_owned());
                }
            }
            ("function_call", _) => self.assistant(vec![item.call_id.text()]),
            ("function_call_output", _) => self.tool_result(&item.call_id, &item.output),
            _ => {}
        }
        Ok(())
    }

    /// One answer may come as several items.
    fn assistant(&mut self, calls: Vec<String>) {
        match self.entries.last_mut() {
            Some(Entry::Assistant(so_far)) => so_far.extend(calls),
            _ => self.entries.push(Entry::Assistant(calls)),
        }
    }

    fn tool_result(&mut self, id: &Field<'_>, content: &Field<'_>) {
        self.entries.push(Entry::ToolResult { id: id.text(), text: content.text() });
    }

    /// Each tool call is answered before anything else is said, and nothing else is answered.
    fn check_tool_results(&self) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        for entry in &self.entries {
            match entry {
                Entry::ToolResult { id, .. } => match open.iter().position(|call| call == id) {
                    Some(at) => _ = open.swap_remove(at),
                    None => return Err(format!("a tool result answers `{id}`, which is no open tool call")),
                },
                _ if !open.is_empty() => break,
                Entry::Assistant(calls) => open = calls.iter().map(String::as_str).collect(),
                Entry::User(_) => {}
            }
        }
        match open.as_slice() {
            [] => Ok(()),
            open => {
                Err(format!("tool calls were found without tool results after them: {}", open.join(", ")))
            }
        }
    }
}

fn answers(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| matches!(entry, Entry::Assistant(_))).count()
}

fn list<'b, 'a>(field: &'b Field<'a>, name: &str) -> Result<&'b [Part<'a>], String> {
    match field.parts() {
        [] => Err(format!("{name}: at least one message is required")),
        list => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(wire: Wire, body: &Value) -> Result<Conversation, String> {
        Conversation::parse(wire, body.to_string().as_bytes())
    }

    #[test]
    fn the_three_wires_tell_the_same_conversation() {
        let anthropic = json!({"model": "m", "max_tokens": 1, "messages": [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "text", "text": "hm"}]},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "x", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "done"}]},
        ]});
        let chat = json!({"model": "m", "messages": [
            {"role": "system", "content": "be good"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "hm"},
            {"role": "user", "content": "two"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "a"}]},
            {"role": "tool", "tool_call_id": "a", "content": "done"},
        ]});
        let responses = json!({"model": "m", "input": [
            {"role": "user", "content": "one"},
            {"type": "reasoning", "summary": [], "encrypted_content": signature("")},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hm"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "two"}]},
            {"type": "function_call", "call_id": "a", "name": "x", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "done"},
        ]});
        let expected = parse(Wire::AnthropicMessages, &anthropic).unwrap();
        assert_eq!((expected.user(), expected.call(), expected.position()), ("two", 3, 1));
        assert_eq!(expected.tool_results(), ["done"]);
        assert_eq!(parse(Wire::OpenAiChat, &chat).unwrap(), expected);
        assert_eq!(parse(Wire::OpenAiResponses, &responses).unwrap(), expected);
    }

    #[test]
    fn a_tool_call_without_its_result_is_refused_as_the_vendors_do() {
        let call = json!({"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]});
        let body =
            json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}, call]});
        assert!(parse(Wire::AnthropicMessages, &body).unwrap_err().contains("without tool results"));
    }
}
