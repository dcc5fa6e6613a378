//! The launcher, from which holders are forked: what comes of it and what does not.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use freehold_driver::{PodDriver, PodState};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::common::{launcher, machine, spec, until};

/// What a process has open, by what `/proc` calls it; without what has the same name for each.
fn open_files(process: Pid) -> BTreeSet<PathBuf> {
    let common = ["/dev/null", "/proc", "anon_inode:[signalfd]"].map(PathBuf::from);
    let entries = std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap();
    // What a holder has open for a look is closed again at once.
    let open = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    open.filter(|file| !common.contains(file)).collect()
}

#[tokio::test]
async fn after_the_kill_of_the_launcher_pods_live_on_and_new_ones_are_made() {
    let machine = machine().await;
    let (before, _agent) = machine.pod().await;
    let killed = launcher(machine.holder(before.pod_id));
    kill_process(killed, Signal::KILL).unwrap();
    until("another parent of the holder", || launcher(machine.holder(before.pod_id)) != killed).await;
    let (after, _other) = machine.pod().await;
    assert_ne!(launcher(machine.holder(after.pod_id)), killed);
    for spec in [&before, &after] {
        assert_eq!(machine.sh(spec, "cat /proc/self/comm").await, (Some(0), "cat\n".into()));
    }
    let seen = machine.driver.observe().await.unwrap();
    assert!(seen.iter().all(|one| one.state == PodState::Running), "{seen:?}");
    for spec in [before, after] {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_launcher_that_was_stopped_is_replaced_and_every_pod_that_waits_is_made() {
    let machine = machine().await;
    let (before, _agent) = machine.pod().await;
    let stopped = launcher(machine.holder(before.pod_id));
    kill_process(stopped, Signal::STOP).unwrap();
    let began = Instant::now();
    let specs = [spec(), spec(), spec()];
    let [one, two, three] = &specs;
    let made =
        tokio::join!(machine.driver.ensure(one), machine.driver.ensure(two), machine.driver.ensure(three));
    made.0.and(made.1).and(made.2).unwrap();
    // Without a replacement, each of them fails after twenty seconds.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let now = specs.each_ref().map(|spec| launcher(machine.holder(spec.pod_id)));
    assert!(!now.contains(&stopped), "{now:?}");
    assert_eq!(machine.sh(&before, "cat /proc/self/comm").await, (Some(0), "cat\n".into()));
    for spec in specs.into_iter().chain([before]) {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_launcher_that_may_not_fork_says_so_and_that_passes() {
    let machine = machine().await;
    let (before, _agent) = machine.pod().await;
    let launcher = launcher(machine.holder(before.pod_id));
    let all = getrlimit(Resource::Nproc);
    let may_have =
        |current| prlimit(Some(launcher), Resource::Nproc, Rlimit { current, maximum: all.maximum }).unwrap();
    if rustix::process::geteuid().is_root() {
        // This limit is none for root.
        return machine.driver.delete(before.pod_id).await.unwrap();
    }
    may_have(Some(0));
    let next = spec();
    let refused = machine.driver.ensure(&next).await.unwrap_err();
    assert!(refused.is_passing(), "{refused:?}");
    may_have(all.current);
    machine.driver.ensure(&next).await.unwrap();
    for spec in [before, next] {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}

#[tokio::test]
async fn no_holder_has_anything_open_that_is_anothers_or_the_launchers() {
    let machine = machine().await;
    let specs = [spec(), spec(), spec()];
    // At once, so that requests wait at the launcher while others are served.
    let [one, two, three] = &specs;
    let made =
        tokio::join!(machine.driver.ensure(one), machine.driver.ensure(two), machine.driver.ensure(three));
    made.0.and(made.1).and(made.2).unwrap();
    let mut seen = open_files(launcher(machine.holder(one.pod_id)));
    for spec in &specs {
        let open = open_files(machine.holder(spec.pod_id));
        assert_eq!(open.intersection(&seen).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
        seen.extend(open);
    }
    for spec in specs {
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}
