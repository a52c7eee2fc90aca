//! PURE: the durations of the OK calls of a declared method over the last minute, for a quantile of them.
//!
//! A histogram in atomics, which costs a call two additions. The minute is six windows of ten seconds; the oldest is used again
//! for the next. Races between calls at the turn of a window lose some of thousands of calls.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// From so many calls on there is a quantile.
const MIN_CALLS: u32 = 100;
const WINDOWS: usize = 6;
const WINDOW_SECONDS: u64 = 10;
/// Buckets for each power of two: a quantile is at most an eighth too large.
const BUCKETS_PER_POWER: usize = 8;
/// Shorter times, in nanoseconds, are in the first bucket: 2¹⁶ are 66 µs, far less than a timer can tell.
const FIRST_POWER: usize = 16;
/// Longer times are in the last bucket: 2³⁸ ns are 275 s, longer than the windows.
const LAST_POWER: usize = 38;
const BUCKETS: usize = (LAST_POWER - FIRST_POWER) * BUCKETS_PER_POWER;
/// How long a quantile is used before it is computed again.
const REFRESH: Duration = Duration::from_millis(500);

/// The durations of one declared method's, or service's, calls.
pub(crate) struct Durations {
    windows: [Window; WINDOWS],
    /// The last quantile in nanoseconds, and until when it is used; 0 before the first.
    quantile: AtomicU64,
    used_until: AtomicU64,
}

struct Window {
    /// The number of ten seconds since the epoch that it counts, plus one; 0 if it counts nothing yet.
    number: AtomicU64,
    count: AtomicU32,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Durations {
    fn default() -> Self {
        let window = || Window {
            number: AtomicU64::new(0),
            count: AtomicU32::new(0),
            buckets: std::array::from_fn(|_| AtomicU32::new(0)),
        };
        Self { windows: std::array::from_fn(|_| window()), quantile: AtomicU64::new(0), used_until: AtomicU64::new(0) }
    }
}

impl Durations {
    /// Adds a call that ended now.
    pub(crate) fn add(&self, took: Duration, now: Duration) {
        let number = window_number(now);
        let window = &self.windows[number as usize % WINDOWS];
        if window.number.swap(number, Ordering::Relaxed) != number {
            window.count.store(0, Ordering::Relaxed);
            window.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        }
        window.buckets[bucket_of(took)].fetch_add(1, Ordering::Relaxed);
        window.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the time within which this part of the calls ended; `None` before [`MIN_CALLS`] in the last minute. Half a second
    /// old at most.
    pub(crate) fn quantile(&self, part: f64, now: Duration) -> Option<Duration> {
        let now_ns = nanos(now);
        if now_ns < self.used_until.load(Ordering::Relaxed) {
            return Some(Duration::from_nanos(self.quantile.load(Ordering::Relaxed)));
        }
        let latest = window_number(now);
        let is_recent = |window: &&Window| {
            let number = window.number.load(Ordering::Relaxed);
            number != 0 && number + WINDOWS as u64 > latest
        };
        let recent = self.windows.iter().filter(is_recent);
        let count: u32 = recent.clone().map(|window| window.count.load(Ordering::Relaxed)).sum();
        if count < MIN_CALLS {
            return None;
        }
        let wanted = (f64::from(count) * part).ceil().max(1.0) as u32;
        let mut seen = 0;
        let bucket = (0..BUCKETS).find(|bucket| {
            seen += recent.clone().map(|window| window.buckets[*bucket].load(Ordering::Relaxed)).sum::<u32>();
            seen >= wanted
        });
        let quantile = end_of(bucket.unwrap_or(BUCKETS - 1));
        self.quantile.store(nanos(quantile), Ordering::Relaxed);
        self.used_until.store(nanos(now + REFRESH), Ordering::Relaxed);
        Some(quantile)
    }
}

fn window_number(now: Duration) -> u64 {
    now.as_secs() / WINDOW_SECONDS + 1
}

fn bucket_of(took: Duration) -> usize {
    let nanos = nanos(took).max(1 << FIRST_POWER);
    let power = nanos.ilog2() as usize;
    let part = (nanos >> (power - 3)) as usize % BUCKETS_PER_POWER; // the three bits after the first
    ((power - FIRST_POWER) * BUCKETS_PER_POWER + part).min(BUCKETS - 1)
}

/// Returns where a bucket ends.
fn end_of(bucket: usize) -> Duration {
    let (power, part) = (FIRST_POWER + bucket / BUCKETS_PER_POWER, bucket % BUCKETS_PER_POWER);
    Duration::from_nanos((BUCKETS_PER_POWER + part + 1) as u64 * (1 << (power - 3)))
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
    fn each_time_is_in_a_bucket_that_ends_at_most_an_eighth_later() {
        for exponent in 0..64 {
            for nanos in [1_u64 << exponent, (1 << exponent) + 1, (1 << exponent) / 7 * 9, (1 << exponent) - 1] {
                let time = Duration::from_nanos(nanos);
                let end = end_of(bucket_of(time));
                if (FIRST_POWER as u32..LAST_POWER as u32).contains(&nanos.max(1).ilog2()) {
                    assert!(time < end && end <= time + time / 8 + Duration::from_nanos(8), "{time:?} {end:?}");
                }
            }
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 1);
        assert_eq!(bucket_of(Duration::ZERO), 0);
    }

    #[test]
    fn the_quantile_is_of_a_hundred_calls_or_more() {
        let durations = Durations::default();
        for call in 1..=99 {
            durations.add(ms(call), ms(1000));
            assert_eq!(durations.quantile(0.9, ms(1000)), None);
        }
        durations.add(ms(100), ms(1000));
        let quantile = durations.quantile(0.9, ms(1000)).unwrap();
        assert!(quantile >= ms(90) && quantile <= ms(102), "{quantile:?}");
        (0..1000).for_each(|_| durations.add(ms(5), ms(1100)));
        assert_eq!(durations.quantile(0.9, ms(1499)), Some(quantile), "computed twice a second at most");
        assert!(durations.quantile(0.9, ms(1500)).unwrap() < ms(10));
    }

    #[test]
    fn calls_of_more_than_a_minute_ago_are_forgotten() {
        let durations = Durations::default();
        (0..100).for_each(|_| durations.add(ms(50), ms(1000)));
        assert!(durations.quantile(0.5, ms(59_999)).is_some());
        assert_eq!(durations.quantile(0.5, ms(60_500)), None);
        (0..99).for_each(|_| durations.add(ms(1), ms(61_000)));
        assert_eq!(durations.quantile(0.5, ms(61_000)), None, "the window was emptied");
        (0..50).for_each(|_| durations.add(ms(1), ms(72_000)));
        assert!(durations.quantile(0.99, ms(72_000)).unwrap() < ms(2));
        assert!(durations.quantile(0.99, ms(10_000_000)).is_none());
    }
}
