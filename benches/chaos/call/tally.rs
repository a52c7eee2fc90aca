//! What one worker has seen of its calls.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::{Duration, Instant};

use greeter_proto::HelloReply;
use tonic::{Response, Status};

use super::histogram::Histogram;
use crate::outcome::{Failure, Outcome, STEP_MS, add};

/// Ways to fail that are told apart, in one worker.
const WAYS: usize = 20;

pub(crate) struct Tally {
    began: Instant,
    answered: u64,
    failed: u64,
    durations: Histogram,
    slowest: Duration,
    answered_by: HashMap<String, Vec<u64>>,
    first_answer_ms: HashMap<String, u64>,
    failed_in: Vec<u64>,
    failures: Vec<Failure>,
}

impl Tally {
    /// Steps are counted from `began`.
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            answered: 0,
            failed: 0,
            durations: Histogram::new(),
            slowest: Duration::ZERO,
            answered_by: HashMap::new(),
            first_answer_ms: HashMap::new(),
            failed_in: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn count(&mut self, called: Instant, answer: &Result<Response<HelloReply>, Status>) {
        let now = Instant::now();
        let took = now - called;
        self.slowest = self.slowest.max(took);
        let step = ((now - self.began).as_millis() as u64 / STEP_MS) as usize;
        match answer {
            Ok(response) => {
                self.answered += 1;
                self.durations.record(took);
                let server = response.metadata().get("x-served-by").and_then(|server| server.to_str().ok());
                count(self.answered_by_mut(server.unwrap_or("unknown")), step);
            }
            Err(status) => {
                self.failed += 1;
                count(&mut self.failed_in, step);
                let failure = Failure { code: format!("{:?}", status.code()), text: text(status), count: 1 };
                merge(&mut self.failures, failure, WAYS);
            }
        }
    }

    fn answered_by_mut(&mut self, server: &str) -> &mut Vec<u64> {
        if !self.answered_by.contains_key(server) {
            self.answered_by.insert(server.to_owned(), Vec::new());
            self.first_answer_ms.insert(server.to_owned(), self.began.elapsed().as_millis() as u64);
        }
        self.answered_by.get_mut(server).expect("put there above")
    }
}

/// All workers' calls together.
pub(crate) fn total<'a>(tallies: impl Iterator<Item = &'a Tally>, seconds: f64) -> Outcome {
    let mut outcome = Outcome { seconds, ..Outcome::default() };
    let (mut durations, mut slowest) = (Histogram::new(), Duration::ZERO);
    for tally in tallies {
        outcome.answered += tally.answered;
        outcome.failed += tally.failed;
        durations.add(&tally.durations);
        slowest = slowest.max(tally.slowest);
        add(&mut outcome.failed_in, &tally.failed_in);
        for (server, steps) in &tally.answered_by {
            add(outcome.answered_by.entry(server.clone()).or_default(), steps);
        }
        for (server, ms) in &tally.first_answer_ms {
            let first = outcome.first_answer_ms.entry(server.clone()).or_insert(*ms);
            *first = *ms.min(first);
        }
        for failure in &tally.failures {
            merge(&mut outcome.failures, failure.clone(), usize::MAX);
        }
    }
    outcome.p50_ms = durations.percentile_ms(50.0);
    outcome.p99_ms = durations.percentile_ms(99.0);
    outcome.slowest_ms = slowest.as_secs_f64() * 1e3;
    outcome
}

fn count(steps: &mut Vec<u64>, step: usize) {
    if steps.len() <= step {
        steps.resize(step + 1, 0);
    }
    steps[step] += 1;
}

fn merge(failures: &mut Vec<Failure>, new: Failure, ways: usize) {
    if let Some(known) = failures.iter_mut().find(|known| known.code == new.code && known.text == new.text) {
        known.count += new.count;
    } else if failures.len() < ways {
        failures.push(new);
    } else {
        let other = Failure { code: "other".into(), text: "further ways to fail".into(), count: new.count };
        merge(failures, other, usize::MAX);
    }
}

/// The message and what lies under it.
fn text(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = status.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
