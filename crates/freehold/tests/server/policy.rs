//! Policy is pushed: what a change says counts for the very next request of a running workspace.

use std::{fs, path::Path};

use serde_json::json;

use crate::support::{World, from};

const SCENARIO: &str = include_str!("scenarios/hello.yaml");

const ALLOWED: &str = "
- name: facts
  type: http
  allow:
    - domains: [facts.freehold.test]
      methods: [GET]
";

/// Asks over one connection that stays open, each time that there is a new line in a file.
const ASKING: &str = r"
import http.client, os, sys, time
def connect():
    connection = http.client.HTTPSConnection('facts.freehold.test', timeout=20)
    connection.connect()
    return connection
connection = connect()
commands = os.open('/workspace/ask', os.O_RDONLY)
for number in range(int(sys.argv[1])):
    while os.read(commands, 1) != b'a':
        time.sleep(0.0005)
    connection.request('GET', '/')
    response = connection.getresponse()
    response.read()
    os.write(1, b'%d\n' % response.status)
";

#[tokio::test]
async fn a_patch_of_role_or_provider_counts_for_the_next_request_of_an_open_connection() {
    if !Path::new("/usr/bin/python3").exists() {
        return eprintln!("skipped: no python3 for pods here");
    }
    const CHANGES: usize = 40;
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await.id;
    world.sh(workspace, ": >/workspace/ask").await;
    let command = ["python3", "-c", ASKING, &CHANGES.to_string()].map(str::to_owned);
    let body = from(json!({"command": command, "timeout_seconds": 60}));
    let mut asking = world.client.workspace_exec(workspace, &body).await.unwrap();
    let files = world.data().join("pods/workspaces").join(workspace.to_string()).join("files");
    let file = find(&files, "ask").expect("the file of the workspace is on this machine");
    for number in 0..CHANGES {
        let allows = number % 2 == 0;
        let capabilities = if allows { json!(ALLOWED) } else { json!("[]") };
        if number % 4 < 2 {
            let change = from(json!({"capabilities": capabilities}));
            world.client.role_update(role.id, &change).await.unwrap();
        } else {
            let change = from(json!({"capabilities": capabilities}));
            world.client.provider_update(role.provider_id, &change).await.unwrap();
        }
        // No wait: the change has been answered.
        use std::io::Write;
        fs::File::options().append(true).open(&file).unwrap().write_all(b"a").unwrap();
        let freehold_client::ExecEvent::Stdout(status) = asking.next().await.unwrap() else {
            panic!("the client in the pod ended, or complained")
        };
        let status = String::from_utf8_lossy(&status).into_owned();
        assert_eq!(status.trim(), if allows { "200" } else { "403" }, "change {number}");
    }
}

#[tokio::test]
async fn capabilities_that_a_new_version_does_not_take_deny_everything_and_the_log_names_their_role() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role(ALLOWED).await;
    let workspace = world.workspace(&role).await.id;
    let status = "curl -s -o /dev/null -w '%{http_code}' https://facts.freehold.test/";
    assert_eq!(world.sh(workspace, status).await.1, "200");
    world.change_rows("UPDATE roles SET capabilities = '- {name: facts, type: httq}'").await;
    let denied = "curl -s https://facts.freehold.test/";
    assert!(world.sh(workspace, denied).await.1.contains("\"no_grant\""));
    let log = fs::read_to_string(world.log()).unwrap();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("cannot be used")).collect();
    assert!(
        matches!(lines[..], [line] if line.contains(&role.name) && line.contains("the role's capabilities: 1:")),
        "{lines:?}"
    );
    let started = world.workspace(&role).await.id;
    assert!(world.sh(started, denied).await.1.contains("\"no_grant\""), "who starts is told so too");
    world.client.role_update(role.id, &from(json!({"capabilities": ALLOWED}))).await.unwrap();
    assert_eq!(world.sh(workspace, status).await.1, "200");
}

fn find(below: &Path, name: &str) -> Option<std::path::PathBuf> {
    fs::read_dir(below).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.file_name().is_some_and(|found| found == name) { Some(path) } else { find(&path, name) }
    })
}
