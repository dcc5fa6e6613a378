//! Anthropic Messages: the request's body and the decoder of its event stream.
//!
//! A thinking block is kept as the provider sent it, without its text, in `replay`; the text goes back beside it. Blocks
//! of another wire's reasoning are left out: a signature means nothing to others.

use std::collections::BTreeMap;

use freehold_model::event::{ContentPart, StopReason, Usage};
use freehold_model::role::ThinkingEffort;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::classify::in_stream_error;
use crate::read::{Decode, garbage, tool_call};
use crate::{Answer, Delta, Error, Item, Request, Written};

/// The key under which this wire's replay state is kept.
const REPLAY: &str = "anthropic";
/// Thinking tokens for models that take a budget instead of an effort.
const BUDGET_LOW: u32 = 2_048;
const BUDGET_MEDIUM: u32 = 8_192;
const BUDGET_HIGH: u32 = 24_576;
/// The least budget the provider takes.
const BUDGET_MIN: u32 = 1_024;

/// The fields of the body but `messages`, which are written apart.
#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Block<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<Value>,
}

#[derive(Serialize)]
struct Tool<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Vec<Block<'a>>,
}

#[derive(Serialize)]
struct Block<'a> {
    #[serde(flatten)]
    kind: BlockKind<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<CacheControl>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockKind<'a> {
    Text {
        text: &'a str,
    },
    ToolUse {
        id: &'a str,
        name: &'a str,
        input: std::borrow::Cow<'a, Value>,
    },
    ToolResult {
        tool_use_id: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        content: &'a str,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
    },
    #[serde(untagged)]
    Replay(Map<String, Value>),
}

#[derive(Serialize)]
struct CacheControl {
    #[serde(rename = "type")]
    kind: &'static str,
}

impl<'a> From<BlockKind<'a>> for Block<'a> {
    fn from(kind: BlockKind<'a>) -> Self {
        Self { kind, cache_control: None }
    }
}

/// The body of `POST /v1/messages`; the request's items follow those that are written.
pub(crate) fn body(
    request: &Request<'_>,
    written: &mut Written,
) -> Result<crate::written::Pieces, serde_json::Error> {
    let mut messages: Vec<(Message<'_>, usize)> = Vec::new();
    for (number, item) in (written.items() + 1..).zip(request.items) {
        let (role, blocks) = blocks(item);
        match messages.last_mut() {
            // Roles alternate on this wire, and tool results come before what the user says after them.
            Some((last, end)) if last.role == role => {
                last.content.extend(blocks);
                *end = number;
            }
            _ => messages.push((Message { role, content: blocks }, number)),
        }
    }
    let mut system: Vec<Block<'_>> = text(request.system).into_iter().collect();
    // Two cache marks: tools and system prompt, which are the same in every step, and the conversation so far.
    let cached = || Some(CacheControl { kind: "ephemeral" });
    if let Some(block) = system.last_mut() {
        block.cache_control = cached();
    }
    let last = messages.iter_mut().rfind(|(message, _)| !message.content.is_empty());
    if let Some((message, end)) = last
        && let Some(block) = message.content.last_mut()
    {
        block.cache_control = cached();
        written.mark(*end);
    }
    for (message, end) in &messages {
        written.add(Some(message).filter(|message| !message.content.is_empty()), *end)?;
    }
    let (thinking, output_config) = thinking(request);
    let tools = request.tools.iter();
    let rest = Body {
        model: request.model,
        max_tokens: request.max_output_tokens,
        stream: true,
        system,
        tools: tools
            .map(|t| Tool { name: &t.name, description: &t.description, input_schema: &t.input_schema })
            .collect(),
        thinking,
        output_config,
    };
    written.body("messages", None::<&()>, &rest)
}

/// A text block; none for a blank text, which the provider refuses.
fn text(text: &str) -> Option<Block<'_>> {
    (!text.trim().is_empty()).then(|| BlockKind::Text { text }.into())
}

fn blocks<'a>(item: &Item<'a>) -> (&'static str, Vec<Block<'a>>) {
    match *item {
        Item::User(parts) => ("user", parts.iter().filter_map(block).collect()),
        Item::Assistant(parts) => ("assistant", parts.iter().filter_map(block).collect()),
        Item::ToolResult { call_id, text, is_error, .. } => {
            ("user", vec![BlockKind::ToolResult { tool_use_id: call_id, content: text, is_error }.into()])
        }
    }
}

fn block(part: &ContentPart) -> Option<Block<'_>> {
    use std::borrow::Cow;
    match part {
        ContentPart::Text { text: said } => text(said),
        ContentPart::ToolCall(call) => {
            // Arguments must be an object here; others are shown to the model as what they were.
            let input = if call.arguments.is_object() {
                Cow::Borrowed(&call.arguments)
            } else {
                Cow::Owned(json!({ "not_an_object": call.arguments }))
            };
            Some(BlockKind::ToolUse { id: &call.id, name: &call.name, input }.into())
        }
        ContentPart::Reasoning { text, replay } => {
            let mut block = replay.as_ref()?.get(REPLAY)?.as_object()?.clone();
            if block.get("type").is_some_and(|kind| kind == "thinking") {
                block.insert("thinking".to_owned(), Value::String(text.clone()));
            }
            Some(BlockKind::Replay(block).into())
        }
    }
}

/// `thinking` and `output_config` for the model: newer models take an effort, older ones a budget, the oldest neither.
fn thinking(request: &Request<'_>) -> (Option<Value>, Option<Value>) {
    let Some(effort) = request.thinking_effort else { return (None, None) };
    match (era(request.model), effort) {
        (Era::DefaultOn, ThinkingEffort::Off) => (Some(json!({ "type": "disabled" })), None),
        (_, ThinkingEffort::Off) | (Era::None, _) => (None, None),
        (Era::Budget, _) => {
            let wanted = match effort {
                ThinkingEffort::High => BUDGET_HIGH,
                ThinkingEffort::Medium => BUDGET_MEDIUM,
                ThinkingEffort::Low | ThinkingEffort::Off => BUDGET_LOW,
            };
            // The budget is part of the output limit, and half of that is left for the answer.
            let budget = wanted.min(request.max_output_tokens / 2);
            let thinking = json!({ "type": "enabled", "budget_tokens": budget });
            ((budget >= BUDGET_MIN).then_some(thinking), None)
        }
        (Era::DefaultOn | Era::Adaptive, _) => (
            Some(json!({ "type": "adaptive", "display": "summarized" })),
            Some(json!({ "effort": effort.as_str() })),
        ),
    }
}

/// How a model is told to think.
#[derive(Debug, PartialEq, Eq)]
enum Era {
    /// It cannot.
    None,
    /// By a budget of tokens.
    Budget,
    /// By an effort; it does not think unless told.
    Adaptive,
    /// By an effort; it thinks unless told not to.
    DefaultOn,
}

/// By the model's name (`claude-3-7-sonnet-...`, `claude-opus-4-6`); a name that says nothing counts as a new model.
fn era(model: &str) -> Era {
    let Some((_, name)) = model.split_once("claude-") else { return Era::Adaptive };
    let mut words = name.split(['-', '@', ':', '.']);
    let family = words.next().unwrap_or_default();
    // Longer numbers are dates.
    let mut number = || words.next().filter(|word| word.len() < 3).and_then(|word| word.parse::<u32>().ok());
    match family {
        "3" if number() == Some(7) => Era::Budget,
        "2" | "3" | "instant" => Era::None,
        "opus" | "sonnet" | "haiku" => match (number(), number()) {
            (Some(4), minor) if minor.unwrap_or(0) < 6 => Era::Budget,
            (Some(4), _) => Era::Adaptive,
            (Some(_), _) => Era::DefaultOn,
            (None, _) => Era::Adaptive,
        },
        _ => Era::Adaptive,
    }
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Start,
    },
    ContentBlockStart {
        index: u32,
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        index: u32,
        delta: BlockDelta,
    },
    ContentBlockStop {},
    MessageDelta {
        delta: End,
        #[serde(default)]
        usage: Counts,
    },
    MessageStop {},
    Error {
        error: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Start {
    model: String,
    #[serde(default)]
    usage: Counts,
}

#[derive(Deserialize)]
struct End {
    stop_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockDelta {
    TextDelta {
        text: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    #[serde(other)]
    Other,
}

/// Counts so far; a later event replaces what it names.
#[derive(Default, Deserialize)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

impl Counts {
    fn update(&mut self, later: &Self) {
        self.input_tokens = later.input_tokens.or(self.input_tokens);
        self.output_tokens = later.output_tokens.or(self.output_tokens);
        self.cache_read_input_tokens = later.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.cache_creation_input_tokens =
            later.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
    }

    fn usage(&self) -> Usage {
        let read = self.cache_read_input_tokens.unwrap_or(0);
        let created = self.cache_creation_input_tokens.unwrap_or(0);
        Usage {
            // This wire counts the cached tokens apart.
            input_tokens: self.input_tokens.unwrap_or(0).saturating_add(read).saturating_add(created),
            output_tokens: self.output_tokens.unwrap_or(0),
            cache_read_tokens: read,
            cache_creation_tokens: created,
        }
    }
}

/// A block of the answer under way.
enum Open {
    Text(String),
    Reasoning {
        text: String,
        block: Map<String, Value>,
    },
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    /// A kind we did not ask for.
    Other,
}

/// Decodes the events of one answer.
#[derive(Default)]
pub(crate) struct Decoder {
    model: Option<String>,
    counts: Counts,
    blocks: BTreeMap<u32, Open>,
    stop_reason: Option<String>,
}

impl Decode for Decoder {
    fn event(
        &mut self,
        data: &str,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Option<Answer>, Error> {
        match serde_json::from_str(data).map_err(|source| garbage("an event", &source))? {
            Event::MessageStart { message } => {
                self.model = Some(message.model);
                self.counts.update(&message.usage);
            }
            Event::ContentBlockStart { index, content_block } => {
                let block = open(content_block)?;
                match &block {
                    Open::Call { id, name, .. } => tell(Delta::ToolCallStarted { id, name }),
                    Open::Text(text) if !text.is_empty() => tell(Delta::Text(text)),
                    _ => {}
                }
                self.blocks.insert(index, block);
            }
            Event::ContentBlockDelta { index, delta } => self.delta(index, delta, tell)?,
            Event::MessageDelta { delta, usage } => {
                self.counts.update(&usage);
                self.stop_reason = delta.stop_reason.or(self.stop_reason.take());
            }
            Event::MessageStop {} => return self.finish().map(Some),
            Event::Error { error } => return Err(in_stream_error(&error)),
            Event::ContentBlockStop {} | Event::Other => {}
        }
        Ok(None)
    }
}

fn open(mut block: Map<String, Value>) -> Result<Open, Error> {
    let mut take = |name: &str| match block.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let kind = take("type").ok_or_else(|| garbage("an event", &"a content block without type"))?;
    Ok(match kind.as_str() {
        "text" => Open::Text(take("text").unwrap_or_default()),
        "thinking" | "redacted_thinking" => {
            let text = take("thinking").unwrap_or_default();
            block.insert("type".to_owned(), Value::String(kind));
            Open::Reasoning { text, block }
        }
        "tool_use" => match (take("id"), take("name")) {
            (Some(id), Some(name)) => Open::Call { id, name, arguments: String::new() },
            _ => return Err(garbage("an event", &"a tool call without id or name")),
        },
        _ => Open::Other,
    })
}

impl Decoder {
    fn delta(
        &mut self,
        index: u32,
        delta: BlockDelta,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<(), Error> {
        match (self.blocks.get_mut(&index), delta) {
            (Some(Open::Text(text)), BlockDelta::TextDelta { text: more }) => {
                tell(Delta::Text(&more));
                text.push_str(&more);
            }
            (Some(Open::Reasoning { text, .. }), BlockDelta::ThinkingDelta { thinking }) => {
                tell(Delta::Reasoning(&thinking));
                text.push_str(&thinking);
            }
            (Some(Open::Reasoning { block, .. }), BlockDelta::SignatureDelta { signature }) => {
                match block.get_mut("signature") {
                    Some(Value::String(so_far)) => so_far.push_str(&signature),
                    _ => _ = block.insert("signature".to_owned(), Value::String(signature)),
                }
            }
            (Some(Open::Call { arguments, .. }), BlockDelta::InputJsonDelta { partial_json }) => {
                arguments.push_str(&partial_json);
            }
            (Some(Open::Other), _) | (Some(_), BlockDelta::Other) => {}
            _ => return Err(garbage("an event", &"a delta that does not fit its block")),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Answer, Error> {
        let content: Vec<ContentPart> = std::mem::take(&mut self.blocks)
            .into_values()
            .filter_map(|block| match block {
                Open::Text(text) => (!text.is_empty()).then_some(ContentPart::Text { text }),
                Open::Reasoning { text, block } => {
                    Some(ContentPart::Reasoning { text, replay: Some(json!({ REPLAY: block })) })
                }
                Open::Call { id, name, arguments } => Some(tool_call(id, name, &arguments)),
                Open::Other => None,
            })
            .collect();
        let (Some(model), Some(reason)) = (self.model.take(), self.stop_reason.take()) else {
            return Err(garbage("the answer", &"it ends without a model or a stop reason"));
        };
        let calls = content.iter().any(|part| matches!(part, ContentPart::ToolCall(_)));
        let stop_reason = match reason.as_str() {
            "max_tokens" | "model_context_window_exceeded" => StopReason::MaxTokens,
            "refusal" => StopReason::Refusal,
            _ if calls => StopReason::ToolUse,
            _ => StopReason::EndTurn,
        };
        Ok(Answer { content, stop_reason, usage: self.counts.usage(), model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_says_how_it_is_told_to_think() {
        for (model, expected) in [
            ("claude-3-5-sonnet-20241022", Era::None),
            ("claude-3-7-sonnet-20250219", Era::Budget),
            ("claude-opus-4-20250514", Era::Budget),
            ("claude-sonnet-4-5", Era::Budget),
            ("us.anthropic.claude-haiku-4-5-20251001-v1:0", Era::Budget),
            ("claude-opus-4-6", Era::Adaptive),
            ("anthropic/claude-opus-4.7", Era::Adaptive),
            ("claude-sonnet-5", Era::DefaultOn),
            ("claude-fable-5", Era::Adaptive),
            ("a-model-of-tomorrow", Era::Adaptive),
        ] {
            assert_eq!(era(model), expected, "{model}");
        }
    }
}
