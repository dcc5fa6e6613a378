//! A ledger of budgets in memory.

use std::{collections::HashMap, sync::Mutex};

use async_trait::async_trait;
use freehold_egress::budget::{Ledger, LedgerError};
use freehold_model::budget::{Ask, CounterKey, Leased};

/// What is taken of each count.
#[derive(Default)]
pub struct Counts(Mutex<HashMap<CounterKey, u64>>);

impl Counts {
    /// What is taken of the counter of this name.
    pub fn taken(&self, counter: &str) -> u64 {
        let counts = self.0.lock().unwrap();
        counts.iter().filter(|(key, _)| &*key.counter == counter).map(|(_, taken)| taken).sum()
    }

    /// What is taken of each count.
    pub fn all(&self) -> Vec<(CounterKey, u64)> {
        self.0.lock().unwrap().iter().map(|(key, taken)| (key.clone(), *taken)).collect()
    }

    fn change<T>(&self, key: &CounterKey, change: impl FnOnce(&mut u64) -> T) -> T {
        change(self.0.lock().unwrap().entry(key.clone()).or_default())
    }
}

#[async_trait]
impl Ledger for Counts {
    async fn lease(&self, key: &CounterKey, ask: Ask) -> Result<Leased, LedgerError> {
        Ok(self.change(key, |taken| {
            let granted = ask.grant(*taken);
            *taken += granted;
            Leased { granted, taken: *taken, warned: false }
        }))
    }

    async fn give_back(&self, parts: Vec<(CounterKey, u64)>) -> Result<(), LedgerError> {
        parts.iter().for_each(|(key, amount)| self.change(key, |taken| *taken -= amount));
        Ok(())
    }

    async fn overdraw(&self, key: &CounterKey, amount: u64) -> Result<u64, LedgerError> {
        Ok(self.change(key, |taken| {
            *taken += amount;
            *taken
        }))
    }

    async fn warned(&self, _: &CounterKey) -> Result<(), LedgerError> {
        Ok(())
    }
}
