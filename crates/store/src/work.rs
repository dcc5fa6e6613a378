//! Which workspaces changed, for the one who works on them.
//!
//! Beside [`Topic::Work`](crate::Topic::Work), which says only "look again", so that the cost of a change does not grow
//! with the number of workspaces. Still a hint: whoever takes changes from here also looks at everything now and then.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use freehold_model::WorkspaceId;
use tokio::sync::Notify;

/// The most workspaces that wait to be taken, in workspaces; beyond, all are to be looked at.
const WAITING_MAX: usize = 4_096;

/// What committed changes were about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    /// These workspaces, or tasks of theirs.
    pub workspaces: BTreeSet<WorkspaceId>,
    /// Anything else: configuration that many workspaces depend on, or changes by another server.
    pub everything: bool,
}

impl Work {
    /// Everything.
    pub(crate) const fn everything() -> Self {
        Self { workspaces: BTreeSet::new(), everything: true }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.workspaces.is_empty() && !self.everything
    }

    pub(crate) fn extend(&mut self, more: Self) {
        self.everything |= more.everything;
        self.workspaces.extend(more.workspaces);
        if self.workspaces.len() > WAITING_MAX {
            *self = Self::everything();
        }
    }
}

/// Changes that wait to be taken. All handles of a store share them, so one taker gets each change.
#[derive(Debug, Clone, Default)]
pub struct WorkChanges(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Work>,
    changed: Notify,
}

impl WorkChanges {
    /// Waits until something changed and takes all of it. Cancel safe.
    pub async fn next(&self) -> Work {
        loop {
            let changed = self.0.changed.notified();
            let work = std::mem::take(&mut *self.waiting());
            if !work.is_empty() {
                return work;
            }
            changed.await;
        }
    }

    pub(crate) fn add(&self, work: Work) {
        if !work.is_empty() {
            self.waiting().extend(work);
            self.0.changed.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Work> {
        // A set of ids is valid at every point, so that a panic elsewhere spoils nothing.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
