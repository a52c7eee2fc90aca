//! Whether a server may be asked for one more connection, and whether somebody has asked.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::sync::Notify;

/// Set by the supervisor, asked by whoever finds no room. Both sides may be late by one step: then a connection is made that
/// nobody needs, or a call asks once more.
#[derive(Default)]
pub(crate) struct Growth {
    /// One of the three below.
    state: AtomicU8,
    /// Notified once somebody has asked.
    asked: Notify,
    /// The last attempt has failed.
    has_failed: AtomicBool,
}

/// No further connection can be made now: the server has as many as it may have, or the last attempt has failed a moment ago.
const CLOSED: u8 = 0;
/// One more can be made.
const OPEN: u8 = 1;
/// One more was asked for, and is being made.
const ASKED: u8 = 2;

impl Growth {
    /// Whether [`Growth::ask`] would have an effect.
    pub(crate) fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Whether a further connection is being made.
    pub(crate) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) == ASKED
    }

    /// Asks for one more connection.
    pub(crate) fn ask(&self) {
        if self.state.compare_exchange(OPEN, ASKED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.asked.notify_one();
        }
    }

    /// Waits until somebody asks.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it loses nothing.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Whether the last further connection that was asked for could not be made.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Says whether the server is held with the connections that it has. Its supervisor looks again if it
    /// no longer is.
    pub(in crate::balance::subchannel) fn set_held(&self, is_held: bool) {
        if is_held {
            self.set(false, false);
        } else {
            self.asked.notify_one();
        }
    }

    /// Says whether the last attempt has failed.
    pub(super) fn set_failed(&self, has_failed: bool) {
        self.has_failed.store(has_failed, Ordering::Relaxed);
    }

    /// Forgets who has asked before now, and what became of it.
    pub(super) fn forget(&self) {
        self.set_failed(false);
        pin!(self.asked.notified()).enable();
    }

    /// Says whether one is being made, and else whether one could be.
    pub(super) fn set(&self, is_making: bool, is_possible: bool) {
        let state = match (is_making, is_possible) {
            (true, _) => ASKED,
            (false, true) => OPEN,
            (false, false) => CLOSED,
        };
        self.state.store(state, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;

    fn was_asked(growth: &Growth) -> bool {
        pin!(growth.asked()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn only_the_first_who_asks_is_heard() {
        let growth = Growth::default();
        growth.ask();
        assert!(!growth.is_asked() && !growth.is_open());
        growth.set(false, true);
        growth.ask();
        growth.ask();
        assert!(growth.is_asked());
        assert!(was_asked(&growth) && !was_asked(&growth));
        growth.set(true, true);
        growth.ask();
        growth.set(false, false);
        growth.ask();
        assert!(!was_asked(&growth));
        growth.set(false, true);
        growth.ask();
        growth.forget();
        assert!(!was_asked(&growth));
    }
}
