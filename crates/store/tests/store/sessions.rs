//! Session events: dense, in order, each once; and the summary they add up to.

use freehold_model::{SessionId, event::SessionEvent, session::Summary};
use freehold_store::{CommittedEvent, Error, Page, SessionFilter};
use proptest::{prelude::*, test_runner::TestRunner};

use crate::{
    fixture::{Fixture, event, uuid},
    on_both_databases,
};

/// Bytes of an event's payload, as JSON.
fn length(event: &SessionEvent) -> u64 {
    serde_json::to_string(&event.payload).unwrap().len() as u64
}

on_both_databases! {
    async fn events_get_dense_sequences_and_add_up_to_the_summary(fixture) {
        let (_, session) = fixture.workspace().await;
        let id = session.id;
        let events = [event(id, "first"), event(id, "second"), event(id, "third")];
        let appended = events.clone();
        let committed = fixture.write(move |tx| tx.session_events_append(id, &appended)).await;
        let expected: Vec<_> = (1..)
            .zip(&events)
            .map(|(sequence, event)| CommittedEvent { id: event.id, sequence, is_new: true, bytes: length(event) })
            .collect();
        assert_eq!(committed, expected);
        let read = fixture.read(move |tx| tx.session_events_after(id, 1, 10)).await;
        let after: Vec<_> = (2..)
            .zip(&events[1..])
            .map(|(sequence, event)| SessionEvent { sequence: Some(sequence), ..event.clone() })
            .collect();
        assert_eq!(read, after);
        let mut summary = Summary::default();
        for event in &events {
            summary.apply(event);
            summary.journal.add(length(event));
        }
        let page = Page::first(1);
        let listed = fixture.read(move |tx| tx.session_list(&SessionFilter::default(), &page)).await;
        assert_eq!(listed[0].summary, summary);
        assert!(listed[0].updated_at >= session.updated_at);
    }

    async fn an_event_that_comes_again_keeps_its_sequence_and_its_words(fixture) {
        let (_, session) = fixture.workspace().await;
        let id = session.id;
        let one = event(id, "once");
        let again = SessionEvent { id: one.id, ..event(id, "twice") };
        let other = event(id, "other");
        let (a, b, c) = (one.clone(), again, other.clone());
        fixture.write(move |tx| tx.session_events_append(id, &[a])).await;
        let committed = fixture.write(move |tx| tx.session_events_append(id, &[b.clone(), c, b])).await;
        assert_eq!(
            committed,
            [
                CommittedEvent { id: one.id, sequence: 1, is_new: false, bytes: 0 },
                CommittedEvent { id: other.id, sequence: 2, is_new: true, bytes: length(&other) },
                CommittedEvent { id: one.id, sequence: 1, is_new: false, bytes: 0 },
            ]
        );
        let read = fixture.read(move |tx| tx.session_events_after(id, 0, 10)).await;
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].payload, one.payload);
    }

    async fn events_of_a_session_that_is_not_there_are_refused(fixture) {
        let id = SessionId::from_uuid(uuid());
        let refused =
            fixture.store.write(fixture.organization, move |tx| tx.session_events_append(id, &[event(id, "x")])).await;
        assert!(matches!(refused, Err(Error::Missing { table: "sessions" })), "{refused:?}");
    }

    async fn random_batches_with_repeats_keep_sequences_dense(fixture) {
        let (_, session) = fixture.workspace().await;
        tokio::task::spawn_blocking(move || random_batches(&fixture, session.id)).await.unwrap();
    }
}

/// Appends random batches, from a pool of events small enough for repeats, to one session that only grows.
fn random_batches(fixture: &Fixture, session: SessionId) {
    let pool: Vec<SessionEvent> = (0..200).map(|n| event(session, &format!("event {n}"))).collect();
    let batches = proptest::collection::vec(proptest::collection::vec(0..pool.len(), 0..8), 1..6);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() });
    let handle = tokio::runtime::Handle::current();
    let checked = runner.run(&batches, |batches| {
        for batch in batches {
            let events: Vec<_> = batch.iter().map(|&index| pool[index].clone()).collect();
            let ids: Vec<_> = events.iter().map(|event| event.id).collect();
            let committed =
                handle.block_on(fixture.write(move |tx| tx.session_events_append(session, &events)));
            prop_assert_eq!(committed.iter().map(|event| event.id).collect::<Vec<_>>(), ids);
            let log = handle.block_on(fixture.read(move |tx| tx.session_events_after(session, 0, 1_000)));
            prop_assert!((1..).zip(&log).all(|(sequence, event)| event.sequence == Some(sequence)));
            for event in committed {
                let position = usize::try_from(event.sequence).unwrap() - 1;
                prop_assert_eq!(log[position].id, event.id);
            }
        }
        Ok(())
    });
    checked.unwrap();
}
