//! OpenAI Chat Completions, as the vendor writes it.

use serde_json::{Value, json};

use crate::play::Piece;
use crate::scenario::{Stop, StreamError};
use crate::wire::{Meta, Write, chunks, id};

/// The vendor's error object.
pub(crate) fn error(kind: &str, message: &str) -> Value {
    json!({ "error": { "message": message, "type": kind, "param": null, "code": kind } })
}

/// An answer in one piece.
pub(crate) fn whole(pieces: &[Piece], meta: &Meta) -> Value {
    let text: String = pieces
        .iter()
        .filter_map(|piece| if let Piece::Text(t) = piece { Some(&**t) } else { None })
        .collect();
    let calls: Vec<Value> = pieces
        .iter()
        .filter_map(|piece| match piece {
            Piece::Call { id, name, arguments } => Some(call(id, name, arguments)),
            _ => None,
        })
        .collect();
    let mut message = json!({ "role": "assistant", "content": text, "refusal": null });
    if !calls.is_empty() {
        message["tool_calls"] = Value::Array(calls);
    }
    let choice =
        json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": stop(meta.stop) });
    json!({
        "id": id("chatcmpl"), "object": "chat.completion", "created": 0, "model": meta.model,
        "choices": [choice], "usage": usage(meta),
    })
}

fn call(id: &str, name: &str, arguments: &str) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn usage(meta: &Meta) -> Value {
    let input = meta.input + meta.cache_read + meta.cache_creation;
    json!({
        "prompt_tokens": input, "completion_tokens": meta.output, "total_tokens": input + meta.output,
        "prompt_tokens_details": { "cached_tokens": meta.cache_read },
    })
}

const fn stop(stop: Stop) -> &'static str {
    match stop {
        Stop::EndTurn => "stop",
        Stop::ToolUse => "tool_calls",
        Stop::MaxTokens => "length",
        Stop::Refusal => "content_filter",
    }
}

/// A streamed answer.
pub(crate) struct Stream {
    meta: Meta,
    id: String,
    calls: usize,
}

impl Stream {
    pub(crate) fn new(meta: Meta) -> Self {
        Self { meta, id: id("chatcmpl"), calls: 0 }
    }

    fn chunk(&self, choices: &[Value], usage: Option<Value>) -> String {
        let mut chunk = json!({
            "id": self.id, "object": "chat.completion.chunk", "created": 0, "model": self.meta.model,
            "choices": choices,
        });
        if self.meta.include_usage {
            chunk["usage"] = usage.unwrap_or_default();
        }
        format!("data: {chunk}\n\n")
    }

    fn delta(&self, delta: &Value, finish: Option<&str>) -> String {
        self.chunk(&[json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish })], None)
    }
}

impl Write for Stream {
    fn start(&mut self) -> Vec<String> {
        vec![self.delta(&json!({ "role": "assistant", "content": "", "refusal": null }), None)]
    }

    fn piece(&mut self, _: usize, piece: &Piece) -> Vec<String> {
        let split = |text: &str| chunks(text, self.meta.chunk_chars);
        match piece {
            Piece::Text(text) => {
                split(text).iter().map(|text| self.delta(&json!({ "content": text }), None)).collect()
            }
            // The vendor's own models keep it to themselves on this wire; its imitators send it so.
            Piece::Reasoning(text) => split(text)
                .iter()
                .map(|text| self.delta(&json!({ "reasoning_content": text }), None))
                .collect(),
            Piece::Call { id, name, arguments } => {
                let index = self.calls;
                let mut start = call(id, name, "");
                start["index"] = index.into();
                let more = |text: &String| json!({ "index": index, "function": { "arguments": text } });
                let pieces =
                    std::iter::once(start).chain(split(arguments).iter().map(more).collect::<Vec<_>>());
                let events = pieces.map(|call| self.delta(&json!({ "tool_calls": [call] }), None)).collect();
                self.calls += 1;
                events
            }
            Piece::Other(_) => Vec::new(),
        }
    }

    fn error(&mut self, stream_error: &StreamError) -> String {
        format!("data: {}\n\n", error(&stream_error.kind, &stream_error.message))
    }

    fn finish(&mut self) -> Vec<String> {
        let mut events = vec![self.delta(&json!({}), Some(stop(self.meta.stop)))];
        if self.meta.include_usage {
            events.push(self.chunk(&[], Some(usage(&self.meta))));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }
}
