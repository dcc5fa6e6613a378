//! Use cases of the pods' side: what the reconciler and the agents' connections read and write.
//!
//! Nobody is authorized here: the callers are the server itself, and agents that its own driver started, each confined
//! to its [`Place`]. Every change of a phase goes through `model`'s `next`.

mod activity;
mod approvals;
mod budgets;
mod credentials;
mod journal;
mod pods;
mod sweep;
mod tasks;

use std::{collections::HashMap, sync::Arc};

use freehold_model::{
    OrganizationId, SessionId, WorkspaceId, approval::Standing, audit::AuditEvent, event::SessionEvent,
    provider::Provider, role::Role, task::Task, upload::Upload, workspace::Workspace,
};
use freehold_store::{AUDIT_ID_KEY, OrgRead, OrgTx, Store, WorkChanges};

use crate::{Error, approval::STANDING_MAX, now, ports::UploadStore, workspace::role_and_provider};

pub use approvals::{Asked, End};
pub use credentials::Attempt;
pub use journal::{Appended, JournalLimits};
pub use sweep::Swept;

/// How often a pod may fail to start in a row before its workspace fails. With the pauses between, a quarter of a minute: what
/// a machine lacks for a moment, such as processes, shall not end a workspace for good.
pub const FAILED_STARTS_MAX: u32 = 7;

/// The most bytes of a page of history with more than one event.
pub const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// Events read from the store at a time, in events.
const HISTORY_STEP: u32 = 16;

/// Where an agent lives; what it says is believed for this workspace only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The workspace.
    pub workspace_id: WorkspaceId,
}

/// What applies where neither the role nor the task says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The most seconds a task may run.
    pub task_timeout_seconds: u32,
    /// Seconds after which an idle workspace is stopped; 0 for never.
    pub idle_timeout_seconds: u32,
    /// The most model calls in a task.
    pub max_continuations: u32,
    /// The most tokens of context before compaction.
    pub max_context_tokens: u64,
    /// How long journals may become.
    pub journal: JournalLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            task_timeout_seconds: 3600,
            // A workspace that was stopped cannot be started again yet.
            idle_timeout_seconds: 0,
            max_continuations: 200,
            max_context_tokens: 150_000,
            journal: JournalLimits::default(),
        }
    }
}

/// A workspace with what its pod depends on.
#[derive(Debug, Clone)]
pub struct Look {
    /// The workspace.
    pub workspace: Workspace,
    /// Its role, with the model that it was started with.
    pub role: Role,
    /// The role's provider, likewise.
    pub provider: Provider,
    /// The task that is delivered or running.
    pub current_task: Option<Task>,
    /// The most milliseconds a task may run here.
    pub task_timeout_ms: i64,
    /// Milliseconds after which it is stopped when it is idle; absent for never.
    pub idle_timeout_ms: Option<i64>,
    /// What people approved for rules of its policy until a time.
    pub standing: Vec<Standing>,
}

impl Look {
    /// Where this is.
    pub const fn place(&self) -> Place {
        Place { organization_id: self.workspace.organization_id, workspace_id: self.workspace.id }
    }
}

/// What an agent is told when it connects.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The role.
    pub role: Role,
    /// The role's provider.
    pub provider: Provider,
    /// The label of the workspace's environment.
    pub environment: String,
    /// What applies where the role does not say.
    pub settings: Settings,
    /// The current session.
    pub session_id: SessionId,
    /// The sequence of its last event.
    pub last_sequence: u64,
    /// An agent that starts anew reads after this sequence.
    pub journal_after: u64,
    /// The task under way.
    pub task: Option<Order>,
}

/// A task as it is handed over.
#[derive(Debug, Clone)]
pub struct Order {
    /// The task.
    pub task: Task,
    /// Its files.
    pub uploads: Vec<Upload>,
    /// The sequence of the last event of its session.
    pub last_sequence: u64,
    /// An agent that starts anew reads after this sequence.
    pub journal_after: u64,
    /// Milliseconds it may still run.
    pub time_left_ms: u64,
}

/// The use cases of the pods' side. Cheap to clone.
#[derive(Clone)]
pub struct Fleet {
    store: Store,
    uploads: Arc<dyn UploadStore>,
    settings: Settings,
}

impl Fleet {
    /// Use cases over this store.
    pub fn new(store: Store, uploads: Arc<dyn UploadStore>, settings: Settings) -> Self {
        Self { store, uploads, settings }
    }

    /// Tells which workspaces changed.
    pub fn changes(&self) -> WorkChanges {
        self.store.work_changes()
    }

    /// Everything about a workspace that the reconciler needs; `None` when it does not exist.
    pub async fn look(&self, workspace: WorkspaceId) -> Result<Option<Look>, Error> {
        let settings = self.settings;
        self.store
            .system_read(move |system| {
                let Some(found) = system.workspace_by_id(workspace)? else { return Ok(None) };
                let mut rows = system.organization(found.organization_id);
                look(&mut rows, found, settings).map(Some)
            })
            .await
    }

    /// The workspaces that want a pod or have one to lose, in all organizations.
    pub async fn workspaces_needing_work(&self) -> Result<Vec<WorkspaceId>, Error> {
        const PAGE: u32 = 1_000;
        let mut found = Vec::new();
        loop {
            let after = found.last().copied();
            let page = self
                .store
                .system_read(move |system| {
                    let page = freehold_store::Page { after, limit: PAGE };
                    Ok::<_, Error>(system.workspaces_needing_work(&page)?)
                })
                .await?;
            let full = page.len() == PAGE as usize;
            found.extend(page.into_iter().map(|workspace| workspace.id));
            if !full {
                return Ok(found);
            }
        }
    }

    /// Makes rows of egress durable; each organization's rows in one transaction, each row once.
    pub async fn audit(&self, rows: Vec<AuditEvent>) -> Result<(), Error> {
        let mut by_organization: HashMap<OrganizationId, Vec<AuditEvent>> = HashMap::new();
        for row in rows {
            by_organization.entry(row.org_id).or_default().push(row);
        }
        for (organization, rows) in by_organization {
            let rows = Arc::new(rows);
            let new = Arc::clone(&rows);
            let add = move |tx: &mut OrgTx<'_>| tx.audit_add_all(&new).map(drop);
            match self.store.write(organization, add).await {
                // Some came before, with an answer that was not heard: each is looked up.
                Err(error) if error.is_duplicate(AUDIT_ID_KEY) => {
                    let append = move |tx: &mut OrgTx<'_>| {
                        rows.iter().try_for_each(|row| tx.audit_append(row).map(drop))
                    };
                    self.store.write(organization, append).await?;
                }
                added => added?,
            }
        }
        Ok(())
    }

    /// Events of a session of this workspace, after a sequence, in order, and whether there are more: at most
    /// `events_max`, and together at most [`HISTORY_BYTES_MAX`] long unless it is one, so that a page fits its reader
    /// whatever an agent has written.
    pub async fn history(
        &self,
        place: Place,
        session: SessionId,
        after_sequence: u64,
        events_max: usize,
    ) -> Result<(Vec<SessionEvent>, bool), Error> {
        self.store
            .read(place.organization_id, move |rows| {
                let found = rows.session_view(session)?;
                if found.is_none_or(|found| found.workspace_id != place.workspace_id) {
                    return Ok((Vec::new(), false));
                }
                let (mut page, mut bytes, mut after) = (Vec::new(), 0, after_sequence);
                loop {
                    let some = rows.session_events_after(session, after, HISTORY_STEP)?;
                    let ended = some.len() < HISTORY_STEP as usize;
                    for event in some {
                        bytes += serde_json::to_vec(&event).map_or(0, |text| text.len());
                        // One long event is a page by itself, so that there is always a next one.
                        if page.len() == events_max || (bytes > HISTORY_BYTES_MAX && !page.is_empty()) {
                            return Ok((page, true));
                        }
                        after = event.sequence.unwrap_or(after);
                        page.push(event);
                    }
                    if ended {
                        return Ok((page, false));
                    }
                }
            })
            .await
    }
}

fn look(rows: &mut OrgRead<'_>, workspace: Workspace, settings: Settings) -> Result<Look, Error> {
    let (role, provider) = role_and_provider(rows, &workspace)?;
    let current_task = rows.task_current(workspace.id)?;
    let milliseconds = |seconds: u32| i64::from(seconds) * 1000;
    let task_timeout_ms = milliseconds(role.task_timeout_seconds.unwrap_or(settings.task_timeout_seconds));
    let idle_timeout = role.idle_timeout_seconds.unwrap_or(settings.idle_timeout_seconds);
    let idle_timeout_ms = Some(milliseconds(idle_timeout)).filter(|limit| *limit > 0);
    let standing = rows.approvals_standing(workspace.id, now(), STANDING_MAX)?;
    Ok(Look { standing, workspace, role, provider, current_task, task_timeout_ms, idle_timeout_ms })
}
