//! An accepted connection, wrapped: tonic's tasks outlive its server's future, so only the socket
//! can end them.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tonic::transport::server::Connected;

use crate::serve::connections::activity::ConnectionActivity;
use crate::serve::connections::calls::CountedConnection;
use crate::serve::connections::wire::{InFlightCalls, Traffic};
use crate::serve::series;

/// A connection that records its activity, and fails all reads and writes once the registry closes
/// it.
pub(crate) struct Socket<IO> {
    io: IO,
    /// Ends when the registry drops its handle; `None` after that.
    closed: Option<oneshot::Receiver<Infallible>>,
    /// Reads the calls from the bytes.
    traffic: Traffic,
    /// Over TLS: what hyper did first, once the connection was handed to it.
    first: Option<FirstOperation>,
    activity: Arc<ConnectionActivity>,
    /// Counts its calls around the router until the socket is dropped.
    _counted: Option<CountedConnection>,
    /// Counts it in the metrics until then.
    _open: series::CountedConnection,
}

/// What hyper does first with a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstOperation {
    /// It reads, because the client may speak HTTP/1.1.
    Read,
    /// It writes HTTP/2's SETTINGS.
    Write,
}

impl<IO> Socket<IO> {
    pub(super) fn new(
        io: IO,
        closed: oneshot::Receiver<Infallible>,
        activity: Arc<ConnectionActivity>,
        counted: Option<CountedConnection>,
        open: series::CountedConnection,
    ) -> Self {
        let traffic = Traffic::default();
        Self { io, closed: Some(closed), traffic, first: None, activity, _counted: counted, _open: open }
    }

    /// Fails once the registry has closed the connection.
    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(closed) = &mut self.closed {
            if Pin::new(closed).poll(cx).is_pending() {
                return Ok(());
            }
            self.closed = None;
        }
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has stopped"))
    }

    /// Whether the first byte has shown TLS.
    fn is_tls(&self) -> bool {
        self.traffic.in_flight() == InFlightCalls::Unknown
    }

    /// Records what the client has sent.
    fn on_read(&mut self, bytes: &[u8]) {
        if self.is_tls() {
            self.activity.count_read();
            return;
        }
        self.traffic.received(bytes);
        self.activity.set_in_flight(self.traffic.in_flight());
    }

    /// Records what the server has sent: the first `written` bytes of the buffers.
    fn on_write<'a>(&mut self, bufs: impl IntoIterator<Item = &'a [u8]>, mut written: usize) {
        if self.is_tls() {
            // A call ends before the end of its response is written. Without TLS the bytes tell both at once.
            self.activity.count_write();
            return;
        }
        for bytes in bufs {
            let (sent, _) = bytes.split_at(bytes.len().min(written));
            self.traffic.sent(sent);
            written -= sent.len();
        }
        self.activity.set_in_flight(self.traffic.in_flight());
    }

    /// Over TLS: a server that has sent SETTINGS first writes again only after the client has
    /// spoken, or with GOAWAY.
    fn on_operation(&mut self, operation: FirstOperation) {
        if !self.is_tls() || !self.activity.is_handed_over() {
            return;
        }
        match (self.first, operation) {
            (None, first) => {
                self.first = Some(first);
                self.activity.set_only_settings_sent(first == FirstOperation::Write);
            }
            (Some(FirstOperation::Write), FirstOperation::Write) => self.activity.set_only_settings_sent(false),
            _ => {}
        }
    }

    #[cfg(test)]
    pub(super) fn activity(&self) -> &ConnectionActivity {
        &self.activity
    }

    #[cfg(test)]
    pub(super) fn is_closed(&mut self) -> bool {
        self.check_open(&mut Context::from_waker(std::task::Waker::noop())).is_err()
    }
}

impl<IO: Connected> Connected for Socket<IO> {
    type ConnectInfo = IO::ConnectInfo;

    /// tonic asks for this when it hands the connection to hyper: over TLS, after the handshake.
    fn connect_info(&self) -> Self::ConnectInfo {
        self.activity.mark_handed_over();
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Socket<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        self.on_operation(FirstOperation::Read);
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.on_read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Socket<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        self.on_operation(FirstOperation::Write);
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.on_write([buf], written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_open(cx)?;
        self.on_operation(FirstOperation::Write);
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.on_write(bufs.iter().map(|buf| &**buf), written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_open(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
