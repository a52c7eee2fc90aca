//! The stream of the last exchange on a connection that has no other.
//!
//! h2 wakes the connection when the last handle of a finished stream is dropped, so that a
//! connection that nobody uses can close. If calls follow one another, that is one poll of the
//! driver for each call that finds nothing to do. So the handle is kept until the next request has
//! woken the driver anyway.
//!
//! A handle that is kept keeps its connection open. Therefore none is kept on a connection that
//! drains or that has no [`Connection`](crate::connection::Connection) left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use h2::RecvStream;

/// Keeps at most one finished stream.
#[derive(Default)]
pub(super) struct FinishedStream {
    /// A stream is kept. Lets calls skip the lock.
    has_any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stream: Option<RecvStream>,
    /// No stream is kept any more.
    is_closed: bool,
}

impl FinishedStream {
    /// Keeps a stream until the next request, if streams are still kept.
    pub(super) fn keep(&self, stream: RecvStream) {
        // What is dropped takes h2's lock, and may wake the driver: after this lock.
        let _dropped = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_closed {
                Some(stream)
            } else {
                self.has_any.store(true, Ordering::Release);
                state.stream.replace(stream)
            }
        };
    }

    /// Drops the stream that is kept. To be called when the driver has been woken.
    #[inline]
    pub(super) fn release(&self) {
        if self.has_any.load(Ordering::Acquire) {
            self.take(false);
        }
    }

    /// Drops the stream that is kept, and keeps none from now on.
    pub(super) fn close(&self) {
        self.take(true);
    }

    #[cfg(test)]
    pub(super) fn is_any(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    fn take(&self, close: bool) {
        let _dropped = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.is_closed |= close;
            self.has_any.store(false, Ordering::Relaxed);
            state.stream.take()
        };
    }
}
