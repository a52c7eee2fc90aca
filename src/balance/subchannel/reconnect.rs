//! Decides what follows an attempt to connect or the end of a connection: whether calls wait for the
//! next attempt, when that is made, and at which [`Rank`]. PURE.

use std::time::Duration;

use crate::balance::subchannel::connect_order::Rank;

/// The backoff of gRPC's connection-backoff document, with shorter times (gRPC: 1 s, × 1.6, up to
/// 120 s): etcd removes a dead server when its lease ends, so a refused connection usually means a
/// server that is just starting.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// The longest backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// From one backoff to the next.
const BACKOFF_FACTOR: f64 = 1.6;
/// The part of a backoff that is added or taken away at random, at most.
const JITTER: f64 = 0.2;
/// A connection that lasted this long, or over which a call ended with OK, was a good one: the next
/// attempt is made at once.
const GOOD_AFTER: Duration = Duration::from_millis(500);
/// How many short connections in a row calls wait after, before they fail instead.
const MAX_SHORT_CONNECTIONS: i32 = 3;
/// An attempt that fails within this time was refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// What ends this long after its time shows that the runtime stood still: it says nothing about the
/// server.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// The attempts and connections of one server so far. The supervisor reports each, and does what
/// [`NextAttempt`] says.
pub(crate) struct Reconnect {
    /// Of the next attempt.
    rank: Rank,
    /// Attempts that failed, and connections that were short, in a row.
    failures: i32,
    /// The last connection was a good one: a server that restarts refuses the first attempt after
    /// it.
    was_good: bool,
    /// The last failure was put down to a restart, or to a runtime that stood still; to the latter
    /// not twice in a row.
    was_excused: bool,
}

/// The next attempt to connect.
#[derive(Debug, PartialEq)]
pub(crate) struct NextAttempt {
    /// Whether calls wait for it. If they wait for no server, they fail.
    pub(crate) calls_wait: bool,
    /// When it is made, from the beginning of the last attempt: one that took long does not wait on
    /// top of that.
    pub(crate) delay: Duration,
}

impl Reconnect {
    /// Of a server that was never tried.
    pub(crate) fn new() -> Self {
        Self { rank: Rank::New, failures: 0, was_good: false, was_excused: false }
    }

    /// The rank of the next attempt.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
    }

    /// The rank of the next attempt, if it is for one more connection of a server that has one.
    pub(crate) fn further_rank(&self) -> Rank {
        Rank::further(self.failures)
    }

    /// Whether nothing has failed since the last good connection.
    pub(crate) fn is_well(&self) -> bool {
        self.failures == 0
    }

    /// An attempt gave a connection.
    pub(crate) fn connected(&mut self) {
        self.rank = Rank::Connected;
        self.was_excused = false;
    }

    /// The connection has ended. `random` is between 0 and 1.
    pub(crate) fn ended(&mut self, lasted: Duration, had_ok_call: bool, random: f64) -> NextAttempt {
        if lasted >= GOOD_AFTER || had_ok_call {
            (self.failures, self.was_good) = (0, true);
            return NextAttempt { calls_wait: true, delay: Duration::ZERO };
        }
        // As in gRPC, calls wait for a connection that comes and goes, but not for ever.
        let calls_wait = self.failures < MAX_SHORT_CONNECTIONS;
        NextAttempt { calls_wait, delay: self.back_off(random) }
    }

    /// An attempt failed after the time that it `took` of its `timeout`. `random` is between 0 and
    /// 1.
    pub(crate) fn failed(&mut self, took: Duration, timeout: Duration, random: f64) -> NextAttempt {
        let is_restart = std::mem::take(&mut self.was_good) && took < REFUSED_WITHIN;
        let stood_still = took >= timeout + LATE;
        self.was_excused = is_restart || (stood_still && !self.was_excused);
        let next = NextAttempt { calls_wait: self.was_excused, delay: self.back_off(random) };
        self.rank = Rank::failing(self.failures);
        next
    }

    /// Counts a failure, and returns the backoff that follows it.
    fn back_off(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let grown = FIRST_BACKOFF.as_secs_f64() * BACKOFF_FACTOR.powi((self.failures - 1).clamp(0, 64));
        let wait = grown.min(MAX_BACKOFF.as_secs_f64());
        Duration::from_secs_f64(wait * (1.0 + JITTER * (2.0 * random - 1.0)))
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Connected,
        /// A connection ends, after so many milliseconds, with or without an OK call.
        Ended(u64, bool, f64),
        /// An attempt fails, after so many milliseconds.
        Failed(u64, f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Connected),
            (0_u64..1_000, any::<bool>(), 0.0..=1.0).prop_map(|(ms, ok, random)| Step::Ended(ms, ok, random)),
            (0_u64..7_000, 0.0..=1.0).prop_map(|(ms, random)| Step::Failed(ms, random)),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(step(), 0..150)
    }

    fn pauses_are_bounded(steps: &[Step]) {
        let (mut server, mut bad) = (Reconnect::new(), 0_u32);
        for step in steps {
            let next = match step {
                Step::Connected => {
                    server.connected();
                    assert_eq!(server.rank(), Rank::Connected);
                    continue;
                }
                Step::Ended(lasted, had_ok_call, random) => {
                    let (rank, lasted) = (server.rank(), ms(*lasted));
                    let next = server.ended(lasted, *had_ok_call, *random);
                    assert_eq!(server.rank(), rank, "the end of a connection says nothing of the next attempt");
                    if lasted >= GOOD_AFTER || *had_ok_call {
                        bad = 0;
                        assert_eq!(next, NextAttempt { calls_wait: true, delay: Duration::ZERO });
                        assert!(server.is_well());
                        continue;
                    }
                    bad += 1;
                    next
                }
                Step::Failed(took, random) => {
                    bad += 1;
                    let next = server.failed(ms(*took), TIMEOUT, *random);
                    assert_ne!(server.rank(), Rank::Connected);
                    next
                }
            };
            assert!(!server.is_well());
            let (least, most) = (FIRST_BACKOFF.mul_f64(1.0 - JITTER), MAX_BACKOFF.mul_f64(1.0 + JITTER));
            assert!((least..=most).contains(&next.delay), "{next:?}");
            assert!(bad < 12 || next.delay >= MAX_BACKOFF.mul_f64(1.0 - JITTER), "{next:?} after {bad}");
        }
    }

    proptest! {
        #[test]
        fn a_pause_is_within_its_bounds(steps in steps()) {
            pauses_are_bounded(&steps);
        }
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), step(), |(), steps| {
            pauses_are_bounded(&steps);
            Ok(())
        });
    }

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn refused(next: &mut Reconnect) -> (bool, u128) {
        let next = next.failed(ms(1), TIMEOUT, 0.5);
        (next.calls_wait, next.delay.as_millis())
    }

    #[test]
    fn waits_grow_to_their_cap_with_jitter() {
        let mut server = Reconnect::new();
        let waits: Vec<_> = (0..12).map(|_| refused(&mut server).1).collect();
        assert_eq!((&waits[..3], waits[11]), (&[100, 160, 256][..], 10_000));
        server.failures = i32::MAX;
        assert_eq!(refused(&mut server), (false, 10_000));
        let jitter = |random| Reconnect::new().failed(ms(1), TIMEOUT, random).delay.as_millis();
        assert_eq!((jitter(0.0), jitter(1.0)), (80, 120));
    }

    #[test]
    fn after_a_good_connection_the_next_is_made_at_once_and_one_refusal_is_excused() {
        for (lasted, had_ok_call) in [(ms(500), false), (ms(1), true)] {
            let mut server = Reconnect::new();
            server.connected();
            assert_eq!(server.ended(lasted, had_ok_call, 0.5), NextAttempt { calls_wait: true, delay: Duration::ZERO });
            assert_eq!(server.rank(), Rank::Connected);
            assert_eq!(refused(&mut server), (true, 100));
            assert_eq!(server.rank(), Rank::failing(1));
            assert_eq!(refused(&mut server), (false, 160));
            assert!(!server.is_well());
        }
    }

    #[test]
    fn calls_wait_a_few_times_for_a_connection_that_comes_and_goes() {
        let mut server = Reconnect::new();
        let awaited = [true, true, true, false, false];
        for expected in awaited {
            server.connected();
            assert_eq!(server.ended(ms(1), false, 0.5).calls_wait, expected);
        }
    }

    #[test]
    fn a_runtime_that_stood_still_excuses_one_failure() {
        let mut server = Reconnect::new();
        let mut late = || server.failed(TIMEOUT + LATE, TIMEOUT, 0.5).calls_wait;
        assert_eq!([late(), late(), late()], [true, false, true]);
        assert!(!Reconnect::new().failed(TIMEOUT, TIMEOUT, 0.5).calls_wait, "that is how a silent server fails");
    }
}
