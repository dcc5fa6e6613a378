//! Unmodified clients in a pod: what people use speaks to servers over TLS through the proxy, and notices nothing.
//!
//! The packages come from `cargo xtask test`, which fetches them where a registry can be reached; a test that lacks what it
//! needs says that it was skipped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use freehold_model::WorkspaceId;
use freehold_testkit::{Folder, tls::Authority};
use serde_json::{Value, json};

use crate::support::{MODEL_DOMAIN, MODEL_KEY, World, from};

const SCENARIO: &str = include_str!("scenarios/hello.yaml");

const SERVICES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/services.py");

const CAPABILITIES: &str = "
- name: clients
  type: http
  allow:
    - domains: [web.clients.test]
      methods: [GET, HEAD, POST, PUT]
      paths: ['/echo', '/bytes', '/events', '/acknowledge', '/git/**', '/simple/**', '/wheels/*', '/widget', '/widget/**']
    - domains: [grpc.clients.test]
      methods: [POST]
      paths: [/test.Service/Echo, /test.Service/Fail, /test.Service/Count, /test.Service/Meet]
    - domains: [websocket.clients.test]
      methods: [GET]
      paths: [/room]
";

/// The servers, which end with the test.
struct Services {
    process: Child,
    ports: Value,
    _folder: Folder,
}

impl Drop for Services {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn fetched(what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients").join(what)
}

/// The interpreter that pods see too, for whose version the packages are.
fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

impl Services {
    /// Starts them with a certificate for their names; `None` without Python.
    fn start(authority: &Authority) -> Option<Self> {
        use std::io::BufRead;
        let folder = Folder::new("freehold-services-").unwrap();
        let (certificate, key) = authority.pair(&["*.clients.test"]).unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("certificate.pem"), certificate).unwrap();
        fs::write(at("key.pem"), key).unwrap();
        fs::create_dir(at("git")).unwrap();
        let mut process = Command::new(python())
            .arg(SERVICES)
            .args([at("certificate.pem"), at("key.pem"), at("git"), fetched("wheels")])
            .env("PYTHONPATH", fetched("site"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut line = String::new();
        std::io::BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports = serde_json::from_str(&line).expect("the services tell their ports");
        Some(Self { process, ports, _folder: folder })
    }

    fn git(&self) -> PathBuf {
        self._folder.path().join("git")
    }
}

/// A server with the services behind its proxy, and a workspace.
struct Stage {
    world: World,
    services: Services,
    workspace: WorkspaceId,
}

impl Stage {
    /// `None` when something is missing on this machine; that is said.
    async fn set(program: &str) -> Option<Self> {
        let authority = Authority::new().unwrap();
        let Some(services) = Services::start(&authority) else { return skipped("python3") };
        let mut hosts = String::new();
        for (name, port) in services.ports.as_object().unwrap() {
            hosts.push_str(&format!("egress.hosts.\"{name}.clients.test\" = \"127.0.0.1:{port}\"\n"));
        }
        let world = World::signed_by(authority, SCENARIO, &hosts).await;
        let role = world.role(CAPABILITIES).await;
        let workspace = world.workspace(&role).await.id;
        let stage = Self { world, services, workspace };
        let (code, ..) = stage.world.sh(workspace, &format!("command -v {program}")).await;
        if code == 0 { Some(stage) } else { skipped(program) }
    }

    /// As [`Self::set`], with these packages installed in the pod by its own pip, from the index.
    async fn with_packages(packages: &str) -> Option<Self> {
        let stage = Self::set("python3").await?;
        if stage.services.ports.get("grpc").is_none() {
            return skipped("packages from PyPI (`cargo xtask test` fetches them)");
        }
        if stage.world.sh(stage.workspace, "python3 -m pip --version").await.0 != 0 {
            return skipped("pip");
        }
        stage.install(packages).await;
        Some(stage)
    }

    async fn install(&self, packages: &str) {
        let pip = "python3 -m pip install --quiet --no-compile --only-binary :all: --target /workspace/site";
        self.succeeds(&format!("{pip} --index-url https://web.clients.test/simple {packages}")).await;
    }

    /// Runs a command in the pod, which must succeed; answers what it wrote.
    async fn succeeds(&self, script: &str) -> String {
        let (code, stdout, stderr) = self.world.exec_for(self.workspace, &["sh", "-ec", script], 240).await;
        assert_eq!(code, 0, "{script:.200}\n{stdout}\n{stderr}");
        stdout
    }

    async fn python(&self, script: &str, argument: &str) {
        let command = ["env", "PYTHONPATH=/workspace/site", "python3", "-c", script, argument];
        let (code, stdout, stderr) = self.world.exec_for(self.workspace, &command, 120).await;
        assert_eq!((code, stdout.as_str()), (0, "done\n"), "{stderr}");
    }
}

fn skipped<T>(missing: &str) -> Option<T> {
    eprintln!("skipped: no {missing} here");
    None
}

#[tokio::test]
async fn curl_works_over_both_versions_in_every_way_it_sends() {
    let Some(stage) = Stage::set("curl").await else { return };
    for version in ["--http1.1", "--http2"] {
        let curl = format!("curl --silent --show-error {version} --max-time 60");
        let web = "https://web.clients.test";
        let number = if version == "--http2" { "2" } else { "1.1" };
        let script = format!(
            "head -c 8388608 /dev/zero >/tmp/zeros
             {curl} -w '%{{http_version}} %{{http_code}}\\n' -o /tmp/down '{web}/bytes?size=16777216'
             wc -c </tmp/down
             {curl} -T /tmp/zeros {web}/echo | grep -o '\"length\": [0-9]*'
             {curl} -H 'Expect: 100-continue' --data-binary @/tmp/zeros {web}/echo | grep -o '\"length\": [0-9]*'
             {curl} -T - {web}/echo </tmp/zeros | grep -o '\"length\": [0-9]*'
             {curl} --head '{web}/bytes?size=512' | tr -d '\\r' | grep -i '^content-length'
             {curl} --tls-max 1.2 -o /dev/null -w '%{{http_code}}\\n' '{web}/bytes?size=0'
             {curl} -o /dev/null -o /dev/null -w '%{{num_connects}}\\n' '{web}/bytes?size=0' '{web}/bytes?size=256'
             {curl} -d nothing -w ' %{{http_code}}\\n' {web}/closed/secret"
        );
        let out = stage.succeeds(&script).await;
        let lines: Vec<&str> = out.lines().collect();
        let length = "\"length\": 8388608";
        assert_eq!(
            lines[..9],
            [format!("{number} 200").as_str(), "16777216", length, length, length, lines[5], "200", "1", "0"],
            "{out}"
        );
        assert!(lines[5].eq_ignore_ascii_case("content-length: 512"), "{out}");
        let (body, status) = lines[9].rsplit_once(' ').unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((status, &body["error"]["reason"]), ("403", &json!("path_not_allowed")));
    }
}

#[tokio::test]
async fn whoever_is_refused_in_the_middle_of_a_large_upload_reads_why() {
    let Some(stage) = Stage::set("curl").await else { return };
    for version in ["--http1.1", "--http2"] {
        let script = format!(
            "head -c 33554432 /dev/zero >/tmp/zeros
             for time in 1 2 3 4 5; do
               curl --silent {version} --max-time 60 -H 'Expect:' -T /tmp/zeros https://web.clients.test/closed || true
               echo
             done"
        );
        let out = stage.succeeds(&script).await;
        assert_eq!(out.matches("\"reason\":\"path_not_allowed\"").count(), 5, "{version}: {out}");
    }
}

#[tokio::test]
async fn git_clones_and_pushes_over_https() {
    let Some(stage) = Stage::set("git").await else { return };
    let run = |arguments: &[&str]| {
        let mut git = Command::new("git");
        let made = git.current_dir(stage.services.git()).args(arguments).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).unwrap()
    };
    run(&["init", "--quiet", "--bare", "--initial-branch=main", "widget.git"]);
    let script = "export HOME=/workspace GIT_CONFIG_NOSYSTEM=1
        git config --global user.email agent@clients.test; git config --global user.name Agent
        git clone --quiet https://web.clients.test/git/widget.git first 2>/dev/null; cd first
        git checkout --quiet -b main
        head -c 3000000 /dev/urandom >large; git add large; git commit --quiet -m 'a large file'
        git push --quiet origin main
        cd ..; git clone --quiet https://web.clients.test/git/widget.git second
        cmp first/large second/large; git -C second log --format=%s
        git ls-remote https://web.clients.test/closed.git 2>&1 | grep -o 'error: 403'";
    assert_eq!(stage.succeeds(script).await, "a large file\nerror: 403\n");
    assert_eq!(run(&["-C", "widget.git", "log", "--format=%s", "main"]), "a large file\n");
}

#[tokio::test]
async fn npm_publishes_and_installs() {
    let Some(stage) = Stage::set("npm").await else { return };
    let script = "export HOME=/workspace npm_config_registry=https://web.clients.test/ npm_config_update_notifier=false
        mkdir widget user; cd widget
        echo '{\"name\": \"widget\", \"version\": \"1.2.3\"}' >package.json; echo 'module.exports = 42' >index.js
        echo '//web.clients.test/:_authToken=none' >/workspace/.npmrc
        npm publish --silent >/dev/null
        cd ../user; npm init --yes --silent >/dev/null; npm install --silent --no-audit --no-fund widget >/dev/null
        node -p 'require(\"widget\")'
        grep -c sha512 package-lock.json";
    assert_eq!(stage.succeeds(script).await, "42\n1\n");
}

#[tokio::test]
async fn httpx_sends_streams_and_hears_events_as_they_come_over_both_versions() {
    let Some(stage) = Stage::with_packages("httpx[http2]").await else { return };
    stage.python(include_str!("../clients/pod_httpx.py"), "").await;
}

#[tokio::test]
async fn grpc_calls_and_streams_with_trailers() {
    let Some(stage) = Stage::with_packages("grpcio").await else { return };
    stage.python(include_str!("../clients/pod_grpc.py"), "").await;
}

#[tokio::test]
async fn websockets_talk_both_ways_and_end_cleanly() {
    let Some(stage) = Stage::with_packages("websockets").await else { return };
    stage.python(include_str!("../clients/pod_websocket.py"), "").await;
}

#[tokio::test]
async fn the_vendors_own_libraries_ask_and_stream() {
    let Some(mut stage) = Stage::with_packages("anthropic").await else { return };
    stage.python(include_str!("../clients/pod_sdks.py"), "anthropic").await;
    let world = &stage.world;
    let credential =
        from(json!({"name": "openai-key", "provider": "openai", "kind": "api_key", "api_key": MODEL_KEY}));
    world.client.credential_create(&credential).await.unwrap();
    let provider = from(json!({
        "name": "openai", "kind": "openai", "domain": MODEL_DOMAIN, "credential_name": "openai-key", "default_model": "scripted-1",
    }));
    let provider = world.client.provider_create(&provider).await.unwrap();
    let role = world.client.role_list(&from(json!({}))).await.unwrap().into_value();
    let change = from(json!({"provider_id": provider.id}));
    let role = world.client.role_update(role.agent_roles[0].id, &change).await.unwrap().into_value();
    // A workspace keeps the vendor that it was started with.
    stage.workspace = world.workspace(&role).await.id;
    stage.install("openai").await;
    stage.python(include_str!("../clients/pod_sdks.py"), "openai").await;
}

#[tokio::test]
async fn neither_quic_nor_a_way_to_it_is_offered() {
    let Some(stage) = Stage::set("python3").await else { return };
    stage.python(include_str!("../clients/pod_quic.py"), "").await;
}
