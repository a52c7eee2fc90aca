//! A runtime that was not driven for a while: what came meanwhile lies unread in its sockets.
//!
//! A `current_thread` runtime runs only inside of `block_on`. A program that drives it for each call alone (a command-line
//! tool, a binding for another language) finds there the end of the connection that the next call would be sent over, and
//! timers that are late. Two turns of the runtime before the first call read the one and run the others. Workers of a
//! runtime read at once, unless the system lets them wait: a call that follows a longer pause waits for a turn of theirs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::Instant;

/// A call that begins so long after the last sign of life of a channel follows a pause. On a busy runtime a turn costs time:
/// calls that come often take none.
const PAUSE: Duration = Duration::from_millis(1);
/// The same where workers drive the runtime, who need it seldom.
const PAUSE_OF_WORKERS: Duration = Duration::from_millis(10);
/// So often the time is written at most.
const SELDOM_NS: u64 = 250_000;
/// One turn polls for events, and one runs the tasks that they wake …
const TURNS: usize = 2;
/// … but a turn runs 61 tasks at most.
const SERVERS_PER_TURN: usize = 32;

/// When the runtime of a channel was last seen to run.
///
/// Times are since the epoch of the channel: whoever has one needs it for more than this.
pub(crate) struct PauseDetector {
    last_ns: AtomicU64,
}

impl PauseDetector {
    pub(crate) fn new() -> Self {
        Self { last_ns: AtomicU64::new(0) }
    }

    /// How long the runtime may have stood still before `now`, where that is a pause.
    pub(crate) fn before(&self, now: Duration) -> Option<Duration> {
        let still = Duration::from_nanos(nanos(now).saturating_sub(self.last_ns.load(Ordering::Relaxed)));
        (still >= PAUSE).then_some(still)
    }

    /// The runtime runs: a call begins without a pause, has caught up, or is answered.
    pub(crate) fn runs(&self, now: Duration) {
        let now = nanos(now);
        // Where calls come often, they share the number and seldom write it.
        if now.saturating_sub(self.last_ns.load(Ordering::Relaxed)) > SELDOM_NS {
            self.last_ns.store(now, Ordering::Relaxed);
        }
    }

    /// Lets the runtime do what has come up in a pause. Until it has, calls that begin meanwhile see the pause too.
    pub(crate) async fn catch_up(&self, still: Duration, servers: usize, epoch: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            for _ in 0..TURNS + servers / SERVERS_PER_TURN {
                yield_now().await;
            }
        } else if still >= PAUSE_OF_WORKERS {
            // On a worker: the thread of `block_on` polls for no events. It fails only with the runtime.
            let _ = runtime.spawn(yield_now()).await;
        }
        self.runs(epoch.elapsed());
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_follows_a_pause_waits_for_turns() {
        let pauses = PauseDetector::new();
        let seen = [5000, 5001, 5990, 6980, 8000, 8001, 100].map(|micros| {
            let at = Duration::from_micros(micros);
            let pause = pauses.before(at);
            assert_eq!(pauses.before(at), pause, "for all that begin at the same moment");
            pauses.runs(at);
            pause.is_some()
        });
        assert_eq!(seen, [true, false, false, false, true, false, false]);
    }
}
