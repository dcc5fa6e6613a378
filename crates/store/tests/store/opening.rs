//! Opening, migrating and closing.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use freehold_model::audit::{Category, EventType};
use freehold_store::{ChainCheck, Database, Error, Options, Store};

use crate::{
    fixture::{Fixture, audit_event},
    on_both_databases,
};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

on_both_databases! {
    async fn what_is_written_is_there_after_opening_again(fixture) {
        let (workspace, _) = fixture.workspace().await;
        fixture.store.close().await;
        let again = fixture.open_again();
        let id = workspace.id;
        let found = again.read(fixture.organization, move |tx| tx.workspace_view(id)).await;
        assert_eq!(found.unwrap(), Some(workspace));
    }

    async fn every_migration_can_be_run_on_its_own_result(fixture) {
        let (workspace, _) = fixture.workspace().await;
        fixture.tamper("DELETE FROM schema_versions");
        let again = fixture.open_again();
        let id = workspace.id;
        let found = again.read(fixture.organization, move |tx| tx.workspace_view(id)).await;
        assert_eq!(found.unwrap(), Some(workspace));
    }

    async fn a_newer_schema_is_refused(fixture) {
        fixture.tamper("INSERT INTO schema_versions (version, name, applied_at) VALUES (9999, 'future', 0)");
        let refused = Store::open(&fixture.options);
        assert!(matches!(refused, Err(Error::NewerSchema { found: 9999, .. })), "{refused:?}");
    }

    async fn servers_that_start_at_once_migrate_once(fixture) {
        let options = &fixture.options;
        let opened: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(move || Store::open(options))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    }

    async fn close_finishes_what_waits_and_refuses_what_comes(fixture) {
        let organization = fixture.organization;
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let store = fixture.store.clone();
            let row = audit_event(organization, EventType::TaskSubmitted, Category::Activity);
            writers.spawn(async move { store.write(organization, move |tx| tx.audit_append(&row)).await });
        }
        // Once one is answered, the others are queued, written, or yet to come.
        let mut answers = vec![writers.join_next().await.unwrap().unwrap()];
        fixture.store.close().await;
        answers.extend(writers.join_all().await);
        assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(Error::Closed))), "{answers:?}");
        let written = answers.iter().filter(|answer| answer.is_ok()).count();
        let last = fixture.open_again().read(organization, |tx| tx.audit_last_seq()).await.unwrap();
        assert_eq!(last, written as u64);
        let late: Result<u64, Error> = fixture.store.read(organization, |tx| tx.audit_last_seq()).await;
        assert!(matches!(late, Err(Error::Closed)), "{late:?}");
        fixture.store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_has_one_owner_until_it_ends() {
    let fixture = Fixture::postgresql().await;
    let options = Options { owner: true, ..fixture.options.clone() };
    let first = Store::open(&options).unwrap();
    let refused = Store::open(&options);
    assert!(matches!(refused, Err(Error::Owned)), "{refused:?}");
    // Whoever does not want to own it works beside the owner.
    let row = audit_event(fixture.organization, EventType::RoleCreated, Category::Audit);
    fixture.write(move |tx| tx.audit_append(&row)).await;
    first.close().await;
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| Store::open(&options))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let refused = opened.iter().filter(|store| matches!(store, Err(Error::Owned))).count();
    assert_eq!((opened.iter().filter(|store| store.is_ok()).count(), refused), (1, 3), "{opened:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_lost_its_connection_does_not_write_until_it_is_the_owner_again() {
    let fixture = Fixture::postgresql().await;
    let options = Options { owner: true, ..fixture.options.clone() };
    let first = Store::open(&options).unwrap();
    fixture.tamper(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let second = Store::open(&options).unwrap();
    let organization = fixture.organization;
    let append = |store: &Store| {
        let row = audit_event(organization, EventType::RoleCreated, Category::Audit);
        let store = store.clone();
        async move { store.write(organization, move |tx| tx.audit_append(&row)).await }
    };
    // It is told without having asked for anything.
    let owns = async |store: &Store, expected: bool| {
        let start = Instant::now();
        while store.check_owner().is_ok() != expected {
            assert!(start.elapsed() < PATIENCE, "nobody notices");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    owns(&first, false).await;
    let refused = append(&first).await;
    assert!(matches!(&refused, Err(error @ Error::Owned) if error.is_retryable()), "{refused:?}");
    append(&second).await.unwrap();
    second.check_owner().unwrap();
    second.close().await;
    owns(&first, true).await;
    append(&first).await.unwrap();
    let check = first.audit_verify(organization).await.unwrap();
    assert!(matches!(check, ChainCheck::Intact { seq: 2, .. }), "{check:?}");
}

#[tokio::test]
async fn the_files_of_sqlite_are_for_their_owner_alone() {
    let fixture = Fixture::sqlite().await;
    let Database::Sqlite { path } = &fixture.options.database else { panic!("not sqlite") };
    let mut modes = Vec::new();
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        modes.push(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777);
    }
    assert_eq!(modes, [0o600; 3]);
}

#[test]
fn an_address_is_never_shown() {
    let url = "postgres://me:hunter2@127.0.0.1:1/none".to_owned();
    let options = Options::new(Database::Postgres { url });
    let refused = Store::open(&options).unwrap_err();
    let shown = format!("{options:?} {refused} {refused:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
