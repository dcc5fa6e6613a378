//! The scenario file: rules that match a request, and the answers they give. The format is told in `docs/sim-model.md`.
//!
//! Invariant: a `Scenario` that exists is valid; unknown fields and values are refused with line and column.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The most bytes of a scenario file.
pub const SCENARIO_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A scenario cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is not a scenario; the message names line and column.
    #[error("the scenario is not valid: {0}")]
    Invalid(String),
    /// The text is longer than [`SCENARIO_BYTES_MAX`].
    #[error("the scenario has {0} bytes, more than {SCENARIO_BYTES_MAX}")]
    TooLong(usize),
}

/// What a scripted model does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The key a request must bear; without it any request is answered.
    #[serde(default)]
    pub require_key: Option<String>,
    /// Whether requests must have the shape that the vendors document, and the key its documented header.
    #[serde(default)]
    pub strict: bool,
    /// The context window in estimated tokens; a longer request is refused as the vendor refuses it.
    #[serde(default)]
    pub context_tokens: Option<u64>,
    /// The rules; the first that applies answers.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The answer when no rule applies; the text `ok` when absent.
    #[serde(default)]
    pub default: Answer,
    /// Plain HTTP services beside the model, for tasks that call one.
    #[serde(default)]
    pub services: Vec<Service>,
}

/// A plain HTTP service: one path that answers one thing. It asks for no key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The method; `GET` when absent.
    #[serde(default, deserialize_with = "method")]
    pub method: Method,
    /// The path, without query.
    pub path: String,
    /// The answer, as JSON.
    pub answer: Value,
}

impl Scenario {
    /// Reads a scenario from YAML.
    ///
    /// # Errors
    /// With line and column, when it is not one.
    pub fn parse(yaml: &str) -> Result<Self, ScenarioError> {
        if yaml.len() > SCENARIO_BYTES_MAX {
            return Err(ScenarioError::TooLong(yaml.len()));
        }
        serde_saphyr::from_str(yaml).map_err(|error| {
            let text = error.to_string();
            ScenarioError::Invalid(text.strip_prefix("error: ").unwrap_or(&text).to_owned())
        })
    }
}

/// One rule: when it applies, and its answers in their order.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// When it applies; always when absent.
    #[serde(default)]
    pub when: When,
    /// The answers; the first to the user's message, the next one after the first answer, and so on.
    #[serde(deserialize_with = "not_empty")]
    pub answers: Vec<Answer>,
    /// Whether the last answer is given again and again; otherwise the rule no longer applies after its last answer.
    #[serde(default)]
    pub repeat: bool,
}

/// Conditions; all that are given must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// The request's model is like this.
    pub model: Option<Glob>,
    /// The user's last message is like this.
    pub user: Option<Glob>,
    /// The last tool result is like this; without one the rule does not apply.
    pub tool_result: Option<Glob>,
    /// This is call number so much of the conversation, from 1.
    pub call: Option<u32>,
    /// Only the first so many tries of one and the same request.
    pub tries: Option<u32>,
}

/// One answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "AnswerFields")]
pub struct Answer {
    /// What is sent: steps of a real answer, or a refusal.
    pub body: Body,
    /// The wait before the first byte.
    pub delay: Duration,
    /// The wait before each further piece.
    pub chunk_delay: Duration,
    /// How many characters of text make one piece; all of it when absent.
    pub chunk_chars: Option<usize>,
    /// The connection breaks after so many bytes of the body.
    pub cut_after_bytes: Option<usize>,
    /// The tokens it claims to have used; what is absent is estimated.
    pub usage: Tokens,
    /// Why it claims to have stopped; `tool_use` or `end_turn`, as it is, when absent.
    pub stop: Option<Stop>,
}

/// What an answer sends.
#[derive(Debug, Clone)]
pub enum Body {
    /// An answer of the model.
    Steps(Vec<Step>),
    /// A refusal.
    Http(Refusal),
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            body: Body::Steps(vec![Step::Text("ok".to_owned())]),
            delay: Duration::ZERO,
            chunk_delay: Duration::ZERO,
            chunk_chars: None,
            cut_after_bytes: None,
            usage: Tokens::default(),
            stop: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerFields {
    steps: Option<Vec<Step>>,
    http: Option<Refusal>,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    chunk_delay_ms: u64,
    chunk_chars: Option<usize>,
    cut_after_bytes: Option<usize>,
    #[serde(default)]
    usage: Tokens,
    stop: Option<Stop>,
}

impl TryFrom<AnswerFields> for Answer {
    type Error = &'static str;

    fn try_from(fields: AnswerFields) -> Result<Self, Self::Error> {
        let body = match (fields.steps, fields.http) {
            (Some(steps), None) => Body::Steps(steps),
            (None, Some(refusal)) => Body::Http(refusal),
            _ => return Err("an answer has either `steps` or `http`"),
        };
        if fields.chunk_chars == Some(0) {
            return Err("`chunk_chars` is at least 1");
        }
        Ok(Self {
            body,
            delay: Duration::from_millis(fields.delay_ms),
            chunk_delay: Duration::from_millis(fields.chunk_delay_ms),
            chunk_chars: fields.chunk_chars,
            cut_after_bytes: fields.cut_after_bytes,
            usage: fields.usage,
            stop: fields.stop,
        })
    }
}

/// One step of an answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Text.
    Text(String),
    /// Reasoning.
    Reasoning(String),
    /// A tool call.
    Tool(Tool),
    /// A wait, in milliseconds.
    PauseMs(u64),
    /// An error in the stream, after which nothing comes; without a stream, the whole answer.
    Error(StreamError),
    /// Bytes that are no part of the wire.
    Garbage(String),
    /// The connection breaks.
    Cut,
    /// The body ends properly, the answer does not.
    End,
    /// Nothing more comes, and the connection stays.
    Stall,
}

/// A tool call of the scripted model.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "ToolFields")]
pub struct Tool {
    /// The tool, which need not exist.
    pub name: String,
    /// The arguments: a value whose texts are templates, or a text sent as it is, JSON or not.
    pub arguments: Arguments,
}

/// The arguments of a tool call.
#[derive(Debug, Clone)]
pub enum Arguments {
    /// A JSON value.
    Json(Value),
    /// A text that need not be JSON.
    Raw(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolFields {
    name: String,
    arguments: Option<Value>,
    raw_arguments: Option<String>,
}

impl TryFrom<ToolFields> for Tool {
    type Error = &'static str;

    fn try_from(fields: ToolFields) -> Result<Self, Self::Error> {
        let arguments = match (fields.arguments, fields.raw_arguments) {
            (Some(_), Some(_)) => return Err("a tool has either `arguments` or `raw_arguments`"),
            (_, Some(raw)) => Arguments::Raw(raw),
            (json, None) => Arguments::Json(json.unwrap_or_else(|| Value::Object(serde_json::Map::new()))),
        };
        Ok(Self { name: fields.name, arguments })
    }
}

/// An error inside a stream, in the vendor's words.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamError {
    /// The type (Anthropic) or code (OpenAI), for example `overloaded_error`.
    pub kind: String,
    /// The message.
    #[serde(default)]
    pub message: String,
}

/// A refusal.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    /// The status, from 300 to 599.
    #[serde(deserialize_with = "failure")]
    pub status: StatusCode,
    /// Further headers.
    #[serde(default, deserialize_with = "headers")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The vendor's error object when absent; a text is sent as it is, another value as JSON.
    pub body: Option<Value>,
}

/// Tokens of one answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Read, without those of the cache.
    pub input: Option<u64>,
    /// Written.
    pub output: Option<u64>,
    /// Read from the cache.
    #[serde(default)]
    pub cache_read: u64,
    /// Written to the cache.
    #[serde(default)]
    pub cache_creation: u64,
}

/// Why an answer stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// All is said.
    EndTurn,
    /// Tools are wanted.
    ToolUse,
    /// The output limit is reached.
    MaxTokens,
    /// The model declines.
    Refusal,
}

/// A pattern in which `*` stands for any text, line breaks included; case counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    /// Whether `text` as a whole is like the pattern.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        for part in middle.split('*') {
            let Some(at) = text.find(part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(last)
    }
}

fn not_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Answer>, D::Error> {
    let answers = Vec::deserialize(from)?;
    if answers.is_empty() {
        return Err(D::Error::custom("a rule has at least one answer"));
    }
    Ok(answers)
}

fn method<'de, D: Deserializer<'de>>(from: D) -> Result<Method, D::Error> {
    String::deserialize(from)?.parse().map_err(|_| D::Error::custom("not an HTTP method"))
}

fn failure<'de, D: Deserializer<'de>>(from: D) -> Result<StatusCode, D::Error> {
    let status = u16::deserialize(from)?;
    match StatusCode::from_u16(status) {
        Ok(code) if (300..600).contains(&status) => Ok(code),
        _ => Err(D::Error::custom("a status is from 300 to 599")),
    }
}

fn headers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(HeaderName, HeaderValue)>, D::Error> {
    std::collections::BTreeMap::<String, String>::deserialize(from)?
        .into_iter()
        .map(|(name, value)| {
            let bad = |_| D::Error::custom(format_args!("`{name}: {value}` is no header"));
            Ok((name.parse().map_err(|_| bad(()))?, value.parse().map_err(|_| bad(()))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("*", "a\nb", true),
            ("ab", "ab", true),
            ("ab", "abc", false),
            ("*fact*", "a fact\nhere", true),
            ("a*b*c", "a--b--c", true),
            ("a*b*c", "a--c--b", false),
            ("ab*ba", "aba", false),
            ("*aa", "aaa", true),
        ] {
            assert_eq!(Glob(pattern.to_owned()).matches(text), expected, "{pattern} ~ {text}");
        }
    }

    #[test]
    fn a_bad_scenario_is_refused_with_line_and_column() {
        for (yaml, line, column, says) in [
            ("rules:\n  - wen: {}\n    answers: []\n", 2, 5, "wen"),
            ("rules:\n  - answers: []\n", 2, 14, "at least one answer"),
            ("default:\n  steps:\n    - txt: hi\n", 3, 7, "txt"),
            ("default:\n  http: {status: 200}\n", 2, 18, "from 300 to 599"),
            ("default:\n  delay_ms: soon\n  steps: []\n", 2, 13, "soon"),
            ("default:\n  steps:\n    - tool: {name: a, arguments: {}, raw_arguments: x}\n", 3, 13, "either"),
            ("rules: [\n", 1, 8, "unclosed"),
        ] {
            let error = Scenario::parse(yaml).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line} column {column}")), "{yaml}\n{error}");
            assert!(error.contains(says), "{yaml}\n{error}");
        }
    }
}
