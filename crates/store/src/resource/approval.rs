//! Approvals: held requests, what was decided about them, and what stands for a rule until a time.

use freehold_model::{
    ApprovalId, MemberId, OrganizationId, Timestamp, WorkspaceId,
    approval::{Approval, RuleRef, Standing, Status},
};

use crate::{
    Error, OrgRead, OrgTx, Page, SystemRead, page::Conditions, record::record, signal::Topic, sql::Column,
};

const TABLE: &str = "approvals";

record!(Approval in "approvals" of organization_id; id, workspace_id, task_id, created_by, reason, origin, capability,
    rule, policy_digest, shown, status, abandonment, scope, until, decided_by, decided_at, comment, created_at, expires_at);

/// Which approvals a list shows.
#[derive(Debug, Clone, Default)]
pub struct ApprovalFilter {
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those in this status.
    pub status: Option<Status>,
    /// Only those about workspaces of this creator.
    pub created_by: Option<MemberId>,
}

impl OrgRead<'_> {
    /// The approval with this id.
    pub fn approval_view(&mut self, id: ApprovalId) -> Result<Option<Approval>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// Approvals, newest first.
    pub fn approval_list(
        &mut self,
        filter: &ApprovalFilter,
        page: &Page<ApprovalId>,
    ) -> Result<Vec<Approval>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("workspace_id = ", filter.workspace.as_ref());
        conditions.maybe("status = ", filter.status.as_ref());
        conditions.maybe("created_by = ", filter.created_by.as_ref());
        conditions.maybe("id < ", page.after.as_ref()).page("id DESC", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// What stands for rules of a workspace at `now`, what stands longest first, `max` at most.
    pub fn approvals_standing(
        &mut self,
        workspace: WorkspaceId,
        now: Timestamp,
        max: u32,
    ) -> Result<Vec<Standing>, Error> {
        // Spelled as in the index `approvals_standing`.
        let sql = "SELECT id, reason, origin, capability, rule, policy_digest, until FROM approvals
            WHERE organization_id = ?1 AND workspace_id = ?2 AND status = 'approved' AND scope = 'rule' AND until > ?3
            ORDER BY until DESC LIMIT ?4";
        self.query(sql, &[workspace.write(), now.write(), max.write()], |row| {
            Ok(Standing {
                id: row.get(TABLE)?,
                reason: row.get(TABLE)?,
                rule: RuleRef { origin: row.get(TABLE)?, capability: row.get(TABLE)?, rule: row.get(TABLE)? },
                policy_digest: row.get(TABLE)?,
                until: row.get(TABLE)?,
            })
        })
    }
}

impl OrgTx<'_> {
    /// Inserts an approval and forgets the workspace's oldest ones beyond `kept`, those excepted that wait or may stand.
    pub fn approval_insert(&mut self, approval: &Approval, kept: u32) -> Result<(), Error> {
        self.touch(Topic::Approvals);
        self.insert(approval)?;
        let sql = "DELETE FROM approvals WHERE organization_id = ?1 AND workspace_id = ?2
            AND status IN ('denied', 'expired', 'abandoned', 'revoked', 'approved')
            AND (until IS NULL OR until < ?3)
            AND id <= (SELECT id FROM approvals WHERE organization_id = ?1 AND workspace_id = ?2
                ORDER BY id DESC LIMIT 1 OFFSET ?4)";
        let values = [approval.workspace_id.write(), approval.created_at.write(), kept.write()];
        self.execute(sql, &values).map(drop)
    }

    /// Writes the approval's row. Whoever holds its request looks again, and so does whoever tells egress what stands.
    pub fn approval_update(&mut self, approval: &Approval) -> Result<(), Error> {
        self.touch(Topic::Approvals);
        if approval.until.is_some() {
            self.touch_workspace(approval.workspace_id);
        }
        self.update(approval)
    }
}

impl SystemRead<'_> {
    /// The first `max` approvals that wait, of all organizations, with their organizations.
    pub fn approvals_pending(&mut self, max: u32) -> Result<Vec<(OrganizationId, ApprovalId)>, Error> {
        // Spelled as in the index `approvals_pending`.
        let sql = "SELECT organization_id, id FROM approvals WHERE status = 'pending' ORDER BY organization_id, id LIMIT ?1";
        self.query(sql, &[max.write()], |row| Ok((row.get(TABLE)?, row.get(TABLE)?)))
    }
}
