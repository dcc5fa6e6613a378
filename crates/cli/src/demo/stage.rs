//! The demo's processes and files.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use freehold_client::{
    Client, Key,
    api::workspace::{Workspace, WorkspaceListQuery},
};
use freehold_model::workspace::Phase;
use serde::Serialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep, timeout},
};

use super::Egress;
use crate::failure::Failure;

/// The name of the scripted model's host.
pub(super) const MODEL_HOST: &str = "model.freehold.test";
/// The name of the allowed service's host.
const FACTS_HOST: &str = "facts.freehold.test";
/// The hidden flag of `server` and `sim-model`: end when stdin ends. The server deletes its pods then.
const STOP_WITH_STDIN: &str = "--stop-with-stdin";
/// The hidden flag of `server` that names a directory to remove then, should the demo not live to do it.
const THROW_AWAY: &str = "--throw-away";

/// How long a child may take to be ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long the pods may take to be gone.
const PODS_LIMIT: Duration = Duration::from_secs(20);
/// How long a child may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines shown of a log.
const LOG_LINES_MAX: usize = 25;

/// Who answers as the model.
#[derive(Debug, Clone)]
pub(super) enum Backend {
    /// The scripted model server, which asks for this key.
    Scripted { key: String },
    /// A vendor, and the way to it.
    Real { egress: Egress },
}

/// Everything the demo made.
pub(super) struct Stage {
    dir: TempDir,
    model: Option<Process>,
    server: Option<Process>,
    model_address: Option<SocketAddr>,
    client: Option<Client>,
    key: Option<Key>,
}

/// A child that lives for as long as its stdin is open.
struct Process {
    child: Child,
    /// Apart from the child, because waiting for a child closes the stdin that it holds.
    stdin: Option<ChildStdin>,
}

/// The server's configuration file.
#[derive(Serialize)]
struct Config<'a> {
    server: ServerConfig<'a>,
    egress: Egress,
}

#[derive(Serialize)]
struct ServerConfig<'a> {
    listen: &'a str,
    data_dir: &'a Path,
}

impl Stage {
    pub fn new() -> Result<Self, Failure> {
        let dir = tempfile::Builder::new()
            .prefix("freehold-demo-")
            .tempdir()
            .map_err(|error| Failure::io("cannot make a directory for the demo", &error))?;
        Ok(Self { dir, model: None, server: None, model_address: None, client: None, key: None })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The owner's key, once the server runs.
    pub const fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Starts this program again as one of its other selves. Its stdin is held open for as long as the demo lives.
    fn spawn(&self, arguments: &[&str], log: &str, stdout: Option<Stdio>) -> Result<Process, Failure> {
        let failed =
            |error: std::io::Error| Failure::io(format!("cannot start `freehold {}`", arguments[0]), &error);
        let log = File::create(self.path(log)).map_err(failed)?;
        let stdout = match stdout {
            Some(stdout) => stdout,
            None => log.try_clone().map_err(failed)?.into(),
        };
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.args(arguments).stdin(Stdio::piped()).stdout(stdout).stderr(log).kill_on_drop(true);
        // Neither settings of this shell nor a vendor's key is theirs.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("FREEHOLD_") || text.ends_with("_API_KEY") {
                command.env_remove(&name);
            }
        }
        // Ctrl-C is for the demo, which then ends them in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        Ok(Process { child, stdin })
    }

    /// Starts the scripted model server, if it is wanted; answers with its address.
    pub async fn start_model(&mut self, backend: &Backend) -> Result<Option<SocketAddr>, Failure> {
        let Backend::Scripted { key } = backend else { return Ok(None) };
        let ca = self.path("ca.pem");
        let ca = ca.to_string_lossy();
        let arguments = [
            "sim-model",
            "--listen",
            "127.0.0.1:0",
            "--demo",
            "--require-key",
            key,
            "--self-signed",
            MODEL_HOST,
            "--self-signed",
            FACTS_HOST,
            "--ca-out",
            &ca,
            STOP_WITH_STDIN,
        ];
        let mut process = self.spawn(&arguments, "sim-model.log", Some(Stdio::piped()))?;
        let stdout = process.child.stdout.take();
        self.model = Some(process);
        let mut lines =
            BufReader::new(stdout.ok_or_else(|| self.failed("the scripted model", "sim-model.log"))?).lines();
        let address = timeout(START_LIMIT, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(address) = address_in(&line) {
                    return Some(address);
                }
            }
            None
        });
        let address =
            address.await.ok().flatten().ok_or_else(|| self.failed("the scripted model", "sim-model.log"))?;
        // Its stdout is read on, lest it block there.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        self.model_address = Some(address);
        Ok(Some(address))
    }

    /// Starts the server and answers with a client of its owner.
    pub async fn start_server(&mut self, backend: &Backend, keep: bool) -> Result<Client, Failure> {
        let data_dir = self.path("data");
        let mut egress = match backend {
            Backend::Scripted { .. } => Egress::default(),
            Backend::Real { egress } => egress.clone(),
        };
        if let Some(address) = self.model_address {
            egress.hosts.extend([MODEL_HOST, FACTS_HOST].map(|host| (host.to_owned(), address)));
            egress.extra_roots.push(self.path("ca.pem"));
        }
        let server = ServerConfig { listen: "127.0.0.1:0", data_dir: &data_dir };
        let config = Config { server, egress };
        let config = toml::to_string(&config).map_err(|error| Failure::other(error.to_string()))?;
        let file = self.path("server.toml");
        std::fs::write(&file, config)
            .map_err(|error| Failure::io(format!("cannot write {}", file.display()), &error))?;
        let (file, dir) = (file.to_string_lossy(), self.dir.path().to_string_lossy());
        let mut arguments = vec!["server", "--config", &file, STOP_WITH_STDIN];
        if !keep {
            arguments.extend([THROW_AWAY, &dir]);
        }
        let server = self.spawn(&arguments, "server.log", None)?;
        self.server = Some(server);
        let address = self.wait_for_file(&data_dir.join("server.addr")).await?;
        let key = Key::new(self.wait_for_file(&data_dir.join("owner.key")).await?);
        let client = Client::new(&format!("http://{address}"), key.clone())?;
        self.key = Some(key);
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The line in a file that the server writes when it has come so far.
    async fn wait_for_file(&mut self, path: &Path) -> Result<String, Failure> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Ok(text) = tokio::fs::read_to_string(path).await
                && !text.trim().is_empty()
            {
                return Ok(text.trim().to_owned());
            }
            let has_ended =
                self.server.as_mut().is_none_or(|server| !matches!(server.child.try_wait(), Ok(None)));
            if has_ended || Instant::now() >= deadline {
                return Err(self.failed("the server", "server.log"));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Resolves when the server ends by itself.
    pub async fn server_ended(&mut self) -> Failure {
        if let Some(server) = &mut self.server {
            _ = server.child.wait().await;
        }
        let failure = self.failed("the server", "server.log");
        Failure { message: "the server ended".to_owned(), ..failure }
    }

    /// What a child that did not come up says in its log.
    fn failed(&self, who: &str, log: &str) -> Failure {
        let text = std::fs::read_to_string(self.path(log)).unwrap_or_default();
        let lines: Vec<String> =
            text.lines().map(|line| anstream::adapter::strip_str(line).to_string()).collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES_MAX)..].to_vec();
        let hint = "the lines above are the end of its log; `freehold demo --keep` keeps all of it";
        Failure { details: tail, ..Failure::other(format!("{who} did not start")).hint(hint) }
    }

    /// Ends everything and removes the directory, unless it is to be kept; answers with where it is then.
    pub async fn close(mut self, keep: bool) -> Result<Option<PathBuf>, Failure> {
        if let Some(client) = self.client.take() {
            // The server may be gone already; what is left of its pods goes with the directory and the next sweep.
            _ = timeout(PODS_LIMIT, delete_workspaces(&client)).await;
        }
        for process in [self.server.take(), self.model.take()].into_iter().flatten() {
            end(process).await;
        }
        if keep {
            return Ok(Some(self.dir.keep()));
        }
        let path = self.dir.keep();
        remove_dir(&path)
            .map_err(|error| Failure::io(format!("cannot remove {}", path.display()), &error))?;
        Ok(None)
    }
}

/// An address at the end of a line such as `listening on https://127.0.0.1:1234`.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.split_whitespace().rev().find_map(|word| {
        let word = word.rsplit_once("://").map_or(word, |(_, rest)| rest).trim_end_matches(['/', '.', ',']);
        word.rsplit_once('=').map_or(word, |(_, value)| value).parse().ok()
    })
}

/// Stops all workspaces and removes them for good, so that no pod outlives the demo.
async fn delete_workspaces(client: &Client) -> Result<(), freehold_client::Error> {
    let all = WorkspaceListQuery { include_archived: Some(true), ..Default::default() };
    let is_still = |workspace: &Workspace| matches!(workspace.status, Phase::Stopped | Phase::Failed);
    client.workspace_stop_all().await?;
    loop {
        let list = client.workspace_list(&all).await?;
        for workspace in list.workspaces.iter().filter(|workspace| !is_still(workspace)) {
            client.workspace_stop(workspace.id).await?;
        }
        for workspace in list.workspaces.iter().filter(|workspace| is_still(workspace)) {
            if workspace.archived_at.is_none() {
                client.workspace_archive(workspace.id).await?;
            }
            client.workspace_delete(workspace.id).await?;
        }
        if list.workspaces.is_empty() {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Lets a child end by itself, then ends it.
async fn end(Process { mut child, stdin }: Process) {
    drop(stdin);
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        _ = child.kill().await;
    }
}

/// Removes a directory, folders inside that nobody may read included (overlay file systems leave such).
///
/// # Errors
/// When something in it cannot be removed. That there is no such directory is none.
pub fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open(path)?;
            std::fs::remove_dir_all(path)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn open(dir: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_what_a_server_says() {
        let expected = "127.0.0.1:1234".parse().ok();
        for line in [
            "127.0.0.1:1234",
            "sim-model listening on https://127.0.0.1:1234/",
            "2026-01-01T00:00:00Z INFO listening server.address=127.0.0.1:1234",
        ] {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("starting"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_with_closed_folders_is_removed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap().keep();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        std::fs::set_permissions(dir.join("a/b"), std::fs::Permissions::from_mode(0o000)).unwrap();
        std::fs::set_permissions(dir.join("a"), std::fs::Permissions::from_mode(0o000)).unwrap();
        remove_dir(&dir).unwrap();
        assert!(!dir.exists());
    }
}
