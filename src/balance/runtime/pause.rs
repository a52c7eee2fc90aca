//! Runtimes that were not driven for a while: what came meanwhile lies unread in their sockets.
//!
//! A `current_thread` runtime runs only inside `block_on`. A program that drives it only during calls (a command-line tool, a binding
//! for another language) finds there the end of the connection that the next call would be sent over, and timers that are late.
//! Two ticks of the runtime before the first call read the one and run the others. The workers of a multi-threaded runtime read at
//! once, unless the system does not schedule them: a call that follows a longer pause waits for one of their ticks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::balance::runtime::nanos::Nanos;

/// A call that begins so long after the channel was last seen to run follows a pause. Below it ticks would cost busy runtimes time.
const PAUSE: Duration = Duration::from_millis(1);
/// The same for a multi-threaded runtime, which seldom needs it.
const PAUSE_OF_WORKERS: Duration = Duration::from_millis(10);
/// The time is written at most this often, in nanoseconds. It is a quarter of [`PAUSE`].
const WRITE_INTERVAL_NS: u64 = 250_000;
/// One tick polls for events, and one runs the tasks that they wake …
const TICKS: usize = 2;
/// … but a tick runs 61 tasks at most, and a connection has about two.
const CONNECTIONS_PER_TICK: usize = 32;

/// Remembers when the runtime of a channel was last seen to run. All times count from the channel's epoch.
pub(crate) struct PauseDetector {
    last_ns: AtomicU64,
}

impl PauseDetector {
    pub(crate) fn new() -> Self {
        Self { last_ns: AtomicU64::new(0) }
    }

    /// Returns how long the runtime may have stood still before `now`, if that is a pause.
    pub(crate) fn pause_before(&self, now: Nanos) -> Option<Duration> {
        let pause = Duration::from_nanos(now.0.saturating_sub(self.last_ns.load(Ordering::Relaxed)));
        (pause >= PAUSE).then_some(pause)
    }

    /// Notes that the runtime runs: a call begins without a pause, has caught up, or gets its response.
    pub(crate) fn mark_running(&self, Nanos(now): Nanos) {
        // All callers share the number: those that come often read it and seldom write.
        if now.saturating_sub(self.last_ns.load(Ordering::Relaxed)) > WRITE_INTERVAL_NS {
            self.last_ns.store(now, Ordering::Relaxed);
        }
    }

    /// Lets the runtime do what has come up in a pause. Until it has, other calls that begin see the pause too.
    pub(crate) async fn catch_up(&self, pause: Duration, connections: usize, epoch: Instant) {
        let Ok(runtime) = Handle::try_current() else { return };
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            for _ in 0..TICKS + connections / CONNECTIONS_PER_TICK {
                yield_now().await;
            }
        } else if pause >= PAUSE_OF_WORKERS {
            // On a worker: the thread of `block_on` does not poll for events. It fails only if the runtime ends.
            let _ = runtime.spawn(yield_now()).await;
        }
        self.mark_running(Nanos::new(epoch.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_follows_a_pause_waits_for_ticks() {
        let detector = PauseDetector::new();
        let seen = [5000, 5001, 5990, 6980, 8000, 8001, 100].map(|micros| {
            let at = Nanos(micros * 1_000);
            let pause = detector.pause_before(at);
            assert_eq!(detector.pause_before(at), pause, "for all that begin at the same moment");
            detector.mark_running(at);
            pause.is_some()
        });
        assert_eq!(seen, [true, false, false, false, true, false, false]);
    }
}
