//! The streams of an HTTP/2 connection that clients have opened and that have not ended (RFC 9113, 5.1). PURE.

use std::collections::BTreeSet;

use crate::serve::connections::wire::frames::{Frame, STREAM};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The streams of a connection.
pub(crate) struct Streams {
    open: BTreeSet<u32>,
    /// The highest that was ever opened: the client opens each one once, in order.
    highest: u32,
    /// The last one that the server takes, as it says in GOAWAY.
    limit: u32,
    /// Its head goes on in further frames.
    opening: Option<u32>,
    /// It ends with trailers that go on in further frames.
    ending: Option<u32>,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: BTreeSet::new(), highest: 0, limit: STREAM, opening: None, ending: None }
    }
}

impl Streams {
    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn received(&mut self, frame: Frame) {
        let last = frame.flags & END_HEADERS != 0;
        match frame.kind {
            HEADERS if last => self.begin(frame.stream),
            HEADERS => self.opening = Some(frame.stream),
            CONTINUATION if last && self.opening.take() == Some(frame.stream) => self.begin(frame.stream),
            RST_STREAM => self.end(frame.stream),
            _ => {}
        }
    }

    pub(crate) fn sent(&mut self, frame: Frame) {
        let (last, ends) = (frame.flags & END_HEADERS != 0, frame.flags & END_STREAM != 0);
        match frame.kind {
            DATA if ends => self.end(frame.stream),
            HEADERS if ends && last => self.end(frame.stream),
            HEADERS if ends => self.ending = Some(frame.stream),
            CONTINUATION if last && self.ending.take() == Some(frame.stream) => self.end(frame.stream),
            RST_STREAM => self.end(frame.stream),
            GOAWAY => {
                self.limit = frame.first & STREAM;
                self.open.split_off(&self.limit.saturating_add(1));
            }
            _ => {}
        }
    }

    fn begin(&mut self, stream: u32) {
        // Trailers have a head too, of a stream that was opened before.
        if stream > self.highest && stream <= self.limit {
            self.highest = stream;
            self.open.insert(stream);
        }
    }

    fn end(&mut self, stream: u32) {
        self.open.remove(&stream);
    }
}
