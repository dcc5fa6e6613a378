//! How pods come, live on and go.

use async_trait::async_trait;
use freehold_driver::{ExecSpec, PodDriver, PodSpec, PodState, conformance};
use freehold_driver_local::LocalDriver;
use freehold_model::PodId;
use rustix::process::{Signal, kill_process, test_kill_process};

use crate::common::{Machine, launcher, machine, processes, spec, stand_in, until};

#[async_trait]
impl conformance::Fixture for Machine {
    fn driver(&self) -> &dyn PodDriver {
        &self.driver
    }

    fn spec(&self) -> PodSpec {
        spec()
    }

    async fn lose(&self, pod: PodId) {
        kill_process(self.holder(pod), Signal::KILL).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_driver_conforms() {
    conformance::all(&machine().await).await;
}

/// Whatever on this machine bears the name of a pod or of the driver's directory.
fn traces(machine: &Machine) -> Vec<String> {
    let dir = machine.options.state_dir.display().to_string();
    let mut found: Vec<String> = processes()
        .filter(|(_, command)| command.contains(&dir))
        .map(|(pid, command)| format!("{pid:?} {command}"))
        .collect();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&dir)).map(String::from));
    for place in ["pods", "trash", "workspaces"] {
        let entries = std::fs::read_dir(machine.options.state_dir.join(place)).unwrap();
        found.extend(entries.map(|entry| entry.unwrap().path().display().to_string()));
    }
    found
}

fn groups_of(pod: PodId) -> Vec<String> {
    let name = pod.to_string();
    let mut found = Vec::new();
    let mut next = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_str() == Some(&name) {
                    found.push(entry.path().display().to_string());
                }
                next.push(entry.path());
            }
        }
    }
    found
}

#[tokio::test]
async fn nothing_is_left_of_a_deleted_pod() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    machine.sh(&spec, "(sleep 1000 & setsid sleep 1000 &) >/dev/null 2>&1; mkdir -p dir/closed && touch dir/closed/file && chmod 0 dir/closed").await;
    machine.driver.delete(spec.pod_id).await.unwrap();
    assert_eq!(groups_of(spec.pod_id), Vec::<String>::new());
    assert!(processes().all(|(_, command)| !command.contains(&spec.pod_id.to_string())));
    machine.driver.purge(spec.workspace_id).await.unwrap();
    until("an empty directory", || traces(&machine).is_empty()).await;
}

/// Makes directories in each other, some of which nobody may write in or enter.
fn chain(dir: &std::path::Path, depth: u32) {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let open = |at: std::os::fd::BorrowedFd<'_>, name: &str| {
        openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let mut at = openat(CWD, dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for level in 0..depth {
        mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
        let next = open(std::os::fd::AsFd::as_fd(&at), "d");
        if level % 100 == 0 {
            mkdirat(&next, "beside", Mode::from_raw_mode(0)).unwrap();
            rustix::fs::symlinkat("/", &next, "link").unwrap();
            let mode = if level % 200 == 0 { 0 } else { 0o500 };
            mkdirat(&next, "d", Mode::from_raw_mode(0o700)).unwrap();
            let deeper = open(std::os::fd::AsFd::as_fd(&next), "d");
            rustix::fs::fchmod(&next, Mode::from_raw_mode(mode)).unwrap();
            at = deeper;
        } else {
            at = next;
        }
    }
}

/// Bytes of the stack of a thread here.
const STACK_BYTES: usize = 512 * 1024;
/// Deeper than such a stack has room for, at 64 bytes for each level (the standard library's removal overflows it), and
/// longer than any path.
const DEEP: u32 = 8192;

#[test]
fn a_workspace_of_any_depth_is_removed_on_a_small_stack() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let machine = machine().await;
        let workspace = spec().workspace_id;
        let dir = machine.options.state_dir.join("workspaces").join(workspace.to_string());
        std::fs::create_dir(&dir).unwrap();
        chain(&dir, DEEP);
        machine.driver.purge(workspace).await.unwrap();
        until("an empty directory", || traces(&machine).is_empty()).await;
    });
}

#[tokio::test]
async fn a_start_removes_a_tree_of_any_depth_that_an_earlier_one_left_in_the_trash() {
    let mut machine = machine().await;
    let trash = machine.options.state_dir.join("trash");
    until("an empty directory", || traces(&machine).is_empty()).await;
    for name in ["one", "two"] {
        // Made elsewhere: the first start may still be at its trash.
        let made = machine.options.state_dir.join(name);
        std::fs::create_dir(&made).unwrap();
        chain(&made, DEEP / 2);
        std::fs::rename(made, trash.join(name)).unwrap();
    }
    machine.restart().await;
    until("an empty directory", || traces(&machine).is_empty()).await;
}

#[tokio::test]
async fn a_start_after_a_crash_sweeps_what_is_left() {
    let machine = machine().await;
    let (dead, _agent) = machine.pod().await;
    let (alive, _other) = machine.pod().await;
    kill_process(machine.holder(dead.pod_id), Signal::KILL).unwrap();
    // Debris of a start that never came to an end.
    std::fs::create_dir(machine.options.state_dir.join("pods").join(spec().pod_id.to_string())).unwrap();
    let next = LocalDriver::open(machine.options.clone()).await.unwrap();
    let seen = next.observe().await.unwrap();
    let seen: Vec<_> = seen.iter().map(|one| (one.pod_id, one.generation, one.state.clone())).collect();
    assert_eq!(seen, [(alive.pod_id, alive.generation, PodState::Running)]);
    assert_eq!(groups_of(dead.pod_id), Vec::<String>::new());
    next.delete(alive.pod_id).await.unwrap();
    for spec in [dead, alive] {
        next.purge(spec.workspace_id).await.unwrap();
    }
    until("an empty directory", || traces(&machine).is_empty()).await;
}

#[tokio::test]
async fn a_pod_and_its_agents_connection_outlive_the_driver() {
    let mut machine = machine().await;
    let spec = spec();
    machine.driver.ensure(&spec).await.unwrap();
    let (code, _) = machine.sh(&spec, "sleep 1000 >/dev/null 2>&1 & echo $! > pid").await;
    assert_eq!(code, Some(0));
    // The agent connected to nobody; its connection waits for the next server.
    machine.restart().await;
    let agent = machine.agent(spec.pod_id).await;
    assert!(agent.hello.starts_with("agent 1 "), "{}", agent.hello);
    let (code, _) = machine.sh(&spec, "kill -0 $(cat pid)").await;
    assert_eq!(code, Some(0), "what ran goes on running");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_pod_outlives_the_kill_of_the_process_that_made_it() {
    let mut machine = machine().await;
    let spec = spec();
    // Another process is the driver of another directory, and is killed without a chance to put anything in order.
    machine.options.state_dir = machine.options.state_dir.with_file_name("theirs");
    let mut driver = std::process::Command::new(stand_in())
        .arg("driver")
        .arg(&machine.options.state_dir)
        .arg(serde_json::to_string(&spec).unwrap())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(driver.stdout.take().unwrap()), &mut said)
        .unwrap();
    assert_eq!(said, "made\n");
    let launcher = launcher(machine.holder(spec.pod_id));
    driver.kill().unwrap();
    driver.wait().unwrap();
    until("an end of the launcher", || test_kill_process(launcher).is_err()).await;
    machine.restart().await;
    let [seen] = machine.driver.observe().await.unwrap().try_into().unwrap();
    assert_eq!((seen.pod_id, seen.state), (spec.pod_id, PodState::Running));
    let mut agent = machine.agent(spec.pod_id).await;
    assert!(agent.ask("environment").contains("GREETING"), "the agent is reached again");
    let links = machine.driver.links(spec.pod_id).await.unwrap();
    assert_eq!(agent.ask("dial 192.0.2.1:443"), "connected");
    let accepted = links.tcp.iter().find_map(|listener| listener.accept().ok());
    assert!(accepted.is_some(), "its network is served again");
    assert_eq!(machine.sh(&spec, "cat /proc/self/comm").await, (Some(0), "cat\n".into()));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_dies_is_started_again_on_the_same_files_and_listeners() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    let links = machine.driver.links(spec.pod_id).await.unwrap();
    machine.sh(&spec, "echo kept > note; echo kept > /tmp/note").await;
    agent.tell("exit 3");
    let mut agent = machine.agent(spec.pod_id).await;
    assert!(agent.hello.starts_with("agent 1 "), "{}", agent.hello);
    let (_, out) = machine.sh(&spec, "cat note /tmp/note; ls /proc | grep -c '^[0-9]'").await;
    assert!(out.starts_with("kept\nkept\n"), "{out}");
    assert_eq!(agent.ask("dial 192.0.2.1:443"), "connected");
    let accepted = links.tcp.iter().find_map(|listener| listener.accept().ok());
    assert!(accepted.is_some(), "the listeners of before serve the new agent");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_keeps_dying_ends_the_pod() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    loop {
        agent.tell("exit 3");
        let ended = async {
            let mut changes = machine.driver.changes();
            loop {
                let seen = machine.driver.observe().await.unwrap();
                if let [one] = seen.as_slice()
                    && let PodState::Ended { reason } = &one.state
                {
                    return reason.clone();
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::select! {
            reason = ended => {
                assert!(reason.contains("exited with 3"), "{reason}");
                break;
            }
            next = machine.agent(spec.pod_id) => agent = next,
        }
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn dropping_a_command_ends_all_that_it_started() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let argv = ["sh", "-c", "setsid sh -c 'sleep 1000 & sleep 1000' & sleep 1000"].map(String::from).to_vec();
    let exec =
        machine.driver.exec(spec.pod_id, ExecSpec { argv, cwd: None, environment: vec![] }).await.unwrap();
    let count = "ps -eo args | grep -c '^sleep 1000'";
    loop {
        let (_, out) = machine.sh(&spec, count).await;
        if out.trim() == "3" {
            break;
        }
    }
    drop(exec);
    loop {
        let (_, out) = machine.sh(&spec, count).await;
        if out.trim() == "0" {
            break;
        }
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_are_made_at_once() {
    let machine = machine().await;
    let specs: Vec<_> = (0..20).map(|_| spec()).collect();
    let mut made = tokio::task::JoinSet::new();
    for spec in specs.clone() {
        let driver = machine.driver.clone();
        made.spawn(async move { driver.ensure(&spec).await.unwrap() });
    }
    made.join_all().await;
    assert_eq!(machine.driver.observe().await.unwrap().len(), specs.len());
    let mut deleted = tokio::task::JoinSet::new();
    for spec in specs {
        let driver = machine.driver.clone();
        deleted.spawn(async move { driver.delete(spec.pod_id).await.unwrap() });
    }
    deleted.join_all().await;
    assert_eq!(machine.driver.observe().await.unwrap(), []);
}

#[tokio::test]
async fn a_note_of_the_generation_that_a_crash_emptied_does_not_keep_the_workspace_down() {
    let machine = machine().await;
    let (mut spec, _agent) = machine.pod().await;
    let workspace = machine.options.state_dir.join("workspaces").join(spec.workspace_id.to_string());
    for debris in ["", "\0\0"] {
        machine.driver.delete(spec.pod_id).await.unwrap();
        std::fs::write(workspace.join("generation"), debris).unwrap();
        spec = PodSpec {
            pod_id: PodId::from_uuid(uuid::Uuid::now_v7()),
            generation: spec.generation + 1,
            ..spec
        };
        machine.driver.ensure(&spec).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(workspace.join("generation")).unwrap(),
            spec.generation.to_string()
        );
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
    let old = PodSpec { generation: spec.generation - 1, ..spec };
    let refused = machine.driver.ensure(&old).await;
    assert!(matches!(refused, Err(freehold_driver::Error::OldGeneration { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_start_that_failed_after_its_overlay_was_mounted_does_not_fail_the_next() {
    let machine = machine().await;
    let mut spec = spec();
    let workspace = machine.options.state_dir.join("workspaces").join(spec.workspace_id.to_string());
    machine.driver.ensure(&spec).await.unwrap();
    machine.driver.delete(spec.pod_id).await.unwrap();
    // What a volatile overlay leaves of a pod that was not taken away by the driver.
    for part in ["root", "usr"] {
        std::fs::create_dir_all(workspace.join("files/work").join(part).join("work/incompat/volatile"))
            .unwrap();
    }
    let again = |spec: &PodSpec| PodSpec { pod_id: PodId::from_uuid(uuid::Uuid::now_v7()), ..spec.clone() };
    spec = again(&spec);
    machine.driver.ensure(&spec).await.unwrap_err();
    spec = again(&spec);
    machine.driver.ensure(&spec).await.unwrap();
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_pod_whose_mount_points_were_taken_away_starts_again() {
    let machine = machine().await;
    let (mut spec, _agent) = machine.pod().await;
    for damage in [
        "cd /; rm -rf /workspace",
        "cd /; rm -rf /workspace; echo text > /workspace",
        "cd /; rm -rf /workspace; ln -s /proc /workspace",
        "cd /; mv /opt /elsewhere; ln -s /tmp /opt",
    ] {
        let (code, out) = machine.sh(&spec, damage).await;
        assert_eq!(code, Some(0), "{damage}: {out}");
        kill_process(machine.holder(spec.pod_id), Signal::KILL).unwrap();
        machine.driver.delete(spec.pod_id).await.unwrap();
        spec = PodSpec { pod_id: PodId::from_uuid(uuid::Uuid::now_v7()), ..spec };
        machine.driver.ensure(&spec).await.unwrap_or_else(|error| panic!("{damage}: {error:?}"));
        let check = "pwd -P; touch note && echo > /dev/null && test -c /dev/null && ls /opt/freehold";
        assert_eq!(machine.sh(&spec, check).await, (Some(0), "/workspace\nfreehold\n".into()), "{damage}");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn an_agent_is_started_again_where_its_workspace_was_taken_away() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    machine.sh(&spec, "cd /; rm -rf /workspace; ln -s /proc /workspace").await;
    agent.tell("exit 3");
    let agent = machine.agent(spec.pod_id).await;
    assert!(agent.hello.starts_with("agent 1 "), "{}", agent.hello);
    assert_eq!(machine.sh(&spec, "pwd -P; touch note").await, (Some(0), "/workspace\n".into()));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_holder_that_does_not_answer_keeps_no_start_and_is_killed_after_a_while() {
    let mut machine = machine().await;
    let (stuck, _agent) = machine.pod().await;
    let (alive, _other) = machine.pod().await;
    machine.sh(&stuck, "echo kept > note; sleep 1000 >/dev/null 2>&1 &").await;
    let holder = machine.holder(stuck.pod_id);
    kill_process(holder, Signal::STOP).unwrap();
    machine.restart().await;
    let mut seen: Vec<_> = machine.driver.observe().await.unwrap();
    seen.sort_by_key(|one| one.pod_id);
    let seen: Vec<_> = seen.into_iter().map(|one| (one.pod_id, one.state)).collect();
    assert_eq!(seen, [(stuck.pod_id, PodState::Silent), (alive.pod_id, PodState::Running)]);
    machine.driver.links(stuck.pod_id).await.unwrap_err();
    assert_eq!(machine.sh(&alive, "echo served").await, (Some(0), "served\n".into()));
    // No other pod gets the files before it is known what became of this one.
    let next = PodSpec { pod_id: PodId::from_uuid(uuid::Uuid::now_v7()), ..stuck };
    machine.driver.ensure(&next).await.unwrap();
    assert!(processes().all(|(_, command)| !command.contains(&stuck.pod_id.to_string())));
    assert_eq!(groups_of(stuck.pod_id), Vec::<String>::new());
    assert_eq!(machine.sh(&next, "cat note").await, (Some(0), "kept\n".into()));
    for spec in [next, alive] {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_holder_that_answers_late_is_found_again_with_its_pod() {
    let mut machine = machine().await;
    let (late, _agent) = machine.pod().await;
    let holder = machine.holder(late.pod_id);
    kill_process(holder, Signal::STOP).unwrap();
    machine.restart().await;
    let mut changes = machine.driver.changes();
    kill_process(holder, Signal::CONT).unwrap();
    while machine.driver.observe().await.unwrap()[0].state == PodState::Silent {
        changes.changed().await.unwrap();
    }
    assert_eq!(machine.sh(&late, "echo served").await, (Some(0), "served\n".into()));
    machine.driver.delete(late.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_pod_that_cannot_be_removed_keeps_its_own_workspace_alone() {
    let mut machine = machine().await;
    let (mut spec, _agent) = machine.pod().await;
    kill_process(machine.holder(spec.pod_id), Signal::KILL).unwrap();
    let plan = machine.options.state_dir.join("pods").join(spec.pod_id.to_string()).join("plan.json");
    let plan = std::fs::File::open(plan).unwrap();
    // What holds this lock is no process that may be killed: the driver's own.
    until("the end of the holder", || {
        rustix::fs::flock(&plan, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    })
    .await;
    // The file looks like a living holder's that does not speak.
    machine.restart().await;
    let (other, _agent) = machine.pod().await;
    spec = PodSpec { pod_id: PodId::from_uuid(uuid::Uuid::now_v7()), ..spec };
    machine.driver.ensure(&spec).await.unwrap_err();
    machine.driver.purge(spec.workspace_id).await.unwrap_err();
    drop(plan);
    machine.driver.ensure(&spec).await.unwrap();
    for spec in [spec, other] {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}
