//! `freehold demo`: a server of its own in a throw-away directory, an agent that does a task in a real pod, and what the
//! public API tells of it.
//!
//! Invariant: whatever happens on the way, the children are stopped, the pods are deleted and the directory is removed.
//! Should this process be killed, the children notice that their stdin ends and do the same for themselves.

mod show;
mod stage;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use freehold_client::{
    ActivityScope, Client, Key,
    api::{
        credential::{self, CredentialCreate},
        provider::ProviderCreate,
        role::RoleCreate,
        task::TaskCreate,
    },
};
use freehold_model::{provider::Kind, task::Phase};
use serde::Serialize;

use crate::{
    environment::Environment,
    failure::{Failure, exit},
    follow,
    output::Console,
    progress::Detail,
    terminal,
    verbs::{Outcome, task},
};
pub use stage::remove_dir;
use stage::{Backend, Stage};

pub(crate) const EXAMPLES: &str = "Examples:
  freehold demo
  freehold demo --exit
  ANTHROPIC_API_KEY=... freehold demo --live \"Write a haiku generator in Perl and run it\"
  OPENAI_API_KEY=... freehold demo --exit --model gpt-5.4 --live \"What is in /usr/share?\"

Needs no root, Docker or configuration, and no key without --live. Everything it makes is removed at the end, unless \
--keep is given. With --live the model is the real one of the key that is set; with both keys --model chooses, or else it \
is Anthropic's. The name servers, hosts and certificates in `[egress]` of the server's configuration hold for it.";

/// What the demo plays, and where.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The task that the scripted model server knows (its own `DEMO_TASK`).
    pub task: String,
    /// The way to a real model.
    pub egress: Egress,
}

/// `[egress]` of the configuration of the demo's server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Egress {
    /// Upstream addresses by name.
    pub hosts: BTreeMap<String, SocketAddr>,
    /// Files of certificates that upstreams may be signed by; absolute paths.
    pub extra_roots: Vec<PathBuf>,
    /// Name servers.
    pub name_servers: Vec<SocketAddr>,
}

/// Watch an agent do a real task in a real sandbox.
#[derive(Debug, Clone, clap::Args)]
pub struct Demo {
    /// Give your own task to the real model; needs ANTHROPIC_API_KEY or OPENAI_API_KEY
    #[arg(long, value_name = "TASK")]
    live: Option<String>,
    /// The real model's name; claude-sonnet-4-6 or gpt-5.4 when absent
    #[arg(long, value_name = "NAME", requires = "live")]
    model: Option<String>,
    /// The server's configuration file (TOML), whose [egress] holds for the way to the real model; else the usual places
    #[arg(long, value_name = "FILE", requires = "live")]
    config: Option<PathBuf>,
    /// End when the task has ended
    #[arg(long)]
    exit: bool,
    /// Keep the directory with data, configuration and log
    #[arg(long)]
    keep: bool,
    /// No colours
    #[arg(long)]
    plain: bool,
}

impl Demo {
    /// The configuration file it names, when the model is a real one.
    pub(crate) fn live_config(&self) -> Option<Option<&Path>> {
        self.live.is_some().then_some(self.config.as_deref())
    }
}

/// A vendor whose models can be asked for.
struct Vendor {
    kind: Kind,
    domain: &'static str,
    /// The variable with its key.
    variable: &'static str,
    /// The model that is asked when none is named.
    model: &'static str,
    /// How names of its models begin.
    names: &'static [&'static str],
}

const VENDORS: [Vendor; 2] = [
    Vendor {
        kind: Kind::Anthropic,
        domain: "api.anthropic.com",
        variable: "ANTHROPIC_API_KEY",
        model: "claude-sonnet-4-6",
        names: &["claude-"],
    },
    Vendor {
        kind: Kind::OpenAi,
        domain: "api.openai.com",
        variable: "OPENAI_API_KEY",
        model: "gpt-5.4",
        names: &["gpt-", "o1", "o3", "o4", "chatgpt-", "codex-"],
    },
];

/// The vendor whose model is named, or else the first one whose key is set; and that key. `keys` are in the order of
/// [`VENDORS`].
fn vendor<'a>(
    model: Option<&str>,
    keys: [Option<&'a Key>; 2],
) -> Result<(&'static Vendor, &'a Key), Failure> {
    let mut vendors = VENDORS.iter().zip(keys);
    let model = model.unwrap_or_default();
    let is_of = |vendor: &Vendor| vendor.names.iter().any(|name| model.starts_with(name));
    match vendors.clone().find(|(vendor, _)| is_of(vendor)) {
        Some((vendor, Some(key))) => Ok((vendor, key)),
        Some((Vendor { variable, domain, .. }, None)) => {
            Err(Failure::usage(format!("the model {model} needs a key of its vendor"))
                .hint(format!("set {variable} to a key for {domain}")))
        }
        None => vendors.find_map(|(vendor, key)| Some((vendor, key?))).ok_or_else(|| {
            Failure::usage("--live needs a model's key")
                .hint("set ANTHROPIC_API_KEY or OPENAI_API_KEY; without --live the demo needs none")
        }),
    }
}

/// What is told of the model's side.
struct Plan {
    task: String,
    backend: Backend,
    kind: Kind,
    domain: String,
    model: String,
    secret: String,
    capabilities: Option<String>,
    /// The variable with a vendor's key.
    variable: Option<&'static str>,
}

const CAPABILITIES: &str = "\
- name: facts
  type: http
  allow:
    - name: fact
      domains: [facts.freehold.test]
      methods: [GET]
      paths: [/v1/**]
";

fn plan(demo: &Demo, environment: &Environment) -> Result<Plan, Failure> {
    let Some(task) = &demo.live else {
        let secret = format!("sk-demo-{}", freehold_model::Timestamp::now().as_nanosecond());
        return Ok(Plan {
            task: environment.scene.task.clone(),
            backend: Backend::Scripted { key: secret.clone() },
            kind: Kind::Anthropic,
            domain: stage::MODEL_HOST.to_owned(),
            model: "scripted".to_owned(),
            secret,
            capabilities: Some(CAPABILITIES.to_owned()),
            variable: None,
        });
    };
    let keys = [environment.anthropic_api_key.as_ref(), environment.openai_api_key.as_ref()];
    let (vendor, key) = vendor(demo.model.as_deref(), keys)?;
    Ok(Plan {
        task: task.clone(),
        backend: Backend::Real { egress: environment.scene.egress.clone() },
        kind: vendor.kind,
        domain: vendor.domain.to_owned(),
        model: demo.model.clone().unwrap_or_else(|| vendor.model.to_owned()),
        secret: key.expose().to_owned(),
        capabilities: None,
        variable: Some(vendor.variable),
    })
}

pub(crate) async fn run(demo: Demo, environment: &Environment, console: &mut Console) -> Outcome {
    if demo.plain {
        console.plain();
    }
    let plan = plan(&demo, environment)?;
    let mut stage = Stage::new()?;
    let outcome = tokio::select! {
        outcome = play(&plan, &demo, &mut stage, console) => outcome,
        code = interrupted() => Err(Failure::new(code, "interrupted")),
    };
    let outcome = match outcome {
        Ok((_, by_hand)) if !demo.exit => stay(&by_hand, &mut stage, console).await,
        Ok((code, _)) => Ok(code),
        Err(failure) => Err(failure),
    };
    // Whoever reads this may be gone; that must not keep the rest from being cleared away.
    let _ = console.data(&show::closing());
    let closed = stage.close(demo.keep).await;
    match &closed {
        Ok(Some(kept)) => {
            let _ = console.data(&show::kept(kept));
        }
        Ok(None) => {}
        Err(failure) => console.failure(failure),
    }
    let code = outcome?;
    closed.map(|_| code)
}

/// Stays for whoever wants to go on by hand, until told to end or the server is gone.
async fn stay(by_hand: &str, stage: &mut Stage, console: &mut Console) -> Outcome {
    console.data(by_hand)?;
    tokio::select! {
        code = interrupted() => Ok(code),
        failure = stage.server_ended() => Err(failure),
    }
}

/// Resolves when this process is asked to end, with the code to exit with.
async fn interrupted() -> u8 {
    let interrupted = terminal::interrupted();
    #[cfg(unix)]
    if let Ok(mut terminated) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        return tokio::select! {
            () = interrupted => exit::INTERRUPTED,
            _ = terminated.recv() => exit::TERMINATED,
        };
    }
    interrupted.await;
    exit::INTERRUPTED
}

async fn play(
    plan: &Plan,
    demo: &Demo,
    stage: &mut Stage,
    console: &mut Console,
) -> Result<(u8, String), Failure> {
    console.data(&show::title(demo.live.is_some()))?;
    let began = Instant::now();
    if let Some(address) = stage.start_model(&plan.backend).await? {
        let what = format!("https://{} at {address}, a process of its own", stage::MODEL_HOST);
        console.data(&show::ready("scripted model", &what, Some(began.elapsed())))?;
    }
    let began = Instant::now();
    let client = stage.start_server(&plan.backend, demo.keep).await?;
    console.data(&show::ready("server", client.address(), Some(began.elapsed())))?;
    set_up(plan, &client, console).await?;
    console.data(&show::task(&plan.task))?;

    let stream = client.activity_stream(ActivityScope::Organization, None).await?;
    let body = TaskCreate {
        role_name: Some(ROLE.to_owned()),
        description: plan.task.clone(),
        ..TaskCreate::default()
    };
    let submitted = client.task_create(&body, &[]).await?;
    let followed = follow::Followed { workspace: submitted.workspace_id, task: submitted.task_id };
    let mut broken = None;
    let ended = follow::task(&client, stream, followed, Detail::FULL, &mut |text| {
        // A reader that went away must not leave the task half followed and the children running.
        if let Err(failure) = console.data(text) {
            broken.get_or_insert(failure);
        }
    })
    .await?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    if let (Some(variable), Phase::Failed) = (plan.variable, ended.status) {
        console.note(&show::live_hint(variable, &plan.model));
    }
    console.data(&show::records(&client, followed).await?)?;
    let code = task::code(ended.status);
    Ok((code, show::by_hand(&client, stage.key(), followed)))
}

const CREDENTIAL: &str = "demo-key";
const PROVIDER: &str = "demo-model";
const ROLE: &str = "demo";

/// Makes credential, provider and role, as anybody would by hand.
async fn set_up(plan: &Plan, client: &Client, console: &mut Console) -> Result<(), Failure> {
    let credential = CredentialCreate {
        name: CREDENTIAL.to_owned(),
        provider: plan.kind.as_str().to_owned(),
        api_key: Some(plan.secret.clone()),
        ..CredentialCreate::of(credential::Kind::ApiKey)
    };
    client.credential_create(&credential).await?;
    let text = format!("{CREDENTIAL}, which the pod never sees: it is put in on the way out");
    console.data(&show::ready("credential", &text, None))?;

    let provider = ProviderCreate {
        name: PROVIDER.to_owned(),
        kind: plan.kind,
        domain: plan.domain.clone(),
        display_name: None,
        credential_name: Some(CREDENTIAL.to_owned()),
        default_model: Some(plan.model.clone()),
        capabilities: None,
        config: Default::default(),
    };
    let provider = client.provider_create(&provider).await?;
    let text = format!("{PROVIDER}, {} at https://{}, model {}", plan.kind, plan.domain, plan.model);
    console.data(&show::ready("provider", &text, None))?;

    let role = RoleCreate {
        name: ROLE.to_owned(),
        provider_id: provider.id,
        display_name: None,
        description: Some("What `freehold demo` shows".to_owned()),
        model: None,
        capabilities: plan.capabilities.clone(),
        environment: None,
        environment_description: None,
        task_timeout_seconds: None,
        idle_timeout_seconds: None,
        thinking_effort: None,
        max_continuations: None,
        max_context_tokens: None,
        pool_policy: None,
        pool_size: None,
        pool_max_size: None,
        pack_ids: Vec::new(),
    };
    client.role_create(&role).await?;
    let allowed = match plan.capabilities {
        Some(_) => "beside its model it may GET https://facts.freehold.test/v1/**, and nothing else",
        None => "it may call its model, and nothing else",
    };
    console.data(&show::ready("role", &format!("{ROLE}: {allowed}"), None))
}

/// Milliseconds of a step, for people.
fn took(duration: Duration) -> String {
    crate::output::seconds(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_is_set_chooses_the_vendor_and_of_two_the_model_that_is_named() {
        let (one, other) = (Key::new("sk-ant"), Key::new("sk-oai"));
        let (one, other) = (Some(&one), Some(&other));
        for (model, keys, expected) in [
            (None, [one, None], Some("ANTHROPIC_API_KEY")),
            (None, [None, other], Some("OPENAI_API_KEY")),
            (None, [one, other], Some("ANTHROPIC_API_KEY")),
            (Some("gpt-5.4"), [one, other], Some("OPENAI_API_KEY")),
            (Some("claude-opus-4-6"), [one, other], Some("ANTHROPIC_API_KEY")),
            (Some("a-model-of-tomorrow"), [None, other], Some("OPENAI_API_KEY")),
            (Some("gpt-5.4"), [one, None], None),
            (Some("claude-opus-4-6"), [None, other], None),
            (None, [None, None], None),
        ] {
            let chosen = vendor(model, keys).map(|(vendor, key)| (vendor.variable, key));
            assert_eq!(chosen.as_ref().ok().map(|(variable, _)| *variable), expected, "{model:?}");
            match chosen {
                Ok((variable, key)) => {
                    assert_eq!(Some(key), if variable.starts_with('A') { one } else { other })
                }
                Err(failure) => {
                    assert_eq!(failure.code, exit::USAGE);
                    assert!(failure.hint.is_some_and(|hint| hint.contains("_API_KEY")), "{model:?}");
                }
            }
        }
    }
}
