//! Secrets at rest, by the whole server: rotation beside it and across `kill -9`, a store of secrets, and that no value is found
//! where none may be.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use freehold_client::api::secret::{SecretCreate, SecretUpdate};
use freehold_model::task;
use freehold_testkit::{
    openbao::{self, MOUNT},
    postgresql::Database,
};
use serde_json::json;

use crate::support::{MODEL_KEY, World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// What nobody may find.
const CANARY: &str = "canary-7f3e9a41c2-value";
/// What it was before.
const CANARY_BEFORE: &str = "canary-51d0b8e6aa-value";

async fn secret(world: &World, name: &str, value: &str) {
    let body = SecretCreate { name: name.to_owned(), value: value.to_owned() };
    world.client.secret_create(&body).await.unwrap();
}

/// Has an agent do a task, for which the model's credential has to be opened.
async fn work(world: &World) {
    let role = world.role("").await;
    let submitted = world.task(&role, "say hello").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
}

fn said(output: &std::process::Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_rotation_beside_a_running_server_is_noticed_by_nobody() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role("").await;
    secret(&world, "one", CANARY).await;
    let before = fs::read(world.data().join("master.key")).unwrap();
    let output = said(&world.run(&["vault", "rotate", "--data-keys"]).await);
    // Each of them once: the model's credential and the secret.
    assert!(output.contains("2 secrets"), "{output}");
    assert_ne!(fs::read(world.data().join("master.key")).unwrap(), before);
    assert!(!world.data().join("master.key.next").exists());
    let submitted = world.task(&role, "say hello").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    secret(&world, "two", CANARY).await;
    // Nothing that the running server wrote meanwhile is under the old key.
    world.kill_server();
    world.start_server().await;
    let submitted = world.next_task(submitted.workspace_id, "say hello").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let output = said(&world.run(&["vault", "rotate", "--data-keys"]).await);
    assert!(output.contains("3 secrets"), "{output}");
}

/// Kills a rotation after each thing that it says, the server with it, and lets the next one finish.
async fn kill_everywhere(mut world: World) {
    world.role("").await;
    for name in ["one", "two"] {
        secret(&world, name, CANARY).await;
    }
    for lines in 1..=4 {
        let mut rotation = world.command(&["vault", "rotate", "--data-keys"]);
        let mut rotation =
            rotation.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(rotation.stderr.take().unwrap()).lines();
        let heard: Vec<String> = said.by_ref().take(lines).map(Result::unwrap).collect();
        rotation.kill().unwrap();
        rotation.wait().unwrap();
        assert_eq!(heard.len(), lines, "{heard:?}");
        world.kill_server();
        world.start_server().await;
        // What it seals now is sealed rightly too.
        secret(&world, &format!("after{lines}"), CANARY).await;
    }
    let output = said(&world.run(&["vault", "rotate", "--data-keys"]).await);
    // Each was opened and sealed again: two of before, four of between, and the model's credential.
    assert!(output.contains("7 secrets"), "{output}");
    assert!(!world.data().join("master.key.next").exists());
    world.kill_server();
    world.start_server().await;
    let (role, _) = (world.client.role_list(&Default::default()).await.unwrap().into_value().agent_roles, ());
    let body = from(json!({"role_id": role[0].id, "description": "say hello"}));
    let submitted = world.client.task_create(&body, &[]).await.unwrap().into_value();
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn a_rotation_and_a_server_that_are_killed_lose_no_secret() {
    kill_everywhere(World::start(SCENARIO).await).await;
}

#[tokio::test]
async fn a_rotation_and_a_server_that_are_killed_lose_no_secret_on_postgresql_either() {
    let database = Database::create().unwrap();
    let setting = format!("server.database_url = \"{}\"", database.url());
    kill_everywhere(World::with(SCENARIO, &setting).await).await;
}

#[tokio::test]
async fn a_master_key_that_is_configured_is_in_no_file_of_the_server_and_never_shown() {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let world = World::with(SCENARIO, &format!("vault.master_key = \"{KEY}\"")).await;
    work(&world).await;
    assert!(!world.data().join("master.key").exists());
    let mut show = std::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    show.args(["config", "show", "--config"]).arg(world.data().with_file_name("server.toml"));
    let shown = said(&tokio::process::Command::from(show).output().await.unwrap());
    assert!(shown.contains("vault.master_key = \"(hidden)\"") && !shown.contains(KEY), "{shown}");
    // Another command is given it by the environment, and has it from there.
    let mut show = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    show.args(["config", "show"]).env("FREEHOLD_VAULT__MASTER_KEY", KEY);
    let shown = said(&show.output().await.unwrap());
    let line = shown.lines().find(|line| line.starts_with("vault.master_key")).unwrap();
    assert!(line.contains("(hidden)") && line.ends_with("# environment"), "{shown}");
    found_nowhere(&world, &[KEY.trim_end_matches('=')]);
}

#[tokio::test]
async fn secrets_are_in_the_store_of_secrets_where_one_is_configured_and_gone_from_it_when_deleted() {
    let store = openbao::OpenBao::start().unwrap();
    store.token("s.test");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "s.test\n").unwrap();
    let settings = format!(
        "openbao.address = \"{}\"\nopenbao.mount = \"{MOUNT}\"\nopenbao.token_file = \"{}\"",
        store.address(),
        token.display()
    );
    let world = World::with(SCENARIO, &settings).await;
    work(&world).await;
    secret(&world, "one", CANARY).await;
    let body = SecretUpdate { value: "newer".to_owned() };
    world.client.secret_update("one".parse().unwrap(), &body).await.unwrap();
    let kinds = |store: &openbao::OpenBao| -> Vec<(String, usize)> {
        let kind = |path: &str| path.split('/').nth(2).unwrap().to_owned();
        store.paths().iter().map(|(path, versions)| (kind(path), versions.len())).collect()
    };
    assert_eq!(kinds(&store), [("credential".to_owned(), 1), ("secret".to_owned(), 2)]);
    store.fail(&[500; 3]);
    let refused = world.client.secret_delete("one".parse().unwrap()).await.err().unwrap();
    assert_eq!(refused.api().unwrap().code, "unavailable");
    assert_eq!(kinds(&store).len(), 2);
    world.client.secret_delete("one".parse().unwrap()).await.unwrap();
    let credential =
        world.client.credential_list(&Default::default()).await.unwrap().into_value().credentials.remove(0);
    let viewed = world.client.credential_view(credential.id).await.unwrap().into_value();
    assert_eq!(viewed.durable_ref, credential.durable_ref);
    let path = credential.durable_ref.strip_prefix(&format!("{MOUNT}/")).unwrap();
    assert!(store.paths().iter().any(|(known, _)| known == path), "{path}");
    world.client.credential_delete(credential.id).await.unwrap();
    assert_eq!(kinds(&store), []);
    found_nowhere(&world, &[CANARY, MODEL_KEY, "s.test"]);
}

#[tokio::test]
async fn no_value_is_in_the_data_directory_the_log_or_an_answer() {
    let world = World::logging(SCENARIO, "trace").await;
    let role = world.role("").await;
    secret(&world, "one", CANARY_BEFORE).await;
    let body = SecretUpdate { value: CANARY.to_owned() };
    let mut answers =
        vec![world.client.secret_update("one".parse().unwrap(), &body).await.unwrap().text().to_owned()];
    // Refused ones too: the name is taken, there is none of this name, and this is no name.
    for (name, value) in [("one", CANARY), ("1", CANARY)] {
        let body = SecretCreate { name: name.to_owned(), value: value.to_owned() };
        let refused = world.client.secret_create(&body).await.err().unwrap();
        answers.push(format!("{refused:?}"));
    }
    answers.push(format!(
        "{:?}",
        world.client.secret_update("none".parse().unwrap(), &body).await.err().unwrap()
    ));
    answers.push(world.client.secret_list(&Default::default()).await.unwrap().text().to_owned());
    let submitted = world.task(&role, "say hello").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    answers.push(format!("{:?}", world.audit(submitted.workspace_id).await));
    said(&world.run(&["vault", "rotate", "--data-keys"]).await);
    for answer in answers {
        for canary in [CANARY, CANARY_BEFORE, MODEL_KEY] {
            assert!(!answer.contains(canary), "{answer}");
        }
    }
    found_nowhere(&world, &[CANARY, CANARY_BEFORE, MODEL_KEY]);
}

/// Looks for texts, and for what they are in base64 and hexadecimal digits, in the log and in every file of the data directory.
fn found_nowhere(world: &World, texts: &[&str]) {
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for text in texts {
        needles.push(text.as_bytes().to_vec());
        needles.push(text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes());
        needles.extend(base64_within(text.as_bytes()));
    }
    let mut looked_at = 0;
    look(&world.data(), &needles, &mut looked_at);
    look(&world.log(), &needles, &mut looked_at);
    assert!(looked_at > 3, "only {looked_at} files were looked at");
}

/// The digits of base64 that a text surely has wherever it begins in what was encoded.
fn base64_within(text: &[u8]) -> Vec<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    (0..3)
        .map(|skipped| {
            let whole = text[skipped..].chunks_exact(3);
            let word = |three: &[u8]| u32::from_be_bytes([0, three[0], three[1], three[2]]);
            let digits = |word: u32| [18, 12, 6, 0].map(|shift| DIGITS[(word >> shift & 63) as usize]);
            whole.flat_map(|three| digits(word(three))).collect()
        })
        .collect()
}

fn look(path: &Path, needles: &[Vec<u8>], looked_at: &mut usize) {
    let found = fs::symlink_metadata(path).unwrap();
    if found.is_dir() {
        // Pods' files come and go; the rest stays while this looks.
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().symlink_metadata().is_ok() {
                look(&entry.path(), needles, looked_at);
            }
        }
    } else if found.is_file()
        && let Ok(bytes) = fs::read(path)
    {
        *looked_at += 1;
        for needle in needles {
            let is_there = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!is_there, "{} is in {}", String::from_utf8_lossy(needle), path.display());
        }
    }
}
