//! What the journal says: the conversation, the turns, and the position in the open turn. One function applies events,
//! new and old alike.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use freehold_model::{
    MessageId, Timestamp, TurnId,
    checkpoint::{TurnRecord, TurnStatus},
    event::{Context, Message, Payload, StopReason, Usage},
};

use crate::{
    Conversation, Outcome, TASK_HISTORY_MAX, ToolResult, conversation::calls, history::TURN_ERROR_CHARS_MAX,
};

/// The most input messages that wait for their turn; the oldest is forgotten beyond that.
const INPUTS_WAITING_MAX: usize = 1024;

/// Where the open turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    /// Before a model call.
    Between,
    /// `reason.started` without an answer.
    Reasoning,
    /// The model answered; the tools of the answer may be under way.
    Answered { stop_reason: StopReason, completed: bool },
    /// `context.compacting` without an end.
    Compacting,
    /// The turn has ended; `session.idled` is missing.
    Ended(Outcome),
}

/// The open turn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    pub(crate) id: TurnId,
    pub(crate) input: Arc<Message>,
    pub(crate) started_at: Timestamp,
    pub(crate) iterations: u32,
    pub(crate) usage: Usage,
    pub(crate) position: Position,
    /// The ids of the calls of this turn.
    pub(crate) call_ids: HashSet<String>,
    /// Those whose `tool.started` is journalled.
    pub(crate) started: HashSet<String>,
    /// Attempts of the present model call that failed and were announced to be repeated.
    pub(crate) retries: u32,
    /// Whether compaction was tried since the last answer, so that it is not tried for ever.
    pub(crate) compacted: bool,
}

/// Everything the journal says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Journal {
    pub(crate) conversation: Conversation,
    pub(crate) inputs: VecDeque<Arc<Message>>,
    pub(crate) turn: Option<Turn>,
    /// Of the open turn, or of the last one.
    pub(crate) context: Context,
    pub(crate) history: VecDeque<TurnRecord>,
    pub(crate) iterations: u64,
    pub(crate) compactions: u64,
}

impl Journal {
    /// Takes one event into account. Events that make no sense where they stand change nothing.
    pub(crate) fn apply(&mut self, ts: Timestamp, payload: &Payload) {
        match payload {
            Payload::SessionStarted { .. } | Payload::SessionActivated { .. } => {}
            Payload::InputMessage { message } => {
                if self.inputs.len() == INPUTS_WAITING_MAX {
                    self.inputs.pop_front();
                }
                self.inputs.push_back(Arc::new(message.clone()));
            }
            Payload::TurnStarted { turn_id, input_message_id } => self.begin(ts, *turn_id, *input_message_id),
            Payload::ReasonStarted { .. }
            | Payload::OutputMessageCompleted { .. }
            | Payload::ReasonCompleted { .. } => self.apply_reason(payload),
            Payload::LlmRetrying { attempt, .. } => {
                if let Some(turn) = &mut self.turn {
                    turn.retries = *attempt;
                }
            }
            Payload::ToolStarted { tool_call } => {
                if let Some(turn) = &mut self.turn {
                    turn.started.insert(tool_call.id.clone());
                }
            }
            Payload::ToolCompleted { tool_call_id, tool_name, status, result, .. } => {
                self.conversation.push_result(ToolResult {
                    tool_call_id: tool_call_id.clone(),
                    tool_name: tool_name.clone(),
                    status: *status,
                    text: result.clone(),
                });
            }
            Payload::ContextCompacting { .. }
            | Payload::ContextCompacted { .. }
            | Payload::ContextCompactionFailed { .. } => self.apply_compaction(payload),
            Payload::TurnCompleted { turn_id, .. } => {
                self.end(ts, *turn_id, Outcome::Completed, TurnStatus::Completed, None);
            }
            Payload::TurnFailed { turn_id, error, error_code } => {
                self.end(ts, *turn_id, Outcome::Failed(*error_code), TurnStatus::Failed, Some(error));
            }
            Payload::TurnCancelled { turn_id, reason } => {
                self.end(ts, *turn_id, Outcome::Cancelled, TurnStatus::Cancelled, Some(reason));
            }
            Payload::SessionIdled { turn_id } => {
                if self.turn.as_ref().is_some_and(|turn| turn.id == *turn_id) {
                    self.turn = None;
                }
            }
        }
    }

    fn begin(&mut self, ts: Timestamp, id: TurnId, input: MessageId) {
        // Inputs are first in, first out: what lies before this one was cancelled before it began.
        let Some(index) = self.inputs.iter().position(|message| message.id == input) else { return };
        self.inputs.drain(..index);
        let Some(input) = self.inputs.pop_front() else { return };
        self.conversation.push(input.clone(), None);
        self.context = Context { turn_id: Some(id), input_message_id: Some(input.id) };
        if self.history.len() == TASK_HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(TurnRecord {
            task_id: id.into(),
            status: TurnStatus::Running,
            started_at: ts,
            ended_at: None,
            iterations: 0,
            usage: Usage::default(),
            error: None,
        });
        self.turn = Some(Turn {
            id,
            input,
            started_at: ts,
            iterations: 0,
            usage: Usage::default(),
            position: Position::Between,
            call_ids: HashSet::new(),
            started: HashSet::new(),
            retries: 0,
            compacted: false,
        });
    }

    fn apply_reason(&mut self, payload: &Payload) {
        let Some(turn) = &mut self.turn else {
            // A journal that is read from a compaction's first message on: its turn comes with the checkpoint.
            if let Payload::OutputMessageCompleted { message, usage, .. } = payload {
                self.conversation.push(Arc::new(message.clone()), usage.as_ref());
            }
            return;
        };
        match payload {
            Payload::ReasonStarted { iteration } => {
                turn.iterations = *iteration;
                turn.position = Position::Reasoning;
                turn.retries = 0;
                self.iterations = self.iterations.saturating_add(1);
                if let Some(record) = self.history.back_mut() {
                    record.iterations = *iteration;
                }
            }
            Payload::OutputMessageCompleted { message, usage, stop_reason, .. } => {
                turn.position = Position::Answered { stop_reason: *stop_reason, completed: false };
                turn.compacted = false;
                turn.call_ids.extend(calls(message).map(|call| call.id.clone()));
                self.conversation.push(Arc::new(message.clone()), usage.as_ref());
                self.add_usage(usage.as_ref());
            }
            Payload::ReasonCompleted { success, .. } => {
                turn.position = match turn.position {
                    Position::Answered { stop_reason, .. } => {
                        Position::Answered { stop_reason, completed: true }
                    }
                    Position::Reasoning if !success => Position::Between,
                    other => other,
                };
            }
            _ => {}
        }
    }

    fn apply_compaction(&mut self, payload: &Payload) {
        if let Payload::ContextCompacted { checkpoint: Some(checkpoint), .. } = payload {
            self.restore(checkpoint);
        }
        let Some(turn) = &mut self.turn else { return };
        match payload {
            Payload::ContextCompacting { .. } => {
                turn.position = Position::Compacting;
                turn.retries = 0;
            }
            Payload::ContextCompacted { summary, first_kept_message_id, usage, .. } => {
                turn.position = Position::Between;
                turn.compacted = true;
                self.compactions = self.compactions.saturating_add(1);
                self.conversation.compact(summary, *first_kept_message_id);
                self.add_usage(usage.as_ref());
            }
            Payload::ContextCompactionFailed { .. } => {
                turn.position = Position::Between;
                turn.compacted = true;
            }
            _ => {}
        }
    }

    fn add_usage(&mut self, usage: Option<&Usage>) {
        let Some(usage) = usage else { return };
        if let Some(turn) = &mut self.turn {
            turn.usage.add(usage);
        }
        if let Some(record) = self.history.back_mut() {
            record.usage.add(usage);
        }
    }

    fn end(&mut self, ts: Timestamp, id: TurnId, outcome: Outcome, status: TurnStatus, error: Option<&str>) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.id == id) {
            turn.position = Position::Ended(outcome);
        }
        if let Some(record) = self.history.iter_mut().rev().find(|record| record.task_id == id.into()) {
            record.status = status;
            record.ended_at = Some(ts);
            record.error = error.map(|error| error.chars().take(TURN_ERROR_CHARS_MAX).collect());
        }
    }
}
