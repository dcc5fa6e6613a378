//! The demo with a real model, as near to it as can be without a key: the vendor's own name, resolved by a name server, leads
//! to a scripted model behind TLS that takes nothing but the documented request with the right key. Each test has a
//! network of its own, in which the vendor's public address is a neighbour's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shows why and ends")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use freehold_sim_model::{Handle, Scenario};
use freehold_testkit::{Folder, neighbour::Neighbour, tls::Authority};
use tokio::net::{TcpListener, UdpSocket};

/// A public address, which is nobody's in a test's own network.
const VENDOR: Ipv4Addr = Ipv4Addr::new(160, 79, 104, 10);
/// Set in a test's own network.
const INSIDE: &str = "DEMO_TEST_NETWORK";
/// The longest a demo may take.
const WAIT_MAX: Duration = Duration::from_secs(120);

const ANTHROPIC: &str = "api.anthropic.com";
const OPENAI: &str = "api.openai.com";
const KEY: &str = "sk-made-up-7f3c91d2";

#[expect(clippy::disallowed_methods, reason = "how a test tells itself where it runs")]
fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs a test again in a network of its own: once more this program, for this test alone. Where no such network can be
/// made (no `ip`), the test runs in this one, and the configuration's hosts take the place of the name server.
fn in_a_network_of_its_own(test: &str, body: impl AsyncFnOnce()) {
    if !is_inside() {
        let set_up = "ip link set lo up && ip link add near type veth peer name far && ip link delete near";
        let mut unshare = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            unshare.args(["--map-current-user", "--keep-caps"]);
        }
        unshare.args(["--net", "sh", "-c"]);
        let mut can = Command::new(unshare.get_program());
        let can = can.args(unshare.get_args()).arg(set_up).stderr(Stdio::null()).status();
        if can.is_ok_and(|can| can.success()) {
            let ran = unshare
                .arg(format!("{set_up} && exec \"$0\" \"$@\""))
                .arg(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(INSIDE, "1")
                .output()
                .unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            assert!(ran.status.success(), "{}\n{}", text(&ran.stdout), text(&ran.stderr));
            assert!(text(&ran.stdout).contains("1 passed"), "{}", text(&ran.stdout));
            return;
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(WAIT_MAX, body()).await.expect("the demo does not end") });
}

/// A vendor, and the configuration that leads to it.
struct World {
    dir: Folder,
    vendor: Handle,
    /// Names that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    name_servers: Vec<SocketAddr>,
    _neighbour: Option<Neighbour>,
}

impl World {
    async fn new(domain: &str, scenario: &str) -> Self {
        let dir = Folder::new("freehold-live-test-").unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let authority = Authority::new().unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        let is_inside = is_inside();
        let neighbour = is_inside.then(|| Neighbour::start(&[VENDOR]).unwrap());
        let listener = match &neighbour {
            Some(there) => {
                TcpListener::from_std(there.listen(SocketAddr::from((VENDOR, 443))).unwrap()).unwrap()
            }
            None => TcpListener::bind("127.0.0.1:0").await.unwrap(),
        };
        let scenario = format!("strict: true\nrequire_key: {KEY}\n{scenario}");
        let scenario = Scenario::parse(&scenario).unwrap_or_else(|error| panic!("{error}"));
        let vendor =
            freehold_sim_model::serve(listener, scenario, Some(authority.server(&[domain]).unwrap()))
                .unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let mut config = "[egress]\nextra_roots = [\"ca.pem\"]\n".to_owned();
        let mut name_servers = Vec::new();
        if is_inside {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            name_servers.push(socket.local_addr().unwrap());
            config.push_str(&format!("name_servers = [\"{}\"]\n", name_servers[0]));
            tokio::spawn(serve_names(socket, domain.to_owned(), Arc::clone(&asked)));
        } else {
            config.push_str(&format!("hosts = {{ \"{domain}\" = \"{}\" }}\n", vendor.address()));
        }
        fs::write(dir.path().join("server.toml"), config).unwrap();
        Self { dir, vendor, asked, name_servers, _neighbour: neighbour }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `freehold demo --exit --live "..."` with these variables, to its end, and what both its streams said.
    async fn demo(&self, arguments: &[&str], variables: &[(&str, &str)]) -> (Output, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
        command
            .args(["demo", "--exit", "--live", "say hello"])
            .args(arguments)
            .env("TMPDIR", self.path("tmp"))
            .env("HOME", self.dir.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("ANTHROPIC_API_KEY")
            .env_remove("OPENAI_API_KEY")
            .env_remove("RUST_LOG")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.unwrap();
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        assert!(!said.contains(KEY), "the key is shown:\n{said}");
        let left: Vec<_> = fs::read_dir(self.path("tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        (output, said)
    }

    /// The same, by the configuration file.
    async fn configured(&self, variables: &[(&str, &str)]) -> (Output, String) {
        let config = self.path("server.toml");
        self.demo(&["--config", config.to_str().unwrap()], variables).await
    }

    /// The vendor's name was resolved by the name server, where there is one.
    fn was_asked_for(&self, domain: &str) {
        let asked = self.asked.lock().unwrap();
        assert!(self.name_servers.is_empty() || asked.iter().any(|name| name == domain), "{asked:?}");
    }
}

/// Answers questions for `domain` with [`VENDOR`], and others with "no such name".
async fn serve_names(socket: UdpSocket, domain: String, asked: Arc<Mutex<Vec<String>>>) {
    const HEAD: usize = 12;
    const TYPE_A: [u8; 2] = [0, 1];
    let mut packet = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut packet).await {
        let question = &packet[HEAD..length];
        let (mut at, mut labels) = (0, Vec::new());
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
            at = end;
        }
        let (name, kind) = (labels.join("."), &question[at + 1..at + 3]);
        let (is_known, is_answered) = (name == domain, name == domain && kind == TYPE_A);
        let mut reply = packet[..2].to_vec();
        reply.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(is_answered), 0, 0, 0, 0]);
        reply.extend(&question[..at + 5]);
        if is_answered {
            // The name of the question, A, IN, a minute, four bytes.
            reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            reply.extend(VENDOR.octets());
        }
        asked.lock().unwrap().push(name);
        let _sent = socket.send_to(&reply, from).await;
    }
}

/// Says hello with a tool, if it is asked as this model.
fn hello(model: &str, first: &str) -> String {
    format!(
        "rules:
  - when: {{model: {model}, user: say hello}}
    answers:
      - steps: [{first}{{text: I say it in the shell.}}, {{tool: {{name: bash, arguments: {{command: echo hello there}}}}}}]
      - steps: [{{text: 'The shell said: {{{{result}}}}'}}]
default: {{http: {{status: 404}}}}
"
    )
}

fn shows(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "`{words}` is missing:\n{said}");
    }
}

#[test]
fn a_live_demo_asks_anthropic_as_its_api_is_documented() {
    in_a_network_of_its_own("a_live_demo_asks_anthropic_as_its_api_is_documented", async || {
        let world = World::new(ANTHROPIC, &hello("claude-sonnet-4-6", "")).await;
        let (output, said) = world.configured(&[("ANTHROPIC_API_KEY", KEY)]).await;
        assert!(output.status.success(), "{said}");
        shows(
            &said,
            &[
                "demo-model, anthropic at https://api.anthropic.com, model claude-sonnet-4-6",
                "allowed  POST api.anthropic.com/v1/messages",
                "injected demo-key",
                "The shell said: hello there",
                "completed  2 steps",
            ],
        );
        assert_eq!(world.vendor.requests(), 2, "{said}");
        world.was_asked_for(ANTHROPIC);
    });
}

#[test]
fn a_live_demo_asks_openai_as_its_api_is_documented() {
    in_a_network_of_its_own("a_live_demo_asks_openai_as_its_api_is_documented", async || {
        let reasoning = "{reasoning: The shell can say it.}, ";
        let world = World::new(OPENAI, &hello("gpt-5.4", reasoning)).await;
        let (output, said) = world.configured(&[("OPENAI_API_KEY", KEY)]).await;
        assert!(output.status.success(), "{said}");
        shows(
            &said,
            &[
                "demo-model, openai at https://api.openai.com, model gpt-5.4",
                "allowed  POST api.openai.com/v1/responses",
                "injected demo-key",
                "The shell said: hello there",
                "completed  2 steps",
            ],
        );
        assert_eq!(world.vendor.requests(), 2, "{said}");
        world.was_asked_for(OPENAI);
    });
}

#[test]
fn of_two_keys_the_model_that_is_named_chooses_and_variables_configure_the_way_to_it() {
    const TEST: &str = "of_two_keys_the_model_that_is_named_chooses_and_variables_configure_the_way_to_it";
    in_a_network_of_its_own(TEST, async || {
        let world = World::new(OPENAI, &hello("gpt-9", "")).await;
        let list = |texts: &[String]| format!("{texts:?}");
        let file = |path: &Path| list(&[path.to_str().unwrap().to_owned()]);
        let servers: Vec<String> = world.name_servers.iter().map(ToString::to_string).collect();
        let host = format!("{{\"{OPENAI}\" = \"{}\"}}", world.vendor.address());
        let way = match servers.is_empty() {
            true => ("FREEHOLD_EGRESS__HOSTS", host),
            false => ("FREEHOLD_EGRESS__NAME_SERVERS", list(&servers)),
        };
        let (output, said) = world
            .demo(
                &["--model", "gpt-9"],
                &[
                    ("ANTHROPIC_API_KEY", "sk-not-this-one"),
                    ("OPENAI_API_KEY", KEY),
                    ("FREEHOLD_EGRESS__EXTRA_ROOTS", &file(&world.path("ca.pem"))),
                    (way.0, &way.1),
                ],
            )
            .await;
        assert!(output.status.success(), "{said}");
        shows(&said, &["demo-model, openai at https://api.openai.com, model gpt-9", "completed  2 steps"]);
    });
}

/// A wrong key ends the demo with what the vendor says, which variable it was, and the code of a failed task.
async fn a_wrong_key(domain: &str, variable: &str, says: &str) {
    let world = World::new(domain, "").await;
    let (output, said) = world.configured(&[(variable, "sk-wrong")]).await;
    assert_eq!(output.status.code(), Some(10), "{said}");
    shows(&said, &["failed", says, variable]);
    assert_eq!(world.vendor.requests(), 1, "{said}");
}

#[test]
fn a_key_that_anthropic_does_not_know_is_said_to_be_that() {
    in_a_network_of_its_own("a_key_that_anthropic_does_not_know_is_said_to_be_that", async || {
        a_wrong_key(ANTHROPIC, "ANTHROPIC_API_KEY", "invalid x-api-key").await;
    });
}

#[test]
fn a_key_that_openai_does_not_know_is_said_to_be_that() {
    in_a_network_of_its_own("a_key_that_openai_does_not_know_is_said_to_be_that", async || {
        a_wrong_key(OPENAI, "OPENAI_API_KEY", "Incorrect API key provided").await;
    });
}

#[test]
fn a_vendor_that_limits_is_asked_again_when_it_says() {
    in_a_network_of_its_own("a_vendor_that_limits_is_asked_again_when_it_says", async || {
        let limit = "  - when: {tries: 1, user: say hello}
    answers: [{http: {status: 429, headers: {retry-after: '1'}}}]
";
        let scenario = hello("claude-sonnet-4-6", "").replacen("rules:\n", &format!("rules:\n{limit}"), 1);
        let world = World::new(ANTHROPIC, &scenario).await;
        let (output, said) = world.configured(&[("ANTHROPIC_API_KEY", KEY)]).await;
        assert!(output.status.success(), "{said}");
        shows(&said, &["the model did not answer", "attempt 1, the next one in 1.", "completed  2 steps"]);
    });
}
