//! What counting a request costs where a block is leased: `cargo bench -p freehold-egress`. Times are the best of several
//! rounds, each the mean of many calls: what the code takes, and not what else the machine does.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and fails by panicking")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use freehold_egress::budget::{Budgets, Charges, Ledger, LedgerError, Options, Weight};
use freehold_model::{
    OrganizationId, RoleId, SessionId, Timestamp, WorkspaceId,
    budget::{Ask, CounterKey, Leased, Whose},
};
use freehold_testkit::model::{Nothing, permit};
use uuid::Uuid;

/// Rounds, of which the best counts.
const ROUNDS: usize = 20;
/// Calls of a round.
const CALLS: u32 = 20_000;

/// Leases whatever is asked for.
struct Generous;

#[async_trait]
impl Ledger for Generous {
    async fn lease(&self, _: &CounterKey, ask: Ask) -> Result<Leased, LedgerError> {
        Ok(Leased { granted: ask.grant(0), taken: 0, warned: false })
    }

    async fn give_back(&self, _: Vec<(CounterKey, u64)>) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn overdraw(&self, _: &CounterKey, amount: u64) -> Result<u64, LedgerError> {
        Ok(amount)
    }

    async fn warned(&self, _: &CounterKey) -> Result<(), LedgerError> {
        Ok(())
    }
}

fn best(mut call: impl FnMut()) -> Duration {
    let mut round = || {
        let started = Instant::now();
        (0..CALLS).for_each(|_| call());
        started.elapsed() / CALLS
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or_default()
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let whose = Whose {
        organization_id: OrganizationId::from_uuid(Uuid::now_v7()),
        workspace_id: WorkspaceId::from_uuid(Uuid::now_v7()),
        role_id: RoleId::from_uuid(Uuid::now_v7()),
        session_id: SessionId::from_uuid(Uuid::now_v7()),
        task_id: None,
    };
    let one = "calls: {unit: requests, per: workspace, window: 1d, limit: 1000000000000}";
    let three = format!(
        "{one}, all: {{unit: requests, per: organization, limit: 1000000000000}}, here: {{unit: requests, per: session, limit: 1000000000000}}"
    );
    for (what, counters) in [("one counter", one), ("three counters", &*three)] {
        let permit = permit(&format!("{{{counters}}}"));
        let budgets = Budgets::new(Options::default(), Arc::new(Generous));
        let weighed = || {
            let options = budgets.options();
            let weight = Weight::default();
            Charges::new(permit.counters(), &weight, &whose, options, &Nothing, Timestamp::now()).unwrap()
        };
        let charges = weighed();
        let _guard = runtime.enter();
        let reserve = best(|| {
            let reservation = runtime.block_on(budgets.reserve(&charges)).unwrap();
            reservation.reached();
        });
        let whole = best(|| {
            let reservation = runtime.block_on(budgets.reserve(&weighed())).unwrap();
            reservation.reached();
        });
        println!("{what}: reserved and settled in {reserve:?}; weighed, reserved and settled in {whole:?}");
    }
    let enter = best(|| runtime.block_on(async { std::hint::black_box(()) }));
    println!("of which entering the runtime, which a request does not: {enter:?}");
}
