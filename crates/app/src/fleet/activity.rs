//! Activity rows: what workspaces, tasks and agents do, in the words of the audit log.

use freehold_model::{
    audit::EventType,
    event::{ContentPart, Message, Payload, SessionEvent},
};
use serde_json::{Value, json};

/// The most characters of a text in a row's detail; what is longer is cut, and says so.
const TEXT_MAX: usize = 2_000;

/// The most characters of an answer that calls no tool: what the agent says in the end is told as a whole.
const ANSWER_MAX: usize = 16_000;

/// The most characters of a name or an id in a row's detail.
const NAME_MAX: usize = 200;
/// The most names of tools in a row's detail.
const TOOL_NAMES_MAX: usize = 64;

/// What an event of a session is called in the activity log, and what is told of it; `None` for events that say
/// nothing which their neighbours do not.
pub(super) fn of_event(event: &SessionEvent) -> Option<(EventType, Value)> {
    Some(match &event.payload {
        Payload::SessionStarted { model, .. } => {
            (EventType::SessionStarted, json!({"session_id": event.session_id, "model": name(model)}))
        }
        Payload::TurnStarted { .. } => (EventType::TaskStarted, json!({"session_id": event.session_id})),
        Payload::ReasonStarted { iteration } => {
            (EventType::IterationStarted, json!({"iteration": iteration}))
        }
        Payload::OutputMessageCompleted { message, model, usage, stop_reason } => {
            let detail = json!({
                "success": true, "model": name(model), "usage": usage, "stop_reason": stop_reason,
                "text": text(message), "tool_calls": tools(message),
            });
            (EventType::IterationCompleted, detail)
        }
        Payload::LlmRetrying { attempt, error, error_code, wait_ms } => {
            let detail =
                json!({"attempt": attempt, "error": cut(error), "code": error_code, "wait_ms": wait_ms});
            (EventType::IterationRetrying, detail)
        }
        Payload::ReasonCompleted { success: false, error, duration_ms, attempts, .. } => {
            let detail = json!({
                "success": false, "error": error.as_deref().map(cut), "duration_ms": duration_ms, "attempts": attempts,
            });
            (EventType::IterationCompleted, detail)
        }
        Payload::ToolStarted { tool_call } => {
            let arguments = cut(&tool_call.arguments.to_string());
            let detail = json!({"tool_call_id": name(&tool_call.id), "tool": name(&tool_call.name), "arguments": arguments});
            (EventType::ToolStarted, detail)
        }
        Payload::ToolCompleted { tool_call_id, tool_name, status, result, duration_ms } => {
            let detail = json!({
                "tool_call_id": name(tool_call_id), "tool": name(tool_name), "status": status, "result": cut(result),
                "duration_ms": duration_ms,
            });
            (EventType::ToolCompleted, detail)
        }
        Payload::ContextCompacting { context_tokens, messages_before } => {
            let detail = json!({"context_tokens": context_tokens, "messages_before": messages_before});
            (EventType::CompactionStarted, detail)
        }
        Payload::ContextCompacted { messages_before, messages_after, .. } => {
            let detail = json!({"success": true, "messages_before": messages_before, "messages_after": messages_after});
            (EventType::CompactionCompleted, detail)
        }
        Payload::ContextCompactionFailed { error } => {
            (EventType::CompactionCompleted, json!({"success": false, "error": cut(error)}))
        }
        Payload::TurnCompleted { iterations, duration_ms, usage, .. } => {
            let detail = json!({
                "status": "completed", "iterations": iterations, "duration_ms": duration_ms, "usage": usage,
            });
            (EventType::TaskCompleted, detail)
        }
        Payload::TurnFailed { error, error_code, .. } => {
            (EventType::TaskCompleted, json!({"status": "failed", "reason": cut(error), "code": error_code}))
        }
        Payload::TurnCancelled { reason, .. } => {
            (EventType::TaskCompleted, json!({"status": "cancelled", "reason": cut(reason)}))
        }
        Payload::InputMessage { .. }
        | Payload::SessionActivated { .. }
        | Payload::ReasonCompleted { success: true, .. }
        | Payload::SessionIdled { .. } => return None,
    })
}

fn text(message: &Message) -> String {
    let texts: Vec<&str> = message
        .content
        .iter()
        .filter_map(|part| match part {
            ContentPart::Text { text } => Some(text.as_str()),
            ContentPart::ToolCall(_) | ContentPart::Reasoning { .. } => None,
        })
        .collect();
    let is_last = !message.content.iter().any(|part| matches!(part, ContentPart::ToolCall(_)));
    cut_at(&texts.join("\n"), if is_last { ANSWER_MAX } else { TEXT_MAX })
}

/// The names of the tools that an answer calls, the first [`TOOL_NAMES_MAX`] of them.
fn tools(message: &Message) -> Vec<String> {
    message
        .content
        .iter()
        .filter_map(|part| match part {
            ContentPart::ToolCall(call) => Some(name(&call.name)),
            ContentPart::Text { .. } | ContentPart::Reasoning { .. } => None,
        })
        .take(TOOL_NAMES_MAX)
        .collect()
}

/// A name or an id as the agent gave it: short, or it is none.
fn name(text: &str) -> String {
    text.chars().take(NAME_MAX).collect()
}

fn cut(text: &str) -> String {
    cut_at(text, TEXT_MAX)
}

fn cut_at(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes in all)", &text[..end], text.len()),
    }
}
