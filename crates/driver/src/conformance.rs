//! What every driver must do, as checks to be called with a real one. Each panics, as a test does, when the driver does
//! otherwise.
//!
//! ```ignore
//! #[tokio::test]
//! async fn the_driver_conforms() { conformance::all(&fixture).await }
//! ```

use std::time::Duration;

use async_trait::async_trait;
use freehold_model::{PodId, WorkspaceId};
use tokio::io::AsyncReadExt;

use crate::{Error, ExecSpec, PodDriver, PodSpec, PodState};

/// No check waits longer than this for one thing.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A driver under test, and what its pods cannot be made to do through it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The driver.
    fn driver(&self) -> &dyn PodDriver;
    /// A spec with fresh ids, of generation 1.
    fn spec(&self) -> PodSpec;
    /// Makes the pod end without the driver's doing.
    async fn lose(&self, pod: PodId);
}

/// Every check, one after the other.
pub async fn all(fixture: &dyn Fixture) {
    ensuring_twice_is_ensuring_once(fixture).await;
    an_older_generation_is_refused(fixture).await;
    a_workspace_has_one_pod_at_a_time(fixture).await;
    deleting_what_is_not_there_is_fine(fixture).await;
    a_lost_pod_is_seen(fixture).await;
    files_stay_from_one_pod_to_the_next(fixture).await;
    purged_files_are_gone(fixture).await;
    workspaces_with_files_are_listed_until_they_are_purged(fixture).await;
    a_command_gives_its_output_and_exit_code(fixture).await;
    a_command_that_is_not_there_cannot_be_started(fixture).await;
    links_can_be_taken_twice(fixture).await;
    what_has_no_pod_has_no_links_and_runs_nothing(fixture).await;
}

/// Waits for something.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_MAX, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {WAIT_MAX:?}"),
    }
}

async fn state(driver: &dyn PodDriver, pod: PodId) -> Option<PodState> {
    let pods = driver.observe().await.expect("observing works");
    let mut of_pod = pods.into_iter().filter(|seen| seen.pod_id == pod);
    let state = of_pod.next().map(|seen| seen.state);
    assert!(of_pod.next().is_none(), "a pod is seen once");
    state
}

async fn ensured(fixture: &dyn Fixture) -> PodSpec {
    let spec = fixture.spec();
    within("making a pod", fixture.driver().ensure(&spec)).await.expect("a pod is made");
    spec
}

async fn deleted(fixture: &dyn Fixture, pod: PodId) {
    within("deleting a pod", fixture.driver().delete(pod)).await.expect("a pod is deleted");
    assert_eq!(state(fixture.driver(), pod).await, None, "a deleted pod is not seen");
}

/// The same spec for another pod, a generation later.
fn successor(fixture: &dyn Fixture, of: &PodSpec) -> PodSpec {
    let fresh = fixture.spec();
    PodSpec { workspace_id: of.workspace_id, generation: of.generation + 1, ..fresh }
}

async fn output(driver: &dyn PodDriver, pod: PodId, command: &str) -> (Option<i32>, String, String) {
    let argv = ["sh", "-c", command].map(String::from).to_vec();
    within(command, async {
        let command = ExecSpec { argv, cwd: None, environment: vec![("WORD".into(), "a word".into())] };
        let mut exec = driver.exec(pod, command).await.expect("the command is started");
        let (mut out, mut err) = (String::new(), String::new());
        let (of_out, of_err) =
            tokio::join!(exec.stdout.read_to_string(&mut out), exec.stderr.read_to_string(&mut err));
        of_out.and(of_err).expect("output is text");
        (exec.exit.await.expect("the command ends").code(), out, err)
    })
    .await
}

/// Repeating a call changes nothing.
pub async fn ensuring_twice_is_ensuring_once(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let changes = driver.changes();
    let spec = ensured(fixture).await;
    assert!(changes.has_changed().expect("the driver lives"), "a new pod is a change");
    let before = driver.observe().await.expect("observing works");
    let (once, again) = tokio::join!(driver.ensure(&spec), driver.ensure(&spec));
    once.and(again).expect("repeating is fine");
    let after = driver.observe().await.expect("observing works");
    let of_pod = |seen: &[crate::PodObservation]| {
        let mut pods: Vec<_> = seen.iter().filter(|one| one.pod_id == spec.pod_id).cloned().collect();
        pods.iter_mut().for_each(|one| one.seen_at = freehold_model::Timestamp::UNIX_EPOCH);
        pods
    };
    assert_eq!(of_pod(&before), of_pod(&after));
    let [seen] = of_pod(&after).try_into().expect("there is one pod");
    assert_eq!((seen.workspace_id, seen.generation), (spec.workspace_id, spec.generation));
    assert_eq!(seen.state, PodState::Running);
    deleted(fixture, spec.pod_id).await;
}

/// What was decided before cannot undo what was decided later.
pub async fn an_older_generation_is_refused(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    deleted(fixture, spec.pod_id).await;
    let newer = successor(fixture, &successor(fixture, &spec));
    within("making a pod", fixture.driver().ensure(&newer)).await.expect("a newer generation is fine");
    let older = successor(fixture, &spec);
    match fixture.driver().ensure(&older).await {
        Err(Error::OldGeneration { asked, seen }) => {
            assert_eq!((asked, seen), (older.generation, newer.generation))
        }
        other => panic!("an older generation was not refused: {other:?}"),
    }
    assert_eq!(state(fixture.driver(), newer.pod_id).await, Some(PodState::Running));
    deleted(fixture, newer.pod_id).await;
    assert!(
        matches!(fixture.driver().ensure(&older).await, Err(Error::OldGeneration { .. })),
        "the newest generation is remembered without a pod"
    );
}

/// Two pods would write the same files.
pub async fn a_workspace_has_one_pod_at_a_time(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    let second = successor(fixture, &spec);
    assert!(matches!(fixture.driver().ensure(&second).await, Err(Error::InUse)));
    assert!(matches!(fixture.driver().purge(spec.workspace_id).await, Err(Error::InUse)));
    deleted(fixture, spec.pod_id).await;
}

/// A delete may be repeated.
pub async fn deleting_what_is_not_there_is_fine(fixture: &dyn Fixture) {
    let spec = fixture.spec();
    deleted(fixture, spec.pod_id).await;
    fixture.driver().purge(spec.workspace_id).await.expect("purging nothing is fine");
}

/// A pod that ended by itself is a change and is seen as ended, until it is deleted.
pub async fn a_lost_pod_is_seen(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    let mut changes = fixture.driver().changes();
    fixture.lose(spec.pod_id).await;
    within("seeing that a pod is lost", async {
        while state(fixture.driver(), spec.pod_id).await == Some(PodState::Running) {
            changes.changed().await.expect("the driver lives");
        }
    })
    .await;
    assert!(matches!(state(fixture.driver(), spec.pod_id).await, Some(PodState::Ended { .. })));
    deleted(fixture, spec.pod_id).await;
    let next = successor(fixture, &spec);
    within("making a pod", fixture.driver().ensure(&next)).await.expect("the next pod is made");
    deleted(fixture, next.pod_id).await;
}

/// The workspace's files outlive its pods.
pub async fn files_stay_from_one_pod_to_the_next(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    let (code, ..) = output(fixture.driver(), spec.pod_id, "echo kept > note").await;
    assert_eq!(code, Some(0));
    deleted(fixture, spec.pod_id).await;
    let next = successor(fixture, &spec);
    within("making a pod", fixture.driver().ensure(&next)).await.expect("the next pod is made");
    let (_, out, _) = output(fixture.driver(), next.pod_id, "cat note").await;
    assert_eq!(out, "kept\n");
    deleted(fixture, next.pod_id).await;
}

/// A purge removes the files for good.
pub async fn purged_files_are_gone(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    output(fixture.driver(), spec.pod_id, "echo kept > note").await;
    deleted(fixture, spec.pod_id).await;
    fixture.driver().purge(spec.workspace_id).await.expect("files are purged");
    let next = successor(fixture, &spec);
    within("making a pod", fixture.driver().ensure(&next)).await.expect("the next pod is made");
    let (code, ..) = output(fixture.driver(), next.pod_id, "test -e note").await;
    assert_eq!(code, Some(1), "the file is gone");
    deleted(fixture, next.pod_id).await;
}

/// So that files whose owner was forgotten can be found.
pub async fn workspaces_with_files_are_listed_until_they_are_purged(fixture: &dyn Fixture) {
    let driver = fixture.driver();
    let listed = async |workspace| {
        let all = driver.workspaces().await.expect("workspaces are listed");
        all.into_iter().filter(|one| *one == workspace).count()
    };
    let spec = fixture.spec();
    assert_eq!(listed(spec.workspace_id).await, 0, "a workspace without files is not listed");
    within("making a pod", driver.ensure(&spec)).await.expect("a pod is made");
    assert_eq!(listed(spec.workspace_id).await, 1, "a workspace with a pod has files");
    deleted(fixture, spec.pod_id).await;
    assert_eq!(listed(spec.workspace_id).await, 1, "files outlive the pod");
    driver.purge(spec.workspace_id).await.expect("files are purged");
    assert_eq!(listed(spec.workspace_id).await, 0, "purged files are not listed");
}

/// Output, errors, exit code and variables.
pub async fn a_command_gives_its_output_and_exit_code(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    let seen = output(fixture.driver(), spec.pod_id, "echo \"$WORD\"; echo oops >&2; exit 7").await;
    assert_eq!(seen, (Some(7), "a word\n".into(), "oops\n".into()));
    let (code, out, _) = output(fixture.driver(), spec.pod_id, "head -c 300000 /dev/zero | tr '\\0' x").await;
    assert_eq!((code, out.len()), (Some(0), 300_000), "long output is complete");
    deleted(fixture, spec.pod_id).await;
}

/// And the error says so.
pub async fn a_command_that_is_not_there_cannot_be_started(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    let command = ExecSpec { argv: vec!["no-such-program".into()], cwd: None, environment: vec![] };
    match fixture.driver().exec(spec.pod_id, command).await {
        Err(Error::Exec(error)) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        other => panic!("a program that is not there was started: {other:?}"),
    }
    deleted(fixture, spec.pod_id).await;
}

/// By this process and by a later one.
pub async fn links_can_be_taken_twice(fixture: &dyn Fixture) {
    let spec = ensured(fixture).await;
    for _ in 0..2 {
        let links =
            within("taking links", fixture.driver().links(spec.pod_id)).await.expect("links are given");
        assert!(links.pod_api.is_some(), "the agent's way to the control plane is among them");
    }
    deleted(fixture, spec.pod_id).await;
}

/// Not found, rather than something made up.
pub async fn what_has_no_pod_has_no_links_and_runs_nothing(fixture: &dyn Fixture) {
    let pod = fixture.spec().pod_id;
    assert!(matches!(fixture.driver().links(pod).await, Err(Error::NotFound(missing)) if missing == pod));
    let command = ExecSpec { argv: vec!["true".into()], cwd: None, environment: vec![] };
    assert!(
        matches!(fixture.driver().exec(pod, command).await, Err(Error::NotFound(missing)) if missing == pod)
    );
}

/// A spec as tests use it: small limits, no trust anchors.
pub fn small_spec(pod_id: PodId, workspace_id: WorkspaceId) -> PodSpec {
    let limits = crate::Limits { memory_bytes: 256 << 20, processes: 128, ..crate::Limits::default() };
    PodSpec {
        pod_id,
        workspace_id,
        generation: 1,
        limits,
        trust_anchors_pem: String::new(),
        environment: Vec::new(),
    }
}
