//! What a client process says at its end, and the questions that scenarios ask of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Calls are counted in steps of this.
pub(crate) const STEP_MS: u64 = 100;

/// One run of a client.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// How long calls were begun.
    pub(crate) seconds: f64,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    /// Calls without any answer some time after the end.
    pub(crate) hanging: u64,
    /// Of answered calls.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Of all calls.
    pub(crate) slowest_ms: f64,
    /// Answered calls of each server, in steps of their end.
    pub(crate) answered_by: BTreeMap<String, Vec<u64>>,
    /// When each server answered its first call.
    pub(crate) first_answer_ms: BTreeMap<String, u64>,
    /// Failed calls, in steps of their end.
    pub(crate) failed_in: Vec<u64>,
    pub(crate) failures: Vec<Failure>,
    /// The most calls in flight at a server, in steps.
    pub(crate) most_in_flight: BTreeMap<String, Vec<u64>>,
    /// Of the client process.
    pub(crate) samples: Vec<Sample>,
    pub(crate) cpu_seconds: f64,
}

/// Calls that failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: String,
    /// The message and what lies under it.
    pub(crate) text: String,
    pub(crate) count: u64,
}

/// What the client process holds at a time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) at_ms: u64,
    pub(crate) memory_kb: u64,
    pub(crate) tasks: u64,
    pub(crate) files: u64,
}

impl Outcome {
    /// Answered calls per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// Answered calls in each step, of all servers.
    pub(crate) fn answered_in(&self) -> Vec<u64> {
        let mut total = Vec::new();
        for steps in self.answered_by.values() {
            add(&mut total, steps);
        }
        total
    }

    /// Calls that a server answered in `[from, to)`.
    pub(crate) fn answered_by_between(&self, server: &str, from_ms: u64, to_ms: u64) -> u64 {
        self.answered_by.get(server).map_or(0, |steps| between(steps, from_ms, to_ms))
    }

    /// The part of the answered calls that a server answered.
    pub(crate) fn share_of(&self, server: &str) -> f64 {
        self.answered_by_between(server, 0, u64::MAX) as f64 / self.answered as f64
    }

    /// The most calls in flight at a server in the step of that time and its neighbours.
    pub(crate) fn in_flight_at(&self, server: &str, at_ms: u64) -> Option<u64> {
        let step = (at_ms / STEP_MS) as usize;
        let steps = self.most_in_flight.get(server)?;
        steps.get(step.saturating_sub(1)..(step + 2).min(steps.len()))?.iter().copied().max()
    }

    /// The median of samples taken in `[from, to)`.
    pub(crate) fn sampled(&self, what: impl Fn(&Sample) -> u64, from_ms: u64, to_ms: u64) -> f64 {
        let within = self.samples.iter().filter(|sample| (from_ms..to_ms).contains(&sample.at_ms));
        median(within.map(|sample| what(sample) as f64).collect())
    }
}

/// The sum of the steps in `[from, to)`.
pub(crate) fn between(steps: &[u64], from_ms: u64, to_ms: u64) -> u64 {
    let steps = steps.iter().zip((0..).step_by(STEP_MS as usize));
    steps.filter(|(_, at)| (from_ms..to_ms).contains(at)).map(|(count, _)| count).sum()
}

/// Adds steps to steps.
pub(crate) fn add(total: &mut Vec<u64>, steps: &[u64]) {
    total.resize(total.len().max(steps.len()), 0);
    for (sum, step) in total.iter_mut().zip(steps) {
        *sum += step;
    }
}

/// Not a number when there is nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
