//! Somebody took over the first process of a pod and speaks pod-api as he likes: the server stays up, others go on, and
//! what he says is kept to his own workspace.

use std::{fs, io, path::PathBuf};

use freehold_model::{WorkspaceId, task, workspace::Phase};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::{Duration, timeout},
};
use uuid::Uuid;

use crate::{
    restarts::processes,
    support::{World, from},
};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// The longest wait for a line, or for the end of a connection.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The place of a pod's first process, taken.
struct Intruder {
    socket: PathBuf,
    pod: String,
    holder: Pid,
}

impl Intruder {
    /// Ends a workspace's agent for good, and takes its place on the socket that only it reaches.
    fn take_over(world: &World, workspace: WorkspaceId) -> Self {
        let pods = world.data().join("pods/pods");
        let mut found = None;
        for entry in fs::read_dir(pods).unwrap().flatten() {
            let plan = fs::read_to_string(entry.path().join("plan.json")).unwrap_or_default();
            if plan.contains(&workspace.to_string()) {
                found = Some(entry.path());
            }
        }
        let dir = found.expect("the workspace has a pod");
        let pod = dir.file_name().unwrap().to_string_lossy().into_owned();
        let holder = processes(world, &pod)[0];
        kill_process(holder, Signal::STOP).unwrap();
        for pid in children(holder) {
            kill_process(pid, Signal::KILL).unwrap();
        }
        Self { socket: dir.join("api.sock"), pod, holder }
    }

    /// Connects, as soon as there is room among the connections that wait.
    async fn connect(&self) -> (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf) {
        let connected = async {
            loop {
                match UnixStream::connect(&self.socket).await {
                    Err(full) if full.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    other => return other.unwrap(),
                }
            }
        };
        let stream = timeout(WAIT_MAX, connected).await.expect("nobody accepts");
        let (reader, writer) = stream.into_split();
        (BufReader::new(reader).lines(), writer)
    }

    fn hello(&self) -> Value {
        json!({"type": "hello", "protocols": [1], "agent": {"name": "hostile", "version": "1"}, "pod_id": self.pod})
    }

    /// Connects and says these lines; the lines of the answer until the server closes the connection, or until a
    /// line of this type came.
    async fn say(&self, lines: &[String], until: &str) -> Vec<Value> {
        let (mut reader, mut writer) = self.connect().await;
        let said = lines.join("\n") + "\n";
        let mut heard = Vec::new();
        let reading = async {
            while let Ok(Some(line)) = reader.next_line().await {
                let line: Value = serde_json::from_str(&line).unwrap();
                let is_last = line["type"] == until;
                heard.push(line);
                if is_last {
                    break;
                }
            }
        };
        let both = async { tokio::join!(writer.write_all(said.as_bytes()), reading) };
        assert!(timeout(WAIT_MAX, both).await.is_ok(), "no end after {:.80}", lines.join(" "));
        heard
    }
}

impl Drop for Intruder {
    fn drop(&mut self) {
        let _gone = kill_process(self.holder, Signal::CONT);
    }
}

fn children(of: Pid) -> Vec<Pid> {
    let of = of.as_raw_nonzero().get().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let is_child = |stat: String| {
        let after = stat.rsplit_once(") ").map(|(_, after)| after.to_owned()).unwrap_or_default();
        after.split(' ').nth(1) == Some(&of)
    };
    entries
        .filter(|entry| fs::read_to_string(entry.path().join("stat")).is_ok_and(is_child))
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

fn append(session: &str, events: &[Value]) -> String {
    json!({"type": "append", "request": 1, "session_id": session, "events": events}).to_string()
}

fn event(session: &str, task: Option<&str>, kind: &str, data: &Value) -> Value {
    let mut context = json!({});
    if let Some(task) = task {
        context["turn_id"] = json!(task.replace("task_", "turn_"));
    }
    json!({
        "id": format!("event_{}", Uuid::now_v7().simple()), "session_id": session, "ts": "1970-01-01T00:00:00Z",
        "context": context, "type": kind, "data": data,
    })
}

#[tokio::test]
async fn whoever_takes_over_an_agent_harms_its_own_workspace_only() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let other = world.task(&role, "sleep in the shell").await;
    world.task_phase(other.workspace_id, other.task_id, task::Phase::Running).await;
    let mine = world.task(&role, "sleep in the shell").await;
    world.task_phase(mine.workspace_id, mine.task_id, task::Phase::Running).await;
    let rows_of_the_other = world.audit(other.workspace_id).await.len();
    let sessions = world.client.session_list(&from(json!({}))).await.unwrap();
    let sessions: Value = serde_json::from_str(sessions.text()).unwrap();
    let session_of = |workspace: WorkspaceId| {
        let all = sessions["data"].as_array().unwrap();
        let found = all.iter().find(|session| session["workspace_id"] == json!(workspace)).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    let (my_session, other_session) = (session_of(mine.workspace_id), session_of(other.workspace_id));
    let (my_task, other_task) = (mine.task_id.to_string(), other.task_id.to_string());

    let intruder = Intruder::take_over(&world, mine.workspace_id);
    let hello = intruder.hello().to_string();
    let result = json!({"tool_call_id": "c", "tool_name": "t", "status": "success", "result": "a\0b", "duration_ms": u64::MAX});
    let ended =
        json!({"turn_id": other_task.replace("task_", "turn_"), "error": "x", "error_code": "timeout"});
    for (session, task) in
        [(&other_session, &other_task), (&my_session, &other_task), (&other_session, &my_task)]
    {
        for (kind, data) in [("tool.completed", &result), ("turn.failed", &ended)] {
            let line = append(session, &[event(session, Some(task), kind, data)]);
            let heard = intruder.say(&[hello.clone(), line], "append_refused").await;
            assert_eq!(heard.last().unwrap()["type"], "append_refused", "{kind} of {task} in {session}");
        }
    }
    // A tool's end without its beginning: a lie about himself, which is written down as his.
    let line = append(&my_session, &[event(&my_session, Some(&my_task), "tool.completed", &result)]);
    assert_eq!(intruder.say(&[hello.clone(), line], "appended").await.last().unwrap()["type"], "appended");

    let deep =
        format!(r#"{{"type":"view","request":1,"view":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let floods =
        ["x".repeat(9_000_000), deep, "{}".to_owned(), r#"{"type":"become_root"}"#.to_owned(), hello.clone()];
    for line in &floods {
        intruder.say(&[hello.clone(), line.clone()], "never").await;
        intruder.say(std::slice::from_ref(line), "welcome").await;
    }
    for _ in 0..1000 {
        drop(intruder.connect().await);
    }
    world.task_phase(other.workspace_id, other.task_id, task::Phase::Completed).await;
    let own = world.audit(mine.workspace_id).await;
    let lie = own.iter().rfind(|row| row["event_type"] == "tool_completed").unwrap();
    assert!(lie["timestamp"].as_str().unwrap() > "2000", "the time is the server's to say: {lie}");
    let rows = world.audit(other.workspace_id).await;
    assert!(rows.len() > rows_of_the_other && rows.iter().all(|row| row["task_id"] != json!(my_task)));
    assert!(rows.iter().all(|row| row["detail"]["duration_ms"] != json!(u64::MAX)));
    drop(intruder);
    world.client.workspace_stop(mine.workspace_id).await.unwrap();
    world.phase(mine.workspace_id, Phase::Stopped).await;
}
