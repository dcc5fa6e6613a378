//! Budgets: how much of each counter that counts a workspace is used.

use freehold_access::{Actor, Right};
use freehold_model::{
    Timestamp, WorkspaceId,
    budget::{CounterKey, Whose},
};
use freehold_policy::{Origin, Unit};

use crate::{
    App, Error, now, policy,
    workspace::{find, role_and_provider},
};

/// A counter, and how much of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The count: whose use, and in which window.
    pub key: CounterKey,
    /// Whose use is counted together, as the language spells it.
    pub per: &'static str,
    /// The window's length, as the language spells it.
    pub window: Option<String>,
    /// How much there is.
    pub limit: u64,
    /// From how much on it is said that the limit is near.
    pub warn_at: Option<u64>,
    /// What happens at the limit, as the language spells it.
    pub on_limit: &'static str,
    /// Whether it is money.
    pub is_money: bool,
    /// How much is used or held by requests under way, in the unit; money in millionths of a dollar.
    pub used: u64,
}

impl App {
    /// Every counter that counts requests of a workspace: those of its provider, then those of its role.
    ///
    /// # Errors
    /// When there is no such workspace, or the caller may not see it.
    pub async fn workspace_budget_list(&self, actor: &Actor, id: WorkspaceId) -> Result<Vec<Budget>, Error> {
        let caller = actor.clone();
        let found = self.store().read(actor.organization(), move |tx| {
            let workspace = caller.authorize(&[Right::WorkspaceRead], find(tx, id)?)?.into_inner();
            let (role, provider) = role_and_provider(tx, &workspace)?;
            let whose = Whose {
                organization_id: workspace.organization_id,
                workspace_id: workspace.id,
                role_id: role.id,
                session_id: workspace.session_id,
                task_id: tx.task_current(workspace.id)?.map(|task| task.id),
            };
            Ok::<_, Error>((provider.capabilities, role.capabilities, whose))
        });
        let (base, own, whose) = found.await?;
        let mut budgets = policy::apart(move || {
            let now = now();
            let mut budgets = of_document(Origin::Provider, base.as_deref(), &whose, now);
            budgets.extend(of_document(Origin::Role, own.as_deref(), &whose, now));
            budgets
        })
        .await;
        let budgets = self.store().read(actor.organization(), move |tx| {
            let keys: Vec<CounterKey> = budgets.iter().map(|budget| budget.key.clone()).collect();
            for (budget, taken) in budgets.iter_mut().zip(tx.budget_taken(&keys)?) {
                budget.used = taken;
            }
            Ok::<_, Error>(budgets)
        });
        let mut budgets = budgets.await?;
        for budget in &mut budgets {
            budget.used = budget.used.saturating_sub(self.ports().counts.unused(&budget.key));
        }
        Ok(budgets)
    }
}

/// The counters of a document. One that cannot be read, since an older version stored it, has none and allows nothing.
fn of_document(origin: Origin, text: Option<&str>, whose: &Whose, now: Timestamp) -> Vec<Budget> {
    let document = freehold_policy::parse(text.unwrap_or_default()).unwrap_or_default();
    let mut budgets = Vec::new();
    for capability in document.capabilities {
        for counter in capability.budgets {
            let (capability, name) = (capability.name.as_str().into(), counter.name.as_str().into());
            let key = counter.key(origin, capability, name, whose, now);
            budgets.push(Budget {
                key,
                per: counter.per.as_str(),
                window: counter.window.map(|window| window.to_string()),
                limit: counter.limit,
                warn_at: counter.warn_at,
                on_limit: counter.on_limit.as_str(),
                is_money: counter.unit == Unit::Usd,
                used: 0,
            });
        }
    }
    budgets
}
