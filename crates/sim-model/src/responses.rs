//! OpenAI Responses, as the vendor writes it.

use serde_json::{Value, json};

use crate::play::Piece;
use crate::scenario::{Stop, StreamError};
use crate::wire::{Meta, Write, chunks, event, id, signature};

/// An answer in one piece.
pub(crate) fn whole(pieces: &[Piece], meta: &Meta) -> Value {
    let items = pieces.iter().filter_map(|piece| Some(item(&id(prefix(piece)?), piece, phase(meta), true)));
    response(&id("resp"), meta, items.collect(), true)
}

fn response(id: &str, meta: &Meta, output: Vec<Value>, ended: bool) -> Value {
    let (status, incomplete) = match meta.stop {
        _ if !ended => ("in_progress", Value::Null),
        Stop::MaxTokens => ("incomplete", json!({ "reason": "max_output_tokens" })),
        Stop::Refusal => ("incomplete", json!({ "reason": "content_filter" })),
        Stop::EndTurn | Stop::ToolUse => ("completed", Value::Null),
    };
    let input = meta.input + meta.cache_read + meta.cache_creation;
    let usage = json!({
        "input_tokens": input, "input_tokens_details": { "cached_tokens": meta.cache_read },
        "output_tokens": meta.output, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": input + meta.output,
    });
    json!({
        "id": id, "object": "response", "created_at": 0, "status": status, "error": null,
        "incomplete_details": incomplete, "model": meta.model, "output": output, "store": false,
        "usage": if ended { usage } else { Value::Null },
    })
}

const fn prefix(piece: &Piece) -> Option<&'static str> {
    match piece {
        Piece::Text(_) => Some("msg"),
        Piece::Reasoning(_) => Some("rs"),
        Piece::Call { .. } => Some("fc"),
        Piece::Other(_) => None,
    }
}

/// Whether the model's messages have a phase, which must come back with them.
pub(crate) fn has_phases(model: &str) -> bool {
    ["gpt-5.3-codex", "gpt-5.4", "gpt-5.5"].iter().any(|name| model.starts_with(name))
}

/// The phase of a message: before tools are called, or at the end.
fn phase(meta: &Meta) -> Value {
    match meta.stop {
        _ if !has_phases(&meta.model) => Value::Null,
        Stop::ToolUse => "commentary".into(),
        Stop::EndTurn | Stop::MaxTokens | Stop::Refusal => "final_answer".into(),
    }
}

/// An item, at its end or as it begins.
fn item(id: &str, piece: &Piece, phase: Value, ended: bool) -> Value {
    let status = if ended { "completed" } else { "in_progress" };
    match piece {
        Piece::Text(text) => {
            let part = json!({ "type": "output_text", "text": text, "annotations": [] });
            let content = if ended { vec![part] } else { Vec::new() };
            let mut message = json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content });
            if !phase.is_null() {
                message["phase"] = phase;
            }
            message
        }
        Piece::Reasoning(text) => {
            let part = json!({ "type": "summary_text", "text": text });
            let summary = if ended { vec![part] } else { Vec::new() };
            let sealed = if ended { signature(text) } else { String::new() };
            json!({ "id": id, "type": "reasoning", "summary": summary, "encrypted_content": sealed })
        }
        Piece::Call { id: call_id, name, arguments } => {
            let arguments = if ended { arguments } else { "" };
            json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": arguments,
            })
        }
        Piece::Other(_) => Value::Null,
    }
}

/// A streamed answer.
pub(crate) struct Stream {
    meta: Meta,
    id: String,
    sequence: u64,
    output: Vec<Value>,
}

impl Stream {
    pub(crate) fn new(meta: Meta) -> Self {
        Self { meta, id: id("resp"), sequence: 0, output: Vec::new() }
    }

    fn event(&mut self, mut data: Value) -> String {
        data["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        event(&data)
    }

    fn response(&self, ended: bool) -> Value {
        response(&self.id, &self.meta, self.output.clone(), ended)
    }
}

impl Write for Stream {
    fn start(&mut self) -> Vec<String> {
        let response = self.response(false);
        vec![
            self.event(json!({ "type": "response.created", "response": response })),
            self.event(json!({ "type": "response.in_progress", "response": response })),
        ]
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<String> {
        let Some(prefix) = prefix(piece) else { return Vec::new() };
        let id = id(prefix);
        let mut events = vec![json!({
            "type": "response.output_item.added", "output_index": index, "item": item(&id, piece, phase(&self.meta), false),
        })];
        // The name of the events, what holds the text in their ends, and the part around the text.
        let (name, text, key, part) = match piece {
            Piece::Text(text) => {
                ("output_text", text, "text", Some(("content_part", "output_text", "content_index")))
            }
            Piece::Reasoning(text) => (
                "reasoning_summary_text",
                text,
                "text",
                Some(("reasoning_summary_part", "summary_text", "summary_index")),
            ),
            Piece::Call { arguments, .. } => ("function_call_arguments", arguments, "arguments", None),
            Piece::Other(_) => return Vec::new(),
        };
        let place = |kind: String| {
            let mut data = json!({ "type": kind, "item_id": id, "output_index": index });
            if let Some((_, _, number)) = part {
                data[number] = 0.into();
            }
            data
        };
        let with = |mut data: Value, key: &str, value: Value| {
            data[key] = value;
            data
        };
        let around = |when: &str, text: &str| {
            let (name, kind, _) = part?;
            Some(with(
                place(format!("response.{name}.{when}")),
                "part",
                json!({ "type": kind, "text": text }),
            ))
        };
        events.extend(around("added", ""));
        for chunk in chunks(text, self.meta.chunk_chars) {
            events.push(with(place(format!("response.{name}.delta")), "delta", chunk.into()));
        }
        events.push(with(place(format!("response.{name}.done")), key, text.as_str().into()));
        events.extend(around("done", text));
        let item = item(&id, piece, phase(&self.meta), true);
        events.push(json!({ "type": "response.output_item.done", "output_index": index, "item": item }));
        self.output.push(item);
        events.into_iter().map(|data| self.event(data)).collect()
    }

    fn error(&mut self, error: &StreamError) -> String {
        self.event(json!({ "type": "error", "code": error.kind, "message": error.message, "param": null }))
    }

    fn finish(&mut self) -> Vec<String> {
        let kind = match self.meta.stop {
            Stop::EndTurn | Stop::ToolUse => "response.completed",
            Stop::MaxTokens | Stop::Refusal => "response.incomplete",
        };
        let response = self.response(true);
        vec![self.event(json!({ "type": kind, "response": response }))]
    }
}
