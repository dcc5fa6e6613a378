//! A request of any wire as one conversation, with what the vendors themselves check of it.

use serde_json::Value;

use crate::wire::{Wire, signature};

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
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
        let model = body.get("model").and_then(Value::as_str).ok_or("model: Field required")?.to_owned();
        let flag = |value: Option<&Value>| value.and_then(Value::as_bool).unwrap_or(false);
        let mut conversation = Self {
            model,
            stream: flag(body.get("stream")),
            include_usage: flag(body.pointer("/stream_options/include_usage")),
            entries: Vec::new(),
        };
        match wire {
            Wire::AnthropicMessages => {
                body.get("max_tokens").and_then(Value::as_u64).ok_or("max_tokens: Field required")?;
                list(&body, "messages")?.iter().try_for_each(|message| conversation.anthropic(message))?;
            }
            Wire::OpenAiChat => {
                list(&body, "messages")?.iter().for_each(|message| conversation.chat(message));
            }
            Wire::OpenAiResponses => match body.get("input") {
                Some(Value::String(said)) => conversation.entries.push(Entry::User(said.clone())),
                _ => list(&body, "input")?.iter().try_for_each(|item| conversation.responses(item))?,
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

    fn anthropic(&mut self, message: &Value) -> Result<(), String> {
        let content = &message["content"];
        let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
        if message["role"] == "assistant" {
            let calls = blocks.iter().filter(|block| block["type"] == "tool_use");
            self.assistant(calls.map(|call| text(&call["id"])).collect());
            let changed = |block: &&Value| {
                block["type"] == "thinking"
                    && text(&block["signature"]) != signature(&text(&block["thinking"]))
            };
            return match blocks.iter().find(changed) {
                Some(_) => Err("Invalid `signature` in `thinking` block".to_owned()),
                None => Ok(()),
            };
        }
        for result in blocks.iter().filter(|block| block["type"] == "tool_result") {
            self.tool_result(&result["tool_use_id"], &result["content"]);
        }
        let said = text(content);
        if !said.is_empty() {
            self.entries.push(Entry::User(said));
        }
        Ok(())
    }

    fn chat(&mut self, message: &Value) {
        match message["role"].as_str().unwrap_or_default() {
            "user" => self.entries.push(Entry::User(text(&message["content"]))),
            "assistant" => {
                let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
                self.assistant(calls.iter().map(|call| text(&call["id"])).collect());
            }
            "tool" => self.tool_result(&message["tool_call_id"], &message["content"]),
            _ => {}
        }
    }

    fn responses(&mut self, item: &Value) -> Result<(), String> {
        match (item["type"].as_str().unwrap_or("message"), item["role"].as_str()) {
            ("message", Some("user")) => self.entries.push(Entry::User(text(&item["content"]))),
            ("message", Some("assistant")) => self.assistant(Vec::new()),
            ("reasoning", _) => {
                self.assistant(Vec::new());
                if text(&item["encrypted_content"]) != signature(&text(&item["summary"])) {
                    return Err("The encrypted content could not be verified.".to_owned());
                }
            }
            ("function_call", _) => self.assistant(vec![text(&item["call_id"])]),
            ("function_call_output", _) => self.tool_result(&item["call_id"], &item["output"]),
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

    fn tool_result(&mut self, id: &Value, content: &Value) {
        self.entries.push(Entry::ToolResult { id: text(id), text: text(content) });
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

fn list<'a>(body: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    let list = body.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
    list.ok_or_else(|| format!("{name}: at least one message is required"))
}

/// A text, or the texts of a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
