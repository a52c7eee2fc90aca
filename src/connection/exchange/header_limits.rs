//! Sizes of headers over one connection: what the server takes, and which answers are larger than h2 takes.
//!
//! What h2 0.4.20 does with an answer's headers, `limit` being its `max_header_list_size` (`frame/headers.rs`, `load`;
//! `codec/framed_read.rs`):
//! - from `limit` on, a head resets its stream with `PROTOCOL_ERROR`, as each malformed head does; trailers lose the field that
//!   crosses the limit and all that follow it, without a sign;
//! - after 1.25 × `limit` / `max_frame_size` CONTINUATION frames, which is 1.25 × `limit` on the wire where frames are full, the
//!   connection ends (`ENHANCE_YOUR_CALM`); also beyond 4 × `limit`, and where one field crosses `limit` after another did
//!   (`COMPRESSION_ERROR`). All its streams end with the same error, which does not tell the one that it arose from.
//!
//! So `limit` is at least 16 × the limit that is set: below it h2 does none of this, and the decoded headers are measured
//! (by whoever knows what to say of them). Beyond it the sizes on the wire tell whose headers they were. Huffman's code
//! makes 5 to 30 bits of a byte. So headers beyond `limit` have 5/8 of it on the wire; and those with a quarter of it on the
//! wire are beyond the limit that is set.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use h2::{Reason, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::StreamPermit;
use crate::connection::exchange::frames::{FrameScanner, Seen};
use crate::connection::failure::{Failure, Kind};
use crate::connection::options::Options;

/// What one connection's frames tell of headers.
pub(crate) struct HeaderSizes {
    /// What the server takes.
    request_limit: AtomicU32,
    announced: AtomicBool,
    /// Its SETTINGS have begun to come.
    greeted: AtomicBool,
    /// What is set for answers, and what h2 is given.
    answer_limit: u32,
    h2_limit: u32,
    /// Set before the first stream is in `large`.
    any_large: AtomicBool,
    large: Mutex<Large>,
}

#[derive(Default)]
struct Large {
    /// Whose large headers are on their way, or came with the last read.
    open: Option<u32>,
    /// Whose were beyond the limit that is set; the latest alone.
    whole: VecDeque<u32>,
}

/// Far more than are read and not yet judged.
const REMEMBERED: usize = 256;

/// How many bytes of headers a server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLimit {
    pub(crate) bytes: u32,
    /// Its SETTINGS say so.
    pub(crate) announced: bool,
}

impl Options {
    /// What h2 is given: 16 MiB, or more where more is set. A server that keeps to frames of 16 KiB, as most do, has four times
    /// the limit in CONTINUATION frames whatever size is allowed for them.
    pub(crate) fn h2_header_limit(&self) -> u32 {
        let frames = self.max_frame_size.div_ceil(16 << 10);
        let times = frames.saturating_mul(4).max(16);
        self.max_header_list_size.saturating_mul(times).max(16 << 20)
    }
}

impl HeaderSizes {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            request_limit: AtomicU32::new(options.max_request_header_list_size),
            announced: AtomicBool::new(false),
            greeted: AtomicBool::new(false),
            answer_limit: options.max_header_list_size,
            h2_limit: options.h2_header_limit(),
            any_large: AtomicBool::new(false),
            large: Mutex::default(),
        }
    }

    /// Whether the server's SETTINGS have come.
    pub(crate) fn are_settings_here(&self) -> bool {
        self.greeted.load(Ordering::Relaxed)
    }

    pub(crate) fn request_limit(&self) -> RequestLimit {
        let bytes = self.request_limit.load(Ordering::Relaxed);
        RequestLimit { bytes, announced: self.announced.load(Ordering::Relaxed) }
    }

    /// What h2 does not tell of trailers that it may have cut.
    fn cut(&self, stream: impl FnOnce() -> StreamId) -> Option<Failure> {
        let is_large = self.any_large.load(Ordering::Acquire) && {
            let stream = stream().into(); // h2 tells it under its lock
            self.lock().whole.contains(&stream)
        };
        is_large.then(|| Failure::new(Kind::TooLarge, self.text()))
    }

    fn lock(&self) -> MutexGuard<'_, Large> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on(&self, seen: Seen) {
        match seen {
            Seen::Settings => self.greeted.store(true, Ordering::Relaxed),
            Seen::MaxHeaderListSize(bytes) => {
                self.request_limit.store(bytes, Ordering::Relaxed);
                self.announced.store(true, Ordering::Relaxed);
            }
            Seen::Open { stream, .. } => self.lock().open = Some(stream),
            Seen::Whole { stream, size } => {
                let mut large = self.lock();
                large.open = Some(stream);
                if size >= u64::from(self.h2_limit / 4) {
                    large.whole.truncate(REMEMBERED - 1);
                    large.whole.push_front(stream);
                    self.any_large.store(true, Ordering::Release);
                }
            }
        }
    }

    /// h2 has taken the headers whose end was seen.
    fn taken(&self) {
        self.lock().open = None;
    }

    /// The failure of a stream, where headers that h2 does not take are why.
    fn failure(&self, stream: StreamId, error: &h2::Error) -> Option<Failure> {
        if !error.is_library() {
            return None;
        }
        let stream = u32::from(stream);
        let large = self.lock();
        let whole = large.whole.contains(&stream);
        if error.is_reset() && error.reason() == Some(Reason::PROTOCOL_ERROR) && whole {
            return Some(Failure::new(Kind::TooLarge, self.text()));
        }
        let refused = matches!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM | Reason::COMPRESSION_ERROR));
        // h2 reads nothing after the frame that it ends the connection over.
        if !error.is_go_away() || !refused || large.open.is_none() {
            return None;
        }
        Some(if whole || large.open == Some(stream) {
            Failure::new(Kind::TooLarge, self.text())
        } else {
            Failure::new(Kind::Overrun, format!("the headers of another call's answer: {}", self.text()))
        })
    }

    fn text(&self) -> String {
        let (h2, limit) = (self.h2_limit, self.answer_limit);
        format!("HTTP/2 takes {h2} bytes of headers at most where max_header_list_size is {limit}")
    }
}

impl StreamPermit {
    /// Why this stream, which has no answer, failed.
    pub(crate) fn failure(&self, stream: StreamId, error: &h2::Error) -> Failure {
        self.0.headers.failure(stream, error).unwrap_or_else(|| Failure::of_stream(error, self.ended()))
    }

    /// Why this stream, which has an answer, failed.
    pub(crate) fn failure_of_answer(&self, stream: StreamId, error: &h2::Error) -> Failure {
        self.0.headers.failure(stream, error).unwrap_or_else(|| Failure::of_answer(error, self.ended()))
    }

    /// What is set for an answer's headers.
    pub(crate) fn answer_limit(&self) -> u32 {
        self.0.headers.answer_limit
    }

    /// Why this stream's trailers, which have come, may not be all of them.
    pub(crate) fn cut(&self, stream: impl FnOnce() -> StreamId) -> Option<Failure> {
        self.0.headers.cut(stream)
    }
}

/// A stream of bytes whose frames are looked at as they are read.
pub(crate) struct Scanned<T> {
    io: T,
    scanner: FrameScanner,
    headers: Arc<HeaderSizes>,
    /// Large headers came to their end with the last read.
    ended: bool,
}

impl<T> Scanned<T> {
    pub(crate) fn new(io: T, headers: Arc<HeaderSizes>) -> Self {
        Self { io, scanner: FrameScanner::default(), headers, ended: false }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Scanned<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // h2 reads on once it has taken all whole frames that it has.
        if std::mem::take(&mut this.ended) {
            this.headers.taken();
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            this.scanner.scan(buf.filled().get(before..).unwrap_or_default(), |seen| {
                this.ended |= matches!(seen, Seen::Whole { .. });
                this.headers.on(seen);
            });
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Scanned<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_takes_what_is_beyond_the_limit_that_is_set() {
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
    fn what_came_with_a_read_is_taken_before_the_next() {
        let sizes = HeaderSizes::new(&Options::default());
        sizes.on(Seen::Open { stream: 3, size: 1 << 20 });
        assert_eq!(sizes.lock().open, Some(3));
        sizes.on(Seen::Whole { stream: 3, size: 5 << 20 });
        assert_eq!(sizes.lock().open, Some(3));
        sizes.taken();
        assert_eq!(sizes.lock().open, None);
        assert_eq!(sizes.lock().whole, [3]);
        for stream in 0..1000 {
            sizes.on(Seen::Whole { stream, size: 5 << 20 });
        }
        assert_eq!(sizes.lock().whole.len(), REMEMBERED);
        assert_eq!(sizes.lock().whole.front(), Some(&999));
    }
}
