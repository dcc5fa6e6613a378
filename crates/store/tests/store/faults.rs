//! Full disks, lost connections, killed processes.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::mpsc,
};

use freehold_model::{
    OrganizationId,
    audit::{Category, EventType},
};
use freehold_store::{ChainCheck, Database, Error, Options, Page, Store};

use crate::{
    fixture::{Fixture, audit_event, event, provider},
    on_both_databases,
};

/// Rows that each transaction of the killed process appends.
const ROWS: u64 = 3;

#[tokio::test]
async fn a_full_disk_fails_the_job_and_the_writer_lives_on() {
    let fixture = Fixture::sqlite().await;
    let (_, session) = fixture.workspace().await;
    fixture.store.close().await;
    let options = Options { sqlite_bytes_max: Some(1 << 20), ..fixture.options.clone() };
    let store = Store::open(&options).unwrap();
    let (organization, id) = (fixture.organization, session.id);
    let large = event(id, &"x".repeat(2 << 20));
    let row = audit_event(organization, EventType::TaskStarted, Category::Activity);
    let failed = store
        .write(organization, move |tx| {
            tx.audit_append(&row)?;
            tx.session_events_append(id, &[large])
        })
        .await;
    assert!(matches!(&failed, Err(error @ Error::Unavailable { .. }) if error.is_retryable()), "{failed:?}");
    let small = event(id, "small");
    let committed =
        store.write(organization, move |tx| tx.session_events_append(id, &[small])).await.unwrap();
    assert_eq!(committed[0].sequence, 1);
    assert_eq!(store.read(organization, |tx| tx.audit_last_seq()).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_were_lost_while_idle_are_made_again_unnoticed() {
    let fixture = Fixture::postgresql().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    fixture.tamper(end);
    let provider = provider(fixture.organization);
    fixture.write(move |tx| tx.provider_insert(&provider)).await;
    for _ in 0..8 {
        assert_eq!(fixture.read(|tx| tx.provider_list(true, &Page::first(9))).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_under_a_job_fails_it_as_worth_another_try() {
    let fixture = Fixture::postgresql().await;
    let (organization, store) = (fixture.organization, fixture.store.clone());
    let ((begun, has_begun), (ended, has_ended)) = (mpsc::channel(), mpsc::channel());
    let (one, again) = (provider(organization), provider(organization));
    let (one_id, again_id) = (one.id, again.id);
    let job = tokio::spawn(async move {
        let job = move |tx: &mut freehold_store::OrgTx<'_>| {
            tx.provider_insert(&one)?;
            begun.send(()).unwrap();
            has_ended.recv().unwrap();
            tx.provider_insert(&provider(organization))
        };
        store.write(organization, job).await
    });
    let cut = tokio::task::spawn_blocking(move || {
        has_begun.recv().unwrap();
        fixture.tamper(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'",
        );
        ended.send(()).unwrap();
        fixture
    });
    let failed = job.await.unwrap();
    assert!(matches!(&failed, Err(error) if error.is_retryable()), "{failed:?}");
    let fixture = cut.await.unwrap();
    fixture.write(move |tx| tx.provider_insert(&again)).await;
    assert_eq!(fixture.read(move |tx| tx.provider_view(one_id)).await, None);
    assert!(fixture.read(move |tx| tx.provider_view(again_id)).await.is_some());
}

on_both_databases! {
    async fn a_process_killed_while_it_writes_leaves_whole_transactions_and_an_intact_chain(fixture) {
        let (_, session) = fixture.workspace().await;
        let database = match &fixture.options.database {
            Database::Sqlite { path } => format!("sqlite {}", path.display()),
            Database::Postgres { url } => format!("postgres {url}"),
        };
        let mut acknowledged = 0;
        for round in 1..=3 {
            let order = format!("{} {} {database}\n", fixture.organization, session.id);
            acknowledged += tokio::task::spawn_blocking(move || kill_while_writing(&order, round * 40)).await.unwrap();
            let (organization, id) = (fixture.organization, session.id);
            let rows = fixture.read(|tx| tx.audit_last_seq()).await;
            let events = fixture.read(move |tx| tx.session_last_sequence(id)).await;
            assert_eq!(rows, events * ROWS, "a transaction was cut in two");
            assert!(events >= acknowledged, "an acknowledged transaction was lost");
            let check = fixture.store.audit_verify(organization).await.unwrap();
            assert!(matches!(check, ChainCheck::Intact { seq, .. } if seq == rows), "{check:?}");
        }
    }
}

/// Starts a process that writes, kills it after it acknowledged `count` transactions, and answers how many it did.
fn kill_while_writing(order: &str, count: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::writes_until_it_is_killed", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(order.as_bytes()).unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_acknowledged =
        |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line == "committed");
    let mut acknowledged =
        output.by_ref().filter(is_acknowledged).take(usize::try_from(count).unwrap()).count();
    child.kill().unwrap();
    acknowledged += output.filter(is_acknowledged).count();
    child.wait().unwrap();
    acknowledged as u64
}

/// Marks the process that is killed.
const CHILD_VARIABLE: &str = "FREEHOLD_STORE_TEST_CHILD";

/// The process that is killed: it takes what to write to from its standard input. Among the tests it does nothing.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test that starts itself again has no other way to know it")]
fn writes_until_it_is_killed() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let mut order = String::new();
    std::io::stdin().read_line(&mut order).unwrap();
    let words: Vec<&str> = order.split_whitespace().collect();
    let [organization, session, kind, place] = words[..] else { panic!("not an order: {order}") };
    let organization: OrganizationId = organization.parse().unwrap();
    let session = session.parse().unwrap();
    let database = match kind {
        "sqlite" => Database::Sqlite { path: place.into() },
        _ => Database::Postgres { url: place.to_owned() },
    };
    let store = Store::open(&Options::new(database)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let writer = async |_| {
        // Far more than are waited for, and yet an end if nobody kills.
        for _ in 0..10_000 {
            let write = move |tx: &mut freehold_store::OrgTx<'_>| {
                tx.session_events_append(session, &[event(session, "one")])?;
                for _ in 0..ROWS {
                    tx.audit_append(&audit_event(organization, EventType::TaskStarted, Category::Activity))?;
                }
                Ok::<_, Error>(())
            };
            store.write(organization, write).await.unwrap();
            println!("committed");
        }
    };
    runtime.block_on(async { tokio::join!(writer(1), writer(2), writer(3), writer(4)) });
}
