//! Accepted connections, each wrapped: tonic's tasks for them outlive its server's future, and end with their sockets.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::error::BoxError;
use crate::serve::connections::calls::{self, Calls, Pair};
use crate::serve::connections::seen::Seen;
use crate::serve::connections::sockets::{Open, Sockets};
use crate::serve::connections::wire::{InFlight, Wire};

/// How long nothing is accepted after an error that does not pass by itself, such as too many open files: tonic would try
/// again without a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How far accepting has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Accepting {
    NotYet,
    Runs,
    /// There will be no more connections.
    Over,
}

/// The connections as they come, and what ends them all.
pub(crate) fn wrap<I>(incoming: I, calls: Arc<Calls>) -> (Sockets, Incoming<I>) {
    let open = Open::new(calls);
    let (told, accepting) = watch::channel(Accepting::NotYet);
    let incoming = Incoming { stream: Box::pin(incoming), open: open.clone(), told, pause: None, troubled: false };
    (Sockets::new(open, accepting), incoming)
}

/// What is accepted. It gives no errors, which are waited out, and has no end, which is told to [`Sockets`]: its server
/// would else leave without a word to anybody.
pub(crate) struct Incoming<I> {
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
    IO: Connected,
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
                let pair = if self.open.counts() { pair(&io) } else { None };
                return Poll::Ready(Some(Ok(self.open.admit(io, pair))));
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

/// The ends of a connection that tells them.
fn pair(io: &impl Connected) -> Option<Pair> {
    (&io.connect_info() as &dyn Any).downcast_ref::<TcpConnectInfo>().and_then(Pair::of)
}

/// An accepted connection, which ends when [`Sockets`] says so.
pub(crate) struct Socket<IO> {
    io: IO,
    /// None once it has come.
    end: Option<oneshot::Receiver<Infallible>>,
    wire: Wire,
    /// Over TLS, since it was handed to hyper: what was done first.
    first: Option<First>,
    seen: Arc<Seen>,
    /// Counted around the router until it goes.
    _connected: Option<calls::Connected>,
}

/// What hyper does first with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// It waits for the client, which may speak HTTP/1.1.
    Read,
    /// It greets the client, with HTTP/2's SETTINGS.
    Write,
}

impl<IO> Socket<IO> {
    pub(crate) fn new(
        io: IO,
        end: oneshot::Receiver<Infallible>,
        seen: Arc<Seen>,
        connected: Option<calls::Connected>,
    ) -> Self {
        Self { io, end: Some(end), wire: Wire::default(), first: None, seen, _connected: connected }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(end) = &mut self.end {
            if Pin::new(end).poll(cx).is_pending() {
                return Ok(());
            }
            self.end = None;
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"))
    }

    fn is_tls(&self) -> bool {
        self.wire.in_flight() == InFlight::Unknown
    }

    fn received(&mut self, bytes: &[u8]) {
        if self.is_tls() {
            self.seen.hear();
            return;
        }
        self.wire.received(bytes);
        self.seen.tell(self.wire.in_flight());
    }

    fn sent<'a>(&mut self, bufs: impl IntoIterator<Item = &'a [u8]>, mut sent: usize) {
        if self.is_tls() {
            // Its calls end before the ends of their answers are written. Elsewhere the bytes tell both at once.
            self.seen.write();
            return;
        }
        for bytes in bufs {
            let (now, _) = bytes.split_at(bytes.len().min(sent));
            self.wire.sent(now);
            sent -= now.len();
        }
        self.seen.tell(self.wire.in_flight());
    }

    /// Over TLS a server that has greeted its client writes again as soon as that has spoken, and with GOAWAY.
    fn tried(&mut self, what: First) {
        if !self.is_tls() || !self.seen.is_handed() {
            return;
        }
        match (self.first, what) {
            (None, first) => {
                self.first = Some(first);
                self.seen.greet(first == First::Write);
            }
            (Some(First::Write), First::Write) => self.seen.greet(false),
            _ => {}
        }
    }

    #[cfg(test)]
    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    #[cfg(test)]
    pub(crate) fn is_ended(&mut self) -> bool {
        self.check(&mut Context::from_waker(std::task::Waker::noop())).is_err()
    }
}

impl<IO: Connected> Connected for Socket<IO> {
    type ConnectInfo = IO::ConnectInfo;

    /// tonic asks for it when it hands the connection to hyper: over TLS, after the handshake.
    fn connect_info(&self) -> Self::ConnectInfo {
        self.seen.hand();
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Socket<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        self.tried(First::Read);
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        self.tried(First::Write);
        let sent = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.sent([buf], sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        self.tried(First::Write);
        let sent = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.sent(bufs.iter().map(|buf| &**buf), sent);
        Poll::Ready(Ok(sent))
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
        let (sockets, mut incoming) = wrap(UnboundedReceiverStream::new(accepted), Arc::default());
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

    #[tokio::test(start_paused = true)]
    async fn errors_are_waited_out_and_the_end_is_told() {
        let errors = [io::ErrorKind::ConnectionAborted, io::ErrorKind::Other, io::ErrorKind::Other];
        let errors = errors.map(|kind| Err(io::Error::new(kind, "asked for")));
        let (sockets, mut incoming) =
            wrap(tokio_stream::iter(errors).chain(tokio_stream::iter([Ok(duplex(8).0)])), Arc::default());
        let began = tokio::time::Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert_eq!(began.elapsed(), 2 * PAUSE, "after each that says something of the next");
        tokio::select! {
            _ = incoming.next() => panic!("it has no end"),
            () = sockets.exhausted() => {}
        }
    }
}
