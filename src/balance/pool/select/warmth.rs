//! [`Warmth`]: since when one server warms up. PURE.

use std::time::Duration;

/// A server that was not ready for longer than this warms up anew. A connection that a server ends in
/// order (GOAWAY) is replaced sooner.
const SHORT_LOSS: Duration = Duration::from_secs(1);

/// Since when a server warms up, if it does. Times count from any fixed moment.
///
/// A server of the channel's first set is warm when it becomes ready for the first time: it may have run
/// for long. One that was added later warms up from then on. One that was not ready for more than a second
/// warms up anew; after a shorter loss it goes on as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Warmth {
    phase: Phase,
    /// When the server became ready, if it has to warm up from there. Its time may be over.
    since: Option<Duration>,
}

/// Whether the server is ready, as far as its warmth goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has never been ready. At its first time it is warm, or not.
    New {
        is_warm: bool,
    },
    Ready,
    /// It was ready until then.
    Down(Duration),
}

impl Warmth {
    /// A server that comes into the channel, in its first set of servers or later.
    pub(crate) fn added(is_first_set: bool) -> Self {
        Self { phase: Phase::New { is_warm: is_first_set }, since: None }
    }

    /// The server is ready. To say so again changes nothing.
    pub(crate) fn ready(&mut self, now: Duration) {
        let begins_anew = match self.phase {
            Phase::New { is_warm } => !is_warm,
            Phase::Ready => false,
            Phase::Down(lost) => now.saturating_sub(lost) > SHORT_LOSS,
        };
        self.phase = Phase::Ready;
        if begins_anew {
            self.since = Some(now);
        }
    }

    /// The server is not ready. To say so again changes nothing, and neither does it before the server has
    /// been ready for the first time.
    pub(crate) fn down(&mut self, now: Duration) {
        if self.phase == Phase::Ready {
            self.phase = Phase::Down(now);
        }
    }

    /// From when on the server warms up, or has warmed up. `None` if it was warm all the time.
    pub(crate) fn since(&self) -> Option<Duration> {
        self.since
    }
}
