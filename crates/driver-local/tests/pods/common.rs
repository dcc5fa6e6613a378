//! A driver with a directory of its own, and what tests ask of pods.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use freehold_driver::{Enforcement, ExecSpec, PodDriver, PodSpec, conformance};
use freehold_driver_local::{Interception, LocalDriver, Options, PodRoot};
use freehold_model::{PodId, WorkspaceId};
use tokio::io::AsyncReadExt;

/// No test waits longer for anything.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Machine {
    pub driver: LocalDriver,
    pub options: Options,
    _dir: tempfile::TempDir,
}

pub fn stand_in() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "how a test that runs itself as another user finds its parts"
    )]
    std::env::var_os("FREEHOLD_TEST_STAND_IN")
        .map_or_else(|| env!("CARGO_BIN_EXE_freehold-driver-local-stand-in").into(), PathBuf::from)
}

pub async fn machine() -> Machine {
    machine_with(PodRoot::HostUsr).await
}

pub async fn machine_with(root: PodRoot) -> Machine {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { state_dir: dir.path().join("pods"), executable: stand_in(), root };
    let driver = LocalDriver::open(options.clone()).await.unwrap();
    Machine { driver, options, _dir: dir }
}

/// A machine that knows one way to intercept connections.
pub async fn machine_that_intercepts_by(interception: Interception) -> Machine {
    let mut machine = machine().await;
    machine.driver = LocalDriver::open_with(machine.options.clone(), &[interception]).await.unwrap();
    machine
}

impl Drop for Machine {
    /// Pods outlive drivers, but not a test that failed.
    fn drop(&mut self) {
        let dir = self.options.state_dir.display().to_string();
        for (pid, command) in processes() {
            if command.contains(" holder ") && command.contains(&dir) {
                let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
        }
    }
}

impl Machine {
    /// Another driver takes the place of the present one.
    pub async fn restart(&mut self) {
        self.driver = LocalDriver::open(self.options.clone()).await.unwrap();
    }

    /// A new pod with its agent's connection.
    pub async fn pod(&self) -> (PodSpec, Agent) {
        let spec = spec();
        self.driver.ensure(&spec).await.unwrap();
        let agent = self.agent(spec.pod_id).await;
        (spec, agent)
    }

    pub async fn agent(&self, pod: PodId) -> Agent {
        let listener = self.driver.links(pod).await.unwrap().pod_api.unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let (stream, _) =
            tokio::time::timeout(WAIT_MAX, listener.accept()).await.expect("no agent connects").unwrap();
        Agent::new(stream.into_std().unwrap())
    }

    pub fn enforcement(&self, limit: &str) -> Enforcement {
        let report = self.driver.report();
        let of = report.limits.iter().find(|one| one.limit == limit).unwrap();
        if of.enforcement != Enforcement::Enforced {
            println!("NOT ENFORCED on this machine for this user: {limit}: {}", of.why);
        }
        of.enforcement
    }

    pub async fn sh(&self, pod: &PodSpec, command: &str) -> (Option<i32>, String) {
        sh(&self.driver, pod.pod_id, command).await
    }

    /// The holder's process.
    pub fn holder(&self, pod: PodId) -> rustix::process::Pid {
        let name = pod.to_string();
        processes()
            .find(|(_, command)| command.contains("holder") && command.contains(&name))
            .map(|(pid, _)| pid)
            .expect("the pod has no holder")
    }
}

/// Processes of the machine with their command lines.
pub fn processes() -> impl Iterator<Item = (rustix::process::Pid, String)> {
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid = rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    })
}

/// The parent of a holder: the launcher as long as that lives, then whoever takes orphans.
pub fn launcher(holder: rustix::process::Pid) -> rustix::process::Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.as_raw_nonzero())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    rustix::process::Pid::from_raw(fields.split_whitespace().nth(1).unwrap().parse().unwrap()).unwrap()
}

/// The stand-in agent, as the server sees it.
pub struct Agent {
    reader: BufReader<UnixStream>,
    pub hello: String,
}

impl Agent {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        let mut agent = Self { reader: BufReader::new(stream), hello: String::new() };
        agent.hello = agent.hear();
        agent
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn tell(&mut self, command: &str) {
        writeln!(self.reader.get_mut(), "{command}").unwrap();
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.hear()
    }
}

pub fn spec() -> PodSpec {
    let (pod, workspace) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let small = conformance::small_spec(PodId::from_uuid(pod), WorkspaceId::from_uuid(workspace));
    PodSpec {
        trust_anchors_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        environment: vec![("GREETING".into(), "hello".into())],
        ..small
    }
}

/// Runs a shell command in a pod: exit code, output and errors together.
pub async fn sh(driver: &dyn PodDriver, pod: PodId, command: &str) -> (Option<i32>, String) {
    let argv = ["sh", "-c", command].map(String::from).to_vec();
    let run = async {
        let mut exec = driver.exec(pod, ExecSpec { argv, cwd: None, environment: vec![] }).await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (of_out, of_err) =
            tokio::join!(exec.stdout.read_to_end(&mut out), exec.stderr.read_to_end(&mut err));
        of_out.and(of_err).unwrap();
        out.extend(err);
        (exec.exit.await.unwrap().code(), String::from_utf8_lossy(&out).into_owned())
    };
    tokio::time::timeout(WAIT_MAX, run).await.unwrap_or_else(|_| panic!("`{command}` did not end"))
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
