//! Held requests, from the side of whoever holds them: asking, waiting, and ending a hold without a decision.
//!
//! The rows are the truth: a signal that was missed is made up for by looking again every [`LOOK_EVERY`].

use std::time::Duration;

use freehold_model::{
    ApprovalId, Next, OrganizationId,
    approval::{Abandonment, Approval, Event, Question, Status, next},
    audit::{Actor, EventType},
};
use freehold_store::{OrgTx, Topic};

use super::Fleet;
use crate::{
    Error, Thing,
    approval::{STANDING_MAX, record},
    audit::Cause,
    now,
    workspace::find,
};

/// How often an approval that is waited for is looked at without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Approvals kept of one workspace, those that wait or stand apart. The audit log keeps what was decided.
const KEPT_PER_WORKSPACE_MAX: u32 = 200;
/// Approvals ended in one transaction.
const END_STEP: u32 = 100;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is asked, and waits.
    Waits,
    /// An approval that stands answers it: it was not asked.
    Stands(ApprovalId),
}

/// How a hold ends without a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The time is over.
    Expired,
    /// Whoever waited is gone.
    Abandoned(Abandonment),
}

impl Fleet {
    /// Asks people about a held request.
    ///
    /// # Errors
    /// When the workspace is gone or the store fails: nothing is asked.
    pub async fn approval_ask(&self, question: Question) -> Result<Asked, Error> {
        self.store
            .write(question.organization_id, move |tx| {
                let now = now();
                let workspace = find(tx, question.workspace_id)?;
                // One that was given while this request came here.
                let standing = tx.approvals_standing(workspace.id, now, STANDING_MAX)?;
                let answer = standing.iter().find(|standing| {
                    standing.answers(question.reason, &question.rule, &question.policy_digest, now)
                });
                if let Some(standing) = answer {
                    return Ok(Asked::Stands(standing.id));
                }
                let approval = Approval::pending(question, workspace.created_by);
                tx.approval_insert(&approval, KEPT_PER_WORKSPACE_MAX)?;
                let cause = Cause::workspace(&workspace, Actor::PolicyEngine);
                record(tx, &approval, &cause, EventType::ApprovalRequested, now)?;
                Ok(Asked::Waits)
            })
            .await
    }

    /// Waits until an approval is no longer pending. A store that fails is asked again: the caller has a time limit of its
    /// own. Cancel safe.
    ///
    /// # Errors
    /// When there is no such approval any more.
    pub async fn approval_decided(
        &self,
        organization: OrganizationId,
        id: ApprovalId,
    ) -> Result<Approval, Error> {
        let mut changes = self.store.subscribe(Topic::Approvals);
        loop {
            changes.mark_unchanged();
            match self.store.read(organization, move |tx| tx.approval_view(id)).await {
                Ok(None) => return Err(Error::NotFound(Thing::Approval)),
                Ok(Some(approval)) if approval.status != Status::Pending => return Ok(approval),
                Ok(Some(_)) => {}
                Err(error @ freehold_store::Error::Closed) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(approval.id = %id, error = &error as &dyn std::error::Error, "an approval could not be read");
                }
            }
            // A channel that is closed is a store that ends, which the next look tells.
            let _ = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
        }
    }

    /// Ends a hold without a decision, unless there was one meanwhile, and answers what holds now; `None` when it was
    /// never asked.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn approval_end(
        &self,
        organization: OrganizationId,
        id: ApprovalId,
        how: End,
    ) -> Result<Option<Approval>, Error> {
        self.store.write(organization, move |tx| end(tx, id, how)).await
    }

    /// Ends every hold there is: at a start, for nobody is left who holds a request. Answers how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn approvals_abandon_all(&self) -> Result<u64, Error> {
        let mut ended = 0;
        loop {
            let found =
                self.store.system_read(|tx| tx.approvals_pending(END_STEP)).await.map_err(Error::Store)?;
            if found.is_empty() {
                return Ok(ended);
            }
            for (organization, id) in found {
                self.approval_end(organization, id, End::Abandoned(Abandonment::ServerRestarted)).await?;
                ended += 1;
            }
        }
    }
}

fn end(tx: &mut OrgTx<'_>, id: ApprovalId, how: End) -> Result<Option<Approval>, Error> {
    let Some(mut approval) = tx.approval_view(id)? else { return Ok(None) };
    let (event, abandonment) = match how {
        End::Expired => (Event::Expire, None),
        End::Abandoned(why) => (Event::Abandon, Some(why)),
    };
    let changed = next(approval.status, event).map_err(|denied| Error::InvalidState(denied.to_string()))?;
    if let Next::Go(status) = changed {
        let now = now();
        approval.status = status;
        approval.abandonment = abandonment;
        approval.decided_at = Some(now);
        tx.approval_update(&approval)?;
        let cause = match how {
            End::Abandoned(Abandonment::ServerRestarted) => Cause::server(),
            End::Expired | End::Abandoned(_) => {
                Cause::workspace(&find(tx, approval.workspace_id)?, Actor::PolicyEngine)
            }
        };
        record(tx, &approval, &cause, EventType::ApprovalDecided, now)?;
    }
    Ok(Some(approval))
}
