//! Counts the streams of a connection against the limit of its server.
//!
//! [`StreamCapacity`] is what a call reads before it is sent: two atomics, no lock. It says both
//! how many streams may still be opened and whether the connection is closing, so that a call needs
//! to look at nothing else.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Notified when streams become available. The caller of a connection implements it to wake calls
/// that wait for a stream.
pub(crate) trait CapacityListener: Send + Sync {
    /// `streams` more streams are available. Called at the end of each exchange, so it must be
    /// cheap when nothing waits. With 0 the connection has become idle: whoever waits may
    /// [probe](super::handle::Connection::probe) it.
    ///
    /// The streams are available before this call. Both sides use sequentially consistent
    /// operations: a task that registers itself and then checks the capacity either sees the free
    /// stream or is seen by this call.
    fn freed(&self, streams: usize);
}

/// Wakes one task. That task has to check for more capacity and to wake the next.
impl CapacityListener for Notify {
    fn freed(&self, _: usize) {
        self.notify_one();
    }
}

/// The highest bit of `in_flight`: no stream may be opened any more. It makes every count larger
/// than any limit.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The number of streams in flight, and the number that the server accepts.
///
/// The operations on each atomic are ordered by themselves. Between the two, only
/// [`StreamCapacity::release`] and [`StreamCapacity::set_limit`] need an order, with a task that is
/// about to wait: see [`CapacityListener::freed`]. A caller that reads an old limit opens one
/// stream too many at worst, which h2 queues.
///
/// - `limit` is 0 until the server's SETTINGS have come and while the connection is idle. Streams
///   that are no exchanges ([`uncounted`](crate::connection::exchange::uncounted)) take their part
///   of the server's limit off it, so that calls pay nothing for them.
/// - `in_flight` is changed by callers. Once it has the bit [`CLOSED`] it keeps it: a closing
///   connection never opens again.
/// - `announced` is the limit as the driver knows it, with the part of uncounted streams.
#[derive(Default)]
pub(super) struct StreamCapacity {
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    announced: AtomicUsize,
    /// The number of uncounted streams. Held while `limit` is made anew of it and `announced`.
    uncounted: Mutex<usize>,
    /// Notified when `announced` becomes 1.
    one_stream: Notify,
}

impl StreamCapacity {
    /// Takes one stream, if one is available. Each success needs one [`StreamCapacity::release`].
    pub(super) fn reserve(&self) -> bool {
        let limit = self.limit();
        let reserve = |count: usize| (count < limit).then_some(count + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_ok()
    }

    /// Gives one stream back. Returns whether another can be opened for it: not while more are open
    /// than the server accepts, which may have lowered its limit, and not on a closing connection.
    pub(super) fn release(&self) -> bool {
        // Sequentially consistent with the check of a task that begins to wait, see
        // `CapacityListener::freed`; and with a change of the limit, so that one of the two tells of this stream.
        let before = self.in_flight.fetch_sub(1, Ordering::SeqCst);
        before <= self.limit.load(Ordering::SeqCst)
    }

    /// Sets the number of streams that the server accepts. Returns how many became available, or
    /// `None` if nothing changed.
    pub(super) fn set_limit(&self, limit: usize) -> Option<usize> {
        // h2 says `usize::MAX` for "no limit", which would admit streams on a closing connection.
        let limit = limit.min(CLOSED - 1);
        if limit == self.announced.load(Ordering::Relaxed) {
            return None;
        }
        let freed = self.update_limit(|_| self.announced.store(limit, Ordering::Relaxed));
        if limit == 1 {
            self.one_stream.notify_waiters();
        }
        Some(freed)
    }

    /// Takes one of the server's streams away from exchanges. Needs one
    /// [`StreamCapacity::release_uncounted`].
    pub(super) fn reserve_uncounted(&self) {
        self.update_limit(|uncounted| *uncounted += 1);
    }

    /// Gives it back. Returns how many streams became available.
    pub(super) fn release_uncounted(&self) -> usize {
        self.update_limit(|uncounted| *uncounted -= 1)
    }

    /// Changes a part of the limit, and returns how many streams became available.
    fn update_limit(&self, change: impl FnOnce(&mut usize)) -> usize {
        // A poisoned lock is used on: `limit` is made of the other two each time.
        let mut uncounted = self.uncounted.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut uncounted);
        let limit = self.announced.load(Ordering::Relaxed).saturating_sub(*uncounted);
        let before = self.limit.swap(limit, Ordering::SeqCst);
        limit.saturating_sub(before.max(self.in_flight.load(Ordering::SeqCst)))
    }

    /// Waits until the server accepts one stream at a time.
    pub(super) async fn only_one_stream(&self) {
        loop {
            let mut notified = pin!(self.one_stream.notified());
            notified.as_mut().enable(); // before the look, so that no change is missed
            if self.announced.load(Ordering::Relaxed) == 1 {
                return;
            }
            notified.await;
        }
    }

    /// The number of exchanges that the server accepts at once.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The number of streams that can be opened now.
    pub(super) fn available(&self) -> usize {
        self.limit().saturating_sub(self.in_flight.load(Ordering::Relaxed))
    }

    /// The number of streams that are open or reserved.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed) & !CLOSED
    }

    /// Accepts no further stream, for good. Streams in flight are not touched.
    pub(super) fn close(&self) {
        self.in_flight.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether [`StreamCapacity::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) & CLOSED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_counted_against_the_limit() {
        let capacity = StreamCapacity::default();
        assert!(!capacity.reserve());
        assert_eq!((capacity.set_limit(2), capacity.set_limit(2)), (Some(2), None));
        assert!(capacity.reserve() && capacity.reserve() && !capacity.reserve());
        assert_eq!((capacity.in_flight(), capacity.available(), capacity.set_limit(1)), (2, 0, Some(0)));
        assert!(!capacity.release(), "one is still open, and one is the limit");
        assert!(capacity.release());
    }

    #[test]
    fn uncounted_streams_leave_the_rest_of_the_limit_to_exchanges() {
        let capacity = StreamCapacity::default();
        capacity.reserve_uncounted();
        assert_eq!((capacity.limit(), capacity.set_limit(2), capacity.set_limit(2)), (0, Some(1), None));
        assert!(capacity.reserve() && !capacity.reserve());
        assert_eq!((capacity.in_flight(), capacity.release_uncounted(), capacity.available()), (1, 1, 1));
        capacity.reserve_uncounted();
        assert!(!capacity.release() || capacity.available() == 1);
        assert_eq!((capacity.set_limit(0), capacity.limit()), (Some(0), 0));
        assert_eq!((capacity.release_uncounted(), capacity.set_limit(usize::MAX)), (0, Some(CLOSED - 1)));
        capacity.close();
        capacity.reserve_uncounted();
        assert_eq!(capacity.release_uncounted(), 0);
        assert!(!capacity.reserve());
    }

    #[tokio::test]
    async fn a_limit_of_one_stream_is_told() {
        let capacity = StreamCapacity::default();
        capacity.set_limit(100);
        let told = async {
            capacity.only_one_stream().await;
            capacity.only_one_stream().await; // also who comes later
        };
        let falls = async {
            for limit in [0, 7, 1] {
                tokio::task::yield_now().await;
                capacity.set_limit(limit);
            }
        };
        tokio::join!(told, falls);
    }

    #[test]
    fn a_closed_connection_opens_no_stream_whatever_its_limit() {
        let capacity = StreamCapacity::default();
        capacity.set_limit(usize::MAX);
        assert!(capacity.reserve());
        capacity.close();
        assert!(capacity.is_closed() && !capacity.reserve() && capacity.available() == 0);
        assert_eq!(capacity.set_limit(5), Some(0));
        assert_eq!(capacity.in_flight(), 1);
        assert!(!capacity.release());
        assert_eq!(capacity.in_flight(), 0);
    }
}
