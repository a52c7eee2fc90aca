//! Peak EWMA: a moving average of latency that believes bad news soon, and forgets it in seconds. PURE.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was seen so long ago counts for 1/e. Finagle takes 10 s; two let a server that was slow once back in sooner, and
/// a slow one is still asked only every few seconds.
const DECAY_NS: f64 = 2e9;
/// Bad news counts ten times as fast. Finagle believes it at once, which at thousands of calls a second makes the slowest of
/// them the average of a fast server, and sends a hundredth of the calls to a slow one. A server that is seldom
/// asked is believed at once here too.
const RISE_NS: f64 = 2e8;

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
        let average = if told == 0 {
            took
        } else {
            let keep = keep(now.saturating_sub(told), if took > before { RISE_NS } else { DECAY_NS });
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
        f64::from_bits(self.average.load(Ordering::Relaxed)) * keep(nanos(now).saturating_sub(told), DECAY_NS)
    }

    /// The average as it was last told.
    pub(crate) fn average(&self) -> Option<Duration> {
        let told = self.told.load(Ordering::Relaxed) != 0;
        told.then(|| Duration::from_nanos(f64::from_bits(self.average.load(Ordering::Relaxed)) as u64))
    }
}

fn keep(elapsed: u64, time: f64) -> f64 {
    (-(elapsed as f64) / time).exp()
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
        assert_eq!((latency.average(), latency.estimate(ms(5)).to_bits()), (None, 0));
        latency.observe(ms(1), ms(1_000));
        latency.observe(ms(20), ms(3_000));
        assert!(latency.average() > Some(Duration::from_micros(19_900)));
        for step in 0..2000 {
            latency.observe(ms(1), ms(3_001 + step * 10));
        }
        assert!(latency.average() < Some(Duration::from_micros(1_100)));
        let fresh = latency.estimate(ms(23_002));
        assert!(latency.estimate(ms(27_002)) < fresh / 4.0);
    }

    #[test]
    fn one_slow_call_of_many_is_no_slow_server_and_slow_calls_are_soon() {
        let latency = Latency::default();
        for step in 0..1000 {
            latency.observe(if step % 100 == 99 { ms(20) } else { ms(1) }, ms(1_000 + step));
        }
        assert!(latency.average() < Some(ms(4)), "{:?}", latency.average());
        for step in 0..500 {
            latency.observe(ms(20), ms(2_000 + step));
        }
        assert!(latency.average() > Some(ms(18)), "{:?}", latency.average());
    }
}
