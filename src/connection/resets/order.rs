//! The order in which a connection's streams were opened, and which of them the server has
//! accepted.
//!
//! h2 tells the id of a stream only under the connection's lock. The numbers here cost two atomic
//! operations for each call, and are as exact for the question that they answer: was this stream
//! opened before that one?
//!
//! Two callers may open streams at the same moment. Each first reads the count, then lets h2 open
//! its stream, then adds to the count. So a stream has two numbers: those counted before it was
//! begun have lower ids for certain, and those begun after it was counted have higher ones. Between
//! the two nothing is said.

use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the streams of one connection.
#[derive(Default)]
pub(crate) struct StreamCounter {
    /// Streams that were opened, or that h2 refused to open; each of them takes an id.
    opened: AtomicU32,
    /// The server has accepted all streams with a lower number, because a stream that was begun
    /// after them has a response.
    accepted: AtomicU32,
}

/// When one stream was opened. Several callers open streams at once, so a stream's exact place is
/// known only as a range.
#[derive(Clone, Copy)]
pub(crate) struct StreamOrder {
    /// The number of streams that were opened before this one was begun. Each of them has a lower
    /// id.
    pub(crate) begun_after: u32,
    /// The number of streams that were opened before this one was. A stream with a higher
    /// `begun_after` has a higher id.
    pub(crate) number: u32,
}

impl StreamCounter {
    /// The number of streams that were opened until now.
    #[inline]
    pub(crate) fn opened(&self) -> u32 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Counts a stream that was opened now, and begun when `begun_after` streams were open.
    #[inline]
    pub(crate) fn open(&self, begun_after: u32) -> StreamOrder {
        StreamOrder { begun_after, number: self.opened.fetch_add(1, Ordering::Relaxed) }
    }

    /// The head of a response has come on this stream. h2's server accepts streams in order, so it
    /// has accepted those before.
    #[inline]
    pub(crate) fn record_response(&self, stream: StreamOrder, status: http::StatusCode) {
        // h2's server itself answers 431 on a stream that it never accepts.
        if status != http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
            self.accepted.fetch_max(stream.begun_after, Ordering::Relaxed);
        }
    }

    /// The server has accepted every stream with a lower number.
    #[inline]
    pub(crate) fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::Relaxed)
    }
}
