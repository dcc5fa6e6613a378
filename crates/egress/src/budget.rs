//! Budgets: what a request may use is reserved before it goes anywhere, and settled when it is over.
//!
//! ```text
//! charges(permit) -> Budgets::reserve -> Reservation -> reached() -> meters on both bodies -> (drop) settled
//!                        |  all or nothing, from the blocks leased here
//!                        +--> Ledger: lease, give back, overdraw (the control plane's store)
//! ```
//!
//! Invariants: what is reserved here was leased from the ledger, whose sum never goes beyond a limit; what a crash
//! overtakes is forfeited and never handed out twice; a reservation that is dropped, wherever it was, settles what was
//! used. Tokens and money, which are known when the answer is over, may go beyond a limit by one request's misestimate,
//! which the ledger is told and which the next request feels. A ledger that does not answer is a denial.

mod account;
mod charge;
mod engine;
mod json;
mod meter;
mod price;
mod reservation;
pub(crate) mod usage;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use freehold_model::{
    Timestamp,
    budget::{Ask, CounterKey, Leased, Whose},
};

pub use charge::{Charges, Uncountable, Weight};
pub use engine::{AtLimit, Budgets, Refused, WarningSink};
pub use meter::{Cut, Meter};
pub use price::{BUILT_IN_SOURCE, InvalidPrice, Prices, USD_MAX, Usd};
pub use reservation::Reservation;

/// Why the ledger did not answer. The request is denied.
pub type LedgerError = Box<dyn std::error::Error + Send + Sync>;

/// Where counts are kept, for all processes that share them.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// Leases a block, in one step for all who lease: the sum of the count never goes beyond the limit by it.
    ///
    /// # Errors
    /// It may have been leased all the same; then it is forfeited.
    async fn lease(&self, key: &CounterKey, ask: Ask) -> Result<Leased, LedgerError>;

    /// Gives back what was leased and not used.
    ///
    /// # Errors
    /// It is forfeited.
    async fn give_back(&self, parts: Vec<(CounterKey, u64)>) -> Result<(), LedgerError>;

    /// Writes down what was used without a lease, whatever the limit; answers the sum.
    ///
    /// # Errors
    /// It is tried again.
    async fn overdraw(&self, key: &CounterKey, amount: u64) -> Result<u64, LedgerError>;

    /// Notes that it was said that the limit is near.
    ///
    /// # Errors
    /// Nothing follows: the row that says it is written once.
    async fn warned(&self, key: &CounterKey) -> Result<(), LedgerError>;
}

/// A counter that has come near its limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Whose request it was.
    pub whose: Whose,
    /// The count.
    pub key: CounterKey,
    /// How much is used.
    pub used: u64,
    /// From how much on it is near.
    pub warn_at: u64,
    /// The limit.
    pub limit: u64,
    /// When.
    pub at: Timestamp,
}

/// How counts are kept here. Every limit has its unit in its name.
#[derive(Debug, Clone)]
pub struct Options {
    /// What tokens cost.
    pub prices: Prices,
    /// Tokens that an answer is taken to have before it is known, unless the request wants fewer.
    pub output_tokens: u64,
    /// Bytes that a request's body of unknown length is taken to have.
    pub unknown_body_bytes: u64,
    /// Bytes that are reserved at a time for a body of unknown length.
    pub step_bytes: u64,
    /// Counts known here at once; with more, requests on further ones are denied.
    pub counts_max: usize,
    /// Milliseconds that a request waits for the ledger; it is denied then.
    pub ledger_ms: u64,
    /// Milliseconds after which a block that nobody uses is given back.
    pub idle_ms: u64,
    /// Milliseconds that the end waits for requests under way to settle.
    pub stop_ms: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            prices: Prices::default(),
            output_tokens: 4_096,
            unknown_body_bytes: 64 * 1024,
            step_bytes: 64 * 1024,
            counts_max: 65_536,
            ledger_ms: 5_000,
            idle_ms: 5_000,
            stop_ms: 2_000,
        }
    }
}
