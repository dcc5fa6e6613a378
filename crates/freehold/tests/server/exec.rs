//! Commands that people run in pods, and those that cannot be started.

use std::{fs, process::Command};

use freehold_model::workspace::Phase;
use serde_json::json;

use crate::support::{World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

#[tokio::test]
async fn what_cannot_be_started_ends_as_a_shell_would_end_it_and_says_why() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let id = world.workspace(&role).await.id;
    let script =
        "echo text > plain; echo text > bad; chmod +x bad; mkdir dir; ln -s loop loop; chmod 700 dir";
    assert_eq!(world.sh(id, script).await.0, 0);
    let (long, longest) = ("x".repeat(140_000), "x".repeat(900_000));
    for (command, directory, code, says) in [
        (vec!["no-such-program"], "/workspace", 127, "no such program"),
        (vec!["/workspace/none"], "/workspace", 127, "no such program"),
        (vec!["/workspace/plain/x"], "/workspace", 127, "no such program"),
        (vec!["/workspace/plain"], "/workspace", 126, "may not be used"),
        (vec!["/workspace/dir"], "/workspace", 126, "may not be used"),
        (vec!["/workspace/bad"], "/workspace", 126, "no program that this machine can execute"),
        (vec!["/workspace/loop"], "/workspace", 126, "cannot start"),
        (vec!["true", &long], "/workspace", 126, "arguments are too long"),
        (vec!["true", &longest], "/workspace", 126, "arguments are too long"),
        (vec!["true"], "/nowhere", 127, "no directory `/nowhere`"),
        (vec!["true"], "/workspace/plain", 127, "no directory `/workspace/plain`"),
    ] {
        let body = from(json!({"command": command, "working_directory": directory}));
        let stream = world.client.workspace_exec(id, &body).await.unwrap();
        let (ended, stderr) = World::ended(stream).await;
        let command = &command[0];
        assert_eq!(ended, code, "{command} in {directory}: {stderr}");
        assert!(
            stderr.contains(says) && stderr.starts_with(&format!("cannot start `{command}`")),
            "{command}: {stderr}"
        );
    }
}

#[tokio::test]
async fn the_verb_exits_as_the_command_did_and_its_own_failures_are_told_apart() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let id = world.workspace(&role).await.id.to_string();
    let exec = |words: &[&str]| {
        let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
        command.args(["workspace", "exec", &id]).args(words);
        command.env("FREEHOLD_URL", &world.url).env("FREEHOLD_API_KEY", key.trim()).output().unwrap()
    };
    for (words, code) in [
        (&["--", "true"][..], 0),
        (&["--", "sh", "-c", "exit 42"], 42),
        (&["--", "sh", "-c", "kill -9 $$"], 137),
        (&["--", "no-such-program"], 127),
        (&["--cwd", "/nowhere", "--", "true"], 127),
        (&["--timeout", "1", "--", "sleep", "60"], 137),
    ] {
        assert_eq!(exec(words).status.code(), Some(code), "{words:?}");
    }
    world.client.workspace_stop(id.parse().unwrap()).await.unwrap();
    world.phase(id.parse().unwrap(), Phase::Stopped).await;
    let refused = exec(&["--", "true"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(6), "{said}");
    assert!(said.contains("workspace_stopped"), "{said}");
}
