//! Conversations that were read lately: a request that goes on from one is read from there, as a vendor's cache of prompts
//! has it. So a call costs what is new, and a comparison of bytes.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    conversation::{Conversation, Place, Said},
    wire::Wire,
};

/// The most conversations that are remembered; beyond it the oldest is forgotten.
const CONVERSATIONS_MAX: usize = 64;
/// The most bytes of requests that are remembered.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Stands in a list of messages for those that were read before.
const READ_BEFORE: &[u8] = b"null";

/// The conversations of the last requests.
#[derive(Default)]
pub(crate) struct Memory(Mutex<VecDeque<Known>>);

/// The beginning of a request.
#[derive(Clone)]
struct Known {
    wire: Wire,
    /// The request, of which all before the end of `messages` counts.
    body: Bytes,
    /// Where its messages are, all but the last: that one may come again in other words, without a mark for a cache.
    messages: Range<usize>,
    /// What they come to.
    said: Said,
}

impl Memory {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// With the text of the vendor's refusal.
    pub(crate) fn read(&self, wire: Wire, body: &Bytes) -> Result<Conversation, String> {
        let Some(Known { messages: Range { start, end }, said, .. }) = self.known(wire, body) else {
            let (conversation, others) = Conversation::read(wire, Said::default(), body)?;
            self.remember(wire, body, others);
            return Ok(conversation);
        };
        // What stands before the list is read again, and it is short or at least the same.
        let shorter = [&body[..start], READ_BEFORE, &body[end..]].concat();
        let (conversation, mut others) = Conversation::read(wire, said, &shorter)?;
        if let Some(Place { range, .. }) = &mut others {
            *range = start..range.end - start - READ_BEFORE.len() + end;
        }
        self.remember(wire, body, others);
        Ok(conversation)
    }

    /// The longest beginning of `body` that was read before.
    fn known(&self, wire: Wire, body: &Bytes) -> Option<Known> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = |known: &&Known| known.wire == wire && known.begins(body);
        known.iter().filter(begins).max_by_key(|known| known.messages.end).cloned()
    }

    /// Remembers `others` of `body`, in the place of what they go on from.
    fn remember(&self, wire: Wire, body: &Bytes, others: Option<Place>) {
        let Some(Place { range: messages, said }) = others else { return };
        let new = Known { wire, body: body.clone(), messages, said };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|old| old.wire != wire || old.messages.end > new.messages.end || !old.begins(body));
        known.push_back(new);
        let mut bytes: usize = known.iter().map(|known| known.body.len()).sum();
        while bytes > BYTES_MAX || known.len() > CONVERSATIONS_MAX {
            let Some(oldest) = known.pop_front() else { return };
            bytes -= oldest.body.len();
        }
    }
}

impl Known {
    fn begins(&self, body: &[u8]) -> bool {
        body.starts_with(&self.body[..self.messages.end])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const WIRES: [Wire; 3] = [Wire::AnthropicMessages, Wire::OpenAiChat, Wire::OpenAiResponses];

    /// A message of number `kind`, good or bad.
    fn message(wire: Wire, kind: usize, number: usize) -> Value {
        let (id, text) = (format!("call-{}", number / 2), format!("\"words\" {number}, null]"));
        match (wire, kind) {
            (_, 0) => Value::Null,
            (Wire::AnthropicMessages | Wire::OpenAiChat, 1) => json!({"role": "user", "content": text}),
            (Wire::AnthropicMessages | Wire::OpenAiChat, 2) => json!({"role": "assistant", "content": text}),
            (Wire::AnthropicMessages, 3) => {
                json!({"role": "assistant", "content": [{"type": "tool_use", "id": id, "name": "x", "input": {}}]})
            }
            (Wire::AnthropicMessages, _) => {
                let result = json!({"type": "tool_result", "tool_use_id": id, "content": text});
                json!({"role": "user", "content": [result]})
            }
            (Wire::OpenAiChat, 3) => json!({"role": "assistant", "tool_calls": [{"id": id}]}),
            (Wire::OpenAiChat, _) => json!({"role": "tool", "tool_call_id": id, "content": text}),
            (Wire::OpenAiResponses, 1) => json!({"role": "user", "content": [{"text": text}]}),
            (Wire::OpenAiResponses, 2) => json!({"type": "message", "role": "assistant"}),
            (Wire::OpenAiResponses, 3) => json!({"type": "function_call", "call_id": id}),
            (Wire::OpenAiResponses, _) => {
                json!({"type": "function_call_output", "call_id": id, "output": text})
            }
        }
    }

    fn request(wire: Wire, messages: &[Value], style: usize) -> Bytes {
        let list = if wire == Wire::OpenAiResponses { "input" } else { "messages" };
        let body =
            json!({"a": style, list: messages, "max_tokens": 1, "model": "m", "tools": [{"x": messages}]});
        let text =
            if style == 0 { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
        text.unwrap().into()
    }

    proptest! {
        #[test]
        fn what_is_remembered_changes_no_answer(
            wire in proptest::sample::select(&WIRES[..]),
            steps in proptest::collection::vec((0..3usize, any::<u16>(), proptest::collection::vec(0..5usize, 1..4)), 1..12),
        ) {
            let (memory, mut messages) = (Memory::default(), Vec::new());
            for (style, cut, kinds) in steps {
                if cut % 4 == 0 {
                    messages.truncate(usize::from(cut / 4) % (messages.len() + 1));
                }
                for kind in kinds {
                    messages.push(message(wire, kind, messages.len()));
                }
                let body = request(wire, &messages, style);
                prop_assert_eq!(memory.read(wire, &body), Memory::default().read(wire, &body));
            }
        }
    }

    #[test]
    fn a_conversation_that_goes_on_is_remembered_once_and_up_to_its_last_message_but_one() {
        let (wire, memory, mut messages) = (Wire::AnthropicMessages, Memory::default(), Vec::new());
        for number in 0..100 {
            messages.push(message(wire, 1 + number % 2, number));
            let mut marked = messages.clone();
            marked[number]["cache_control"] = json!({"type": "ephemeral"});
            let body = request(wire, &marked, 1);
            memory.read(wire, &body).unwrap();
            let known = memory.0.lock().unwrap();
            assert_eq!(known.len(), usize::from(number > 0));
            if let Some(last) = known.back() {
                let rest = String::from_utf8_lossy(&body[last.messages.end..]);
                assert!(rest.starts_with(",{\"cache_control"), "{rest}");
            }
        }
    }

    #[test]
    fn more_conversations_than_fit_are_forgotten_in_their_order() {
        let (wire, memory) = (Wire::AnthropicMessages, Memory::default());
        for number in 0..CONVERSATIONS_MAX + 10 {
            let messages = [message(wire, 1, number), message(wire, 2, number)];
            memory.read(wire, &request(wire, &messages, 1)).unwrap();
        }
        let known = memory.0.lock().unwrap();
        assert_eq!(known.len(), CONVERSATIONS_MAX);
        assert!(String::from_utf8_lossy(&known[0].body).contains("words\\\" 10,"));
    }
}
