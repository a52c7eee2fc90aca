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
/// One turn polls for events, and one runs the tasks that they wake …
const TURNS: usize = 2;
/// … but a turn runs 61 tasks at most.
const SERVERS_PER_TURN: usize = 32;

/// When the runtime of a channel was last seen to run.
pub(crate) struct Stillness {
    epoch: Instant,
    last_ns: AtomicU64,
}

impl Stillness {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), last_ns: AtomicU64::new(0) }
    }

    /// A call began, or its answer did; how long it was since the last.
    pub(crate) fn end(&self, now: Instant) -> Duration {
        let now = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let still = Duration::from_nanos(now.saturating_sub(self.last_ns.load(Ordering::Relaxed)));
        // Where calls come often, they share the number and seldom write it.
        if still > PAUSE / 4 {
            self.last_ns.store(now, Ordering::Relaxed);
        }
        still
    }
}

/// Whether a call that follows `still` time without any may find its connection's end unread.
pub(crate) fn is_pause(still: Duration) -> bool {
    still >= PAUSE
}

/// Lets the runtime do what has come up in a pause of so long.
pub(crate) async fn catch_up(still: Duration, servers: usize) {
    let Ok(runtime) = Handle::try_current() else { return };
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        for _ in 0..TURNS + servers / SERVERS_PER_TURN {
            yield_now().await;
        }
    } else if still >= PAUSE_OF_WORKERS {
        // On a worker: the thread of `block_on` polls for no events. It fails only with the runtime.
        let _ = runtime.spawn(yield_now()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_call_that_follows_a_pause_waits_for_turns() {
        let stillness = Stillness::new();
        let pauses = [5000, 5001, 5990, 6980, 8000, 8001, 100].map(|micros| {
            let at = stillness.epoch + Duration::from_micros(micros);
            is_pause(stillness.end(at))
        });
        assert_eq!(pauses, [true, false, false, false, true, false, false]);
    }
}
