//! Measures, beside `bwrap`: a new pod, from nothing to its first command's output; the command alone; the end of the pod.
//!
//! Usage: `start EXECUTABLE ROUNDS`, where `EXECUTABLE holder` and `EXECUTABLE agent` are what a driver needs.

use std::{io::Write, path::PathBuf, time::Instant};

use freehold_driver::{ExecSpec, PodDriver, conformance};
use freehold_driver_local::{LocalDriver, Options, PodRoot};
use freehold_model::{PodId, WorkspaceId};
use tokio::io::AsyncReadExt;

const BWRAP: &[&str] = &[
    "--unshare-all",
    "--ro-bind",
    "/usr",
    "/usr",
    "--symlink",
    "usr/bin",
    "/bin",
    "--symlink",
    "usr/lib",
    "/lib",
    "--symlink",
    "usr/lib64",
    "/lib64",
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--tmpfs",
    "/tmp",
    "--dir",
    "/workspace",
    "--chdir",
    "/workspace",
    "sh",
    "-c",
    "echo hello",
];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let executable = PathBuf::from(arguments.next().expect("EXECUTABLE"));
    let rounds: usize = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(50);
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { state_dir: dir.path().join("pods"), executable, root: PodRoot::HostUsr };
    let driver = LocalDriver::open(options).await.expect("a driver");
    let (mut ensure, mut first, mut exec, mut delete, mut bwrap) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let spec = conformance::small_spec(
            PodId::from_uuid(uuid::Uuid::now_v7()),
            WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
        );
        let start = Instant::now();
        driver.ensure(&spec).await.expect("a pod");
        ensure.push(start.elapsed());
        run(&driver, spec.pod_id).await;
        first.push(start.elapsed());
        let start = Instant::now();
        run(&driver, spec.pod_id).await;
        exec.push(start.elapsed());
        let start = Instant::now();
        driver.delete(spec.pod_id).await.expect("no pod");
        delete.push(start.elapsed());
        driver.purge(spec.workspace_id).await.expect("no files");
        let start = Instant::now();
        let output = tokio::process::Command::new("bwrap").args(BWRAP).output().await;
        assert!(output.is_ok_and(|output| output.stdout == b"hello\n"), "bwrap failed");
        bwrap.push(start.elapsed());
    }
    for (name, mut times) in [
        ("ensure", ensure),
        ("create to output", first),
        ("exec", exec),
        ("delete", delete),
        ("bwrap", bwrap),
    ] {
        times.sort();
        let (median, worst) = (times[rounds / 2], times[rounds * 99 / 100]);
        writeln!(std::io::stdout(), "{name:18} p50 {median:8.2?}  p99 {worst:8.2?}").expect("a reader");
    }
}

async fn run(driver: &LocalDriver, pod: PodId) {
    let argv = ["sh", "-c", "echo hello"].map(String::from).to_vec();
    let command = ExecSpec { argv, cwd: None, environment: vec![] };
    let mut exec = driver.exec(pod, command).await.expect("a command");
    let mut output = [0; 6];
    exec.stdout.read_exact(&mut output).await.expect("output");
    exec.exit.await.expect("an end");
}
