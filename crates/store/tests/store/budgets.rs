//! The ledger of budgets: nothing beyond a limit, whoever asks and whoever dies.

use freehold_model::{
    OrganizationId, Timestamp,
    budget::{Ask, CounterKey, Leased, Subject},
};
use freehold_store::{Error, Store};
use proptest::prelude::*;

use crate::{fixture::organization_insert, on_both_databases};

fn key(organization: OrganizationId, counter: &str) -> CounterKey {
    CounterKey {
        organization_id: organization,
        origin: "role",
        capability: "api".into(),
        counter: counter.into(),
        unit: "requests",
        subject: Subject::Organization(organization),
        workspace_id: None,
        window_seconds: 0,
        window_start: 0,
    }
}

const fn ask(limit: u64, amount: u64, want: u64) -> Ask {
    Ask { limit, least: amount, most: amount, want }
}

async fn lease(store: &Store, key: &CounterKey, ask: Ask) -> Leased {
    let (organization, key) = (key.organization_id, key.clone());
    store
        .write(organization, move |tx| tx.budget_lease(&key, &ask))
        .await
        .unwrap_or_else(|error: Error| panic!("{error}"))
}

async fn give_back(store: &Store, key: &CounterKey, amount: u64) {
    let (organization, key) = (key.organization_id, key.clone());
    store
        .write(organization, move |tx| tx.budget_give_back(&key, amount))
        .await
        .unwrap_or_else(|error: Error| panic!("{error}"));
}

async fn taken(store: &Store, key: &CounterKey) -> u64 {
    let (organization, keys) = (key.organization_id, vec![key.clone()]);
    let taken: Result<_, Error> = store.read(organization, move |tx| tx.budget_taken(&keys)).await;
    taken.unwrap()[0]
}

on_both_databases! {
    async fn a_count_goes_to_its_limit_and_not_beyond(fixture) {
        let (store, key) = (&fixture.store, key(fixture.organization, "calls"));
        assert_eq!(taken(store, &key).await, 0);
        let leased = lease(store, &key, ask(100, 1, 50)).await;
        // A sixteenth of what is left, and no more.
        assert_eq!(leased, Leased { granted: 6, taken: 6, warned: false });
        assert_eq!(lease(store, &key, ask(100, 60, 60)).await.granted, 60);
        assert_eq!(lease(store, &key, ask(100, 35, 35)).await, Leased { granted: 0, taken: 66, warned: false });
        // What there is, for who takes less than it wants.
        assert_eq!(lease(store, &key, Ask { limit: 100, least: 1, most: 90, want: 90 }).await.granted, 34);
        assert_eq!(lease(store, &key, ask(100, 1, 1)).await.granted, 0);
        give_back(store, &key, 10).await;
        assert_eq!(lease(store, &key, ask(95, 1, 1)).await.granted, 1);
        assert_eq!(lease(store, &key, ask(91, 1, 1)).await.granted, 0);
    }

    async fn what_is_overdrawn_is_counted_and_the_warning_is_remembered(fixture) {
        let key = key(fixture.organization, "tokens");
        let over = key.clone();
        let sum = fixture.write(move |tx| {
            tx.budget_overdraw(&over, 7)?;
            tx.budget_warned(&over)?;
            tx.budget_overdraw(&over, u64::MAX)
        }).await;
        assert!(sum > 9_000_000_000_000_000);
        let leased = lease(&fixture.store, &key, ask(9_000_000_000_000_000, 1, 1)).await;
        assert_eq!((leased.granted, leased.warned), (0, true));
    }

    async fn organizations_counters_and_windows_are_counted_apart(fixture) {
        let other = organization_insert(&fixture.store, "other").await;
        let own = key(fixture.organization, "calls");
        let windowed = CounterKey { window_seconds: 60, window_start: 120, ..own.clone() };
        let next = CounterKey { window_start: 180, ..windowed.clone() };
        let all = [own.clone(), key(other, "calls"), key(fixture.organization, "more"), windowed, next,
            CounterKey { origin: "provider", ..own.clone() }, CounterKey { unit: "tokens", ..own.clone() },
            CounterKey { capability: "b".into(), ..own }];
        for (at, key) in (1..).zip(&all) {
            assert_eq!(lease(&fixture.store, key, ask(at, at, at)).await.granted, at);
        }
        for (at, key) in (1..).zip(&all) {
            assert_eq!(taken(&fixture.store, key).await, at);
        }
    }

    async fn counts_end_with_their_window_or_their_workspace(fixture) {
        let (workspace, session) = fixture.workspace().await;
        let organization = fixture.organization;
        let shared = key(organization, "shared");
        let own = CounterKey { subject: Subject::Session(session.id), workspace_id: Some(workspace.id), ..key(organization, "own") };
        let past = |start| CounterKey { window_seconds: 60, window_start: start, ..key(organization, "past") };
        for key in [&shared, &own, &past(0), &past(60), &past(120)] {
            lease(&fixture.store, key, ask(9, 1, 1)).await;
        }
        let sweep = |limit| fixture.store.system_write(move |tx| tx.budget_sweep(Timestamp::from_second(121).unwrap(), limit));
        let swept: Result<u64, Error> = sweep(1).await;
        assert_eq!(swept.unwrap(), 1);
        let swept: Result<u64, Error> = sweep(10).await;
        assert_eq!(swept.unwrap(), 1);
        assert_eq!((taken(&fixture.store, &past(60)).await, taken(&fixture.store, &past(120)).await), (0, 1));
        let id = workspace.id;
        fixture.write(move |tx| tx.workspace_delete(id)).await;
        assert_eq!((taken(&fixture.store, &shared).await, taken(&fixture.store, &own).await), (1, 0));
    }

    async fn many_who_lease_at_once_and_die_never_go_beyond(fixture) {
        const LIMIT: u64 = 200;
        let key = key(fixture.organization, "calls");
        let stores = [fixture.store.clone(), fixture.open_again()];
        let mut leasers = tokio::task::JoinSet::new();
        for at in 0..12_u64 {
            let (store, key) = (stores[usize::try_from(at % 2).unwrap()].clone(), key.clone());
            leasers.spawn(async move {
                let mut kept = 0;
                for round in 0..20 {
                    let leased = lease(&store, &key, ask(LIMIT, 1 + at % 3, 1 + round)).await;
                    assert!(leased.taken <= LIMIT);
                    // Some give back what they do not need, and some die with it.
                    if leased.granted > 0 && (at + round) % 2 == 0 {
                        give_back(&store, &key, 1).await;
                        kept += leased.granted - 1;
                    } else {
                        kept += leased.granted;
                    }
                }
                kept
            });
        }
        let kept: u64 = leasers.join_all().await.into_iter().sum();
        assert_eq!(taken(&fixture.store, &key).await, kept);
        assert!(kept <= LIMIT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// The rows say at each point what a plain sum says.
    #[test]
    fn the_ledger_is_a_sum_with_a_limit(acts in proptest::collection::vec((0..4u8, 0..30u64, 1..120u64), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = crate::fixture::Fixture::sqlite().await;
            let key = key(fixture.organization, "calls");
            let mut sum = 0;
            for (what, amount, limit) in acts {
                match what {
                    0 | 1 => {
                        let leased = lease(&fixture.store, &key, Ask { limit, least: 1 + amount / 2, most: 1 + amount, want: 1 + amount * 2 }).await;
                        sum += leased.granted;
                        prop_assert!(leased.granted == 0 || sum <= limit);
                    }
                    2 => {
                        let amount = amount.min(sum);
                        give_back(&fixture.store, &key, amount).await;
                        sum -= amount;
                    }
                    _ => {
                        let over = key.clone();
                        let now = fixture.write(move |tx| tx.budget_overdraw(&over, amount)).await;
                        sum += amount;
                        prop_assert_eq!(now, sum);
                    }
                }
                prop_assert_eq!(taken(&fixture.store, &key).await, sum);
            }
            Ok(())
        })?;
    }
}
