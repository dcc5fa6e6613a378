//! `kill -9` of everything, at any moment: a task ends once, no event is lost or doubled, nothing runs twice.

use std::{fs, time::Duration};

use freehold_model::{WorkspaceId, task, workspace::Phase};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{MODEL_DOMAIN, World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// The lines that the steps of "count to four" left: each at most once; a step that was interrupted may be missing.
fn assert_each_once(count: &str) {
    let lines: Vec<&str> = count.lines().collect();
    for word in ["one", "two", "three", "four"] {
        assert!(lines.iter().filter(|line| **line == word).count() <= 1, "a step ran twice: {lines:?}");
    }
    assert!(lines.contains(&"four"), "the task went on to its end: {lines:?}");
}

#[tokio::test]
async fn a_server_killed_at_any_step_ends_the_task_once_when_it_is_back() {
    for kill_after_ms in [0, 60, 180, 350, 600, 1000] {
        let mut world = World::start(SCENARIO).await;
        let role = world.role("").await;
        let submitted = world.task(&role, "count to four").await;
        // Where in the task the axe falls is the point of the loop; nothing is assumed of it.
        tokio::time::sleep(Duration::from_millis(kill_after_ms)).await;
        world.kill_server();
        world.start_server().await;
        world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
        let (_, count, _) = world.sh(submitted.workspace_id, "cat /workspace/count").await;
        assert_eq!(count, "one\ntwo\nthree\nfour\n", "killed after {kill_after_ms} ms");
        let rows = world.audit(submitted.workspace_id).await;
        let of = |kind: &str| rows.iter().filter(|row| row["event_type"] == kind).count();
        assert_eq!((of("task_started"), of("task_completed")), (1, 1), "killed after {kill_after_ms} ms");
        assert_eq!(of("tool_started"), of("tool_completed"));
    }
}

#[tokio::test]
async fn an_upload_that_a_killed_server_was_taking_in_leaves_nothing_and_whole_ones_stay() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let file = world.data().join("..").join("input.csv");
    fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let body = from(json!({"role_id": role.id, "description": "say hello"}));
    let submitted = world.client.task_create(&body, &[file]).await.unwrap().into_value();
    let folder = world.data().join("uploads/uploads");
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    let whole = names();
    assert_eq!((whole.len(), whole[0].contains('#')), (1, false), "{whole:?}");
    // Announces more than it sends.
    let mut stream = TcpStream::connect(world.url.strip_prefix("http://").unwrap()).await.unwrap();
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let head = format!(
        "POST /v1/workspaces/{}/tasks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 50000000\r\n\
         content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\ncontent-disposition: form-data; name=\"file\"; \
         filename=\"big\"\r\n\r\n",
        submitted.workspace_id,
        key.trim()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'y'; 20_000_000]).await.unwrap();
    let staged = async || names().iter().any(|name| name.contains('#')).then_some(());
    world.until("the upload is staged", staged).await;
    world.kill_server();
    assert!(names().iter().any(|name| name.contains('#')), "{:?}", names());
    // Not what an upload leaves, whoever put it there.
    fs::write(folder.join("note#1"), "mine").unwrap();
    world.start_server().await;
    let mut left = names();
    left.retain(|name| name != "note#1");
    assert_eq!(left, whole);
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let path = format!("wc -c < /data/uploads/{}/input.csv", submitted.task_id);
    assert_eq!(world.sh(submitted.workspace_id, &path).await.1.trim(), "100000");
}

#[tokio::test]
async fn a_killed_server_leaves_the_pod_its_processes_and_its_network_as_they_were() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    world.sh(workspace.id, "setsid sleep 1000 >/dev/null 2>&1 & echo $! > /workspace/pid").await;
    world.kill_server();
    world.start_server().await;
    world.phase(workspace.id, Phase::Idle).await;
    let (code, _, stderr) = world.sh(workspace.id, "kill -0 $(cat /workspace/pid)").await;
    assert_eq!(code, 0, "{stderr}");
    let next = world.next_task(workspace.id, "say hello").await;
    world.task_phase(workspace.id, next.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn a_killed_agent_goes_on_where_its_journal_ends() {
    kill_after_the_first_step(" agent").await;
}

#[tokio::test]
async fn a_lost_pod_is_made_again_on_the_same_files_and_the_task_goes_on() {
    kill_after_the_first_step(" holder ").await;
}

/// Kills the processes with this in their command line after a task's first step; the task ends, and no step ran twice.
async fn kill_after_the_first_step(part: &str) {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "count to four").await;
    world.first_step_of(submitted.workspace_id).await;
    for pid in processes(&world, part) {
        kill_process(pid, Signal::KILL).unwrap();
    }
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let (_, count, _) = world.sh(submitted.workspace_id, "cat /workspace/count").await;
    assert_each_once(&count);
}

#[tokio::test]
async fn a_workspace_keeps_the_model_it_was_started_with_whatever_becomes_of_role_provider_agent_and_pod() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let running = world.workspace(&role).await.id;
    let other = json!({"name": "other", "provider": "anthropic", "kind": "api_key", "api_key": "sk-other"});
    world.client.credential_create(&from(other)).await.unwrap();
    let domain = "elsewhere.freehold.test";
    let other = json!({"name": "other", "kind": "anthropic", "domain": domain, "default_model": "other-1"});
    let other = world.client.provider_create(&from(other)).await.unwrap();
    let provider =
        async |change| world.client.provider_update(role.provider_id, &from(change)).await.unwrap();
    let change_role = async |change| world.client.role_update(role.id, &from(change)).await.unwrap();
    // The model wants the first credential's key.
    provider(json!({"domain": domain, "credential_name": "other"})).await;
    change_role(json!({"model": "scripted-2", "provider_id": other.id})).await;
    assert_eq!(model_of(&world, running).await, "scripted-1");
    for part in [" agent", " holder "] {
        for pid in processes(&world, part) {
            kill_process(pid, Signal::KILL).unwrap();
        }
        assert_eq!(model_of(&world, running).await, "scripted-1", "{part}");
    }
    let rows = world.audit(running).await;
    assert_eq!(rows.last().unwrap()["agent_provider"], "scripted");

    provider(json!({"domain": MODEL_DOMAIN, "credential_name": "model-key"})).await;
    change_role(json!({"provider_id": role.provider_id})).await;
    let started = world.workspace(&role).await.id;
    assert_eq!(model_of(&world, started).await, "scripted-2");
}

/// The model that the workspace's agent works with, which answers it.
async fn model_of(world: &World, workspace: WorkspaceId) -> Value {
    let next = world.next_task(workspace, "say hello").await;
    world.task_phase(workspace, next.task_id, task::Phase::Completed).await;
    let view = world.client.workspace_session_view(workspace).await.unwrap().into_value();
    view["model"].clone()
}

#[tokio::test]
async fn a_model_that_talks_nonsense_is_told_so_and_the_task_goes_on() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "talk nonsense").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let rows = world.audit(submitted.workspace_id).await;
    let refused: Vec<_> = rows.iter().filter(|row| row["event_type"] == "tool_completed").collect();
    assert_eq!(refused.len(), 3);
    assert!(refused.iter().all(|row| row["detail"]["status"] == "error"), "{refused:#?}");
}

#[tokio::test]
async fn a_model_that_is_overloaded_and_then_cuts_its_answer_is_asked_again() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "stumble").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn a_model_that_answers_garbage_for_good_fails_the_task_with_a_reason() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "garbage forever").await;
    let task = world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Failed).await;
    assert!(task.reason.is_some_and(|reason| !reason.is_empty()));
    world.phase(submitted.workspace_id, Phase::Idle).await;
}

/// Processes of this world's pods whose command line has `part` in it: holders name their directory, and an agent is a
/// holder's child.
pub fn processes(world: &World, part: &str) -> Vec<Pid> {
    let data = world.data().to_string_lossy().into_owned();
    let all: Vec<(i32, i32, String)> = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent, String::from_utf8_lossy(&command).replace('\0', " ")))
        })
        .collect();
    let holders: Vec<i32> = all
        .iter()
        .filter(|(_, _, command)| command.contains(" holder ") && command.contains(&data))
        .map(|(pid, ..)| *pid)
        .collect();
    let found: Vec<Pid> = all
        .iter()
        .filter(|(pid, parent, command)| {
            holders.contains(pid) && command.contains(part)
                || holders.contains(parent) && command.trim_end().ends_with(part)
        })
        .filter_map(|(pid, ..)| Pid::from_raw(*pid))
        .collect();
    assert!(!found.is_empty(), "there is no process with `{part}`: {all:?}");
    found
}
