//! The open streams of an HTTP/2 connection (RFC 9113, 5.1): those that the client has opened and
//! that have not ended. PURE.

use std::collections::BTreeSet;

use crate::serve::connections::wire::frames::{Frame, STREAM_ID};

// Frame types and flags (RFC 9113, 6).
pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// The open streams. A stream is open from the end of its request headers to the end of its
/// response, or to a reset.
pub(super) struct OpenStreams {
    open: BTreeSet<u32>,
    /// The highest identifier that was ever opened: a client opens each once, in ascending order.
    highest: u32,
    /// The last identifier that the server processes, from its GOAWAY.
    last_processed: u32,
    /// The stream whose request headers continue in CONTINUATION frames.
    opening: Option<u32>,
    /// The stream whose trailers continue in CONTINUATION frames.
    ending: Option<u32>,
}

impl Default for OpenStreams {
    fn default() -> Self {
        Self { open: BTreeSet::new(), highest: 0, last_processed: STREAM_ID, opening: None, ending: None }
    }
}

impl OpenStreams {
    /// How many streams are open.
    pub(super) fn count(&self) -> usize {
        self.open.len()
    }

    /// A frame of the client.
    pub(super) fn received(&mut self, frame: Frame) {
        let last = frame.flags & END_HEADERS != 0;
        match frame.kind {
            HEADERS if last => self.begin(frame.stream),
            HEADERS => self.opening = Some(frame.stream),
            CONTINUATION if last && self.opening.take() == Some(frame.stream) => self.begin(frame.stream),
            RST_STREAM => self.end(frame.stream),
            _ => {}
        }
    }

    /// A frame of the server.
    pub(super) fn sent(&mut self, frame: Frame) {
        let (last, ends) = (frame.flags & END_HEADERS != 0, frame.flags & END_STREAM != 0);
        match frame.kind {
            DATA if ends => self.end(frame.stream),
            HEADERS if ends && last => self.end(frame.stream),
            HEADERS if ends => self.ending = Some(frame.stream),
            CONTINUATION if last && self.ending.take() == Some(frame.stream) => self.end(frame.stream),
            RST_STREAM => self.end(frame.stream),
            GOAWAY => {
                self.last_processed = frame.payload_start & STREAM_ID;
                self.open.split_off(&self.last_processed.saturating_add(1));
            }
            _ => {}
        }
    }

    /// The request headers of a stream are complete.
    fn begin(&mut self, stream: u32) {
        // HEADERS of a stream that was opened before are trailers.
        if stream > self.highest && stream <= self.last_processed {
            self.highest = stream;
            self.open.insert(stream);
        }
    }

    /// The response of a stream is complete, or either side has reset it.
    fn end(&mut self, stream: u32) {
        self.open.remove(&stream);
    }
}
