//! Tasks. Each has a dense ordinal in its workspace, given at insertion: the order in which they are worked on and
//! listed, whatever the clocks of the servers say.

use freehold_model::{TaskId, WorkspaceId, task::Task};

use crate::{Error, OrgRead, OrgTx, Page, page::Conditions, record::record, sql::Column};

record!(Task in "tasks" of organization_id; id, workspace_id, session_id, description, phase, overrides, metadata,
    created_by, cancel_requested, reason, created_at, started_at, completed_at);

impl OrgRead<'_> {
    /// The task with this id.
    pub fn task_view(&mut self, id: TaskId) -> Result<Option<Task>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// Tasks of a workspace, newest first.
    pub fn task_list(&mut self, workspace: WorkspaceId, page: &Page<TaskId>) -> Result<Vec<Task>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("workspace_id = ", workspace.write());
        if let Some(after) = &page.after {
            let before = "(SELECT ordinal FROM tasks WHERE organization_id = ?1 AND id = ";
            conditions.with(&format!("ordinal < {before}"), after.write()).close();
        }
        conditions.page("ordinal DESC", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// The oldest task of a workspace that waits to be delivered.
    pub fn task_next_submitted(&mut self, workspace: WorkspaceId) -> Result<Option<Task>, Error> {
        // Spelled as in the index `tasks_submitted`.
        self.find(
            " AND workspace_id = ?2 AND phase = 'submitted' ORDER BY ordinal LIMIT 1",
            &[workspace.write()],
        )
    }

    /// The task a workspace's agent has: delivered, running or compacting. There is at most one.
    pub fn task_current(&mut self, workspace: WorkspaceId) -> Result<Option<Task>, Error> {
        // Spelled as in the index `tasks_organization_id_workspace_id_key`.
        self.find(
            " AND workspace_id = ?2 AND phase IN ('delivered', 'running', 'compacting')",
            &[workspace.write()],
        )
    }

    /// How many tasks of the workspace wait.
    pub fn task_waiting_count(&mut self, workspace: WorkspaceId) -> Result<u64, Error> {
        // Spelled as in the index `tasks_submitted`.
        let sql = "SELECT count(*) FROM tasks WHERE organization_id = ?1 AND workspace_id = ?2 AND phase = 'submitted'";
        Ok(self.query(sql, &[workspace.write()], |row| row.get("tasks"))?.pop().unwrap_or(0))
    }
}

impl OrgTx<'_> {
    /// Inserts a task as the last of its workspace.
    pub fn task_insert(&mut self, task: &Task) -> Result<(), Error> {
        self.touch_workspace(task.workspace_id);
        let last = "SELECT ordinal FROM tasks WHERE organization_id = ?1 AND workspace_id = ?2
            ORDER BY ordinal DESC LIMIT 1";
        let last = self.query(last, &[task.workspace_id.write()], |row| row.get("tasks"))?.pop();
        let last: i64 = last.unwrap_or(0);
        self.insert_with(task, &[("ordinal", (last + 1).write())])
    }

    /// Writes the task's row. A second task delivered, running or compacting in one workspace breaks
    /// `tasks_organization_id_workspace_id_key`.
    pub fn task_update(&mut self, task: &Task) -> Result<(), Error> {
        self.touch_workspace(task.workspace_id);
        self.update(task)
    }
}
