//! The shape of requests, held to what the vendors document: what they would refuse, and what would not mean what its
//! sender meant. Asked for by a scenario's `strict`; the wire of Chat Completions, which many vendors bend, is not checked.

use serde_json::{Map, Value};

use crate::responses::has_phases;
use crate::wire::Wire;

type Checked = Result<(), String>;

/// The least output that Responses can be held to, in tokens.
const OUTPUT_TOKENS_MIN: u64 = 16;
/// The least budget of thinking, in tokens.
const BUDGET_TOKENS_MIN: u64 = 1_024;
/// The most cache marks of one request.
const CACHE_MARKS_MAX: usize = 4;
/// The most characters of a tool's name.
const TOOL_NAME_CHARS_MAX: usize = 64;

/// Checks a request's body.
///
/// # Errors
/// With the path of what is not as documented.
pub(crate) fn check(wire: Wire, body: &[u8]) -> Checked {
    let body: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    match wire {
        Wire::AnthropicMessages => messages(&body),
        Wire::OpenAiResponses => responses(&body),
        Wire::OpenAiChat => Ok(()),
    }
}

/// An object that has the required fields, and no others than these.
fn object<'a>(
    value: &'a Value,
    path: &str,
    required: &[&str],
    optional: &[&str],
) -> Result<&'a Map<String, Value>, String> {
    let fields = value.as_object().ok_or_else(|| format!("{path}: Input should be an object"))?;
    if let Some(name) = required.iter().find(|name| !fields.contains_key(**name)) {
        return Err(format!("{path}.{name}: Field required"));
    }
    match fields.keys().find(|name| !required.contains(&name.as_str()) && !optional.contains(&name.as_str()))
    {
        Some(name) => Err(format!("{path}.{name}: Extra inputs are not permitted")),
        None => Ok(fields),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, path: &str, name: &str) -> Result<&'a str, String> {
    let text = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("{path}.{name}: Input should be a text that is not empty"))
}

fn one_of(fields: &Map<String, Value>, path: &str, name: &str, values: &[&str]) -> Checked {
    match fields.get(name) {
        None => Ok(()),
        Some(Value::String(text)) if values.contains(&text.as_str()) => Ok(()),
        Some(other) => Err(format!("{path}.{name}: {other} is none of {}", values.join(", "))),
    }
}

fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], String> {
    match fields.get(name) {
        None => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(format!("{name}: Input should be a list")),
    }
}

fn is_id(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

fn tool_name(fields: &Map<String, Value>, path: &str) -> Checked {
    let name = text(fields, path, "name")?;
    let is_good = is_id(name) && name.len() <= TOOL_NAME_CHARS_MAX;
    is_good.then_some(()).ok_or_else(|| format!("{path}.name: `{name}` is no name of a tool"))
}

fn schema(fields: &Map<String, Value>, path: &str, name: &str) -> Checked {
    let kind = fields.get(name).and_then(|schema| schema.get("type")).and_then(Value::as_str);
    (kind == Some("object"))
        .then_some(())
        .ok_or_else(|| format!("{path}.{name}.type: Input should be 'object'"))
}

fn positive(fields: &Map<String, Value>, name: &str, least: u64) -> Checked {
    match fields.get(name) {
        Some(value) if value.as_u64().is_none_or(|number| number < least) => {
            Err(format!("{name}: Input should be a number of at least {least}"))
        }
        _ => Ok(()),
    }
}

/// Anthropic Messages.
fn messages(body: &Value) -> Checked {
    const OPTIONAL: [&str; 16] = [
        "cache_control",
        "container",
        "context_management",
        "inference_geo",
        "mcp_servers",
        "metadata",
        "output_config",
        "service_tier",
        "stop_sequences",
        "stream",
        "system",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_p",
    ];
    let fields = object(body, "body", &["model", "max_tokens", "messages"], &OPTIONAL)?;
    let model = text(fields, "body", "model")?;
    if !model.starts_with("claude-") {
        return Err(format!("model: {model}"));
    }
    positive(fields, "max_tokens", 1)?;
    thinking(fields)?;
    if let Some(config) = fields.get("output_config") {
        let config = object(config, "output_config", &[], &["effort", "format"])?;
        one_of(config, "output_config", "effort", &["low", "medium", "high", "xhigh", "max"])?;
    }
    let mut marks = 0;
    match fields.get("system") {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(blocks)) => {
            blocks.iter().try_for_each(|it| block(it, "system", &["text"], &mut marks))?;
        }
        Some(_) => return Err("system: Input should be a text or a list of blocks".to_owned()),
    }
    for (index, tool) in list(fields, "tools")?.iter().enumerate() {
        let path = format!("tools.{index}");
        let tool = object(
            tool,
            &path,
            &["name", "input_schema"],
            &["description", "cache_control", "type", "strict"],
        )?;
        tool_name(tool, &path)?;
        schema(tool, &path, "input_schema")?;
        marks += usize::from(tool.contains_key("cache_control"));
    }
    for (index, message) in list(fields, "messages")?.iter().enumerate() {
        said(message, &format!("messages.{index}"), index == 0, &mut marks)?;
    }
    if fields.get("messages").and_then(|all| all.as_array()?.last()?.get("role")?.as_str())
        == Some("assistant")
    {
        return Err("messages: the conversation must end with a user message".to_owned());
    }
    if marks > CACHE_MARKS_MAX {
        return Err(format!(
            "a maximum of {CACHE_MARKS_MAX} blocks with cache_control may be provided, found {marks}"
        ));
    }
    Ok(())
}

fn thinking(fields: &Map<String, Value>) -> Checked {
    let Some(thinking) = fields.get("thinking") else { return Ok(()) };
    let thinking = object(thinking, "thinking", &["type"], &["budget_tokens", "display"])?;
    one_of(thinking, "thinking", "type", &["enabled", "disabled", "adaptive"])?;
    one_of(thinking, "thinking", "display", &["summarized", "omitted"])?;
    positive(thinking, "budget_tokens", BUDGET_TOKENS_MIN)?;
    let number = |fields: &Map<String, Value>, name| fields.get(name).and_then(Value::as_u64);
    let (budget, most) = (number(thinking, "budget_tokens"), number(fields, "max_tokens"));
    let kind = thinking.get("type").and_then(Value::as_str);
    if (kind == Some("enabled")) != budget.is_some() || budget >= most && budget.is_some() {
        return Err(
            "thinking.budget_tokens: goes with `enabled` alone, and is less than max_tokens".to_owned()
        );
    }
    Ok(())
}

fn said(message: &Value, path: &str, is_first: bool, marks: &mut usize) -> Checked {
    let message = object(message, path, &["role", "content"], &[])?;
    one_of(message, path, "role", &["user", "assistant"])?;
    let is_user = message.get("role").and_then(Value::as_str) == Some("user");
    if is_first && !is_user {
        return Err(format!("{path}.role: the first message must be the user's"));
    }
    let kinds: &[&str] = if is_user {
        &["text", "tool_result"]
    } else {
        &["text", "tool_use", "thinking", "redacted_thinking"]
    };
    match message.get("content") {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        Some(Value::Array(blocks)) if !blocks.is_empty() => {
            blocks.iter().try_for_each(|it| block(it, path, kinds, marks))
        }
        _ => Err(format!("{path}.content: a message must have content that is not empty")),
    }
}

/// A block of content, of one of these kinds.
fn block(block: &Value, path: &str, kinds: &[&str], marks: &mut usize) -> Checked {
    let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
    if !kinds.contains(&kind) {
        return Err(format!("{path}.content.type: `{kind}` is none of {}", kinds.join(", ")));
    }
    let path = format!("{path}.{kind}");
    let (required, optional): (&[&str], &[&str]) = match kind {
        "text" => (&["type", "text"], &["cache_control", "citations"]),
        "tool_use" => (&["type", "id", "name", "input"], &["cache_control"]),
        "tool_result" => (&["type", "tool_use_id"], &["content", "is_error", "cache_control"]),
        "thinking" => (&["type", "thinking", "signature"], &[]),
        _ => (&["type", "data"], &[]),
    };
    let fields = object(block, &path, required, optional)?;
    if let Some(mark) = fields.get("cache_control") {
        *marks += 1;
        let mark = object(mark, &path, &["type"], &["ttl"])?;
        one_of(mark, &path, "type", &["ephemeral"])?;
    }
    match kind {
        "text" => text(fields, &path, "text").map(drop),
        "tool_use" => {
            tool_name(fields, &path)?;
            let is_object = fields.get("input").is_some_and(Value::is_object);
            (is_object && is_id(text(fields, &path, "id")?)).then_some(()).ok_or_else(|| {
                format!("{path}: `input` is an object, and `id` is letters, digits, `_` and `-`")
            })
        }
        "tool_result" => text(fields, &path, "tool_use_id").map(drop),
        _ => Ok(()),
    }
}

/// OpenAI Responses.
fn responses(body: &Value) -> Checked {
    const OPTIONAL: [&str; 25] = [
        "background",
        "conversation",
        "include",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
    ];
    let fields = object(body, "body", &["model", "input"], &OPTIONAL)?;
    let model = text(fields, "body", "model")?;
    if model.starts_with("claude-") {
        return Err(format!("The model `{model}` does not exist or you do not have access to it."));
    }
    positive(fields, "max_output_tokens", OUTPUT_TOKENS_MIN)?;
    let includes = list(fields, "include")?;
    if let Some(other) = includes.iter().find(|it| it.as_str() != Some("reasoning.encrypted_content")) {
        return Err(format!("include: {other} is not expected from this client"));
    }
    if let Some(reasoning) = fields.get("reasoning") {
        let reasoning = object(reasoning, "reasoning", &[], &["effort", "summary", "generate_summary"])?;
        one_of(reasoning, "reasoning", "effort", &["none", "minimal", "low", "medium", "high", "xhigh"])?;
        one_of(reasoning, "reasoning", "summary", &["auto", "concise", "detailed"])?;
    }
    for (index, tool) in list(fields, "tools")?.iter().enumerate() {
        let path = format!("tools[{index}]");
        let tool = object(tool, &path, &["type", "name", "parameters", "strict"], &["description"])?;
        one_of(tool, &path, "type", &["function"])?;
        tool_name(tool, &path)?;
        schema(tool, &path, "parameters")?;
    }
    if fields.get("input").is_some_and(Value::is_string) {
        return Ok(());
    }
    let is_stored = fields.get("store").and_then(Value::as_bool).unwrap_or(true);
    let items = list(fields, "input")?;
    for (index, item) in items.iter().enumerate() {
        let path = format!("input[{index}]");
        input(item, items.get(index + 1), &path, is_stored)?;
        let is_assistants = item.get("role").and_then(Value::as_str) == Some("assistant");
        if is_assistants && has_phases(model) && item.get("phase").is_none_or(|phase| !phase.is_string()) {
            return Err(format!(
                "{path}.phase: the message of the assistant came with one, and comes back without"
            ));
        }
    }
    Ok(())
}

fn input(item: &Value, next: Option<&Value>, path: &str, is_stored: bool) -> Checked {
    let kind = |item: &Value| item.get("type").and_then(Value::as_str).unwrap_or("message").to_owned();
    match kind(item).as_str() {
        "message" => {
            let message = object(item, path, &["role", "content"], &["type", "id", "status", "phase"])?;
            one_of(message, path, "role", &["user", "assistant", "system", "developer"])?;
            let is_assistant = message.get("role").and_then(Value::as_str) == Some("assistant");
            let parts: &[&str] = if is_assistant { &["output_text", "refusal"] } else { &["input_text"] };
            if message.get("content").is_some_and(Value::is_string) {
                return Ok(());
            }
            for part in list(message, "content")? {
                let part = object(part, path, &["type"], &["text", "refusal", "annotations", "logprobs"])?;
                one_of(part, path, "type", parts)?;
            }
            Ok(())
        }
        "function_call" => {
            let call = object(item, path, &["type", "call_id", "name", "arguments"], &["id", "status"])?;
            tool_name(call, path)?;
            text(call, path, "call_id")?;
            text(call, path, "arguments").map(drop)
        }
        "function_call_output" => {
            let output = object(item, path, &["type", "call_id", "output"], &["id", "status"])?;
            text(output, path, "call_id")?;
            let is_said = output.get("output").is_some_and(|it| it.is_string() || it.is_array());
            is_said
                .then_some(())
                .ok_or_else(|| format!("{path}.output: a text or a list of parts is expected"))
        }
        "reasoning" => {
            const OPTIONAL: [&str; 3] = ["encrypted_content", "content", "status"];
            let reasoning = object(item, path, &["type", "id", "summary"], &OPTIONAL)?;
            if !is_stored && reasoning.get("encrypted_content").and_then(Value::as_str).is_none() {
                return Err(format!(
                    "{path}: not found. Items are not persisted when `store` is set to false."
                ));
            }
            let follows = next.map(kind);
            match follows.as_deref() {
                Some("message" | "function_call" | "reasoning") => Ok(()),
                _ => Err(format!("{path}: 'reasoning' was provided without its required following item.")),
            }
        }
        other => Err(format!("{path}.type: `{other}` is not expected from this client")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(wire: Wire, change: impl FnOnce(&mut Value)) -> String {
        let mut body = match wire {
            Wire::AnthropicMessages => json!({
                "model": "claude-x", "max_tokens": 2000, "stream": true,
                "system": [{"type": "text", "text": "be good", "cache_control": {"type": "ephemeral"}}],
                "tools": [{"name": "bash", "description": "runs", "input_schema": {"type": "object"}}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "one"}]},
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "bash", "input": {}}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]},
                ],
            }),
            _ => json!({
                "model": "gpt-x", "stream": true, "store": false, "include": ["reasoning.encrypted_content"],
                "tools": [{"type": "function", "name": "bash", "parameters": {"type": "object"}, "strict": false}],
                "input": [
                    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
                    {"type": "function_call", "call_id": "a", "name": "bash", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "a", "output": "x"},
                ],
            }),
        };
        change(&mut body);
        check(wire, body.to_string().as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn what_is_not_as_the_vendor_documents_is_refused_with_its_place() {
        assert_eq!(refusal(Wire::AnthropicMessages, |_| ()), "");
        assert_eq!(refusal(Wire::OpenAiResponses, |_| ()), "");
        let anthropic: [(&str, Value, &str); 8] = [
            ("/model", json!("gpt-5"), "model"),
            ("/max_tokens", json!(0), "max_tokens"),
            ("/stream", json!(null), ""),
            ("/tools/0/name", json!("no name"), "tools.0.name"),
            ("/tools/0/input_schema", json!({}), "input_schema.type"),
            ("/messages/0/content/0/text", json!(""), "text"),
            ("/messages/1/content/0/input", json!("x"), "input"),
            ("/messages/2/role", json!("tool"), "role"),
        ];
        for (at, value, says) in anthropic {
            let said = refusal(Wire::AnthropicMessages, |body| *body.pointer_mut(at).unwrap() = value);
            assert!(said.contains(says), "{at}: {said}");
            assert_eq!(said.is_empty(), says.is_empty(), "{at}: {said}");
        }
        let said = refusal(Wire::AnthropicMessages, |body| body["input"] = json!([]));
        assert_eq!(said, "body.input: Extra inputs are not permitted");
        let budget = json!({"type": "enabled", "budget_tokens": 4000});
        assert!(refusal(Wire::AnthropicMessages, |body| body["thinking"] = budget).contains("budget_tokens"));
        let openai = [
            ("/max_output_tokens", json!(1), "max_output_tokens"),
            ("/input/0/content/0/type", json!("output_text"), "none of input_text"),
            ("/input/1/encrypted_content", json!(null), "not persisted"),
            (
                "/input/2",
                json!({"type": "function_call_output", "call_id": "a", "output": "x"}),
                "following item",
            ),
            ("/tools/0/parameters", json!("x"), "parameters.type"),
            ("/model", json!("claude-x"), "does not exist"),
        ];
        for (at, value, says) in openai {
            let said = refusal(Wire::OpenAiResponses, |body| match body.pointer_mut(at) {
                Some(field) => *field = value,
                None => body[&at[1..]] = value,
            });
            assert!(said.contains(says), "{at}: {said}");
        }
    }
}
