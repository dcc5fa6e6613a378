//! A journal and a model that say what a test wants.

use freehold_model::{
    EventId, MessageId, SessionId, TaskId, Timestamp,
    event::{ContentPart, Message, MessageRole, SessionEvent, StopReason, ToolCall, Usage},
};
use freehold_turn::{Answer, Begin, Effect, Input, Settings, State};
use uuid::Uuid;

pub const TOOLS: [&str; 2] = ["bash", "read_file"];

pub fn settings() -> Settings {
    Settings { tools: TOOLS.into(), ..Settings::default() }
}

pub fn task(number: u128) -> TaskId {
    TaskId::from_uuid(Uuid::from_u128(number))
}

pub fn begin(text: &str, settings: Settings) -> Input {
    Input::Begin(Begin {
        task_id: task(1),
        message_id: MessageId::from_uuid(Uuid::from_u128(1)),
        text: text.into(),
        settings,
        cancel_requested: false,
    })
}

pub fn answer(number: u128, text: &str, calls: Vec<ToolCall>, tokens: Option<(u64, u64)>) -> Answer {
    let stop_reason = if calls.is_empty() { StopReason::EndTurn } else { StopReason::ToolUse };
    let text = (!text.is_empty()).then(|| ContentPart::Text { text: text.into() });
    let content = text.into_iter().chain(calls.into_iter().map(ContentPart::ToolCall)).collect();
    Answer {
        message: Message {
            id: MessageId::from_uuid(Uuid::from_u128(1000 + number)),
            role: MessageRole::Agent,
            content,
        },
        model: "m".into(),
        usage: tokens.map(|(input_tokens, output_tokens)| Usage {
            input_tokens,
            output_tokens,
            ..Usage::default()
        }),
        stop_reason,
        duration_ms: 5,
    }
}

/// A state with its journal; batches are durable when `acknowledge` is called.
#[derive(Default)]
pub struct World {
    pub state: State,
    pub journal: Vec<SessionEvent>,
    pub pending: Vec<SessionEvent>,
    pub last_batch: u64,
    pub clock_ms: i64,
}

impl World {
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        self.clock_ms += 1;
        let now = self.now();
        let effects = self.state.step(now, input);
        for effect in &effects {
            if let Effect::Append { batch, payloads } = effect {
                self.last_batch = *batch;
                for payload in payloads {
                    let number = (self.journal.len() + self.pending.len()) as u128;
                    self.pending.push(SessionEvent {
                        id: EventId::from_uuid(Uuid::from_u128(number)),
                        session_id: SessionId::from_uuid(Uuid::nil()),
                        sequence: None,
                        ts: now,
                        context: self.state.context().clone(),
                        payload: payload.clone(),
                    });
                }
            }
        }
        effects
    }

    pub fn acknowledge(&mut self) -> Vec<Effect> {
        self.journal.append(&mut self.pending);
        let batch = self.last_batch;
        self.step(Input::Acknowledged { batch })
    }

    /// A new process that has read the first `length` events.
    pub fn restarted(&self, length: usize) -> Self {
        self.restarted_after(0, length)
    }

    /// A new process that has read the first `length` events but those before `after`.
    pub fn restarted_after(&self, after: usize, length: usize) -> Self {
        let mut state = State::default();
        for event in &self.journal[after..length] {
            state.fold(event);
        }
        Self { state, journal: self.journal[..length].to_vec(), clock_ms: self.clock_ms, ..Self::default() }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.clock_ms).expect("a small time")
    }
}
