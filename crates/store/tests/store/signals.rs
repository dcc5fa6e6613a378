//! Who waits for a change is woken by its commit, whichever server made it.

use std::time::Duration;

use freehold_model::{
    MemberId, Timestamp,
    audit::{Category, EventType},
    member::{Member, MemberRole},
};
use freehold_store::{Error, Topic};
use tokio::time::timeout;

use crate::{
    fixture::{audit_event, event, provider},
    on_both_databases,
    resources::credential,
    secrets::secret,
};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

on_both_databases! {
    async fn a_commit_wakes_those_who_wait_for_its_topics(fixture) {
        let (_, session) = fixture.workspace().await;
        let mut receivers = Topic::ALL.iter().map(|&topic| fixture.store.subscribe(topic)).collect::<Vec<_>>();
        let row = audit_event(fixture.organization, EventType::TaskSubmitted, Category::Activity);
        let provider = provider(fixture.organization);
        let secret = secret(fixture.organization, "key");
        let credential = credential(fixture.organization, "key");
        let member = Member {
            id: MemberId::from_uuid(uuid::Uuid::now_v7()),
            organization_id: fixture.organization,
            email: "promoted@example.test".to_owned(),
            role: MemberRole::Member,
            created_at: Timestamp::UNIX_EPOCH,
        };
        fixture.write(move |tx| {
            tx.member_insert(&member)?;
            tx.member_update(&Member { role: MemberRole::Owner, ..member })?;
            tx.audit_append(&row)?;
            tx.session_events_append(session.id, &[event(session.id, "hello")])?;
            tx.secret_insert(&secret, &[1])?;
            tx.credential_insert(&credential, b"")?;
            tx.provider_insert(&provider)
        }).await;
        for receiver in &mut receivers {
            timeout(PATIENCE, receiver.changed()).await.unwrap().unwrap();
        }
    }

    async fn what_is_taken_back_wakes_nobody(fixture) {
        let receiver = fixture.store.subscribe(Topic::Audit);
        let row = audit_event(fixture.organization, EventType::TaskSubmitted, Category::Activity);
        let failed = fixture.store.write(fixture.organization, move |tx| {
            tx.audit_append(&row)?;
            Err::<(), _>(Error::Closed)
        }).await;
        assert!(failed.is_err());
        // The listener of PostgreSQL may wake everybody once it is connected; that is no commit.
        assert!(fixture.postgresql.is_some() || !receiver.has_changed().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_s_commit_wakes_through_postgresql() {
    let fixture = crate::fixture::Fixture::postgresql().await;
    let other = fixture.open_again();
    let mut receiver = other.subscribe(Topic::Work);
    // The first change may be that the listener was connected, and the listener may come after the first commit.
    let mut seen = false;
    for _ in 0..2 {
        let provider = provider(fixture.organization);
        receiver.mark_unchanged();
        fixture.write(move |tx| tx.provider_insert(&provider)).await;
        seen = timeout(PATIENCE, receiver.changed()).await.is_ok();
    }
    assert!(seen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_lost_its_connection_hears_again() {
    let fixture = crate::fixture::Fixture::postgresql().await;
    let other = fixture.open_again();
    let mut receiver = other.subscribe(Topic::Work);
    timeout(PATIENCE, receiver.changed()).await.unwrap().unwrap();
    fixture.tamper("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    // Connecting again wakes everybody, since signals may have been missed.
    timeout(PATIENCE, receiver.changed()).await.unwrap().unwrap();
}
