//! The IO under h2. It remembers what was read when, because h2 does not tell of every frame; it
//! lets headers be measured; and it reads what a peer sent before it went.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::connection::exchange::header_sizes::HeaderScanner;

/// The IO that h2 is given. It records reads in [`IoActivity`] and large headers in
/// [`HeaderSizes`](crate::connection::exchange::header_sizes::HeaderSizes). It passes bytes on
/// unchanged, and differs from the IO under it in two ways:
///
/// - *A write to a peer that is gone succeeds.* When a server closes while something is on its way
///   to it, the next write fails, although the last bytes of the server lie in the socket unread:
///   its final GOAWAY, which proves that calls were not processed. h2 gives up at a failed write.
///   So that write is discarded, and the end comes from reading.
/// - *The end comes one turn late*, so that the driver publishes a GOAWAY that came with it before
///   any stream fails.
pub(crate) struct ReadTrackingIo<T> {
    io: T,
    activity: Arc<IoActivity>,
    headers: HeaderScanner,
    /// A write failed because the peer is gone. Reading has to find the end within this time; the
    /// timer wakes the driver if no read does.
    write_closed: Option<Pin<Box<Sleep>>>,
    /// How reading ended, until it is returned one turn later.
    end: Option<io::Result<()>>,
}

/// How long reading may take to find the end after a write has failed. TCP, Unix sockets and TLS
/// over them find it at once; a connector of the user's may never do so.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What was read and written on a connection. Written by the IO and by PINGs; read by timers and
/// handles without a lock.
pub(crate) struct IoActivity {
    /// The base of the times below, which are nanoseconds since then.
    created: Instant,
    last_read: AtomicU64,
    bytes_read: AtomicU64,
    /// When a PING was last queued; 0 before the first.
    last_ping: AtomicU64,
    /// Everything that h2 had to write is written.
    is_flushed: AtomicBool,
}

impl IoActivity {
    /// Nothing was read or written yet. Counts its creation as a read, so that silence begins now.
    fn new() -> Self {
        Self {
            created: Instant::now(),
            last_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            last_ping: AtomicU64::new(0),
            is_flushed: AtomicBool::new(true),
        }
    }

    /// When anything was last read. The time of its creation, if nothing was.
    pub(crate) fn last_read(&self) -> Instant {
        self.created + Duration::from_nanos(self.last_read.load(Ordering::Relaxed))
    }

    /// When a PING was last queued.
    pub(crate) fn last_ping(&self) -> Option<Instant> {
        let nanos = self.last_ping.load(Ordering::Relaxed);
        (nanos > 0).then(|| self.created + Duration::from_nanos(nanos))
    }

    /// A PING is queued in h2 now.
    pub(crate) fn record_ping(&self) {
        self.last_ping.store(self.elapsed_nanos().max(1), Ordering::Relaxed);
        self.is_flushed.store(false, Ordering::Relaxed);
    }

    /// Whether everything that h2 had when it was last polled is written: it flushes only when its
    /// own buffer is empty.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_flushed.load(Ordering::Relaxed)
    }

    /// The number of bytes that were read in all.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Bytes were read now.
    fn record_read(&self, bytes: u64) {
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.last_read.store(self.elapsed_nanos(), Ordering::Relaxed);
    }

    /// Nanoseconds since the creation; 584 years fit.
    fn elapsed_nanos(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<T> ReadTrackingIo<T> {
    /// Wraps `io`. Timers and handles share the activity.
    pub(crate) fn new(io: T, headers: HeaderScanner) -> (Self, Arc<IoActivity>) {
        let activity = Arc::new(IoActivity::new());
        (Self { io, activity: activity.clone(), headers, write_closed: None, end: None }, activity)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadTrackingIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        self.headers.begin_read();
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {}
            Poll::Ready(end) => {
                self.end = Some(end);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Pending => {
                let Some(end) = &mut self.write_closed else { return Poll::Pending };
                ready!(end.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        self.headers.scan(read);
        self.activity.record_read(read.len() as u64);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadTrackingIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.activity.is_flushed.store(false, Ordering::Relaxed);
        self.write(buf.len(), cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.activity.is_flushed.store(false, Ordering::Relaxed);
        self.write(all, cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write((), cx, T::poll_flush))?;
        self.activity.is_flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            // The peer is gone: there is nobody to shut down for.
            Poll::Pending if self.write_closed.is_some() => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl<T: AsyncWrite + Unpin> ReadTrackingIo<T> {
    /// Runs `write`. Returns `all` in its place once the peer is gone: h2 then believes that
    /// everything was written.
    fn write<V>(
        &mut self,
        all: V,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<V>>,
    ) -> Poll<io::Result<V>> {
        if self.write_closed.is_some() {
            return Poll::Ready(Ok(all));
        }
        match ready!(write(Pin::new(&mut self.io), cx)) {
            // After these errors a read does not wait: it returns what is left, then the end.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                let mut end = Box::pin(sleep(END_TIMEOUT));
                // h2 reads before it writes, and may not read again until something wakes it. A
                // timer has to be polled once to do so.
                if end.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.write_closed = Some(end);
                Poll::Ready(Ok(all))
            }
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connection::exchange::header_sizes::HeaderSizes;
    use crate::connection::options::Options;

    fn tracked<T>(io: T) -> ReadTrackingIo<T> {
        let headers = Arc::new(HeaderSizes::new(&Options::default()));
        ReadTrackingIo::new(io, HeaderScanner::new(headers)).0
    }

    /// What the peer said before it went, and the error of each write since.
    struct Left(VecDeque<&'static [u8]>, io::ErrorKind);

    impl AsyncRead for Left {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(self.0.pop_front().unwrap_or_default());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Left {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(self.1.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_peer_said_before_it_went_is_read_after_a_write_that_failed() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset] {
            let mut io = tracked(Left([&b"good"[..], b"bye"].into(), kind));
            io.write_all(b"hello").await.unwrap();
            io.write_all(b"anybody there?").await.unwrap();
            let mut said = String::new();
            io.read_to_string(&mut said).await.unwrap();
            assert_eq!(said, "goodbye");
        }
    }

    /// F66: also where the peer's end was a reset, and nobody has read or polled since.
    #[tokio::test]
    async fn what_a_peer_said_before_its_reset_is_read_after_a_write_that_failed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut theirs, _) = listener.accept().await.unwrap();
        theirs.write_all(b"goodbye").await.unwrap();
        theirs.set_zero_linger().unwrap();
        drop(theirs);
        let mut io = tracked(ours);
        io.write_all(b"hello").await.unwrap();
        io.write_all(b"anybody there?").await.unwrap();
        let mut said = Vec::new();
        let _ = io.read_to_end(&mut said).await; // the reset, unless the write has taken it
        assert_eq!(said, b"goodbye");
    }

    #[tokio::test]
    async fn other_failures_of_writing_are_told() {
        let mut io = tracked(Left(VecDeque::new(), io::ErrorKind::TimedOut));
        assert_eq!(io.write_all(b"hello").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
