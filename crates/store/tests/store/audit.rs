//! The audit log: idempotent, chained, paged.

use freehold_model::{
    EventId, TaskId, Timestamp,
    audit::{AuditEvent, Category, Decision, EventType},
};
use freehold_store::{AUDIT_ID_KEY, AuditFilter, CHAIN_START, ChainCheck, Error, Order, OrgTx, Page};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    fixture::{Fixture, audit_event, now, provider, uuid},
    on_both_databases,
};

/// Appends rows of alternating categories and answers them.
async fn append(fixture: &Fixture, count: usize) -> Vec<AuditEvent> {
    let rows: Vec<_> = (0..count)
        .map(|n| match n % 2 {
            0 => audit_event(fixture.organization, EventType::RoleCreated, Category::Audit),
            _ => audit_event(fixture.organization, EventType::TaskStarted, Category::Activity),
        })
        .collect();
    let appended = rows.clone();
    fixture.write(move |tx| appended.iter().try_for_each(|row| tx.audit_append(row).map(drop))).await;
    rows
}

async fn verify(fixture: &Fixture) -> ChainCheck {
    fixture.store.audit_verify(fixture.organization).await.unwrap()
}

on_both_databases! {
    async fn a_full_row_reads_back_as_written(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let mut row = audit_event(fixture.organization, EventType::PolicyDecision, Category::Audit);
        row.workspace_id = Some(workspace.id);
        row.agent_role = Some("role".to_owned());
        row.destination = Some("api.example.test:8443".to_owned());
        row.method = Some("POST".to_owned());
        row.path = Some("/v1/ü".to_owned());
        row.decision = Some(Decision::Deny);
        row.latency_ms = Some(12);
        row.transforms_applied = Some(0);
        row.detail = Some(json!({"b": [1, 2.5, 1e300, 0.1, -0.0], "a": "\u{0}\u{7f}\n", "n": 9_007_199_254_740_993_u64}));
        row.auth_applied = vec!["key".to_owned()];
        row.auth_failures.insert("other".to_owned(), "auth_unavailable".to_owned());
        let r = row.clone();
        assert_eq!(fixture.write(move |tx| tx.audit_append(&r)).await, 1);
        let rows = fixture.read(|tx| tx.audit_list(&AuditFilter::default(), &Page::first(9)).map(|page| page.rows)).await;
        assert_eq!(rows.iter().map(|row| row.event.clone()).collect::<Vec<_>>(), [row]);
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { seq: 1, .. }));
    }

    async fn a_row_that_comes_again_changes_nothing(fixture) {
        let rows = append(&fixture, 3).await;
        let mut again = rows[1].clone();
        again.user_id = "somebody else".to_owned();
        assert_eq!(fixture.write(move |tx| tx.audit_append(&again)).await, 2);
        assert_eq!(fixture.read(|tx| tx.audit_last_seq()).await, 3);
        let id = rows[2].id;
        assert_eq!(fixture.read(move |tx| tx.audit_seq_of(id)).await, Some(3));
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { seq: 3, .. }));
    }

    async fn rows_added_together_are_chained_in_their_order_and_one_that_came_before_takes_all_back(fixture) {
        let rows: Vec<_> = (0..131)
            .map(|_| audit_event(fixture.organization, EventType::RoleCreated, Category::Audit))
            .collect();
        let added = rows.clone();
        assert_eq!(fixture.write(move |tx| tx.audit_add_all(&added)).await, 131);
        let stored = fixture.read(|tx| tx.audit_after(0, 200)).await;
        assert_eq!(stored.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=131).collect::<Vec<_>>());
        assert_eq!(stored.into_iter().map(|row| row.event).collect::<Vec<_>>(), rows);
        let mut again: Vec<_> = (0..99)
            .map(|_| audit_event(fixture.organization, EventType::RoleCreated, Category::Audit))
            .collect();
        again[97] = rows[7].clone();
        let add = move |tx: &mut OrgTx<'_>| tx.audit_add_all(&again).map(drop);
        let refused = fixture.store.write(fixture.organization, add).await.unwrap_err();
        assert!(refused.is_duplicate(AUDIT_ID_KEY), "{refused:?}");
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { seq: 131, .. }));
    }

    async fn a_job_that_is_taken_back_leaves_no_gap_in_the_chain(fixture) {
        let jobs = (0..64).map(|n| {
            let row = audit_event(fixture.organization, EventType::RoleCreated, Category::Audit);
            fixture.store.write(fixture.organization, move |tx| {
                tx.audit_append(&row)?;
                if n % 3 == 0 { Err(Error::Missing { table: "none" }) } else { Ok(()) }
            })
        });
        let done = futures::future::join_all(jobs).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(done, 42);
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { seq: 42, .. }));
    }

    async fn a_job_whose_last_statement_fails_harms_no_other_of_its_transaction(fixture) {
        let first = provider(fixture.organization);
        let taken = first.clone();
        fixture.write(move |tx| tx.provider_insert(&first)).await;
        let jobs = (0..64).map(|n| {
            let row = audit_event(fixture.organization, EventType::ProviderCreated, Category::Audit);
            let provider = if n % 3 == 0 { taken.clone() } else { provider(fixture.organization) };
            fixture.store.write(fixture.organization, move |tx| {
                tx.audit_add(&row)?;
                tx.provider_insert(&provider)
            })
        });
        let answers = futures::future::join_all(jobs).await;
        let is_duplicate = |error: &Error| matches!(error, Error::Violation { .. });
        let refused = answers.iter().filter(|answer| answer.as_ref().is_err_and(is_duplicate)).count();
        assert_eq!((refused, answers.iter().filter(|answer| answer.is_ok()).count()), (22, 42), "{answers:?}");
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { seq: 42, .. }));
        assert_eq!(fixture.read(|tx| tx.provider_list(true, &Page::first(99))).await.len(), 43);
    }

    async fn what_a_column_cannot_hold_is_rounded_before_it_is_hashed(fixture) {
        let mut row = audit_event(fixture.organization, EventType::PolicyDecision, Category::Audit);
        row.path = Some("/a\0b".to_owned());
        row.timestamp = Timestamp::from_nanosecond(1_700_000_000_123_456_789).unwrap();
        fixture.write(move |tx| tx.audit_append(&row)).await;
        let rows = fixture.read(|tx| tx.audit_list(&AuditFilter::default(), &Page::first(9)).map(|page| page.rows)).await;
        assert_eq!(rows[0].event.path.as_deref(), Some("/a\u{fffd}b"));
        assert_eq!(rows[0].event.timestamp.as_nanosecond(), 1_700_000_000_123_456_000);
        assert!(matches!(verify(&fixture).await, ChainCheck::Intact { .. }));
    }

    async fn anyone_can_compute_the_chain(fixture) {
        append(&fixture, 3).await;
        let rows = fixture.read(|tx| tx.activity_after(0, None, 1)).await;
        assert_eq!(rows[0].seq, 2);
        let filter = AuditFilter { order: Order::Ascending, ..AuditFilter::default() };
        let rows = fixture.read(move |tx| tx.audit_list(&filter, &Page::first(9)).map(|page| page.rows)).await;
        let mut hash = CHAIN_START;
        for row in rows {
            let mut json = serde_json::to_value(&row.event).unwrap();
            json["seq"] = json!(row.seq);
            let text = serde_jcs::to_vec(&json).unwrap();
            hash = Sha256::new().chain_update(hash).chain_update(text).finalize().into();
            assert_eq!(row.hash, hash);
        }
        assert_eq!(verify(&fixture).await, ChainCheck::Intact { seq: 3, hash });
    }

    async fn an_empty_log_is_intact(fixture) {
        assert_eq!(verify(&fixture).await, ChainCheck::Intact { seq: 0, hash: CHAIN_START });
    }

    async fn a_changed_row_breaks_the_chain(fixture) {
        append(&fixture, 4).await;
        fixture.tamper("UPDATE audit_events SET user_id = 'nobody' WHERE seq = 3");
        assert_eq!(verify(&fixture).await, ChainCheck::Broken { seq: 3 });
    }

    async fn a_row_taken_out_breaks_the_chain(fixture) {
        append(&fixture, 4).await;
        fixture.tamper("DELETE FROM audit_events WHERE seq = 2");
        assert_eq!(verify(&fixture).await, ChainCheck::Broken { seq: 2 });
    }

    async fn the_log_is_paged_in_either_order_by_time_and_id(fixture) {
        let mut rows = append(&fixture, 5).await;
        for order in [Order::Ascending, Order::Descending] {
            let mut seen = Vec::new();
            let mut after: Option<(Timestamp, EventId)> = None;
            for _ in 0..5 {
                let filter = AuditFilter { order, ..AuditFilter::default() };
                let page = fixture.read(move |tx| tx.audit_list(&filter, &Page { after, limit: 2 }).map(|page| page.rows)).await;
                after = page.last().map(|row| (row.event.timestamp, row.event.id));
                seen.extend(page.into_iter().map(|row| row.event.id));
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, rows.iter().map(|row| row.id).collect::<Vec<_>>(), "{order:?}");
            rows.reverse();
        }
    }

    async fn the_log_is_filtered(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let before = append(&fixture, 4).await;
        let mut row = audit_event(fixture.organization, EventType::WorkspaceStatusChanged, Category::Activity);
        row.workspace_id = Some(workspace.id);
        row.task_id = Some(TaskId::from_uuid(uuid()));
        row.user_id = "user_1".to_owned();
        row.timestamp = now() + std::time::Duration::from_secs(9);
        let (r, from) = (row.clone(), row.timestamp);
        fixture.write(move |tx| tx.audit_append(&r)).await;
        let all = AuditFilter::default;
        let filters = [
            AuditFilter { workspace: Some(workspace.id), ..all() },
            AuditFilter { workspace: Some(workspace.id), task: row.task_id, ..all() },
            AuditFilter { workspace: Some(workspace.id), category: Some(Category::Activity), ..all() },
            AuditFilter { event_types: vec![EventType::WorkspaceStatusChanged, EventType::TaskCompleted], ..all() },
            AuditFilter { user_id: Some("user_1".to_owned()), ..all() },
            AuditFilter { from: Some(from), ..all() },
        ];
        for filter in filters {
            let seen = fixture.read({
                let filter = filter.clone();
                move |tx| tx.audit_list(&filter, &Page::first(9)).map(|page| page.rows)
            }).await;
            assert_eq!(seen.iter().map(|row| row.event.id).collect::<Vec<_>>(), [row.id], "{filter:?}");
        }
        let earlier = AuditFilter { to: Some(from), order: Order::Ascending, ..all() };
        let seen = fixture.read(move |tx| tx.audit_list(&earlier, &Page::first(9)).map(|page| page.rows)).await;
        assert_eq!(seen.into_iter().map(|row| row.event).collect::<Vec<_>>(), before);
        let id = workspace.id;
        let stream = fixture.read(move |tx| tx.activity_after(1, Some(id), 9)).await;
        assert_eq!(stream.into_iter().map(|row| row.seq).collect::<Vec<_>>(), [5]);
    }
}
