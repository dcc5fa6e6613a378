//! What one request is to use of each counter, before it is known what it does use.

use std::{cell::LazyCell, sync::Arc};

use freehold_model::{
    Timestamp,
    budget::{CounterKey, Whose},
};
use freehold_policy::{
    Applied, Counter, OnLimit, Unit,
    cel::{Scope, Work},
};

use super::{
    Options,
    account::Claim,
    price::Price,
    usage::{BYTES_PER_TOKEN, Tokens, Wish},
};

/// What there is to weigh a request by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weight<'a> {
    /// The length of its body in bytes, where its head says it.
    pub length: Option<u64>,
    /// The path.
    pub path: &'a str,
    /// The body, or its beginning, where it was read: it names the model.
    pub body: &'a [u8],
}

/// A request that cannot be counted, and is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Uncountable {
    /// A counter's expression has no value.
    #[error("the counter `{0}` has no amount for this request")]
    Amount(String),
    /// Money is counted, and nobody knows what the model costs.
    #[error("the counter `{0}` counts money, and the model has no price")]
    Price(String),
}

impl Uncountable {
    /// The counter's name in the audit row, and the reason there.
    pub fn reason(&self) -> (&str, &'static str) {
        match self {
            Self::Amount(counter) => (counter, "amount_unknown"),
            Self::Price(counter) => (counter, "price_unknown"),
        }
    }
}

/// A request's part in one counter.
#[derive(Debug, Clone)]
pub(super) struct Charge {
    pub(super) key: CounterKey,
    pub(super) unit: Unit,
    pub(super) claim: Claim,
    /// Whether a person is asked at the limit.
    pub(super) asks: bool,
    /// Whether a person said that it may go beyond.
    pub(super) lifted: bool,
}

/// A request's part in all counters that count it.
#[derive(Debug, Clone)]
pub struct Charges {
    pub(super) all: Vec<Charge>,
    pub(super) whose: Whose,
    pub(super) length: Option<u64>,
    /// The price of the model that the request names, where money is counted.
    pub(super) price: Option<Price>,
}

impl Charges {
    /// Weighs a request. Its policy's expressions see `scope`.
    ///
    /// # Errors
    /// When it cannot be counted; it is to be denied.
    pub fn new(
        counters: &[Arc<Applied<Counter>>],
        weight: &Weight<'_>,
        whose: &Whose,
        options: &Options,
        scope: &dyn Scope,
        now: Timestamp,
    ) -> Result<Self, Uncountable> {
        let mut charges = Self {
            all: Vec::with_capacity(counters.len()),
            whose: *whose,
            length: weight.length,
            price: None,
        };
        let wish = LazyCell::new(|| Wish::read(weight.path, weight.body));
        let work = Work::default();
        for counter in counters {
            let name = &counter.name;
            let key =
                counter.key(name.origin, Arc::clone(&name.capability), Arc::clone(&name.rule), whose, now);
            let (least, most) = match counter.unit {
                Unit::Requests => (1, 1),
                // Something must be left of what is counted as it comes.
                Unit::RequestBytes => (weight.length.unwrap_or(1), weight.length.unwrap_or(1)),
                Unit::ResponseBytes => (1, 1),
                Unit::Expression => {
                    let amount =
                        counter.amount(scope, &work).map_err(|_| Uncountable::Amount(key.label()))?;
                    (amount, amount)
                }
                Unit::Tokens => {
                    let (least, most) = estimate(weight, &wish, options);
                    (least.sum(), most.sum())
                }
                Unit::Usd => {
                    let prices = &options.prices;
                    let price = match &wish.model {
                        Some(model) => prices.find(model),
                        None => prices.fallback(),
                    };
                    let price = price.ok_or_else(|| Uncountable::Price(key.label()))?;
                    charges.price = Some(price);
                    let (least, most) = estimate(weight, &wish, options);
                    (price.cost(&least), price.cost(&most))
                }
            };
            // A request that is free of charge is held for one unit: at the limit there is no next one.
            let least = if matches!(counter.unit, Unit::Tokens | Unit::Usd) { least.max(1) } else { least };
            let claim =
                Claim { least, most: most.max(least), limit: counter.limit, warn_at: counter.warn_at };
            let asks = counter.on_limit == OnLimit::Ask;
            charges.all.push(Charge { key, unit: counter.unit, claim, asks, lifted: false });
        }
        Ok(charges)
    }

    /// Whether the answer has to be read to know what was used.
    pub(super) fn reads_answer(&self) -> bool {
        self.all.iter().any(|charge| matches!(charge.unit, Unit::Tokens | Unit::Usd))
    }

    /// Lets the request go beyond the limits at which a person is asked, because one was and said yes. What it uses is
    /// counted all the same.
    pub fn lift(&mut self) {
        for charge in &mut self.all {
            charge.lifted = charge.asks;
        }
    }
}

/// What a request uses in tokens for sure, and what it is taken to use.
fn estimate(weight: &Weight<'_>, wish: &Wish, options: &Options) -> (Tokens, Tokens) {
    let input = weight.length.unwrap_or(options.unknown_body_bytes).div_ceil(BYTES_PER_TOKEN);
    let output = wish.output_max.map_or(options.output_tokens, |most| most.min(options.output_tokens));
    let least = Tokens { input: weight.length.map_or(0, |_| input), ..Tokens::default() };
    (least, Tokens { input, output, ..Tokens::default() })
}
