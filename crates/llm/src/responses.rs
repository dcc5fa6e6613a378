//! OpenAI Responses: the request's body and the decoder of its event stream.
//!
//! Nothing is stored at the provider: reasoning comes as encrypted items, kept whole in `replay` and sent back unchanged.

use std::collections::BTreeMap;

use freehold_model::event::{ContentPart, StopReason, Usage};
use freehold_model::role::ThinkingEffort;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::classify::in_stream_error;
use crate::read::{Decode, arguments_text, garbage, tool_call};
use crate::{Answer, Delta, Error, Item, Request, Written};

/// The key under which this wire's replay state is kept.
const REPLAY: &str = "openai_responses";
/// The key under which the phase of the message that follows is kept. Newer models say of each message whether it is by the
/// way (`commentary`) or the `final_answer`, and want it back: without it they stop early in long tasks.
const PHASE: &str = "openai_phase";

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    instructions: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tool<'a>>,
    max_output_tokens: u32,
    stream: bool,
    store: bool,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    include: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<Value>,
}

#[derive(Serialize)]
struct Tool<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    description: &'a str,
    parameters: &'a Value,
    strict: bool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Input<'a> {
    Message {
        role: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<&'a str>,
        content: [Text<'a>; 1],
    },
    FunctionCall {
        call_id: &'a str,
        name: &'a str,
        arguments: String,
    },
    FunctionCallOutput {
        call_id: &'a str,
        output: &'a str,
    },
    #[serde(untagged)]
    Replay(&'a Value),
}

#[derive(Serialize)]
struct Text<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    text: &'a str,
}

/// The body of `POST /v1/responses`.
pub(crate) fn body(request: &Request<'_>, written: &mut Written) -> Result<Vec<u8>, serde_json::Error> {
    for (number, item) in (written.items() + 1..).zip(request.items) {
        written.add(inputs(item), number)?;
    }
    let reasons = reasons(request);
    let tools = request.tools.iter().map(|t| Tool {
        kind: "function",
        name: &t.name,
        description: &t.description,
        parameters: &t.input_schema,
        strict: false,
    });
    let rest = Body {
        model: request.model,
        instructions: request.system,
        tools: tools.collect(),
        max_output_tokens: request.max_output_tokens,
        stream: true,
        store: false,
        // Models that do not reason refuse to be asked for it.
        include: if reasons { &["reasoning.encrypted_content"] } else { &[] },
        reasoning: reasons
            .then(|| match effort(request.model, request.thinking_effort) {
                Some(effort) => json!({ "effort": effort, "summary": "auto" }),
                None => json!({ "summary": "auto" }),
            })
            .filter(|_| request.thinking_effort.is_some()),
    };
    written.body("input", None::<&()>, &rest)
}

fn inputs<'a>(item: &Item<'a>) -> Vec<Input<'a>> {
    match *item {
        Item::User(parts) => said("user", "input_text", parts),
        Item::Assistant(parts) => said("assistant", "output_text", parts),
        Item::ToolResult { call_id, text, .. } => vec![Input::FunctionCallOutput { call_id, output: text }],
    }
}

fn said<'a>(role: &'static str, kind: &'static str, parts: &'a [ContentPart]) -> Vec<Input<'a>> {
    let (mut inputs, mut phase) = (Vec::new(), None);
    for part in parts {
        match part {
            ContentPart::Text { text } => {
                inputs.push(Input::Message { role, phase: phase.take(), content: [Text { kind, text }] });
            }
            ContentPart::ToolCall(call) => inputs.push(Input::FunctionCall {
                call_id: &call.id,
                name: &call.name,
                arguments: arguments_text(&call.arguments),
            }),
            ContentPart::Reasoning { replay, .. } => {
                let replay = replay.as_ref();
                phase = replay.and_then(|replay| replay.get(PHASE)?.as_str()).or(phase);
                inputs.extend(replay.and_then(|replay| replay.get(REPLAY)).map(Input::Replay));
            }
        }
    }
    inputs
}

/// Whether the model reasons: it is told how hard, or its name says so.
fn reasons(request: &Request<'_>) -> bool {
    matches!(
        request.thinking_effort,
        Some(ThinkingEffort::Low | ThinkingEffort::Medium | ThinkingEffort::High)
    ) || least_effort(request.model).is_some()
}

/// The effort as OpenAI names it; none where the field must be left out.
pub(crate) fn effort(model: &str, effort: Option<ThinkingEffort>) -> Option<&'static str> {
    match effort? {
        ThinkingEffort::Off => least_effort(model),
        on => Some(on.as_str()),
    }
}

/// The least a reasoning model can be told to think; none for models that do not reason.
fn least_effort(model: &str) -> Option<&'static str> {
    let name = model.rsplit('/').next().unwrap_or(model);
    if let Some(version) = name.strip_prefix("gpt-") {
        let major: u32 = version.split(['.', '-']).next()?.parse().ok()?;
        return match major {
            ..5 => None,
            // The first of them could not be told to stop.
            5 if !version.starts_with("5.") => Some("minimal"),
            _ => Some("none"),
        };
    }
    let digits = name.strip_prefix('o')?;
    digits.starts_with(|c: char| c.is_ascii_digit()).then_some("low")
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Event {
    #[serde(rename = "response.output_item.added")]
    Added { item: Added },
    #[serde(rename = "response.output_text.delta", alias = "response.refusal.delta")]
    Text { delta: String },
    #[serde(rename = "response.reasoning_summary_text.delta", alias = "response.reasoning_text.delta")]
    Reasoning { delta: String },
    #[serde(rename = "response.output_item.done")]
    Done { output_index: u32, item: Value },
    #[serde(rename = "response.completed", alias = "response.incomplete", alias = "response.failed")]
    End { response: Response },
    #[serde(rename = "error")]
    Error { error: Option<Value>, code: Option<String>, message: Option<String> },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Added {
    #[serde(rename = "type")]
    kind: String,
    call_id: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Response {
    status: String,
    model: String,
    #[serde(default)]
    output: Vec<Value>,
    usage: Option<Counts>,
    error: Option<Value>,
    incomplete_details: Option<Incomplete>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: u64,
    output_tokens: u64,
    #[serde(default)]
    input_tokens_details: Option<Cached>,
}

#[derive(Deserialize)]
struct Cached {
    #[serde(default)]
    cached_tokens: u64,
}

/// An item of the answer, as far as we use it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Output {
    Message {
        content: Vec<Said>,
        phase: Option<String>,
    },
    FunctionCall {
        call_id: String,
        name: String,
        #[serde(default)]
        arguments: String,
    },
    Reasoning {
        #[serde(default)]
        summary: Vec<Said>,
        content: Option<Vec<Said>>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    #[serde(alias = "summary_text", alias = "reasoning_text")]
    OutputText {
        text: String,
    },
    Refusal {
        refusal: String,
    },
    #[serde(other)]
    Other,
}

/// Decodes the events of one answer.
#[derive(Default)]
pub(crate) struct Decoder {
    items: BTreeMap<u32, Value>,
    refused: bool,
}

impl Decode for Decoder {
    fn event(
        &mut self,
        data: &str,
        tell: &mut (dyn FnMut(Delta<'_>) + Send),
    ) -> Result<Option<Answer>, Error> {
        match serde_json::from_str(data).map_err(|source| garbage("an event", &source))? {
            Event::Added { item } => {
                if let ("function_call", Some(id), Some(name)) = (&*item.kind, &item.call_id, &item.name) {
                    tell(Delta::ToolCallStarted { id, name });
                }
            }
            Event::Text { delta } => tell(Delta::Text(&delta)),
            Event::Reasoning { delta } => tell(Delta::Reasoning(&delta)),
            Event::Done { output_index, item } => _ = self.items.insert(output_index, item),
            Event::End { response } => return self.finish(response).map(Some),
            Event::Error { error, code, message } => {
                return Err(in_stream_error(
                    &error.unwrap_or_else(|| json!({ "code": code, "message": message })),
                ));
            }
            Event::Other => {}
        }
        Ok(None)
    }
}

impl Decoder {
    fn finish(&mut self, response: Response) -> Result<Answer, Error> {
        if response.status == "failed" {
            return Err(in_stream_error(&response.error.unwrap_or_default()));
        }
        let items = std::mem::take(&mut self.items);
        // The closing event repeats the items; some servers leave them out of it, some send them only there.
        let items = if items.is_empty() { response.output } else { items.into_values().collect() };
        let mut content = Vec::new();
        for item in items {
            self.item(item, &mut content)?;
        }
        let calls = content.iter().any(|part| matches!(part, ContentPart::ToolCall(_)));
        let cut = response.incomplete_details.and_then(|details| details.reason);
        let stop_reason = match (response.status.as_str(), cut.as_deref()) {
            ("incomplete", Some("content_filter")) => StopReason::Refusal,
            ("incomplete", _) => StopReason::MaxTokens,
            ("completed", _) if calls => StopReason::ToolUse,
            ("completed", _) if self.refused => StopReason::Refusal,
            ("completed", _) => StopReason::EndTurn,
            (other, _) => return Err(garbage("the answer", &format_args!("its status is `{other}`"))),
        };
        let usage = response.usage.map_or_else(Usage::default, |counts| Usage {
            input_tokens: counts.input_tokens,
            output_tokens: counts.output_tokens,
            cache_read_tokens: counts.input_tokens_details.map_or(0, |details| details.cached_tokens),
            cache_creation_tokens: 0,
        });
        Ok(Answer { content, stop_reason, usage, model: response.model })
    }

    fn item(&mut self, item: Value, content: &mut Vec<ContentPart>) -> Result<(), Error> {
        match Output::deserialize(&item).map_err(|source| garbage("an item", &source))? {
            Output::Message { content: said, phase } => {
                self.refused |= said.iter().any(|part| matches!(part, Said::Refusal { .. }));
                let text = texts(said, "");
                if !text.is_empty() {
                    content.extend(phase.map(|phase| ContentPart::Reasoning {
                        text: String::new(),
                        replay: Some(json!({ PHASE: phase })),
                    }));
                    content.push(ContentPart::Text { text });
                }
            }
            Output::FunctionCall { call_id, name, arguments } => {
                content.push(tool_call(call_id, name, &arguments));
            }
            Output::Reasoning { summary, content: thoughts } => {
                let text =
                    texts(if summary.is_empty() { thoughts.unwrap_or_default() } else { summary }, "\n\n");
                content.push(ContentPart::Reasoning { text, replay: Some(json!({ REPLAY: item })) });
            }
            Output::Other => {}
        }
        Ok(())
    }
}

fn texts(said: Vec<Said>, between: &str) -> String {
    let texts = said.into_iter().filter_map(|part| match part {
        Said::OutputText { text } | Said::Refusal { refusal: text } => Some(text),
        Said::Other => None,
    });
    texts.collect::<Vec<_>>().join(between)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_goes_back_with_the_phase_it_came_with_and_another_without() {
        let message = |phase: Option<&str>, text: &str| {
            let content = json!([{"type": "output_text", "text": text}]);
            json!({"type": "message", "role": "assistant", "phase": phase, "content": content})
        };
        let mut content = Vec::new();
        let mut decoder = Decoder::default();
        for item in [message(Some("commentary"), "on the way"), message(None, "by itself")] {
            decoder.item(item, &mut content).unwrap();
        }
        let inputs = serde_json::to_value(said("assistant", "output_text", &content)).unwrap();
        let phases: Vec<_> = inputs.as_array().unwrap().iter().map(|input| input.get("phase")).collect();
        assert_eq!(phases, [Some(&json!("commentary")), None], "{inputs}");
    }

    #[test]
    fn thinking_off_is_the_least_the_model_can_do() {
        for (model, expected) in [
            ("gpt-4.1", None),
            ("gpt-4o-mini", None),
            ("gpt-5", Some("minimal")),
            ("gpt-5-mini", Some("minimal")),
            ("gpt-5.1", Some("none")),
            ("openai/gpt-6", Some("none")),
            ("o3", Some("low")),
            ("o4-mini", Some("low")),
            ("olmo-3", None),
            ("llama-4", None),
        ] {
            assert_eq!(effort(model, Some(ThinkingEffort::Off)), expected, "{model}");
        }
    }
}
