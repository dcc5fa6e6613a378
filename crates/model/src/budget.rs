//! Counters of budgets: which of them a use is counted in, and what is said of it.

use std::{fmt, sync::Arc};

use crate::{OrganizationId, RoleId, SessionId, TaskId, Timestamp, WorkspaceId};

/// Whose a request is: everything that a counter may count per.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The workspace's role.
    pub role_id: RoleId,
    /// The workspace's session.
    pub session_id: SessionId,
    /// The running task; `None` for traffic outside tasks.
    pub task_id: Option<TaskId>,
}

/// Whose use is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A task's.
    Task(TaskId),
    /// A session's.
    Session(SessionId),
    /// A workspace's.
    Workspace(WorkspaceId),
    /// That of all workspaces of a role.
    Role(RoleId),
    /// That of all workspaces of the organization.
    Organization(OrganizationId),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(id) => id.fmt(f),
            Self::Session(id) => id.fmt(f),
            Self::Workspace(id) => id.fmt(f),
            Self::Role(id) => id.fmt(f),
            Self::Organization(id) => id.fmt(f),
        }
    }
}

/// One count: a counter of a policy, for one subject, in one window. A counter whose unit or window was changed starts anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CounterKey {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The document the counter stands in: `provider` or `role`.
    pub origin: &'static str,
    /// Its capability.
    pub capability: Arc<str>,
    /// Its name.
    pub counter: Arc<str>,
    /// What it counts, as the language spells it.
    pub unit: &'static str,
    /// Whose use.
    pub subject: Subject,
    /// The workspace with which the count ends; `None` for counts that several workspaces share.
    pub workspace_id: Option<WorkspaceId>,
    /// The window's length in seconds; 0 for the whole life of the subject.
    pub window_seconds: u64,
    /// When the window began, in seconds since 1970; 0 without one.
    pub window_start: i64,
}

impl CounterKey {
    /// The same count in the window that `now` falls in. Windows follow one another from 1970 on.
    pub fn at(&self, now: Timestamp) -> Self {
        Self { window_start: window_start(self.window_seconds, now), ..self.clone() }
    }

    /// When the window ends, in seconds since 1970; `None` without one.
    pub fn ends_at(&self) -> Option<i64> {
        let seconds = i64::try_from(self.window_seconds).unwrap_or(i64::MAX);
        (seconds > 0).then(|| self.window_start.saturating_add(seconds))
    }

    /// The count's name in audit rows, which name the capability themselves.
    pub fn label(&self) -> String {
        format!("{}/{}", self.origin, self.counter)
    }
}

/// When the window of this length that `now` falls in began, in seconds since 1970; 0 without one.
pub fn window_start(window_seconds: u64, now: Timestamp) -> i64 {
    let seconds = i64::try_from(window_seconds).unwrap_or(i64::MAX);
    let now = now.as_second();
    now.checked_rem_euclid(seconds).map_or(0, |into| now - into)
}

/// The share of what is left that is leased at once beyond what is needed: one part in so many. Who is near the limit then
/// gets small blocks, so that there is something left for others.
const SHARE: u64 = 16;

/// What the ledger is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The limit: the sum of all that is leased does not go beyond it.
    pub limit: u64,
    /// With less, nothing is leased.
    pub least: u64,
    /// As much is leased where there is as much, and all that there is otherwise.
    pub most: u64,
    /// As much is leased where that is a small share of what is left.
    pub want: u64,
}

impl Ask {
    /// How much to lease when `taken` is leased already.
    pub fn grant(&self, taken: u64) -> u64 {
        let left = self.limit.saturating_sub(taken);
        if left < self.least { 0 } else { self.most.max(self.want.min(left / SHARE)).min(left) }
    }
}

/// What the ledger answers to who asks for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// How much was leased; 0 when there is not as much as is needed at least.
    pub granted: u64,
    /// How much is leased, used or forfeited now by all; more than the limit where it was lowered or overdrawn.
    pub taken: u64,
    /// Whether it was said already, in this window, that the limit is near.
    pub warned: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_one_another_from_the_epoch_on() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(window_start(60, at(0)), 0);
        assert_eq!(window_start(60, at(59)), 0);
        assert_eq!(window_start(60, at(60)), 60);
        assert_eq!(window_start(60, at(-1)), -60);
        assert_eq!(window_start(0, at(1_000)), 0);
    }
}
