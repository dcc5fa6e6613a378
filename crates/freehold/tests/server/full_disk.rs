//! A file system that is really full: the data directory has a small one to itself, which a tool in a pod fills.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsRawFd,
    path::Path,
};

use freehold_client::{
    ApiError, Error,
    api::{
        error::ErrorCode,
        role::{Role, RoleCreate},
    },
};
use freehold_model::{task, workspace::Phase};
use freehold_store::{ChainCheck, Database, Options, Page, Store};
use serde_json::json;

use crate::support::{World, from};

/// The size of the file system: more than a server and a pod need for a short while.
const DISK_BYTES: u64 = 48 << 20;

/// What is taken of it beforehand, to be given back.
const HOG_BYTES: usize = 16 << 20;

/// The most changes that may be taken before one is refused: the database has room of its own to use up.
const CHANGES_MAX: usize = 2_000;

/// The tool writes until nothing fits. Then it asks to leave until it is told that no row can be written of it.
const SCENARIO: &str = r#"
require_key: sk-canary-4b1d5a0c9e
rules:
  - when: {user: "fill the disk"}
    answers:
      - steps:
          - tool:
              name: bash
              arguments:
                timeout_seconds: 60
                command: |
                  cat /dev/zero > hog 2> /tmp/why
                  perl -MIO::Socket::INET -e '
                    for (1 .. 2000) {
                      my $s = IO::Socket::INET->new(PeerAddr => "192.0.2.1:80", Timeout => 10) or next;
                      print $s "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
                      my $answer = join "", <$s>;
                      if ($answer =~ /audit_unavailable/) { print $answer; exit 0 }
                    }
                    exit 1' > /tmp/answer
      - steps: [{text: It was full.}]
default:
  steps: [{text: Hello.}]
"#;

/// Whether this is the refusal that is worth another try.
fn is_unavailable(error: &Error) -> bool {
    error.api().and_then(ApiError::known_code) == Some(ErrorCode::Unavailable)
}

/// Makes a role of this name.
async fn make(world: &World, name: &str, like: &Role) -> Result<(), Error> {
    let role: RoleCreate = from(json!({"name": name, "provider_id": like.provider_id}));
    world.client.role_create(&role).await.map(drop)
}

/// Makes roles until one is refused; answers how many were made.
async fn make_until_refused(world: &World, like: &Role) -> usize {
    for n in 0..CHANGES_MAX {
        match make(world, &format!("role-{n}"), like).await {
            Ok(()) => {}
            Err(error) if is_unavailable(&error) => return n,
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the disk is not full");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Takes what is left of the last pages of the agents' logs, so that no line of theirs can be written any more.
fn fill_logs(world: &World) {
    let pods = world.data().join("pods/pods");
    for pod in names(&pods) {
        let mut log = File::options().append(true).open(pods.join(pod).join("agent.log")).unwrap();
        // One page, unless there is room after all.
        assert!((0..8_192).any(|_| log.write_all(b"\n").is_err()), "the disk is not full");
    }
}

/// Stops the server and checks the journals and the log of its only organization.
async fn check_rows(world: &mut World) {
    // The disk is there for as long as anything in it is open.
    let data = File::open(world.data()).unwrap();
    world.stop_server().await;
    let copy = tempfile::tempdir().unwrap();
    for name in names(Path::new(&format!("/proc/self/fd/{}", data.as_raw_fd()))) {
        if name.starts_with("freehold.db") {
            let from = format!("/proc/self/fd/{}/{name}", data.as_raw_fd());
            fs::copy(from, copy.path().join(name)).unwrap();
        }
    }
    let database = Database::Sqlite { path: copy.path().join("freehold.db") };
    let store = Store::open(&Options::new(database)).unwrap();
    let organizations = store.system_read(|tx| tx.organization_list(&Page::first(2))).await.unwrap();
    let organization = organizations[0].id;
    let check = store.audit_verify(organization).await.unwrap();
    assert!(matches!(check, ChainCheck::Intact { .. }), "{check:?}");
    let sequences = store.read(organization, |tx| {
        let sessions = tx.session_list(&freehold_store::SessionFilter::default(), &Page::first(9))?;
        sessions
            .iter()
            .map(|session| {
                let events = tx.session_events_after(session.id, 0, 1_000)?;
                Ok(events.iter().filter_map(|event| event.sequence).collect::<Vec<_>>())
            })
            .collect::<Result<Vec<_>, freehold_store::Error>>()
    });
    for sequences in sequences.await.unwrap() {
        let dense: Vec<u64> = (1..=sequences.len() as u64).collect();
        assert_eq!(sequences, dense);
    }
    store.close().await;
}

#[tokio::test]
async fn a_full_disk_refuses_what_is_written_loses_nothing_and_all_goes_on_once_there_is_room() {
    let mut world = World::on_disk_of(DISK_BYTES, SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    let input = world.log().with_file_name("input.csv");
    fs::write(&input, vec![b'x'; 100_000]).unwrap();
    let with_file = from(json!({"role_id": role.id, "description": "say hello"}));
    let hog = world.data().join("hog");
    File::create(&hog).unwrap().write_all(&vec![0; HOG_BYTES]).unwrap();

    let submitted = world.next_task(workspace.id, "fill the disk").await;
    let made = make_until_refused(&world, &role).await;
    // What the agent says cannot be kept either; it says so again and again, and is the same agent still.
    let losses =
        || fs::read_to_string(world.log()).unwrap().matches("the connection of the agent of").count();
    let is_refused = async |count| (losses() >= count).then_some(());
    world.until("the agent's step is refused", async || is_refused(1).await).await;
    fill_logs(&world);
    let before = losses();
    world.until("it is refused again", async || is_refused(before + 4).await).await;
    let refused = make(&world, "refused", &role).await.unwrap_err();
    assert!(is_unavailable(&refused), "{refused:?}");
    let refused = world.client.task_create(&with_file, std::slice::from_ref(&input)).await.unwrap_err();
    assert!(is_unavailable(&refused), "{refused:?}");
    assert_eq!(names(&world.data().join("uploads/uploads")), [""; 0]);
    let refused = world.client.workspace_stop(workspace.id).await.unwrap_err();
    assert!(is_unavailable(&refused), "{refused:?}");
    // Reads go on, and the task waits.
    let task = world.client.task_view(workspace.id, submitted.task_id).await.unwrap();
    assert_eq!(task.status, task::Phase::Running);
    let roles = world.client.role_list(&from(json!({"limit": 1000}))).await.unwrap();
    assert_eq!(roles.agent_roles.len(), made + 1);

    fs::remove_file(&hog).unwrap();
    world.task_phase(workspace.id, submitted.task_id, task::Phase::Completed).await;
    world.phase(workspace.id, Phase::Idle).await;
    make(&world, "after", &role).await.unwrap();
    let roles = world.client.role_list(&from(json!({"limit": 1000}))).await.unwrap();
    assert_eq!(roles.agent_roles.len(), made + 2);
    let rows = world.audit(workspace.id).await;
    let of = |kind: &str| rows.iter().filter(|row| row["event_type"] == kind).count();
    let counts = ["task_started", "tool_started", "tool_completed", "task_completed"].map(of);
    assert_eq!(counts, [1; 4]);
    let (_, said, _) = world.sh(workspace.id, "cat /tmp/why /tmp/answer; rm hog").await;
    assert!(said.contains("No space left on device") && said.contains("HTTP/1.1 503"), "{said}");
    let again = world.client.task_create(&with_file, &[input]).await.unwrap().into_value();
    world.task_phase(again.workspace_id, again.task_id, task::Phase::Completed).await;
    check_rows(&mut world).await;
}

#[tokio::test]
async fn a_server_whose_log_cannot_be_written_serves_on() {
    let mut world = World::start(SCENARIO).await;
    world.stop_server().await;
    world.log_to = Some("/dev/full");
    world.start_server().await;
    let role = world.role("").await;
    for n in 0..3 {
        let submitted = world.task(&role, &format!("say hello {n}")).await;
        world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    }
}
