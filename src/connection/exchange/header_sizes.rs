//! Sizes of headers on one connection: what the server accepts, and which responses have larger
//! headers than h2 accepts.
//!
//! What h2 0.4.20 does with a response's headers, where `limit` is its `max_header_list_size`
//! (`frame/headers.rs`, `load`; `codec/framed_read.rs`):
//! - From `limit` on, a head resets its stream with `PROTOCOL_ERROR`, as every malformed head does.
//!   Trailers lose the field that crosses the limit and all that follow it, without a sign.
//! - After 1.25 × `limit` / `max_frame_size` CONTINUATION frames, which is 1.25 × `limit` on the
//!   wire with full frames, the connection ends (`ENHANCE_YOUR_CALM`). It also ends beyond 4 ×
//!   `limit`, and if one field crosses `limit` after another did (`COMPRESSION_ERROR`). All its
//!   streams then end with the same error, which does not name the stream that caused it.
//!
//! So h2's `limit` is at least 16 × the limit that is set. Below h2's, none of this happens, and
//! `balance` measures the decoded headers. Above it, the sizes on the wire tell whose headers they
//! were. Huffman coding makes 5 to 30 bits of a byte. Headers above h2's `limit` therefore have at
//! least 5/8 of it on the wire; and headers with 1/4 of it on the wire are above the limit that is
//! set.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use h2::{Reason, StreamId};

use crate::connection::exchange::frames::{FrameEvent, FrameScanner};
use crate::connection::failure::{Failure, FailureKind};
use crate::connection::options::Options;

/// What the frames of one connection tell about headers. Written by [`HeaderScanner`] in the
/// driver's task; read by calls.
pub(crate) struct HeaderSizes {
    /// Bytes that the server accepts: what is set, until its SETTINGS say something else.
    request_limit: AtomicU32,
    is_announced: AtomicBool,
    has_settings: AtomicBool,
    /// The limit that is set for responses, and the larger one that h2 is given. Bytes.
    response_limit: u32,
    h2_limit: u32,
    /// Set before the first stream is in `large`, so that calls lock only then.
    has_large: AtomicBool,
    large: Mutex<LargeHeaders>,
}

/// Streams with large headers, by their ids.
#[derive(Default)]
struct LargeHeaders {
    /// The stream whose large headers have begun, and that h2 may not have decoded yet.
    in_progress: Option<u32>,
    /// The streams whose headers were above the limit that is set, the latest first.
    too_large: VecDeque<u32>,
}

/// The length of `too_large`. Calls look their stream up within a turn or two, while few others
/// have such headers.
const MAX_REMEMBERED: usize = 256;

/// The number of bytes of headers that a server accepts in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLimit {
    pub(crate) bytes: u32,
    /// The server's SETTINGS say so; else it is the limit that is set.
    pub(crate) is_announced: bool,
}

impl Options {
    /// The limit that h2 is given, in bytes: 16 MiB, or 16 × the limit that is set. More for larger
    /// frames: a server that keeps to frames of 16 KiB, as most do, must have 4 × the limit in
    /// CONTINUATION frames, whatever frame size it may use.
    pub(crate) fn h2_header_limit(&self) -> u32 {
        let frames = self.max_frame_size.div_ceil(16 << 10);
        let times = frames.saturating_mul(4).max(16);
        self.max_header_list_size.saturating_mul(times).max(16 << 20)
    }
}

impl HeaderSizes {
    /// Nothing was read yet: the limit for requests is the one that is set.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            request_limit: AtomicU32::new(options.max_request_header_list_size),
            is_announced: AtomicBool::new(false),
            has_settings: AtomicBool::new(false),
            response_limit: options.max_header_list_size,
            h2_limit: options.h2_header_limit(),
            has_large: AtomicBool::new(false),
            large: Mutex::default(),
        }
    }

    /// Whether the server's SETTINGS have begun to come.
    pub(crate) fn has_settings(&self) -> bool {
        self.has_settings.load(Ordering::Relaxed)
    }

    /// The present limit for requests. It changes with the server's SETTINGS.
    pub(crate) fn request_limit(&self) -> RequestLimit {
        let bytes = self.request_limit.load(Ordering::Relaxed);
        RequestLimit { bytes, is_announced: self.is_announced.load(Ordering::Relaxed) }
    }

    /// The limit that is set for a response's headers, in bytes.
    pub(crate) fn response_limit(&self) -> u32 {
        self.response_limit
    }

    /// Why h2 may have cut the trailers of this stream. `stream` takes a lock of h2's, so it is
    /// called only if any headers were large.
    pub(crate) fn truncation(&self, stream: impl FnOnce() -> StreamId) -> Option<Failure> {
        if !self.has_large.load(Ordering::Acquire) {
            return None;
        }
        let stream = u32::from(stream());
        self.lock().too_large.contains(&stream).then(|| Failure::new(FailureKind::TooLarge, self.limits()))
    }

    /// A poisoned lock is used on: the two fields are independent.
    fn lock(&self) -> MutexGuard<'_, LargeHeaders> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the scanner has found.
    fn record(&self, event: FrameEvent) {
        match event {
            FrameEvent::Settings => self.has_settings.store(true, Ordering::Relaxed),
            FrameEvent::MaxHeaderListSize(bytes) => {
                self.request_limit.store(bytes, Ordering::Relaxed);
                self.is_announced.store(true, Ordering::Relaxed);
            }
            FrameEvent::LargeHeadersPart { stream, .. } => self.lock().in_progress = Some(stream),
            FrameEvent::LargeHeadersEnd { stream, size } => {
                let mut large = self.lock();
                large.in_progress = Some(stream);
                if size >= u64::from(self.h2_limit / 4) {
                    large.too_large.truncate(MAX_REMEMBERED - 1);
                    large.too_large.push_front(stream);
                    self.has_large.store(true, Ordering::Release);
                }
            }
        }
    }

    /// h2 has decoded the headers that ended within the last read.
    fn record_decoded(&self) {
        self.lock().in_progress = None;
    }

    /// The failure of a stream, if it failed because of headers that h2 does not accept.
    pub(crate) fn failure(&self, stream: StreamId, error: &h2::Error) -> Option<Failure> {
        if !error.is_library() {
            return None;
        }
        let stream = u32::from(stream);
        let large = self.lock();
        let is_too_large = large.too_large.contains(&stream);
        if error.is_reset() && error.reason() == Some(Reason::PROTOCOL_ERROR) && is_too_large {
            return Some(Failure::new(FailureKind::TooLarge, self.limits()));
        }
        let is_of_headers = matches!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM | Reason::COMPRESSION_ERROR));
        // h2 reads nothing after the frame for which it closes the connection, so that frame's
        // headers are still in progress.
        if !error.is_go_away() || !is_of_headers || large.in_progress.is_none() {
            return None;
        }
        Some(if is_too_large || large.in_progress == Some(stream) {
            Failure::new(FailureKind::TooLarge, self.limits())
        } else {
            let message = format!("the headers of another call's answer: {}", self.limits());
            Failure::new(FailureKind::HeadersOverflow, message)
        })
    }

    /// Both limits, for error texts.
    fn limits(&self) -> String {
        let (h2, limit) = (self.h2_limit, self.response_limit);
        format!("HTTP/2 takes {h2} bytes of headers at most where max_header_list_size is {limit}")
    }
}

/// Scans what a connection reads, for its [`HeaderSizes`]. Part of the IO under h2.
pub(crate) struct HeaderScanner {
    frames: FrameScanner,
    sizes: Arc<HeaderSizes>,
    /// Large headers ended within the last read.
    has_ended: bool,
}

impl HeaderScanner {
    /// For the first byte that the server sends.
    pub(crate) fn new(sizes: Arc<HeaderSizes>) -> Self {
        Self { frames: FrameScanner::default(), sizes, has_ended: false }
    }

    /// Called when h2 reads on, which it does only when it has decoded all complete frames of the
    /// last read.
    #[inline]
    pub(crate) fn begin_read(&mut self) {
        if std::mem::take(&mut self.has_ended) {
            self.sizes.record_decoded();
        }
    }

    /// Scans the bytes that were read next.
    #[inline]
    pub(crate) fn scan(&mut self, bytes: &[u8]) {
        self.frames.scan(bytes, |event| {
            self.has_ended |= matches!(event, FrameEvent::LargeHeadersEnd { .. });
            self.sizes.record(event);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_accepts_more_than_the_limit_that_is_set() {
        for (limit, frame, h2) in [
            (1 << 20, 16 << 10, 16 << 20),
            (1024, 16 << 10, 16 << 20),
            (2 << 20, 64 << 10, 32 << 20),
            (1 << 20, 128 << 10, 32 << 20),
            (1 << 28, 16 << 10, u32::MAX),
            (1 << 20, (1 << 24) - 1, u32::MAX),
        ] {
            let options = Options { max_header_list_size: limit, max_frame_size: frame, ..Options::default() };
            assert_eq!(options.h2_header_limit(), h2, "{limit} {frame}");
        }
    }

    #[test]
    fn headers_that_came_with_a_read_are_decoded_before_the_next() {
        let sizes = HeaderSizes::new(&Options::default());
        sizes.record(FrameEvent::LargeHeadersPart { stream: 3, size: 1 << 20 });
        assert_eq!(sizes.lock().in_progress, Some(3));
        sizes.record(FrameEvent::LargeHeadersEnd { stream: 3, size: 5 << 20 });
        assert_eq!(sizes.lock().in_progress, Some(3));
        sizes.record_decoded();
        assert_eq!(sizes.lock().in_progress, None);
        assert_eq!(sizes.lock().too_large, [3]);
        for stream in 0..1000 {
            sizes.record(FrameEvent::LargeHeadersEnd { stream, size: 5 << 20 });
        }
        assert_eq!(sizes.lock().too_large.len(), MAX_REMEMBERED);
        assert_eq!(sizes.lock().too_large.front(), Some(&999));
    }
}
