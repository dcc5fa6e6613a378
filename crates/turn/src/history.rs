//! What is remembered of the past of a session: the newest turns, for the session view, and a checkpoint at each
//! compaction, for an agent that starts anew.

use std::sync::Arc;

use freehold_model::{
    checkpoint::{Checkpoint, OpenTurn},
    event::Message,
};

use crate::{
    conversation::message_bytes,
    journal::{Journal, Position, Turn},
};

/// The most turns remembered; older ones are in the durable record.
pub const TASK_HISTORY_MAX: usize = 200;

/// The most characters that are remembered of why a turn failed.
pub(crate) const TURN_ERROR_CHARS_MAX: usize = 1000;

/// The most bytes of messages, call ids and errors in a checkpoint. JSON makes at most six of each, which a pod-api frame
/// holds; beyond it there is no checkpoint, and an agent that starts anew reads from the one before.
const CHECKPOINT_BYTES_MAX: usize = 1024 * 1024;

impl Journal {
    /// What the journal says apart from the conversation; none when no turn is open or it is too long.
    pub(crate) fn checkpoint(&self) -> Option<Box<Checkpoint>> {
        let turn = self.turn.as_ref()?;
        let mut call_ids: Vec<String> = turn.call_ids.iter().cloned().collect();
        call_ids.sort_unstable();
        let messages = self.inputs.iter().chain([&turn.input]).map(|message| message_bytes(message));
        let errors = self.history.iter().filter_map(|record| record.error.as_deref());
        let bytes: usize = messages.chain(call_ids.iter().map(String::len)).chain(errors.map(str::len)).sum();
        (bytes <= CHECKPOINT_BYTES_MAX).then(|| {
            Box::new(Checkpoint {
                iterations: self.iterations,
                compactions: self.compactions,
                turns: self.history.iter().cloned().collect(),
                open: OpenTurn {
                    turn_id: turn.id,
                    input: Message::clone(&turn.input),
                    started_at: turn.started_at,
                    iterations: turn.iterations,
                    usage: turn.usage,
                    call_ids,
                },
                inputs: self.inputs.iter().map(|message| Message::clone(message)).collect(),
            })
        })
    }

    /// Takes a checkpoint's word for what came before it. Where the journal was read from its beginning, that is what is
    /// known already.
    pub(crate) fn restore(&mut self, checkpoint: &Checkpoint) {
        let Checkpoint { iterations, compactions, turns, open, inputs } = checkpoint;
        self.iterations = *iterations;
        self.compactions = *compactions;
        self.history = turns.iter().skip(turns.len().saturating_sub(TASK_HISTORY_MAX)).cloned().collect();
        // Somebody else's message may have come in unknown to the writer.
        let unknown: Vec<Arc<Message>> =
            self.inputs.drain(..).filter(|known| inputs.iter().all(|input| input.id != known.id)).collect();
        self.inputs.extend(inputs.iter().cloned().map(Arc::new).chain(unknown));
        self.context.turn_id = Some(open.turn_id);
        self.context.input_message_id = Some(open.input.id);
        self.turn = Some(Turn {
            id: open.turn_id,
            input: Arc::new(open.input.clone()),
            started_at: open.started_at,
            iterations: open.iterations,
            usage: open.usage,
            position: Position::Compacting,
            call_ids: open.call_ids.iter().cloned().collect(),
            // Between two model calls every call has its result.
            started: std::collections::HashSet::new(),
            retries: 0,
            compacted: false,
        });
    }
}
