//! What follows an attempt to connect and the end of a connection: whether calls wait for the next one, in which order it is
//! made, and when. PURE.

use std::time::Duration;

use crate::balance::subchannel::connect_order::Rank;

/// As in gRPC's connection-backoff document, with shorter times: etcd takes a dead server out within its TTL, so that a
/// refused connection mostly means one that is just starting.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
const FACTOR: f64 = 1.6;
const JITTER: f64 = 0.2;
/// A connection that lasted so long, or that answered a call, was a good one: the next is made at once.
const GOOD: Duration = Duration::from_millis(500);
/// How often in a row a connection may be a short one before calls fail and do not wait for the next.
const FLAPS: i32 = 3;
/// An attempt that fails within so long was refused.
const REFUSAL: Duration = Duration::from_secs(1);
/// What ends so long after its time means that nobody drove the runtime: it says nothing of the server.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// One server's attempts and connections, as they come.
pub(crate) struct Reconnect {
    rank: Rank,
    /// Attempts that failed, and connections that were short, in a row.
    failures: i32,
    /// The last connection was a good one: a server that restarts refuses the first attempt that follows it.
    was_good: bool,
    /// The last failure was put down to a restart or to the runtime: the latter not twice in a row.
    was_excused: bool,
}

/// The next attempt.
#[derive(Debug, PartialEq)]
pub(crate) struct Next {
    /// Whether calls wait for it. Where they do for no server, they fail.
    pub(crate) awaited: bool,
    /// When it is made, from when the last one began: one that took long does not wait on top of that.
    pub(crate) after: Duration,
}

impl Reconnect {
    pub(crate) fn new() -> Self {
        Self { rank: Rank::New, failures: 0, was_good: false, was_excused: false }
    }

    /// In which order the next attempt stands.
    pub(crate) fn rank(&self) -> Rank {
        self.rank
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

    /// The connection has ended. `random` is drawn from 0 to 1.
    pub(crate) fn ended(&mut self, lasted: Duration, has_answered: bool, random: f64) -> Next {
        if lasted >= GOOD || has_answered {
            (self.failures, self.was_good) = (0, true);
            return Next { awaited: true, after: Duration::ZERO };
        }
        // Calls wait a while for one that comes and goes, as in gRPC, and not for ever.
        let awaited = self.failures < FLAPS;
        Next { awaited, after: self.back_off(random) }
    }

    /// An attempt failed, which took so long of the time that it had.
    pub(crate) fn failed(&mut self, took: Duration, timeout: Duration, random: f64) -> Next {
        let restarts = std::mem::take(&mut self.was_good) && took < REFUSAL;
        let stood_still = took >= timeout + LATE;
        self.was_excused = restarts || (stood_still && !self.was_excused);
        let next = Next { awaited: self.was_excused, after: self.back_off(random) };
        self.rank = Rank::failing(self.failures);
        next
    }

    fn back_off(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let grown = FIRST_BACKOFF.as_secs_f64() * FACTOR.powi((self.failures - 1).clamp(0, 64));
        let wait = grown.min(LAST_BACKOFF.as_secs_f64());
        Duration::from_secs_f64(wait * (1.0 + JITTER * (2.0 * random - 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn refused(next: &mut Reconnect) -> (bool, u128) {
        let next = next.failed(ms(1), TIMEOUT, 0.5);
        (next.awaited, next.after.as_millis())
    }

    #[test]
    fn waits_grow_to_their_cap_with_jitter() {
        let mut server = Reconnect::new();
        let waits: Vec<_> = (0..12).map(|_| refused(&mut server).1).collect();
        assert_eq!((&waits[..3], waits[11]), (&[100, 160, 256][..], 10_000));
        server.failures = i32::MAX;
        assert_eq!(refused(&mut server), (false, 10_000));
        let jitter = |random| Reconnect::new().failed(ms(1), TIMEOUT, random).after.as_millis();
        assert_eq!((jitter(0.0), jitter(1.0)), (80, 120));
    }

    #[test]
    fn after_a_good_connection_the_next_is_made_at_once_and_one_refusal_is_excused() {
        for (lasted, has_answered) in [(ms(500), false), (ms(1), true)] {
            let mut server = Reconnect::new();
            server.connected();
            assert_eq!(server.ended(lasted, has_answered, 0.5), Next { awaited: true, after: Duration::ZERO });
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
            assert_eq!(server.ended(ms(1), false, 0.5).awaited, expected);
        }
    }

    #[test]
    fn a_runtime_that_stood_still_excuses_one_failure() {
        let mut server = Reconnect::new();
        let mut late = || server.failed(TIMEOUT + LATE, TIMEOUT, 0.5).awaited;
        assert_eq!([late(), late(), late()], [true, false, true]);
        assert!(!Reconnect::new().failed(TIMEOUT, TIMEOUT, 0.5).awaited, "that is how a silent server fails");
    }
}
