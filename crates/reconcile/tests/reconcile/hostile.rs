//! An agent that somebody took over: what it says touches its own workspace at most, and what it floods is bounded.

use std::time::Duration;

use freehold_app::fleet::JournalLimits;
use freehold_driver_sim::SimDriver;
use freehold_model::{
    Timestamp, TurnId, WorkspaceId, audit,
    event::{Payload, SessionEvent, TerminationReason, TurnErrorCode, Usage},
    task::{Phase, Task},
};
use freehold_pod_api::{
    AGENT_INFO_CHARS_MAX, APPEND_EVENTS_MAX, AgentInfo, AppendRefusal, Connection, FromAgent, PROTOCOL,
    ToAgent,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use uuid::Uuid;

use crate::support::{Agent, World, event, said, tool_completed, turn_started, until};

/// The longest wait for the end of a connection.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Whether the events are refused; the connection stays.
async fn is_refused(agent: &mut Agent, task: &Task, events: Vec<SessionEvent>) -> bool {
    agent.send(FromAgent::Append { request: 77, session_id: task.session_id, events }).await;
    loop {
        match agent.receive().await {
            ToAgent::AppendRefused { request: 77, .. } => return true,
            ToAgent::Appended { request: 77, .. } => return false,
            _ => {}
        }
    }
}

fn completed(turn_id: TurnId, usage: Usage) -> Payload {
    let termination_reason = TerminationReason::EndTurn;
    Payload::TurnCompleted { turn_id, iterations: u32::MAX, duration_ms: u64::MAX, usage, termination_reason }
}

/// A task that its agent has taken.
async fn running(world: &World) -> (Task, Agent) {
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    agent.append(&task, vec![turn_started(&task)]).await;
    (task, agent)
}

/// Rows of a task, oldest first.
async fn rows(world: &World, task: &Task) -> Vec<audit::AuditEvent> {
    world.rows(task.workspace_id).await.into_iter().filter(|row| row.task_id == Some(task.id)).collect()
}

#[tokio::test]
async fn events_of_somebody_elses_task_session_or_turn_are_refused() {
    let world = World::start().await;
    let (task, mut agent) = running(&world).await;
    let (other, mut neighbour) = running(&world).await;
    let waiting = world.next_task(task.workspace_id, Vec::new()).await;
    let nobody = TurnId::from_uuid(Uuid::now_v7());
    let tool = || tool_completed("mine".into());
    let mut without_turn = event(task.session_id, task.id, tool());
    without_turn.context.turn_id = None;
    let other_turn = completed(other.id.into(), Usage::default());
    for (what, event) in [
        ("another workspace's task", event(task.session_id, other.id, tool())),
        ("another workspace's session", event(other.session_id, task.id, tool())),
        ("a turn that nobody has", event(task.session_id, nobody.into(), tool())),
        ("no turn", without_turn),
        ("another turn in its words", event(task.session_id, task.id, other_turn)),
        ("a task that was not handed over", event(task.session_id, waiting.id, turn_started(&waiting))),
    ] {
        assert!(is_refused(&mut agent, &task, vec![event]).await, "{what}");
    }
    let foreign = vec![event(other.session_id, other.id, tool())];
    assert!(is_refused(&mut agent, &other, foreign).await, "an append to another workspace's session");
    assert_eq!(world.task_now(&other).await.phase, Phase::Running);
    assert_eq!(world.task_now(&waiting).await.phase, Phase::Submitted);
    neighbour.append(&other, vec![completed(other.id.into(), Usage::default())]).await;
    assert_eq!(world.task_now(&other).await.phase, Phase::Completed);
}

#[tokio::test]
async fn the_end_of_a_task_that_did_not_begin_or_has_ended_is_refused() {
    let world = World::start().await;
    let task = world.task().await;
    let (mut agent, _) = world.agent(task.workspace_id).await;
    agent.order().await;
    let end = || vec![event(task.session_id, task.id, completed(task.id.into(), Usage::default()))];
    assert!(is_refused(&mut agent, &task, end()).await, "it did not begin");
    agent.append(&task, vec![turn_started(&task)]).await;
    assert!(!is_refused(&mut agent, &task, end()).await);
    assert!(is_refused(&mut agent, &task, end()).await, "it has ended");
    let ends = rows(&world, &task).await;
    assert_eq!(ends.iter().filter(|row| row.event_type == audit::EventType::TaskCompleted).count(), 1);
}

#[tokio::test]
async fn times_and_positions_that_an_agent_makes_up_are_put_right() {
    let world = World::start().await;
    let (task, mut agent) = running(&world).await;
    let begin = world.app.session_view(&world.owner, task.session_id).await.unwrap().created_at;
    let mut events = Vec::new();
    for ts in [Timestamp::MIN, Timestamp::UNIX_EPOCH, Timestamp::MAX, Timestamp::now()] {
        let mut one = event(task.session_id, task.id, tool_completed("when".into()));
        (one.ts, one.sequence) = (ts, Some(u64::MAX));
        events.push(one);
    }
    assert!(!is_refused(&mut agent, &task, events).await);
    let now = Timestamp::now();
    for row in rows(&world, &task).await {
        assert!((begin..=now).contains(&row.timestamp), "{row:?}");
    }
    agent.send(FromAgent::History { request: 1, session_id: task.session_id, after_sequence: 0 }).await;
    let page = agent.receive().await;
    let ToAgent::HistoryPage { events, .. } = page else { panic!("{page:?}") };
    assert!(events.iter().zip(1..).all(|(event, sequence)| event.sequence == Some(sequence)));
    assert!(events.iter().all(|event| (begin..=now).contains(&event.ts)));
}

#[tokio::test]
async fn numbers_texts_and_names_without_measure_are_kept_within_bounds() {
    let world = World::start().await;
    let (task, mut agent) = running(&world).await;
    let usage = Usage {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        cache_read_tokens: u64::MAX,
        cache_creation_tokens: u64::MAX,
    };
    for _ in 0..3 {
        let (_, Payload::OutputMessageCompleted { message, stop_reason, .. }) = said() else {
            unreachable!()
        };
        let model = "m".repeat(1_000_000);
        agent
            .append(
                &task,
                vec![Payload::OutputMessageCompleted { message, model, usage: Some(usage), stop_reason }],
            )
            .await;
    }
    let error = format!("a\0b{}", "x".repeat(5_000_000));
    let (turn_id, error_code) = (task.id.into(), TurnErrorCode::ProcessingError);
    agent.append(&task, vec![Payload::TurnFailed { turn_id, error, error_code }]).await;
    let ended = world.task_now(&task).await;
    let reason = ended.reason.unwrap();
    assert!(reason.starts_with("a\u{fffd}b") && reason.len() < 10_000, "{} bytes", reason.len());
    let session = world.app.session_view(&world.owner, task.session_id).await.unwrap();
    assert_eq!(session.summary.usage.unwrap().input_tokens, u64::MAX);
    for row in rows(&world, &task).await {
        assert!(serde_json::to_string(&row).unwrap().len() < 20_000);
    }
}

#[tokio::test]
async fn what_is_too_much_ends_the_connection_and_the_next_one_is_welcome() {
    let world = World::start().await;
    let (task, mut agent) = running(&world).await;
    let many = (0..=APPEND_EVENTS_MAX).map(|_| event(task.session_id, task.id, tool_completed("x".into())));
    // Numbers that are short on the wire and long when they are written out.
    let number = serde_json::json!(1e15);
    let numbers = serde_json::Value::Array(vec![number; 600_000]);
    let arguments = serde_json::json!({ "numbers": numbers });
    let call = freehold_model::event::ToolCall { id: "c".into(), name: "bash".into(), arguments };
    let long = event(task.session_id, task.id, Payload::ToolStarted { tool_call: call });
    let long = serde_json::to_string(&long).unwrap().replace("1000000000000000.0", "1e15");
    let long =
        format!(r#"{{"type":"append","request":1,"session_id":"{}","events":[{long}]}}"#, task.session_id);
    let many = serde_json::to_string(&FromAgent::Append {
        request: 1,
        session_id: task.session_id,
        events: many.collect(),
    });
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(r#"{{"type":"view","request":1,"view":{deep}}}"#);
    let unknown = r#"{"type":"become_root"}"#.to_owned();
    let endless = "x".repeat(freehold_pod_api::FRAME_BYTES_MAX + 1);
    for line in [many.unwrap(), long, deep, unknown, endless] {
        drop(agent);
        say(&world, task.workspace_id, &line).await;
        agent = world.agent(task.workspace_id).await.0;
    }
    agent.append(&task, vec![completed(task.id.into(), Usage::default())]).await;
    assert_eq!(world.task_now(&task).await.phase, Phase::Completed);
}

/// Connects, says hello and then this line; waits until the server closes the connection.
async fn say(world: &World, workspace: WorkspaceId, line: &str) {
    let pod = world.workspace(workspace).await.pod_id.unwrap();
    let stream = world.driver.connect_agent(pod).unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut reader, mut writer) = UnixStream::from_std(stream).unwrap().into_split();
    let agent = AgentInfo { name: "hostile".into(), version: "1".into() };
    let hello = FromAgent::Hello { protocols: vec![PROTOCOL], agent, pod_id: pod };
    let said = format!("{}\n{line}\n", serde_json::to_string(&hello).unwrap());
    let mut rest = Vec::new();
    // It may be closed before all is written, and what was not read makes that a reset.
    let both = async { tokio::join!(writer.write_all(said.as_bytes()), reader.read_to_end(&mut rest)) };
    let closed = timeout(WAIT_MAX, both).await;
    assert!(closed.is_ok(), "still open after {}", &line[..line.len().min(60)]);
}

#[tokio::test]
async fn an_agent_that_asks_and_does_not_read_is_waited_for_within_bounds_and_disturbs_nobody() {
    let world = World::start().await;
    let (task, mut agent) = running(&world).await;
    for _ in 0..8 {
        agent.append(&task, vec![tool_completed("x".repeat(900_000))]).await;
    }
    let (session_id, after_sequence) = (task.session_id, 0);
    let mut asked = 0;
    // The server stops reading once its answers are not read; the test stops when nothing more can be written.
    while asked < 100_000 {
        let ask = FromAgent::History { request: asked, session_id, after_sequence };
        let ask = agent.connection.send(&ask);
        match timeout(Duration::from_secs(1), ask).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        asked += 1;
    }
    assert!(asked < 100_000, "the server reads without end");
    let (other, mut neighbour) = running(&world).await;
    neighbour.append(&other, vec![completed(other.id.into(), Usage::default())]).await;
    assert_eq!(world.task_now(&other).await.phase, Phase::Completed);
}

#[tokio::test]
async fn a_thousand_connections_leave_the_next_one_welcome() {
    let world = World::start().await;
    let (task, agent) = running(&world).await;
    let pod = agent.pod;
    drop(agent);
    let mut open = Vec::new();
    for index in 0..1000 {
        let Ok(stream) = world.driver.connect_agent(pod) else { break };
        // Some hang, some lie.
        if index % 100 == 0 {
            stream.set_nonblocking(true).unwrap();
            let mut connection = Connection::new(UnixStream::from_std(stream).unwrap());
            let name = "n".repeat(AGENT_INFO_CHARS_MAX + 1);
            let agent = AgentInfo { name, version: "1".into() };
            let _ =
                connection.send(&FromAgent::Hello { protocols: vec![PROTOCOL], agent, pod_id: pod }).await;
        } else if index < 2 {
            open.push(stream);
        }
    }
    drop(open);
    let (mut again, _) = until("a welcome", async || Some(world.agent(task.workspace_id).await)).await;
    again.append(&task, vec![completed(task.id.into(), Usage::default())]).await;
    assert_eq!(world.task_now(&task).await.phase, Phase::Completed);
}

#[tokio::test]
async fn a_journal_without_end_is_refused_and_fails_its_task_and_the_next_one_has_its_own_measure() {
    let kilobyte = || tool_completed("x".repeat(1000));
    for (limits, appends, said) in [
        (JournalLimits { task_events: 40, ..JournalLimits::default() }, 40, "40 events"),
        (JournalLimits { task_bytes: 20_000, ..JournalLimits::default() }, 20, "20000 bytes"),
    ] {
        let world = World::of(SimDriver::new().unwrap(), limits).await;
        let (task, mut agent) = running(&world).await;
        let mut appended = 0;
        while appended < appends {
            let one = event(task.session_id, task.id, kilobyte());
            let again = one.clone();
            if is_refused(&mut agent, &task, vec![one]).await {
                break;
            }
            // What is repeated is not counted again.
            assert!(!is_refused(&mut agent, &task, vec![again; 3]).await);
            appended += 1;
        }
        assert!((appends / 2..appends).contains(&appended), "{appended} of {appends}");
        let ended = world.task_now(&task).await;
        assert_eq!(ended.phase, Phase::Failed);
        let reason = ended.reason.unwrap();
        assert!(reason.contains("journal of the task") && reason.contains(said), "{reason}");
        let ends = rows(&world, &task).await;
        assert_eq!(ends.iter().filter(|row| row.event_type == audit::EventType::TaskCompleted).count(), 1);
        // Between tasks there is no measure of its own.
        let mut idle = event(task.session_id, task.id, Payload::SessionIdled { turn_id: task.id.into() });
        for _ in 0..appends {
            idle.id = freehold_model::EventId::from_uuid(Uuid::now_v7());
            if is_refused(&mut agent, &task, vec![idle.clone()]).await {
                break;
            }
        }
        let end = world.app.session_view(&world.owner, task.session_id).await.unwrap().summary.journal;
        // What the control plane itself writes of the end comes on top.
        assert!(
            end.task_events <= limits.task_events + 2 && end.task_bytes <= limits.task_bytes + 1000,
            "{end:?}"
        );
        let next = world.next_task(task.workspace_id, Vec::new()).await;
        assert_eq!(agent.order().await.task_id, next.id);
        agent.append(&next, vec![turn_started(&next), kilobyte()]).await;
        agent.append(&next, vec![completed(next.id.into(), Usage::default())]).await;
        assert_eq!(world.task_now(&next).await.phase, Phase::Completed);
    }
}

#[tokio::test]
async fn a_session_without_end_is_refused_and_a_new_one_goes_on() {
    let limits = JournalLimits { session_events: 10, ..JournalLimits::default() };
    let world = World::of(SimDriver::new().unwrap(), limits).await;
    let (task, mut agent) = running(&world).await;
    let many = || (0..10).map(|_| event(task.session_id, task.id, tool_completed("x".into()))).collect();
    agent.send(FromAgent::Append { request: 9, session_id: task.session_id, events: many() }).await;
    let ToAgent::AppendRefused { reason, detail, .. } = agent.receive().await else { panic!("not refused") };
    let (failed, detail) = (world.task_now(&task).await, detail.unwrap());
    assert_eq!((reason, failed.phase), (AppendRefusal::TurnEnded, Phase::Failed));
    assert!(detail.contains("session would be longer than 10 events") && detail.contains("reset_session"));
    assert_eq!(failed.reason, Some(detail));
    let next = world.task_in_new_session(task.workspace_id).await;
    assert_eq!(agent.order().await.task_id, next.id);
    agent.append(&next, vec![turn_started(&next)]).await;
    assert_eq!(world.task_now(&next).await.phase, Phase::Running);
}
