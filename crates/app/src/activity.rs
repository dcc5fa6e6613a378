//! Activity and audit rows, as pages, and the review of access.

use freehold_access::{Actor, Right};
use freehold_model::{EventId, RoleId, Timestamp, WorkspaceId, audit::Category};
use freehold_store::{AuditFilter, AuditPage, Page, Review, ReviewFilter};

use crate::{App, Error, role, workspace::find};

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
    ) -> Result<AuditPage, Error> {
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
    ) -> Result<AuditPage, Error> {
        self.rows(actor, &[Right::WorkspaceRead, Right::AuditRead], id, filter, page).await
    }

    /// Rows of the organization: all, or with `audit:read:own` those that the caller caused.
    ///
    /// # Errors
    /// When the caller may not read audit rows.
    pub async fn audit_list(
        &self,
        actor: &Actor,
        filter: AuditFilter,
        page: Page<(Timestamp, EventId)>,
    ) -> Result<AuditPage, Error> {
        let reach = actor.reach(Right::AuditRead)?;
        let user_id = reach.owner().map(|owner| owner.to_string());
        let filter = AuditFilter { user_id, ..filter };
        self.store().read(reach.organization(), move |tx| Ok(tx.audit_list(&filter, &page)?)).await
    }

    /// What the agents of a role have asked for, and what was decided.
    ///
    /// # Errors
    /// When there is no such role.
    pub async fn role_access_review(
        &self,
        actor: &Actor,
        id: RoleId,
        filter: ReviewFilter,
    ) -> Result<Review, Error> {
        self.store()
            .read(actor.organization(), move |tx| {
                let role = role::find(tx, id)?;
                Ok(tx.audit_review(&role.name, &filter)?)
            })
            .await
    }

    async fn rows(
        &self,
        actor: &Actor,
        rights: &'static [Right],
        id: WorkspaceId,
        filter: AuditFilter,
        page: Page<(Timestamp, EventId)>,
    ) -> Result<AuditPage, Error> {
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
