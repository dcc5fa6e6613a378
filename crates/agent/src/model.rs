//! One model call, from `turn`'s request to its input.

use std::{sync::Arc, time::Instant};

use freehold_llm::{Client, Error, Item, NoWire, Options, Request, Timeouts, ToolSpec, Wire, Written};
use freehold_model::{
    MessageId,
    event::{ContentPart, Message, MessageRole, ToolStatus, TurnErrorCode},
    role::ThinkingEffort,
};
use freehold_pod_api::ModelBackend;
use freehold_turn::{self as turn, Answer, Failure, FailureKind, Input, ModelRequest, RequestKind};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

/// The most tokens of an answer, unless the provider's setting [`OUTPUT_TOKENS_SETTING`] says otherwise.
const OUTPUT_TOKENS_MAX: u32 = 16_000;

/// The provider's setting for models that take less or more.
const OUTPUT_TOKENS_SETTING: &str = "max_output_tokens";

/// Why the model cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error(transparent)]
    Wire(#[from] NoWire),
    #[error("the provider's domain `{domain}` makes no URL")]
    Domain {
        domain: String,
        #[source]
        source: url::ParseError,
    },
    #[error("the provider's setting `max_output_tokens` is not a positive number")]
    OutputTokens,
    #[error("no model is configured")]
    NoConfig,
}

/// A model to ask, and how a task asks it.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) client: Arc<Client>,
    pub(crate) name: Arc<str>,
    pub(crate) system: Arc<str>,
    pub(crate) tools: Arc<[ToolSpec]>,
    pub(crate) thinking_effort: Option<ThinkingEffort>,
    pub(crate) output_tokens_max: u32,
    pub(crate) sent: Arc<Mutex<Sent>>,
}

/// The last request's conversation, so that the next one writes only what came since.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    items: Vec<turn::Item>,
    written: Written,
}

impl Sent {
    /// Takes the next request's items; answers those that are not written yet.
    fn follow<'a>(&mut self, items: &'a turn::Items) -> Vec<&'a turn::Item> {
        let same = self.items.iter().zip(items).take_while(|(before, now)| is_same(before, now)).count();
        let kept = self.written.keep(same);
        self.items.truncate(same);
        self.items.extend(items.iter().skip(same).cloned());
        items.iter().skip(kept).collect()
    }
}

/// Whether two pieces are the same for sure: shared ones are never changed, and notes are short.
fn is_same(one: &turn::Item, other: &turn::Item) -> bool {
    match (one, other) {
        (turn::Item::Message(one), turn::Item::Message(other)) => Arc::ptr_eq(one, other),
        (turn::Item::Result(one), turn::Item::Result(other)) => Arc::ptr_eq(one, other),
        (turn::Item::Note(one), turn::Item::Note(other)) => one == other,
        (turn::Item::Message(_) | turn::Item::Result(_) | turn::Item::Note(_), _) => false,
    }
}

/// The client of a backend. `url` stands in for the provider's domain.
pub(crate) fn client(
    backend: &ModelBackend,
    url: Option<&Url>,
    roots: Option<std::path::PathBuf>,
) -> Result<Client, Unusable> {
    let wire = Wire::of(backend.kind, &backend.config)?;
    let base_url = match url {
        Some(url) => url.clone(),
        None => format!("https://{}/", backend.domain)
            .parse()
            .map_err(|source| Unusable::Domain { domain: backend.domain.clone(), source })?,
    };
    let api_key = freehold_model::provider::PLACEHOLDER_KEY.to_owned();
    Ok(Client::new(Options { wire, base_url, api_key, roots, timeouts: Timeouts::default() }))
}

/// The most tokens of an answer of this backend.
pub(crate) fn output_tokens_max(backend: &ModelBackend) -> Result<u32, Unusable> {
    match backend.config.get(OUTPUT_TOKENS_SETTING).map(|value| value.parse()) {
        None => Ok(OUTPUT_TOKENS_MAX),
        Some(Ok(tokens)) if tokens > 0 => Ok(tokens),
        Some(_) => Err(Unusable::OutputTokens),
    }
}

/// A call that cannot be made.
pub(crate) fn unusable(error: &Unusable) -> Input {
    Input::ModelFailed(Failure {
        kind: FailureKind::Misconfigured,
        message: with_causes(error),
        retry_in: None,
        duration_ms: 0,
    })
}

impl Model {
    /// Calls the model once.
    pub(crate) async fn ask(self, request: ModelRequest) -> Input {
        let begun = Instant::now();
        // One call at a time: the lock is free.
        let mut sent = self.sent.lock().await;
        let news = sent.follow(&request.items);
        let notes: Vec<[ContentPart; 1]> = news
            .iter()
            .filter_map(|item| match item {
                turn::Item::Note(text) => Some([ContentPart::Text { text: text.to_string() }]),
                turn::Item::Message(_) | turn::Item::Result(_) => None,
            })
            .collect();
        let mut next_note = notes.iter();
        let items: Vec<Item<'_>> = news
            .iter()
            .map(|item| match item {
                turn::Item::Message(message) => match message.role {
                    MessageRole::User => Item::User(&message.content),
                    MessageRole::Agent => Item::Assistant(&message.content),
                },
                turn::Item::Result(result) => Item::ToolResult {
                    call_id: &result.tool_call_id,
                    name: &result.tool_name,
                    text: &result.text,
                    is_error: result.status != ToolStatus::Success,
                },
                turn::Item::Note(_) => Item::User(next_note.next().map_or(&[], |note| &note[..])),
            })
            .collect();
        let is_reason = request.kind == RequestKind::Reason;
        let asked = Request {
            model: &self.name,
            system: if is_reason { &self.system } else { "" },
            items: &items,
            tools: if is_reason { &self.tools } else { &[] },
            thinking_effort: if is_reason { self.thinking_effort } else { None },
            max_output_tokens: self.output_tokens_max,
        };
        let answer = self.client.ask_after(&asked, &mut sent.written, &mut |_| {}).await;
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match answer {
            Ok(answer) => Input::ModelAnswered(Answer {
                message: Message {
                    id: MessageId::from_uuid(Uuid::now_v7()),
                    role: MessageRole::Agent,
                    content: answer.content,
                },
                model: answer.model,
                usage: Some(answer.usage),
                stop_reason: answer.stop_reason,
                duration_ms,
            }),
            Err(error) => Input::ModelFailed(failure(&error, request.attempt, duration_ms)),
        }
    }
}

fn failure(error: &Error, attempt: u32, duration_ms: u64) -> Failure {
    let kind = match error.turn_error_code() {
        TurnErrorCode::ProviderRateLimited => FailureKind::RateLimited,
        TurnErrorCode::ProviderUnavailable => FailureKind::Unavailable,
        TurnErrorCode::RequestTooLarge => FailureKind::TooLong,
        TurnErrorCode::ProviderMisconfigured => FailureKind::Misconfigured,
        TurnErrorCode::ProviderRefused => FailureKind::Refused,
        TurnErrorCode::ProcessingError | TurnErrorCode::MaxIterations | TurnErrorCode::Timeout => {
            FailureKind::Processing
        }
    };
    Failure { kind, message: with_causes(error), retry_in: error.pause(attempt), duration_ms }
}

/// An error and what it came from, in one line: people read it, and nothing else of it is kept.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
