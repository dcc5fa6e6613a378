//! Figures: requests by operation and status, and how long they took, as OpenMetrics text.

use std::{
    fmt::Write,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use freehold_api::operations;

/// Upper bounds of the buckets, in microseconds.
const BUCKETS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];
/// Statuses that are counted one by one; all others are counted together.
const STATUSES: [u16; 17] =
    [200, 201, 202, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 500, 502, 503, 0];

/// The figures of one operation.
#[derive(Default)]
struct Figures {
    by_status: [AtomicU64; STATUSES.len()],
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

/// The figures of the server.
pub(crate) struct Metrics {
    operations: Vec<(&'static str, Figures)>,
    /// Requests that are being served, streams included.
    active: AtomicI64,
}

impl Metrics {
    pub fn new() -> Self {
        let ids = operations().map(|operation| operation.id).chain(["unrouted"]);
        Self { operations: ids.map(|id| (id, Figures::default())).collect(), active: AtomicI64::new(0) }
    }

    /// The index of the figures for what is no operation.
    pub fn unrouted(&self) -> usize {
        self.operations.len() - 1
    }

    pub fn begun(&self) {
        self.active.fetch_add(1, Relaxed);
    }

    pub fn ended(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// Counts an answer whose head was made after `took`.
    pub fn answered(&self, operation: usize, status: u16, took: Duration) {
        let Some((_, figures)) = self.operations.get(operation) else { return };
        let slot = STATUSES.iter().position(|one| *one == status).unwrap_or(STATUSES.len() - 1);
        figures.by_status[slot].fetch_add(1, Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BUCKETS.iter().position(|bound| micros <= *bound) {
            figures.buckets[bucket].fetch_add(1, Relaxed);
        }
        figures.count.fetch_add(1, Relaxed);
        figures.micros.fetch_add(micros, Relaxed);
    }

    /// The figures as text.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(32 * 1024);
        // Writing to a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# TYPE freehold_http_requests counter")?;
        writeln!(out, "# HELP freehold_http_requests Requests answered, by operation and status.")?;
        for (id, figures) in &self.operations {
            for (status, count) in STATUSES.iter().zip(&figures.by_status) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let status = if *status == 0 { "other".to_owned() } else { status.to_string() };
                    writeln!(
                        out,
                        "freehold_http_requests_total{{operation=\"{id}\",status=\"{status}\"}} {count}"
                    )?;
                }
            }
        }
        writeln!(out, "# TYPE freehold_http_request_seconds histogram")?;
        writeln!(out, "# UNIT freehold_http_request_seconds seconds")?;
        writeln!(
            out,
            "# HELP freehold_http_request_seconds Time until the head of the answer, by operation."
        )?;
        for (id, figures) in self.operations.iter().filter(|(_, figures)| figures.count.load(Relaxed) > 0) {
            let name = "freehold_http_request_seconds";
            let mut sum = 0;
            for (bound, count) in BUCKETS.iter().zip(&figures.buckets) {
                sum += count.load(Relaxed);
                writeln!(out, "{name}_bucket{{operation=\"{id}\",le=\"{}\"}} {sum}", seconds(*bound))?;
            }
            // Read after the buckets, so that it is never less than their sum.
            let count = figures.count.load(Relaxed).max(sum);
            writeln!(out, "{name}_bucket{{operation=\"{id}\",le=\"+Inf\"}} {count}")?;
            writeln!(out, "{name}_count{{operation=\"{id}\"}} {count}")?;
            writeln!(out, "{name}_sum{{operation=\"{id}\"}} {}", seconds(figures.micros.load(Relaxed)))?;
        }
        writeln!(out, "# TYPE freehold_http_requests_active gauge")?;
        writeln!(out, "# HELP freehold_http_requests_active Requests being served, streams included.")?;
        writeln!(out, "freehold_http_requests_active {}", self.active.load(Relaxed))?;
        writeln!(out, "# EOF")
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
