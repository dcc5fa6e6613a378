//! Approvals: what people decide about held requests.
//!
//! Invariant: only a member decides, never an API key: whatever a pod can reach, no person is behind it.

use freehold_access::{Actor, Right};
use freehold_model::{
    ApprovalId, Next, Timestamp,
    approval::{Approval, Event, Scope, Status, next},
    audit::EventType,
};
use freehold_store::{ApprovalFilter, OrgTx, Page};
use jiff::SignedDuration;
use serde_json::json;

use crate::{
    App, Error, Once, Outcome, Thing,
    audit::{Cause, workspace_row},
    error::Fields,
    now,
    once::once,
    workspace::find,
};

/// The most hours that an approval for a rule stands.
pub const UNTIL_HOURS_MAX: i64 = 7 * 24;
/// Approvals for rules that may stand for one workspace at a time.
pub const STANDING_MAX: u32 = 64;
/// Requests of a workspace that an approval for their rule lets go on at once; what is left asks for itself.
const SAME_RULE_MAX: u32 = 256;

/// What a person decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Approve, or deny.
    pub approve: bool,
    /// What is approved; this request alone when absent.
    pub scope: Option<Scope>,
    /// How long an approval for the rule stands.
    pub until: Option<Timestamp>,
    /// What there is to say.
    pub comment: Option<String>,
}

impl App {
    /// Approvals that the caller may see, newest first.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn approval_list(
        &self,
        actor: &Actor,
        filter: ApprovalFilter,
        page: Page<ApprovalId>,
    ) -> Result<Vec<Approval>, Error> {
        let reach = actor.reach(Right::WorkspaceRead)?;
        let filter = ApprovalFilter { created_by: reach.owner(), ..filter };
        self.store().read(reach.organization(), move |tx| Ok(tx.approval_list(&filter, &page)?)).await
    }

    /// One approval.
    ///
    /// # Errors
    /// When there is none, or the caller may not see it.
    pub async fn approval_view(&self, actor: &Actor, id: ApprovalId) -> Result<Approval, Error> {
        let found = self.store().read(actor.organization(), move |tx| {
            tx.approval_view(id)?.ok_or(Error::NotFound(Thing::Approval))
        });
        Ok(actor.authorize(&[Right::WorkspaceRead], found.await?)?.into_inner())
    }

    /// Decides about a held request, which goes on or is denied. An approval for the rule lets the workspace's other
    /// requests go on that wait for the same.
    ///
    /// # Errors
    /// When there is none, the caller may not or is no person, a field is not acceptable, or it is decided already.
    pub async fn approval_decide(
        &self,
        actor: &Actor,
        id: ApprovalId,
        decision: Decision,
        request: Option<Once<Approval>>,
    ) -> Result<Outcome<Approval>, Error> {
        actor.reach(Right::WorkspaceWrite)?;
        actor.member_id().ok_or(Error::PeopleOnly)?;
        let now = now();
        check(&decision, now)?;
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                once(tx, &actor, now, request, |tx| {
                    let mut approval = writable(tx, &actor, id)?;
                    if approval.status == Status::Pending && approval.expires_at <= now {
                        return Err(Error::InvalidState("the time to decide is over".to_owned()));
                    }
                    let stands = decision.scope == Some(Scope::Rule);
                    if stands
                        && tx.approvals_standing(approval.workspace_id, now, STANDING_MAX)?.len()
                            >= STANDING_MAX as usize
                    {
                        let full =
                            format!("{STANDING_MAX} approvals stand for this workspace: revoke one first");
                        return Err(Error::InvalidState(full));
                    }
                    decide(tx, &actor, &mut approval, &decision, now)?;
                    if stands {
                        release(tx, &actor, &approval, &decision, now)?;
                    }
                    Ok(approval)
                })
            })
            .await
    }

    /// Takes back what stands for a rule: its requests ask again.
    ///
    /// # Errors
    /// When there is none, the caller may not, or nothing stands.
    pub async fn approval_revoke(&self, actor: &Actor, id: ApprovalId) -> Result<(), Error> {
        let actor = actor.clone();
        self.store()
            .write(actor.organization(), move |tx| {
                let now = now();
                let mut approval = writable(tx, &actor, id)?;
                let next = match approval.scope {
                    Some(Scope::Rule) => next(approval.status, Event::Revoke),
                    Some(Scope::Once) | None => Err(freehold_model::approval::Denied::NotStanding),
                };
                let Next::Go(status) = next.map_err(|denied| Error::InvalidState(denied.to_string()))? else {
                    return Ok(());
                };
                approval.status = status;
                approval.decided_by = actor.member_id();
                approval.decided_at = Some(now);
                tx.approval_update(&approval)?;
                record(tx, &approval, &Cause::caller(&actor), EventType::ApprovalRevoked, now)
            })
            .await
    }
}

fn check(decision: &Decision, now: Timestamp) -> Result<(), Error> {
    let mut fields = Fields::default();
    let Decision { approve, scope, until, .. } = decision;
    fields.refuse(
        !approve && scope.is_some(),
        "scope",
        "is for approvals: a denial is of this request alone",
    );
    match (scope, until) {
        (Some(Scope::Rule), None) => fields.add("until", "is required with the scope `rule`"),
        (Some(Scope::Rule), Some(until)) => {
            let latest = now + SignedDuration::from_hours(UNTIL_HOURS_MAX);
            fields.refuse(*until <= now, "until", "must be later than now");
            let reason = format!("must be within {UNTIL_HOURS_MAX} hours");
            fields.refuse(*until > latest, "until", &reason);
        }
        (_, Some(_)) => fields.add("until", "is for the scope `rule` alone"),
        (_, None) => {}
    }
    fields.check()
}

fn writable(tx: &mut OrgTx<'_>, actor: &Actor, id: ApprovalId) -> Result<Approval, Error> {
    let approval = tx.approval_view(id)?.ok_or(Error::NotFound(Thing::Approval))?;
    Ok(actor.authorize(&[Right::WorkspaceWrite], approval)?.into_inner())
}

fn decide(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    approval: &mut Approval,
    decision: &Decision,
    now: Timestamp,
) -> Result<(), Error> {
    let event = if decision.approve { Event::Approve } else { Event::Deny };
    let decided =
        |_| Error::InvalidState(format!("the approval is no longer pending: it is {}", approval.status));
    if let Next::Go(status) = next(approval.status, event).map_err(decided)? {
        approval.status = status;
        approval.scope = decision.approve.then(|| decision.scope.unwrap_or(Scope::Once));
        approval.until = decision.until;
        approval.comment.clone_from(&decision.comment);
        approval.decided_by = actor.member_id();
        approval.decided_at = Some(now);
        tx.approval_update(approval)?;
        record(tx, approval, &Cause::caller(actor), EventType::ApprovalDecided, now)?;
    }
    Ok(())
}

/// Lets the workspace's other requests go on that wait for the same rule.
fn release(
    tx: &mut OrgTx<'_>,
    actor: &Actor,
    standing: &Approval,
    decision: &Decision,
    now: Timestamp,
) -> Result<(), Error> {
    let filter = ApprovalFilter {
        workspace: Some(standing.workspace_id),
        status: Some(Status::Pending),
        created_by: None,
    };
    let same = |other: &Approval| {
        (other.reason, other.rule_ref(), &other.policy_digest)
            == (standing.reason, standing.rule_ref(), &standing.policy_digest)
    };
    let once = Decision { scope: Some(Scope::Once), until: None, ..decision.clone() };
    for mut other in tx.approval_list(&filter, &Page::first(SAME_RULE_MAX))?.into_iter().filter(same) {
        decide(tx, actor, &mut other, &once, now)?;
    }
    Ok(())
}

/// Writes the row of what became of an approval.
pub(crate) fn record(
    tx: &mut OrgTx<'_>,
    approval: &Approval,
    cause: &Cause,
    event_type: EventType,
    now: Timestamp,
) -> Result<(), Error> {
    let workspace = find(tx, approval.workspace_id)?;
    let detail = json!({
        "approval_id": approval.id, "status": approval.status, "rule": approval.rule, "origin": approval.origin,
        "scope": approval.scope, "until": approval.until, "comment": approval.comment,
        "abandonment": approval.abandonment, "expires_at": approval.expires_at,
    });
    let mut row = workspace_row(tx, &workspace, cause, event_type, Some(detail), now)?;
    row.task_id = approval.task_id;
    row.destination = Some(approval.shown.destination.clone());
    row.method = Some(approval.shown.method.clone());
    row.path = Some(approval.shown.path.clone());
    row.capability_name = Some(approval.capability.clone());
    row.reason = Some(approval.reason.as_str().to_owned());
    tx.audit_add(&row)?;
    Ok(())
}
