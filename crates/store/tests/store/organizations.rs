//! No organization sees or touches another's rows.

use freehold_model::audit::{Category, EventType};
use freehold_store::{AuditFilter, Error, Page, RoleFilter, Rule, SessionFilter, WorkspaceFilter};

use crate::{
    fixture::{self, World, audit_event, organization_insert, task},
    on_both_databases,
};

on_both_databases! {
    async fn another_organization_s_rows_cannot_be_seen(fixture) {
        let (workspace, session) = fixture.workspace().await;
        let task = task(&workspace, "secret");
        let t = task.clone();
        let row = audit_event(fixture.organization, EventType::TaskSubmitted, Category::Activity);
        fixture.write(move |tx| {
            tx.task_insert(&t)?;
            tx.session_events_append(t.session_id, &[fixture::event(t.session_id, "hello")])?;
            tx.audit_append(&row)
        }).await;
        let other = organization_insert(&fixture.store, "other").await;
        let seen = fixture.store.read(other, move |tx| {
            Ok::<_, Error>([
                tx.workspace_view(workspace.id)?.is_some(),
                tx.session_view(session.id)?.is_some(),
                tx.task_view(task.id)?.is_some(),
                tx.task_next_submitted(workspace.id)?.is_some(),
                tx.role_view(workspace.role_id)?.is_some(),
                !tx.workspace_list(&WorkspaceFilter::default(), &Page::first(9))?.is_empty(),
                !tx.session_list(&SessionFilter::default(), &Page::first(9))?.is_empty(),
                !tx.role_list(&RoleFilter::default(), &Page::first(9))?.is_empty(),
                !tx.task_list(workspace.id, &Page::first(9))?.is_empty(),
                !tx.session_events_after(session.id, 0, 9)?.is_empty(),
                !tx.audit_list(&AuditFilter::default(), &Page::first(9))?.rows.is_empty(),
                !tx.activity_after(0, None, 9)?.is_empty(),
            ])
        }).await.unwrap();
        assert_eq!(seen, [false; 12]);
    }

    async fn another_organization_s_rows_cannot_be_changed(fixture) {
        let (workspace, session) = fixture.workspace().await;
        let other = organization_insert(&fixture.store, "other").await;
        let (w, id) = (workspace.clone(), workspace.id);
        let update = fixture.store.write(other, move |tx| tx.workspace_update(&w)).await;
        assert!(matches!(update, Err(Error::WrongOrganization { .. })), "{update:?}");
        let deletion = fixture.store.write(other, move |tx| tx.workspace_delete(id)).await;
        assert!(matches!(deletion, Err(Error::Missing { .. })), "{deletion:?}");
        let event = fixture::event(session.id, "intruder");
        let append = fixture.store.write(other, move |tx| tx.session_events_append(session.id, &[event])).await;
        assert!(matches!(append, Err(Error::Missing { .. })), "{append:?}");
        let row = audit_event(fixture.organization, EventType::TaskSubmitted, Category::Activity);
        let append = fixture.store.write(other, move |tx| tx.audit_append(&row)).await;
        assert!(matches!(append, Err(Error::WrongOrganization { .. })), "{append:?}");
        assert_eq!(fixture.read(move |tx| tx.workspace_view(id)).await, Some(workspace));
    }

    async fn another_organization_s_rows_cannot_be_referred_to(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let other = organization_insert(&fixture.store, "other").await;
        let refused = fixture.store.write(other, move |tx| {
            let (theirs, _) = World::new(other).insert(tx)?;
            tx.workspace_insert(&fixture::workspace(other, theirs.role_id))?;
            tx.workspace_insert(&fixture::workspace(other, workspace.role_id))
        }).await;
        assert!(matches!(refused, Err(Error::Violation { rule: Rule::Reference, .. })), "{refused:?}");
    }
}
