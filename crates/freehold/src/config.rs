//! The server's configuration: one typed place, filled from defaults, a file, the environment and flags, in that order.
//!
//! Every value knows where it came from; a key that does not exist is an error wherever it stands.

mod place;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Profile,
    providers::{Env, Format, Serialized, Toml},
};
use freehold_app::fleet;
use freehold_egress::budget::Usd;
use freehold_policy::normal_host;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Variables of the environment that set configuration: `FREEHOLD_SERVER__LISTEN` is `server.listen`.
pub const ENVIRONMENT_PREFIX: &str = "FREEHOLD_";

/// The key of prices.
const PRICES: &str = "prices";

/// How `config show` calls a flag.
const FLAG: &str = "command-line flag";

/// Keys whose values no error shows.
const HIDDEN: [&str; 3] = ["server.database_url", "vault.master_key", "vault.former_master_keys"];

/// How `config show` calls what nobody set.
const DEFAULT: &str = "default";

/// The whole configuration of `freehold server`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process itself.
    pub server: Server,
    /// Pods.
    pub pod: Pod,
    /// The way out of pods.
    pub egress: Egress,
    /// What models' tokens cost, in dollars for a million, by name; `*` stands for any characters.
    pub prices: BTreeMap<String, Usd>,
    /// The keys of secrets.
    pub vault: Vault,
    /// A store of secrets, in the place of the database.
    pub openbao: OpenBaoConfig,
    /// What roles and tasks get when they do not say.
    pub defaults: Defaults,
    /// Logging.
    pub log: Log,
}

impl Config {
    /// Whether the parts that values are for can use them, as far as that can be told without them.
    ///
    /// # Errors
    /// The key of one that cannot be used, and what is wrong with it.
    fn check(&self) -> Result<(), (Vec<String>, String)> {
        let at = |key: &str, wrong: String| (key.split('.').map(str::to_owned).collect::<Vec<_>>(), wrong);
        self.pod.check().map_err(|(key, wrong)| at(key, wrong))?;
        let Server { listen, public_url, other_urls, .. } = &self.server;
        for (key, urls) in
            [("server.public_url", public_url.as_slice()), ("server.other_urls", other_urls.as_slice())]
        {
            freehold_egress::ControlPlane::new(*listen, urls.iter().map(String::as_str))
                .map_err(|error| at(key, error.to_string()))?;
        }
        for name in self.egress.hosts.keys() {
            let host = name.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
            if [Some(name.as_str()), host.map(|(host, _)| host)]
                .into_iter()
                .flatten()
                .all(|host| normal_host(host).is_err())
            {
                let wrong = format!("`{name}` is neither a host name nor an address, with or without a port");
                return Err(at("egress.hosts", wrong));
            }
        }
        freehold_egress::budget::Prices::new(&self.prices)
            .map_err(|error| (vec![PRICES.to_owned(), error.pattern.clone()], error.to_string()))?;
        let Vault { master_key, former_master_keys } = &self.vault;
        for (key, given) in [
            ("vault.master_key", master_key.as_slice()),
            ("vault.former_master_keys", former_master_keys.as_slice()),
        ] {
            for one in given {
                freehold_vault::MasterKey::from_base64(one.expose())
                    .map_err(|error| at(key, error.to_string()))?;
            }
        }
        Ok(())
    }

    /// A configuration in which no key is absent.
    fn with_every_key() -> Self {
        Self {
            server: Server {
                database_url: Some(String::new()),
                public_url: Some(String::new()),
                connections_per_peer: Some(NonZeroU32::MIN),
                ..Server::default()
            },
            pod: Pod { root: Some(PathBuf::new()), ..Pod::default() },
            vault: Vault { master_key: Some(Hidden::default()), former_master_keys: Vec::new() },
            openbao: OpenBaoConfig {
                address: Some(String::new()),
                namespace: Some(String::new()),
                token_file: Some(PathBuf::new()),
                role_id: Some(String::new()),
                secret_id_file: Some(PathBuf::new()),
                ca_file: Some(PathBuf::new()),
                ..OpenBaoConfig::default()
            },
            ..Self::default()
        }
    }
}

/// The process itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Where the API listens. Loopback unless told otherwise: there is no TLS on this side.
    pub listen: SocketAddr,
    /// Where everything is kept. One server per directory.
    pub data_dir: PathBuf,
    /// `postgres://...`; SQLite in the data directory when absent.
    pub database_url: Option<String>,
    /// The server's address for people and programs elsewhere, such as `https://freehold.example.com`; by default
    /// `http://` and the address it listens on.
    pub public_url: Option<String>,
    /// Further addresses that it is reached by, such as a gateway's: no pod's request goes to any.
    pub other_urls: Vec<String>,
    /// Connections to the API of one address, or of one /64 of IPv6; half of all when absent.
    pub connections_per_peer: Option<NonZeroU32>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            data_dir: PathBuf::from("data"),
            database_url: None,
            public_url: None,
            other_urls: Vec::new(),
            connections_per_peer: None,
        }
    }
}

/// Pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pod {
    /// The root file system of pods: a directory or an OCI image layout; the host's `/usr` when absent.
    pub root: Option<PathBuf>,
    /// Bytes of memory, swap included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Bytes a workspace may write.
    pub disk_bytes: u64,
    /// Bytes of `/tmp`.
    pub tmp_bytes: u64,
    /// Bytes that the agent may have written down of one task.
    pub task_journal_bytes: u64,
    /// Bytes that the agent may have written down of one session.
    pub session_journal_bytes: u64,
}

impl Default for Pod {
    fn default() -> Self {
        let limits = freehold_driver::Limits::default();
        let journal = fleet::JournalLimits::default();
        Self {
            root: None,
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            cpu_millis: limits.cpu_millis,
            disk_bytes: limits.disk_bytes,
            tmp_bytes: limits.tmp_bytes,
            task_journal_bytes: journal.task_bytes,
            session_journal_bytes: journal.session_bytes,
        }
    }
}

impl Pod {
    /// What a pod needs to come up and run a shell; with less it would fail in ways that name no setting.
    const LEAST: [(&str, u64); 7] = [
        ("pod.memory_bytes", 64 * 1024 * 1024),
        ("pod.processes", 16),
        ("pod.cpu_millis", 10),
        ("pod.disk_bytes", 16 * 1024 * 1024),
        ("pod.tmp_bytes", 1024 * 1024),
        ("pod.task_journal_bytes", 16 * 1024 * 1024),
        ("pod.session_journal_bytes", 16 * 1024 * 1024),
    ];

    /// # Errors
    /// The key of a limit that is below the least, and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let given = [
            self.memory_bytes,
            self.processes.into(),
            self.cpu_millis.into(),
            self.disk_bytes,
            self.tmp_bytes,
            self.task_journal_bytes,
            self.session_journal_bytes,
        ];
        for ((key, least), given) in Self::LEAST.into_iter().zip(given) {
            if given < least {
                return Err((key, format!("{given} is below the least, {least}")));
            }
        }
        Ok(())
    }

    /// The limits of every pod.
    pub const fn limits(&self) -> freehold_driver::Limits {
        freehold_driver::Limits {
            memory_bytes: self.memory_bytes,
            processes: self.processes,
            cpu_millis: self.cpu_millis,
            disk_bytes: self.disk_bytes,
            tmp_bytes: self.tmp_bytes,
        }
    }
}

/// The way out of pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// Upstream addresses by name, in the place of DNS. Naming an address here is also what permits a private or
    /// loopback one.
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Files of certificates (PEM) that upstreams may be signed by, beside the system's.
    pub extra_roots: Vec<PathBuf>,
    /// Whether a rule of a role that names an IP address opens it, also where it is private: not for a server whose
    /// organizations must not reach the network that it stands in. Never this machine's own, nor a cloud's metadata.
    pub rules_name_addresses: bool,
    /// The name servers that allowed names are resolved by, as address and port; the machine's own when empty.
    pub name_servers: Vec<SocketAddr>,
    /// The most seconds a request is held until a person decides.
    pub approval_timeout_seconds: NonZeroU32,
    /// Microseconds that a thread looks for the answer of a quick peer before it sleeps; 0: it sleeps at once.
    pub busy_poll_microseconds: u16,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            extra_roots: Vec::new(),
            rules_name_addresses: true,
            name_servers: Vec::new(),
            approval_timeout_seconds: const { NonZeroU32::new(600).expect("not zero") },
            busy_poll_microseconds: 200,
        }
    }
}

/// A setting that nobody is shown: what is printed of it, or saved, is that it is there.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The setting itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// The keys of secrets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vault {
    /// The master key, as `openssl rand -base64 32` writes it; `master.key` in the data directory when absent.
    pub master_key: Option<Hidden>,
    /// Master keys of before, until everything is resealed under the present one.
    pub former_master_keys: Vec<Hidden>,
}

/// An OpenBao or a HashiCorp Vault, where secrets are kept when it is configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenBaoConfig {
    /// `https://host:port`; none is used when absent.
    pub address: Option<String>,
    /// Where its KV engine, version 2, is mounted.
    pub mount: String,
    /// The folder in it for this server's secrets.
    pub prefix: String,
    /// The namespace, where it has them.
    pub namespace: Option<String>,
    /// The file of a token.
    pub token_file: Option<PathBuf>,
    /// In the place of a token: the id of an AppRole's role.
    pub role_id: Option<String>,
    /// The file of the AppRole's secret id.
    pub secret_id_file: Option<PathBuf>,
    /// Where the AppRole method is mounted.
    pub approle_mount: String,
    /// Certificates (PEM) of the authorities it may be signed by; the system's when absent.
    pub ca_file: Option<PathBuf>,
}

impl Default for OpenBaoConfig {
    fn default() -> Self {
        Self {
            address: None,
            mount: "secret".to_owned(),
            prefix: "freehold".to_owned(),
            namespace: None,
            token_file: None,
            role_id: None,
            secret_id_file: None,
            approle_mount: "approle".to_owned(),
            ca_file: None,
        }
    }
}

/// What roles and tasks get when they do not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// The most seconds a task may run.
    pub task_timeout_seconds: u32,
    /// Seconds a workspace may sit idle before it is stopped; 0 for ever.
    pub idle_timeout_seconds: u32,
    /// The most model calls in a task.
    pub max_continuations: u32,
    /// The most tokens of context before compaction.
    pub max_context_tokens: u64,
}

impl Default for Defaults {
    fn default() -> Self {
        let fleet::Settings {
            task_timeout_seconds,
            idle_timeout_seconds,
            max_continuations,
            max_context_tokens,
            journal: _,
        } = fleet::Settings::default();
        Self { task_timeout_seconds, idle_timeout_seconds, max_continuations, max_context_tokens }
    }
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What to log, as a `tracing` filter: `info`, `freehold_egress=debug,info`.
    pub filter: String,
    /// `text` for people, `json` for collectors.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// The flags that set configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML); by default the one in the user's or the system's configuration directory, if any
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Where the API listens; 127.0.0.1:7070 when nothing says otherwise, and port 0 takes a free one
    #[arg(long, value_name = "ADDR", global = true)]
    pub listen: Option<SocketAddr>,
    /// Where everything is kept; when nothing says otherwise /var/lib/freehold for root, ~/.local/share/freehold for others
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL in the place of SQLite, as postgres://...
    #[arg(long, value_name = "URL", global = true)]
    pub database_url: Option<String>,
    /// What to log, for example `info` or `freehold_egress=debug,info`
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<String>,
}

/// A configuration and where each value came from.
#[derive(Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    figment: Figment,
}

/// Reads the configuration.
///
/// # Errors
/// When a file cannot be read, a key is unknown or a value is of the wrong form: the message names its source.
pub fn load(flags: &Flags, home: &Home) -> anyhow::Result<Loaded> {
    let defaults = Config {
        server: Server { data_dir: home.data_dir.clone(), ..Server::default() },
        ..Config::default()
    };
    let mut figment = Figment::from(Serialized::defaults(defaults));
    match &flags.config {
        Some(path) => {
            anyhow::ensure!(path.is_file(), "there is no configuration file {}", path.display());
            figment = figment.merge(Toml::file_exact(path));
        }
        None => {
            for path in home.config_files.iter().filter(|path| path.is_file()) {
                figment = figment.merge(Toml::file_exact(path));
            }
        }
    }
    figment = figment
        .merge(Env::prefixed(ENVIRONMENT_PREFIX).filter(|key| key.as_str().contains("__")).split("__"))
        .merge(flag_values(flags));
    let mut config: Config = figment.extract().map_err(|errors| {
        let errors: Vec<String> = errors.into_iter().map(|error| explain(&error)).collect();
        anyhow::anyhow!("the configuration is not valid: {}", errors.join("; "))
    })?;
    config.check().map_err(|(path, wrong)| {
        let key = path.join(".");
        // The name of a price may have dots, by which the keys of a source are cut.
        let source = figment.find_metadata(if path[0] == PRICES { PRICES } else { &key });
        anyhow::anyhow!("the configuration is not valid: {}`{key}`: {wrong}", place_name(source, &path))
    })?;
    resolve_paths(&mut config, &figment);
    Ok(Loaded { config, figment })
}

/// Paths of a file are relative to the file's folder; those of the environment and of flags to the present one.
fn resolve_paths(config: &mut Config, figment: &Figment) {
    let folder = |key: &str| match figment.find_metadata(key)?.source.as_ref()? {
        figment::Source::File(file) => file.parent().map(Path::to_owned),
        _ => None,
    };
    let resolve = |key: &str, path: &mut PathBuf| {
        if let Some(folder) = folder(key) {
            *path = folder.join(&*path);
        }
    };
    resolve("server.data_dir", &mut config.server.data_dir);
    config.pod.root.iter_mut().for_each(|path| resolve("pod.root", path));
    let openbao = &mut config.openbao;
    for (key, path) in [
        ("openbao.token_file", &mut openbao.token_file),
        ("openbao.secret_id_file", &mut openbao.secret_id_file),
        ("openbao.ca_file", &mut openbao.ca_file),
    ] {
        path.iter_mut().for_each(|path| resolve(key, path));
    }
    config.egress.extra_roots.iter_mut().for_each(|path| resolve("egress.extra_roots", path));
}

/// The variable of each setting.
pub fn variables() -> Vec<String> {
    let sections = toml::Table::try_from(Config::with_every_key()).unwrap_or_default();
    let keys = sections.iter().flat_map(|(section, keys)| {
        keys.as_table().into_iter().flatten().map(move |(key, _)| (section, key))
    });
    keys.map(|(section, key)| format!("{ENVIRONMENT_PREFIX}{section}__{key}").to_ascii_uppercase()).collect()
}

/// One error, with its place and the key as a person wrote them.
fn explain(error: &figment::Error) -> String {
    let mut path = error.path.clone();
    let what = match &error.kind {
        figment::error::Kind::UnknownField(name, known) => {
            if path.last().is_none_or(|last| last != name) {
                path.push(name.clone());
            }
            match freehold_policy::nearest(name, known.iter().copied()) {
                Some(near) => format!("there is no setting `{name}` here; did you mean `{near}`?"),
                None => format!("there is no setting `{name}` here, only {}", known.join(", ")),
            }
        }
        figment::error::Kind::InvalidType(found, wanted)
        | figment::error::Kind::InvalidValue(found, wanted) => match is_hidden(&path) {
            true => format!("expected {}", wanted_in_words(wanted)),
            false => format!("found {found}, expected {}", wanted_in_words(wanted)),
        },
        kind if kind.to_string().contains("socket address") => {
            "expected an address and a port, such as `10.0.0.7:443`".to_owned()
        }
        figment::error::Kind::Message(text) => without_source(text),
        kind => kind.to_string(),
    };
    let key = if path.is_empty() { String::new() } else { format!("`{}`: ", path.join(".")) };
    format!("{}{key}{what}", place_name(error.metadata.as_ref(), &path))
}

/// Whether nobody is shown what stands at this key.
fn is_hidden(path: &[String]) -> bool {
    let key = path.join(".");
    // A key may stand in the place of its section, too.
    HIDDEN.iter().any(|hidden| key.starts_with(hidden) || hidden.starts_with(&key))
}

/// What is wrong with a file of TOML, without the line of it, in which a key may stand.
fn without_source(text: &str) -> String {
    let is_source =
        |line: &&str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    text.lines().filter(|line| !is_source(line)).collect::<Vec<_>>().join(": ")
}

/// Where a setting was read, to stand before what is wrong with it: `FILE:LINE:COLUMN: `, the variable of the environment, or
/// nothing when nobody set it.
fn place_name(source: Option<&figment::Metadata>, path: &[String]) -> String {
    let Some(metadata) = source else { return String::new() };
    if let Some(figment::Source::File(file)) = &metadata.source {
        let at = place::of(file, path).map(|(line, column)| format!(":{line}:{column}"));
        return format!("{}{}: ", file.display(), at.unwrap_or_default());
    }
    match source_name(metadata) {
        name if name == DEFAULT => String::new(),
        name if name == FLAG => format!("{name}: "),
        _ => format!("{ENVIRONMENT_PREFIX}{}: ", path.join("__").to_ascii_uppercase()),
    }
}

/// What a key takes, for people who write TOML and not Rust.
fn wanted_in_words(wanted: &str) -> &str {
    match wanted {
        "a sequence" => "a list, such as `[\"...\"]`",
        "a map" => "a table",
        "a string" | "path string" => "a text in quotes",
        "a boolean" => "`true` or `false`",
        "u16" => "a whole number up to 65535",
        "u32" => "a whole number up to 4294967295",
        "u8" | "u64" | "usize" => "a whole number",
        wanted if wanted.contains("nonzero") => "a whole number from 1",
        "f32" | "f64" => "a number",
        wanted => wanted,
    }
}

/// A key of TOML, in quotes where it needs them.
fn key_text(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(is_bare) {
        return name.to_owned();
    }
    toml::Value::String(name.to_owned()).to_string()
}

/// How a source is called.
fn source_name(metadata: &figment::Metadata) -> String {
    match &metadata.source {
        Some(figment::Source::File(path)) => path.display().to_string(),
        _ if metadata.name.contains("environment") => "environment".to_owned(),
        _ if metadata.name == FLAG => FLAG.to_owned(),
        _ => DEFAULT.to_owned(),
    }
}

/// The flags as one more source, under the name by which `config show` calls it.
fn flag_values(flags: &Flags) -> Figment {
    let mut source = Figment::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            source = std::mem::take(&mut source).merge(NamedFlag { key: key.to_owned(), value });
        }
    };
    set("server.listen", flags.listen.map(|address| address.to_string()));
    set("server.data_dir", flags.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned()));
    set("server.database_url", flags.database_url.clone());
    set("log.filter", flags.log.clone());
    source
}

struct NamedFlag {
    key: String,
    value: String,
}

impl figment::Provider for NamedFlag {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(FLAG)
    }

    fn data(&self) -> Result<figment::value::Map<Profile, figment::value::Dict>, figment::Error> {
        Serialized::default(&self.key, &self.value).data()
    }
}

/// Where a user's or the system's files lie.
#[derive(Debug, Clone)]
pub struct Home {
    /// The default data directory.
    pub data_dir: PathBuf,
    /// Configuration files that are read when there, the later over the earlier.
    pub config_files: Vec<PathBuf>,
}

impl Home {
    /// Reads the environment: `/var/lib` and `/etc` for root, the XDG directories for everybody else.
    pub fn from_environment() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the binary is where the environment is read")]
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let system = PathBuf::from("/etc/freehold/server.toml");
        if rustix::process::geteuid().is_root() {
            return Self { data_dir: PathBuf::from("/var/lib/freehold"), config_files: vec![system] };
        }
        let home = variable("HOME").unwrap_or_else(|| PathBuf::from("."));
        let data = variable("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share"));
        let config = variable("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        Self {
            data_dir: data.join("freehold"),
            config_files: vec![system, config.join("freehold/server.toml")],
        }
    }
}

impl Loaded {
    /// Every value in force and its source, a line each: `server.listen = "127.0.0.1:7070"  # default`.
    pub fn show(&self) -> anyhow::Result<String> {
        let mut lines = Vec::new();
        let config = toml::Value::try_from(&self.config)?;
        self.show_value("", &config, self.figment.find_value("").ok().as_ref(), &mut lines);
        let width = lines.iter().map(|(text, _)| text.len()).max().unwrap_or(0).min(60);
        Ok(lines.iter().map(|(text, source)| format!("{text:width$}  # {source}\n")).collect())
    }

    fn show_value(
        &self,
        key: &str,
        value: &toml::Value,
        found: Option<&figment::value::Value>,
        lines: &mut Vec<(String, String)>,
    ) {
        match value {
            toml::Value::Table(table) if !table.is_empty() || key.is_empty() => {
                for (name, inner) in table {
                    let name_shown = key_text(name);
                    let path = if key.is_empty() { name_shown } else { format!("{key}.{name_shown}") };
                    let found = found.and_then(|value| value.as_dict()?.get(name));
                    self.show_value(&path, inner, found, lines);
                }
            }
            _ => {
                let shown =
                    if key == "server.database_url" { "\"(hidden)\"".to_owned() } else { value.to_string() };
                lines.push((format!("{key} = {shown}"), self.source_of(found)));
            }
        }
    }

    fn source_of(&self, found: Option<&figment::value::Value>) -> String {
        let metadata = found.and_then(|value| self.figment.get_metadata(value.tag()));
        metadata.map_or_else(|| DEFAULT.to_owned(), source_name)
    }
}

#[cfg(test)]
mod tests;
