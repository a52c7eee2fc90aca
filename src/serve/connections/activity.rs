//! What a connection reports of itself while hyper's task reads and writes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::serve::connections::calls::CallCount;
use crate::serve::connections::wire::InFlightCalls;

/// The activity of one connection. Hyper's task writes it, the lifecycle reads it; atomics, because
/// each fact stands alone.
#[derive(Debug, Default)]
pub(super) struct ConnectionActivity {
    /// The calls in flight, by the connection's bytes. Zero over TLS.
    calls: CallCount,
    /// It speaks TLS, so its bytes show no calls.
    tls: AtomicBool,
    /// tonic has handed it to hyper. A TLS connection is through its handshake then.
    handed_over: AtomicBool,
    /// Over TLS: the server has sent HTTP/2's first SETTINGS and nothing since, so the client has
    /// not spoken.
    only_settings_sent: AtomicBool,
    /// Counted over TLS only.
    writes: AtomicUsize,
    /// Counted over TLS only.
    reads: AtomicUsize,
    /// The calls in flight by [`CountCallsLayer`](crate::serve::CountCallsLayer), if that is used.
    counted: Option<Arc<CallCount>>,
}

impl ConnectionActivity {
    pub(super) fn new(counted: Option<Arc<CallCount>>) -> Self {
        Self { counted, ..Self::default() }
    }

    /// Called after each read and write with what the bytes tell.
    pub(super) fn set_in_flight(&self, in_flight: InFlightCalls) {
        match in_flight {
            InFlightCalls::Known(calls) => self.calls.set(calls),
            InFlightCalls::Unknown => self.tls.store(true, Ordering::Release),
        }
    }

    /// Called when tonic asks for the connection's addresses, which it does right before hyper
    /// takes over.
    pub(super) fn mark_handed_over(&self) {
        self.handed_over.store(true, Ordering::Release);
    }

    /// Whether hyper has the connection.
    pub(super) fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Called over TLS with hyper's first operations: see [`Socket`](super::socket::Socket).
    pub(super) fn set_only_settings_sent(&self, only_settings_sent: bool) {
        self.only_settings_sent.store(only_settings_sent, Ordering::Release);
    }

    /// Called over TLS with each read.
    pub(super) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::AcqRel);
    }

    /// Called over TLS with each write.
    pub(super) fn count_write(&self) {
        self.writes.fetch_add(1, Ordering::AcqRel);
    }

    /// How often the client was heard over TLS.
    pub(super) fn reads(&self) -> usize {
        self.reads.load(Ordering::Acquire)
    }

    /// Whether nothing tells its calls: it speaks TLS, and the layer is not used.
    pub(super) fn is_uncounted(&self) -> bool {
        self.is_tls() && self.counted.is_none()
    }

    /// Whether the connection speaks TLS.
    fn is_tls(&self) -> bool {
        self.tls.load(Ordering::Acquire)
    }

    /// Counts the calls that began or ended, and over TLS the writes: the end of a response may be
    /// on its way after its call has ended.
    pub(super) fn changes(&self) -> usize {
        let counted = self.counted.as_ref().map_or(0, |count| count.changes());
        self.calls.changes().wrapping_add(counted).wrapping_add(self.writes.load(Ordering::Acquire))
    }

    /// Whether it has no call in flight, as far as that is known. `reads_before` is
    /// [`ConnectionActivity::reads`] before GOAWAY.
    pub(super) fn is_idle(&self, reads_before: usize) -> bool {
        if !self.is_tls() {
            return self.calls.in_flight() == 0;
        }
        if !self.is_handed_over() || self.only_settings_sent.load(Ordering::Acquire) {
            return true;
        }
        // A call ends for the layer before its last bytes are written. A client that was heard since GOAWAY is alive, so h2
        // closes its connection in order.
        let is_silent = self.reads() == reads_before;
        self.counted.as_ref().is_some_and(|count| is_silent && count.in_flight() == 0)
    }
}
