//! The reconciler with simulated pods: what is wanted becomes so through failing starts, lost pods and slow ones.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod hostile;
mod support;

use std::{
    collections::HashSet,
    fs::{self, File},
    time::{Duration, SystemTime},
};

use freehold_app::{
    fleet::{Appended, FAILED_STARTS_MAX, HISTORY_BYTES_MAX, Swept},
    role::RoleChange,
    task,
};
use freehold_driver::PodDriver;
use freehold_driver_sim::SimDriver;
use freehold_model::{
    EventId, MessageId, PodId, Timestamp, UploadId,
    audit::{self, AuditEvent, Category, EventType, SYSTEM_USER},
    session,
    task::{Phase as TaskPhase, Task},
    workspace::{Phase, Workspace},
};
use freehold_pod_api::{FromAgent, ToAgent};
use freehold_store::{AuditFilter, ChainCheck, Page};
use uuid::Uuid;

use crate::support::{World, compacted, event, said, tool_completed, turn_cancelled, turn_started, until};

fn idle(workspace: &Workspace) -> bool {
    workspace.phase == Phase::Idle
}

#[tokio::test]
async fn decisions_that_come_again_are_kept_once() {
    let world = World::start().await;
    let organization = world.owner.organization();
    let decision = |n| {
        let (id, user) = (EventId::from_uuid(Uuid::from_u128(n)), SYSTEM_USER.to_owned());
        let (kind, actor) = (EventType::PolicyDecision, audit::Actor::PolicyEngine);
        AuditEvent::new(id, organization, user, Timestamp::now(), kind, Category::Audit, actor)
    };
    let rows: Vec<_> = (1..=5).map(decision).collect();
    world.fleet.audit(rows[..3].to_vec()).await.unwrap();
    // Twice in one batch, too.
    let again = [&rows[1..], &rows[4..]].concat();
    world.fleet.audit(again).await.unwrap();
    let filter = AuditFilter { event_types: vec![EventType::PolicyDecision], ..AuditFilter::default() };
    let store = world.app.store();
    let kept =
        store.read(organization, move |tx| tx.audit_list(&filter, &Page::first(9))).await.unwrap().rows;
    assert_eq!(kept.len(), 5);
    let check = store.audit_verify(organization).await.unwrap();
    assert!(matches!(check, ChainCheck::Intact { .. }), "{check:?}");
}

#[tokio::test]
async fn a_task_is_handed_to_the_agent_and_moves_with_its_journal() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, current) = world.agent(task.workspace_id).await;
    assert!(current.is_none(), "it is handed over after the welcome");
    assert_eq!(agent.order().await.task_id, task.id);
    assert_eq!(world.task_now(&task).await.phase, TaskPhase::Delivered);
    agent.append(&task, vec![turn_started(&task)]).await;
    assert_eq!(world.task_now(&task).await.phase, TaskPhase::Running);
    assert_eq!(world.workspace(task.workspace_id).await.phase, Phase::Busy);
    let next = world.next_task(task.workspace_id, Vec::new()).await;
    agent.append(&task, vec![turn_cancelled(&task)]).await;
    assert_eq!(world.task_now(&task).await.phase, TaskPhase::Cancelled);
    assert_eq!(agent.order().await.task_id, next.id, "the next one follows");
}

#[tokio::test]
async fn a_page_of_history_ends_before_it_is_too_long_and_the_next_one_follows_it() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    for _ in 0..6 {
        let result = "x".repeat(HISTORY_BYTES_MAX / 4);
        agent.append(&task, vec![tool_completed(result)]).await;
    }
    let (mut sequences, mut pages) = (Vec::new(), 0);
    loop {
        let after_sequence = sequences.last().copied().unwrap_or(0);
        agent.send(FromAgent::History { request: 1000, session_id: task.session_id, after_sequence }).await;
        let ToAgent::HistoryPage { events, more, .. } = agent.receive().await else { continue };
        pages += 1;
        sequences.extend(events.iter().filter_map(|event| event.sequence));
        if !more {
            break;
        }
    }
    // The session's first event, the turn's, and six tools'.
    assert_eq!((sequences, pages), ((1..=8).collect(), 2));
}

#[tokio::test]
async fn after_a_compaction_an_agent_is_told_to_read_from_the_first_message_that_was_kept() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    assert_eq!(agent.order().await.session.journal_after, 0);
    agent.append(&task, vec![turn_started(&task)]).await;
    for _ in 0..30 {
        agent.append(&task, (0..100).map(|_| tool_completed("ok".into())).collect()).await;
    }
    let (kept, answer) = said();
    agent.append(&task, vec![answer]).await;
    for _ in 0..3 {
        agent.append(&task, (0..20).map(|_| tool_completed("ok".into())).collect()).await;
    }
    agent.append(&task, vec![compacted(&task, kept)]).await;
    agent.append(&task, vec![tool_completed("after".into())]).await;
    drop(agent);
    let (mut again, current) = world.agent(task.workspace_id).await;
    let session = current.unwrap().session;
    // The session's first event, the turn's and 3,000 tools' come before the answer.
    assert_eq!((session.journal_after, session.last_sequence), (3002, 3065));
    let (session_id, after_sequence) = (session.session_id, session.journal_after);
    again.send(FromAgent::History { request: 1, session_id, after_sequence }).await;
    let page = again.receive().await;
    let ToAgent::HistoryPage { events, more: false, .. } = page else { panic!("{page:?}") };
    assert_eq!(events.len(), 63);
    // A first message that the journal does not hold changes nothing.
    again.append(&task, vec![compacted(&task, MessageId::from_uuid(Uuid::now_v7()))]).await;
    drop(again);
    let (_, current) = world.agent(task.workspace_id).await;
    assert_eq!(current.unwrap().session.journal_after, 3002);
}

#[tokio::test]
async fn a_start_that_fails_is_repeated_as_a_new_pod() {
    let driver = SimDriver::new().unwrap();
    driver.fail_starts(2);
    let world = World::with(driver).await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    assert_eq!(agent.order().await.task_id, task.id);
    let workspace = world.workspace(task.workspace_id).await;
    assert_eq!((workspace.generation, workspace.failed_starts), (3, 0));
}

#[tokio::test]
async fn a_start_for_which_the_machine_has_no_room_waits_and_does_not_count() {
    let driver = SimDriver::new().unwrap();
    driver.no_room_for_starts(3);
    let world = World::with(driver).await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    assert_eq!(agent.order().await.task_id, task.id);
    let workspace = world.workspace(task.workspace_id).await;
    assert_eq!(
        (workspace.pod_id, workspace.generation),
        (Some(agent.pod), 1),
        "it is the pod of the first try"
    );
}

#[tokio::test]
async fn a_workspace_that_never_starts_fails_and_its_tasks_are_undeliverable() {
    let driver = SimDriver::new().unwrap();
    driver.fail_starts(u32::MAX);
    let world = World::with(driver).await;
    let task = world.task().await;
    let waiting = world.next_task(task.workspace_id, Vec::new()).await;
    let failed = world.workspace_when(task.workspace_id, |found| found.phase == Phase::Failed).await;
    assert_eq!((failed.failed_starts, failed.pod_id), (FAILED_STARTS_MAX, None));
    for task in [task, waiting] {
        let task = world.task_now(&task).await;
        assert_eq!(task.phase, TaskPhase::DeliveryFailed);
        assert!(task.reason.is_some_and(|reason| reason.contains("the script says so")));
    }
    assert_eq!(world.driver.starts(), 0);
    assert_eq!(*world.gate.in_force.lock().unwrap(), HashSet::new(), "no pod, and no policy in force");
}

#[tokio::test]
async fn a_lost_pod_is_replaced_and_its_task_goes_on_in_the_next() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    world.driver.lose(agent.pod, "lost");
    world.workspace_when(task.workspace_id, |found| found.pod_id != Some(agent.pod)).await;
    let (mut again, current) = world.agent(task.workspace_id).await;
    assert_eq!(current.map(|order| order.task_id), Some(task.id));
    let workspace = world.workspace(task.workspace_id).await;
    assert_eq!((workspace.phase, workspace.generation), (Phase::Busy, 2), "its turn goes on");
    again.append(&task, vec![turn_cancelled(&task)]).await;
    assert_eq!(world.workspace(task.workspace_id).await.phase, Phase::Idle);
}

#[tokio::test]
async fn a_reconciler_that_begins_takes_no_pod_for_lost_before_it_has_looked() {
    let mut world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    world.driver.slow_looks(Duration::from_millis(50));
    // What comes first at a start is left to chance.
    for _ in 0..10 {
        world.stop().await;
        world.go_on();
        drop(agent);
        (agent, _) = world.agent(task.workspace_id).await;
    }
    assert_eq!(world.workspace(task.workspace_id).await.generation, 1);
}

#[tokio::test]
async fn a_pod_that_does_not_answer_at_a_start_is_neither_lost_nor_replaced_and_serves_when_it_does() {
    let mut world = World::start().await;
    let task = world.task().await;
    let (agent, _) = world.agent(task.workspace_id).await;
    world.stop().await;
    drop(agent);
    world.driver.silence(agent_pod(&world, &task).await, true);
    world.go_on();
    // Another workspace is served meanwhile, which takes several looks at all.
    let other = world.task().await;
    let (mut others, _) = world.agent(other.workspace_id).await;
    assert_eq!(others.order().await.task_id, other.id);
    let pod = agent_pod(&world, &task).await;
    world.driver.silence(pod, false);
    let (again, _) = world.agent(task.workspace_id).await;
    assert_eq!((again.pod, world.workspace(task.workspace_id).await.generation), (pod, 1));
}

async fn agent_pod(world: &World, task: &Task) -> PodId {
    world.workspace(task.workspace_id).await.pod_id.unwrap()
}

#[tokio::test]
async fn a_pod_made_while_a_look_was_under_way_is_not_taken_for_lost() {
    let driver = SimDriver::new().unwrap();
    driver.slow_starts(Duration::from_millis(50));
    driver.slow_looks(Duration::from_millis(200));
    let world = World::with(driver).await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    assert_eq!(agent.order().await.task_id, task.id);
    assert_eq!(world.workspace(task.workspace_id).await.generation, 1);
}

#[tokio::test]
async fn a_stop_ends_every_task_at_once_and_refuses_what_the_agent_says_after() {
    let world = World::start().await;
    let task = world.task().await;
    let waiting = world.next_task(task.workspace_id, Vec::new()).await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    world.app.workspace_stop(&world.owner, task.workspace_id).await.unwrap();
    for task in [&task, &waiting] {
        assert_eq!(world.task_now(task).await.phase, TaskPhase::Cancelled);
    }
    let late = vec![event(task.session_id, task.id, turn_cancelled(&task))];
    let place = world.place(task.workspace_id);
    assert_eq!(world.fleet.append(place, task.session_id, late).await.unwrap(), Appended::TurnEnded);
    let session = world.app.session_view(&world.owner, task.session_id).await.unwrap();
    assert_eq!(session.summary.status, session::Status::Idle);
    let stopped = world.workspace_when(task.workspace_id, |found| found.phase == Phase::Stopped).await;
    assert_eq!((stopped.pod_id, stopped.generation), (None, 2));
    assert!(world.driver.observe().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_during_a_slow_start_leaves_no_pod() {
    let driver = SimDriver::new().unwrap();
    driver.slow_starts(Duration::from_millis(300));
    let world = World::with(driver).await;
    let task = world.task().await;
    world.app.workspace_stop(&world.owner, task.workspace_id).await.unwrap();
    world.workspace_when(task.workspace_id, |found| found.phase == Phase::Stopped).await;
    until("the pods to go", async || world.driver.observe().await.unwrap().is_empty().then_some(())).await;
}

#[tokio::test]
async fn an_agent_that_is_late_loses_its_task_and_its_pod() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    let place = world.place(task.workspace_id);
    world.fleet.agent_late(place, agent.pod, task.id, "it is late".into()).await.unwrap();
    let failed = world.task_now(&task).await;
    assert_eq!((failed.phase, failed.reason.as_deref()), (TaskPhase::Failed, Some("it is late")));
    let (_again, current) = world.agent(task.workspace_id).await;
    assert!(current.is_none());
    let workspace = world.workspace_when(task.workspace_id, idle).await;
    assert_ne!(workspace.pod_id, Some(agent.pod));
    let session = world.app.session_view(&world.owner, task.session_id).await.unwrap();
    assert_eq!(session.summary.status, session::Status::Idle);
}

#[tokio::test]
async fn a_task_that_never_began_is_undeliverable_when_its_agent_is_late() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    let place = world.place(task.workspace_id);
    world.fleet.agent_late(place, agent.pod, task.id, "it is late".into()).await.unwrap();
    assert_eq!(world.task_now(&task).await.phase, TaskPhase::DeliveryFailed);
}

#[tokio::test]
async fn a_workspace_is_stopped_when_it_was_idle_for_too_long_but_not_while_it_works() {
    let world = World::start().await;
    let idle_timeout_seconds = Some(Some(1));
    world.change_role(RoleChange { idle_timeout_seconds, ..RoleChange::default() }).await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    let began = world.workspace(task.workspace_id).await.updated_at;
    // Several looks at a busy workspace, later than the limit after it began.
    until("the limit to pass", async || {
        (began.duration_until(Timestamp::now()).as_secs() >= 2).then_some(())
    })
    .await;
    assert_eq!(world.workspace(task.workspace_id).await.phase, Phase::Busy);
    agent.append(&task, vec![turn_cancelled(&task)]).await;
    world.workspace_when(task.workspace_id, |found| found.phase == Phase::Stopped).await;
}

#[tokio::test]
async fn a_reconciler_that_stops_leaves_pods_and_tasks_as_they_are() {
    let mut world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    world.stop().await;
    assert_eq!(world.driver.observe().await.unwrap().len(), 1, "pods go on");
    assert_eq!(world.task_now(&task).await.phase, TaskPhase::Running);
}

#[tokio::test]
async fn a_sweep_removes_old_files_without_a_task_and_no_others() {
    let mut world = World::start().await;
    let task = world.task().await;
    // The first sweep, at the start, must not be the one that removes them.
    world.stop().await;
    let (kept, left, fresh) = (upload(), upload(), upload());
    world.next_task(task.workspace_id, vec![task::File { id: kept, name: "notes".into(), size: 1 }]).await;
    let folder = world.dir().join("uploads");
    fs::create_dir_all(&folder).unwrap();
    let two_hours_ago = SystemTime::from(Timestamp::now()) - Duration::from_secs(7200);
    for id in [kept, left, fresh] {
        let file = File::create(folder.join(id.to_string())).unwrap();
        if id != fresh {
            file.set_modified(two_hours_ago).unwrap();
        }
    }
    assert_eq!(world.fleet.sweep().await.unwrap(), Swept { answers: 0, uploads: 1, counts: 0 });
    let exists = |id: UploadId| folder.join(id.to_string()).exists();
    assert_eq!((exists(kept), exists(left), exists(fresh)), (true, false, true));
}

fn upload() -> UploadId {
    UploadId::from_uuid(Uuid::now_v7())
}
