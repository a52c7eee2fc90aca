//! The pauses between retries of what is asked of etcd. PURE: the clock and the seed are arguments.

use std::time::Duration;

/// The pause after the second failure. There is none after the first one: most breaks are over
/// before anyone could wait.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause while an outage is young, so that recovery is seen within a second.
const SOON: Duration = Duration::from_millis(800);
/// The longest pause once an outage is old, and the pause after an error that only people can
/// repair.
const SLOW: Duration = Duration::from_secs(5);
/// An outage is young for this long.
const YOUNG: Duration = Duration::from_secs(60);

/// Pauses of 0, 100 ms, 200 ms, … 0.8 s for the first minute of an outage, then up to 5 s. Jitter
/// takes away up to half of each pause and never adds to it. `now` is the time since any fixed
/// start, the same for every call.
///
/// Calls to servers have their own backoffs, with other growth and other caps, which users set.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// The failures since the last success.
    failures: u32,
    /// When the outage began.
    since: Duration,
    /// The jitter.
    random: Random,
}

impl Backoff {
    /// No failure yet.
    pub(crate) fn new(seed: u64) -> Self {
        Self { failures: 0, since: Duration::ZERO, random: Random(seed) }
    }

    /// Takes a failure. Gives the pause before the next try. With `permanent` only people can
    /// repair it, and the pause is the longest.
    pub(crate) fn fail(&mut self, now: Duration, permanent: bool) -> Duration {
        if self.failures == 0 {
            self.since = now;
        }
        let step = self.failures;
        self.failures = self.failures.saturating_add(1);
        let cap = if now.saturating_sub(self.since) < YOUNG { SOON } else { SLOW };
        let wait = match step {
            _ if permanent => SLOW,
            0 => Duration::ZERO,
            _ => FIRST.saturating_mul(1 << (step - 1).min(16)).min(cap),
        };
        self.between(wait / 2, wait)
    }

    /// Takes a success: the next failure begins a new outage.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// A random duration from `low` to `high`.
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let share = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        low + high.saturating_sub(low).mul_f64(share)
    }

    /// A random number.
    pub(crate) fn random(&mut self) -> u64 {
        self.random.next()
    }
}

/// Random numbers of a seed (`SplitMix64`), for pure code.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn climbs_from_zero_to_its_caps() {
        let mut backoff = Backoff::new(7);
        assert_eq!(backoff.fail(ms(0), false), ms(0));
        for cap in [100, 200, 400, 800, 800, 800] {
            let wait = backoff.fail(ms(1_000), false);
            assert!(wait >= ms(cap) / 2 && wait <= ms(cap), "{wait:?} for {cap} ms");
        }
        let late = (0..50).map(|_| backoff.fail(ms(61_000), false)).max().unwrap();
        assert!(late > ms(800) && late <= ms(5_000), "{late:?}");
        backoff.reset();
        assert_eq!(backoff.fail(ms(61_001), false), ms(0));
        assert!(backoff.fail(ms(61_002), true) >= ms(2_500));
    }

    proptest! {
        #[test]
        fn never_passes_the_cap_of_its_age((seed, times) in failures()) {
            cap_holds(seed, times)?;
        }
    }

    fn cap_holds(seed: u64, times: Vec<(u64, bool)>) -> TestCaseResult {
        let mut backoff = Backoff::new(seed);
        let mut now = Duration::ZERO;
        for (step, permanent) in times {
            let wait = backoff.fail(now, permanent);
            let cap = if now < YOUNG && !permanent { SOON } else { SLOW };
            prop_assert!(wait <= cap);
            prop_assert!(!permanent || wait >= SLOW / 2);
            now += ms(step);
        }
        Ok(())
    }

    fn failures() -> impl Strategy<Value = (u64, Vec<(u64, bool)>)> {
        (any::<u64>(), proptest::collection::vec((0u64..200_000, any::<bool>()), 1..100))
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, any::<u64>(), (0u64..200_000, any::<bool>()), |seed, times| {
            cap_holds(seed, times)
        });
    }
}
