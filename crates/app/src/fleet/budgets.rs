//! The ledger of budgets, for egress: counts that all servers share.

use std::collections::BTreeMap;

use freehold_model::{
    OrganizationId,
    budget::{Ask, CounterKey, Leased},
};

use super::Fleet;
use crate::Error;

impl Fleet {
    /// Leases a part of a count, or nothing where there is not as much.
    ///
    /// # Errors
    /// When the store fails; it may have been leased all the same.
    pub async fn budget_lease(&self, key: CounterKey, ask: Ask) -> Result<Leased, Error> {
        self.store.write(key.organization_id, move |tx| Ok(tx.budget_lease(&key, &ask)?)).await
    }

    /// Takes back what was leased and not used; each organization's parts in one transaction.
    ///
    /// # Errors
    /// When the store fails; what was not taken back is forfeited.
    pub async fn budget_give_back(&self, parts: Vec<(CounterKey, u64)>) -> Result<(), Error> {
        let mut by_organization: BTreeMap<OrganizationId, Vec<(CounterKey, u64)>> = BTreeMap::new();
        for part in parts {
            by_organization.entry(part.0.organization_id).or_default().push(part);
        }
        for (organization, parts) in by_organization {
            let given = self.store.write(organization, move |tx| {
                parts.iter().try_for_each(|(key, amount)| tx.budget_give_back(key, *amount))?;
                Ok::<_, Error>(())
            });
            given.await?;
        }
        Ok(())
    }

    /// Adds what was used without a lease, whatever the limit; answers the sum.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn budget_overdraw(&self, key: CounterKey, amount: u64) -> Result<u64, Error> {
        self.store.write(key.organization_id, move |tx| Ok(tx.budget_overdraw(&key, amount)?)).await
    }

    /// Notes that it was said that the limit is near.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn budget_warned(&self, key: CounterKey) -> Result<(), Error> {
        self.store.write(key.organization_id, move |tx| Ok(tx.budget_warned(&key)?)).await
    }
}
