//! Tasks: first in, first out; listed newest first; one at a time.

use freehold_model::task::{Phase, Task};
use freehold_store::Page;

use crate::{fixture::task, on_both_databases};

on_both_databases! {
    async fn tasks_wait_in_the_order_they_came_whatever_their_clocks_say(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let mut tasks: Vec<Task> = (0..4).map(|n| task(&workspace, &format!("task {n}"))).collect();
        // The ids were made in order; come in another.
        tasks.reverse();
        let (inserted, id) = (tasks.clone(), workspace.id);
        fixture.write(move |tx| inserted.iter().try_for_each(|task| tx.task_insert(task))).await;
        assert_eq!(fixture.read(move |tx| tx.task_current(id)).await, None);
        for task in &tasks {
            let next = fixture.read(move |tx| tx.task_next_submitted(id)).await.unwrap();
            assert_eq!(&next, task);
            fixture.write(move |tx| {
                tx.task_update(&Task { phase: Phase::Running, ..next.clone() })?;
                assert_eq!(tx.task_current(id)?.map(|task| task.id), Some(next.id));
                tx.task_update(&Task { phase: Phase::Completed, ..next })
            }).await;
        }
        assert_eq!(fixture.read(move |tx| tx.task_next_submitted(id)).await, None);
    }

    async fn tasks_are_listed_newest_first_page_by_page(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let tasks: Vec<Task> = (0..5).map(|n| task(&workspace, &format!("task {n}"))).collect();
        let (inserted, id) = (tasks.clone(), workspace.id);
        fixture.write(move |tx| inserted.iter().try_for_each(|task| tx.task_insert(task))).await;
        let pages = fixture.read(move |tx| {
            let first = tx.task_list(id, &Page::first(3))?;
            let second = tx.task_list(id, &Page::after(first[2].id, 3))?;
            Ok([first, second].concat())
        }).await;
        assert_eq!(pages, tasks.into_iter().rev().collect::<Vec<_>>());
    }

    async fn an_agent_has_one_task_at_a_time(fixture) {
        let (workspace, _) = fixture.workspace().await;
        let (one, other) = (task(&workspace, "one"), task(&workspace, "other"));
        let refused = fixture.store.write(fixture.organization, move |tx| {
            tx.task_insert(&Task { phase: Phase::Delivered, ..one })?;
            tx.task_insert(&Task { phase: Phase::Compacting, ..other })
        }).await;
        assert!(refused.unwrap_err().is_duplicate("tasks_organization_id_workspace_id_key"));
    }
}
