//! A running server with everything around it that a task needs: a scripted model behind TLS, a credential, a provider
//! and a role. All of it in a throw-away folder, all of it gone afterwards.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    report::say,
    scratch::{Certificates, Process, Scratch, free_address},
    wire::{Connection, Target},
};

/// How long the server may take to answer after its start.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How many free ports are tried, since another program may be quicker.
const PORTS_TRIED_MAX: usize = 3;
/// How often is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long all pods together may take to be gone at the end.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// The name under which pods reach the scripted model.
const MODEL_NAME: &str = "model.bench.test";
/// The name under which pods reach the upstream of the benchmark itself.
pub const UPSTREAM_NAME: &str = "upstream.bench.test";
/// The role of every workspace.
pub const ROLE: &str = "bench";

/// What to set up.
#[derive(Debug, Clone, Default)]
pub struct Setting {
    /// The program.
    pub program: PathBuf,
    /// Where the throw-away folder is made.
    pub parent: Option<PathBuf>,
    /// What the scripted model does; it answers `ok` at once when absent.
    pub scenario: Option<&'static str>,
    /// PostgreSQL in the place of SQLite.
    pub database_url: Option<String>,
    /// Where [`UPSTREAM_NAME`] is, if it is used; and the authority (PEM) that signed its certificate.
    pub upstream: Option<(SocketAddr, PathBuf)>,
}

/// A running server and what it needs. The order of the fields is the order in which they end.
pub struct Stage {
    server: Process,
    model: Process,
    scratch: Scratch,
    target: Target,
    /// The role's id.
    pub role_id: String,
}

impl Stage {
    /// Sets it all up.
    ///
    /// # Errors
    /// When a part does not start or the API refuses; the server's log is in the message.
    pub async fn set(setting: &Setting) -> anyhow::Result<Self> {
        let scratch = Scratch::new(setting.parent.as_deref())?;
        let folder = scratch.path();
        let (model, model_address, authority) = start_model(setting, folder)?;
        let config = folder.join("server.toml");
        fs::write(&config, configuration(setting, model_address, &authority))?;
        let (server, target) = start_server(setting, folder, &config).await?;
        let role_id = furnish(&target).await.with_context(|| server.log_end())?;
        Ok(Self { server, model, scratch, target, role_id })
    }

    /// Where the server is.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// The server's process.
    pub fn server_pid(&self) -> u32 {
        self.server.id()
    }

    /// The scripted model's process.
    pub fn model_pid(&self) -> u32 {
        self.model.id()
    }

    /// The throw-away folder.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// Opens a connection to the server.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        self.target.connect().await
    }

    /// Ends all pods through the server, then the server.
    ///
    /// # Errors
    /// When pods are left; they are killed then.
    pub async fn strike(mut self) -> anyhow::Result<()> {
        self.server.alive()?;
        stop_all(&mut self.connect().await?, STOPPED_WITHIN).await
    }

    /// The end of the server's log, to say what happened.
    pub fn log_end(&self) -> String {
        format!("the server's log ends with:\n{}", self.server.log_end())
    }
}

/// Stops every workspace and waits until their pods are gone.
///
/// # Errors
/// When the server refuses, or pods are left after `limit`.
pub async fn stop_all(connection: &mut Connection, limit: Duration) -> anyhow::Result<()> {
    connection.call(Method::POST, "/v1/workspaces/stop-all", None).await?;
    let deadline = Instant::now() + limit;
    loop {
        let list = connection.get("/v1/workspaces").await?;
        let workspaces = list["workspaces"].as_array().map(Vec::as_slice).unwrap_or_default();
        let stopped = |workspace: &Value| matches!(workspace["status"].as_str(), Some("stopped" | "failed"));
        let left = workspaces.iter().filter(|workspace| !stopped(workspace)).count();
        if left == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{left} workspaces did not stop");
        sleep(ASK_EVERY).await;
    }
}

/// Starts the server and waits until it answers. Another program may take the free port before it does: then another one.
async fn start_server(setting: &Setting, folder: &Path, config: &Path) -> anyhow::Result<(Process, Target)> {
    let data = folder.join("data");
    let mut failure = anyhow::anyhow!("the server was not started");
    for _ in 0..PORTS_TRIED_MAX {
        let address = free_address()?;
        let mut arguments = vec![
            "server".to_owned(),
            format!("--config={}", config.display()),
            format!("--listen={address}"),
            format!("--data-dir={}", data.display()),
        ];
        arguments.extend(setting.database_url.as_ref().map(|url| format!("--database-url={url}")));
        let mut server = Process::start(&setting.program, &arguments, folder.join("server.log"))?;
        match ready(&mut server, address, &data).await {
            Ok(target) => return Ok((server, target)),
            Err(error) if server.log_end().contains("Address already in use") => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// Starts the scripted model behind TLS.
fn start_model(setting: &Setting, folder: &Path) -> anyhow::Result<(Process, SocketAddr, PathBuf)> {
    let certificates = Certificates::make(folder, &[MODEL_NAME])?;
    let address = free_address()?;
    let mut arguments = vec![
        "sim-model".to_owned(),
        format!("--listen={address}"),
        format!("--tls-cert={}", certificates.certificate.display()),
        format!("--tls-key={}", certificates.key.display()),
    ];
    if let Some(scenario) = setting.scenario {
        let path = folder.join("scenario.yaml");
        fs::write(&path, scenario)?;
        arguments.push(format!("--scenario={}", path.display()));
    }
    let model = Process::start(&setting.program, &arguments, folder.join("model.log"))?;
    Ok((model, address, certificates.authority))
}

fn configuration(setting: &Setting, model: SocketAddr, authority: &Path) -> String {
    let mut hosts = format!("\"{MODEL_NAME}\" = \"{model}\"\n");
    let mut roots = vec![authority.display().to_string()];
    if let Some((address, authority)) = &setting.upstream {
        hosts.push_str(&format!("\"{UPSTREAM_NAME}\" = \"{address}\"\n"));
        roots.push(authority.display().to_string());
    }
    format!("[egress]\nextra_roots = {roots:?}\n\n[egress.hosts]\n{hosts}")
}

/// Waits until the server answers and has written its owner's key.
async fn ready(server: &mut Process, address: SocketAddr, data: &Path) -> anyhow::Result<Target> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        server.alive()?;
        if let Ok(key) = fs::read_to_string(data.join("owner.key")) {
            let target = Target::new(address, key.trim())?;
            if let Ok(mut connection) = target.connect().await
                && connection.get("/v1/me/session").await.is_ok()
            {
                return Ok(target);
            }
        }
        ensure!(Instant::now() < deadline, "the server does not answer:\n{}", server.log_end());
        sleep(ASK_EVERY).await;
    }
}

/// Creates what a workspace needs and answers with the role's id.
async fn furnish(target: &Target) -> anyhow::Result<String> {
    let mut connection = target.connect().await?;
    let credential = json!({"name": "model-key", "provider": "anthropic", "kind": "api_key", "api_key": "bench-model-key"});
    connection.post("/v1/credentials", &credential).await?;
    let provider = json!({
        "name": "sim", "kind": "anthropic", "domain": MODEL_NAME, "credential_name": "model-key",
        "default_model": "sim",
    });
    let provider = connection.post("/v1/providers", &provider).await?;
    let capabilities = json!([{"name": "upstream", "type": "http", "allow": [{"domains": [UPSTREAM_NAME], "methods": ["GET"]}]}]);
    let role = json!({
        "name": ROLE, "provider_id": provider["id"], "max_context_tokens": 10_000_000,
        "idle_timeout_seconds": 86_400,
        // JSON is YAML.
        "capabilities": capabilities.to_string(),
    });
    let role = connection.post("/v1/agent-roles", &role).await?;
    let id = role["id"].as_str().context("a role without an id")?;
    say("the server is up");
    Ok(id.to_owned())
}

/// The id in an answer.
///
/// # Errors
/// When there is none.
pub fn id(answer: &Value) -> anyhow::Result<String> {
    Ok(answer["id"].as_str().with_context(|| format!("an answer without an id: {answer}"))?.to_owned())
}

/// The task's id in the answer to its submission.
///
/// # Errors
/// When there is none.
pub fn task_id(answer: &Value) -> anyhow::Result<String> {
    Ok(answer["task_id"].as_str().with_context(|| format!("an answer without a task: {answer}"))?.to_owned())
}

/// Creates a workspace and answers with its id.
///
/// # Errors
/// When the server refuses.
pub async fn create_workspace(connection: &mut Connection) -> anyhow::Result<String> {
    id(&connection.post("/v1/workspaces", &json!({"role_name": ROLE})).await?)
}
