//! Looks through the pods of earlier drivers: living holders are found again, what dead ones left goes away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
    net::sockopt::socket_peercred,
    process::{PidfdFlags, pidfd_open},
};

use crate::{
    client::Connection,
    groups,
    launch::Launched,
    plan::{Event, Plan, Request, dir, file},
    trash,
};

/// How long a holder that is still starting may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Between two tries.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Living pods. The dead ones are removed on the way.
pub async fn pods(state_dir: &Path) -> io::Result<Vec<Launched>> {
    let mut living = Vec::new();
    for entry in fs::read_dir(state_dir.join(dir::PODS))? {
        let pod_dir = entry?.path();
        match lives(&pod_dir) {
            Ok(Some(plan)) => match tokio::time::timeout(ANSWER_WITHIN, find(&pod_dir, plan)).await {
                Ok(Ok(launched)) => {
                    tracing::info!(pod.id = %launched.plan.pod_id, "found a pod again");
                    living.push(launched);
                }
                // It ended meanwhile, or failed to start: nobody has its lock now.
                Ok(Err(_)) | Err(_) => bury(state_dir, &pod_dir)?,
            },
            Ok(None) | Err(_) => bury(state_dir, &pod_dir)?,
        }
    }
    Ok(living)
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
    let lock = fs::File::open(pod_dir.join(file::PLAN));
    if let Ok(lock) = &lock {
        // Held until the directory was moved.
        flock(lock, FlockOperation::NonBlockingLockExclusive)?;
    }
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
