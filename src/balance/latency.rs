//! Peak EWMA: a moving average of latency that believes bad news at once, and forgets it in seconds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was seen so long ago counts for 1/e. Finagle takes 10 s; two let a server that was slow once back in sooner, and
/// a slow one is still asked only every few seconds.
const DECAY_NS: f64 = 2e9;

/// Nanoseconds, as the bits of a float; two stores that race lose one sample of thousands.
#[derive(Default)]
pub(crate) struct Latency {
    average: AtomicU64,
    /// When it was last told, since the server's epoch; 0 before that.
    told: AtomicU64,
}

impl Latency {
    /// A call took so long to answer; `now` is the time since the server's epoch.
    pub(crate) fn observe(&self, took: Duration, now: Duration) {
        let now = nanos(now).max(1);
        let told = self.told.swap(now, Ordering::Relaxed);
        let before = f64::from_bits(self.average.load(Ordering::Relaxed));
        let took = nanos(took) as f64;
        let average = if told == 0 || took >= before {
            took
        } else {
            let keep = keep(now.saturating_sub(told));
            before * keep + took * (1.0 - keep)
        };
        self.average.store(average.to_bits(), Ordering::Relaxed);
    }

    /// The estimate in nanoseconds, fading while nothing is told; 0 before anything was.
    pub(crate) fn estimate(&self, now: Duration) -> f64 {
        let told = self.told.load(Ordering::Relaxed);
        if told == 0 {
            return 0.0;
        }
        f64::from_bits(self.average.load(Ordering::Relaxed)) * keep(nanos(now).saturating_sub(told))
    }

    /// The average as it was last told.
    pub(crate) fn average(&self) -> Option<Duration> {
        let told = self.told.load(Ordering::Relaxed) != 0;
        told.then(|| Duration::from_nanos(f64::from_bits(self.average.load(Ordering::Relaxed)) as u64))
    }
}

fn keep(elapsed: u64) -> f64 {
    (-(elapsed as f64) / DECAY_NS).exp()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_count_at_once_and_fade() {
        let latency = Latency::default();
        let at = Duration::from_millis;
        assert_eq!((latency.average(), latency.estimate(at(5)).to_bits()), (None, 0));
        latency.observe(at(1), at(1000));
        latency.observe(at(20), at(1001));
        assert_eq!(latency.average(), Some(at(20)));
        for step in 0..2000 {
            latency.observe(at(1), at(1002 + step * 10));
        }
        assert!(latency.average() < Some(Duration::from_micros(1100)));
        let fresh = latency.estimate(at(21_002));
        assert!(latency.estimate(at(25_002)) < fresh / 4.0);
    }
}
