//! The audit log of the whole server: nothing is lost by `kill -9`, and anybody can verify it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");
const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/audit-verify.py");

/// How often the server is killed at most, until rows were on their way at the moment.
const KILLS_MAX: u32 = 20;

/// Asks for one path after the other, each once, and notes which were answered.
const REQUESTS: &str = r#"cat > /workspace/ask.pl <<'END'
use IO::Socket::INET;
open my $answered, ">>", "/workspace/answered"; $answered->autoflush(1);
for (my $n = 1; !-e "/workspace/stop"; $n++) {
    my $s = IO::Socket::INET->new(PeerAddr => "example.com:80", Timeout => 5);
    if (!$s) { select undef, undef, undef, 0.02; next }
    print $s "GET /$n HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    my $line = <$s>;
    print $answered "/$n\n" if defined $line && $line =~ / 403 /;
}
END
perl /workspace/ask.pl > /dev/null 2>&1 & echo started"#;

/// The ids of rows that are in files on their way to the store.
fn spooled(world: &World) -> BTreeSet<String> {
    let files = fs::read_dir(world.data().join("egress/spool")).unwrap();
    let files = files.map(|file| fs::read(file.unwrap().path()).unwrap());
    files.flat_map(|bytes| whole_rows(&bytes)).collect()
}

/// The ids of the rows in a file: each has its length before it, and the last may be torn.
fn whole_rows(mut rest: &[u8]) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length).try_into().unwrap();
        let Some((row, after)) = after.split_at_checked(length) else { break };
        rest = after;
        ids.push(rmp_serde::from_slice::<Value>(row).unwrap()["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Every decision of the organization.
async fn decisions(world: &World) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), None);
    loop {
        let query =
            from(json!({ "filter[]": ["event_type=policy_decision"], "limit": 10000, "cursor": cursor }));
        let page = world.client.audit_list(&query).await.unwrap();
        let page: Value = serde_json::from_str(page.text()).unwrap();
        rows.extend(page["events"].as_array().unwrap().clone());
        cursor = page["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return rows;
        }
    }
}

fn audit(world: &World, arguments: &[&str]) -> Output {
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    let connection = ["--url", &world.url, "--key", key.trim()];
    freehold(&[&["audit"], arguments, &connection].concat())
}

fn freehold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_freehold")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn verified_by_the_tool(file: &Path) -> Output {
    Command::new("python3").arg(TOOL).arg(file).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[tokio::test]
async fn rows_on_their_way_when_the_server_is_killed_are_in_the_log_once_and_the_log_verifies() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    world.sh(workspace.id, REQUESTS).await;
    let mut left = BTreeSet::new();
    for kill in 0.. {
        let answered = format!("[ $(wc -l < /workspace/answered) -gt {} ]", kill * 5 + 5);
        world
            .until("requests are answered", async || {
                (world.sh(workspace.id, &answered).await.0 == 0).then_some(())
            })
            .await;
        world.kill_server();
        left.extend(spooled(&world));
        world.start_server().await;
        if !left.is_empty() && kill >= 2 {
            break;
        }
        assert!(kill < KILLS_MAX, "no row was ever on its way");
    }
    world
        .until("the pod is back", async || {
            let body = from(json!({ "command": ["touch", "/workspace/stop"] }));
            world.client.workspace_exec(workspace.id, &body).await.ok().map(drop)
        })
        .await;
    let (_, answered, _) =
        world.sh(workspace.id, "touch /workspace/stop; sleep 0.2; cat /workspace/answered").await;
    let answered: BTreeSet<&str> = answered.lines().collect();
    let rows = world
        .until("what was on its way is in the log", async || {
            let rows = decisions(&world).await;
            let ids: BTreeSet<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
            let paths: BTreeSet<&str> = rows.iter().filter_map(|row| row["path"].as_str()).collect();
            (left.iter().all(|id| ids.contains(id.as_str())) && answered.is_subset(&paths)).then_some(rows)
        })
        .await;
    let mut of_path: BTreeMap<&str, u32> = BTreeMap::new();
    for path in
        rows.iter().filter(|row| row["destination"] == "example.com").filter_map(|row| row["path"].as_str())
    {
        *of_path.entry(path).or_default() += 1;
    }
    assert!(of_path.values().all(|count| *count == 1), "a request has two rows: {of_path:?}");

    let file = world.log().with_file_name("audit.jsonl");
    let exported = audit(&world, &["export", "--to", file.to_str().unwrap()]);
    assert!(exported.status.success(), "{}", said(&exported));
    let by_us = freehold(&["audit", "verify", file.to_str().unwrap()]);
    assert!(by_us.status.success() && said(&by_us).contains("are as they were written"), "{}", said(&by_us));
    let by_tool = verified_by_the_tool(&file);
    assert!(by_tool.status.success(), "{}", said(&by_tool));
    // With the last checkpoint and the key, which are to be kept somewhere else.
    assert_eq!(said(&by_tool), said(&by_us));
    let key = &world.client.audit_key_list().await.unwrap().keys[0].id;
    assert!(said(&by_tool).ends_with(&format!("\nsigned by: {key}\n")), "{}", said(&by_tool));
    let live = audit(&world, &["verify"]);
    assert!(live.status.success(), "{}", said(&live));
    world.stop_server().await;
}

#[tokio::test]
async fn a_server_that_stops_signs_all_of_its_log_and_a_row_changed_in_the_database_is_found() {
    let mut world = World::start(SCENARIO).await;
    world.role("").await;
    let keys = world.client.audit_key_list().await.unwrap().into_value().keys;
    assert_eq!((keys.len(), keys[0].current, keys[0].first_used_at), (1, true, None));
    world.stop_server().await;
    world.start_server().await;
    let signed = world.client.audit_checkpoint_list(&from(json!({}))).await.unwrap().into_value().checkpoints;
    let rows = world.client.audit_list(&from(json!({}))).await.unwrap().events.len() as u64;
    assert_eq!(signed.last().map(|last| last.seq), Some(rows), "the rows before the stop are signed");
    let pin = format!("{}:{}", signed[0].number, signed[0].hash);
    let pinned = ["verify", "--signed-by", &keys[0].id, "--checkpoint", &pin];
    let good = audit(&world, &pinned);
    assert!(good.status.success(), "{}", said(&good));

    world.change_rows("UPDATE audit_events SET detail = '{}' WHERE seq = 3").await;
    let found = audit(&world, &pinned);
    assert!(!found.status.success() && said(&found).contains("row 3 does not follow"), "{}", said(&found));
    let file = world.log().with_file_name("audit.jsonl");
    assert!(audit(&world, &["export", "--to", file.to_str().unwrap()]).status.success());
    let found = verified_by_the_tool(&file);
    assert!(
        !found.status.success() && said(&found).contains("line 4: row 3 does not follow"),
        "{}",
        said(&found)
    );
    world.stop_server().await;
}
