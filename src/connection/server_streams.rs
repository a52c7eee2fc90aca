//! Counts the streams of all connections to one server, and limits them together.
//!
//! A server has one if several connections to it are allowed, or if its owner limits what it gets.
//! Otherwise its only connection counts by itself, and no call pays for this.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The streams in flight on all connections of one server, those that are draining included, and
/// how many there may be.
///
/// The order of its operations is that of [`StreamCapacity`](super::capacity::StreamCapacity): only
/// [`ServerStreams::release`] needs one, with a task that is about to wait.
#[derive(Debug)]
pub(crate) struct ServerStreams {
    /// `usize::MAX` if only the server's own limit holds, which each connection has for itself.
    limit: usize,
    in_flight: AtomicUsize,
}

/// What the end of a stream has made room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freed {
    /// The server was at its limit: any of its connections may have a stream for it now.
    Server,
    /// The server had room before: the connection of the stream alone has one more.
    Connection,
}

impl ServerStreams {
    /// No stream is in flight yet. `None` is no limit.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), in_flight: AtomicUsize::new(0) }
    }

    /// Takes one stream, if there is room. Each success needs one [`ServerStreams::release`].
    pub(super) fn reserve(&self) -> bool {
        let reserve = |count: usize| (count < self.limit).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_ok()
    }

    /// Gives one stream back.
    pub(super) fn release(&self) -> Freed {
        // Sequentially consistent with the check of a task that begins to wait, see
        // `CapacityListener::freed`.
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before < self.limit { Freed::Connection } else { Freed::Server }
    }

    /// The number of streams that can be reserved now, as far as this limit goes.
    pub(crate) fn available(&self) -> usize {
        self.limit.saturating_sub(self.in_flight())
    }

    /// The number of streams that are open or reserved.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_end_of_a_stream_tells_who_has_room() {
        let streams = ServerStreams::new(Some(2));
        assert!(streams.reserve() && streams.reserve() && !streams.reserve());
        assert_eq!((streams.in_flight(), streams.available()), (2, 0));
        assert_eq!([streams.release(), streams.release()], [Freed::Server, Freed::Connection]);
        let streams = ServerStreams::new(None);
        assert!(streams.reserve());
        assert_eq!((streams.available(), streams.release()), (usize::MAX - 1, Freed::Connection));
    }

    #[test]
    fn many_threads_never_take_more_than_there_are() {
        let streams = Arc::new(ServerStreams::new(Some(3)));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if streams.reserve() {
                            assert!(streams.in_flight() <= 3);
                            streams.release();
                        }
                    }
                });
            }
        });
        assert_eq!(streams.in_flight(), 0);
    }
}
