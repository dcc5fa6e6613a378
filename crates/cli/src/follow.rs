//! Following one task: its activity as it is streamed, with the decisions of egress read beside it.
//!
//! Decisions are stored in batches, so they come a little late. Rows are held for a moment and shown in the order of their
//! times: what a call asked of the network stands above its result.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use freehold_client::{
    ActivityEvent, Answer, Client, Error,
    api::{
        audit::{AuditEvent, AuditListQuery, Order},
        task::Task,
    },
};
use freehold_model::{EventId, TaskId, Timestamp, WorkspaceId, audit::EventType};
use futures::{StreamExt, stream::BoxStream};

use crate::{
    failure::Failure,
    output::NOTE,
    progress::{Detail, Progress},
    text,
};

/// How often decisions are read.
const DECISIONS_EVERY: Duration = Duration::from_millis(200);
/// How long a row is held for others that happened before it: longer than a batch of decisions takes to be stored and read.
const HOLD: Duration = Duration::from_millis(400);
/// How often the task itself is looked at, should its last row be missed.
const TASK_EVERY: Duration = Duration::from_secs(3);
/// How long after the end decisions are still waited for: they are stored in batches.
const DECISIONS_LINGER: Duration = Duration::from_millis(600);
/// How far back decisions are read again, since rows may be stored a little out of order.
const DECISIONS_OVERLAP: Duration = Duration::from_secs(10);
/// Rows read at once: as many as the API gives.
const DECISIONS_PAGE: u32 = 10_000;
/// How long the task and its decisions may be unreadable before following gives up. The stream itself gives up sooner when
/// the server does not answer at all.
const UNREADABLE_MAX: Duration = Duration::from_secs(60);
/// The most rows remembered as shown.
const SEEN_MAX: usize = 100_000;

/// The task that is followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Followed {
    pub workspace: WorkspaceId,
    pub task: TaskId,
}

impl Followed {
    /// Rows of the task, and those of its workspace that belong to no task.
    fn concerns(&self, row: &AuditEvent) -> bool {
        row.workspace_id == Some(self.workspace) && row.task_id.is_none_or(|task| task == self.task)
    }

    /// When the task was submitted, to the millisecond: its id says so. What was decided before is of no interest.
    fn since(&self) -> Timestamp {
        let submitted = self.task.uuid().get_timestamp().and_then(|at| {
            let (seconds, nanoseconds) = at.to_unix();
            Timestamp::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?).ok()
        });
        submitted.unwrap_or_else(Timestamp::now)
    }
}

/// Shows what happens until the task has ended, and answers with the task. `stream` was opened before the submission.
pub(crate) async fn task(
    client: &Client,
    mut stream: BoxStream<'static, Result<ActivityEvent, Error>>,
    followed: Followed,
    detail: Detail,
    show: &mut (dyn FnMut(&str) + Send),
) -> Result<Answer<Task>, Failure> {
    let mut rows = Rows::new(detail);
    let mut decisions = Decisions::new(followed);
    let mut patience = Patience::default();
    let mut decide = tokio::time::interval(DECISIONS_EVERY);
    let mut look = tokio::time::interval(TASK_EVERY);
    decide.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = stream.next() => {
                let Some(row) = event.transpose()?.and_then(|event| event.row) else { continue };
                if !followed.concerns(&row) {
                    continue;
                }
                if is_end(&row, followed) {
                    tokio::time::sleep(DECISIONS_LINGER).await;
                    // Shown without them rather than not at all.
                    patience.of(decisions.read(client, &mut rows).await, show)?;
                    rows.show_all(show);
                    show(&rows.progress.render(&row));
                    return Ok(client.task_view(followed.workspace, followed.task).await?);
                }
                rows.hold(row);
            }
            _ = decide.tick() => {
                patience.of(decisions.read(client, &mut rows).await, show)?;
                rows.show_ripe(show);
            }
            _ = look.tick() => {
                let task = client.task_view(followed.workspace, followed.task).await;
                let Some(task) = patience.of(task, show)? else { continue };
                if task.status.is_terminal() {
                    // Its rows are under way, unless the stream lost them: they get one more moment.
                    if let Ok(Some(Ok(ActivityEvent { row: Some(row), .. }))) =
                        tokio::time::timeout(TASK_EVERY, next_of(&mut stream, followed)).await
                    {
                        let was_last = is_end(&row, followed);
                        rows.hold(row);
                        if !was_last {
                            continue;
                        }
                    }
                    patience.of(decisions.read(client, &mut rows).await, show)?;
                    rows.show_all(show);
                    return Ok(task);
                }
            }
        }
    }
}

/// Bears a server that is away for a while, as the stream does by itself: a restart is no end of the task.
#[derive(Default)]
struct Patience {
    /// Since when nothing could be read.
    since: Option<Instant>,
}

impl Patience {
    /// What was read; nothing when it could not be read and may be later. Says so once, and once when it is over.
    fn of<T>(
        &mut self,
        answer: Result<T, Error>,
        show: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Option<T>, Failure> {
        match answer {
            Ok(value) => {
                if self.since.take().is_some() {
                    show(&format!("{NOTE}note:{NOTE:#} the server answers again\n"));
                }
                Ok(Some(value))
            }
            Err(error) if error.may_pass() => {
                if self.since.is_none() {
                    show(&format!(
                        "{NOTE}note:{NOTE:#} {}; trying again\n",
                        text::line(&error.to_string(), 200)
                    ));
                }
                match self.since.get_or_insert_with(Instant::now).elapsed() < UNREADABLE_MAX {
                    true => Ok(None),
                    false => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_end(row: &AuditEvent, followed: Followed) -> bool {
    row.event_type == EventType::TaskCompleted && row.task_id == Some(followed.task)
}

/// Rows that wait for those that happened before them.
struct Rows {
    progress: Progress,
    held: Vec<(Instant, AuditEvent)>,
}

impl Rows {
    fn new(detail: Detail) -> Self {
        Self { progress: Progress::new(detail), held: Vec::new() }
    }

    fn hold(&mut self, row: AuditEvent) {
        self.held.push((Instant::now(), row));
    }

    /// Shows the rows that were held long enough, and what happened before them.
    fn show_ripe(&mut self, show: &mut (dyn FnMut(&str) + Send)) {
        let ripe = self.held.iter().filter(|(since, _)| since.elapsed() >= HOLD);
        if let Some(until) = ripe.map(|(_, row)| row.timestamp).max() {
            self.show_until(until, show);
        }
    }

    fn show_all(&mut self, show: &mut (dyn FnMut(&str) + Send)) {
        self.show_until(Timestamp::MAX, show);
    }

    fn show_until(&mut self, until: Timestamp, show: &mut (dyn FnMut(&str) + Send)) {
        // Stable: rows of one instant stay as they came.
        self.held.sort_by_key(|(_, row)| row.timestamp);
        let count = self.held.partition_point(|(_, row)| row.timestamp <= until);
        for (_, row) in self.held.drain(..count) {
            show(&self.progress.render(&row));
        }
    }
}

/// The next event that concerns the task.
async fn next_of(
    stream: &mut BoxStream<'static, Result<ActivityEvent, Error>>,
    followed: Followed,
) -> Option<Result<ActivityEvent, Error>> {
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) if event.row.as_ref().is_some_and(|row| followed.concerns(row)) => {
                return Some(Ok(event));
            }
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
    }
    None
}

/// What egress decided about the workspace, read row by row.
struct Decisions {
    followed: Followed,
    from: Timestamp,
    seen: HashSet<EventId>,
    /// Without the right to read them, a task is followed without them.
    is_readable: bool,
}

impl Decisions {
    fn new(followed: Followed) -> Self {
        Self { followed, from: followed.since(), seen: HashSet::new(), is_readable: true }
    }

    /// Holds the decisions that were stored since the last time.
    async fn read(&mut self, client: &Client, rows: &mut Rows) -> Result<(), Error> {
        if !self.is_readable || self.seen.len() >= SEEN_MAX {
            return Ok(());
        }
        let query = AuditListQuery {
            from: Some(self.from),
            order: Some(Order::Asc),
            limit: Some(DECISIONS_PAGE),
            ..Default::default()
        };
        let list = match client.workspace_audit_list(self.followed.workspace, &query).await {
            Err(error) if error.api().is_some_and(|api| api.status == 403) => {
                self.is_readable = false;
                return Ok(());
            }
            answer => answer?,
        };
        for row in list.into_value().events {
            let is_new = row.event_type == EventType::PolicyDecision
                && self.followed.concerns(&row)
                && self.seen.insert(row.id);
            if is_new {
                self.from = self.from.max(row.timestamp - DECISIONS_OVERLAP);
                rows.hold(row);
            }
        }
        Ok(())
    }
}
