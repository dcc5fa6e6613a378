//! A private PostgreSQL server for the tests of one process, reached by a Unix socket only.
//!
//! The server belongs to a shell that waits for the end of its standard input. The test process holds the other end, so
//! that whichever way it ends, the server is stopped and its folder removed.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;

/// Where Debian puts the programs of each version of PostgreSQL.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The port of servers that are on no network; their socket's name has it.
const PORT: u16 = 5432;

/// `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// `$1` is the folder, `$2` that of the programs, `$3` whether commits wait for the disk, `$4` further options. Interrupts
/// from the terminal are left to the test process.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
"$2/initdb" -D "$1/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync >"$1/log" 2>&1 &&
"$2/pg_ctl" -D "$1/data" -l "$1/log" -w -t 60 -s start -o \
    "-k '$1' -c listen_addresses= -c fsync=$3 -c max_connections=400 -c shared_buffers=32MB $4" >>"$1/log" 2>&1 &&
echo ready
exec >&-
cat >/dev/null
"$2/pg_ctl" -D "$1/data" -m immediate -s stop >/dev/null 2>&1
rm -rf "$1"
"#;

/// A database of its own on the private server, empty at first.
#[derive(Debug, Clone)]
pub struct Database {
    server: &'static Server,
    name: String,
}

impl Database {
    /// Makes a database, and starts the server when it is the first of this process. A commit does not wait for the disk:
    /// tests do not pull the plug.
    ///
    /// # Errors
    ///
    /// When PostgreSQL is not installed, naming the package, or the server does not start, with its log.
    pub fn create() -> Result<Self> {
        static SERVER: OnceLock<Result<Server>> = OnceLock::new();
        Self::create_on(SERVER.get_or_init(|| Server::start(false, None)))
    }

    /// The same on a server of its own that is reached by TCP, under TLS with this certificate and key (PEM) or without TLS.
    ///
    /// # Errors
    ///
    /// As of [`Self::create`].
    pub fn create_on_network(tls: Option<(&str, &str)>) -> Result<Network> {
        // Free until the server takes it: tests that take ports at the same moment are few.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // Lives as long as the process, like the others.
        let server: &'static Result<Server> = Box::leak(Box::new(Server::start(false, Some((port, tls)))));
        Ok(Network { database: Self::create_on(server)?, port })
    }

    /// The same on a server of its own whose commits are durable, as in production: for figures.
    ///
    /// # Errors
    ///
    /// As of [`Self::create`].
    pub fn create_durable() -> Result<Self> {
        static SERVER: OnceLock<Result<Server>> = OnceLock::new();
        Self::create_on(SERVER.get_or_init(|| Server::start(true, None)))
    }

    fn create_on(server: &'static Result<Server>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let server = match server {
            Ok(server) => server,
            Err(error) => bail!("{error:#}"),
        };
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        server.psql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(Self { server, name })
    }

    /// The address of the database.
    pub fn url(&self) -> String {
        let socket = self.server.folder.display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/{}", self.name)
    }

    /// Runs SQL as an operator would, beside whatever else is connected. Answers what `psql` prints, without headings.
    pub fn psql(&self, sql: &str) -> Result<String> {
        self.server.psql(&self.name, sql)
    }
}

/// A database on a server that is reached by TCP.
#[derive(Debug, Clone)]
pub struct Network {
    /// The database itself.
    pub database: Database,
    port: u16,
}

impl Network {
    /// The address of the database by this name of the host, with these parameters.
    pub fn url(&self, host: &str, parameters: &str) -> String {
        format!("postgres://postgres@{host}:{}/{}{parameters}", self.port, self.database.name)
    }
}

#[derive(Debug)]
struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Open for as long as the server shall live.
    _keeper: ChildStdin,
}

impl Server {
    /// Starts a server; on the network as well when there is a port, with TLS when there are a certificate and a key.
    fn start(durable: bool, network: Option<(u16, Option<(&str, &str)>)>) -> Result<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("freehold-pg-").tempdir()?.keep();
        let mut options = String::new();
        if let Some((port, tls)) = network {
            options = format!("-c listen_addresses=127.0.0.1 -p {port}");
            if let Some((certificate, key)) = tls {
                let (certificate_file, key_file) = (folder.join("server.pem"), folder.join("server.key"));
                fs::write(&certificate_file, certificate)?;
                fs::write(&key_file, key)?;
                fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600))?;
                if geteuid().is_root() {
                    chown(&key_file, Some(NOBODY), Some(NOBODY))?;
                }
                let (certificate_file, key_file) = (certificate_file.display(), key_file.display());
                let tls =
                    format!(" -c ssl=on -c ssl_cert_file={certificate_file} -c ssl_key_file={key_file}");
                options.push_str(&tls);
            }
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(&programs);
        shell.arg(if durable { "on" } else { "off" }).arg(options).current_dir("/");
        if geteuid().is_root() {
            chown(&folder, Some(NOBODY), Some(NOBODY))?;
            shell.uid(NOBODY).gid(NOBODY);
        }
        // A process group of its own, so that an interrupt from the terminal reaches the tests and not the server.
        let spawned =
            shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut child = spawned.spawn().context("failed to start a shell for PostgreSQL")?;
        let (Some(keeper), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the shell of PostgreSQL has no pipes");
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "ready" {
            let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
            bail!("the private PostgreSQL server did not start:\n{log}");
        }
        let port = network.map_or(PORT, |(port, _)| port);
        Ok(Self { programs, folder, port, _keeper: keeper })
    }

    fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let output = Command::new(self.programs.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
                "-d",
                database,
                "-c",
                sql,
            ])
            .arg("-h")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .output()
            .context("failed to run psql")?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The folder of the newest version's programs.
fn programs() -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, programs)| has_programs(programs))
        .collect();
    versions.sort();
    let newest = versions.pop().map(|(_, programs)| programs);
    newest.context(
        "PostgreSQL is not installed: install the Debian package `postgresql`, or run `cargo xtask test`",
    )
}

fn has_programs(folder: &Path) -> bool {
    ["initdb", "pg_ctl", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_of_the_private_server_is_empty_and_its_own() {
        let (one, other) = (Database::create().unwrap(), Database::create().unwrap());
        one.psql("CREATE TABLE things (id BIGINT)").unwrap();
        let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(
            (one.psql(tables).unwrap(), other.psql(tables).unwrap()),
            ("1".to_owned(), "0".to_owned())
        );
        assert!(one.url().starts_with("postgres://postgres@%2F"));
    }
}
