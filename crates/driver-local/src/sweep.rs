//! Looks through the pods of earlier drivers: living holders are found again, what dead ones left goes away.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};

use crate::{
    client::Connection,
    groups,
    launch::Launched,
    plan::{Event, Plan, Request, dir, file},
    trash,
};

/// How long a holder may take to answer, also one that is still starting.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a killed holder may take to let go of its pod.
const GONE_WITHIN: Duration = Duration::from_secs(3);
/// Between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// What an earlier driver left of a pod, dead or alive.
#[derive(Clone)]
pub struct Left {
    /// The pod's directory.
    pub dir: PathBuf,
    /// Its plan, as far as that can be read: whose files it may still write to.
    pub plan: Option<Plan>,
}

/// What a look at a pod found.
pub enum Found {
    /// It lives.
    Living(Box<Launched>),
    /// It was dead, or is now, and is removed.
    Dead(Option<Plan>),
    /// It could be neither asked nor removed; in its workspace no pod may be made before it is.
    Left(Left),
}

/// The pods there are, dead or alive.
pub fn pods(state_dir: &Path) -> io::Result<Vec<Left>> {
    let entries = fs::read_dir(state_dir.join(dir::PODS))?;
    entries
        .map(|entry| {
            let dir = entry?.path();
            Ok(Left { plan: read(&dir).ok(), dir })
        })
        .collect()
}

/// Looks at a pod. A dead one is removed on the way, and one that does not answer within [`ANSWER_WITHIN`] is killed:
/// one that cannot be asked is no use, and must not keep the others.
pub async fn look(state_dir: PathBuf, Left { dir: pod_dir, plan }: Left) -> Found {
    let mut silent = false;
    if let Ok(Some(plan)) = lives(&pod_dir) {
        match tokio::time::timeout(ANSWER_WITHIN, find(&pod_dir, plan)).await {
            Ok(Ok(launched)) => {
                tracing::info!(pod.id = %launched.plan.pod_id, "found a pod again");
                return Found::Living(Box::new(launched));
            }
            // It ended meanwhile, or failed to start: nobody has its lock now.
            Ok(Err(_)) => {}
            Err(_) => silent = true,
        }
    }
    let plan = plan.or_else(|| read(&pod_dir).ok());
    let left = Left { plan, dir: pod_dir };
    if silent {
        tracing::warn!(pod.dir = %left.dir.display(), "a pod's holder does not answer; it is killed");
    }
    let (state, dir) = (state_dir, left.dir.clone());
    let removed =
        tokio::task::spawn_blocking(move || if silent { end(&state, &dir) } else { bury(&state, &dir) });
    match removed.await.map_err(io::Error::other).flatten() {
        Ok(()) => Found::Dead(left.plan),
        Err(error) => {
            tracing::error!(pod.dir = %left.dir.display(), error = %error, "failed to remove what is left of a pod; its workspace waits for that");
            Found::Left(left)
        }
    }
}

/// Kills a holder, whether it answers or not, and removes what is left of its pod. Blocks.
pub fn end(state_dir: &Path, pod_dir: &Path) -> io::Result<()> {
    let deadline = Instant::now() + GONE_WITHIN;
    kill(pod_dir);
    loop {
        match bury(state_dir, pod_dir) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::sleep(TRY_AGAIN_AFTER);
            }
            other => return other,
        }
    }
}

/// Kills the process that has locked a pod's plan, which is its holder; all others of the pod end with it. To have the
/// plan open proves nothing: whatever this process starts has that for a moment.
fn kill(pod_dir: &Path) {
    let Ok(plan) = fs::metadata(pod_dir.join(file::PLAN)) else { return };
    let has_it = |pid: Pid| {
        let number = pid.as_raw_nonzero();
        let open = fs::read_dir(format!("/proc/{number}/fd")).into_iter().flatten().flatten();
        let mut same = open.filter(|entry| {
            fs::metadata(entry.path()).is_ok_and(|one| one.ino() == plan.ino() && one.dev() == plan.dev())
        });
        same.any(|entry| {
            let name = entry.file_name().display().to_string();
            let about = fs::read_to_string(format!("/proc/{number}/fdinfo/{name}")).unwrap_or_default();
            about.lines().any(|line| locker(line) == Some(pid))
        })
    };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        // The second look is at the process that the descriptor is of, since that still lives.
        if let Some(pid) = pid.filter(|pid| *pid != getpid() && has_it(*pid))
            && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && has_it(pid)
        {
            let _gone = pidfd_send_signal(&process, Signal::KILL);
        }
    }
}

/// Who took the lock that a line about a descriptor names: `lock: 1: FLOCK ADVISORY WRITE 359 00:13:11691 0 EOF`.
fn locker(line: &str) -> Option<Pid> {
    let mut words = line.strip_prefix("lock:")?.split_whitespace().skip(1);
    (words.next()? == "FLOCK").then_some(())?;
    Pid::from_raw(words.nth(2)?.parse().ok()?)
}

fn read(pod_dir: &Path) -> io::Result<Plan> {
    Ok(serde_json::from_slice(&fs::read(pod_dir.join(file::PLAN))?)?)
}

/// The plan, when a holder has its lock.
fn lives(pod_dir: &Path) -> io::Result<Option<Plan>> {
    let plan = fs::File::open(pod_dir.join(file::PLAN))?;
    match flock(&plan, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => read(pod_dir).map(Some),
        Err(errno) => Err(errno.into()),
        Ok(()) => Ok(None),
    }
}

async fn find(pod_dir: &Path, plan: Plan) -> io::Result<Launched> {
    let connection = loop {
        match Connection::to_holder(pod_dir) {
            Ok(connection) => break connection,
            // Still starting?
            Err(_) if lives(pod_dir)?.is_some() => tokio::time::sleep(TRY_AGAIN_AFTER).await,
            Err(error) => return Err(error),
        }
    };
    let peer = socket_peercred(connection.socket())?;
    let holder = pidfd_open(peer.pid, PidfdFlags::empty())?;
    connection.ask(&Request::Watch, &[]).await?;
    // It answers, so the number was still its own a moment ago.
    let (event, mut fds) = connection.hear::<Event>().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let init = fds.pop();
    Ok(Launched { plan, dir: pod_dir.into(), connection, holder, event, init })
}

/// Removes what is left of a pod. Whoever starts late finds its plan gone.
fn bury(state_dir: &Path, pod_dir: &Path) -> io::Result<()> {
    let _lock = match fs::File::open(pod_dir.join(file::PLAN)) {
        Ok(lock) => {
            // Held until the directory was moved.
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Some(lock)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // Whether it lives is not known.
        Err(error) => return Err(error),
    };
    let plan = read(pod_dir);
    if let Ok(plan) = &plan {
        for group in &plan.groups {
            groups::remove(&group.dir)?;
        }
        let workspace: PathBuf = state_dir.join(dir::WORKSPACES).join(plan.workspace_id.to_string());
        trash::discard(state_dir, &workspace.join(dir::FILES).join("work"))?;
    }
    tracing::info!(pod.dir = %pod_dir.display(), "removed what is left of a pod");
    trash::discard(state_dir, pod_dir)
}
