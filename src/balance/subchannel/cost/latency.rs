//! Peak EWMA: a moving average of latency that believes bad news soon, and forgets it in seconds. PURE.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// What was seen so long ago counts for 1/e. Finagle takes 10 s; two let a server that was slow once back in sooner, and
/// a slow one is still asked only every few seconds.
const DECAY_NS: f64 = 2e9;
/// Bad news of a server that is seldom asked counts ten times as fast; Finagle believes it at once.
const RISE_NS: f64 = 2e8;
/// How much an answer counts at least, as far as its call was on its way after the answer before: a server that is asked often is
/// known by what it did in the time of ten calls. Calls of the same time tell the same.
const LEAST: f64 = 0.1;
/// Below this no idle time makes an answer count for more: a tenth of [`RISE_NS`].
const SELDOM_NS: u64 = 20_000_000;
/// How much slower than the average one answer of such a server is believed to be: a moment in which it stood still makes it
/// not slow, five calls in a row do.
const MOST: f64 = 4.0;

/// What a channel expects of a server's latency.
///
/// Exhaustive, so that a policy that compares servers handles each case.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyEstimate {
    /// Nothing is known, and no call is asking: the server should get one.
    Unknown,
    /// Nothing is known yet. A call was sent within the last second, or calls have ended badly.
    Awaited,
    /// The time from a call's start to the head of its answer.
    Known(Duration),
}

/// Nanoseconds, as the bits of a float; two stores that race lose one sample of thousands.
#[derive(Default)]
pub(crate) struct Latency {
    average: AtomicU64,
    /// When it was last told, since the epoch; 0 before that.
    told: AtomicU64,
    /// How many answers in a row have borne the average out, each of a call that began after the one before had ended.
    in_a_row: AtomicU32,
}

impl Latency {
    /// A call took so long to answer; `now` is the time since the epoch.
    pub(crate) fn observe(&self, took: Duration, now: Duration) {
        let now = nanos(now).max(1);
        let told = self.told.swap(now, Ordering::Relaxed);
        let known = f64::from_bits(self.average.load(Ordering::Relaxed));
        let took = nanos(took) as f64;
        let average = if told == 0 {
            took
        } else {
            // While a call was on its way the server was asked.
            let idle = now.saturating_sub(told).saturating_sub(took as u64);
            let before = self.faded(known, idle);
            let counts = || 1.0 - keep(idle, if took > before { RISE_NS } else { DECAY_NS });
            if idle >= SELDOM_NS && counts() > LEAST {
                before + (took - before) * counts()
            } else {
                let new = (now.saturating_sub(told) as f64 / took.max(1.0)).min(1.0);
                before + (took.min(before * MOST) - before) * LEAST * new
            }
        };
        self.average.store(average.to_bits(), Ordering::Relaxed);
        if took >= known * 2.0 || known >= took * 2.0 {
            self.in_a_row.store(1, Ordering::Relaxed);
        } else if now.saturating_sub(told) as f64 >= took {
            // Calls that were on their way at the same time tell the same.
            self.in_a_row.store(self.in_a_row.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        }
    }

    /// The estimate in nanoseconds, fading from when it was last told, or from a later time, and the sooner the fewer answers it
    /// is made of.
    pub(crate) fn estimate(&self, now: Duration, from: Duration) -> Option<f64> {
        let told = self.told.load(Ordering::Relaxed);
        let from = told.max(nanos(from));
        let average = f64::from_bits(self.average.load(Ordering::Relaxed));
        (told != 0).then(|| self.faded(average, nanos(now).saturating_sub(from)))
    }

    fn faded(&self, average: f64, elapsed: u64) -> f64 {
        let time = RISE_NS * f64::from(self.in_a_row.load(Ordering::Relaxed).max(1));
        average * keep(elapsed, time.min(DECAY_NS))
    }

    /// The average as it was last told.
    pub(crate) fn average(&self) -> Option<Duration> {
        let told = self.told.load(Ordering::Relaxed) != 0;
        told.then(|| Duration::from_nanos(f64::from_bits(self.average.load(Ordering::Relaxed)) as u64))
    }
}

fn keep(elapsed: u64, time: f64) -> f64 {
    let part = elapsed as f64 / time;
    // Between the calls of a busy server little time passes, and the series is exact to 1e-9.
    if part < 1e-3 { 1.0 - part + part * part / 2.0 } else { (-part).exp() }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn bad_news_after_a_silence_counts_at_once_and_fades() {
        let latency = Latency::default();
        assert_eq!((latency.average(), latency.estimate(ms(5), ms(0))), (None, None));
        latency.observe(ms(1), ms(1_000));
        latency.observe(ms(20), ms(3_000));
        assert!(latency.average() > Some(Duration::from_micros(19_900)));
        for step in 0..2000 {
            latency.observe(ms(1), ms(3_001 + step * 10));
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
            latency.observe(if step % 100 == 99 { ms(20) } else { ms(1) }, ms(1_000 + step));
        }
        assert!(latency.average() < Some(ms(4)), "{:?}", latency.average());
        // With twenty of them on their way at any time.
        for step in 0..500 {
            latency.observe(ms(20), ms(2_000 + step));
        }
        assert!(latency.average() > Some(ms(16)), "{:?}", latency.average());
    }

    #[test]
    fn a_moment_without_answers_is_over_with_the_moment() {
        let latency = Latency::default();
        (0..100).for_each(|step| latency.observe(ms(1), ms(1_000 + step)));
        let estimate = |now| latency.estimate(ms(now), ms(0)).unwrap() / 1e6;
        (0..20).for_each(|_| latency.observe(ms(50), ms(1_150)));
        assert!(estimate(1_150) < 3.0, "{} ms after one moment", estimate(1_150));
        (1..=20).for_each(|step| latency.observe(ms(50), ms(1_150 + 50 * step)));
        assert!(estimate(2_150) > 30.0, "{} ms, as all were slow", estimate(2_150));
        (1..=40).for_each(|step| latency.observe(ms(1), ms(2_150 + step)));
        assert!(estimate(2_190) < 2.0, "{} ms, as all were fast again", estimate(2_190));
    }
}
