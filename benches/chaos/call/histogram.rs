//! Durations, counted in a fixed space: what grows with the calls would hide what grows with the channel.

use std::time::Duration;

/// Steps in each power of two: no duration is off by more than 1.6 %.
const STEPS: u64 = 64;

/// Durations in microseconds, counted.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    counts: Vec<u32>,
    max: Duration,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        // Up to 2^32 µs, more than an hour.
        Self { counts: vec![0; place(u64::from(u32::MAX)) + 1], max: Duration::ZERO }
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        let micros = duration.as_micros().min(u128::from(u32::MAX)) as u64;
        self.counts[place(micros)] += 1;
        self.max = self.max.max(duration);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, count) in self.counts.iter_mut().zip(&other.counts) {
            *sum += count;
        }
        self.max = self.max.max(other.max);
    }

    /// Not a number when there is none.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        let total: u64 = self.counts.iter().map(|count| u64::from(*count)).sum();
        let wanted = (total as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += u64::from(*count);
            if seen >= wanted {
                return value(place as u64) as f64 / 1e3;
            }
        }
        f64::NAN
    }
}

/// Where a value is counted: its power of two, and the step in it.
fn place(micros: u64) -> usize {
    let power = u64::from((micros / STEPS).checked_ilog2().unwrap_or(0));
    // The first power's steps begin at 0, those of each other at half of its range.
    (power * STEPS + (micros >> power)) as usize
}

/// The smallest value that is counted there.
fn value(place: u64) -> u64 {
    if place < 2 * STEPS {
        return place;
    }
    let power = place / STEPS - 1;
    (place - power * STEPS) << power
}
