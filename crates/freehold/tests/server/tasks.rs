//! A task from its submission to its end, as the public API shows it.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::PathBuf, process::Stdio};

use freehold_client::ActivityScope;
use freehold_model::{session, task, workspace::Phase};
use futures::StreamExt;
use serde_json::json;

use crate::support::{MODEL_KEY, World, from};

/// Writes a file by a tool, reads it by the shell, calls an allowed service and a forbidden one.
const SCENARIO: &str = include_str!("scenarios/errand.yaml");

const FACTS: &str = "
- name: facts
  type: http
  allow:
    - name: read
      domains: [facts.freehold.test]
      methods: [GET]
      paths: [/v1/**]
";

#[tokio::test]
async fn a_task_runs_to_its_end_and_every_view_of_it_agrees() {
    let world = World::start(SCENARIO).await;
    let role = world.role(FACTS).await;
    let submitted = world.task(&role, "run the errand").await;
    let task = world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    assert!(task.duration_seconds.unwrap() > 0.0);
    let workspace = world.phase(submitted.workspace_id, Phase::Idle).await;

    let tasks = world.client.task_list(workspace.id, &from(json!({}))).await.unwrap();
    assert!(tasks.text().starts_with('['), "a bare array: {}", tasks.text());
    assert_eq!(tasks[0].id, submitted.task_id);

    let view = world.client.workspace_session_view(workspace.id).await.unwrap().into_value();
    assert_eq!(view["task_history"][0]["task_id"], json!(submitted.task_id), "{view:#}");

    let sessions = world.client.session_list(&from(json!({}))).await.unwrap();
    let session = &sessions.data[0];
    assert_eq!(session.status, session::Status::Idle);
    assert_eq!(session.preview.as_deref(), Some("run the errand"));
    assert_eq!(session.output_preview.as_deref(), Some("The errand is done."));
    assert!(session.usage.is_some() && session.started_at.is_some());

    let (code, stdout, _) = world.sh(workspace.id, "cat /workspace/note.txt").await;
    assert_eq!((code, stdout.as_str()), (0, "from the agent\n"));
}

#[tokio::test]
async fn the_last_answer_of_a_task_is_told_as_a_whole_and_shown_by_the_command_line() {
    let answer = format!("It begins here.\n{}It ends here.", "A sentence of the answer.\n".repeat(400));
    let scenario = json!({"default": {"steps": [{"text": answer}]}}).to_string();
    let world = World::start(&scenario).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "tell me all").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let (workspace, task) = (submitted.workspace_id.to_string(), submitted.task_id.to_string());
    let shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(["task", "get", &workspace, &task])
        .envs([("FREEHOLD_URL", world.url.as_str()), ("FREEHOLD_API_KEY", key.trim())])
        .output()
        .await
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let (_, told) = shown.split_once("\nanswer\n").unwrap();
    assert_eq!(told.lines().map(str::trim_start).collect::<Vec<_>>().join("\n"), answer);
}

#[tokio::test]
async fn each_decision_is_a_row_and_the_key_is_in_none_of_them() {
    let world = World::start(SCENARIO).await;
    let role = world.role(FACTS).await;
    let submitted = world.task(&role, "run the errand").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let decided = |rows: &[serde_json::Value], destination: &str, decision: &str| {
        rows.iter().any(|row| {
            row["event_type"] == "policy_decision"
                && row["policy_type"] == "http"
                && row["destination"] == destination
                && row["decision"] == decision
                && row["task_id"] == json!(submitted.task_id)
        })
    };
    let rows = world
        .until("the decisions are in the log", async || {
            let rows = world.audit(submitted.workspace_id).await;
            (decided(&rows, "model.freehold.test", "allow")
                && decided(&rows, "facts.freehold.test", "allow")
                && decided(&rows, "forbidden.freehold.test", "deny"))
            .then_some(rows)
        })
        .await;
    assert!(!serde_json::to_string(&rows).unwrap().contains(MODEL_KEY));
}

#[tokio::test]
async fn the_stream_of_activity_tells_the_task_from_beginning_to_end() {
    let world = World::start(SCENARIO).await;
    let role = world.role(FACTS).await;
    let mut stream = world.client.activity_stream(ActivityScope::Organization, None).await.unwrap();
    let submitted = world.task(&role, "run the errand").await;
    let mut seen = Vec::new();
    loop {
        let row = stream.next().await.unwrap().unwrap().row.unwrap();
        seen.push(row.event_type.to_string());
        if row.event_type == freehold_model::audit::EventType::TaskCompleted {
            break;
        }
    }
    assert_eq!(
        seen.iter().filter(|kind| !kind.starts_with("workspace_")).take(5).collect::<Vec<_>>(),
        ["task_submitted", "task_delivered", "session_started", "task_started", "iteration_started"],
        "{seen:?}"
    );
    assert_eq!(seen.iter().filter(|kind| *kind == "tool_completed").count(), 4, "{seen:?}");
    assert!(
        world.client.task_view(submitted.workspace_id, submitted.task_id).await.unwrap().status.is_terminal()
    );
}

#[tokio::test]
async fn a_cancelled_task_ends_and_the_workspace_takes_the_next() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let first = world.task(&role, "sleep in the shell").await;
    world.task_phase(first.workspace_id, first.task_id, task::Phase::Running).await;
    let second = world.next_task(first.workspace_id, "say hello").await;
    world.client.task_cancel(first.workspace_id).await.unwrap();
    world.task_phase(first.workspace_id, first.task_id, task::Phase::Cancelled).await;
    world.task_phase(first.workspace_id, second.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn files_that_come_with_a_task_are_there_before_it_begins() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let file = world.data().join("..").join("input.csv");
    fs::write(&file, vec![b'x'; 1_500_000]).unwrap();
    let body = from(json!({"role_id": role.id, "description": "say hello"}));
    let submitted = world.client.task_create(&body, &[file]).await.unwrap().into_value();
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let path = format!("/data/uploads/{}/input.csv", submitted.task_id);
    let (code, stdout, stderr) = world.sh(submitted.workspace_id, &format!("wc -c < {path}")).await;
    assert_eq!((code, stdout.trim()), (0, "1500000"), "{stderr}");
}

#[tokio::test]
async fn a_file_keeps_its_name_or_is_refused() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let dir = tempfile::tempdir().unwrap();
    let body = from(json!({"role_id": role.id, "description": "say hello"}));
    let odd: PathBuf = dir.path().join(OsStr::from_bytes(b"odd\xff.csv"));
    for bad in [dir.path().join("gpj\u{202e}exe.sh"), dir.path().join("a\u{1b}[2Jb"), odd] {
        fs::write(&bad, "x").unwrap();
        let error = world.client.task_create(&body, std::slice::from_ref(&bad)).await.err().unwrap();
        assert!(error.api().is_none_or(|api| api.status == 400), "{error}");
    }
    let names = ["ä ö.csv", "with \"quotes\" and %41.txt", "\u{5e9}\u{5dc}.txt"];
    let files: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
    files.iter().for_each(|file| fs::write(file, "x").unwrap());
    let submitted = world.client.task_create(&body, &files).await.unwrap().into_value();
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let list = format!("cd /data/uploads/{} && for f in *; do echo \"$f\"; done", submitted.task_id);
    let (_, listed, _) = world.sh(submitted.workspace_id, &list).await;
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(listed, names);
}

#[tokio::test]
async fn a_stopped_workspace_keeps_its_files_and_leaves_no_process() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    world.sh(workspace.id, "echo kept > /workspace/kept.txt").await;
    world.client.workspace_stop(workspace.id).await.unwrap();
    world.phase(workspace.id, Phase::Stopped).await;
    let kept = walk(&world.data().join("pods")).into_iter().any(|path| path.ends_with("workspace/kept.txt"));
    assert!(kept, "the file is where the next pod finds it");
    let names = world.data().join("egress/names").join(workspace.id.to_string());
    assert!(names.exists(), "so are the addresses of names");
    world.client.workspace_archive(workspace.id).await.unwrap();
    world.client.workspace_delete(workspace.id).await.unwrap();
    world
        .until("the files are gone", async || {
            let left =
                walk(&world.data().join("pods")).into_iter().any(|path| path.ends_with("workspace/kept.txt"));
            (!left && !names.exists()).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_provider_that_leads_nowhere_fails_the_task_soon_and_says_what_to_do() {
    let world = World::start(SCENARIO).await;
    let provider =
        json!({"name": "misspelt", "kind": "anthropic", "domain": "nowhere.invalid", "default_model": "m"});
    let provider = world.client.provider_create(&from(provider)).await.unwrap();
    let role = json!({"name": "lost", "provider_id": provider.id});
    let role = world.client.role_create(&from(role)).await.unwrap().into_value();
    let began = std::time::Instant::now();
    let submitted = world.task(&role, "say hello").await;
    let task = world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Failed).await;
    assert!(began.elapsed().as_secs() < 15, "it took {:?}", began.elapsed());
    let reason = task.reason.unwrap();
    assert!(reason.contains("upstream_unresolved") && reason.contains("`domain`"), "{reason}");
}

#[tokio::test]
async fn each_retry_of_the_model_is_a_row() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "stumble").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let rows = world.audit(submitted.workspace_id).await;
    let retries: Vec<_> = rows
        .iter()
        .filter(|row| row["event_type"] == "iteration_retrying")
        .map(|row| &row["detail"])
        .collect();
    assert_eq!(retries.iter().map(|row| row["attempt"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(
        retries
            .iter()
            .all(|row| row["wait_ms"].as_u64().unwrap() > 0 && row["code"] == "provider_unavailable")
    );
    assert!(retries[2]["error"].as_str().unwrap().contains("not available"), "{retries:#?}");
}

fn walk(dir: &std::path::Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path())
            } else {
                vec![entry.path()]
            }
        })
        .collect()
}

#[tokio::test]
async fn who_follows_a_task_is_not_shown_what_was_decided_before_it() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await.id;
    world.sh(workspace, "curl -s https://elsewhere.test/").await;
    let is_stored = async || {
        let rows = world.audit(workspace).await;
        rows.iter()
            .any(|row| row["destination"] == "elsewhere.test" && row["policy_type"] == "http")
            .then_some(())
    };
    world.until("the refusal is in the log", is_stored).await;
    let id = workspace.to_string();
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.args(["task", "submit", "--workspace", &id, "--follow", "say hello"]).stdin(Stdio::null());
    command.env("FREEHOLD_URL", &world.url).env("FREEHOLD_API_KEY", key.trim());
    let followed = command.output().await.unwrap();
    let shown = String::from_utf8_lossy(&followed.stderr);
    assert!(shown.contains("completed") && !shown.contains("elsewhere.test"), "{shown}");
}
