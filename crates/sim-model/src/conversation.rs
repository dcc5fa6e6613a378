//! A request of any wire as one conversation, with what the vendors themselves check of it.
//!
//! Of a conversation only what the scenario asks for is kept, so that a long one costs no memory.

use std::ops::Range;

use crate::{
    request::{Body, Field, Message, Messages, Reader},
    wire::{Wire, signature},
};

/// What a request says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a Chat Completions stream ends with its usage.
    pub include_usage: bool,
    said: Said,
}

/// What messages come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// The user's last words.
    user: String,
    answers: usize,
    answers_since_user: usize,
    results_since_user: Vec<String>,
    /// Whether the last entry is an answer: one answer may come as several items.
    in_answer: bool,
    /// Tool calls without their results.
    open: Vec<String>,
    /// The first message that the vendor refuses.
    refused: Option<String>,
    /// The first break of the order of calls and results.
    disordered: Option<String>,
}

impl Conversation {
    /// Reads the body of a request whose list of messages goes on from `before`. Also gives where in `body` its messages but
    /// the last are, if there are others, and what they come to.
    ///
    /// # Errors
    /// With the text of the vendor's refusal.
    pub(crate) fn read(wire: Wire, before: Said, body: &[u8]) -> Result<(Self, Option<Place>), String> {
        let list = match wire {
            Wire::AnthropicMessages | Wire::OpenAiChat => "messages",
            Wire::OpenAiResponses => "input",
        };
        let mut reading = Reading { wire, said: before, others: None };
        let body = Body::read(body, list, &mut reading);
        let body = body.map_err(|error| format!("the body is not JSON: {error}"))?;
        let mut said = reading.said;
        let model = body.model.str().ok_or("model: Field required")?.to_owned();
        if wire == Wire::AnthropicMessages && !matches!(body.max_tokens, Field::Number) {
            return Err("max_tokens: Field required".into());
        }
        match body.messages {
            Messages::Text(text) if wire == Wire::OpenAiResponses => said.user(&text),
            Messages::None | Messages::Text(_) => {
                return Err(format!("{list}: at least one message is required"));
            }
            Messages::Read => {}
        }
        said.unanswered();
        if let Some(message) = said.refused.take().or_else(|| said.disordered.take()) {
            return Err(message);
        }
        let (stream, include_usage) = (body.stream.is_true(), body.include_usage.is_true());
        Ok((Self { model, stream, include_usage, said }, reading.others))
    }

    /// What the user said last.
    pub(crate) fn user(&self) -> &str {
        &self.said.user
    }

    /// The number of this call, from 1.
    pub(crate) const fn call(&self) -> usize {
        self.said.answers + 1
    }

    /// The answers given since the user spoke last.
    pub(crate) const fn position(&self) -> usize {
        self.said.answers_since_user
    }

    /// The tool results since the user spoke last.
    pub(crate) fn tool_results(&self) -> Vec<&str> {
        self.said.results_since_user.iter().map(String::as_str).collect()
    }
}

impl Said {
    fn user(&mut self, text: &str) {
        self.unanswered();
        self.in_answer = false;
        self.user.clear();
        self.user.push_str(text);
        self.answers_since_user = 0;
        self.results_since_user.clear();
    }

    fn assistant<'a>(&mut self, calls: impl IntoIterator<Item = &'a str>) {
        if !self.in_answer {
            self.unanswered();
            self.in_answer = true;
            self.answers += 1;
            self.answers_since_user += 1;
        }
        self.open.extend(calls.into_iter().map(str::to_owned));
    }

    fn tool_result(&mut self, id: &str, text: &str) {
        self.in_answer = false;
        self.results_since_user.push(text.to_owned());
        match self.open.iter().position(|call| call == id) {
            Some(at) => _ = self.open.swap_remove(at),
            None => {
                let why = || format!("a tool result answers `{id}`, which is no open tool call");
                self.disordered.get_or_insert_with(why);
            }
        }
    }

    /// Each tool call is answered before anything else is said, and nothing else is answered.
    fn unanswered(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open).join(", ");
            let why = || format!("tool calls were found without tool results after them: {open}");
            self.disordered.get_or_insert_with(why);
        }
    }

    fn refuse(&mut self, why: &str) {
        self.refused.get_or_insert_with(|| why.to_owned());
    }
}

/// A part of a list of messages, and what it comes to.
pub(crate) struct Place {
    pub range: Range<usize>,
    pub said: Said,
}

/// Reads the messages of a wire.
struct Reading {
    wire: Wire,
    said: Said,
    /// All but the last.
    others: Option<Place>,
}

impl Reader for Reading {
    fn message(&mut self, message: &Message<'_>) {
        match self.wire {
            Wire::AnthropicMessages => self.anthropic(message),
            Wire::OpenAiChat => self.chat(message),
            Wire::OpenAiResponses => self.responses(message),
        }
    }

    fn last_comes(&mut self, range: Range<usize>) {
        self.others = Some(Place { range, said: self.said.clone() });
    }
}

impl Reading {
    fn anthropic(&mut self, message: &Message<'_>) {
        let content = &message.content;
        if message.role.str() == Some("assistant") {
            self.said.assistant(content.parts("tool_use").map(|call| call.id.text()));
            if content.parts("thinking").any(|it| it.signature.text() != signature(it.thinking.text())) {
                self.said.refuse("Invalid `signature` in `thinking` block");
            }
            return;
        }
        for result in content.parts("tool_result") {
            self.said.tool_result(result.tool_use_id.text(), result.content.text());
        }
        if !content.text().is_empty() {
            self.said.user(content.text());
        }
    }

    fn chat(&mut self, message: &Message<'_>) {
        match message.role.text() {
            "user" => self.said.user(message.content.text()),
            "assistant" => self.said.assistant(message.tool_calls.all_parts().map(|call| call.id.text())),
            "tool" => self.said.tool_result(message.tool_call_id.text(), message.content.text()),
            _ => {}
        }
    }

    fn responses(&mut self, item: &Message<'_>) {
        match (item.kind.str().unwrap_or("message"), item.role.str()) {
            ("message", Some("user")) => self.said.user(item.content.text()),
            ("message", Some("assistant")) => self.said.assistant([]),
            ("reasoning", _) => {
                self.said.assistant([]);
                if item.encrypted_content.text() != signature(item.summary.text()) {
                    self.said.refuse("The encrypted content could not be verified.");
                }
            }
            ("function_call", _) => self.said.assistant([item.call_id.text()]),
            ("function_call_output", _) => self.said.tool_result(item.call_id.text(), item.output.text()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(wire: Wire, body: &Value) -> Result<Conversation, String> {
        Conversation::read(wire, Said::default(), body.to_string().as_bytes()).map(|(read, _)| read)
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
