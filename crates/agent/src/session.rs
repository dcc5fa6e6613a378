//! The conversation in memory: the state that the journal adds up to, and how far the journal was read.

use std::collections::HashSet;

use freehold_model::{EventId, SessionId, event::SessionEvent};
use freehold_turn::State;

use crate::journal::Durable;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) state: State,
    /// Every event up to this sequence is in `state`.
    read_to: u64,
    /// Events beyond that which are in `state` because we wrote them. Somebody else's event lies between.
    own: HashSet<EventId>,
}

impl Session {
    /// A conversation that is read after this sequence.
    pub(crate) fn new(id: SessionId, journal_after: u64) -> Self {
        Self { id, state: State::default(), read_to: journal_after, own: HashSet::new() }
    }

    pub(crate) const fn read_to(&self) -> u64 {
        self.read_to
    }

    /// Folds a page of the journal. Only while no turn is under way.
    pub(crate) fn read(&mut self, events: &[SessionEvent]) {
        for event in events {
            let sequence = event.sequence.unwrap_or(0);
            if sequence <= self.read_to {
                continue;
            }
            if !self.own.remove(&event.id) {
                self.state.fold(event);
            }
            self.read_to = sequence;
        }
    }

    /// Nothing is missing up to here.
    pub(crate) fn complete(&mut self, sequence: u64) {
        self.read_to = self.read_to.max(sequence);
    }

    /// Our own events became durable.
    pub(crate) fn wrote(&mut self, durable: &Durable) {
        for &(id, sequence) in &durable.events {
            if sequence == self.read_to + 1 {
                self.read_to = sequence;
            } else if sequence > self.read_to {
                self.own.insert(id);
            }
        }
    }
}
