//! The demo as a newcomer meets it: the real program, its processes, its pod, and what is left of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shows why and ends")]

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use freehold_testkit::Folder;
use rustix::process::{Pid, Signal, kill_process};

/// The longest wait for anything. A test fails here rather than hang.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// What the demo says when the task has ended and it stays for the person who watched.
const BY_HAND: &str = "Go on by hand";

/// A demo with a temporary directory of its own, and what it said so far.
struct Demo {
    child: Child,
    temporary: Folder,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let temporary = Folder::new("freehold-demo-test-").unwrap();
        let out = fs::File::create(temporary.path().join("out")).unwrap();
        fs::create_dir(temporary.path().join("tmp")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_freehold"))
            .arg("demo")
            .args(arguments)
            .env("TMPDIR", temporary.path().join("tmp"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap();
        Self { child, temporary }
    }

    fn said(&self) -> String {
        let mut text = String::new();
        fs::File::open(self.temporary.path().join("out")).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    fn until<T>(&mut self, what: &str, mut probe: impl FnMut(&mut Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(start.elapsed() < WAIT_MAX, "waited too long until {what}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn says(&mut self, words: &str) {
        self.until(words, |demo| {
            let ended = demo.child.try_wait().unwrap();
            let said = demo.said();
            assert!(ended.is_none() || said.contains(words), "the demo ended without `{words}`:\n{said}");
            said.contains(words).then_some(())
        });
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn ends(&mut self) -> ExitStatus {
        self.until("the demo has ended", |demo| demo.child.try_wait().unwrap())
    }

    /// Neither the demo's directory nor a process that was started from it.
    fn leaves_nothing(&mut self) {
        let tmp = self.temporary.path().join("tmp");
        self.until("nothing is left", |_| {
            (fs::read_dir(&tmp).unwrap().next().is_none() && !is_named_by_a_process(&tmp)).then_some(())
        });
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A test that failed leaves a demo that runs; its children notice that it is gone.
        let _ended_already = self.child.kill();
        let _waited_already = self.child.wait();
    }
}

fn is_named_by_a_process(path: &Path) -> bool {
    let path = path.to_string_lossy();
    let lines = fs::read_dir("/proc").unwrap().flatten();
    lines
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&*path))
}

#[test]
fn the_demo_shows_a_task_with_its_requests_above_their_results_and_leaves_nothing() {
    let mut demo = Demo::start(&["--exit"]);
    let status = demo.ends();
    let said = demo.said();
    assert!(status.success(), "{said}");
    for words in [
        "not ok: found 19 primes",
        "ok: all 15 primes below 50",
        "allowed  GET facts.freehold.test/v1/fact",
        "denied   POST forbidden.freehold.test/",
        "completed  8 steps",
        "GET /v1/sessions",
    ] {
        assert!(said.contains(words), "`{words}` is missing:\n{said}");
    }
    let at = |words: &str| said.find(words).unwrap();
    assert!(at("allowed  GET facts.freehold.test") < at("HTTP 200 OK"), "{said}");
    assert!(at("denied   POST forbidden.freehold.test") < at("HTTP 403 Forbidden"), "{said}");
    assert!(!said.contains(BY_HAND), "{said}");
    demo.leaves_nothing();
}

#[test]
fn the_demo_stays_until_it_is_interrupted_and_its_server_answers_meanwhile() {
    let mut demo = Demo::start(&[]);
    demo.says(BY_HAND);
    let said = demo.said();
    let value = |name: &str| {
        said.lines().find_map(|line| line.trim().strip_prefix(&format!("export {name}="))).unwrap().to_owned()
    };
    let listed = Command::new(env!("CARGO_BIN_EXE_freehold"))
        .args(["workspace", "list"])
        .envs(["FREEHOLD_URL", "FREEHOLD_API_KEY"].map(|name| (name, value(name))))
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("idle"), "{listed:?}");
    demo.signal(Signal::INT);
    assert_eq!(demo.ends().code(), Some(130), "{}", demo.said());
    demo.leaves_nothing();
}

#[test]
fn a_demo_that_is_interrupted_while_its_agent_works_exits_with_130_and_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.says("agent began");
    demo.signal(Signal::INT);
    assert_eq!(demo.ends().code(), Some(130), "{}", demo.said());
    demo.leaves_nothing();
}

#[test]
fn a_killed_demo_leaves_nothing() {
    let mut demo = Demo::start(&[]);
    demo.says("agent began");
    demo.signal(Signal::KILL);
    assert!(!demo.ends().success());
    demo.leaves_nothing();
}
