//! What one request holds of its counters, until it is known what it used.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use freehold_model::{Timestamp, budget::Whose};
use freehold_policy::Unit;
use http::HeaderMap;
use serde_json::Value;

use super::{
    AtLimit, Budgets, Refused, Warning,
    account::{Account, Claim},
    charge::Charges,
    engine::{Claimed, Short},
    meter::{Meter, Side},
    price::Price,
    usage::{BYTES_PER_TOKEN, Tap, Tokens, Usage},
};
use crate::state::lock;

/// A part of a count that a request holds. Dropped, it settles what was used, and gives the rest back.
pub(super) struct Hold {
    budgets: Budgets,
    account: Arc<Account>,
    whose: Whose,
    pub(super) unit: Unit,
    claim: Claim,
    /// Of which epoch of its count it is.
    epoch: u64,
    held: u64,
    pub(super) used: u64,
}

impl Hold {
    pub(super) fn new(budgets: &Budgets, claimed: Claimed, unit: Unit, claim: Claim, whose: &Whose) -> Self {
        let Claimed { account, amount, epoch, warn } = claimed;
        let budgets = budgets.clone();
        let hold = Self { budgets, account, whose: *whose, unit, claim, epoch, held: amount, used: 0 };
        if warn {
            hold.warn();
        }
        hold
    }

    /// What it may still use of what it holds.
    pub(super) const fn left(&self) -> u64 {
        self.held.saturating_sub(self.used)
    }

    /// How many bytes are reserved at a time.
    pub(super) fn step(&self) -> u64 {
        self.budgets.options().step_bytes
    }

    fn warn(&self) {
        self.budgets.0.warn(Warning {
            whose: self.whose,
            key: self.account.key.clone(),
            used: self.account.used(),
            warn_at: self.claim.warn_at.unwrap_or(self.claim.limit),
            limit: self.claim.limit,
            at: Timestamp::now(),
        });
    }

    fn snapshot(&self) -> (String, Value) {
        (self.account.key.label(), self.account.snapshot(self.claim.limit))
    }

    /// Holds a part of the same count in its present window.
    pub(super) async fn next(self, least: u64, most: u64) -> Result<Self, Refused> {
        let key = self.account.key.at(Timestamp::now());
        let claim = Claim { least, most, ..self.claim };
        let (budgets, unit, whose) = (self.budgets.clone(), self.unit, self.whose);
        // What it used is settled first.
        drop(self);
        match budgets.0.claim(&key, claim, false).await {
            Ok(claimed) => Ok(Self::new(&budgets, claimed, unit, claim, &whose)),
            Err(Short::Unavailable) => Err(Refused::Unavailable),
            Err(Short::Full(account)) => Err(Refused::Limit(vec![AtLimit {
                key,
                asks: false,
                used: account.used(),
                limit: claim.limit,
            }])),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.account.settle(self.held, self.used, self.epoch) {
            self.budgets.0.tell(&self.account);
        }
        if self.used > 0 && self.claim.warn_at.is_some_and(|warn_at| self.account.should_warn(warn_at)) {
            self.warn();
        }
    }
}

/// All that a request holds. When it and the meters of its bodies are dropped, what was used is settled; nothing, where
/// the upstream was never reached.
#[derive(Clone)]
pub struct Reservation(Arc<Spending>);

pub(super) struct Spending {
    /// Of whole requests, tokens and money.
    holds: Vec<Hold>,
    /// Of what is counted as it passes, until a meter takes it.
    sides: [Mutex<Vec<Hold>>; 2],
    length: Option<u64>,
    price: Option<Price>,
    reads_answer: bool,
    reached: AtomicBool,
    pub(super) passed: [AtomicU64; 2],
    answer: Mutex<Answer>,
}

/// What was read of the answer.
#[derive(Default)]
struct Answer {
    usage: Usage,
    /// Its head came.
    is_begun: bool,
    /// It could not be read.
    is_blind: bool,
    /// It was seen to its end.
    is_whole: bool,
}

impl Reservation {
    pub(super) fn new(charges: &Charges, holds: Vec<Hold>) -> Self {
        let mut rest = Vec::with_capacity(holds.len());
        let mut sides = [Vec::new(), Vec::new()];
        for hold in holds {
            match hold.unit {
                Unit::RequestBytes => sides[Side::Request as usize].push(hold),
                Unit::ResponseBytes => sides[Side::Response as usize].push(hold),
                Unit::Requests | Unit::Expression | Unit::Tokens | Unit::Usd => rest.push(hold),
            }
        }
        Self(Arc::new(Spending {
            holds: rest,
            sides: sides.map(Mutex::new),
            length: charges.length,
            price: charges.price,
            reads_answer: charges.reads_answer(),
            reached: AtomicBool::new(false),
            passed: [AtomicU64::new(0), AtomicU64::new(0)],
            answer: Mutex::default(),
        }))
    }

    /// The counters for the audit row, as they are now.
    pub fn snapshots(&self) -> BTreeMap<String, Value> {
        let mut snapshots: BTreeMap<_, _> = self.0.holds.iter().map(Hold::snapshot).collect();
        for side in &self.0.sides {
            snapshots.extend(lock(side).iter().map(Hold::snapshot));
        }
        snapshots
    }

    /// Says that the request goes upstream now: from here on it counts, however it ends.
    pub fn reached(&self) {
        self.0.reached.store(true, Ordering::Relaxed);
    }

    /// Takes that back: no connection to the upstream came about.
    pub fn not_reached(&self) {
        self.0.reached.store(false, Ordering::Relaxed);
    }

    /// What has to see the request's body pass; `None` when nothing has.
    pub fn request_meter(&self) -> Option<Meter> {
        let holds = std::mem::take(&mut *lock(&self.0.sides[Side::Request as usize]));
        let counts = !holds.is_empty() || (self.0.reads_answer && self.0.length.is_none());
        counts.then(|| Meter::new(Arc::clone(&self.0), Side::Request, holds, None))
    }

    /// What has to see the response's body pass, made when its head is there; `None` when nothing has. The length, where
    /// it is known, is reserved at once.
    ///
    /// # Errors
    /// When there is not as much left: the answer is not to be passed on.
    pub async fn response_meter(
        &self,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Result<Option<Meter>, Refused> {
        let holds = std::mem::take(&mut *lock(&self.0.sides[Side::Response as usize]));
        let tap = self.0.reads_answer.then(|| Tap::new(headers));
        if holds.is_empty() && tap.is_none() {
            return Ok(None);
        }
        let mut sized = Vec::with_capacity(holds.len());
        for hold in holds {
            sized.push(match length {
                Some(length) => Box::pin(hold.next(length, length)).await?,
                None => hold,
            });
        }
        Ok(Some(Meter::new(Arc::clone(&self.0), Side::Response, sized, tap)))
    }
}

impl Spending {
    /// Takes over what a meter of the answer has read.
    pub(super) fn answered(&self, tap: &mut Tap, is_whole: bool) {
        let usage = std::mem::take(&mut tap.usage);
        *lock(&self.answer) = Answer { usage, is_begun: true, is_blind: tap.is_blind(), is_whole };
    }

    /// The tokens that were used, and whether they are at least as many as were held.
    fn tokens(&self) -> (Tokens, bool) {
        let passed = |side: Side| self.passed[side as usize].load(Ordering::Relaxed);
        let request = self.length.unwrap_or_else(|| passed(Side::Request));
        let by_bytes = Tokens {
            input: request.div_ceil(BYTES_PER_TOKEN),
            output: passed(Side::Response).div_ceil(BYTES_PER_TOKEN),
            ..Tokens::default()
        };
        let answer = lock(&self.answer);
        match answer.usage.tokens() {
            Some(said) if answer.is_whole => (said, false),
            // It broke off before its last word.
            Some(said) => (Tokens { output: said.output.max(by_bytes.output), ..said }, false),
            // A client that is gone before the answer has its model write on.
            None => (by_bytes, !answer.is_begun || answer.is_blind && by_bytes.output > 0),
        }
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        if !self.reached.load(Ordering::Relaxed) {
            return;
        }
        let (tokens, at_least) = self.tokens();
        let budgets = self.holds.first().map(|hold| hold.budgets.clone());
        let of_answer = budgets.and_then(|budgets| {
            let model = lock(&self.answer).usage.model.clone()?;
            budgets.options().prices.find(&model)
        });
        let price = of_answer.or(self.price);
        for hold in &mut self.holds {
            let used = match hold.unit {
                Unit::Tokens => tokens.sum(),
                Unit::Usd => price.map_or(hold.held, |price| price.cost(&tokens)),
                _ => hold.held,
            };
            let is_estimate = at_least && matches!(hold.unit, Unit::Tokens | Unit::Usd);
            hold.used = if is_estimate { used.max(hold.held) } else { used };
        }
    }
}
