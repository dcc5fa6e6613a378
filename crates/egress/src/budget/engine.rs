//! The engine: counts in memory, blocks from the ledger, and what has to be told to it in the background.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use freehold_model::{Timestamp, budget::CounterKey};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Ledger, LedgerError, Options, Warning,
    account::{Account, Claim, Step},
    charge::{Charge, Charges},
    reservation::{Hold, Reservation},
};
use crate::{options::ms, state::lock};

/// How often idle blocks are looked for, and what the ledger did not take is tried again.
const ROUND: Duration = Duration::from_secs(1);
/// How long a count is known that nobody uses.
const FORGET: Duration = Duration::from_secs(60);
/// How often a claim is tried, each time after a lease. Others may take the block that was leased for it.
const TRIES_MAX: usize = 64;

/// Hears of counters that have come near their limit.
#[async_trait]
pub trait WarningSink: Send + Sync {
    /// Writes it down; the same one may come again, from other processes too. False: it is to be tried again.
    async fn warned(&self, warning: &Warning) -> bool;
}

/// A counter that has no room for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtLimit {
    /// The count.
    pub key: CounterKey,
    /// Whether a person is asked.
    pub asks: bool,
    /// How much is used.
    pub used: u64,
    /// How much there is.
    pub limit: u64,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// These counters have no room. A person is asked when all of them ask.
    Limit(Vec<AtLimit>),
    /// The ledger does not answer, or more is counted than this process can.
    Unavailable,
}

impl Refused {
    /// Whether a person may let the request go all the same.
    pub fn asks(&self) -> bool {
        matches!(self, Self::Limit(counters) if counters.iter().all(|counter| counter.asks))
    }
}

/// The budgets of all workspaces. Cheap to clone.
#[derive(Clone)]
pub struct Budgets(pub(super) Arc<Engine>);

pub(super) struct Engine {
    pub(super) options: Options,
    ledger: Arc<dyn Ledger>,
    accounts: RwLock<BTreeMap<CounterKey, Arc<Account>>>,
    /// What the ledger is to be told: of each account once, and each warning.
    errands: Mutex<Vec<Errand>>,
    called: Notify,
}

enum Errand {
    /// It has a debt, or something stale.
    Square(Arc<Account>),
    Warn(Box<Warning>),
}

impl Budgets {
    /// Budgets kept in this ledger. [`Budgets::run`] has to run for them.
    pub fn new(options: Options, ledger: Arc<dyn Ledger>) -> Self {
        Self(Arc::new(Engine {
            options,
            ledger,
            accounts: RwLock::default(),
            errands: Mutex::default(),
            called: Notify::new(),
        }))
    }

    /// How they are kept.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Reserves all that a request is to use, or nothing. What the reservation holds is settled when it is dropped.
    ///
    /// # Errors
    /// Which counters have no room.
    pub async fn reserve(&self, charges: &Charges) -> Result<Reservation, Refused> {
        let mut holds = Vec::with_capacity(charges.all.len());
        let mut full = Vec::new();
        for charge in &charges.all {
            match self.hold(charge, charges).await {
                Ok(hold) => holds.push(hold),
                // All are tried, so that all that are full can be named.
                Err(Some(at_limit)) => full.push(at_limit),
                Err(None) => return Err(Refused::Unavailable),
            }
        }
        if full.is_empty() { Ok(Reservation::new(charges, holds)) } else { Err(Refused::Limit(full)) }
    }

    async fn hold(&self, charge: &Charge, charges: &Charges) -> Result<Hold, Option<AtLimit>> {
        match self.0.claim(&charge.key, charge.claim, charge.lifted).await {
            Ok(claimed) => Ok(Hold::new(self, claimed, charge.unit, charge.claim, &charges.whose)),
            Err(Short::Full(account)) => {
                let (used, limit) = (account.used(), charge.claim.limit);
                Err(Some(AtLimit { key: charge.key.clone(), asks: charge.asks, used, limit }))
            }
            Err(Short::Unavailable) => Err(None),
        }
    }

    /// How much of a count is leased here and not used: what the ledger says is taken, and this, are what is used.
    pub fn unused(&self, key: &CounterKey) -> u64 {
        let accounts = self.0.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.get(key).map_or(0, |account| account.unused())
    }

    /// Tells the ledger what it has to know until `shutdown`, then gives every block back.
    pub async fn run(&self, sink: &dyn WarningSink, shutdown: &CancellationToken) {
        let idle = ms(self.0.options.idle_ms);
        let mut rounds = tokio::time::interval(ROUND);
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.0.called.notified() => {}
                _ = rounds.tick() => self.0.give_back(idle).await,
                () = shutdown.cancelled() => {}
            }
            self.0.run_errands(sink).await;
        }
        let until = Instant::now() + ms(self.0.options.stop_ms);
        while self.0.is_held() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.0.run_errands(sink).await;
        self.0.give_back(Duration::ZERO).await;
    }
}

/// What a claim got.
pub(super) struct Claimed {
    pub(super) account: Arc<Account>,
    pub(super) amount: u64,
    /// Of which epoch of its count it is.
    pub(super) epoch: u64,
    pub(super) warn: bool,
}

/// Why a claim got nothing.
pub(super) enum Short {
    Full(Arc<Account>),
    Unavailable,
}

/// A claim that was met, put back unless somebody takes it over.
struct Met(Option<Claimed>);

impl Drop for Met {
    fn drop(&mut self) {
        if let Some(Claimed { account, amount, epoch, .. }) = self.0.take() {
            // Should this leave something stale, the next that is settled tells of it.
            account.settle(amount, 0, epoch);
        }
    }
}

impl Engine {
    /// Meets a claim from the block here, or from the ledger.
    pub(super) async fn claim(
        self: &Arc<Self>,
        key: &CounterKey,
        claim: Claim,
        lifted: bool,
    ) -> Result<Claimed, Short> {
        let account = self.account(key).ok_or(Short::Unavailable)?;
        let owed = match account.step(&claim) {
            Step::Taken { amount, epoch, warn } => return Ok(Claimed { account, amount, epoch, warn }),
            Step::Full if !lifted => return Err(Short::Full(account)),
            Step::GiveBack(amount) => amount,
            Step::Full | Step::Overdraw(_) | Step::Lease(_) => 0,
        };
        // In a task of its own: a request that ends meanwhile leaves the block to others.
        let engine = Arc::clone(self);
        let met = tokio::spawn(async move { engine.claim_slowly(account, claim, lifted, owed).await });
        let mut met = met.await.unwrap_or(Err(Short::Unavailable))?;
        met.0.take().ok_or(Short::Unavailable)
    }

    async fn claim_slowly(
        self: Arc<Self>,
        account: Arc<Account>,
        claim: Claim,
        lifted: bool,
        owed: u64,
    ) -> Result<Met, Short> {
        let asked =
            tokio::time::timeout(ms(self.options.ledger_ms), self.ask(&account, &claim, lifted, owed));
        let counter = &*account.key.counter;
        match asked.await {
            Ok(Ok(Some((amount, epoch, warn)))) => {
                Ok(Met(Some(Claimed { account: Arc::clone(&account), amount, epoch, warn })))
            }
            Ok(Ok(None)) => Err(Short::Full(account)),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, budget.counter = counter, "the ledger of budgets failed");
                Err(Short::Unavailable)
            }
            Err(_) => {
                tracing::warn!(budget.counter = counter, "the ledger of budgets does not answer");
                Err(Short::Unavailable)
            }
        }
    }

    /// Does what is needed for a claim; answers how much it got, and of which epoch that is. `owed` is to be
    /// given back first.
    async fn ask(
        &self,
        account: &Account,
        claim: &Claim,
        lifted: bool,
        owed: u64,
    ) -> Result<Option<(u64, u64, bool)>, LedgerError> {
        let _turn = account.leasing.lock().await;
        let give_back = |amount| self.ledger.give_back(vec![(account.key.clone(), amount)]);
        if owed > 0 {
            give_back(owed).await?;
        }
        for _ in 0..TRIES_MAX {
            match account.step(claim) {
                Step::Taken { amount, epoch, warn } => return Ok(Some((amount, epoch, warn))),
                Step::Full if lifted => {
                    let taken = self.ledger.overdraw(&account.key, claim.most).await?;
                    account.hold_extra(claim.most, taken);
                    // What is left of it is nobody else's.
                    return Ok(Some((claim.most, u64::MAX, false)));
                }
                Step::Full => return Ok(None),
                Step::Overdraw(_) => self.square(account).await?,
                Step::GiveBack(amount) => give_back(amount).await?,
                Step::Lease(ask) => {
                    account.leased(claim, self.ledger.lease(&account.key, ask).await?);
                    self.square(account).await?;
                }
            }
        }
        Ok(None)
    }

    /// The count of this key; `None` when there are too many.
    pub(super) fn account(&self, key: &CounterKey) -> Option<Arc<Account>> {
        if let Some(account) = self.accounts.read().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Some(Arc::clone(account));
        }
        let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.get(key) {
            return Some(Arc::clone(account));
        }
        if accounts.len() >= self.options.counts_max {
            tracing::warn!(budget.counts = accounts.len(), "too many counts of budgets at once");
            return None;
        }
        let account = Account::new(key.clone());
        accounts.insert(key.clone(), Arc::clone(&account));
        Some(account)
    }

    pub(super) fn tell(&self, account: &Arc<Account>) {
        self.call(Errand::Square(Arc::clone(account)));
    }

    pub(super) fn warn(&self, warning: Warning) {
        self.call(Errand::Warn(Box::new(warning)));
    }

    fn call(&self, errand: Errand) {
        self.note(errand);
        self.called.notify_one();
    }

    /// Remembers an errand, unless it is known.
    fn note(&self, errand: Errand) {
        let mut errands = lock(&self.errands);
        let is_known = match &errand {
            Errand::Square(account) => errands
                .iter()
                .any(|other| matches!(other, Errand::Square(other) if Arc::ptr_eq(other, account))),
            Errand::Warn(_) => false,
        };
        if !is_known {
            errands.push(errand);
        }
    }

    pub(super) async fn run_errands(&self, sink: &dyn WarningSink) {
        let errands = std::mem::take(&mut *lock(&self.errands));
        for errand in errands {
            let done = match &errand {
                Errand::Square(account) => {
                    let squared = self.square(account).await;
                    squared
                        .inspect_err(|error| tracing::warn!(error = %error, "the ledger of budgets failed"))
                        .is_ok()
                }
                Errand::Warn(warning) => {
                    let done = sink.warned(warning).await;
                    if done && let Err(error) = self.ledger.warned(&warning.key).await {
                        tracing::debug!(error = %error, "the ledger of budgets failed");
                    }
                    done
                }
            };
            if !done {
                // Without a call: the next round tries again.
                self.note(errand);
            }
        }
    }

    /// Writes down what was used beyond a block, and gives back what is left of a higher limit.
    async fn square(&self, account: &Account) -> Result<(), LedgerError> {
        let stale = account.take_stale();
        if stale > 0 {
            self.ledger.give_back(vec![(account.key.clone(), stale)]).await?;
        }
        let debt = account.take_debt();
        if debt > 0 {
            match self.ledger.overdraw(&account.key, debt).await {
                Ok(taken) => account.overdrawn(taken),
                Err(error) => {
                    account.put_debt(debt);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn is_held(&self) -> bool {
        let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
        accounts.values().any(|account| account.is_held())
    }

    /// Gives blocks back that nobody used for so long, those of past windows among them, and forgets counts.
    pub(super) async fn give_back(&self, idle: Duration) {
        let mut parts = Vec::new();
        {
            let mut accounts = self.accounts.write().unwrap_or_else(PoisonError::into_inner);
            let now = Timestamp::now().as_second();
            accounts.retain(|key, account| {
                // Only under this lock is it certain that nobody else comes to hold it.
                let is_past = key.ends_at().is_some_and(|end| end <= now);
                let amount = account.take_free(if is_past { Duration::ZERO } else { idle });
                if amount > 0 {
                    parts.push((key.clone(), amount));
                }
                let forget = if is_past { Duration::ZERO } else { FORGET };
                !(Arc::strong_count(account) == 1 && account.is_idle(forget))
            });
        }
        if !parts.is_empty()
            && let Err(error) = self.ledger.give_back(parts).await
        {
            tracing::warn!(error = %error, "blocks of budgets are forfeited");
        }
    }
}
