//! Model wires: Anthropic Messages, OpenAI Responses and Chat Completions, streamed.
//!
//! One call, [`Client::ask`], sends a conversation and gives the finished [`Answer`], telling of its progress by
//! [`Delta`]s. Invariant: an `Answer` exists only when the provider said that it ended; a stream that is cut, stalls,
//! reports an error or does not parse is an [`Error`], and [`Error::pause`] says whether and when to try again.
//! What a provider wants back unchanged (signatures, encrypted reasoning) travels in `ContentPart::Reasoning.replay`.

mod anthropic;
mod chat;
mod classify;
mod client;
mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
mod read;
mod responses;
#[cfg(test)]
mod transcripts;
mod written;

use std::collections::BTreeMap;

use freehold_model::event::{ContentPart, StopReason, Usage};
use freehold_model::provider;
use freehold_model::role::ThinkingEffort;
use serde_json::Value;

pub use client::{Client, Options, Timeouts};
pub use error::{
    Error, GARBAGE_RETRIES_MAX, MISLED_RETRIES_MAX, PAUSE_FIRST, PAUSE_MAX, RETRIES_MAX, RETRY_AFTER_MAX,
};
pub use read::ANSWER_BYTES_MAX;
pub use written::Written;

/// How to talk to a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Anthropic's `POST /v1/messages`.
    AnthropicMessages,
    /// OpenAI's `POST /v1/responses`.
    OpenAiResponses,
    /// OpenAI's `POST /v1/chat/completions`, which many other servers speak too.
    OpenAiChat,
}

/// A provider's kind or settings name no wire that is built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWire {
    /// The kind has no wire yet.
    #[error("no model wire for providers of kind `{0}`")]
    Kind(&'static str),
    /// `wire` has another value than those known.
    #[error("unknown `wire` `{0}`: it is `responses` or `chat_completions`")]
    Setting(String),
}

impl Wire {
    /// The wire of a provider: by its kind, and for `openai` by its setting `wire`, `responses` (the default) or
    /// `chat_completions`.
    ///
    /// # Errors
    /// When there is no wire for the kind, or the setting is unknown.
    pub fn of(kind: provider::Kind, config: &BTreeMap<String, String>) -> Result<Self, NoWire> {
        match (kind, config.get("wire").map(String::as_str)) {
            (provider::Kind::Anthropic, _) => Ok(Self::AnthropicMessages),
            (provider::Kind::OpenAi, None | Some("responses")) => Ok(Self::OpenAiResponses),
            (provider::Kind::OpenAi, Some("chat_completions")) => Ok(Self::OpenAiChat),
            (provider::Kind::OpenAi, Some(other)) => Err(NoWire::Setting(other.to_owned())),
            (kind, _) => Err(NoWire::Kind(kind.as_str())),
        }
    }
}

/// One request to a model. It borrows, so that a long conversation is not copied before it is written.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The model's name at the provider.
    pub model: &'a str,
    /// The system prompt; empty for none.
    pub system: &'a str,
    /// The conversation, oldest first.
    pub items: &'a [Item<'a>],
    /// The tools the model may call.
    pub tools: &'a [ToolSpec],
    /// How hard to think; the provider's default when absent.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most tokens of the answer, reasoning included.
    pub max_output_tokens: u32,
}

/// One entry of a conversation.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// What the user said.
    User(&'a [ContentPart]),
    /// What the model answered, as [`Answer::content`] gave it.
    Assistant(&'a [ContentPart]),
    /// How a tool call of the model's last answer ended.
    ToolResult {
        /// The call's id.
        call_id: &'a str,
        /// The tool.
        name: &'a str,
        /// What the model is told.
        text: &'a str,
        /// Whether the tool failed.
        is_error: bool,
    },
}

/// A tool the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// The JSON Schema of its arguments, an object.
    pub input_schema: Value,
}

/// Progress of an answer, for people who watch; nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta<'a> {
    /// More text.
    Text(&'a str),
    /// More readable reasoning.
    Reasoning(&'a str),
    /// A tool call begins; its arguments come with the answer.
    ToolCallStarted {
        /// The call's id.
        id: &'a str,
        /// The tool, as the model named it.
        name: &'a str,
    },
}

/// A finished answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// What it says, in the model's order: reasoning, text, tool calls.
    pub content: Vec<ContentPart>,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// Tokens it cost.
    pub usage: Usage,
    /// The model that answered, as the provider names it.
    pub model: String,
}
