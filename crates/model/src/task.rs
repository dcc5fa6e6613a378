//! Tasks and the only function that changes their phase.
//!
//! ```text
//!   submitted --> delivered --> running <--> compacting
//!       |             |            |             |
//!       |             |            +-------------+--> completed | failed | cancelled
//!       +-------------+--> delivery_failed | cancelled
//! ```

use crate::{
    MemberId, Next, OrganizationId, SessionId, TaskId, Timestamp, WorkspaceId, role::ThinkingEffort, slugs,
};

slugs! {
    /// The phase of a task: what its `status` says.
    Phase {
        /// Stored, and waiting for the agent to be free.
        Submitted => "submitted",
        /// Handed to the agent, which has not begun yet.
        Delivered => "delivered",
        /// The agent works on it.
        Running => "running",
        /// The agent is shortening its conversation to go on.
        Compacting => "compacting",
        /// The agent finished.
        Completed => "completed",
        /// The agent could not finish; `reason` says why.
        Failed => "failed",
        /// Somebody cancelled it, or stopped its workspace.
        Cancelled => "cancelled",
        /// The agent never took it.
        DeliveryFailed => "delivery_failed",
    }
}

slugs! {
    /// What can happen to a task.
    Event {
        /// It was handed to a connected agent.
        HandedOver => "handed_over",
        /// The agent began its turn.
        Started => "started",
        /// The agent began to compact its conversation.
        CompactionStarted => "compaction_started",
        /// The agent finished compacting, with or without success.
        CompactionEnded => "compaction_ended",
        /// The turn completed.
        Completed => "completed",
        /// The turn failed.
        Failed => "failed",
        /// The turn was cancelled, or the task before it began.
        Cancelled => "cancelled",
        /// The agent could not be reached for too long.
        Undeliverable => "undeliverable",
    }
}

impl Phase {
    /// Whether nothing more happens to a task in this phase.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::DeliveryFailed)
    }
}

/// The only place where a task's phase changes. Nothing is denied: what comes late or twice is ignored, and a terminal
/// phase is final.
pub fn next(phase: Phase, event: Event) -> Next<Phase> {
    use Event as E;
    use Phase::{Cancelled, Compacting, Completed, Delivered, DeliveryFailed, Failed, Running, Submitted};
    match (phase, event) {
        (Submitted, E::HandedOver) => Next::Go(Delivered),
        (Submitted | Delivered, E::Started) => Next::Go(Running),
        (Submitted | Delivered, E::Undeliverable) => Next::Go(DeliveryFailed),
        (Running, E::CompactionStarted) => Next::Go(Compacting),
        (Compacting, E::CompactionEnded) => Next::Go(Running),
        (Running | Compacting, E::Completed) => Next::Go(Completed),
        (Submitted | Delivered | Running | Compacting, E::Failed) => Next::Go(Failed),
        (Submitted | Delivered | Running | Compacting, E::Cancelled) => Next::Go(Cancelled),

        (Submitted, E::CompactionStarted | E::CompactionEnded | E::Completed)
        | (Delivered, E::HandedOver | E::CompactionStarted | E::CompactionEnded | E::Completed)
        | (Running, E::HandedOver | E::Started | E::CompactionEnded | E::Undeliverable)
        | (Compacting, E::HandedOver | E::Started | E::CompactionStarted | E::Undeliverable)
        | (Completed | Failed | Cancelled | DeliveryFailed, _) => Next::Ignore,
    }
}

/// What the submitter may set for one task; what is absent comes from the role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// How hard the model should think.
    pub thinking_effort: Option<ThinkingEffort>,
    /// The most model calls in the task.
    pub max_continuations: Option<u32>,
    /// The most tokens of conversation before compaction.
    pub max_context_tokens: Option<u64>,
}

/// A piece of work submitted to a workspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// The workspace it was submitted to.
    pub workspace_id: WorkspaceId,
    /// The session it is a turn of; with `reset_session`, a new one.
    pub session_id: SessionId,
    /// The prompt.
    pub description: String,
    /// Where it stands.
    pub phase: Phase,
    /// What its submitter set.
    pub overrides: Overrides,
    /// The submitter's own data, returned as it came.
    pub metadata: Option<serde_json::Value>,
    /// Who submitted it; absent for an API key.
    pub created_by: Option<MemberId>,
    /// Whether cancellation was asked for.
    pub cancel_requested: bool,
    /// Why it ended as it did.
    pub reason: Option<String>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When the agent began.
    pub started_at: Option<Timestamp>,
    /// When it reached a terminal phase.
    pub completed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_table_of_phases_and_events_is_the_golden_one() {
        let mut table = String::new();
        for &phase in Phase::ALL {
            for &event in Event::ALL {
                let answer = match next(phase, event) {
                    Next::Go(to) => format!("-> {to}"),
                    Next::Ignore => "ignore".to_owned(),
                };
                writeln!(table, "{phase:15} {event:18} {answer}").unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_terminal_phase_is_final() {
        for &phase in Phase::ALL.iter().filter(|phase| phase.is_terminal()) {
            for &event in Event::ALL {
                assert_eq!(next(phase, event), Next::Ignore);
            }
        }
    }
}
