//! What a model's tokens cost.
//!
//! Money is whole millionths of a dollar. A model is priced by the pattern with the most characters that matches its
//! name, the operator's before the built-in ones; `*` prices every model that nothing else does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::usage::Tokens;

/// Where the built-in prices are from. They are the vendors' list prices for the plain service with prompts of usual length
/// and the shorter life of caches; whoever pays others, or uses other models, says so in `[prices]`.
pub const BUILT_IN_SOURCE: &str = "list prices of Anthropic, OpenAI and Google for their own APIs, November 2025; Claude 4.6, GPT-5.1 and later, April 2026";
/// The highest price that can be set, in dollars for a million tokens.
pub const USD_MAX: f64 = 1_000_000.0;
/// The longest name of a model that is looked up, in bytes.
const MODEL_BYTES_MAX: usize = 256;

/// The prices of a model in dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usd {
    /// Of a token that is read.
    pub input: f64,
    /// Of a token that is written.
    pub output: f64,
    /// Of a token that is read from the provider's cache; as `input` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_read: Option<f64>,
    /// Of a token that is written to the provider's cache; as `input` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write: Option<f64>,
}

/// A table of prices that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the price of `{pattern}` is not from 0 to 1000000 dollars for a million tokens, or its name is empty"
)]
pub struct InvalidPrice {
    /// The model's pattern.
    pub pattern: String,
}

/// The prices of a model, in millionths of a dollar for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Price {
    input: u64,
    output: u64,
    cache_read: u64,
    cache_write: u64,
}

/// The table of prices.
#[derive(Debug, Clone)]
pub struct Prices {
    /// By name in lower case, `*` for any characters; the first that matches holds.
    entries: Vec<(String, Price)>,
}

/// In cents for a million tokens: read, written, read from the cache, written to it.
const BUILT_IN: &[(&str, [u32; 4])] = &[
    ("claude-opus-4-6*", [500, 2_500, 50, 625]),
    ("claude-opus-4-5*", [500, 2_500, 50, 625]),
    ("claude-opus-4-1*", [1_500, 7_500, 150, 1_875]),
    ("claude-opus-4-2025*", [1_500, 7_500, 150, 1_875]),
    ("claude-opus-4-0", [1_500, 7_500, 150, 1_875]),
    ("claude-3-opus-*", [1_500, 7_500, 150, 1_875]),
    ("claude-sonnet-4-6*", [300, 1_500, 30, 375]),
    ("claude-sonnet-4-5*", [300, 1_500, 30, 375]),
    ("claude-sonnet-4-2025*", [300, 1_500, 30, 375]),
    ("claude-sonnet-4-0", [300, 1_500, 30, 375]),
    ("claude-3-7-sonnet-*", [300, 1_500, 30, 375]),
    ("claude-3-5-sonnet-*", [300, 1_500, 30, 375]),
    ("claude-haiku-4-5*", [100, 500, 10, 125]),
    ("claude-3-5-haiku-*", [80, 400, 8, 100]),
    ("gpt-5.4", [250, 1_500, 25, 250]),
    ("gpt-5.4-2026*", [250, 1_500, 25, 250]),
    ("gpt-5.4-mini*", [75, 450, 8, 75]),
    ("gpt-5.4-nano*", [20, 125, 2, 20]),
    ("gpt-5.2", [175, 1_400, 18, 175]),
    ("gpt-5.2-2025*", [175, 1_400, 18, 175]),
    ("gpt-5.1", [125, 1_000, 13, 125]),
    ("gpt-5.1-2025*", [125, 1_000, 13, 125]),
    ("gpt-5", [125, 1_000, 13, 125]),
    ("gpt-5-2025*", [125, 1_000, 13, 125]),
    ("gpt-5-mini*", [25, 200, 3, 25]),
    ("gpt-5-nano*", [5, 40, 1, 5]),
    ("gpt-4.1", [200, 800, 50, 200]),
    ("gpt-4.1-2025*", [200, 800, 50, 200]),
    ("gpt-4.1-mini*", [40, 160, 10, 40]),
    ("gpt-4.1-nano*", [10, 40, 3, 10]),
    ("gpt-4o", [250, 1_000, 125, 250]),
    ("gpt-4o-2024-08-06", [250, 1_000, 125, 250]),
    ("gpt-4o-2024-11-20", [250, 1_000, 125, 250]),
    ("gpt-4o-mini", [15, 60, 8, 15]),
    ("gpt-4o-mini-2024-07-18", [15, 60, 8, 15]),
    ("o3", [200, 800, 50, 200]),
    ("o3-2025*", [200, 800, 50, 200]),
    ("o4-mini", [110, 440, 28, 110]),
    ("o4-mini-2025*", [110, 440, 28, 110]),
    ("gemini-2.5-pro", [125, 1_000, 32, 125]),
    ("gemini-2.5-flash", [30, 250, 8, 30]),
    ("gemini-2.5-flash-lite", [10, 40, 3, 10]),
];

impl Default for Prices {
    fn default() -> Self {
        Self { entries: Self::built_in() }
    }
}

impl Prices {
    /// The built-in table, behind these prices.
    ///
    /// # Errors
    /// When a price is none.
    pub fn new(configured: &BTreeMap<String, Usd>) -> Result<Self, InvalidPrice> {
        let mut entries = Vec::with_capacity(configured.len() + BUILT_IN.len());
        for (pattern, usd) in configured {
            let price = Price::of(usd).filter(|_| !pattern.is_empty());
            let price = price.ok_or_else(|| InvalidPrice { pattern: pattern.clone() })?;
            entries.push((pattern.to_ascii_lowercase(), price));
        }
        entries.sort_by_key(|(pattern, _)| std::cmp::Reverse(literal(pattern)));
        // What prices every model comes behind those that are known.
        let catch_all =
            entries.iter().position(|(pattern, _)| literal(pattern) == 0).unwrap_or(entries.len());
        entries.splice(catch_all..catch_all, Self::built_in());
        Ok(Self { entries })
    }

    fn built_in() -> Vec<(String, Price)> {
        let price = |[input, output, cache_read, cache_write]: [u32; 4]| {
            let micros = |cents: u32| u64::from(cents) * 10_000;
            let (cache_read, cache_write) = (micros(cache_read), micros(cache_write));
            Price { input: micros(input), output: micros(output), cache_read, cache_write }
        };
        let mut entries: Vec<_> =
            BUILT_IN.iter().map(|(name, cents)| ((*name).to_owned(), price(*cents))).collect();
        entries.sort_by_key(|(pattern, _)| std::cmp::Reverse(literal(pattern)));
        entries
    }

    /// The prices of a model; the part of its name before the last `/` is left out, where routers name the vendor.
    pub(crate) fn find(&self, model: &str) -> Option<Price> {
        if model.len() > MODEL_BYTES_MAX {
            return None;
        }
        let model = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        self.entries.iter().find(|(pattern, _)| matches(pattern, &model)).map(|(_, price)| *price)
    }

    /// The prices of every model that is not known; `None` where the configuration has none.
    pub(crate) fn fallback(&self) -> Option<Price> {
        self.entries.iter().find(|(pattern, _)| literal(pattern) == 0).map(|(_, price)| *price)
    }
}

impl Price {
    fn of(usd: &Usd) -> Option<Self> {
        let micros = |usd: f64| {
            let is_price = usd.is_finite() && (0.0..=USD_MAX).contains(&usd);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be small and positive"
            )]
            let micros = (usd * 1e6).round() as u64;
            is_price.then_some(micros)
        };
        Some(Self {
            input: micros(usd.input)?,
            output: micros(usd.output)?,
            cache_read: micros(usd.cache_read.unwrap_or(usd.input))?,
            cache_write: micros(usd.cache_write.unwrap_or(usd.input))?,
        })
    }

    /// What these tokens cost in millionths of a dollar, rounded up.
    pub(crate) fn cost(&self, tokens: &Tokens) -> u64 {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let sum = part(tokens.input, self.input)
            + part(tokens.output, self.output)
            + part(tokens.cache_read, self.cache_read)
            + part(tokens.cache_write, self.cache_write);
        u64::try_from(sum.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

/// The characters of a pattern that are no stars.
fn literal(pattern: &str) -> usize {
    pattern.bytes().filter(|byte| *byte != b'*').count()
}

/// Whether a name is one of a pattern's, where `*` is any number of characters.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(input: f64, output: f64) -> Usd {
        Usd { input, output, cache_read: None, cache_write: None }
    }

    const fn tokens(input: u64, output: u64) -> Tokens {
        Tokens { input, output, cache_read: 0, cache_write: 0 }
    }

    fn prices(of: &[(&str, Usd)]) -> Prices {
        Prices::new(&of.iter().map(|(name, usd)| ((*name).to_owned(), *usd)).collect()).unwrap()
    }

    #[test]
    fn the_longest_pattern_holds_and_the_operators_before_the_built_in() {
        let table =
            prices(&[("claude-*", usd(1.0, 1.0)), ("claude-opus-*", usd(2.0, 2.0)), ("*", usd(9.0, 9.0))]);
        let input = |model: &str| table.find(model).map(|price| price.input);
        assert_eq!(input("claude-opus-4-5"), Some(2_000_000));
        assert_eq!(input("CLAUDE-sonnet-4-5"), Some(1_000_000));
        assert_eq!(input("openai/gpt-4o"), Some(2_500_000));
        assert_eq!(input("something-new"), Some(9_000_000));
        assert_eq!(Prices::default().find("something-new"), None);
        assert_eq!(Prices::default().fallback(), None);
        assert_eq!(table.fallback().map(|price| price.input), Some(9_000_000));
    }

    #[test]
    fn the_models_that_the_documents_and_the_demo_name_have_a_price() {
        let table = Prices::default();
        for model in
            ["claude-sonnet-4-6", "claude-opus-4-6", "claude-haiku-4-5", "gpt-5.4", "gpt-5.4-mini", "gpt-5.1"]
        {
            assert!(table.find(model).is_some(), "{model}");
        }
        assert!(table.find("gpt-5.4-pro").is_none(), "a dearer one");
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, is_one) in [
            ("gpt-4o", "gpt-4o", true),
            ("gpt-4o", "gpt-4o-mini", false),
            ("gpt-*", "gpt-", true),
            ("*-mini", "gpt-4o-mini", true),
            ("*-mini", "mini", false),
            ("g*4*i", "gpt-4o-mini", true),
            ("g*5*i", "gpt-4o-mini", false),
            ("*", "", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(matches(pattern, name), is_one, "{pattern} {name}");
        }
    }

    #[test]
    fn money_is_rounded_up_to_whole_millionths() {
        let price = prices(&[("m", usd(3.0, 15.0))]).find("m").unwrap();
        assert_eq!(price.cost(&tokens(1_000_000, 0)), 3_000_000);
        assert_eq!(price.cost(&tokens(1, 1)), 18);
        let price = prices(&[("m", usd(0.1, 0.0))]).find("m").unwrap();
        assert_eq!(price.cost(&tokens(1, 0)), 1);
        assert_eq!(price.cost(&tokens(u64::MAX, 0)), u64::MAX / 10 + 1);
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for wrong in [f64::NAN, -1.0, f64::INFINITY, USD_MAX * 2.0] {
            let table = BTreeMap::from([("m".to_owned(), usd(wrong, 1.0))]);
            assert_eq!(Prices::new(&table).unwrap_err().pattern, "m");
        }
    }
}
