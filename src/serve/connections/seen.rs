//! What a connection tells of itself while its task reads and writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::serve::connections::calls::Count;
use crate::serve::connections::wire::InFlight;

/// What a socket tells of itself.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By its bytes.
    calls: Count,
    /// Its bytes tell nothing.
    tls: AtomicBool,
    /// tonic has handed it to hyper; that of TLS is then through its handshake.
    handed: AtomicBool,
    /// Over TLS: the server has sent HTTP/2's first SETTINGS, and nothing since.
    greeted: AtomicBool,
    /// Over TLS: how often it was written to.
    wrote: AtomicUsize,
    /// Over TLS: how often it was read from.
    heard: AtomicUsize,
    /// By [`CountCalls`](crate::serve::CountCalls), where that is used.
    counted: Option<Arc<Count>>,
}

impl Seen {
    pub(crate) fn new(counted: Option<Arc<Count>>) -> Self {
        Self { counted, ..Self::default() }
    }

    pub(crate) fn tell(&self, in_flight: InFlight) {
        match in_flight {
            InFlight::Calls(calls) => self.calls.set(calls),
            InFlight::Unknown => self.tls.store(true, Ordering::Release),
        }
    }

    pub(crate) fn hand(&self) {
        self.handed.store(true, Ordering::Release);
    }

    pub(crate) fn is_handed(&self) -> bool {
        self.handed.load(Ordering::Acquire)
    }

    pub(crate) fn greet(&self, greeted: bool) {
        self.greeted.store(greeted, Ordering::Release);
    }

    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn write(&self) {
        self.wrote.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn heard(&self) -> usize {
        self.heard.load(Ordering::Acquire)
    }

    /// Whether nobody knows its calls.
    pub(crate) fn is_uncounted(&self) -> bool {
        self.is_tls() && self.counted.is_none()
    }

    fn is_tls(&self) -> bool {
        self.tls.load(Ordering::Acquire)
    }

    /// How often calls have begun and ended, and over TLS how often something was written: the end of an answer may be on its way
    /// although its call has ended.
    pub(crate) fn changes(&self) -> usize {
        let counted = self.counted.as_ref().map_or(0, |count| count.changes());
        self.calls.changes().wrapping_add(counted).wrapping_add(self.wrote.load(Ordering::Acquire))
    }

    /// Whether it has no call in flight, as far as that can be told. It was heard so often before GOAWAY.
    pub(crate) fn is_idle(&self, heard: usize) -> bool {
        if !self.is_tls() {
            return self.calls.now() == 0;
        }
        if !self.is_handed() || self.greeted.load(Ordering::Acquire) {
            return true;
        }
        // The end of an answer may not be on its way yet when its call has ended: one that was heard since is left to h2.
        let silent = self.heard() == heard;
        self.counted.as_ref().is_some_and(|count| silent && count.now() == 0)
    }
}
