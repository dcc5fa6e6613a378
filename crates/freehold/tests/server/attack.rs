//! What many hostile or careless callers do at once to a whole server.

use std::{collections::BTreeMap, fs};

use freehold_client::{Client, Error};
use freehold_model::{WorkspaceId, workspace::Phase};
use serde_json::json;

use crate::support::{World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// Requests that are sent at once.
const AT_ONCE: usize = 200;

/// One of the changes that a workspace can be asked for.
async fn change(client: &Client, id: WorkspaceId, which: usize) -> Result<(), Error> {
    let body = from(json!({"description": "say hello"}));
    match which % 8 {
        0 => client.workspace_stop(id).await.map(drop),
        1 => client.workspace_archive(id).await.map(drop),
        2 => client.workspace_unarchive(id).await.map(drop),
        3 | 4 => client.task_submit(id, &body, &[]).await.map(drop),
        5 => client.task_cancel(id).await.map(drop),
        6 => client.workspace_session_view(id).await.map(drop),
        _ => client.workspace_view(id).await.map(drop),
    }
}

/// What was answered, by status and code; nothing of it may be a failure of the server itself.
fn count(answers: Vec<Result<(), Error>>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        let told = match &answer {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                let api = error.api().unwrap_or_else(|| panic!("{error:?}"));
                // The agent of a workspace that ends does not answer; nothing else may be a 5xx.
                assert!(api.status < 500 || api.code == "agent_unreachable", "{api:?}");
                format!("{} {}", api.status, api.code)
            }
        };
        *counts.entry(told).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn two_hundred_changes_of_one_workspace_at_once_end_in_a_state_that_is_one() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    for round in 0..3 {
        let id = world.workspace(&role).await.id;
        let changes = (0..AT_ONCE).map(|which| change(&world.client, id, which + round));
        let counts = count(futures::future::join_all(changes).await);
        assert!(counts["ok"] >= 1, "{counts:?}");
        // A stop is among them, so that is where it ends, with every task at an end.
        world.phase(id, Phase::Stopped).await;
        let tasks = world.client.task_list(id, &from(json!({}))).await.unwrap();
        let open: Vec<_> = tasks.iter().filter(|task| !task.status.is_terminal()).collect();
        assert!(open.is_empty(), "{open:?}");
        let rows = world.audit(id).await;
        let of = |kind: &str| rows.iter().filter(|row| row["event_type"] == kind).count();
        assert_eq!(of("task_submitted"), tasks.len());
        // Archived or not, as its rows say.
        let archived = world.client.workspace_view(id).await.unwrap().archived_at.is_some();
        assert_eq!(of("workspace_archived"), of("workspace_unarchived") + usize::from(archived));
        if !archived {
            world.client.workspace_archive(id).await.unwrap();
        }
        let mixed = (0..AT_ONCE).map(|which| {
            let client = &world.client;
            async move {
                if which % 4 == 0 {
                    client.workspace_delete(id).await.map(drop)
                } else {
                    change(client, id, which).await
                }
            }
        });
        let counts = count(futures::future::join_all(mixed).await);
        assert!(
            counts.contains_key("404 workspace_not_found") || counts.contains_key("409 not_archived"),
            "{counts:?}"
        );
        world
            .until("it is gone", async || match world.client.workspace_delete(id).await {
                Err(error) if error.api().is_some_and(|api| api.status == 404) => Some(()),
                Err(error) if error.api().is_some_and(|api| api.code == "not_archived") => {
                    world.client.workspace_archive(id).await.ok();
                    None
                }
                _ => None,
            })
            .await;
        let left = world.data().join("pods/workspaces").join(id.to_string());
        world.until("its files are gone", async || (!left.exists()).then_some(())).await;
    }
    // Everything works as before.
    let workspace = world.workspace(&role).await;
    assert_eq!(world.sh(workspace.id, "echo alive").await.1, "alive\n");
}

#[tokio::test]
async fn no_secret_of_a_caller_is_in_the_log_however_much_is_logged() {
    // All that is compiled in.
    let world = World::logging(SCENARIO, "trace").await;
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let key = key.trim();
    let made =
        world.client.api_key_create(&from(json!({"label": "x", "permission_set": "full_access"}))).await;
    let made = made.unwrap().into_value();
    let other = world.client_of(&made.value);
    other.me_session_view().await.unwrap();
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    world.sh(workspace.id, "true").await;
    // In the query of a stream, in a wrong place, and where nothing is.
    for path in ["/v1/activity/stream", "/v1/me/session", "/v1/nothing"] {
        raw(&world, &format!("GET {path}?api_key={key} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            .await;
        raw(
            &world,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\nconnection: close\r\n\r\n"),
        )
        .await;
    }
    raw(&world, &format!("GET /v1/me/session HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key} \r\nbad header {key}\r\n\r\n")).await;
    world
        .until("the log tells of the last request", async || {
            fs::read_to_string(world.log()).unwrap().contains("a connection ended badly").then_some(())
        })
        .await;
    let log = fs::read_to_string(world.log()).unwrap();
    assert!(log.contains(" DEBUG "), "little is logged");
    for (what, secret) in
        [("token", &key[3..]), ("key", &made.value[3..]), ("credential", crate::support::MODEL_KEY)]
    {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "a {what} is in the log");
    }
}

/// Sends bytes and hears the beginning of what is answered.
async fn raw(world: &World, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(world.url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
