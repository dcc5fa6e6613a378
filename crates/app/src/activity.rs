//! A workspace's activity and audit rows, as pages.

use freehold_access::{Actor, Right};
use freehold_model::{EventId, Timestamp, WorkspaceId, audit::Category};
use freehold_store::{AuditFilter, AuditRow, Page};

use crate::{App, Error, workspace::find};

impl App {
    /// What happened in a workspace: rows of category `activity`.
    ///
    /// # Errors
    /// When there is no such workspace, or the caller may not see it.
    pub async fn workspace_activity_list(
        &self,
        actor: &Actor,
        id: WorkspaceId,
        filter: AuditFilter,
        page: Page<(Timestamp, EventId)>,
    ) -> Result<Vec<AuditRow>, Error> {
        let filter = AuditFilter { category: Some(Category::Activity), ..filter };
        self.rows(actor, &[Right::WorkspaceRead], id, filter, page).await
    }

    /// Every row of a workspace: decisions, changes and activity.
    ///
    /// # Errors
    /// When there is no such workspace, or the caller may not see it or may not read audit rows.
    pub async fn workspace_audit_list(
        &self,
        actor: &Actor,
        id: WorkspaceId,
        filter: AuditFilter,
        page: Page<(Timestamp, EventId)>,
    ) -> Result<Vec<AuditRow>, Error> {
        self.rows(actor, &[Right::WorkspaceRead, Right::AuditRead], id, filter, page).await
    }

    async fn rows(
        &self,
        actor: &Actor,
        rights: &'static [Right],
        id: WorkspaceId,
        filter: AuditFilter,
        page: Page<(Timestamp, EventId)>,
    ) -> Result<Vec<AuditRow>, Error> {
        let caller = actor.clone();
        self.store()
            .read(actor.organization(), move |tx| {
                let workspace = caller.authorize(rights, find(tx, id)?)?;
                let filter = AuditFilter { workspace: Some(workspace.id), ..filter };
                Ok(tx.audit_list(&filter, &page)?)
            })
            .await
    }
}
