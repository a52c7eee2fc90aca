//! A stream of bytes that remembers when it was last read from, because h2 does not tell of every frame, and that is
//! read to its end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// When a server closes while something is on its way to it, our next write fails although what it said last lies here
/// unread: its final GOAWAY, by which a call that it never processed goes to another server. h2 gives up at a failed write.
/// So writes to a peer that is gone lead nowhere instead, and the end comes from reading.
///
/// The end comes one turn late, so that the driver has told of a GOAWAY which came with it before any stream ends by it.
pub(crate) struct ReadTrackingIo<T> {
    io: T,
    last_read: Arc<LastRead>,
    /// A write failed because the peer is gone: reading finds the end, within this time. Its timer wakes the connection's
    /// task also where no read does.
    gone: Option<Pin<Box<Sleep>>>,
    /// What reading ended with, told one turn later.
    end: Option<io::Result<()>>,
}

/// TCP, Unix sockets and TLS over them tell the end to reads at once; a connector of the user's may not.
const TO_THE_END: Duration = Duration::from_secs(1);

/// When something was last read.
pub(crate) struct LastRead {
    since: Instant,
    nanos: AtomicU64,
    bytes: AtomicU64,
    /// When a PING was last sent, in nanoseconds; 0 before the first.
    pinged: AtomicU64,
    /// All that h2 had to write has been written.
    flushed: AtomicBool,
}

impl LastRead {
    pub(crate) fn at(&self) -> Instant {
        self.since + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// When a PING was last sent.
    pub(crate) fn pinged(&self) -> Option<Instant> {
        let nanos = self.pinged.load(Ordering::Relaxed);
        (nanos > 0).then(|| self.since + Duration::from_nanos(nanos))
    }

    /// A PING is about to be given to h2.
    pub(crate) fn pings(&self) {
        self.pinged.store(self.elapsed().max(1), Ordering::Relaxed);
        self.flushed.store(false, Ordering::Relaxed);
    }

    /// Whether all that h2 had when it was last polled has been written: it flushes only once its own buffer is empty.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.load(Ordering::Relaxed)
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// How much was read in all.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn now(&self) {
        self.nanos.store(self.elapsed(), Ordering::Relaxed);
    }
}

impl<T> ReadTrackingIo<T> {
    pub(crate) fn new(io: T) -> (Self, Arc<LastRead>) {
        let last_read = Arc::new(LastRead {
            since: Instant::now(),
            nanos: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            pinged: AtomicU64::new(0),
            flushed: AtomicBool::new(true),
        });
        (Self { io, last_read: last_read.clone(), gone: None, end: None }, last_read)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ReadTrackingIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {}
            Poll::Ready(end) => {
                self.end = Some(end);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Pending => {
                let Some(end) = &mut self.gone else { return Poll::Pending };
                ready!(end.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        self.last_read.add((buf.filled().len() - before) as u64);
        self.last_read.now();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ReadTrackingIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.last_read.flushed.store(false, Ordering::Relaxed);
        self.write(buf.len(), cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.last_read.flushed.store(false, Ordering::Relaxed);
        self.write(all, cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.write((), cx, T::poll_flush))?;
        self.last_read.flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            // Nobody is there to whom it could be said.
            Poll::Pending if self.gone.is_some() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncWrite + Unpin> ReadTrackingIo<T> {
    /// What `write` gives; `all` from the moment on when the peer is gone.
    fn write<V>(
        &mut self,
        all: V,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<V>>,
    ) -> Poll<io::Result<V>> {
        if self.gone.is_some() {
            return Poll::Ready(Ok(all));
        }
        match ready!(write(Pin::new(&mut self.io), cx)) {
            // After these a read never waits for long: it gives what is left, then the end.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                let mut end = Box::pin(sleep(TO_THE_END));
                // h2 reads before it writes, and may not read again until something wakes it. A timer that was never
                // polled wakes nobody.
                if end.as_mut().poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                self.gone = Some(end);
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
            let (mut io, _) = ReadTrackingIo::new(Left([&b"good"[..], b"bye"].into(), kind));
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
        let (mut io, _) = ReadTrackingIo::new(ours);
        io.write_all(b"hello").await.unwrap();
        io.write_all(b"anybody there?").await.unwrap();
        let mut said = Vec::new();
        let _ = io.read_to_end(&mut said).await; // the reset, unless the write has taken it
        assert_eq!(said, b"goodbye");
    }

    #[tokio::test]
    async fn other_failures_of_writing_are_told() {
        let (mut io, _) = ReadTrackingIo::new(Left(VecDeque::new(), io::ErrorKind::TimedOut));
        assert_eq!(io.write_all(b"hello").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
