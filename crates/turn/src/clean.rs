//! No NUL goes into the journal: not every database keeps one in a text, and an event that cannot be stored would be
//! repeated for ever.

use freehold_model::event::{ContentPart, Message};
use serde_json::Value;

/// What stands for a NUL.
const REPLACEMENT: &str = "\u{fffd}";

pub(crate) fn clean(text: String) -> String {
    if text.contains('\0') { text.replace('\0', REPLACEMENT) } else { text }
}

fn clean_in_place(text: &mut String) {
    *text = clean(std::mem::take(text));
}

pub(crate) fn clean_message(message: &mut Message) {
    for part in &mut message.content {
        match part {
            ContentPart::Text { text } => clean_in_place(text),
            ContentPart::ToolCall(call) => {
                clean_in_place(&mut call.id);
                clean_in_place(&mut call.name);
                clean_value(&mut call.arguments);
            }
            ContentPart::Reasoning { text, replay } => {
                clean_in_place(text);
                replay.iter_mut().for_each(clean_value);
            }
        }
    }
}

fn clean_value(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::String(text) => clean_in_place(text),
        Value::Array(values) => values.iter_mut().for_each(clean_value),
        Value::Object(map) => {
            if map.keys().any(|key| key.contains('\0')) {
                *map = std::mem::take(map).into_iter().map(|(key, value)| (clean(key), value)).collect();
            }
            map.values_mut().for_each(clean_value);
        }
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::{
        MessageId,
        event::{MessageRole, ToolCall},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn no_nul_is_left_anywhere_in_a_message() {
        let arguments = json!({"a\0": ["\0", {"b": "x\0y"}], "c": 1});
        let content = vec![
            ContentPart::Text { text: "\0".into() },
            ContentPart::ToolCall(ToolCall {
                id: "\0".into(),
                name: "\0".into(),
                arguments: arguments.clone(),
            }),
            ContentPart::Reasoning { text: "\0".into(), replay: Some(arguments) },
        ];
        let id = MessageId::from_uuid(uuid::Uuid::nil());
        let mut message = Message { id, role: MessageRole::Agent, content };
        clean_message(&mut message);
        let text = serde_json::to_string(&message).unwrap();
        assert!(!text.contains("\\u0000"), "{text}");
        assert!(text.contains("x\u{fffd}y"), "{text}");
    }
}
