//! From a conversation to an answer of the scenario: which rule applies, and its texts with the templates filled in.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use crate::conversation::Conversation;
use crate::scenario::{Answer, Arguments, Scenario, Step, When};

/// The most requests whose tries are remembered; beyond them counting starts anew.
const TRIES_REMEMBERED_MAX: usize = 10_000;

/// How often each request was seen; asked only by rules with `tries`.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    hasher: RandomState,
    seen: Mutex<HashMap<u64, u32>>,
}

impl Tries {
    /// Counts `body` and gives how often it was seen before.
    pub(crate) fn count(&self, body: &[u8]) -> u32 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= TRIES_REMEMBERED_MAX {
            seen.clear();
        }
        let count = seen.entry(self.hasher.hash_one(body)).or_default();
        let before = *count;
        *count = count.saturating_add(1);
        before
    }
}

impl Scenario {
    /// Whether a rule asks how often a request was tried.
    pub(crate) fn counts_tries(&self) -> bool {
        self.rules.iter().any(|rule| rule.when.tries.is_some())
    }

    /// The answer to a conversation that was asked `tried` times before.
    pub(crate) fn answer(&self, conversation: &Conversation, tried: u32) -> &Answer {
        let results = conversation.tool_results();
        let position = conversation.position();
        let applies = self.rules.iter().filter(|rule| holds(&rule.when, conversation, &results, tried));
        let mut answers = applies.filter_map(|rule| match rule.answers.get(position) {
            None if rule.repeat => rule.answers.last(),
            answer => answer,
        });
        answers.next().unwrap_or(&self.default)
    }
}

fn holds(when: &When, conversation: &Conversation, results: &[&str], tried: u32) -> bool {
    when.model.as_ref().is_none_or(|glob| glob.matches(&conversation.model))
        && when.user.as_ref().is_none_or(|glob| glob.matches(conversation.user()))
        && when.tool_result.as_ref().is_none_or(|glob| results.last().is_some_and(|text| glob.matches(text)))
        && when.call.is_none_or(|call| usize::try_from(call).is_ok_and(|call| call == conversation.call()))
        && when.tries.is_none_or(|tries| tried < tries)
}

/// A step ready for a wire: templates filled in, arguments written.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Text(String),
    Reasoning(String),
    Call {
        id: String,
        name: String,
        arguments: String,
    },
    /// Anything that is no part of a finished answer.
    Other(Step),
}

/// The pieces of an answer's steps.
pub(crate) fn pieces(steps: &[Step], conversation: &Conversation) -> Vec<Piece> {
    let results = conversation.tool_results();
    let fill = |text: &str| fill(text, conversation.user(), &results);
    let piece = |step: &Step| match step {
        Step::Text(text) => Piece::Text(fill(text)),
        Step::Reasoning(text) => Piece::Reasoning(fill(text)),
        Step::Tool(tool) => Piece::Call {
            id: crate::wire::id("call"),
            name: tool.name.clone(),
            arguments: match &tool.arguments {
                Arguments::Raw(text) => fill(text),
                Arguments::Json(value) => fill_value(value, &fill).to_string(),
            },
        },
        other => Piece::Other(other.clone()),
    };
    steps.iter().map(piece).collect()
}

fn fill_value(value: &Value, fill: &dyn Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(fill(text)),
        Value::Array(items) => items.iter().map(|item| fill_value(item, fill)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), fill_value(value, fill))).collect()
        }
        other => other.clone(),
    }
}

/// Puts values in place of `{{user}}`, `{{result}}` (the last tool result) and `{{result N}}` (number N since the user
/// spoke, from 1; empty when there is none). Anything else in braces stays as it is, and values are not filled again.
fn fill(template: &str, user: &str, results: &[&str]) -> String {
    let value = |name: &str| match name.trim() {
        "user" => Some(user),
        "result" => Some(results.last().copied().unwrap_or_default()),
        name => {
            let number: usize = name.strip_prefix("result ")?.trim().parse().ok()?;
            Some(number.checked_sub(1).and_then(|at| results.get(at)).copied().unwrap_or_default())
        }
    };
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        filled.push_str(before);
        match after.split_once("}}").and_then(|(name, after)| Some((value(name)?, after))) {
            Some((value, after)) => {
                filled.push_str(value.trim_end_matches('\n'));
                rest = after;
            }
            None => {
                filled.push_str("{{");
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_take_values_of_the_conversation_and_leave_other_braces_alone() {
        let results = ["one\n", "two {{user}}"];
        for (template, expected) in [
            ("say {{user}}", "say hi"),
            ("{{result 1}}-{{ result }}", "one-two {{user}}"),
            ("{{result 3}}.", "."),
            ("@{{$x}} {{", "@{{$x}} {{"),
        ] {
            assert_eq!(fill(template, "hi", &results), expected);
        }
    }
}
