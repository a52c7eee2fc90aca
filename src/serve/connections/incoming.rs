//! The accept loop: wraps each connection, waits out errors, and tells when nothing more can be
//! accepted.

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::error::BoxError;
use crate::serve::connections::calls::{CallCounter, SocketPair};
use crate::serve::connections::registry::{AcceptState, OpenConnections, Registry};
use crate::serve::connections::socket::Socket;
use crate::serve::series::ServerSeries;

/// How long nothing is accepted after an error that does not concern one connection, such as too
/// many open files. tonic would try again without a pause.
const PAUSE: Duration = Duration::from_millis(100);

/// Wraps the accepted connections: a stream for tonic, and a handle that counts and closes them.
pub(in crate::serve) fn wrap<I>(
    incoming: I,
    calls: Arc<CallCounter>,
    series: Arc<ServerSeries>,
) -> (OpenConnections, Incoming<I>) {
    let registry = Registry::new(calls, series);
    let (accept_state, receiver) = watch::channel(AcceptState::NotStarted);
    let connections = OpenConnections::new(registry.clone(), receiver);
    (connections, Incoming { stream: Box::pin(incoming), registry, accept_state, pause: None, failing: false })
}

/// The wrapped connections.
///
/// It returns no errors and has no end: tonic would leave without draining. Errors are waited out
/// here, and [`OpenConnections`] is told of the end.
pub(crate) struct Incoming<I> {
    /// What accepts.
    stream: Pin<Box<I>>,
    /// Remembers what was accepted.
    registry: Arc<Registry>,
    /// Tells the lifecycle how far the accept loop has come.
    accept_state: watch::Sender<AcceptState>,
    /// Runs after an error that concerns more than one connection.
    pause: Option<Pin<Box<Sleep>>>,
    /// An error was logged since the last connection.
    failing: bool,
}

impl<I> Incoming<I> {
    /// Wakes the lifecycle only if the state has changed.
    fn set_accept_state(&self, state: AcceptState) {
        self.accept_state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }

    /// Logs an error: a warning for the first one after a connection, so that a full table of files
    /// fills no log.
    fn log(&mut self, error: &BoxError) {
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%error, "accept failed again");
        } else {
            tracing::warn!(%error, "accept failed, retrying");
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
        if *self.accept_state.borrow() == AcceptState::Finished {
            return Poll::Pending;
        }
        self.set_accept_state(AcceptState::Running);
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        match ready!(self.stream.as_mut().poll_next(cx)) {
            Some(Ok(io)) => {
                self.failing = false;
                let pair = if self.registry.counts_calls() { socket_pair(&io) } else { None };
                return Poll::Ready(Some(Ok(self.registry.admit(io, pair))));
            }
            Some(Err(error)) => {
                let error = error.into();
                if is_of_one_connection(&error) {
                    tracing::debug!(%error, "connection was closed before it was accepted");
                } else {
                    self.log(&error);
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
                cx.waker().wake_by_ref();
            }
            None => self.set_accept_state(AcceptState::Finished),
        }
        Poll::Pending
    }
}

/// Whether an error says nothing of the next connection. The same kinds as in tonic's accept loop.
fn is_of_one_connection(error: &BoxError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    error.downcast_ref::<io::Error>().is_some_and(|error| {
        matches!(error.kind(), ConnectionAborted | ConnectionReset | BrokenPipe | Interrupted | WouldBlock | TimedOut)
    })
}

/// The addresses of a connection, if it is TCP.
fn socket_pair(io: &impl Connected) -> Option<SocketPair> {
    (&io.connect_info() as &dyn Any).downcast_ref::<TcpConnectInfo>().and_then(SocketPair::of)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::mpsc::unbounded_channel;
    use tokio_stream::StreamExt;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    fn uncounted() -> Arc<ServerSeries> {
        Arc::new(ServerSeries::new(None, std::iter::empty()))
    }

    #[tokio::test]
    async fn all_sockets_end_at_once_and_with_those_that_come_later() {
        let (accept, accepted) = unbounded_channel::<io::Result<DuplexStream>>();
        let (sockets, mut incoming) = wrap(UnboundedReceiverStream::new(accepted), Arc::default(), uncounted());
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
            wrap(tokio_stream::iter(errors).chain(tokio_stream::iter([Ok(duplex(8).0)])), Arc::default(), uncounted());
        let began = tokio::time::Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert_eq!(began.elapsed(), 2 * PAUSE, "after each that says something of the next");
        tokio::select! {
            _ = incoming.next() => panic!("it has no end"),
            () = sockets.exhausted() => {}
        }
    }
}
