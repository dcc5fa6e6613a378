//! Measured times and what is said of them.
//!
//! Invariant: a percentile is a time that was measured (nearest rank), never an interpolation.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Times of one kind, in the order they were taken.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<Duration>);

/// What is said of some times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many there are.
    pub n: usize,
    /// Half of them are at most this long.
    pub p50: Duration,
    /// Nine in ten are at most this long.
    pub p90: Duration,
    /// Ninety-nine in a hundred are at most this long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Samples {
    /// Adds a time.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Adds the times of others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The summary of all; zeros when there are none.
    pub fn summary(&self) -> Summary {
        summary(&self.0)
    }

    /// Summaries of each `size` in a row, and of all that remain.
    pub fn blocks(&self, size: usize) -> Vec<Summary> {
        self.0.chunks(size.max(1)).map(summary).collect()
    }
}

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        Self(times.into_iter().collect())
    }
}

fn summary(times: &[Duration]) -> Summary {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = |per_hundred: usize| {
        let index = (sorted.len() * per_hundred).div_ceil(100).saturating_sub(1);
        sorted.get(index).copied().unwrap_or_default()
    };
    Summary { n: sorted.len(), p50: rank(50), p90: rank(90), p99: rank(99), max: rank(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Samples {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let summary = of((1..=200).rev()).summary();
        let millis = [summary.p50, summary.p90, summary.p99, summary.max].map(|time| time.as_millis());
        assert_eq!((summary.n, millis), (200, [100, 180, 198, 200]));
        let one = of([7]).summary();
        assert_eq!([one.p50, one.p99, one.max], [Duration::from_millis(7); 3]);
        assert_eq!(of([]).summary().p99, Duration::ZERO);
    }

    #[test]
    fn blocks_keep_the_order_of_measuring() {
        let blocks = of(1..=5).blocks(2);
        assert_eq!(blocks.iter().map(|block| block.max.as_millis()).collect::<Vec<_>>(), [2, 4, 5]);
    }
}
