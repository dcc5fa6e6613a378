//! Anthropic Messages, as the vendor writes it.

use serde_json::{Value, json};

use crate::play::Piece;
use crate::scenario::{Stop, StreamError};
use crate::wire::{Meta, Write, chunks, event, id, signature};

/// The vendor's error object.
pub(crate) fn error(kind: &str, message: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": message } })
}

/// An answer in one piece.
pub(crate) fn whole(pieces: &[Piece], meta: &Meta) -> Value {
    let content = pieces.iter().filter_map(|piece| match piece {
        Piece::Text(text) => Some(json!({ "type": "text", "text": text })),
        Piece::Reasoning(text) => {
            Some(json!({ "type": "thinking", "thinking": text, "signature": signature(text) }))
        }
        Piece::Call { id, name, arguments } => {
            let input = serde_json::from_str(arguments).unwrap_or_else(|_| Value::String(arguments.clone()));
            Some(json!({ "type": "tool_use", "id": id, "name": name, "input": input }))
        }
        Piece::Other(_) => None,
    });
    message(meta, content.collect(), Some(stop(meta.stop)), meta.output)
}

fn message(meta: &Meta, content: Vec<Value>, stop: Option<&str>, output: u64) -> Value {
    json!({
        "id": id("msg"), "type": "message", "role": "assistant", "model": meta.model, "content": content,
        "stop_reason": stop, "stop_sequence": null,
        "usage": {
            "input_tokens": meta.input, "output_tokens": output,
            "cache_read_input_tokens": meta.cache_read, "cache_creation_input_tokens": meta.cache_creation,
        },
    })
}

const fn stop(stop: Stop) -> &'static str {
    match stop {
        Stop::EndTurn => "end_turn",
        Stop::ToolUse => "tool_use",
        Stop::MaxTokens => "max_tokens",
        Stop::Refusal => "refusal",
    }
}

/// A streamed answer.
pub(crate) struct Stream {
    meta: Meta,
}

impl Stream {
    pub(crate) const fn new(meta: Meta) -> Self {
        Self { meta }
    }
}

impl Write for Stream {
    fn start(&mut self) -> Vec<String> {
        let message = message(&self.meta, Vec::new(), None, 1);
        vec![
            event(&json!({ "type": "message_start", "message": message })),
            event(&json!({ "type": "ping" })),
        ]
    }

    fn piece(&mut self, index: usize, piece: &Piece) -> Vec<String> {
        let split = |text: &str| chunks(text, self.meta.chunk_chars);
        let (block, mut deltas): (Value, Vec<Value>) = match piece {
            Piece::Text(text) => (
                json!({ "type": "text", "text": "" }),
                split(text).iter().map(|text| json!({ "type": "text_delta", "text": text })).collect(),
            ),
            Piece::Reasoning(text) => (
                json!({ "type": "thinking", "thinking": "", "signature": "" }),
                split(text)
                    .iter()
                    .map(|text| json!({ "type": "thinking_delta", "thinking": text }))
                    .collect(),
            ),
            Piece::Call { id, name, arguments } => (
                json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
                split(arguments)
                    .iter()
                    .map(|text| json!({ "type": "input_json_delta", "partial_json": text }))
                    .collect(),
            ),
            Piece::Other(_) => return Vec::new(),
        };
        if let Piece::Reasoning(text) = piece {
            deltas.push(json!({ "type": "signature_delta", "signature": signature(text) }));
        }
        let mut events =
            vec![event(&json!({ "type": "content_block_start", "index": index, "content_block": block }))];
        let delta =
            |delta: Value| event(&json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        events.extend(deltas.into_iter().map(delta));
        events.push(event(&json!({ "type": "content_block_stop", "index": index })));
        events
    }

    fn error(&mut self, stream_error: &StreamError) -> String {
        event(&error(&stream_error.kind, &stream_error.message))
    }

    fn finish(&mut self) -> Vec<String> {
        let delta = json!({ "stop_reason": stop(self.meta.stop), "stop_sequence": null });
        let usage = json!({ "output_tokens": self.meta.output });
        vec![
            event(&json!({ "type": "message_delta", "delta": delta, "usage": usage })),
            event(&json!({ "type": "message_stop" })),
        ]
    }
}
