//! A driver with a directory of its own, and what tests ask of pods.

use std::{path::PathBuf, time::Duration};

use freehold_driver::{ExecSpec, Limits, PodDriver, PodSpec};
use freehold_driver_local::{LocalDriver, Options, PodRoot};
use freehold_model::{PodId, WorkspaceId};
use tokio::io::AsyncReadExt;

/// No test waits longer for anything.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

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
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { state_dir: dir.path().join("pods"), executable: stand_in(), root: PodRoot::HostUsr };
    let driver = LocalDriver::open(options.clone()).await.unwrap();
    Machine { driver, options, _dir: dir }
}

pub fn spec() -> PodSpec {
    PodSpec {
        pod_id: PodId::from_uuid(uuid::Uuid::now_v7()),
        workspace_id: WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
        generation: 1,
        limits: Limits::default(),
        trust_anchors_pem: "-----BEGIN CERTIFICATE-----\n".into(),
        environment: vec![("GREETING".into(), "hello".into())],
    }
}

/// Runs a shell command in a pod: exit code, output and errors together.
pub async fn sh(driver: &impl PodDriver, pod: PodId, command: &str) -> (Option<i32>, String) {
    let argv = ["sh", "-c", command].map(String::from).to_vec();
    let run = async {
        let mut exec = driver.exec(pod, ExecSpec { argv, cwd: None, environment: vec![] }).await.unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        let (read_out, read_err) =
            tokio::join!(exec.stdout.read_to_string(&mut out), exec.stderr.read_to_string(&mut err));
        read_out.and(read_err).unwrap();
        (exec.exit.await.unwrap().code(), out + &err)
    };
    tokio::time::timeout(WAIT_MAX, run).await.unwrap_or_else(|_| panic!("`{command}` did not end"))
}
