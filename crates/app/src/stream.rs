//! Live activity: rows of the audit log as they are committed.
//!
//! One *tail* for each organization that somebody listens to reads new rows once and hands them to every listener through
//! a bounded channel. A listener first reads what it missed from the store and then follows the tail; rows it has already
//! are left out by their position.
//!
//! Invariant: a listener gets each row after its starting point once, in the order of commit, until it is dropped; a
//! listener that falls [`ROWS_BEHIND_MAX`] rows behind is dropped, and no buffer grows for it.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
};

use freehold_access::{Actor, Reach, Right};
use freehold_model::{MemberId, OrganizationId, WorkspaceId, audit::AuditEvent};
use freehold_store::{AuditRow, OrgRead, Store, Topic};
use lru::LruCache;
use tokio::sync::{Mutex, broadcast, watch};

use crate::{
    App, Error,
    seats::{Seat, Seats},
    workspace::find,
};

/// Rows a listener may fall behind before it is dropped.
pub const ROWS_BEHIND_MAX: usize = 1024;
/// Listeners of one organization.
pub const LISTENERS_MAX: usize = 256;
/// Listeners of one caller, so that one that opens streams without end leaves room for others.
pub const LISTENERS_PER_CALLER_MAX: usize = 64;
/// Rows read in one step.
const STEP_ROWS: u32 = 256;
/// Workspaces whose creators are remembered.
const CREATORS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// One row on its way to listeners.
#[derive(Debug)]
pub struct Activity {
    /// Its position.
    pub seq: u64,
    /// The row.
    pub event: AuditEvent,
    /// Who created its workspace.
    created_by: Option<MemberId>,
}

/// Tails that run, one for each organization with listeners.
pub(crate) struct Tails {
    running: Mutex<HashMap<OrganizationId, broadcast::Sender<Arc<Activity>>>>,
    seats: Arc<Seats>,
}

impl Default for Tails {
    fn default() -> Self {
        Self { running: Mutex::default(), seats: Seats::new(LISTENERS_PER_CALLER_MAX, "event streams") }
    }
}

/// Somebody who follows activity.
pub struct Listener {
    store: Store,
    reach: Reach,
    workspace: Option<WorkspaceId>,
    /// The position of the last row given or passed over.
    last: u64,
    /// Rows read from the store and not given yet.
    missed: VecDeque<Arc<Activity>>,
    /// Whether there may be more to read from the store before the tail is followed.
    replaying: bool,
    live: broadcast::Receiver<Arc<Activity>>,
    creators: Creators,
    /// Given back when the listener is dropped.
    _seat: Seat,
}

impl App {
    /// Follows activity of the organization, or of one workspace: from now on, or after the position `after`.
    ///
    /// # Errors
    /// When the caller may not, there is no such workspace, or too many listen already.
    pub async fn activity_listen(
        &self,
        actor: &Actor,
        workspace: Option<WorkspaceId>,
        after: Option<u64>,
    ) -> Result<Listener, Error> {
        let reach = actor.reach(Right::WorkspaceRead)?;
        if let Some(id) = workspace {
            let found = self.store().read(actor.organization(), move |tx| find(tx, id)).await?;
            actor.authorize(&[Right::WorkspaceRead], found)?;
        }
        let seat = self.inner.tails.seats.take(actor)?;
        let live = self.follow(actor.organization()).await?;
        let head =
            self.store().read(actor.organization(), |tx| tx.audit_last_seq()).await.map_err(Error::Store)?;
        // A position from the future is of another log; nothing after it would ever come.
        let last = after.map_or(head, |after| after.min(head));
        Ok(Listener {
            store: self.store().clone(),
            reach,
            workspace,
            last,
            missed: VecDeque::new(),
            replaying: after.is_some(),
            live,
            creators: Creators::default(),
            _seat: seat,
        })
    }

    /// A receiver of the organization's tail, which is started when there is none.
    async fn follow(
        &self,
        organization: OrganizationId,
    ) -> Result<broadcast::Receiver<Arc<Activity>>, Error> {
        let mut tails = self.inner.tails.running.lock().await;
        if let Some(tail) = tails.get(&organization).filter(|tail| tail.receiver_count() > 0) {
            if tail.receiver_count() >= LISTENERS_MAX {
                return Err(Error::TooMany(format!("{LISTENERS_MAX} event streams are open already")));
            }
            return Ok(tail.subscribe());
        }
        // The signal is subscribed to before the position is read, so that nothing falls between the two.
        let signal = self.store().subscribe(Topic::Audit);
        let head = self.store().read(organization, |tx| tx.audit_last_seq()).await.map_err(Error::Store)?;
        let (tail, listener) = broadcast::channel(ROWS_BEHIND_MAX);
        tails.retain(|_, tail| tail.receiver_count() > 0);
        tails.insert(organization, tail.clone());
        tokio::spawn(run(self.store().clone(), organization, head, signal, tail));
        Ok(listener)
    }
}

/// Hands new rows to the listeners until there are none.
async fn run(
    store: Store,
    organization: OrganizationId,
    mut last: u64,
    mut signal: watch::Receiver<u64>,
    tail: broadcast::Sender<Arc<Activity>>,
) {
    let mut creators = Creators::default();
    loop {
        match read(&store, organization, last, None, &mut creators).await {
            Ok(rows) if rows.is_empty() => {
                tokio::select! {
                    changed = signal.changed() => if changed.is_err() { return },
                    () = tail.closed() => return,
                }
            }
            Ok(rows) => {
                for row in rows {
                    last = row.seq;
                    // Without listeners there is nobody to tell; `closed` ends the loop.
                    drop(tail.send(Arc::new(row)));
                }
            }
            Err(error) => {
                // Listeners connect again and read what they missed.
                tracing::warn!(error = &error as &dyn std::error::Error, "a tail of the audit log ended");
                return;
            }
        }
    }
}

impl Listener {
    /// The position after which the next row comes.
    pub const fn position(&self) -> u64 {
        self.last
    }

    /// The next row; none when the listener was dropped, because it was too slow or the store failed. The position of
    /// the last row given is where to begin again.
    pub async fn next(&mut self) -> Option<Arc<Activity>> {
        loop {
            let row = if let Some(row) = self.missed.pop_front() {
                row
            } else if self.replaying {
                self.replay().await?;
                continue;
            } else {
                self.live.recv().await.ok()?
            };
            if row.seq > self.last {
                self.last = row.seq;
                if self.wants(&row) {
                    return Some(row);
                }
            }
        }
    }

    async fn replay(&mut self) -> Option<()> {
        let (organization, last) = (self.reach.organization(), self.last);
        let rows = read(&self.store, organization, last, self.workspace, &mut self.creators).await;
        let rows = rows.inspect_err(|error| {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "a listener could not read what it missed"
            );
        });
        self.missed = rows.ok()?.into_iter().map(Arc::new).collect();
        self.replaying = !self.missed.is_empty();
        Some(())
    }

    fn wants(&self, row: &Activity) -> bool {
        let here = self.workspace.is_none_or(|workspace| row.event.workspace_id == Some(workspace));
        let caused = self.reach.owner().is_some_and(|owner| row.event.user_id == owner.to_string());
        here && (self.reach.covers(row.created_by) || caused)
    }
}

/// Who created which workspace: that never changes.
struct Creators(LruCache<WorkspaceId, Option<MemberId>>);

impl Default for Creators {
    fn default() -> Self {
        Self(LruCache::new(CREATORS_MAX))
    }
}

async fn read(
    store: &Store,
    organization: OrganizationId,
    after: u64,
    workspace: Option<WorkspaceId>,
    creators: &mut Creators,
) -> Result<Vec<Activity>, Error> {
    // The job owns what it needs, so the known creators go in and come out.
    let mut known = std::mem::take(creators);
    let (rows, known) = store
        .read(organization, move |tx| {
            let rows = tx.activity_after(after, workspace, STEP_ROWS)?;
            let rows =
                rows.into_iter().map(|row| attribute(tx, row, &mut known)).collect::<Result<_, Error>>()?;
            Ok::<_, Error>((rows, known))
        })
        .await?;
    *creators = known;
    Ok(rows)
}

fn attribute(tx: &mut OrgRead<'_>, row: AuditRow, known: &mut Creators) -> Result<Activity, Error> {
    let created_by = match row.event.workspace_id {
        None => None,
        Some(id) => match known.0.get(&id) {
            Some(creator) => *creator,
            None => match tx.workspace_view(id)? {
                None => None,
                Some(workspace) => {
                    known.0.put(id, workspace.created_by);
                    workspace.created_by
                }
            },
        },
    };
    Ok(Activity { seq: row.seq, event: row.event, created_by })
}
