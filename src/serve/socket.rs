//! Accepted connections, each wrapped: tonic's tasks for them outlive its server's future, and end with their sockets.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::error::BoxError;

/// How long nothing is accepted after an error that does not pass by itself, such as too many open files: tonic would try
/// again without a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How far accepting has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Accepting {
    NotYet,
    Runs,
    /// There will be no more connections.
    Over,
}

/// All sockets that were accepted: they end when it is dropped.
pub(super) struct Sockets {
    open: Arc<Open>,
    accepting: watch::Receiver<Accepting>,
}

struct Open {
    /// None once all sockets are to end.
    ends: Mutex<Option<Ends>>,
}

/// Each ends its socket when it is dropped.
#[derive(Default)]
struct Ends {
    all: Vec<oneshot::Sender<Infallible>>,
    /// At that length those of sockets that have gone are forgotten: when there may be as many of them as of others.
    full: usize,
}

impl Ends {
    fn push(&mut self, end: oneshot::Sender<Infallible>) {
        if self.all.len() >= self.full {
            self.all.retain(|end| !end.is_closed());
            self.full = 2 * self.all.len() + 16;
        }
        self.all.push(end);
    }
}

impl Open {
    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        // Nothing panics while it is held, and every state of it is whole.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit<IO>(&self, io: IO) -> Socket<IO> {
        let (end, ended) = oneshot::channel();
        if let Some(ends) = &mut *self.ends() {
            ends.push(end);
        }
        Socket { io, end: Some(ended) }
    }
}

impl Sockets {
    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.open.ends().iter().flat_map(|ends| &ends.all).filter(|end| !end.is_closed()).count()
    }

    /// Waits until connections are accepted.
    pub(super) async fn accepting(&self) {
        self.reach(Accepting::Runs).await;
    }

    /// Waits until there are no more to accept.
    pub(super) async fn exhausted(&self) {
        self.reach(Accepting::Over).await;
    }

    async fn reach(&self, stage: Accepting) {
        // The stream may go before it came so far: then its server's future tells.
        if self.accepting.clone().wait_for(|accepting| *accepting >= stage).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let ends = self.open.ends().take();
        drop(ends); // after the lock: whoever is woken may be anybody's
    }
}

/// The connections as they come, and what ends them all.
pub(super) fn wrap<I>(incoming: I) -> (Sockets, Incoming<I>) {
    let open = Arc::new(Open { ends: Mutex::new(Some(Ends::default())) });
    let (told, accepting) = watch::channel(Accepting::NotYet);
    let incoming = Incoming { stream: Box::pin(incoming), open: open.clone(), told, pause: None, troubled: false };
    (Sockets { open, accepting }, incoming)
}

/// What is accepted. It gives no errors, which are waited out, and has no end, which is told to [`Sockets`]: its server
/// would else leave without a word to anybody.
pub(super) struct Incoming<I> {
    stream: Pin<Box<I>>,
    open: Arc<Open>,
    told: watch::Sender<Accepting>,
    pause: Option<Pin<Box<Sleep>>>,
    /// An error was reported since a connection was accepted.
    troubled: bool,
}

impl<I> Incoming<I> {
    fn tell(&self, accepting: Accepting) {
        self.told.send_if_modified(|told| std::mem::replace(told, accepting) != accepting);
    }

    fn trouble(&mut self, error: &BoxError) {
        if std::mem::replace(&mut self.troubled, true) {
            tracing::debug!(%error, "accepting a connection failed again");
        } else {
            tracing::warn!(%error, "accepting a connection failed; it goes on");
        }
    }
}

impl<I, IO, E> Stream for Incoming<I>
where
    I: Stream<Item = Result<IO, E>>,
    E: Into<BoxError>,
{
    type Item = Result<Socket<IO>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if *self.told.borrow() == Accepting::Over {
            return Poll::Pending;
        }
        self.tell(Accepting::Runs);
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match ready!(self.stream.as_mut().poll_next(cx)) {
            Some(Ok(io)) => {
                self.troubled = false;
                return Poll::Ready(Some(Ok(self.open.admit(io))));
            }
            Some(Err(error)) => {
                let error = error.into();
                if is_of_one_connection(&error) {
                    tracing::debug!(%error, "a connection was gone before it was accepted");
                } else {
                    self.trouble(&error);
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
                cx.waker().wake_by_ref();
            }
            None => self.tell(Accepting::Over),
        }
        Poll::Pending
    }
}

/// An error that says nothing of the next connection: those that tonic takes for such.
fn is_of_one_connection(error: &BoxError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(error.kind(), ConnectionAborted | ConnectionReset | BrokenPipe | Interrupted | WouldBlock | TimedOut)
    })
}

/// An accepted connection, which ends when [`Sockets`] does.
pub(super) struct Socket<IO> {
    io: IO,
    /// None once it has come.
    end: Option<oneshot::Receiver<Infallible>>,
}

impl<IO> Socket<IO> {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(end) = &mut self.end {
            if Pin::new(end).poll(cx).is_pending() {
                return Ok(());
            }
            self.end = None;
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"))
    }
}

impl<IO: Connected> Connected for Socket<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Socket<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc::unbounded_channel;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn all_sockets_end_at_once_and_with_those_that_come_later() {
        let (accept, accepted) = unbounded_channel::<io::Result<DuplexStream>>();
        let (sockets, mut incoming) = wrap(UnboundedReceiverStream::new(accepted));
        let mut theirs = Vec::new();
        let mut next = async |theirs: &mut Vec<DuplexStream>| {
            let (ours, other) = duplex(8);
            theirs.push(other);
            accept.send(Ok(ours)).unwrap();
            incoming.next().await.unwrap().unwrap()
        };
        let mut first = next(&mut theirs).await;
        let second = next(&mut theirs).await;
        sockets.accepting().await;
        assert_eq!(sockets.count(), 2);
        drop(second);
        assert_eq!(sockets.count(), 1);
        theirs[0].write_all(b"hello").await.unwrap();
        let mut read = [0; 5];
        first.read_exact(&mut read).await.unwrap();
        first.write_all(b"world").await.unwrap();
        assert_eq!(&read, b"hello");

        let reads = tokio::spawn(async move {
            let error = first.read(&mut [0]).await.unwrap_err();
            assert_eq!(first.write(b"x").await.unwrap_err().kind(), error.kind());
            error
        });
        tokio::task::yield_now().await;
        drop(sockets);
        assert_eq!(reads.await.unwrap().kind(), io::ErrorKind::ConnectionAborted);
        let mut late = next(&mut theirs).await;
        assert!(late.read(&mut [0]).await.is_err());
    }

    #[tokio::test]
    async fn thousands_that_have_gone_are_forgotten() {
        let (sockets, _incoming) = wrap(tokio_stream::empty::<io::Result<DuplexStream>>());
        let stays: Vec<_> = (0..10).map(|_| sockets.open.admit(())).collect();
        for _ in 0..10_000 {
            drop(sockets.open.admit(()));
        }
        let kept = sockets.open.ends().as_ref().map_or(0, |ends| ends.all.len());
        assert!((10..100).contains(&kept), "{kept}");
        assert_eq!(sockets.count(), stays.len());
    }

    #[tokio::test(start_paused = true)]
    async fn errors_are_waited_out_and_the_end_is_told() {
        let errors = [io::ErrorKind::ConnectionAborted, io::ErrorKind::Other, io::ErrorKind::Other];
        let errors = errors.map(|kind| Err(io::Error::new(kind, "asked for")));
        let (sockets, mut incoming) = wrap(tokio_stream::iter(errors).chain(tokio_stream::iter([Ok(duplex(8).0)])));
        let began = tokio::time::Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert_eq!(began.elapsed(), 2 * PAUSE, "after each that says something of the next");
        tokio::select! {
            _ = incoming.next() => panic!("it has no end"),
            () = sockets.exhausted() => {}
        }
    }
}
