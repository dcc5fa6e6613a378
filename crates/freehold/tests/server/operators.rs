//! What operators do on the server's machine: members, configuration, stopping, another database; and what many callers
//! do at once.

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use freehold_client::{ActivityScope, Client};
use freehold_model::{task, workspace::Phase};
use freehold_testkit::{Folder, postgresql::Database};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Child,
};

use crate::support::{World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// How long a stream may go on after its caller's token was revoked.
const STREAM_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Requests that are sent at once.
const AT_ONCE: usize = 200;

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

async fn member(world: &World, email: &str) -> Client {
    let added = printed(&world.run(&["member", "add", email]).await);
    assert!(added.contains(email), "{added}");
    let token = printed(&world.run(&["member", "token", email, "--label", "test"]).await);
    world.client_of(token.trim())
}

#[tokio::test]
async fn members_made_beside_a_running_server_reach_what_is_their_own() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let (ann, bob) = (member(&world, "ann@example.test").await, member(&world, "bob@example.test").await);
    let body = from(json!({"role_id": role.id, "description": "say hello"}));
    let submitted = ann.task_create(&body, &[]).await.unwrap().into_value();
    let workspace = submitted.workspace_id;
    // The owner reads every workspace.
    world.task_phase(workspace, submitted.task_id, task::Phase::Completed).await;
    assert_eq!(ann.workspace_view(workspace).await.unwrap().into_value().id, workspace);
    let lists = async |client: &Client| {
        client.workspace_list(&from(json!({}))).await.unwrap().into_value().workspaces.len()
    };
    assert_eq!((lists(&ann).await, lists(&bob).await), (1, 0));
    let refused = [
        bob.workspace_view(workspace).await.err().unwrap(),
        bob.task_view(workspace, submitted.task_id).await.err().unwrap(),
        bob.task_cancel(workspace).await.err().unwrap(),
        bob.workspace_stop(workspace).await.err().unwrap(),
    ];
    for error in refused {
        assert_eq!(error.api().unwrap().code, "workspace_not_visible");
    }
    let listed = printed(&world.run(&["member", "list"]).await);
    assert!(listed.starts_with("ID  "), "{listed}");
    let json = printed(&world.run(&["member", "list", "--output", "json"]).await);
    let json: Value = serde_json::from_str(&json).unwrap();
    for (member, email) in
        json.as_array().unwrap().iter().zip(["owner@localhost", "ann@example.test", "bob@example.test"])
    {
        assert!(listed.contains(email), "{listed}");
        assert_eq!(member["email"], email);
    }
    let twice = world.run(&["member", "add", "ann@example.test"]).await;
    assert!(!twice.status.success(), "nobody is a member twice");
}

#[tokio::test]
async fn a_personal_token_that_is_revoked_beside_a_running_server_is_refused_at_once_and_its_streams_end() {
    revoke_a_token(World::start(SCENARIO).await).await;
}

#[tokio::test]
async fn a_personal_token_is_revoked_beside_a_running_server_on_postgresql_too() {
    let database = Database::create().unwrap();
    let setting = format!("server.database_url = \"{}\"", database.url());
    revoke_a_token(World::with(SCENARIO, &setting).await).await;
    let rows = database
        .psql("SELECT count(*) FROM audit_events WHERE event_type = 'personal_token_revoked'")
        .unwrap();
    assert_eq!(rows, "1");
}

async fn revoke_a_token(world: World) {
    let (ann, bob) = (member(&world, "ann@example.test").await, member(&world, "bob@example.test").await);
    // Remembered by the server, and listening.
    ann.me_session_view().await.unwrap();
    let mut stream = ann.activity_stream(ActivityScope::Organization, None).await.unwrap();
    let listed =
        printed(&world.run(&["member", "token", "list", "ann@example.test", "--output", "json"]).await);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["label"]), (1, &json!("test")));
    let id = listed[0]["id"].as_str().unwrap();
    let revoked = printed(&world.run(&["member", "token", "revoke", id]).await);
    assert!(revoked.contains(id), "{revoked}");
    assert_eq!(ann.me_session_view().await.err().unwrap().api().unwrap().status, 401);
    // The client opens the stream again when the server ends it, and is refused.
    let ended = tokio::time::timeout(STREAM_ENDS_WITHIN, stream.next()).await.expect("the stream goes on");
    assert_eq!(ended.unwrap().err().unwrap().api().unwrap().status, 401);
    bob.me_session_view().await.unwrap();
    let again = world.run(&["member", "token", "revoke", id]).await;
    assert!(!again.status.success(), "it is revoked already");
    let listed = printed(&world.run(&["member", "token", "list"]).await);
    assert!(listed.contains("bob@example.test") && !listed.contains("ann@example.test"), "{listed}");
}

/// Runs a page's commands as its reader does, with the program under test as `freehold`.
async fn typed(world: &World, dir: &Folder, commands: &str) -> Output {
    tokio::process::Command::new("sh")
        .args(["-ec", &format!("freehold() {{ \"$PROGRAM\" \"$@\"; }}\n{commands}")])
        .current_dir(dir.path())
        .env("PROGRAM", env!("CARGO_BIN_EXE_freehold"))
        .env("FREEHOLD_URL", &world.url)
        .env("FREEHOLD_API_KEY", fs::read_to_string(world.data().join("owner.key")).unwrap().trim())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

#[tokio::test]
async fn the_commands_of_the_scripted_model_s_page_make_a_provider() {
    let world = World::start(SCENARIO).await;
    let page = include_str!("../../../../docs/sim-model.md");
    let commands = page[page.find("echo any-key").unwrap()..].split("```").next().unwrap();
    let dir = Folder::new("freehold-e2e-").unwrap();
    let said = printed(&typed(&world, &dir, commands).await);
    assert!(said.contains("model.test"), "{said}");
}

#[tokio::test]
async fn a_credential_of_another_kind_of_provider_is_refused_with_both_kinds_and_the_remedy() {
    let world = World::start(SCENARIO).await;
    let dir = Folder::new("freehold-e2e-").unwrap();
    let commands = "echo any-key > key.txt
        freehold credential create other --provider sim --secret-file key.txt
        freehold provider create other --kind anthropic --domain other.test --credential other --default-model any";
    let output = typed(&world, &dir, commands).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("is `sim`"), "{said}");
    assert!(said.contains("create it with `--provider anthropic`"), "{said}");
}

#[tokio::test]
async fn keys_are_for_the_server_s_user_only() {
    let world = World::start(SCENARIO).await;
    let mode = |path: &str| fs::metadata(world.data().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("owner.key"), mode("master.key"), mode("")), (0o600, 0o600, 0o700));
}

#[tokio::test]
async fn a_start_waits_for_an_earlier_server_that_is_ending() {
    let mut world = World::start(SCENARIO).await;
    world.kill_server();
    let lock = fs::File::options().write(true).open(world.data().join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let ends = async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(lock);
    };
    tokio::join!(ends, world.start_server());
    assert_eq!(world.client.health_view().await.unwrap().into_value().status, "ok");
}

#[tokio::test]
async fn a_second_server_on_one_data_directory_is_refused() {
    let world = World::start(SCENARIO).await;
    let second = world.run(&["server"]).await;
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another server uses"), "{said}");
    assert_eq!(world.client.health_view().await.unwrap().into_value().status, "ok");
}

#[tokio::test]
async fn a_second_server_on_one_database_is_refused_until_the_first_is_gone() {
    let database = Database::create().unwrap();
    let setting = format!("server.database_url = \"{}\"", database.url());
    let mut world = World::with(SCENARIO, &setting).await;
    let elsewhere = Folder::new("freehold-e2e-").unwrap();
    let elsewhere = elsewhere.path().join("data").display().to_string();
    let second = world.run(&["server", "--data-dir", &elsewhere]).await;
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another server works on this database"), "{said}");
    // It changed nothing under the first.
    let role = world.role("").await;
    let done = world.task(&role, "say hello").await;
    world.task_phase(done.workspace_id, done.task_id, task::Phase::Completed).await;
    world.kill_server();
    world.start_server().await;
    let next = world.next_task(done.workspace_id, "say hello").await;
    world.task_phase(done.workspace_id, next.task_id, task::Phase::Completed).await;
}

/// The process of PostgreSQL that serves whoever owns the database; other tests have theirs beside it.
const OWNER: &str = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Starts a second server in `data`, and takes the first one's connection away while it waits for the database. Which of the
/// two then gets it is a race; answers the second once it has won one.
async fn second_that_takes_over(world: &World, database: &Database, data: &Path) -> Child {
    for _ in 0..20 {
        let second = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"))
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(["--database-url", &database.url()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let second = RefCell::new(second.unwrap());
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()
            AND datname = current_database()
            AND pid NOT IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted)";
        world
            .until("the second server waits", async || (database.psql(waits).unwrap() != "0").then_some(()))
            .await;
        database.psql(&format!("SELECT pg_terminate_backend(({OWNER}))")).unwrap();
        let won = async || match second.borrow_mut().try_wait().unwrap() {
            Some(_) => Some(false),
            None => data.join("server.addr").exists().then_some(true),
        };
        if world.until("the second server listens or gives up", won).await {
            return second.into_inner();
        }
    }
    panic!("the first server always wins");
}

/// The status of `/health`, and what it says.
async fn health(world: &World) -> String {
    let mut stream = TcpStream::connect(world.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_server_that_another_took_the_database_from_says_so_until_it_has_it_again() {
    let database = Database::create().unwrap();
    let world = World::with(SCENARIO, &format!("server.database_url = \"{}\"", database.url())).await;
    let role = world.role("").await;
    assert!(health(&world).await.starts_with("HTTP/1.1 200"));
    let elsewhere = Folder::new("freehold-e2e-").unwrap();
    let mut second = second_that_takes_over(&world, &database, &elsewhere.path().join("data")).await;
    let refused = world
        .until("the first says that it is not well", async || {
            Some(health(&world).await).filter(|answer| answer.starts_with("HTTP/1.1 503"))
        })
        .await;
    assert!(
        refused.contains("unavailable") && refused.contains("another server works on this database"),
        "{refused}"
    );
    let make = async |name: &str| {
        let body = from(json!({"name": name, "provider_id": role.provider_id}));
        world.client.role_create(&body).await
    };
    let refused = make("refused").await.unwrap_err();
    let refused = refused.api().unwrap();
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("unavailable", "another server works on this database")
    );
    assert_eq!(world.client.role_view(role.id).await.unwrap().id, role.id);
    second.kill().await.unwrap();
    let well = async || health(&world).await.starts_with("HTTP/1.1 200").then_some(());
    world.until("the first is well again", well).await;
    make("made").await.unwrap();
}

#[tokio::test]
async fn config_show_says_where_each_setting_comes_from_and_hides_the_database_s_address() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("server.toml");
    fs::write(&file, "[server]\ndatabase_url = \"postgres://me:hunter2@db.test/x\"\n").unwrap();
    let shown = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(["config", "show", "--listen", "127.0.0.1:7171", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    let shown = printed(&shown);
    let source = |key: &str| {
        let line =
            shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}: {shown}"));
        line.rsplit_once("# ").unwrap().1.to_owned()
    };
    assert!(!shown.contains("hunter2"), "{shown}");
    assert_eq!(source("server.database_url"), file.display().to_string());
    assert_eq!(source("defaults.idle_timeout_seconds = 0"), "default");
    assert!(source("server.listen = \"127.0.0.1:7171\"").contains("flag"));
}

#[tokio::test]
async fn a_server_that_is_asked_to_stop_leaves_its_pods() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    world.sh(workspace.id, "setsid sleep 1000 >/dev/null 2>&1 & echo $! > /workspace/pid").await;
    assert!(world.stop_server().await.success());
    world.start_server().await;
    world.phase(workspace.id, Phase::Idle).await;
    let (code, _, stderr) = world.sh(workspace.id, "kill -0 $(cat /workspace/pid)").await;
    assert_eq!(code, 0, "{stderr}");
}

#[tokio::test]
async fn two_hundred_cancels_at_once_cancel_the_task_once() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "sleep in the shell").await;
    let workspace = submitted.workspace_id;
    world.task_phase(workspace, submitted.task_id, task::Phase::Running).await;
    let cancels = (0..AT_ONCE).map(|_| world.client.task_cancel(workspace));
    for answer in futures::future::join_all(cancels).await {
        answer.unwrap();
    }
    world.task_phase(workspace, submitted.task_id, task::Phase::Cancelled).await;
    world.phase(workspace, Phase::Idle).await;
    let activity = world.client.workspace_activity_list(workspace, &from(json!({"limit": 1000}))).await;
    let activity: Value = serde_json::from_str(activity.unwrap().text()).unwrap();
    let count = |kind: &str| {
        activity["events"].as_array().unwrap().iter().filter(|row| row["event_type"] == kind).count()
    };
    assert_eq!((count("task_cancel_requested"), count("task_completed")), (1, 1));
    let next = world.next_task(workspace, "say hello").await;
    world.task_phase(workspace, next.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn members_of_a_server_on_another_database_are_not_looked_for_in_a_new_one() {
    let database = Database::create().unwrap();
    let world = World::with(SCENARIO, &format!("server.database_url = \"{}\"", database.url())).await;
    let list = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
        command.args(["member", "list", "--data-dir"]).arg(world.data()).args(more);
        // No configuration but this.
        command
            .env("HOME", world.data())
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(world.data())
            .output()
            .unwrap()
    };
    let refused = list(&[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("uses another database; give --database-url"),
        "{said}"
    );
    assert!(!world.data().join("freehold.db").exists(), "nothing is made");
    assert!(printed(&list(&["--database-url", &database.url()])).contains("owner@localhost"));
}

#[tokio::test]
async fn a_server_on_postgresql_runs_an_errand_and_is_killed_in_a_task() {
    let database = Database::create().unwrap();
    let mut world = World::with(SCENARIO, &format!("server.database_url = \"{}\"", database.url())).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "count to four").await;
    world.first_step_of(submitted.workspace_id).await;
    world.kill_server();
    world.start_server().await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let (_, count, _) = world.sh(submitted.workspace_id, "cat /workspace/count").await;
    assert_eq!(count, "one\ntwo\nthree\nfour\n");
    let tasks = database.psql("SELECT count(*) FROM tasks WHERE phase = 'completed'").unwrap();
    assert_eq!(tasks.trim(), "1");
    assert!(!world.data().join("freehold.db").exists(), "nothing is kept in a file");
}
