//! Batches of events on their way to the control plane.

use std::collections::VecDeque;

use freehold_model::event::SessionEvent;
use freehold_model::{EventId, SessionId};
use freehold_pod_api::FromAgent;

/// A batch that is not acknowledged.
#[derive(Debug)]
struct Outstanding {
    request: u64,
    batch: u64,
    /// The whole message, kept for a repetition.
    message: FromAgent,
}

/// A batch that is durable.
#[derive(Debug)]
pub(crate) struct Durable {
    pub(crate) batch: u64,
    pub(crate) events: Vec<(EventId, u64)>,
}

/// What was appended and is not acknowledged. Bounded by `turn`, which waits for an acknowledgement in every step.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    outstanding: VecDeque<Outstanding>,
}

impl Journal {
    pub(crate) fn is_settled(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Takes a batch; returns the message to send.
    pub(crate) fn append(
        &mut self,
        request: u64,
        batch: u64,
        session_id: SessionId,
        events: Vec<SessionEvent>,
    ) -> &FromAgent {
        let message = FromAgent::Append { request, session_id, events };
        self.outstanding.push_back(Outstanding { request, batch, message });
        &self.outstanding[self.outstanding.len() - 1].message
    }

    /// Everything to say again after a reconnect, in order.
    pub(crate) fn repeat(&self) -> impl Iterator<Item = &FromAgent> {
        self.outstanding.iter().map(|outstanding| &outstanding.message)
    }

    /// Takes an acknowledgement into account. One of an unknown request, or of a batch before which another is open,
    /// changes nothing: batches become durable in order.
    pub(crate) fn acknowledge(&mut self, request: u64, sequences: &[u64]) -> Option<Durable> {
        if self.outstanding.front()?.request != request {
            return None;
        }
        let Outstanding { batch, message, .. } = self.outstanding.pop_front()?;
        let FromAgent::Append { events, .. } = message else { return None };
        let events = events.iter().map(|event| event.id).zip(sequences.iter().copied()).collect();
        Some(Durable { batch, events })
    }

    /// Whether this request is open.
    pub(crate) fn has(&self, request: u64) -> bool {
        self.outstanding.iter().any(|outstanding| outstanding.request == request)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.outstanding.clear();
    }
}
