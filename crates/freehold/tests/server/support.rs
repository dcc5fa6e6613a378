//! A server of its own for each test: a process, a data directory, a scripted model and an allowed service.

use std::{
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use freehold_client::{
    Client, ExecEvent, ExecStream, Key,
    api::{
        credential::CredentialCreate,
        provider::ProviderCreate,
        role::{Role, RoleCreate},
        task::{Task, TaskCreate, TaskSubmitted},
        workspace::{Workspace, WorkspaceCreate, WorkspaceExec},
    },
};
use freehold_model::{TaskId, WorkspaceId, task, workspace::Phase};
use freehold_sim_model::{Handle, Scenario};
use freehold_testkit::{
    Folder,
    issuer::{ISSUER_HOST, Issuer},
    tls::Authority,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// The longest wait for anything. A test fails here rather than hang.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The key that the scripted model demands, and that only egress can bring.
pub const MODEL_KEY: &str = "sk-canary-4b1d5a0c9e";

/// The model's name on the network of pods.
pub const MODEL_DOMAIN: &str = "model.freehold.test";

/// The name of a model's service that answers anything, for tests of credentials.
pub const ECHO_DOMAIN: &str = "echo.freehold.test";

/// Where people are sent back to, in tests of consents.
const PUBLIC_URL: &str = "https://control.freehold.test";

/// A server, and what it needs around it.
pub struct World {
    pub client: Client,
    /// Where the server answers.
    pub url: String,
    _model: Handle,
    dir: Folder,
    /// The size of the file system that the data directory has to itself, in bytes, if it has.
    disk_bytes: Option<u64>,
    /// Where the server's log goes instead of [`Self::log`].
    pub log_to: Option<&'static str>,
    server: Option<Child>,
    /// The allowed service, which ends with the test.
    _facts: tokio::task::JoinHandle<()>,
    /// The heads of the requests that it got.
    heads: Arc<Mutex<Vec<String>>>,
    /// Where credentials come from, in tests of them.
    issuer: Option<Issuer>,
}

impl World {
    /// Starts everything; `scenario` is what the model does (YAML).
    pub async fn start(scenario: &str) -> Self {
        Self::with(scenario, "").await
    }

    /// As [`Self::start`], with further lines of the configuration, such as `server.public_url = "..."`.
    pub async fn with(scenario: &str, settings: &str) -> Self {
        Self::signed_by(Authority::new().unwrap(), scenario, settings).await
    }

    /// As [`Self::with`], where upstream servers may have certificates of this authority.
    pub async fn signed_by(authority: Authority, scenario: &str, settings: &str) -> Self {
        Self::configured(authority, scenario, settings, "info,freehold_store=warn", None, None).await
    }

    /// As [`Self::start`], beside a certified issuer whose access tokens live so many seconds.
    pub async fn with_issuer(scenario: &str, lifetime: u32) -> Self {
        let settings = format!("server.public_url = \"{PUBLIC_URL}\"");
        let filter = "info,freehold_store=warn";
        Self::configured(Authority::new().unwrap(), scenario, &settings, filter, None, Some(lifetime)).await
    }

    /// The issuer beside it.
    pub const fn issuer(&self) -> &Issuer {
        self.issuer.as_ref().unwrap()
    }

    /// The bearer token of the last request that the allowed service got.
    pub fn last_bearer(&self) -> String {
        let heads = self.heads.lock().unwrap();
        let head = heads.last().unwrap().to_ascii_lowercase();
        let at = head.find("authorization: bearer ").unwrap_or_else(|| panic!("{head}")) + 22;
        heads.last().unwrap()[at..].lines().next().unwrap().to_owned()
    }

    /// The head of the last request that the allowed service got.
    pub fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().unwrap().clone()
    }

    /// As [`Self::start`], with the data directory on a file system of its own of this size, which ends with the server.
    pub async fn on_disk_of(bytes: u64, scenario: &str) -> Self {
        Self::configured(Authority::new().unwrap(), scenario, "", "info", Some(bytes), None).await
    }

    /// As [`Self::start`], with another filter of the log.
    pub async fn logging(scenario: &str, filter: &str) -> Self {
        Self::configured(Authority::new().unwrap(), scenario, "", filter, None, None).await
    }

    async fn configured(
        authority: Authority,
        scenario: &str,
        settings: &str,
        filter: &str,
        disk_bytes: Option<u64>,
        token_lifetime: Option<u32>,
    ) -> Self {
        let dir = Folder::new("freehold-e2e-").unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scenario = Scenario::parse(scenario).unwrap_or_else(|error| panic!("{error}"));
        let tls = authority.server(&[MODEL_DOMAIN]).unwrap();
        let model = freehold_sim_model::serve(listener, scenario, Some(tls)).unwrap();
        let address = model.address();
        let (facts, facts_address, heads) = facts(&authority).await;
        let callback = format!("{PUBLIC_URL}/oauth/callback");
        let issuer = token_lifetime.map(|lifetime| Issuer::start(&authority, &callback, lifetime).unwrap());
        let issuers =
            issuer.as_ref().map(|it| format!("egress.hosts.\"{ISSUER_HOST}\" = \"{}\"\n", it.address()));
        let config = format!(
            "server.listen = \"127.0.0.1:0\"\nserver.data_dir = \"{dir}/data\"\n\
             egress.extra_roots = [\"{dir}/ca.pem\"]\n\
             egress.hosts.\"{MODEL_DOMAIN}\" = \"{address}\"\n\
             egress.hosts.\"facts.freehold.test\" = \"{facts_address}\"\n\
             egress.hosts.\"{ECHO_DOMAIN}\" = \"{facts_address}\"\n\
             {issuers}log.filter = \"{filter}\"\n{settings}\n",
            issuers = issuers.unwrap_or_default(),
            dir = dir.path().display(),
        );
        fs::write(dir.path().join("server.toml"), config).unwrap();
        let client = Client::new("http://127.0.0.1:1", Key::new("none")).unwrap();
        let mut world = Self {
            client,
            url: String::new(),
            _model: model,
            dir,
            disk_bytes,
            log_to: None,
            server: None,
            _facts: facts,
            heads,
            issuer,
        };
        world.start_server().await;
        world
    }

    /// Starts the server process, anew after [`Self::kill_server`].
    pub async fn start_server(&mut self) {
        // Left by the process before, if any.
        let _absent = fs::remove_file(self.data().join("server.addr"));
        let log = self.log_to.map_or_else(|| self.log(), PathBuf::from);
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let server = self
            .server_command()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let address_file = self.data().join("server.addr");
        let address: SocketAddr = self
            .until("the server listens", async || {
                fs::read_to_string(&address_file).ok().and_then(|text| text.parse().ok())
            })
            .await;
        let key = fs::read_to_string(self.data().join("owner.key")).unwrap();
        self.url = format!("http://{address}");
        self.client = self.client_of(key.trim());
    }

    /// Waits until a tool of the workspace's task has ended.
    pub async fn first_step_of(&self, workspace: WorkspaceId) {
        self.until("the first step ran", async || {
            let rows = self.audit(workspace).await;
            rows.iter().any(|row| row["event_type"] == "tool_completed").then_some(())
        })
        .await;
    }

    /// A client with this key.
    pub fn client_of(&self, key: &str) -> Client {
        Client::new(&self.url, Key::new(key)).unwrap()
    }

    /// A command on the server's machine, with its configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
        let (verb, rest) = arguments.split_first().unwrap();
        command.args([verb, "--config"]).arg(self.dir.path().join("server.toml")).args(rest);
        command.env_remove("RUST_LOG");
        command
    }

    /// The server; on a disk of its own in a mount namespace of its own, where an ordinary user may mount too. Each program in
    /// the chain becomes the next one, so that the process is the server in the end.
    fn server_command(&self) -> Command {
        let server = self.command(&["server"]);
        let Some(bytes) = self.disk_bytes else { return server };
        let data = self.dir.path().join("data");
        fs::create_dir_all(&data).unwrap();
        let mut command = Command::new("unshare");
        let user = (rustix::process::geteuid(), rustix::process::getegid());
        // Root has the rights to mount, and needs its other users for pods. Whoever becomes root to mount becomes itself again.
        let back = match user.0.is_root() {
            true => String::new(),
            false => {
                command.args(["--user", "--map-root-user"]);
                let (user, group) = (user.0.as_raw(), user.1.as_raw());
                format!("unshare --user --map-user={user} --map-group={group} -- ")
            }
        };
        let script =
            format!("mount -t tmpfs -o mode=0700,size=\"$1\" tmpfs \"$2\" && shift 2 && exec {back}\"$@\"");
        command.args(["--mount", "--", "sh", "-ec", &script, "sh"]).arg(bytes.to_string()).arg(data);
        command.arg(server.get_program()).args(server.get_args()).env_remove("RUST_LOG");
        command
    }

    /// Runs a command on the server's machine with the server's configuration, to its end.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::from(self.command(arguments));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        tokio::time::timeout(WAIT_MAX, output).await.expect("the command does not end").unwrap()
    }

    /// Asks the server to stop, and waits until it has.
    pub async fn stop_server(&mut self) -> ExitStatus {
        let mut server = self.server.take().unwrap();
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = server.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < WAIT_MAX, "the server does not stop\n{}", tail(&self.log()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `kill -9`.
    pub fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    /// Changes rows of the database, by SQL; the server is stopped meanwhile.
    pub async fn change_rows(&mut self, sql: &str) {
        self.stop_server().await;
        let change =
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(sys.argv[2]); db.commit()";
        let mut python = Command::new("python3");
        let changed = python.args(["-c", change]).arg(self.data().join("freehold.db")).arg(sql).status();
        assert!(changed.unwrap().success());
        self.start_server().await;
    }

    /// The server's process.
    pub fn server_id(&self) -> u32 {
        self.server.as_ref().unwrap().id()
    }

    /// The data directory, as it is to be found from here.
    pub fn data(&self) -> PathBuf {
        let data = self.dir.path().join("data");
        match (self.disk_bytes, &self.server) {
            (Some(_), Some(server)) => {
                let root = PathBuf::from(format!("/proc/{}/root", server.id()));
                root.join(data.strip_prefix("/").unwrap())
            }
            _ => data,
        }
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Waits until `probe` has an answer; at the limit the test fails with the server's log.
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut probe: impl FnMut() -> F,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            if start.elapsed() > WAIT_MAX {
                panic!("waited too long until {what}\n{}", tail(&self.log()));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A credential, a provider whose domain is the scripted model, and a role with these capabilities.
    pub async fn role(&self, capabilities: &str) -> Role {
        let credential: CredentialCreate = from(json!({
            "name": "model-key", "provider": "anthropic", "kind": "api_key", "api_key": MODEL_KEY,
        }));
        self.client.credential_create(&credential).await.unwrap();
        let provider: ProviderCreate = from(json!({
            "name": "scripted", "kind": "anthropic", "domain": MODEL_DOMAIN, "credential_name": "model-key",
            "default_model": "scripted-1",
        }));
        let provider = self.client.provider_create(&provider).await.unwrap();
        let mut role = json!({"name": "tester", "provider_id": provider.id});
        if !capabilities.is_empty() {
            role["capabilities"] = json!(capabilities);
        }
        let role: RoleCreate = from(role);
        self.client.role_create(&role).await.unwrap().into_value()
    }

    /// A workspace under the role, ready.
    pub async fn workspace(&self, role: &Role) -> Workspace {
        let body: WorkspaceCreate = from(json!({"role_id": role.id}));
        let workspace = self.client.workspace_create(&body).await.unwrap();
        self.phase(workspace.id, Phase::Idle).await
    }

    /// Submits a task in a new workspace.
    pub async fn task(&self, role: &Role, description: &str) -> TaskSubmitted {
        let body: TaskCreate = from(json!({"role_id": role.id, "description": description}));
        self.client.task_create(&body, &[]).await.unwrap().into_value()
    }

    /// Submits a further task to a workspace.
    pub async fn next_task(&self, workspace: WorkspaceId, description: &str) -> TaskSubmitted {
        let body = from(json!({"description": description}));
        self.client.task_submit(workspace, &body, &[]).await.unwrap().into_value()
    }

    /// Waits for a workspace's phase.
    pub async fn phase(&self, workspace: WorkspaceId, phase: Phase) -> Workspace {
        self.until(&format!("{workspace} is {phase}"), async || {
            let found = self.client.workspace_view(workspace).await.ok()?.into_value();
            (found.status == phase).then_some(found)
        })
        .await
    }

    /// Waits for a task's phase.
    pub async fn task_phase(&self, workspace: WorkspaceId, task: TaskId, phase: task::Phase) -> Task {
        self.until(&format!("{task} is {phase}"), async || {
            let found = self.client.task_view(workspace, task).await.ok()?.into_value();
            assert!(
                found.status == phase || !found.status.is_terminal(),
                "{task} ended as {}: {:?}\n{}",
                found.status,
                found.reason,
                tail(&self.log())
            );
            (found.status == phase).then_some(found)
        })
        .await
    }

    /// Runs a shell command in a workspace; answers its exit code, standard output and standard error.
    pub async fn sh(&self, workspace: WorkspaceId, script: &str) -> (i32, String, String) {
        self.exec(workspace, &["sh", "-c", script]).await
    }

    /// Runs a command in the workspace: exit code, stdout, stderr.
    pub async fn exec(&self, workspace: WorkspaceId, command: &[&str]) -> (i32, String, String) {
        self.exec_for(workspace, command, 30).await
    }

    /// As [`Self::exec`], with another limit of seconds.
    pub async fn exec_for(
        &self,
        workspace: WorkspaceId,
        command: &[&str],
        seconds: u32,
    ) -> (i32, String, String) {
        let body: WorkspaceExec = from(json!({"command": command, "timeout_seconds": seconds}));
        let mut stream = self.client.workspace_exec(workspace, &body).await.unwrap();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match stream.next().await.unwrap() {
                ExecEvent::Stdout(data) => stdout.extend_from_slice(&data),
                ExecEvent::Stderr(data) => stderr.extend_from_slice(&data),
                ExecEvent::Ended { exit_code, .. } => {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    return (exit_code, text(stdout), text(stderr));
                }
            }
        }
    }

    /// How a command ended, and what it said on standard error.
    pub async fn ended(mut stream: ExecStream) -> (i32, String) {
        let mut stderr = Vec::new();
        loop {
            match stream.next().await.unwrap() {
                ExecEvent::Stdout(_) => {}
                ExecEvent::Stderr(data) => stderr.extend_from_slice(&data),
                ExecEvent::Ended { exit_code, .. } => {
                    return (exit_code, String::from_utf8_lossy(&stderr).into_owned());
                }
            }
        }
    }

    /// Every audit row of a workspace, oldest first.
    pub async fn audit(&self, workspace: WorkspaceId) -> Vec<Value> {
        let query = from(json!({"limit": 10000, "order": "asc"}));
        let rows = self.client.workspace_audit_list(workspace, &query).await.unwrap();
        let rows: Value = serde_json::from_str(rows.text()).unwrap();
        rows["events"].as_array().unwrap().clone()
    }
}

/// A service over TLS that answers every request with the same fact.
async fn facts(authority: &Authority) -> (tokio::task::JoinHandle<()>, SocketAddr, Arc<Mutex<Vec<String>>>) {
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"fact\": \"true\"}";
    const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    let mut tls = (*authority.server(&["facts.freehold.test", ECHO_DOMAIN]).unwrap()).clone();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let all = Arc::clone(&heads);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, heads) = (acceptor.clone(), Arc::clone(&all));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    head.extend_from_slice(&buffer[..length]);
                    if head.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head).into_owned();
                        let answer = if text.contains("x-refuse") { REFUSAL } else { ANSWER };
                        heads.lock().unwrap().push(text);
                        head.clear();
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (serving, address, heads)
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", tail(&self.log()));
        }
        self.kill_server();
        // By the name under which the server had it.
        end_pods(&self.data());
    }
}

/// Ends the holders of a data directory, and with them their pods; a server would keep them.
fn end_pods(data: &Path) {
    let data = data.to_string_lossy().into_owned();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(" holder ") && command.contains(&data) {
            let pid =
                entry.file_name().to_string_lossy().parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// A request's type from JSON, so that tests read like the API.
pub fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}
