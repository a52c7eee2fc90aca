//! Peak EWMA: a moving average of latency that believes bad news soon, and forgets it within
//! seconds. PURE.
//!
//! After Finagle's, which believes bad news at once. Of thousands of calls one is always slow, so
//! here it takes either some time or several slow responses in a row.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::balance::runtime::nanos::Nanos;

/// An observation this long ago weighs 1/e. Finagle has 10 s; with 2 s a server that was slow once
/// gets calls again sooner, and a slow one is still tried only every few seconds.
const DECAY_NS: f64 = 2e9;
/// Bad news about a server that is seldom asked counts ten times as fast.
const RISE_NS: f64 = 2e8;
/// The weight of one response, as far as its call was under way after the response before: a server
/// that is asked often is known by what it did in the time of ten calls. Calls that were under way
/// at the same time say the same.
const ANSWER_WEIGHT: f64 = 0.1;
/// A shorter idle time gives a response no more weight: a tenth of [`RISE_NS`].
const SELDOM_NS: u64 = 20_000_000;
/// One response of a server that is asked often counts as at most this many times slower than the
/// average: a moment in which it stood still does not make it slow, five calls in a row do.
const MAX_RATIO: f64 = 4.0;

/// What a channel expects of a server's latency.
///
/// Exhaustive, so that a policy that compares servers handles each case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyEstimate {
    /// Nothing is known, and no call was sent within the last second. [`PeakEwma`](crate::policy::PeakEwma) takes the
    /// median of the other servers for it.
    Unknown,
    /// Nothing is known yet. A call that was sent within the last second has no response yet, or
    /// calls have failed recently.
    Awaited,
    /// The time from a call's start to the headers of its response.
    Known(Duration),
}

/// The moving average of one server. Two observations that race lose one of thousands.
#[derive(Default)]
pub(crate) struct Latency {
    /// Nanoseconds, as the bits of a float.
    average: AtomicU64,
    /// The time of the last observation, in nanoseconds since the epoch; 0 before the first.
    last_observed: AtomicU64,
    /// How many responses in a row, of calls one after the other, have confirmed the average.
    confirmations: AtomicU32,
}

impl Latency {
    /// Adds a response that took this long; `now` is the time since the epoch.
    pub(crate) fn observe(&self, took: Nanos, now: Nanos) {
        let now = now.0.max(1);
        let last = self.last_observed.swap(now, Ordering::Relaxed);
        let known = f64::from_bits(self.average.load(Ordering::Relaxed));
        let took = took.0 as f64;
        let average = if last == 0 {
            took
        } else {
            // While the call was under way the server was not idle.
            let idle = now.saturating_sub(last).saturating_sub(took as u64);
            let before = self.faded(known, idle);
            let weight = || 1.0 - decay(idle, if took > before { RISE_NS } else { DECAY_NS });
            if idle >= SELDOM_NS && weight() > ANSWER_WEIGHT {
                before + (took - before) * weight()
            } else {
                let new = (now.saturating_sub(last) as f64 / took.max(1.0)).min(1.0);
                before + (took.min(before * MAX_RATIO) - before) * ANSWER_WEIGHT * new
            }
        };
        self.average.store(average.to_bits(), Ordering::Relaxed);
        if took >= known * 2.0 || known >= took * 2.0 {
            self.confirmations.store(1, Ordering::Relaxed);
        } else if now.saturating_sub(last) as f64 >= took {
            let confirmations = self.confirmations.load(Ordering::Relaxed);
            self.confirmations.store(confirmations.saturating_add(1), Ordering::Relaxed);
        }
    }

    /// The average in nanoseconds, faded since the last observation or since `from`, whichever is
    /// later, and faded the faster the fewer responses confirm it. `None` before the first response.
    pub(crate) fn estimate(&self, now: Duration, from: Duration) -> Option<f64> {
        let last = self.last_observed.load(Ordering::Relaxed);
        let from = last.max(Nanos::new(from).0);
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        (last != 0).then(|| self.faded(average, Nanos::new(now).0.saturating_sub(from)))
    }

    /// The average after a time without observations, in nanoseconds: an average that few responses
    /// confirm fades within 200 ms, one that ten confirm within 2 s.
    fn faded(&self, average: f64, elapsed: u64) -> f64 {
        let time = RISE_NS * f64::from(self.confirmations.load(Ordering::Relaxed).max(1));
        average * decay(elapsed, time.min(DECAY_NS))
    }

    /// The average as of the last observation.
    pub(crate) fn average(&self) -> Option<Duration> {
        let is_known = self.last_observed.load(Ordering::Relaxed) != 0;
        is_known.then(|| Duration::from_nanos(f64::from_bits(self.average.load(Ordering::Relaxed)) as u64))
    }
}

/// The weight of an observation after `elapsed`, which falls to 1/e in `time`; both in nanoseconds.
fn decay(elapsed: u64, time: f64) -> f64 {
    let part = elapsed as f64 / time;
    // Between the calls of a busy server little time passes, and there the series is exact to 1e-9.
    if part < 1e-3 { 1.0 - part + part * part / 2.0 } else { (-part).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn observe(latency: &Latency, took: Duration, now: Duration) {
        latency.observe(Nanos::new(took), Nanos::new(now));
    }

    #[test]
    fn bad_news_after_a_silence_counts_at_once_and_fades() {
        let latency = Latency::default();
        assert_eq!((latency.average(), latency.estimate(ms(5), ms(0))), (None, None));
        observe(&latency, ms(1), ms(1_000));
        observe(&latency, ms(20), ms(3_000));
        assert!(latency.average() > Some(Duration::from_micros(19_900)));
        for step in 0..2000 {
            observe(&latency, ms(1), ms(3_001 + step * 10));
        }
        assert!(latency.average() < Some(Duration::from_micros(1_100)));
        let at = |now, from| latency.estimate(ms(now), ms(from)).unwrap();
        assert!(at(27_002, 0) < at(23_002, 0) / 4.0);
        assert!(at(27_002, 27_000) > at(23_002, 0) * 0.9);
    }

    #[test]
    fn one_slow_call_of_many_is_no_slow_server_and_slow_calls_are_soon() {
        let latency = Latency::default();
        for step in 0..1000 {
            observe(&latency, if step % 100 == 99 { ms(20) } else { ms(1) }, ms(1_000 + step));
        }
        assert!(latency.average() < Some(ms(4)), "{:?}", latency.average());
        // With twenty of them on their way at any time.
        for step in 0..500 {
            observe(&latency, ms(20), ms(2_000 + step));
        }
        assert!(latency.average() > Some(ms(16)), "{:?}", latency.average());
    }

    #[test]
    fn a_moment_without_answers_is_over_with_the_moment() {
        let latency = Latency::default();
        (0..100).for_each(|step| observe(&latency, ms(1), ms(1_000 + step)));
        let estimate = |now| latency.estimate(ms(now), ms(0)).unwrap() / 1e6;
        (0..20).for_each(|_| observe(&latency, ms(50), ms(1_150)));
        assert!(estimate(1_150) < 3.0, "{} ms after one moment", estimate(1_150));
        (1..=20).for_each(|step| observe(&latency, ms(50), ms(1_150 + 50 * step)));
        assert!(estimate(2_150) > 30.0, "{} ms, as all were slow", estimate(2_150));
        (1..=40).for_each(|step| observe(&latency, ms(1), ms(2_150 + step)));
        assert!(estimate(2_190) < 2.0, "{} ms, as all were fast again", estimate(2_190));
    }
}
