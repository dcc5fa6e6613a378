//! Jobs stand or fall alone, share commits, and keep their order between servers.

use std::sync::mpsc;

use freehold_model::{
    audit::{Category, EventType},
    provider::Provider,
};
use freehold_store::{ChainCheck, Error, OrgTx, Page, Store};

use crate::{
    fixture::{audit_event, provider},
    on_both_databases,
};

#[derive(Debug)]
enum Refused {
    Store(Error),
    OnPurpose,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// Appends a row from each of many tasks at once.
async fn append_at_once(store: &Store, organization: freehold_model::OrganizationId, count: usize) {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..count {
        let store = store.clone();
        let row = audit_event(organization, EventType::TaskSubmitted, Category::Activity);
        writers.spawn(async move { store.write(organization, move |tx| tx.audit_append(&row)).await });
    }
    for appended in writers.join_all().await {
        appended.unwrap();
    }
}

on_both_databases! {
    async fn a_job_that_answers_an_error_leaves_nothing_and_spares_its_neighbours(fixture) {
        let organization = fixture.organization;
        let (good, bad) = (provider(organization), provider(organization));
        let (good_id, bad_id) = (good.id, bad.id);
        let (bad_job, good_job) = tokio::join!(
            fixture.store.write(organization, move |tx| {
                tx.provider_insert(&bad)?;
                Err::<(), _>(Refused::OnPurpose)
            }),
            fixture.store.write(organization, move |tx| Ok::<_, Refused>(tx.provider_insert(&good)?)),
        );
        assert!(matches!(bad_job, Err(Refused::OnPurpose)));
        good_job.unwrap();
        assert_eq!(fixture.read(move |tx| tx.provider_view(bad_id)).await, None);
        assert!(fixture.read(move |tx| tx.provider_view(good_id)).await.is_some());
    }

    async fn a_job_that_panics_fails_alone_and_leaves_nothing(fixture) {
        let provider = provider(fixture.organization);
        let id = provider.id;
        let failed: Result<(), Refused> = fixture.store.write(fixture.organization, move |tx| {
            tx.provider_insert(&provider)?;
            panic!("on purpose")
        }).await;
        assert!(matches!(failed, Err(Refused::Store(Error::Panicked))), "{failed:?}");
        let failed: Result<(), Error> = fixture.store.read(fixture.organization, |_| panic!("on purpose")).await;
        assert!(matches!(failed, Err(Error::Panicked)), "{failed:?}");
        assert_eq!(fixture.read(move |tx| tx.provider_view(id)).await, None);
        append_at_once(&fixture.store, fixture.organization, 1).await;
    }

    async fn a_job_that_overlooks_a_failed_statement_is_taken_back(fixture) {
        let (one, other) = (provider(fixture.organization), provider(fixture.organization));
        let id = other.id;
        let o = one.clone();
        fixture.write(move |tx| tx.provider_insert(&o)).await;
        let failed = fixture.store.write(fixture.organization, move |tx| {
            tx.provider_insert(&other)?;
            drop(tx.provider_insert(&one));
            Ok::<_, Error>(())
        }).await;
        // PostgreSQL is not waited for, so that the job ends before its statement has failed.
        assert!(matches!(failed, Err(Error::Poisoned | Error::Violation { .. })), "{failed:?}");
        assert_eq!(fixture.read(move |tx| tx.provider_view(id)).await, None);
    }

    async fn a_job_that_fails_after_its_end_is_taken_back_alone_however_the_next_begins(fixture) {
        let (store, organization) = (&fixture.store, fixture.organization);
        let taken = provider(organization);
        let name = taken.name.clone();
        fixture.write(move |tx| tx.provider_insert(&taken)).await;
        let log = move |tx: &mut OrgTx<'_>| {
            tx.audit_add(&audit_event(organization, EventType::TaskSubmitted, Category::Activity))
        };
        // Each of these appends to the log and then fails, with a statement that PostgreSQL is not waited for.
        let breaks = || {
            let same = Provider { name: name.clone(), ..provider(organization) };
            store.write(organization, move |tx| log(tx).and_then(|_| tx.provider_insert(&same)))
        };
        let misses = || {
            let absent = provider(organization);
            store.write(organization, move |tx| log(tx).and_then(|_| tx.provider_update(&absent)))
        };
        let asks = || {
            store.write(organization, move |tx| {
                let found = tx.provider_list(true, &Page::first(9))?.len();
                Ok::<_, Error>((found, log(tx)?))
            })
        };
        let sends = || store.write(organization, log);
        let refuses = || store.write(organization, |_| Err::<(), _>(Refused::OnPurpose));
        // Holds the writer until the others are queued, so that they share a transaction.
        let (queued, are_queued) = mpsc::channel::<()>();
        let gate = store.write(organization, move |_| {
            are_queued.recv().unwrap();
            Ok::<_, Error>(())
        });
        let open = async { queued.send(()).unwrap() };
        // The order of the first steps, which queue them.
        let (gate, one, broke, asked, missed, sent, broke_2, refused, broke_3, missed_2, asked_2, broke_4, ()) = tokio::join!(
            gate, sends(), breaks(), asks(), misses(), sends(), breaks(), refuses(), breaks(), misses(), asks(),
            breaks(), open
        );
        gate.unwrap();
        assert_eq!((one.unwrap(), asked.unwrap(), sent.unwrap(), asked_2.unwrap()), (1, (1, 2), 3, (1, 4)));
        let is_duplicate = |error: &Error| error.is_duplicate("providers_organization_id_name_key");
        for broke in [broke, broke_2, broke_3, broke_4] {
            assert!(broke.as_ref().is_err_and(is_duplicate), "{broke:?}");
        }
        for missed in [missed, missed_2] {
            assert!(matches!(missed, Err(Error::Missing { table: "providers" })), "{missed:?}");
        }
        assert!(matches!(refused, Err(Refused::OnPurpose)), "{refused:?}");
        assert_eq!(fixture.read(|tx| tx.provider_list(true, &Page::first(9))).await.len(), 1);
        let check = store.audit_verify(organization).await.unwrap();
        assert!(matches!(check, ChainCheck::Intact { seq: 4, .. }), "{check:?}");
    }

    async fn a_reader_sees_one_moment(fixture) {
        let provider = provider(fixture.organization);
        let (store, organization) = (fixture.store.clone(), fixture.organization);
        let handle = tokio::runtime::Handle::current();
        let counts = fixture.read(move |tx| {
            let before = tx.provider_list(true, &Page::first(9))?.len();
            handle.block_on(store.write(organization, move |tx| tx.provider_insert(&provider)))?;
            Ok((before, tx.provider_list(true, &Page::first(9))?.len()))
        }).await;
        assert_eq!(counts, (0, 0));
        assert_eq!(fixture.read(|tx| tx.provider_list(true, &Page::first(9))).await.len(), 1);
    }

    async fn writers_at_once_keep_the_log_dense(fixture) {
        append_at_once(&fixture.store, fixture.organization, 300).await;
        let check = fixture.store.audit_verify(fixture.organization).await.unwrap();
        assert!(matches!(check, ChainCheck::Intact { seq: 300, .. }), "{check:?}");
    }

    async fn two_servers_at_once_keep_the_log_dense(fixture) {
        let other = fixture.open_again();
        let organization = fixture.organization;
        tokio::join!(append_at_once(&fixture.store, organization, 150), append_at_once(&other, organization, 150));
        let check = other.audit_verify(organization).await.unwrap();
        assert!(matches!(check, ChainCheck::Intact { seq: 300, .. }), "{check:?}");
    }

    async fn jobs_across_organizations_stand_or_fall_as_a_whole(fixture) {
        let organization = fixture.organization;
        let provider = provider(organization);
        let id = provider.id;
        let failed = fixture.store.system_write(move |tx| {
            tx.organization(organization)?.provider_insert(&provider)?;
            Err::<(), _>(Refused::OnPurpose)
        }).await;
        assert!(matches!(failed, Err(Refused::OnPurpose)));
        assert_eq!(fixture.read(move |tx| tx.provider_view(id)).await, None);
        let page = Page::first(9);
        let all = fixture.store.system_read(move |tx| tx.organization_list(&page)).await.unwrap();
        let by_name = fixture.store.system_read(|tx| tx.organization_by_name("default")).await.unwrap();
        assert_eq!((all.len(), by_name.map(|found| found.id)), (1, Some(organization)));
    }
}
