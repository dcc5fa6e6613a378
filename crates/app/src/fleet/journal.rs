//! The journal: what agents append, and what follows from it for tasks and workspaces, in one transaction.

use freehold_model::{
    MessageId, SessionId, TaskId,
    audit::Actor,
    event::{Payload, SessionEvent},
    session::JournalSize,
    task::{self, Task},
    workspace::{self, Workspace},
};
use freehold_store::{CommittedEvent, Error as StoreError, OrgTx};

use super::{Fleet, HISTORY_STEP, Place, activity};
use crate::{
    Error,
    audit::{Cause, workspace_row},
    now,
    task::{advance_untold, end},
    workspace::transition,
};

/// How far back the first message that a compaction kept is looked for, in events; where it is not found, an agent that
/// starts anew reads from where it did before.
const KEPT_EVENTS_MAX: u64 = 4096;

/// The most characters of the reason for which a task ended.
const REASON_CHARS_MAX: usize = 4000;

/// How long a journal may become. What an agent says is written down on the server's disk, so that one which somebody took
/// over must not go on for ever. A task of 300 model calls with results of 30 KB each has about 10 MiB and 2,000 events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalLimits {
    /// Events from the hand-over of a task to that of the next.
    pub task_events: u64,
    /// Bytes from the hand-over of a task to that of the next, as JSON.
    pub task_bytes: u64,
    /// Events of a session.
    pub session_events: u64,
    /// Bytes of a session, as JSON.
    pub session_bytes: u64,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self {
            task_events: 100_000,
            task_bytes: 256 * 1024 * 1024,
            session_events: 1_000_000,
            session_bytes: 4 * 1024 * 1024 * 1024,
        }
    }
}

impl JournalLimits {
    /// Which limit a journal of this size is beyond, for people and agents.
    fn exceeded(&self, size: JournalSize) -> Option<String> {
        let Self { task_events, task_bytes, session_events, session_bytes } = *self;
        let over = |what, limit: u64, unit, hint| {
            Some(format!("the journal of the {what} would be longer than {limit} {unit}{hint}"))
        };
        let anew = "; `reset_session` with the next task begins a new one";
        match size {
            size if size.task_events > task_events => over("task", task_events, "events", ""),
            size if size.task_bytes > task_bytes => over("task", task_bytes, "bytes", ""),
            size if size.events > session_events => over("session", session_events, "events", anew),
            size if size.bytes > session_bytes => over("session", session_bytes, "bytes", anew),
            _ => None,
        }
    }
}

/// What became of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// Every event is durable.
    Committed {
        /// The sequence of each, in the order they came.
        sequences: Vec<u64>,
        /// Whether a turn ended with these events, so that the next task may be handed over.
        turn_ended: bool,
    },
    /// The turn they belong to has ended already; none was committed.
    TurnEnded,
    /// The session is closed or another workspace's; none was committed.
    UnknownSession,
    /// The journal would be longer than it may; none was committed, and the task has failed.
    TooLong {
        /// Which limit it is.
        reason: String,
    },
}

impl Fleet {
    /// Appends an agent's events. Appending the same events again answers as the first time did.
    pub async fn append(
        &self,
        place: Place,
        session: SessionId,
        mut events: Vec<SessionEvent>,
    ) -> Result<Appended, Error> {
        let limits = self.settings.journal;
        let append = move |rows: &mut OrgTx<'_>| append(rows, place, session, &mut events, limits);
        let refused = self.store.write(place.organization_id, append).await;
        match refused {
            Ok(appended) => Ok(appended),
            Err(Refused::Answer(answer)) => Ok(answer),
            Err(Refused::TooLong { task, reason }) => {
                tracing::warn!(workspace.id = %place.workspace_id, session.id = %session, reason, "an agent's events were refused");
                if let Some(task) = task {
                    self.fail_task(place, task, reason.clone()).await?;
                }
                Ok(Appended::TooLong { reason })
            }
            Err(Refused::Error(error)) => Err(error),
        }
    }

    /// Ends a task that was handed over, if it has not ended meanwhile.
    async fn fail_task(&self, place: Place, task: TaskId, reason: String) -> Result<(), Error> {
        self.store
            .write(place.organization_id, move |rows| {
                let current = rows.task_current(place.workspace_id)?.filter(|current| current.id == task);
                let workspace = rows.workspace_view(place.workspace_id)?;
                let (Some(task), Some(mut workspace)) = (current, workspace) else { return Ok(()) };
                let (cause, now) = (Cause::workspace(&workspace, Actor::ControlPlane), now());
                end(rows, &workspace, task, task::Event::Failed, &reason, &cause, now)?;
                transition(rows, &mut workspace, workspace::Event::TaskEnded, &cause, now).map(drop)
            })
            .await
    }
}

/// Why a transaction is rolled back: an answer that commits nothing is no error for the agent.
enum Refused {
    Answer(Appended),
    /// The journal would be too long; this task is under way.
    TooLong {
        task: Option<TaskId>,
        reason: String,
    },
    Error(Error),
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

fn append(
    rows: &mut OrgTx<'_>,
    place: Place,
    session_id: SessionId,
    events: &mut [SessionEvent],
    limits: JournalLimits,
) -> Result<Appended, Refused> {
    let session = rows.session_view(session_id)?;
    let workspace = rows.workspace_view(place.workspace_id)?;
    let (Some(session), Some(mut workspace)) = (session, workspace) else {
        return Err(Refused::Answer(Appended::UnknownSession));
    };
    let foreign = events.iter().any(|event| event.session_id != session_id);
    if foreign || session.workspace_id != workspace.id {
        return Err(Refused::Answer(Appended::UnknownSession));
    }
    // A pod's clock is what its agent says it is: nothing happened before its session or after now.
    let now = now();
    events.iter_mut().for_each(|event| event.ts = event.ts.min(now).max(session.created_at));
    let events = &*events;
    let committed = rows.session_events_append(session_id, events)?;
    if session.finished_at.is_some() && committed.iter().any(|event| event.is_new) {
        return Err(Refused::Answer(Appended::UnknownSession));
    }
    let mut size = session.summary.journal;
    committed.iter().filter(|event| event.is_new).for_each(|event| size.add(event.bytes));
    let exceeded = limits.exceeded(size).filter(|_| committed.iter().any(|event| event.is_new));
    if let Some(reason) = exceeded {
        let task = rows.task_current(workspace.id)?.map(|task| task.id);
        return Err(Refused::TooLong { task, reason });
    }
    remember_compaction(rows, session_id, events, &committed)?;
    let cause = Cause::workspace(&workspace, Actor::Agent);
    let mut turn_ended = false;
    for (event, committed) in events.iter().zip(&committed) {
        if !committed.is_new {
            turn_ended |= ends_turn(&event.payload);
            continue;
        }
        if let Some(mut task) = task_of(rows, event)? {
            if task.workspace_id != workspace.id || task.session_id != session_id {
                return Err(Refused::Answer(Appended::UnknownSession));
            }
            if !is_timely(&task, &event.payload) {
                return Err(Refused::Answer(Appended::TurnEnded));
            }
            apply(rows, &mut task, &mut workspace, event)?;
        }
        if let Some((event_type, detail)) = activity::of_event(event) {
            let mut row = workspace_row(rows, &workspace, &cause, event_type, Some(detail), event.ts)?;
            row.task_id = event.context.turn_id.map(TaskId::from);
            rows.audit_add(&row)?;
        }
        turn_ended |= ends_turn(&event.payload);
    }
    Ok(Appended::Committed { sequences: committed.iter().map(|event| event.sequence).collect(), turn_ended })
}

/// The task that an event belongs to. Only what comes between turns belongs to none.
fn task_of(rows: &mut OrgTx<'_>, event: &SessionEvent) -> Result<Option<Task>, Refused> {
    let turn = event.context.turn_id;
    let is_between = matches!(event.payload, Payload::SessionStarted { .. } | Payload::InputMessage { .. });
    if event.payload.turn().is_some_and(|said| turn != Some(said)) || (turn.is_none() && !is_between) {
        return Err(Refused::Answer(Appended::TurnEnded));
    }
    let Some(turn) = turn else { return Ok(None) };
    // A turn without a task is somebody else's, or was never begun.
    rows.task_view(TaskId::from(turn))?.ok_or(Refused::Answer(Appended::TurnEnded)).map(Some)
}

/// Whether an event may come now: what a turn says comes between its beginning and its end, and a task that was not
/// handed over does not begin.
const fn is_timely(task: &Task, payload: &Payload) -> bool {
    match task.phase {
        task::Phase::Submitted => false,
        task::Phase::Delivered => {
            matches!(payload, Payload::InputMessage { .. } | Payload::TurnStarted { .. })
        }
        task::Phase::Running | task::Phase::Compacting => true,
        task::Phase::Completed
        | task::Phase::Failed
        | task::Phase::Cancelled
        | task::Phase::DeliveryFailed => matches!(payload, Payload::SessionIdled { .. }),
    }
}

/// What people are told of a task's end, as the rows can hold it.
fn told(text: &str) -> String {
    text.chars()
        .take(REASON_CHARS_MAX)
        .map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// After which sequence an agent that starts anew reads.
pub(super) fn journal_after(rows: &mut OrgTx<'_>, session: SessionId) -> Result<u64, StoreError> {
    Ok(rows.session_view(session)?.map_or(0, |session| session.summary.journal_after))
}

/// Notes where an agent that starts anew begins to read, when the journal was compacted.
fn remember_compaction(
    rows: &mut OrgTx<'_>,
    session: SessionId,
    events: &[SessionEvent],
    committed: &[CommittedEvent],
) -> Result<(), StoreError> {
    let compacted = events.iter().zip(committed).rev().find_map(|(event, committed)| match &event.payload {
        Payload::ContextCompacted { first_kept_message_id, checkpoint: Some(_), .. } if committed.is_new => {
            Some((*first_kept_message_id, committed.sequence))
        }
        _ => None,
    });
    let Some((first_kept, sequence)) = compacted else { return Ok(()) };
    let after = match first_kept {
        None => Some(sequence - 1),
        Some(message) => before_message(rows, session, message, sequence)?,
    };
    let (Some(after), Some(mut session)) = (after, rows.session_view(session)?) else { return Ok(()) };
    session.summary.journal_after = after;
    rows.session_update(&session)
}

/// The sequence before the event that holds a message, looked for backwards.
fn before_message(
    rows: &mut OrgTx<'_>,
    session: SessionId,
    message: MessageId,
    before: u64,
) -> Result<Option<u64>, StoreError> {
    let holds = |event: &SessionEvent| match &event.payload {
        Payload::InputMessage { message: held } | Payload::OutputMessageCompleted { message: held, .. } => {
            held.id == message
        }
        _ => false,
    };
    let first = before.saturating_sub(KEPT_EVENTS_MAX);
    let mut end = before - 1;
    while end > first {
        let after = end.saturating_sub(u64::from(HISTORY_STEP)).max(first);
        let some = rows.session_events_after(session, after, HISTORY_STEP)?;
        let found = some.iter().rev().filter(|event| event.sequence <= Some(end)).find(|event| holds(event));
        if let Some(found) = found {
            return Ok(found.sequence.map(|sequence| sequence - 1));
        }
        end = after;
    }
    Ok(None)
}

const fn ends_turn(payload: &Payload) -> bool {
    matches!(
        payload,
        Payload::TurnCompleted { .. } | Payload::TurnFailed { .. } | Payload::TurnCancelled { .. }
    )
}

/// Moves the task, and the workspace with it, as the event says.
fn apply(
    rows: &mut OrgTx<'_>,
    task: &mut Task,
    workspace: &mut Workspace,
    event: &SessionEvent,
) -> Result<(), Error> {
    let (change, reason) = match &event.payload {
        Payload::TurnStarted { .. } => (task::Event::Started, None),
        Payload::ContextCompacting { .. } => (task::Event::CompactionStarted, None),
        Payload::ContextCompacted { .. } | Payload::ContextCompactionFailed { .. } => {
            (task::Event::CompactionEnded, None)
        }
        Payload::TurnCompleted { .. } => (task::Event::Completed, None),
        Payload::TurnFailed { error, .. } => (task::Event::Failed, Some(told(error))),
        Payload::TurnCancelled { reason, .. } => (task::Event::Cancelled, Some(told(reason))),
        Payload::SessionStarted { .. }
        | Payload::InputMessage { .. }
        | Payload::SessionActivated { .. }
        | Payload::ReasonStarted { .. }
        | Payload::OutputMessageCompleted { .. }
        | Payload::ReasonCompleted { .. }
        | Payload::LlmRetrying { .. }
        | Payload::ToolStarted { .. }
        | Payload::ToolCompleted { .. }
        | Payload::SessionIdled { .. } => return Ok(()),
    };
    let now = now();
    // The row that the event itself becomes tells of it.
    advance_untold(rows, task, change, reason, now)?;
    let change = match change {
        task::Event::Started => workspace::Event::TaskStarted,
        _ if ends_turn(&event.payload) => workspace::Event::TaskEnded,
        _ => return Ok(()),
    };
    let cause = Cause::workspace(workspace, Actor::ControlPlane);
    transition(rows, workspace, change, &cause, now).map(drop)
}
