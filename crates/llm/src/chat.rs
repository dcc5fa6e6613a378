//! OpenAI Chat Completions, as OpenAI and the many servers that imitate it speak it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use freehold_model::event::{ContentPart, StopReason, Usage};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::classify::in_stream_error;
use crate::read::{Decode, arguments_text, garbage, tool_call};
use crate::responses::effort;
use crate::{Answer, Delta, Error, Item, Request, Written};

/// The key under which this wire's replay state is kept: the name of the field the reasoning came in.
const REPLAY: &str = "openai_chat";
/// The wire's own end.
const DONE: &str = "[DONE]";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    max_completion_tokens: u32,
    stream: bool,
    stream_options: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_effort: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
enum Message<'a> {
    System {
        content: &'a str,
    },
    User {
        content: String,
    },
    Assistant {
        content: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<Call<'a>>,
        /// Some servers want their reasoning back, each in a field of its own name.
        #[serde(flatten)]
        reasoning: BTreeMap<&'a str, String>,
    },
    Tool {
        tool_call_id: &'a str,
        content: &'a str,
    },
}

#[derive(Serialize)]
struct Call<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    name: &'a str,
    arguments: String,
}

/// The body of `POST /v1/chat/completions`.
pub(crate) fn body(
    request: &Request<'_>,
    written: &mut Written,
) -> Result<crate::written::Pieces, serde_json::Error> {
    for (number, item) in (written.items() + 1..).zip(request.items) {
        written.add([message(item)], number)?;
    }
    let system = (!request.system.is_empty()).then_some(Message::System { content: request.system });
    let tools = request.tools.iter().map(|t| {
        json!({ "type": "function", "function": {
            "name": t.name, "description": t.description, "parameters": t.input_schema,
        }})
    });
    let rest = Body {
        model: request.model,
        tools: tools.collect(),
        max_completion_tokens: request.max_output_tokens,
        stream: true,
        stream_options: json!({ "include_usage": true }),
        reasoning_effort: effort(request.model, request.thinking_effort),
    };
    written.body("messages", system.as_ref(), &rest)
}

fn message<'a>(item: &Item<'a>) -> Message<'a> {
    let parts = match *item {
        Item::User(parts) => return Message::User { content: text(parts) },
        Item::ToolResult { call_id, text, .. } => {
            return Message::Tool { tool_call_id: call_id, content: text };
        }
        Item::Assistant(parts) => parts,
    };
    let (mut tool_calls, mut reasoning) = (Vec::new(), BTreeMap::<_, String>::new());
    for part in parts {
        match part {
            ContentPart::Text { .. } => {}
            ContentPart::ToolCall(call) => tool_calls.push(Call {
                id: &call.id,
                kind: "function",
                function: Function { name: &call.name, arguments: arguments_text(&call.arguments) },
            }),
            ContentPart::Reasoning { text, replay } => {
                let field = replay.as_ref().and_then(|replay| replay.get(REPLAY)?.as_str());
                if let Some(field) = field {
                    reasoning.entry(field).or_default().push_str(text);
                }
            }
        }
    }
    let content = Some(text(parts)).filter(|text| !text.is_empty());
    Message::Assistant { content, tool_calls, reasoning }
}

fn text(parts: &[ContentPart]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        ContentPart::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    model: String,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counts>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Piece,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Piece {
    content: Option<String>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<String>,
    tool_calls: Option<Vec<CallPiece>>,
}

#[derive(Deserialize)]
struct CallPiece {
    #[serde(default)]
    index: u32,
    id: Option<String>,
    function: Option<FunctionPiece>,
}

#[derive(Deserialize)]
struct FunctionPiece {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: u64,
    completion_tokens: u64,
    prompt_tokens_details: Option<Cached>,
}

#[derive(Deserialize)]
struct Cached {
    cached_tokens: Option<u64>,
}

/// Decodes the events of one answer.
#[derive(Default)]
pub(crate) struct Decoder {
    model: String,
    text: String,
    reasoning: String,
    reasoning_field: &'static str,
    calls: BTreeMap<u32, (String, String, String)>,
    refused: bool,
    finish_reason: Option<String>,
    usage: Usage,
}

impl Decode for Decoder {
    fn event(
        &mut self,
        data: &str,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Option<Answer>, Error> {
        if data.trim() == DONE {
            return self.finish().map(Some);
        }
        let chunk: Chunk = serde_json::from_str(data).map_err(|source| garbage("a chunk", &source))?;
        if let Some(error) = chunk.error {
            return Err(in_stream_error(&error));
        }
        if self.model.is_empty() {
            self.model = chunk.model;
        }
        if let Some(counts) = chunk.usage {
            let cached = counts.prompt_tokens_details.and_then(|details| details.cached_tokens);
            self.usage = Usage {
                input_tokens: counts.prompt_tokens,
                output_tokens: counts.completion_tokens,
                cache_read_tokens: cached.unwrap_or(0),
                cache_creation_tokens: 0,
            };
        }
        // One answer was asked for.
        if let Some(choice) = chunk.choices.into_iter().next() {
            self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
            self.piece(choice.delta, tell)?;
        }
        Ok(None)
    }
}

impl Decoder {
    fn piece(&mut self, piece: Piece, tell: &mut (dyn FnMut(Delta<'_>) + Send)) -> Result<(), Error> {
        for (field, more) in [("reasoning_content", piece.reasoning_content), ("reasoning", piece.reasoning)]
        {
            // Servers that send both fields send the same text in both.
            if let Some(more) = more.filter(|_| self.reasoning.is_empty() || self.reasoning_field == field) {
                tell(Delta::Reasoning(&more));
                self.reasoning.push_str(&more);
                self.reasoning_field = field;
            }
        }
        self.refused |= piece.refusal.as_ref().is_some_and(|text| !text.is_empty());
        for more in [piece.content, piece.refusal].into_iter().flatten().filter(|text| !text.is_empty()) {
            tell(Delta::Text(&more));
            self.text.push_str(&more);
        }
        for more in piece.tool_calls.unwrap_or_default() {
            let (name, arguments) = more.function.map_or((None, None), |f| (f.name, f.arguments));
            let call = match self.calls.entry(more.index) {
                Entry::Occupied(call) => call.into_mut(),
                Entry::Vacant(place) => {
                    let (Some(id), Some(name)) = (more.id, name) else {
                        return Err(garbage("a chunk", &"a tool call without id or name"));
                    };
                    tell(Delta::ToolCallStarted { id: &id, name: &name });
                    place.insert((id, name, String::new()))
                }
            };
            call.2.push_str(&arguments.unwrap_or_default());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Answer, Error> {
        let this = std::mem::take(self);
        let Some(reason) = this.finish_reason else {
            return Err(garbage("the answer", &"it ends without a finish reason"));
        };
        let mut content = Vec::new();
        if !this.reasoning.is_empty() {
            let replay = Some(json!({ REPLAY: this.reasoning_field }));
            content.push(ContentPart::Reasoning { text: this.reasoning, replay });
        }
        if !this.text.is_empty() {
            content.push(ContentPart::Text { text: this.text });
        }
        let stop_reason = match reason.as_str() {
            "length" => StopReason::MaxTokens,
            "content_filter" => StopReason::Refusal,
            _ if !this.calls.is_empty() => StopReason::ToolUse,
            _ if this.refused => StopReason::Refusal,
            _ => StopReason::EndTurn,
        };
        content.extend(this.calls.into_values().map(|(id, name, arguments)| tool_call(id, name, &arguments)));
        Ok(Answer { content, stop_reason, usage: this.usage, model: this.model })
    }
}
