//! Counters and histograms: what ran, what was missed and why, how long locks were held.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::lock::{Class, held};

/// Runs that did not happen, by cause.
#[derive(Default, Debug)]
pub struct Misses {
    /// The program, or another of its kind, was running on this very slot.
    pub recursion: AtomicU64,
    /// The slot belonged to another thread.
    pub busy_slot: AtomicU64,
    /// An interrupt that was put off found no room.
    pub lost: AtomicU64,
    /// An interrupt came while such ones were kept out: under a raw lock, or in a handler.
    pub masked: AtomicU64,
}

impl Misses {
    /// All of them.
    pub fn total(&self) -> u64 {
        [&self.recursion, &self.busy_slot, &self.lost, &self.masked]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }
}

/// Powers of two that a histogram tells apart: up to about 9 minutes in nanoseconds.
const BUCKETS: usize = 40;

/// Durations by power of two.
pub struct Histogram {
    counts: [AtomicU64; BUCKETS],
    max: AtomicU64,
}

impl Histogram {
    /// An empty one.
    pub const fn new() -> Histogram {
        Histogram { counts: [const { AtomicU64::new(0) }; BUCKETS], max: AtomicU64::new(0) }
    }

    /// Counts a duration.
    pub fn record(&self, ns: u64) {
        let bucket = (64 - ns.leading_zeros() as usize).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.max.fetch_max(ns, Ordering::Relaxed);
    }

    /// Forgets everything; what is recorded meanwhile may be forgotten or not.
    pub fn clear(&self) {
        self.counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.max.store(0, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The longest, ns.
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// The bound, ns, under which `share` of the durations lie (0.999 for the 99.9th percentile).
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count.load(Ordering::Relaxed);
            if seen >= wanted.max(1) {
                return (1u64 << bucket) - 1;
            }
        }
        0
    }

    /// Upper bound of each bucket, ns, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(bucket, count)| ((1u64 << bucket) - 1, count.load(Ordering::Relaxed)))
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

static HOLDS: [Histogram; Class::ALL.len()] = [const { Histogram::new() }; Class::ALL.len()];

/// Turns hold-time histograms on or off, for the whole process. They cost two clock reads a lock.
pub fn time_locks(on: bool) {
    held::time(on);
}

/// How long locks of a class were held.
pub fn holds(class: Class) -> &'static Histogram {
    &HOLDS[class as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_bound_what_was_recorded() {
        let histogram = Histogram::new();
        (0..1000).for_each(|_| histogram.record(100));
        histogram.record(1_000_000);
        assert_eq!(histogram.count(), 1001);
        assert_eq!(histogram.quantile(0.5), 127);
        assert_eq!(histogram.quantile(1.0), (1 << 20) - 1);
        assert_eq!(histogram.max(), 1_000_000);
    }
}
