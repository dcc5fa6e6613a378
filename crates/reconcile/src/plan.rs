//! From what is desired and what is seen to what is to be done: a pure function whose answer can be printed.

use std::fmt;

use freehold_driver::{PodObservation, PodState};
use freehold_model::{
    PodId, TaskId, Timestamp,
    workspace::{self, Phase},
};

/// How long an agent may take from the start of its pod to its handshake, in milliseconds.
pub const START_TIMEOUT_MS: i64 = 30_000;

/// The wait before the second start of a pod, in milliseconds; doubled for each further one.
const START_BACKOFF_MS: i64 = 250;

/// The most doublings of [`START_BACKOFF_MS`].
const START_BACKOFF_DOUBLINGS_MAX: u32 = 6;

/// How long a machine without room for another pod is asked again, in milliseconds, before that counts as a failed start.
pub const ROOM_TIMEOUT_MS: i64 = 300_000;

/// How long an agent may take from the hand-over of a task to its beginning, in milliseconds; it covers the starts of a
/// pod that was lost meanwhile.
pub const BEGIN_TIMEOUT_MS: i64 = 300_000;

/// How much longer than its limit a task may run before its agent counts as broken, in milliseconds. The agent knows the
/// limit and ends the task by itself.
pub const TASK_GRACE_MS: i64 = 60_000;

/// What the rows say of a workspace's pod.
#[derive(Debug, Clone, Copy)]
pub struct Desired {
    /// The workspace's phase.
    pub phase: Phase,
    /// The pod that is wanted, or being taken down.
    pub pod: Option<PodId>,
    /// Starts in a row that failed.
    pub failed_starts: u32,
    /// When the phase, the pod or the count of failed starts last changed.
    pub since: Timestamp,
    /// The machine had no room for the pod.
    pub waiting: Option<Waiting>,
    /// The task that was handed over and has not ended.
    pub task: Option<Current>,
    /// Milliseconds after which the workspace is stopped when it is idle; absent for never.
    pub idle_timeout_ms: Option<i64>,
}

/// A start that waits for room on the machine, which says nothing about the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    since: Timestamp,
    last: Timestamp,
    tries: u32,
}

impl Waiting {
    /// After one more try without room. `None` when it has waited for long enough: such a try counts.
    pub fn after_try(before: Option<Self>, now: Timestamp) -> Option<Self> {
        let Self { since, tries, .. } = before.unwrap_or(Self { since: now, last: now, tries: 0 });
        (elapsed_ms(since, now) < ROOM_TIMEOUT_MS).then_some(Self { since, last: now, tries: tries + 1 })
    }

    /// Milliseconds until the next try.
    fn wait_ms(self, now: Timestamp) -> i64 {
        backoff_ms(self.tries) - elapsed_ms(self.last, now)
    }
}

/// A task that was handed over.
#[derive(Debug, Clone, Copy)]
pub struct Current {
    /// The task.
    pub id: TaskId,
    /// When it was handed over, as far as this process knows.
    pub handed_over: Timestamp,
    /// When it began, if it has.
    pub began: Option<Timestamp>,
    /// The most milliseconds it may run.
    pub timeout_ms: i64,
}

impl Current {
    /// Why the agent can be relied on no more, if it is late.
    fn late(&self, now: Timestamp) -> Option<String> {
        let since_ms = |then| elapsed_ms(then, now);
        match self.began {
            None => (since_ms(self.handed_over) >= BEGIN_TIMEOUT_MS)
                .then(|| format!("the agent did not begin within {} s", BEGIN_TIMEOUT_MS / 1000)),
            Some(began) => (since_ms(began) >= self.timeout_ms.saturating_add(TASK_GRACE_MS)).then(|| {
                format!("the agent did not end it within its limit of {} s", self.timeout_ms / 1000)
            }),
        }
    }
}

/// What is seen of it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Every pod of the workspace, the wanted one or others.
    pub pods: &'a [PodObservation],
    /// The pod whose connections are served by this process.
    pub linked: Option<PodId>,
    /// Whether its agent is connected.
    pub connected: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the pod.
    Ensure(PodId),
    /// Serve the pod's connections.
    Link(PodId),
    /// Take the pod away.
    Delete(PodId),
    /// Record that a wanted pod is gone.
    ReportLost(PodId),
    /// Record that a start did not end with a ready agent.
    ReportFailedStart(PodId, String),
    /// Record that the pod of a stopping workspace is gone.
    ReportGone,
    /// Hand the agent its next task, if one waits.
    Deliver,
    /// End the task of an agent that is late, and take its pod away.
    EndLate(PodId, TaskId, String),
    /// Stop the workspace, unless it has work by now.
    StopIdle(PodId),
    /// Look again after so many milliseconds.
    LookAgain(i64),
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan(pub Vec<Action>);

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, action) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            match action {
                Action::Ensure(pod) => write!(f, "ensure {pod}")?,
                Action::Link(pod) => write!(f, "link {pod}")?,
                Action::Delete(pod) => write!(f, "delete {pod}")?,
                Action::ReportLost(pod) => write!(f, "report {pod} lost")?,
                Action::ReportFailedStart(pod, reason) => {
                    write!(f, "report that {pod} failed to start: {reason}")?
                }
                Action::ReportGone => f.write_str("report the pod gone")?,
                Action::Deliver => f.write_str("deliver")?,
                Action::EndLate(pod, task, reason) => write!(f, "end {task} and {pod}: {reason}")?,
                Action::StopIdle(_) => f.write_str("stop: it is idle for too long")?,
                Action::LookAgain(after) => write!(f, "look again in {after} ms")?,
            }
        }
        if self.0.is_empty() { f.write_str("nothing") } else { Ok(()) }
    }
}

/// Plans for one workspace. A workspace that is gone from the rows is `stopped` here: nothing is wanted.
pub fn plan(desired: Desired, seen: Seen<'_>, now: Timestamp) -> Plan {
    let wanted = desired.pod.filter(|_| workspace::pod_wanted(desired.phase));
    let mut actions: Vec<Action> = seen
        .pods
        .iter()
        .filter(|pod| Some(pod.pod_id) != wanted)
        .map(|pod| Action::Delete(pod.pod_id))
        .collect();
    match wanted {
        Some(pod) => plan_wanted(desired, seen, pod, now, &mut actions),
        None if desired.phase == Phase::Stopping => actions.push(Action::ReportGone),
        None => {}
    }
    Plan(actions)
}

fn plan_wanted(desired: Desired, seen: Seen<'_>, pod: PodId, now: Timestamp, actions: &mut Vec<Action>) {
    if let Some(task) = desired.task
        && let Some(reason) = task.late(now)
    {
        return actions.push(Action::EndLate(pod, task.id, reason));
    }
    let since_ms = elapsed_ms(desired.since, now);
    let starting = desired.phase == Phase::Provisioning;
    match seen.pods.iter().find(|seen| seen.pod_id == pod).map(|seen| &seen.state) {
        Some(PodState::Running) => {
            if seen.linked != Some(pod) {
                actions.push(Action::Link(pod));
            }
            if seen.connected {
                actions.push(Action::Deliver);
                if desired.phase == Phase::Idle
                    && desired.idle_timeout_ms.is_some_and(|limit| since_ms >= limit)
                {
                    actions.push(Action::StopIdle(pod));
                }
            } else if starting && since_ms >= START_TIMEOUT_MS {
                actions.push(Action::ReportFailedStart(pod, "the agent did not connect in time".to_owned()));
            } else if starting {
                actions.push(Action::LookAgain(START_TIMEOUT_MS - since_ms));
            }
        }
        // A change tells what became of it.
        Some(PodState::Silent) => {}
        Some(PodState::Ended { reason }) if starting => {
            actions.push(Action::ReportFailedStart(pod, reason.clone()));
        }
        Some(PodState::Ended { .. }) => actions.push(Action::ReportLost(pod)),
        None if !starting => actions.push(Action::ReportLost(pod)),
        None => {
            let for_room = desired.waiting.map_or(0, |waiting| waiting.wait_ms(now));
            let wait = for_room.max(backoff_ms(desired.failed_starts) - since_ms);
            if wait > 0 {
                actions.push(Action::LookAgain(wait));
            } else {
                actions.extend([Action::Ensure(pod), Action::Link(pod)]);
            }
        }
    }
}

fn elapsed_ms(since: Timestamp, now: Timestamp) -> i64 {
    now.as_millisecond() - since.as_millisecond()
}

/// The wait before the next start after so many failed ones, in milliseconds.
fn backoff_ms(failed_starts: u32) -> i64 {
    match failed_starts {
        0 => 0,
        n => START_BACKOFF_MS << (n - 1).min(START_BACKOFF_DOUBLINGS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::WorkspaceId;
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn pod(number: u128) -> PodId {
        PodId::from_uuid(Uuid::from_u128(number))
    }

    fn before(age_ms: i64) -> Timestamp {
        Timestamp::from_millisecond(NOW - age_ms).unwrap()
    }

    fn seen(number: u128, state: PodState) -> PodObservation {
        PodObservation {
            pod_id: pod(number),
            workspace_id: WorkspaceId::from_uuid(Uuid::nil()),
            generation: 1,
            state,
            seen_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn check(
        phase: Phase,
        failed_starts: u32,
        age_ms: i64,
        pods: &[PodObservation],
        linked: bool,
        connected: bool,
    ) -> Vec<Action> {
        let desired = Desired {
            phase,
            pod: Some(pod(1)),
            failed_starts,
            since: before(age_ms),
            waiting: None,
            task: None,
            idle_timeout_ms: Some(60_000),
        };
        let seen = Seen { pods, linked: linked.then(|| pod(1)), connected };
        plan(desired, seen, Timestamp::from_millisecond(NOW).unwrap()).0
    }

    #[test]
    fn a_wanted_pod_that_is_not_there_is_made() {
        assert_eq!(
            check(Phase::Provisioning, 0, 0, &[], false, false),
            [Action::Ensure(pod(1)), Action::Link(pod(1))]
        );
    }

    #[test]
    fn a_failed_start_is_repeated_after_a_growing_wait() {
        assert_eq!(check(Phase::Provisioning, 1, 0, &[], false, false), [Action::LookAgain(250)]);
        assert_eq!(check(Phase::Provisioning, 3, 400, &[], false, false), [Action::LookAgain(600)]);
        assert!(check(Phase::Provisioning, 3, 1000, &[], false, false).contains(&Action::Ensure(pod(1))));
    }

    #[test]
    fn a_start_without_room_is_tried_again_after_a_growing_wait_and_counts_after_some_minutes() {
        let (mut now, mut waiting, mut waits) = (before(0), None, Vec::new());
        let end = loop {
            let Some(again) = Waiting::after_try(waiting, now) else { break now };
            waiting = Some(again);
            let desired = Desired {
                phase: Phase::Provisioning,
                pod: Some(pod(1)),
                failed_starts: 0,
                since: before(0),
                waiting,
                task: None,
                idle_timeout_ms: None,
            };
            let seen = Seen { pods: &[], linked: None, connected: false };
            let [Action::LookAgain(wait)] = plan(desired, seen, now).0[..] else { panic!("no wait") };
            waits.push(wait);
            now = Timestamp::from_millisecond(now.as_millisecond() + wait).unwrap();
            assert_eq!(plan(desired, seen, now).0, [Action::Ensure(pod(1)), Action::Link(pod(1))]);
        };
        assert_eq!(waits[..8], [250, 500, 1000, 2000, 4000, 8000, 16_000, 16_000]);
        assert!((ROOM_TIMEOUT_MS..ROOM_TIMEOUT_MS + 16_000).contains(&elapsed_ms(before(0), end)));
    }

    #[test]
    fn a_connected_agent_gets_its_next_task() {
        let pods = [seen(1, PodState::Running)];
        assert_eq!(check(Phase::Idle, 0, 0, &pods, true, true), [Action::Deliver]);
        assert_eq!(check(Phase::Idle, 0, 0, &pods, false, false), [Action::Link(pod(1))]);
    }

    #[test]
    fn an_agent_that_never_connects_is_a_failed_start() {
        let pods = [seen(1, PodState::Running)];
        assert!(matches!(
            check(Phase::Provisioning, 0, START_TIMEOUT_MS, &pods, true, false)[..],
            [Action::ReportFailedStart(..)]
        ));
    }

    #[test]
    fn a_pod_that_vanished_is_lost_and_one_that_ended_too() {
        let ended = [seen(1, PodState::Ended { reason: "killed".to_owned() })];
        assert_eq!(check(Phase::Busy, 0, 0, &[], true, false), [Action::ReportLost(pod(1))]);
        assert_eq!(check(Phase::Busy, 0, 0, &ended, true, false), [Action::ReportLost(pod(1))]);
        assert_eq!(
            check(Phase::Provisioning, 0, 0, &ended, true, false),
            [Action::ReportFailedStart(pod(1), "killed".to_owned())]
        );
    }

    #[test]
    fn a_pod_that_does_not_answer_yet_is_waited_for_in_every_phase() {
        let pods = [seen(1, PodState::Silent)];
        for phase in [Phase::Provisioning, Phase::Idle, Phase::Busy] {
            assert_eq!(check(phase, 0, START_TIMEOUT_MS, &pods, false, false), []);
        }
        assert_eq!(check(Phase::Stopped, 0, 0, &pods, false, false), [Action::Delete(pod(1))]);
    }

    #[test]
    fn a_workspace_that_is_idle_for_too_long_is_stopped_unless_a_task_waits() {
        let pods = [seen(1, PodState::Running)];
        assert_eq!(check(Phase::Idle, 0, 59_999, &pods, true, true), [Action::Deliver]);
        assert_eq!(
            check(Phase::Idle, 0, 60_000, &pods, true, true),
            [Action::Deliver, Action::StopIdle(pod(1))]
        );
        assert_eq!(check(Phase::Busy, 0, 60_000, &pods, true, true), [Action::Deliver]);
    }

    #[test]
    fn an_agent_that_neither_begins_nor_ends_its_task_in_time_loses_it() {
        let task = TaskId::from_uuid(Uuid::from_u128(7));
        let pods = [seen(1, PodState::Running)];
        let late = |handed_over_ms, began_ms: Option<i64>| {
            let current = Current {
                id: task,
                handed_over: before(handed_over_ms),
                began: began_ms.map(before),
                timeout_ms: 1000,
            };
            let desired = Desired {
                phase: Phase::Busy,
                pod: Some(pod(1)),
                failed_starts: 0,
                since: before(0),
                waiting: None,
                task: Some(current),
                idle_timeout_ms: None,
            };
            let seen = Seen { pods: &pods, linked: Some(pod(1)), connected: true };
            let plan = plan(desired, seen, before(0)).0;
            matches!(&plan[..], [Action::EndLate(_, late, _)] if *late == task)
        };
        assert!(!late(BEGIN_TIMEOUT_MS - 1, None));
        assert!(late(BEGIN_TIMEOUT_MS, None));
        assert!(!late(BEGIN_TIMEOUT_MS, Some(TASK_GRACE_MS + 999)));
        assert!(late(BEGIN_TIMEOUT_MS, Some(TASK_GRACE_MS + 1000)));
    }

    #[test]
    fn what_is_not_wanted_is_deleted_before_it_is_reported_gone() {
        let pods = [seen(1, PodState::Running)];
        assert_eq!(
            check(Phase::Stopping, 0, 0, &pods, true, true),
            [Action::Delete(pod(1)), Action::ReportGone]
        );
        assert_eq!(check(Phase::Stopped, 0, 0, &pods, false, false), [Action::Delete(pod(1))]);
        assert_eq!(
            check(Phase::Idle, 0, 0, &[seen(1, PodState::Running), seen(2, PodState::Running)], true, true)
                [0],
            Action::Delete(pod(2))
        );
    }
}
