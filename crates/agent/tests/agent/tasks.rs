//! Whole tasks: a real agent process, a real model server, a control plane in memory.

use crate::support::{Pod, bash, one_answer, tool, until_gone};
use freehold_model::{
    TaskId, UploadId,
    event::{Payload, ToolStatus},
};
use freehold_pod_api::{FileOrder, ToAgent};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_task_runs_its_tools_and_ends() {
    let pod = Pod::start(&one_answer(&[bash("echo hello; cd /; x=5"), bash("pwd; echo $x")])).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(
        pod.types(),
        [
            "input.message",
            "turn.started",
            "session.activated",
            "reason.started",
            "output.message.completed",
            "reason.completed",
            "tool.started",
            "tool.started",
            "tool.completed",
            "tool.completed",
            "reason.started",
            "output.message.completed",
            "reason.completed",
            "turn.completed",
            "session.idled",
        ]
    );
    let expected = ["hello", "/\n5"].map(|text| (ToolStatus::Success, text.to_owned()));
    assert_eq!(pod.results(), expected);
    assert_eq!(pod.last("turn.completed")["iterations"], 2);
}

#[tokio::test]
async fn a_second_task_goes_on_with_the_conversation_and_the_shell() {
    let scenario = json!({"rules": [
        {"when": {"user": "first"}, "answers": [{"steps": [bash("x=7")]}, {"steps": [{"text": "done"}]}]},
        {"when": {"user": "second"}, "answers": [{"steps": [bash("echo $x")]}, {"steps": [{"text": "done"}]}]},
    ]});
    let pod = Pod::start(&scenario).await;
    pod.until_welcome(1).await;
    pod.deliver(|order| order.description = "first".into());
    pod.until_idle(1).await;
    pod.deliver(|order| order.description = "second".into());
    pod.until_idle(2).await;
    assert_eq!(pod.results().last(), Some(&(ToolStatus::Success, "7".to_owned())));
    pod.say(ToAgent::SessionView { request: 9 });
    pod.until("a view", |inner| !inner.views.is_empty()).await;
    let view = pod.shared.inner().views[0].clone();
    assert_eq!(view["task_history"].as_array().map(Vec::len), Some(2));
    assert_eq!(view["task_history"][0]["status"], "completed");
    assert_eq!(view["current_task"], json!(null));
    assert_eq!(view["iterations"]["session"], 4);
    assert!(view["context_window"]["tokens"].as_u64() > Some(0));
}

#[tokio::test]
async fn cancel_finishes_the_present_step() {
    let command = "while [ ! -e go ]; do sleep 0.01; done; echo went";
    let pod = Pod::start(&one_answer(&[bash(command)])).await;
    pod.until_welcome(1).await;
    let task_id = pod.deliver(|_| {});
    pod.until_tool_started().await;
    pod.say(ToAgent::Cancel { task_id });
    pod.say(ToAgent::SessionView { request: 1 });
    pod.until("a view", |inner| !inner.views.is_empty()).await;
    std::fs::write(pod.path("go"), "").unwrap();
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(ToolStatus::Success, "went".to_owned())]);
    assert_eq!(pod.types()[pod.types().len() - 2], "turn.cancelled");
    assert_eq!(pod.shared.inner().views[0]["current_task"]["activity"], "running_tool");
}

#[tokio::test]
async fn a_step_that_outlasts_the_grace_time_is_killed() {
    let mut pod = Pod::prepare(&one_answer(&[bash("echo $$ > pid; sleep 300"), bash("echo > second")])).await;
    pod.arguments = vec!["--cancel-grace-ms", "100"];
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    let task_id = pod.deliver(|_| {});
    let pid = pod.until_file("pid").await;
    pod.say(ToAgent::Cancel { task_id });
    pod.until_idle(1).await;
    until_gone(&pid).await;
    assert!(pod.types().contains(&"turn.cancelled"), "{:?}", pod.types());
    assert!(pod.results().iter().all(|(status, _)| *status != ToolStatus::Success), "{:?}", pod.results());
    assert!(!pod.path("second").exists());
}

#[tokio::test]
async fn time_up_kills_the_running_command() {
    let pod = Pod::start(&one_answer(&[bash("echo $$ > pid; sleep 300")])).await;
    pod.until_welcome(1).await;
    pod.deliver(|order| order.time_left_ms = 700);
    let pid = pod.until_file("pid").await;
    pod.until_idle(1).await;
    assert_eq!(pod.last("turn.failed")["error_code"], "timeout");
    assert_eq!(pod.results()[0].0, ToolStatus::Timeout);
    until_gone(&pid).await;
}

#[tokio::test]
async fn an_agent_killed_while_a_tool_runs_does_not_run_it_again() {
    let mut pod =
        Pod::start(&one_answer(&[bash("echo x >> runs; echo $$ > pid; sleep 300"), bash("echo second")]))
            .await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    let pid = pod.until_file("pid").await;
    pod.kill_agent();
    until_gone(&pid).await;
    pod.start_agent();
    pod.until_idle(1).await;
    assert_eq!(std::fs::read_to_string(pod.path("runs")).unwrap(), "x\n");
    let statuses: Vec<_> = pod.results().into_iter().map(|(status, _)| status).collect();
    assert_eq!(statuses, [ToolStatus::Interrupted, ToolStatus::Interrupted]);
    assert_eq!(pod.types().last(), Some(&"session.idled"));
    assert_eq!(pod.last("turn.completed")["iterations"], 2);
}

#[tokio::test]
async fn an_agent_killed_while_the_model_thinks_asks_again() {
    let scenario = json!({"rules": [
        {"when": {"tries": 1}, "answers": [{"steps": ["stall"]}]},
        {"answers": [{"steps": [{"text": "done"}]}]},
    ]});
    let mut pod = Pod::start(&scenario).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    while pod.model.requests() == 0 {
        tokio::task::yield_now().await;
    }
    pod.kill_agent();
    pod.start_agent();
    pod.until_idle(1).await;
    assert_eq!(pod.types().iter().filter(|name| **name == "reason.started").count(), 1);
    assert_eq!(pod.types().iter().filter(|name| **name == "turn.completed").count(), 1);
    pod.say(ToAgent::SessionView { request: 1 });
    pod.until("a view", |inner| !inner.views.is_empty()).await;
    assert_eq!(pod.shared.inner().views[0]["task_history"][0]["status"], "completed");
}

#[tokio::test]
async fn an_agent_started_anew_reads_the_journal_for_the_view() {
    let mut pod = Pod::start(&one_answer(&[])).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    pod.kill_agent();
    pod.start_agent();
    pod.until_welcome(2).await;
    pod.say(ToAgent::SessionView { request: 1 });
    pod.until("a view", |inner| !inner.views.is_empty()).await;
    assert_eq!(pod.shared.inner().views[0]["task_history"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn an_agent_started_anew_reads_the_journal_from_the_last_compaction() {
    let long = "x".repeat(6000);
    let answer = json!({"steps": [bash(&format!("echo {long}"))]});
    let mut pod = Pod::start(&json!({
        "rules": [
            {"when": {"user": "*record of your work*"}, "answers": [{"steps": [{"text": "a summary"}]}], "repeat": true},
            {"when": {"user": "work"}, "answers": [answer, answer, answer, {"steps": [{"text": "done"}]}]},
        ],
        "default": {"steps": [{"text": "hello"}]},
    }))
    .await;
    pod.until_welcome(1).await;
    for turn in 1..=4 {
        pod.deliver(|order| order.description = "before".into());
        pod.until_idle(turn).await;
    }
    pod.deliver(|order| {
        order.description = "work".into();
        order.max_context_tokens = Some(4000);
    });
    pod.until_idle(5).await;
    assert!(pod.types().contains(&"context.compacted"), "{:?}", pod.types());
    let look = async |pod: &Pod, count: usize| {
        pod.say(ToAgent::SessionView { request: count as u64 });
        pod.until("a view", |inner| inner.views.len() == count).await;
        let view = pod.shared.inner().views[count - 1].clone();
        let iterations = &view["iterations"];
        json!([
            view["task_history"],
            iterations["session"],
            iterations["task"],
            view["context_window"]["compactions"]
        ])
    };
    let before = look(&pod, 1).await;
    pod.kill_agent();
    let after = {
        let mut inner = pod.shared.inner();
        inner.pages.clear();
        inner.journal_after
    };
    assert!(after > 20, "the journal is compacted behind the first turns: {after}");
    pod.start_agent();
    pod.until_welcome(2).await;
    assert_eq!(look(&pod, 2).await, before);
    assert!(pod.shared.inner().pages.iter().all(|from| *from >= after), "{:?}", pod.shared.inner().pages);
    pod.deliver(|order| order.description = "after".into());
    pod.until_idle(6).await;
    assert_eq!(pod.last("turn.completed")["iterations"], 1);
}

#[tokio::test]
async fn a_task_survives_the_control_plane_being_away() {
    let command = "touch running; while [ ! -e go ]; do sleep 0.01; done; echo went; echo > finished";
    let mut pod = Pod::start(&one_answer(&[bash(command)])).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_tool_started().await;
    pod.stop_server().await;
    std::fs::write(pod.path("go"), "").unwrap();
    pod.until_file("finished").await;
    pod.start_server();
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(ToolStatus::Success, "went".to_owned())]);
    let types = pod.types();
    assert_eq!(types.iter().filter(|name| **name == "tool.completed").count(), 1);
    assert_eq!(types.iter().filter(|name| **name == "reason.started").count(), 2);
}

#[tokio::test]
async fn a_turn_that_the_control_plane_ended_is_given_up() {
    let pod = Pod::start(&one_answer(&[bash("while [ ! -e go ]; do sleep 0.01; done")])).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_tool_started().await;
    {
        let mut inner = pod.shared.inner();
        inner.refuse_appends = true;
        inner.task = None;
    }
    std::fs::write(pod.path("go"), "").unwrap();
    pod.until("an idle agent", |inner| {
        pod.say(ToAgent::SessionView { request: 1 });
        inner.views.last().is_some_and(|view| view["current_task"].is_null())
    })
    .await;
    assert!(pod.results().is_empty());
    pod.shared.inner().refuse_appends = false;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
}

#[tokio::test]
async fn a_garbage_model_does_no_harm() {
    let scenario = json!({"rules": [
        {"when": {"call": 1, "tries": 1}, "answers": [{"steps": [{"garbage": "data: {]\n\n"}]}]},
        {"when": {"call": 1, "tries": 2}, "answers": [{"steps": [{"text": "half"}, "cut"]}]},
        {"answers": [
            {"steps": [
                tool("launch_rocket", json!({})),
                {"tool": {"name": "bash", "raw_arguments": "{\"command\": \"echo"}},
                tool("bash", json!({"cmd": "echo"})),
                tool("read_file", json!({"path": 7})),
                bash("echo fine"),
            ]},
            {"steps": [{"text": "done"}]},
        ]},
    ]});
    let pod = Pod::start(&scenario).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    let results = pod.results();
    let statuses: Vec<_> = results.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses[..4], [ToolStatus::Error; 4]);
    assert_eq!(results[4], (ToolStatus::Success, "fine".to_owned()));
    assert!(results[0].1.contains("no tool of this name"), "{}", results[0].1);
    assert!(results[2].1.contains("unknown field `cmd`"), "{}", results[2].1);
    assert_eq!(pod.last("turn.completed")["termination_reason"], "end_turn");
}

#[tokio::test]
async fn policy_that_denies_the_model_fails_the_task_at_once() {
    let body = json!({"error": {"code": "egress_denied", "message": "no", "reason": "no_rule"}});
    let scenario = json!({"default": {"http": {"status": 403, "body": body}}});
    let pod = Pod::start(&scenario).await;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.last("turn.failed")["error_code"], "provider_misconfigured");
    assert_eq!(pod.model.requests(), 1);
}

#[tokio::test]
async fn files_are_in_place_before_the_turn_begins() {
    let pod = Pod::start(&one_answer(&[bash("cat data/uploads/*/*")])).await;
    let (one, two) = (UploadId::from_uuid(Uuid::now_v7()), UploadId::from_uuid(Uuid::now_v7()));
    pod.shared
        .inner()
        .files
        .extend([(one, b"some words that need more than a piece".to_vec()), (two, Vec::new())]);
    pod.until_welcome(1).await;
    pod.deliver(|order| {
        order.files = vec![
            FileOrder { upload_id: one, name: "a b.txt".into(), size: 38 },
            FileOrder { upload_id: two, name: "empty".into(), size: 0 },
        ];
    });
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(ToolStatus::Success, "some words that need more than a piece".to_owned())]);
}

#[tokio::test]
async fn what_a_tool_planted_where_files_come_is_replaced_and_not_followed() {
    let pod = Pod::start(&one_answer(&[bash("cat data/uploads/*/*")])).await;
    let (link, pipe) = (UploadId::from_uuid(Uuid::now_v7()), UploadId::from_uuid(Uuid::now_v7()));
    pod.shared
        .inner()
        .files
        .extend([(link, b"through the link".to_vec()), (pipe, b", and the pipe".to_vec())]);
    pod.until_welcome(1).await;
    let (victim, elsewhere) = (pod.path("victim"), pod.path("elsewhere"));
    std::fs::write(&victim, "precious").unwrap();
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::create_dir(pod.path("data")).unwrap();
    let task_id = TaskId::from_uuid(Uuid::now_v7());
    let folder = pod.path("data/uploads").join(task_id.to_string());
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(&victim, folder.join("a")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.join("b")).status().unwrap();
    assert!(made.success());
    pod.deliver(|order| {
        order.task_id = task_id;
        order.files = vec![
            FileOrder { upload_id: link, name: "a".into(), size: 16 },
            FileOrder { upload_id: pipe, name: "b".into(), size: 14 },
        ];
    });
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(ToolStatus::Success, "through the link, and the pipe".to_owned())]);
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
    std::fs::rename(pod.path("data/uploads"), pod.path("old")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, pod.path("data/uploads")).unwrap();
    pod.deliver(|order| order.files = vec![FileOrder { upload_id: link, name: "a".into(), size: 16 }]);
    pod.until_idle(2).await;
    assert_eq!(pod.results().last().unwrap().1, "through the link");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

#[tokio::test]
async fn a_task_whose_files_are_missing_or_misnamed_is_rejected() {
    let pod = Pod::start(&one_answer(&[])).await;
    let id = UploadId::from_uuid(Uuid::now_v7());
    pod.shared.inner().files.insert(id, b"abc".to_vec());
    pod.until_welcome(1).await;
    for (number, (upload_id, name, size)) in
        [(UploadId::from_uuid(Uuid::nil()), "a", 3), (id, "../a", 3), (id, "a", 2)].into_iter().enumerate()
    {
        pod.deliver(|order| order.files = vec![FileOrder { upload_id, name: name.into(), size }]);
        pod.until("the rejection", |inner| inner.rejects == number + 1).await;
    }
    assert!(pod.types().is_empty());
}

#[tokio::test]
async fn a_message_that_waits_in_the_journal_is_not_written_twice() {
    use freehold_model::{
        EventId, MessageId, SessionId, Timestamp,
        event::{ContentPart, Context, Message, MessageRole, SessionEvent},
    };
    let pod = Pod::start(&one_answer(&[])).await;
    pod.until_welcome(1).await;
    let content = vec![ContentPart::Text { text: "do it".into() }];
    let message = Message { id: MessageId::from_uuid(Uuid::now_v7()), role: MessageRole::User, content };
    pod.shared.inner().events.push(SessionEvent {
        id: EventId::from_uuid(Uuid::now_v7()),
        session_id: SessionId::from_uuid(Uuid::nil()),
        sequence: Some(1),
        ts: Timestamp::UNIX_EPOCH,
        context: Context::default(),
        payload: Payload::InputMessage { message },
    });
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.types().iter().filter(|name| **name == "input.message").count(), 1);
}

#[tokio::test]
async fn as_the_first_process_of_a_pod_the_agent_leaves_no_zombies() {
    let mut pod = Pod::prepare(&one_answer(&[
        bash("for n in 1 2 3; do (sleep 0.0$n & exec true); done; sleep 0.2"),
        bash("echo \"agent: $(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$PPID/stat)\"; grep -l '^State:.Z' /proc/[0-9]*/status"),
    ]))
    .await;
    pod.wrapper =
        ["unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork", "--kill-child"].to_vec();
    if !pod.can_wrap() {
        // Making a pid namespace is the driver's business; without the right to it there is nothing to see here.
        return;
    }
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.results()[1].1, "agent: 1\n[exit code 1]");
}

#[tokio::test]
async fn tools_start_where_a_loader_runs_the_program() {
    let mut pod = Pod::prepare(&one_answer(&[bash("echo hello")])).await;
    pod.wrapper = vec!["/lib64/ld-linux-x86-64.so.2"];
    if !pod.can_wrap() {
        return;
    }
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(ToolStatus::Success, "hello".to_owned())]);
}

#[tokio::test]
async fn events_whose_acknowledgement_was_lost_are_not_doubled() {
    let pod = Pod::start(&one_answer(&[bash("echo x >> runs"), bash("cat runs")])).await;
    pod.shared.inner().lose_answers = true;
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.results()[1], (ToolStatus::Success, "x".to_owned()));
    assert!(pod.shared.inner().repeated > 0);
    pod.shared.inner().lose_answers = false;
    pod.deliver(|_| {});
    pod.until_idle(2).await;
    assert_eq!(pod.types().iter().filter(|name| **name == "turn.completed").count(), 2);
}
