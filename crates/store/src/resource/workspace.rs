//! Workspaces.

use freehold_model::{
    MemberId, PodId, RoleId, WorkspaceId,
    workspace::{Phase, Workspace},
};

use crate::{
    Error, OrgRead, OrgTx, Page, SystemRead, page::Conditions, record::record, scope::changed, sql::Column,
};

record!(Workspace in "workspaces" of organization_id; id, role_id, environment, phase, created_by, session_id, pod_id,
    generation, failed_starts, backend, snapshot_ref, last_snapshot_error, parent_id, fork_source_snapshot_ref,
    fork_point_task_count, created_at, updated_at, archived_at);

/// Which workspaces a list shows.
#[derive(Debug, Clone, Default)]
pub struct WorkspaceFilter {
    /// Archived ones too.
    pub include_archived: bool,
    /// Only those under this role.
    pub role: Option<RoleId>,
    /// Only those of this creator.
    pub created_by: Option<MemberId>,
    /// Only those in one of these phases; empty means any.
    pub phases: Vec<Phase>,
}

impl OrgRead<'_> {
    /// The workspace with this id, archived or not.
    pub fn workspace_view(&mut self, id: WorkspaceId) -> Result<Option<Workspace>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// Workspaces, newest first.
    pub fn workspace_list(
        &mut self,
        filter: &WorkspaceFilter,
        page: &Page<WorkspaceId>,
    ) -> Result<Vec<Workspace>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.unless(filter.include_archived, "archived_at IS NULL");
        conditions.maybe("role_id = ", filter.role.as_ref());
        conditions.maybe("created_by = ", filter.created_by.as_ref());
        conditions.any_of("phase", &filter.phases);
        conditions.maybe("id < ", page.after.as_ref()).page("id DESC", page);
        self.select(&conditions.sql, &conditions.values)
    }
}

impl OrgTx<'_> {
    /// Inserts a workspace. Its session is inserted after it, in the same job.
    pub fn workspace_insert(&mut self, workspace: &Workspace) -> Result<(), Error> {
        self.touch_workspace(workspace.id);
        self.insert(workspace)
    }

    /// Writes the workspace's row.
    pub fn workspace_update(&mut self, workspace: &Workspace) -> Result<(), Error> {
        self.touch_workspace(workspace.id);
        self.update(workspace)
    }

    /// Deletes a workspace with its tasks, sessions, events, uploads and counts. Its rows of the audit log stay.
    pub fn workspace_delete(&mut self, id: WorkspaceId) -> Result<(), Error> {
        self.touch_workspace(id);
        self.budget_forget(id)?;
        let sql = "DELETE FROM workspaces WHERE organization_id = ?1 AND id = ?2";
        changed(self.execute(sql, &[id.write()])?, "workspaces")
    }
}

impl SystemRead<'_> {
    /// The workspaces that the reconciler has to look at, of all organizations: those in the phases `provisioning`,
    /// `idle`, `busy` and `stopping`, in the order of their ids.
    pub fn workspaces_needing_work(&mut self, page: &Page<WorkspaceId>) -> Result<Vec<Workspace>, Error> {
        // The condition on the phase is spelled as in the index `workspaces_needing_work`.
        let rest =
            "WHERE phase IN ('provisioning', 'idle', 'busy', 'stopping') AND id > ?1 ORDER BY id LIMIT ?2";
        let after = page.after.as_ref().map_or_else(|| crate::column::text(""), Column::write);
        self.select(rest, &[after, page.limit()])
    }

    /// The workspace whose pod is wanted, or being taken down, under this id.
    pub fn workspace_by_pod(&mut self, pod: PodId) -> Result<Option<Workspace>, Error> {
        self.find("WHERE pod_id = ?1", &[pod.write()])
    }

    /// The workspace with this id, of whichever organization.
    pub fn workspace_by_id(&mut self, id: WorkspaceId) -> Result<Option<Workspace>, Error> {
        self.find("WHERE id = ?1", &[id.write()])
    }
}
