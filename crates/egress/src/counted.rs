//! Budgets in the way of a request: weighed and reserved before it goes out, and what its rows say.

use std::collections::BTreeMap;

use freehold_model::{Timestamp, budget::Whose};
use freehold_policy::{Permit, Unit, cel::Scope};

use crate::{
    budget::{Budgets, Charges, Refused, Reservation, Uncountable, Weight},
    deny::Reason,
    exchange::Connection,
};

/// Why budgets do not let a request go: the reason, and that of each counter.
pub(crate) type Stopped = (Reason, BTreeMap<String, String>);

/// Weighs a request for the counters that count it; `None` where none does.
pub(crate) fn weigh(
    budgets: &Budgets,
    permit: &Permit,
    weight: &Weight<'_>,
    whose: Option<&Whose>,
    upgrade: bool,
    scope: &dyn Scope,
) -> Result<Option<Charges>, Stopped> {
    let counters = permit.counters();
    if counters.is_empty() {
        return Ok(None);
    }
    let whose = whose.ok_or_else(|| (Reason::NoToken, BTreeMap::new()))?;
    // What goes through a tunnel is no body.
    let is_counted = |unit| matches!(unit, Unit::Requests | Unit::Expression);
    if let Some(counter) = counters.iter().find(|counter| upgrade && !is_counted(counter.unit)) {
        let label = format!("{}/{}", counter.name.origin.as_str(), counter.name.rule);
        return Err((Reason::BudgetUncountable, BTreeMap::from([(label, "upgrade".to_owned())])));
    }
    let charges = Charges::new(counters, weight, whose, budgets.options(), scope, Timestamp::now());
    charges.map(Some).map_err(|uncountable: Uncountable| {
        let (counter, reason) = uncountable.reason();
        (Reason::BudgetUncountable, BTreeMap::from([(counter.to_owned(), reason.to_owned())]))
    })
}

/// Whether a permit's request is counted by what its answer says.
pub(crate) fn reads_answer(permit: &Permit) -> bool {
    permit.counters().iter().any(|counter| matches!(counter.unit, Unit::Tokens | Unit::Usd))
}

impl Connection {
    /// Reserves all that a request is to use, or nothing; beyond the limits at which a person is asked where one `approved`.
    pub(crate) async fn reserve(
        &self,
        charges: Option<Charges>,
        approved: bool,
    ) -> Result<Option<Reservation>, Refused> {
        let Some(mut charges) = charges else { return Ok(None) };
        if approved {
            charges.lift();
        }
        self.pod.state.budgets.reserve(&charges).await.map(Some)
    }
}

/// What a row says of a request that budgets do not let go.
pub(crate) fn stopped(refused: &Refused) -> Stopped {
    (reason(refused), ceilings(refused))
}

/// Why a request or a body does not go on.
pub(crate) const fn reason(refused: &Refused) -> Reason {
    match refused {
        Refused::Limit(_) => Reason::BudgetExceeded,
        Refused::Unavailable => Reason::BudgetUnavailable,
    }
}

/// The counters that have no room, and why.
pub(crate) fn ceilings(refused: &Refused) -> BTreeMap<String, String> {
    let Refused::Limit(counters) = refused else { return BTreeMap::new() };
    let reason = Reason::BudgetExceeded.as_str();
    counters.iter().map(|counter| (counter.key.label(), reason.to_owned())).collect()
}
