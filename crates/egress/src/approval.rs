//! Holding a request until a person decides.
//!
//! A hold ends in one of five ways: a person decides, the time is over, the client goes away, its pod does, or the server
//! stops. Each is told to whoever asks people, and is in the request's row: a hold that is dropped in the midst leaves its
//! row and its word behind on a task of its own, which [`Desk::close`] waits for.
//!
//! Invariant: what is answered [`Answer::Approved`] is decided again by the policy in force before it goes on.

mod shown;

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use freehold_model::{
    ApprovalId, OrganizationId, PodId, Timestamp,
    approval::{Abandonment, Origin, Question, Reason as Why, RuleRef, Standing},
    audit::AuditEvent,
};
use freehold_policy::{self as policy, RuleName};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{Limits, audit, deny::Reason, options::ms, pod::Pod, state::lock};

pub(crate) use shown::{BODY_BYTES_MAX, Seen, shown};

/// How long a stop waits for holds to be recorded.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How often a request may be held: once for its rule, once for its budgets, and again when the policy changed meanwhile.
pub(crate) const HOLDS_PER_REQUEST_MAX: usize = 4;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A person approves, by this approval.
    Approved(ApprovalId),
    /// A person denies.
    Denied,
    /// The time was over.
    Expired,
    /// Somebody else ended the question.
    Abandoned,
    /// Nobody can be asked, or the answer cannot be had.
    Unavailable,
}

/// How a hold ends without a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The time is over.
    Expired,
    /// Nobody waits any more.
    Abandoned(Abandonment),
}

/// Where people are asked.
#[async_trait]
pub trait Approvals: Send + Sync + 'static {
    /// Asks about a held request, and waits for what is decided. The question is durable, or it is answered
    /// [`Answer::Unavailable`]. Whoever stops waiting calls [`end`](Self::end) after.
    async fn ask(&self, question: Question) -> Answer;

    /// Ends a question without a decision, unless there was one meanwhile, which is answered.
    async fn end(&self, organization: OrganizationId, id: ApprovalId, how: Ended) -> Answer;
}

/// Nobody is asked: what needs approval is denied.
pub struct NoApprovals;

#[async_trait]
impl Approvals for NoApprovals {
    async fn ask(&self, _: Question) -> Answer {
        Answer::Unavailable
    }

    async fn end(&self, _: OrganizationId, _: ApprovalId, _: Ended) -> Answer {
        Answer::Unavailable
    }
}

/// A rule as approvals name it.
pub(crate) fn rule_ref(rule: &RuleName) -> RuleRef {
    RuleRef {
        origin: match rule.origin {
            policy::Origin::BuiltIn => Origin::BuiltIn,
            policy::Origin::Provider => Origin::Provider,
            policy::Origin::Role => Origin::Role,
        },
        capability: rule.capability.to_string(),
        rule: rule.rule.to_string(),
    }
}

/// What one request may do because a person said so: never more than one rule, for one reason.
#[derive(Debug, Default)]
pub(crate) struct Lifted {
    by: Vec<(Why, RuleName, ApprovalId)>,
}

impl Lifted {
    /// The approval that covers this question, among those of this request and those that stand.
    pub(crate) fn covers(
        &self,
        standing: &[Standing],
        why: Why,
        rule: &RuleName,
        policy_digest: &str,
    ) -> Option<ApprovalId> {
        let own = self.by.iter().find(|(lifted, of, _)| *lifted == why && of == rule).map(|(.., id)| *id);
        if own.is_some() || standing.is_empty() {
            return own;
        }
        let (rule, now) = (rule_ref(rule), Timestamp::now());
        standing.iter().find(|one| one.answers(why, &rule, policy_digest, now)).map(|one| one.id)
    }

    pub(crate) fn add(&mut self, why: Why, rule: RuleName, by: ApprovalId) {
        self.by.push((why, rule, by));
    }

    /// The approval that was given last.
    pub(crate) fn last(&self) -> Option<ApprovalId> {
        self.by.last().map(|(.., id)| *id)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.by.len() >= HOLDS_PER_REQUEST_MAX
    }
}

/// The holds there are.
pub(crate) struct Desk {
    approvals: Arc<dyn Approvals>,
    places: Arc<Places>,
    patience: Duration,
    tracker: TaskTracker,
    closing: AtomicBool,
}

/// Places for holds, which are few: each keeps a connection and what was read of a body.
struct Places {
    all_max: usize,
    per_organization_max: usize,
    per_pod_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    organizations: HashMap<OrganizationId, usize>,
    pods: HashMap<PodId, usize>,
}

/// One hold's place.
pub(crate) struct Place {
    places: Arc<Places>,
    organization: OrganizationId,
    pod: PodId,
}

impl Places {
    fn take(self: &Arc<Self>, organization: OrganizationId, pod: PodId) -> Option<Place> {
        let mut held = lock(&self.held);
        let of = |count: Option<&usize>| count.copied().unwrap_or(0);
        let is_full = held.all >= self.all_max
            || of(held.organizations.get(&organization)) >= self.per_organization_max
            || of(held.pods.get(&pod)) >= self.per_pod_max;
        if is_full {
            return None;
        }
        held.all += 1;
        *held.organizations.entry(organization).or_default() += 1;
        *held.pods.entry(pod).or_default() += 1;
        drop(held);
        Some(Place { places: Arc::clone(self), organization, pod })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = lock(&self.places.held);
        held.all -= 1;
        less(&mut held.organizations, self.organization);
        less(&mut held.pods, self.pod);
    }
}

/// Counts one less, and forgets who has none.
fn less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

impl Desk {
    pub(crate) fn new(approvals: Arc<dyn Approvals>, limits: &Limits) -> Self {
        Self {
            approvals,
            places: Arc::new(Places {
                all_max: limits.approvals_max,
                per_organization_max: limits.approvals_per_organization_max,
                per_pod_max: limits.approvals_per_pod_max,
                held: Mutex::default(),
            }),
            patience: ms(limits.approval_ms),
            tracker: TaskTracker::new(),
            closing: AtomicBool::new(false),
        }
    }

    /// Says that holds which are dropped from now on are dropped because of a stop.
    pub(crate) fn begin_close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Waits until the holds that were dropped are recorded.
    pub(crate) async fn close(&self) {
        self.tracker.close();
        if tokio::time::timeout(CLOSE_MAX, self.tracker.wait()).await.is_err() {
            tracing::warn!("held requests are not recorded yet; the next start does it");
        }
    }

    /// When the time to decide is over that begins now.
    pub(crate) fn expires_at(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.patience).unwrap_or(Timestamp::MAX)
    }

    fn ended_by(&self) -> Abandonment {
        if self.closing.load(Ordering::Acquire) {
            Abandonment::ServerStopped
        } else {
            Abandonment::ClientGone
        }
    }
}

/// A place for one more hold of this pod, taken before anything is read for it.
pub(crate) fn place(pod: &Pod) -> Result<Place, Reason> {
    let place = pod.state.desk.places.take(pod.identity.organization_id, pod.identity.pod_id);
    place.ok_or(Reason::ApprovalsFull)
}

/// Holds a request until it is decided, and answers the approval it goes on by. `row` is the request's row as far as it
/// is known, written as a denial when nobody waits any more; of every other end the caller writes it.
pub(crate) async fn hold(
    pod: &Arc<Pod>,
    place: Place,
    question: Question,
    row: AuditEvent,
) -> Result<ApprovalId, Reason> {
    let desk = &pod.state.desk;
    let mut hold = Hold {
        pod: Arc::clone(pod),
        organization: question.organization_id,
        id: question.id,
        row: Some(Box::new(row)),
        _token: desk.tracker.token(),
        _place: place,
    };
    tracing::debug!(approval.id = %question.id, workspace.id = %question.workspace_id, "a request is held");
    let (organization, id) = (question.organization_id, question.id);
    let answer = match tokio::time::timeout(desk.patience, desk.approvals.ask(question)).await {
        Ok(answer) => answer,
        Err(_elapsed) => desk.approvals.end(organization, id, Ended::Expired).await,
    };
    hold.row = None;
    match answer {
        Answer::Approved(by) => Ok(by),
        Answer::Denied => Err(Reason::ApprovalDenied),
        Answer::Expired => Err(Reason::ApprovalExpired),
        Answer::Abandoned => Err(Reason::ApprovalAbandoned),
        Answer::Unavailable => Err(Reason::ApprovalUnavailable),
    }
}

/// A hold. Dropped while it waits, it says so.
struct Hold {
    pod: Arc<Pod>,
    organization: OrganizationId,
    id: ApprovalId,
    /// Taken when it is answered.
    row: Option<Box<AuditEvent>>,
    _token: TaskTrackerToken,
    _place: Place,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(mut row) = self.row.take() else { return };
        // Without a runtime there is no server any more; the next start says so.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (pod, organization, id) = (Arc::clone(&self.pod), self.organization, self.id);
        let why = pod.state.desk.ended_by();
        let ended = async move {
            audit::denied(&mut row, Reason::ApprovalAbandoned);
            noted(&mut row, id);
            audit::noted(&mut row, "abandonment", why.as_str().into());
            // In the order of a request that is answered: whoever asks people first, then the row.
            pod.state.desk.approvals.end(organization, id, Ended::Abandoned(why)).await;
            pod.record(&row).await;
        };
        self.pod.state.desk.tracker.spawn_on(ended, &runtime);
    }
}

/// Names the approval in the request's row.
pub(crate) fn noted(row: &mut AuditEvent, id: ApprovalId) {
    audit::noted(row, "approval_id", id.to_string().into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        Arc::new(Places { all_max: 5, per_organization_max: 3, per_pod_max: 2, held: Mutex::default() })
    }

    fn id<T>(make: impl Fn(uuid::Uuid) -> T) -> T {
        make(uuid::Uuid::now_v7())
    }

    #[test]
    fn places_are_counted_for_all_for_an_organization_and_for_a_pod_and_given_back() {
        let places = places();
        let organization = id(OrganizationId::from_uuid);
        let (one, other) = (id(PodId::from_uuid), id(PodId::from_uuid));
        let first = places.take(organization, one).unwrap();
        let _second = places.take(organization, one).unwrap();
        assert!(places.take(organization, one).is_none(), "of the pod");
        let _third = places.take(organization, other).unwrap();
        assert!(places.take(organization, other).is_none(), "of the organization");
        let elsewhere = || places.take(id(OrganizationId::from_uuid), id(PodId::from_uuid));
        let (_fourth, _fifth) = (elsewhere().unwrap(), elsewhere().unwrap());
        assert!(elsewhere().is_none(), "of all");
        drop(first);
        drop(places.take(organization, one).unwrap());
        assert!(elsewhere().is_some());
    }

    #[test]
    fn an_approval_lifts_one_rule_for_one_reason() {
        let rule =
            |name: &str| RuleName { origin: policy::Origin::Role, capability: "c".into(), rule: name.into() };
        let by = id(ApprovalId::from_uuid);
        let mut lifted = Lifted::default();
        lifted.add(Why::ApprovalRequired, rule("a"), by);
        assert_eq!(lifted.covers(&[], Why::ApprovalRequired, &rule("a"), "p"), Some(by));
        assert_eq!(lifted.covers(&[], Why::ApprovalRequired, &rule("b"), "p"), None);
        assert_eq!(lifted.covers(&[], Why::BudgetExceeded, &rule("a"), "p"), None);
        let until = Timestamp::now() + Duration::from_secs(3_600);
        let policy_digest = "p".to_owned();
        let stands = Standing {
            id: by,
            reason: Why::ApprovalRequired,
            rule: rule_ref(&rule("b")),
            policy_digest,
            until,
        };
        let covers = |one: &Standing, digest: &str| {
            Lifted::default().covers(std::slice::from_ref(one), Why::ApprovalRequired, &rule("b"), digest)
        };
        assert_eq!(covers(&stands, "p"), Some(by));
        assert_eq!(covers(&stands, "another policy"), None);
        assert_eq!(covers(&Standing { until: Timestamp::now(), ..stands }, "p"), None);
    }
}
