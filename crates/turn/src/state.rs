//! The step function.

use std::collections::VecDeque;

use freehold_model::{
    MessageId, TaskId, Timestamp,
    event::{
        ContentPart, Context, Message, MessageRole, Payload, SessionEvent, StopReason, TerminationReason,
        ToolCall, ToolStatus, TurnErrorCode,
    },
};

use crate::{
    Answer, Begin, Conversation, Effect, Failure, FailureKind, Input, ModelRequest, Outcome, RequestKind,
    Resume, Settings, TOOL_CALLS_MAX, ToolOutcome, TurnRecord,
    clean::{clean, clean_message},
    compaction,
    conversation::{INTERRUPTED, calls, message_bytes, text_of},
    journal::{Journal, Position, Turn},
    settings::{
        ANSWER_BYTES_MAX, EMPTY_ANSWER_DELAY, EMPTY_ANSWER_RETRIES_MAX, MODEL_ATTEMPTS_MAX,
        TOOL_RESULT_BYTES_MAX,
    },
};

/// One session: what its journal says, and what is under way.
#[derive(Debug, Clone, Default)]
pub struct State {
    journal: Journal,
    activity: Activity,
    settings: Settings,
    cancel: bool,
    last_batch: u64,
}

/// What is under way. `journal` says where the turn stands; this says what it waits for.
#[derive(Debug, Clone, Default, PartialEq)]
enum Activity {
    #[default]
    Resting,
    Journalling {
        batch: u64,
        then: Then,
    },
    Calling(Call),
    Waiting(Call),
    Acting {
        running: ToolCall,
        queue: VecDeque<ToolCall>,
    },
}

/// What follows once the journal has it.
#[derive(Debug, Clone, PartialEq)]
enum Then {
    Call(Call),
    Act(VecDeque<ToolCall>),
    Rest(Outcome),
}

/// A model call with its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    purpose: Purpose,
    attempt: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Reason,
    /// `forced`: the provider refused the conversation as too long, so that without a summary the turn fails.
    Compact {
        first_kept: Option<MessageId>,
        halvings: u32,
        forced: bool,
    },
}

/// Why a turn is stopped in the middle of a step.
#[derive(Debug, Clone, Copy)]
enum Stop {
    Cancelled,
    TimeUp,
}

/// What the loop is doing, for the session view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing<'a> {
    /// No turn is under way.
    Nothing,
    /// Waiting for the journal.
    Journalling,
    /// Waiting for the model.
    CallingModel,
    /// Waiting to ask the model again.
    WaitingToRetry,
    /// Waiting for a summary.
    Compacting,
    /// Waiting for this tool.
    RunningTool(&'a str),
}

/// One step's events and effects.
struct Out {
    now: Timestamp,
    payloads: Vec<Payload>,
    effects: Vec<Effect>,
}

impl State {
    /// Takes an event of the journal into account, in the order of sequence, each once. Only while no turn is under way.
    pub fn fold(&mut self, event: &SessionEvent) {
        self.journal.apply(event.ts, &event.payload);
    }

    /// The task whose turn is open in the journal, whether it is under way or not.
    pub fn open_task(&self) -> Option<TaskId> {
        self.journal.turn.as_ref().map(|turn| turn.id.into())
    }

    /// Whether a turn is under way.
    pub fn is_busy(&self) -> bool {
        self.activity != Activity::Resting
    }

    /// What is under way.
    pub fn doing(&self) -> Doing<'_> {
        match &self.activity {
            Activity::Resting => Doing::Nothing,
            Activity::Journalling { .. } => Doing::Journalling,
            Activity::Calling(Call { purpose: Purpose::Reason, .. }) => Doing::CallingModel,
            Activity::Calling(_) => Doing::Compacting,
            Activity::Waiting(_) => Doing::WaitingToRetry,
            Activity::Acting { running, .. } => Doing::RunningTool(&running.name),
        }
    }

    /// The conversation.
    pub fn conversation(&self) -> &Conversation {
        &self.journal.conversation
    }

    /// The newest turns, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &TurnRecord> + ExactSizeIterator {
        self.journal.history.iter()
    }

    /// How the present turn runs, or the last one ran.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Model calls of the session, those of all turns.
    pub fn iterations(&self) -> u64 {
        self.journal.iterations
    }

    /// How often the conversation was shortened.
    pub fn compactions(&self) -> u64 {
        self.journal.compactions
    }

    /// What the events of the last step belong to.
    pub fn context(&self) -> &Context {
        &self.journal.context
    }

    /// One step. Total: an input that makes no sense now changes nothing.
    pub fn step(&mut self, now: Timestamp, input: Input) -> Vec<Effect> {
        let mut out = Out { now, payloads: Vec::new(), effects: Vec::new() };
        match input {
            Input::Begin(begin) => self.begin(&mut out, begin),
            Input::Resume(resume) => self.resume(&mut out, resume),
            Input::Acknowledged { batch } => self.acknowledged(&mut out, batch),
            Input::ModelAnswered(answer) => self.answered(&mut out, answer),
            Input::ModelFailed(failure) => self.failed(&mut out, &failure),
            Input::WaitOver => {
                if let Activity::Waiting(call) = self.activity {
                    self.call(&mut out, Call { attempt: call.attempt + 1, ..call });
                }
            }
            Input::ToolEnded(outcome) => self.tool_ended(&mut out, &outcome),
            Input::CancelAsked => self.cancel_asked(&mut out),
            Input::GraceOver => self.stop(&mut out, Stop::Cancelled),
            Input::TimeUp => self.stop(&mut out, Stop::TimeUp),
            Input::GiveUp => {
                if self.is_busy() {
                    out.effects.push(Effect::Abort);
                }
                self.activity = Activity::Resting;
                self.journal.turn = None;
            }
        }
        debug_assert!(out.payloads.is_empty(), "every event of a step is appended");
        out.effects
    }

    fn begin(&mut self, out: &mut Out, begin: Begin) {
        if self.is_busy() {
            return;
        }
        self.settings = begin.settings;
        self.cancel = begin.cancel_requested;
        let waiting = self
            .journal
            .inputs
            .iter()
            .find(|message| message.id == begin.message_id || text_of(message) == begin.text);
        let input_message_id = match waiting {
            Some(message) => message.id,
            None => {
                let content = vec![ContentPart::Text { text: clean(begin.text) }];
                let message = Message { id: begin.message_id, role: MessageRole::User, content };
                self.emit(out, Payload::InputMessage { message });
                begin.message_id
            }
        };
        let turn_id = begin.task_id.into();
        self.emit(out, Payload::TurnStarted { turn_id, input_message_id });
        self.emit(out, Payload::SessionActivated { turn_id });
        self.advance(out);
    }

    fn resume(&mut self, out: &mut Out, resume: Resume) {
        if self.is_busy() {
            return;
        }
        let Some(turn) = &self.journal.turn else { return };
        self.settings = resume.settings;
        self.cancel = resume.cancel_requested;
        let lost: Vec<ToolCall> = match turn.position {
            Position::Answered { .. } => {
                let open = self.journal.conversation.open_calls();
                open.filter(|call| turn.started.contains(&call.id)).cloned().collect()
            }
            Position::Between | Position::Reasoning | Position::Compacting | Position::Ended(_) => Vec::new(),
        };
        for call in lost {
            self.emit(out, completed(&call, ToolStatus::Interrupted, INTERRUPTED, 0));
        }
        self.advance(out);
    }

    /// Goes on from where the journal stands.
    fn advance(&mut self, out: &mut Out) {
        let Some(turn) = &self.journal.turn else { return };
        match turn.position {
            Position::Between => self.next_iteration(out),
            Position::Reasoning if self.cancel => self.stop_turn(out, Stop::Cancelled),
            Position::Reasoning => self.announced_call(out, Purpose::Reason),
            Position::Answered { stop_reason, completed } => self.follow_answer(out, stop_reason, completed),
            Position::Compacting if self.cancel => self.stop_turn(out, Stop::Cancelled),
            Position::Compacting => {
                let purpose = self.compaction(false);
                self.announced_call(out, purpose);
            }
            Position::Ended(outcome) => {
                let turn_id = turn.id;
                self.emit(out, Payload::SessionIdled { turn_id });
                self.journal_then(out, Then::Rest(outcome));
            }
        }
    }

    fn next_iteration(&mut self, out: &mut Out) {
        let Some(turn) = &self.journal.turn else { return };
        let iteration = turn.iterations.saturating_add(1);
        if self.cancel {
            self.stop_turn(out, Stop::Cancelled);
        } else if iteration > self.settings.iterations_max {
            let error = format!("the task reached its limit of {} model calls", self.settings.iterations_max);
            self.fail(out, TurnErrorCode::MaxIterations, error);
        } else if !turn.compacted && self.journal.conversation.tokens() > self.settings.context_tokens_max {
            self.compact(out, false);
        } else {
            self.emit(out, Payload::ReasonStarted { iteration });
            self.journal_then(out, Then::Call(Call { purpose: Purpose::Reason, attempt: 1 }));
        }
    }

    fn compact(&mut self, out: &mut Out, forced: bool) {
        let conversation = &self.journal.conversation;
        let payload = Payload::ContextCompacting {
            context_tokens: conversation.tokens(),
            messages_before: count(conversation.message_count()),
        };
        let purpose = self.compaction(forced);
        self.emit(out, payload);
        self.journal_then(out, Then::Call(Call { purpose, attempt: 1 }));
    }

    fn compaction(&self, forced: bool) -> Purpose {
        let first_kept = compaction::first_kept(&self.journal.conversation, self.settings.context_tokens_max);
        Purpose::Compact { first_kept, halvings: 0, forced }
    }

    /// Follows an answer that is in the journal: its tools, its ending, or the next call.
    fn follow_answer(&mut self, out: &mut Out, stop_reason: StopReason, is_completed: bool) {
        let entry = self.journal.conversation.entries().last();
        let tool_call_count = entry.map_or(0, |entry| calls(&entry.message).count());
        if !is_completed {
            let tool_call_count = count(tool_call_count);
            self.emit(
                out,
                Payload::ReasonCompleted {
                    success: true,
                    error: None,
                    tool_call_count,
                    duration_ms: 0,
                    attempts: 1,
                },
            );
        }
        if tool_call_count == 0 {
            return match stop_reason {
                StopReason::EndTurn | StopReason::ToolUse => self.complete(out, TerminationReason::EndTurn),
                StopReason::Refusal => self.complete(out, TerminationReason::Refusal),
                StopReason::MaxTokens => self.next_iteration(out),
            };
        }
        let queue: VecDeque<ToolCall> = self.journal.conversation.open_calls().cloned().collect();
        if queue.is_empty() {
            return self.next_iteration(out);
        }
        for tool_call in queue.iter().cloned() {
            self.emit(out, Payload::ToolStarted { tool_call });
        }
        self.journal_then(out, Then::Act(queue));
    }

    fn acknowledged(&mut self, out: &mut Out, acknowledged: u64) {
        let Activity::Journalling { batch, .. } = self.activity else { return };
        if acknowledged < batch {
            return;
        }
        match std::mem::take(&mut self.activity) {
            Activity::Journalling { then: Then::Call(_), .. } if self.cancel => {
                self.stop_turn(out, Stop::Cancelled);
            }
            Activity::Journalling { then: Then::Call(call), .. } => self.call(out, call),
            Activity::Journalling { then: Then::Act(queue), .. } => self.act(out, queue),
            Activity::Journalling { then: Then::Rest(outcome), .. } => {
                out.effects.push(Effect::Finished(outcome));
            }
            Activity::Resting | Activity::Calling(_) | Activity::Waiting(_) | Activity::Acting { .. } => {}
        }
    }

    fn call(&mut self, out: &mut Out, call: Call) {
        let conversation = &self.journal.conversation;
        let request = match call.purpose {
            Purpose::Reason => {
                let input = self.journal.turn.as_ref().map(|turn| &*turn.input);
                let items = conversation.items(input);
                ModelRequest { kind: RequestKind::Reason, attempt: call.attempt, items }
            }
            Purpose::Compact { first_kept, halvings, .. } => {
                compaction::request(conversation, first_kept, halvings, call.attempt)
            }
        };
        out.effects.push(Effect::CallModel(request));
        self.activity = Activity::Calling(call);
    }

    /// A call whose announcement is durable already, after a restart.
    fn announced_call(&mut self, out: &mut Out, purpose: Purpose) {
        // Attempts are counted on, so that an agent that dies again and again does not ask for ever.
        let attempt = self.journal.turn.as_ref().map_or(1, |turn| turn.retries.saturating_add(1));
        if out.payloads.is_empty() {
            self.call(out, Call { purpose, attempt });
        } else {
            self.journal_then(out, Then::Call(Call { purpose, attempt }));
        }
    }

    fn answered(&mut self, out: &mut Out, answer: Answer) {
        let Activity::Calling(call) = self.activity else { return };
        if let Err(failure) = acceptable(&answer, call) {
            return self.failed(out, &failure);
        }
        match call.purpose {
            Purpose::Reason => self.reasoned(out, answer, call.attempt),
            Purpose::Compact { first_kept, .. } => {
                let entries = self.journal.conversation.entries();
                let kept = first_kept
                    .and_then(|id| entries.iter().position(|entry| entry.message.id == id))
                    .map_or(0, |index| entries.len() - index);
                let payload = Payload::ContextCompacted {
                    summary: clean(text_of(&answer.message)),
                    first_kept_message_id: first_kept,
                    messages_before: count(self.journal.conversation.message_count()),
                    messages_after: count(kept + 1),
                    usage: answer.usage,
                    checkpoint: self.journal.checkpoint(),
                };
                self.emit(out, payload);
                self.advance(out);
            }
        }
    }

    fn reasoned(&mut self, out: &mut Out, mut answer: Answer, attempts: u32) {
        let Some(turn) = &self.journal.turn else { return };
        clean_message(&mut answer.message);
        name_calls_apart(&mut answer.message, turn);
        let tool_call_count = count(calls(&answer.message).count());
        let Answer { message, model, usage, stop_reason, duration_ms } = answer;
        self.emit(out, Payload::OutputMessageCompleted { message, model, usage, stop_reason });
        self.emit(
            out,
            Payload::ReasonCompleted { success: true, error: None, tool_call_count, duration_ms, attempts },
        );
        self.advance(out);
    }

    fn failed(&mut self, out: &mut Out, failure: &Failure) {
        let Activity::Calling(call) = self.activity else { return };
        let retry = failure.retry_in.filter(|_| call.attempt < MODEL_ATTEMPTS_MAX);
        match (call.purpose, retry) {
            (_, Some(_)) if self.cancel => self.stop_turn(out, Stop::Cancelled),
            (_, Some(delay)) => {
                let payload = Payload::LlmRetrying {
                    attempt: call.attempt,
                    error: clean(failure.message.clone()),
                    error_code: failure.kind.error_code(),
                    wait_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                };
                self.emit(out, payload);
                // Nothing depends on its being durable: the wait begins at once.
                self.flush(out);
                out.effects.push(Effect::Wait { delay });
                self.activity = Activity::Waiting(call);
            }
            (Purpose::Reason, None) => self.reason_failed(out, call, failure),
            (Purpose::Compact { first_kept, halvings, forced }, None)
                if failure.kind == FailureKind::TooLong && halvings < compaction::HALVINGS_MAX =>
            {
                let purpose = Purpose::Compact { first_kept, halvings: halvings + 1, forced };
                self.call(out, Call { purpose, attempt: 1 });
            }
            (Purpose::Compact { forced, .. }, None) => {
                self.emit(out, Payload::ContextCompactionFailed { error: clean(failure.message.clone()) });
                if forced {
                    let error = "the conversation is too long for the model, and could not be shortened";
                    self.fail(out, TurnErrorCode::RequestTooLarge, error.into());
                } else {
                    self.advance(out);
                }
            }
        }
    }

    fn reason_failed(&mut self, out: &mut Out, call: Call, failure: &Failure) {
        self.emit(out, not_reasoned(failure.message.clone(), failure.duration_ms, call.attempt));
        let compacted = self.journal.turn.as_ref().is_none_or(|turn| turn.compacted);
        if failure.kind == FailureKind::TooLong && !compacted && !self.cancel {
            self.compact(out, true);
        } else {
            self.fail(out, failure.kind.error_code(), failure.message.clone());
        }
    }

    /// Runs the queue, one tool after the other. Its `tool.started` events are durable.
    fn act(&mut self, out: &mut Out, mut queue: VecDeque<ToolCall>) {
        while let Some(call) = queue.pop_front() {
            if let Some(why) = self.refusal(&call) {
                self.emit(out, completed(&call, ToolStatus::Error, &why, 0));
                continue;
            }
            self.flush(out);
            out.effects.push(Effect::RunTool(call.clone()));
            self.activity = Activity::Acting { running: call, queue };
            return;
        }
        self.advance(out);
    }

    fn refusal(&self, call: &ToolCall) -> Option<String> {
        if !self.settings.tools.contains(&call.name.as_str()) {
            let there = self.settings.tools.join(", ");
            return Some(format!("There is no tool of this name. The tools are: {there}."));
        }
        (!call.arguments.is_object())
            .then(|| "The arguments are not a JSON object. Send the call again with valid arguments.".into())
    }

    fn tool_ended(&mut self, out: &mut Out, outcome: &ToolOutcome) {
        if !matches!(self.activity, Activity::Acting { .. }) {
            return;
        }
        if let Activity::Acting { running, queue } = std::mem::take(&mut self.activity) {
            self.emit(out, completed(&running, outcome.status, &outcome.result, outcome.duration_ms));
            self.act(out, queue);
        }
    }

    fn cancel_asked(&mut self, out: &mut Out) {
        self.cancel = true;
        match self.activity {
            // Nothing of a step is under way that would be worth finishing.
            Activity::Waiting(_) | Activity::Calling(Call { purpose: Purpose::Compact { .. }, .. }) => {
                out.effects.push(Effect::Abort);
                self.stop_turn(out, Stop::Cancelled);
            }
            Activity::Resting
            | Activity::Journalling { .. }
            | Activity::Calling(_)
            | Activity::Acting { .. } => {}
        }
    }

    /// Stops the step that is under way.
    fn stop(&mut self, out: &mut Out, stop: Stop) {
        match std::mem::take(&mut self.activity) {
            Activity::Resting => return,
            // The ending is on its way already.
            ending @ Activity::Journalling { then: Then::Rest(_), .. } => {
                self.activity = ending;
                return;
            }
            Activity::Journalling { .. } => {}
            Activity::Calling(_) | Activity::Waiting(_) => out.effects.push(Effect::Abort),
            Activity::Acting { running, .. } => {
                out.effects.push(Effect::Abort);
                let (status, text) = match stop {
                    Stop::Cancelled => (ToolStatus::Cancelled, "The task was cancelled while the tool ran."),
                    Stop::TimeUp => (ToolStatus::Timeout, "The task's time was up while the tool ran."),
                };
                self.emit(out, completed(&running, status, text, 0));
            }
        }
        self.stop_turn(out, stop);
    }

    /// Ends the turn where it stands, leaving nothing open.
    fn stop_turn(&mut self, out: &mut Out, stop: Stop) {
        let Some(turn) = &self.journal.turn else { return };
        let turn_id = turn.id;
        let why = match stop {
            Stop::Cancelled => "the task was cancelled",
            Stop::TimeUp => "the task's time was up",
        };
        match turn.position {
            Position::Between | Position::Ended(_) => {}
            Position::Reasoning => self.emit(out, not_reasoned(why.into(), 0, 0)),
            Position::Compacting => {
                self.emit(out, Payload::ContextCompactionFailed { error: why.into() });
            }
            Position::Answered { .. } => {
                let open: Vec<ToolCall> = self.journal.conversation.open_calls().cloned().collect();
                for call in open {
                    self.emit(out, completed(&call, ToolStatus::Cancelled, "Not run: the task ended.", 0));
                }
            }
        }
        match stop {
            Stop::Cancelled => {
                self.emit(out, Payload::TurnCancelled { turn_id, reason: why.into() });
                self.advance(out);
            }
            Stop::TimeUp => self.fail(out, TurnErrorCode::Timeout, why.into()),
        }
    }

    fn complete(&mut self, out: &mut Out, termination_reason: TerminationReason) {
        let Some(turn) = &self.journal.turn else { return };
        let elapsed = out.now.as_millisecond() - turn.started_at.as_millisecond();
        let payload = Payload::TurnCompleted {
            turn_id: turn.id,
            iterations: turn.iterations,
            duration_ms: u64::try_from(elapsed).unwrap_or(0),
            usage: turn.usage,
            termination_reason,
        };
        self.emit(out, payload);
        self.advance(out);
    }

    fn fail(&mut self, out: &mut Out, error_code: TurnErrorCode, error: String) {
        let Some(turn) = &self.journal.turn else { return };
        let turn_id = turn.id;
        self.emit(out, Payload::TurnFailed { turn_id, error: clean(error), error_code });
        self.advance(out);
    }

    fn emit(&mut self, out: &mut Out, payload: Payload) {
        self.journal.apply(out.now, &payload);
        out.payloads.push(payload);
    }

    fn flush(&mut self, out: &mut Out) {
        if !out.payloads.is_empty() {
            self.last_batch += 1;
            let payloads = std::mem::take(&mut out.payloads);
            out.effects.push(Effect::Append { batch: self.last_batch, payloads });
        }
    }

    fn journal_then(&mut self, out: &mut Out, then: Then) {
        self.flush(out);
        self.activity = Activity::Journalling { batch: self.last_batch, then };
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn completed(call: &ToolCall, status: ToolStatus, result: &str, duration_ms: u64) -> Payload {
    Payload::ToolCompleted {
        tool_call_id: call.id.clone(),
        tool_name: call.name.clone(),
        status,
        result: clean(compaction::cut_middle(result, TOOL_RESULT_BYTES_MAX)),
        duration_ms,
    }
}

fn not_reasoned(error: String, duration_ms: u64, attempts: u32) -> Payload {
    Payload::ReasonCompleted {
        success: false,
        error: Some(clean(error)),
        tool_call_count: 0,
        duration_ms,
        attempts,
    }
}

/// Whether an answer says anything that can be followed.
fn acceptable(answer: &Answer, call: Call) -> Result<(), Failure> {
    let call_count = calls(&answer.message).count();
    let says_something = answer.stop_reason == StopReason::Refusal
        || !text_of(&answer.message).trim().is_empty()
        || (call_count > 0 && call.purpose == Purpose::Reason);
    let message = if !says_something {
        "the model's answer was empty".to_owned()
    } else if call_count > TOOL_CALLS_MAX {
        format!("the model's answer had {call_count} tool calls; at most {TOOL_CALLS_MAX} are followed")
    } else if message_bytes(&answer.message) > ANSWER_BYTES_MAX {
        format!("the model's answer was longer than {ANSWER_BYTES_MAX} bytes")
    } else {
        return Ok(());
    };
    let retry_in = (call.attempt <= EMPTY_ANSWER_RETRIES_MAX).then_some(EMPTY_ANSWER_DELAY);
    Err(Failure { kind: FailureKind::Unavailable, message, retry_in, duration_ms: answer.duration_ms })
}

/// Gives calls whose id is empty or was used in this turn an id of their own: a result belongs to one call only.
fn name_calls_apart(message: &mut Message, turn: &Turn) {
    let mut seen = std::collections::HashSet::new();
    for part in &mut message.content {
        if let ContentPart::ToolCall(call) = part {
            let mut number = turn.call_ids.len() + seen.len();
            while call.id.is_empty() || turn.call_ids.contains(&call.id) || seen.contains(&call.id) {
                number += 1;
                call.id = format!("call_{}_{number}", turn.iterations);
            }
            seen.insert(call.id.clone());
        }
    }
}
