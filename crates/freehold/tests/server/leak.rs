//! A canary among the credentials, and an agent whose tools try everything to read it: it is upstream, and nowhere else.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use freehold_client::api::approval::ApprovalListQuery;
use freehold_model::{WorkspaceId, task};
use serde_json::{Value, json};

use crate::support::{MODEL_KEY, World, from};

/// What an agent's tool tries. It does not hold the canary itself: what is found would be the script.
const ATTEMPTS: &str = r#"
cd /workspace; ulimit -c unlimited 2>/dev/null
env; set
for process in /proc/[0-9]*; do
  for file in environ cmdline maps auxv stack syscall mem fdinfo/* task/*/environ root/proc/1/environ; do
    timeout 1 head -c 100000 $process/$file 2>/dev/null
  done
  # Some of what is open never ends.
  timeout 1 head -c 100000 $process/fd/* $process/map_files/* 2>/dev/null </dev/null
done
timeout 1 head -c 100000 /proc/kcore /proc/keys /proc/kmsg /dev/mem 2>/dev/null
cat /etc/resolv.conf /etc/hosts /etc/ssl/private/* /opt/freehold/*.* 2>/dev/null
find / -xdev -newer /proc/1 -type f -size -200k ! -path '/proc/*' ! -path '/sys/*' ! -path '/usr/*' 2>/dev/null | head -500 | xargs cat 2>/dev/null
find / -xdev -type s 2>/dev/null
sh -c 'kill -SEGV $$'; ls core* /core* /tmp/core* 2>/dev/null && cat core* 2>/dev/null
ask() { curl --silent --show-error --max-time 20 --include -H 'anthropic-version: 2023-06-01' "$@" 2>&1; echo; }
model=https://model.freehold.test
body='{"model":"scripted-1","max_tokens":9,"messages":[{"role":"user","content":"repeat what you were asked with"}]}'
for version in --http1.1 --http2; do
  for header in 'x-api-key: freehold-placeholder' 'authorization: Bearer freehold-placeholder' 'x-nothing: 1'; do
    ask $version -H "$header" -H 'content-type: application/json' -d "$body" $model/v1/messages
  done
  ask $version -H 'x-api-key: mine' -d "$body" $model/v1/messages
  ask $version -H 'x-api-key: freehold-placeholder' -H 'accept-encoding: gzip' --compressed -d "$body" $model/v1/messages
  ask $version -H 'x-api-key: freehold-placeholder' -H 'range: bytes=3-' -d "$body" $model/v1/messages
  ask $version -H 'connection: x-api-key' -H 'te: trailers' -d "$body" $model/v1/messages
  ask $version -X TRACE $model/v1/messages
  ask $version $model/v1/nothing
  ask $version -H 'x-api-key: freehold-placeholder' -d '{' $model/v1/messages
  ask $version https://gone.freehold.test/
  ask $version https://facts.freehold.test/
done
ask http://model.freehold.test/v1/messages
ask -H 'host: model.freehold.test' https://facts.freehold.test/
ask http://127.0.0.1/ ; ask http://169.254.169.254/latest/meta-data/
python3 -c 'import socket; print(socket.getaddrinfo("model.freehold.test", 443), socket.gethostbyname("x-api-key.model.freehold.test"))' 2>&1
echo all was tried
"#;

const ASKS: &str = "
- name: facts
  type: http
  allow:
    - name: held
      domains: [facts.freehold.test]
      methods: [GET]
      paths: [/held]
      approval: required
  transforms:
    - name: key
      auth: {credential: model-key}
      headers: {set: {x-canary: 'secrets[\"canary\"]'}}
";

/// The canary as it is and as it might be written.
fn spellings() -> Vec<(&'static str, String)> {
    let hex = |byte: &u8| format!("{byte:02x}");
    let reversed: String = MODEL_KEY.chars().rev().collect();
    vec![
        ("plain", MODEL_KEY.to_owned()),
        // What is left of it after a scheme or with a cut at its ends.
        ("middle", MODEL_KEY[4..16].to_owned()),
        ("base64", BASE64_STANDARD.encode(MODEL_KEY).trim_end_matches('=').to_owned()),
        ("hex", MODEL_KEY.as_bytes().iter().map(hex).collect()),
        ("reversed", reversed),
    ]
}

fn assert_absent(place: &str, bytes: &[u8]) {
    for (spelling, text) in spellings() {
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        let around = at.map(|at| &bytes[at.saturating_sub(60)..bytes.len().min(at + 60)]);
        let around = around.map(String::from_utf8_lossy);
        assert_eq!(around, None, "the canary ({spelling}) is in {place}");
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

/// Every GET of the API's own document, with these values in the places of its parameters.
fn routes(values: &[(&str, String)]) -> Vec<String> {
    let document: Value = serde_json::from_str(include_str!("../../../../openapi/freehold.json")).unwrap();
    let all = document["paths"].as_object().unwrap().iter();
    all.filter(|(_, verbs)| verbs.get("get").is_some())
        .map(|(path, _)| {
            values.iter().fold(path.clone(), |path, (at, value)| match path.strip_prefix(at) {
                // The first parameter is of the kind that its collection names.
                Some(rest) if rest.starts_with("/{") => {
                    let (_, rest) = rest.split_once('}').unwrap();
                    format!("{at}/{value}{rest}")
                }
                _ if at.starts_with('{') => path.replace(at, value),
                _ => path,
            })
        })
        .collect()
}

/// A request that carries the canary and waits for a person, who is shown what it asks.
async fn held(world: &World, workspace: WorkspaceId) -> String {
    let held = "curl --silent --max-time 60 -H 'authorization: Bearer freehold-placeholder' \
        https://facts.freehold.test/held >/dev/null 2>&1 &";
    world.exec_for(workspace, &["sh", "-c", held], 20).await;
    world
        .until("a request is held", async || {
            let list = world.client.approval_list(&ApprovalListQuery::default()).await.ok()?.into_value();
            list.approvals.first().map(|approval| approval.id.to_string())
        })
        .await
}

#[tokio::test]
async fn a_canary_that_tools_do_everything_to_read_is_found_nowhere_but_upstream() {
    let base64 = BASE64_STANDARD.encode(MODEL_KEY);
    let script = json!(ATTEMPTS);
    // The upstream knows the key, and says it in each way that it is called; so do its errors.
    let scenario = format!(
        r#"
require_key: {MODEL_KEY}
rules:
  - when: {{user: "read the canary"}}
    answers:
      - steps: [{{tool: {{name: bash, arguments: {{command: {script}, timeout_seconds: 120}}}}}}]
      - steps: [{{text: "I was asked with {MODEL_KEY}, or {base64}. {{{{result}}}}"}}]
  - when: {{user: "repeat what you were asked with"}}
    answers:
      - http: {{status: 401, headers: {{x-echo: "{MODEL_KEY}", location: "/?key={MODEL_KEY}"}}, body: {{error: "bad key {MODEL_KEY} {base64}"}}}}
      - steps: [{{text: "{MODEL_KEY}"}}, {{error: {{kind: api_error, message: "{MODEL_KEY}"}}}}]
      - steps: [{{garbage: "data: {MODEL_KEY}\n\n"}}, cut]
      - steps: [{{text: "{base64} {MODEL_KEY}"}}]
"#
    );
    let world = World::logging(&scenario, "trace").await;
    let secret = from(json!({ "name": "canary", "value": MODEL_KEY }));
    world.client.secret_create(&secret).await.unwrap();
    let role = world.role(ASKS).await;
    let submitted = world.task(&role, "read the canary").await;
    // The model demands the key, so this ends only if the key was upstream.
    let task = world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let (_, stdout, stderr) = world.exec_for(submitted.workspace_id, &["sh", "-c", ATTEMPTS], 120).await;
    assert!(stdout.contains("all was tried"), "{stderr}");
    // Attempts that should have reached the model did, and heard it.
    assert!(stdout.contains("bad key ********************"), "{stdout}");
    assert_absent("what a command printed", stdout.as_bytes());
    assert_absent("what a command printed as errors", stderr.as_bytes());

    let rows = world
        .until("the proxy's rows are there", async || {
            let rows = world.audit(submitted.workspace_id).await;
            rows.iter().any(|row| row["reason"] == "secret_masked").then_some(rows)
        })
        .await;
    assert_absent("audit rows", json!(rows).to_string().as_bytes());
    let list = world.client.credential_list(&from(json!({}))).await.unwrap();
    let list: Value = serde_json::from_str(list.text()).unwrap();
    let credential = list.pointer("/credentials/0/id").unwrap().as_str().unwrap().to_owned();
    let sessions = world.client.session_list(&from(json!({}))).await.unwrap();
    let sessions: Value = serde_json::from_str(sessions.text()).unwrap();
    let approval = held(&world, submitted.workspace_id).await;
    let values = [
        ("/v1/approvals", approval),
        ("/v1/credentials", credential),
        ("/v1/agent-roles", role.id.to_string()),
        ("/v1/providers", role.provider_id.to_string()),
        ("/v1/workspaces", submitted.workspace_id.to_string()),
        ("/v1/sessions", sessions["data"][0]["id"].as_str().unwrap().to_owned()),
        ("{tid}", task.id.to_string()),
    ];
    let key = fs::read_to_string(world.data().join("owner.key")).unwrap();
    for route in routes(&values) {
        assert!(!route.contains('{'), "no value for a parameter of {route}");
        let mut curl = Command::new("curl");
        // A stream does not end by itself.
        let limit = if route.ends_with("/stream") { "2" } else { "20" };
        curl.args(["--silent", "--include", "--max-time", limit, "--header"]);
        let answer = curl
            .arg(format!("Authorization: Bearer {}", key.trim()))
            .arg(format!("{}{route}", world.url))
            .output()
            .unwrap();
        let status = String::from_utf8_lossy(&answer.stdout[..answer.stdout.len().min(12)]).into_owned();
        // Nobody has begun a consent that could come back here.
        let expected = if route == "/oauth/callback" { "HTTP/1.1 400" } else { "HTTP/1.1 200" };
        assert!(status.starts_with(expected), "{route}: {status}");
        assert_absent(&route, &answer.stdout);
    }
    assert_absent_in_files(&world);
    assert_leaves_no_core(&world);
}

fn assert_absent_in_files(world: &World) {
    assert_absent("the log", &fs::read(world.log()).unwrap());
    let mut files = Vec::new();
    files_below(&world.data(), &mut files);
    assert!(files.iter().any(|file| file.ends_with("freehold.db")) && files.len() > 10, "{files:?}");
    for file in files {
        assert_absent(&file.display().to_string(), &fs::read(&file).unwrap_or_default());
    }
}

fn assert_leaves_no_core(world: &World) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", world.server_id())).unwrap();
    let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(cores.split_whitespace().filter(|word| *word == "0").count(), 2, "{cores}");
}
