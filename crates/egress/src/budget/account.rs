//! One count as this process knows it: the block that it leased, and what requests hold of it.
//!
//! Invariant: what is free, held or used here was leased before. When a limit is seen to be lower than one before, a new
//! epoch begins: what is free, and what is left over of requests of epochs before, is given back and not used, so that the
//! ledger decides anew.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use freehold_model::{
    audit::EXACT_MAX,
    budget::{Ask, CounterKey, Leased},
};

use crate::state::lock;

/// A block that was used up within this time is followed by one of twice its size, up to the share that the ledger grants.
const BLOCK_LASTS: Duration = Duration::from_secs(1);
/// Where one use follows another within this time, which is shorter than the one after which a block that nobody uses is given
/// back, a block is for so many like the last one at least. With longer pauses it would be leased only to be given back.
const SOON: Duration = Duration::from_secs(4);
const FEW: u64 = 4;
/// How long "there is not as much left" is believed without asking again.
const FULL_LASTS: Duration = Duration::from_millis(200);

/// How much of a counter is wanted, and under which terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Without as much there is no request.
    pub(crate) least: u64,
    /// As much is held where there is as much.
    pub(crate) most: u64,
    /// The counter's limit.
    pub(crate) limit: u64,
    /// From how much on it is said that the limit is near.
    pub(crate) warn_at: Option<u64>,
}

/// What is to be done before a claim can be met.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is met, in this epoch; `warn` when somebody is to be told that the limit is near.
    Taken { amount: u64, epoch: u64, warn: bool },
    /// There is not as much.
    Full,
    /// What was used beyond the block has to be written down first.
    Overdraw(u64),
    /// The block was leased under a higher limit.
    GiveBack(u64),
    /// The block is used up.
    Lease(Ask),
}

pub(crate) struct Account {
    pub(crate) key: CounterKey,
    state: Mutex<State>,
    /// One asks the ledger at a time; the others wait for the block.
    pub(crate) leasing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Leased, and neither held nor used.
    free: u64,
    /// Held by requests under way.
    held: u64,
    /// The ledger's sum when it was last asked, with what this account did since.
    taken: u64,
    /// The highest limit that was seen in this epoch.
    limit: u64,
    epoch: u64,
    /// Left of epochs before, or leased beyond any limit; to be given back.
    stale: u64,
    /// Used beyond what was leased, and not written down yet.
    debt: u64,
    /// The next block's size.
    want: u64,
    leased_at: Instant,
    used_at: Instant,
    /// Under which limit how much was left, and since when.
    full: Option<(u64, u64, Instant)>,
    warned: bool,
}

impl Account {
    pub(crate) fn new(key: CounterKey) -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            free: 0,
            held: 0,
            taken: 0,
            limit: 0,
            epoch: 0,
            stale: 0,
            debt: 0,
            want: 1,
            leased_at: now,
            used_at: now,
            full: None,
            warned: false,
        };
        Arc::new(Self { key, state: Mutex::new(state), leasing: tokio::sync::Mutex::default() })
    }

    /// Meets the claim from the block, or says what has to be done for it. Whoever holds [`Account::leasing`] may do it.
    pub(crate) fn step(&self, claim: &Claim) -> Step {
        let mut state = lock(&self.state);
        if state.debt > 0 {
            return Step::Overdraw(state.debt);
        }
        if claim.limit < state.limit {
            // Under the higher limit all together may have gone beyond this one.
            state.epoch += 1;
            state.limit = claim.limit;
            if state.free > 0 {
                return Step::GiveBack(state.give_back());
            }
        }
        state.limit = claim.limit;
        if state.free >= claim.most {
            return state.take(claim);
        }
        match state.known_left(claim.limit) {
            Some(left) if state.free.saturating_add(left) < claim.least => return Step::Full,
            // As much as there is.
            Some(0) => return state.take(claim),
            _ => {}
        }
        let missing = |amount: u64| amount.saturating_sub(state.free).max(1);
        let (least, most) = (missing(claim.least), missing(claim.most));
        Step::Lease(Ask { limit: claim.limit, least, most, want: state.want(most) })
    }

    /// Adds a block, or notes that there is not as much left.
    pub(crate) fn leased(&self, claim: &Claim, leased: Leased) {
        let mut state = lock(&self.state);
        // The limit may have been lowered meanwhile.
        *(if claim.limit > state.limit { &mut state.stale } else { &mut state.free }) += leased.granted;
        state.taken = leased.taken;
        state.warned |= leased.warned;
        state.leased_at = Instant::now();
        let left = claim.limit.saturating_sub(leased.taken);
        // Less than was wanted is all that there is for now.
        let is_short = state.free < claim.most;
        state.full = is_short.then(|| (claim.limit, left, Instant::now()));
    }

    /// Takes the free part of the block away, to be given back: all of it, or 0 when it is not idle for `idle`.
    pub(crate) fn take_free(&self, idle: Duration) -> u64 {
        let mut state = lock(&self.state);
        if state.used_at.elapsed() < idle {
            return 0;
        }
        state.give_back()
    }

    /// Takes away what is left of requests under a limit that is not in force any more, to be given back.
    pub(crate) fn take_stale(&self) -> u64 {
        let mut state = lock(&self.state);
        let stale = std::mem::take(&mut state.stale);
        state.taken = state.taken.saturating_sub(stale);
        stale
    }

    /// Takes the debt away, to be written down.
    pub(crate) fn take_debt(&self) -> u64 {
        let mut state = lock(&self.state);
        let debt = std::mem::take(&mut state.debt);
        state.taken = state.taken.saturating_add(debt);
        debt
    }

    /// Takes up a debt that could not be written down.
    pub(crate) fn put_debt(&self, debt: u64) {
        let mut state = lock(&self.state);
        state.debt = state.debt.saturating_add(debt);
        state.taken = state.taken.saturating_sub(debt);
    }

    /// Notes the ledger's sum after something was written down there.
    pub(crate) fn overdrawn(&self, taken: u64) {
        lock(&self.state).taken = taken;
    }

    /// Holds something that the ledger was told of apart from any block.
    pub(crate) fn hold_extra(&self, amount: u64, taken: u64) {
        let mut state = lock(&self.state);
        state.taken = taken;
        state.held += amount;
        state.used_at = Instant::now();
    }

    /// Ends a hold of `held`, of this epoch, of which `used` were used. True when there is something to tell the ledger:
    /// more was used than there was, or what was not is of an epoch before.
    pub(crate) fn settle(&self, held: u64, used: u64, epoch: u64) -> bool {
        let mut state = lock(&self.state);
        state.held = state.held.saturating_sub(held);
        if used <= held {
            let is_stale = epoch != state.epoch;
            *(if is_stale { &mut state.stale } else { &mut state.free }) += held - used;
            return is_stale;
        }
        let beyond = used - held;
        let from_free = beyond.min(state.free);
        state.free -= from_free;
        state.debt = state.debt.saturating_add(beyond - from_free);
        state.debt > 0
    }

    /// Whether somebody is to be told that the limit is near, which is answered once.
    pub(crate) fn should_warn(&self, warn_at: u64) -> bool {
        lock(&self.state).should_warn(Some(warn_at))
    }

    /// What is used, by all as far as is known here, up to the greatest number of a row.
    pub(crate) fn used(&self) -> u64 {
        lock(&self.state).used().min(EXACT_MAX)
    }

    /// How it stands, for an audit row; limits of policies are smaller than the greatest number there.
    pub(crate) fn snapshot(&self, limit: u64) -> serde_json::Value {
        serde_json::json!({ "unit": self.key.unit, "used": self.used(), "limit": limit })
    }

    /// What is leased here, and neither held nor used.
    pub(crate) fn unused(&self) -> u64 {
        let state = lock(&self.state);
        state.free + state.stale
    }

    /// Whether nothing of it would be lost if it were forgotten: nobody used it for `idle`.
    pub(crate) fn is_idle(&self, idle: Duration) -> bool {
        let state = lock(&self.state);
        state.free + state.held + state.stale + state.debt == 0 && state.used_at.elapsed() >= idle
    }

    pub(crate) fn is_held(&self) -> bool {
        lock(&self.state).held > 0
    }
}

impl State {
    fn give_back(&mut self) -> u64 {
        let free = std::mem::take(&mut self.free);
        self.taken = self.taken.saturating_sub(free);
        self.want = 1;
        free
    }

    const fn used(&self) -> u64 {
        self.taken.saturating_sub(self.free + self.stale).saturating_add(self.debt)
    }

    /// How much is left beside what is free, where the ledger said so a moment ago, under the same limit.
    fn known_left(&self, under: u64) -> Option<u64> {
        let (limit, left, since) = self.full?;
        (limit == under && since.elapsed() < FULL_LASTS).then_some(left)
    }

    fn take(&mut self, claim: &Claim) -> Step {
        let amount = claim.most.min(self.free);
        self.free -= amount;
        self.held += amount;
        self.used_at = Instant::now();
        Step::Taken { amount, epoch: self.epoch, warn: self.should_warn(claim.warn_at) }
    }

    fn should_warn(&mut self, warn_at: Option<u64>) -> bool {
        let is_near = warn_at.is_some_and(|warn_at| self.used() >= warn_at);
        is_near && !std::mem::replace(&mut self.warned, true)
    }

    /// How much to ask for, which is never less than `amount`.
    fn want(&mut self, amount: u64) -> u64 {
        self.want =
            if self.leased_at.elapsed() < BLOCK_LASTS { self.want.saturating_mul(2) } else { self.want / 2 };
        // Of the first use nobody knows whether there is another.
        let is_soon = self.taken > 0 && self.used_at.elapsed() < SOON;
        let least = if is_soon { amount.saturating_mul(FEW).min(u64::MAX / 4) } else { amount };
        self.want = self.want.clamp(least.max(1), u64::MAX / 4);
        self.want
    }
}

#[cfg(test)]
mod tests {
    use freehold_model::{OrganizationId, budget::Subject};
    use uuid::Uuid;

    use super::*;

    /// An account whose requests come so long after each other; how often it asks the ledger for 12 of them, and how much is
    /// left unused in the end.
    fn leases(pause: Duration, limit: u64) -> (usize, u64) {
        let id = OrganizationId::from_uuid(Uuid::from_u128(1));
        let key = CounterKey {
            organization_id: id,
            origin: "role",
            capability: "api".into(),
            counter: "calls".into(),
            unit: "requests",
            subject: Subject::Organization(id),
            workspace_id: None,
            window_seconds: 0,
            window_start: 0,
        };
        let (account, claim) = (Account::new(key), Claim { least: 1, most: 1, limit, warn_at: None });
        let (mut asked, mut taken) = (0, 0);
        for _ in 0..12 {
            let Some(before) = Instant::now().checked_sub(pause) else {
                panic!("the machine has just begun")
            };
            (lock(&account.state).used_at, lock(&account.state).leased_at) = (before, before);
            taken -= account.take_free(Duration::from_secs(5));
            if let Step::Lease(ask) = account.step(&claim) {
                let granted = ask.grant(taken);
                (asked, taken) = (asked + 1, taken + granted);
                account.leased(&claim, Leased { granted, taken, warned: false });
                assert!(matches!(account.step(&claim), Step::Taken { amount: 1, .. }));
            }
            account.settle(1, 1, 0);
            assert!(taken <= limit);
        }
        (asked, account.unused())
    }

    #[test]
    fn requests_that_come_some_seconds_apart_share_a_block_where_there_is_plenty_left() {
        assert_eq!(leases(Duration::from_secs(2), 1_000), (4, 1));
        // Each has what it needs and no more.
        assert_eq!(leases(Duration::from_secs(6), 1_000), (12, 0));
        assert_eq!(leases(Duration::from_secs(2), 20), (12, 0));
    }
}
