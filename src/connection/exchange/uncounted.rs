//! A request and its response on a stream that is no exchange of a caller's, such as a health check
//! that is open for as long as its connection.
//!
//! It takes one of the server's streams, and counts nowhere else: neither in flight, nor among the
//! exchanges that were begun, nor as the progress for which servers forgive PINGs. So keep-alive,
//! the idle timeout and the owners of the connection see the connection as if it were not there,
//! unless [`Connection::set_awaited`] says that something is awaited.
//! What is read of it is a sign of life, as everything that is read.
//!
//! It holds a connection open as every stream does: who opens it ends it when the connection
//! drains.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use http_body::{Body, Frame};

use crate::connection::failure::{Failure, FailureKind};
use crate::connection::handle::Connection;
use crate::connection::shared::Shared;

/// A request that was sent, and that waits for the head of its response. Dropping it resets the
/// stream.
pub(crate) struct Uncounted {
    response: ResponseFuture,
    /// Knows when h2 has sent it; taken by [`Uncounted::opened`].
    send_request: Option<SendRequest<Bytes>>,
    slot: UncountedSlot,
}

/// The body of a response: data and trailers. Dropping it resets the stream.
pub(crate) struct UncountedBody {
    stream: RecvStream,
    is_data_over: bool,
    /// The end, or an error.
    is_over: bool,
    slot: UncountedSlot,
}

/// One of the server's streams. It is given back by the drop, when h2 has been told of the stream's
/// end.
struct UncountedSlot(Arc<Shared>);

impl UncountedSlot {
    fn reserve(shared: &Arc<Shared>) -> Self {
        shared.capacity.reserve_uncounted();
        Self(shared.clone())
    }
}

impl Drop for UncountedSlot {
    fn drop(&mut self) {
        self.0.release_uncounted();
    }
}

impl Connection {
    /// Opens a stream that is no exchange, and sends a request with this body. If exchanges use all
    /// of the server's streams, h2 sends it when one of them ends.
    ///
    /// # Errors
    /// When the connection opens no stream, or HTTP/2 forbids the head.
    pub(crate) fn open_uncounted(&self, head: Request<()>, body: Bytes) -> Result<Uncounted, Failure> {
        let shared = &self.0.shared;
        if shared.capacity.is_closed() {
            return Err(Failure::new(FailureKind::NotSent, "the connection is closing"));
        }
        let slot = UncountedSlot::reserve(shared);
        let mut send_request = self.0.send_request.clone();
        let sent = send_request.send_request(head, false);
        let (response, mut stream) = sent.map_err(|error| Failure::of_send_request(&error))?;
        let closed = |error: &h2::Error| Failure::before_response(error, shared.close_reason());
        stream.send_data(body, true).map_err(|error| closed(&error))?;
        Ok(Uncounted { response, send_request: Some(send_request), slot })
    }

    /// Waits until the server accepts one stream at a time: an uncounted one and an exchange cannot
    /// both have it.
    pub(crate) fn only_one_stream(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = self.0.shared.clone();
        async move { shared.capacity.only_one_stream().await }
    }
}

impl Uncounted {
    /// Waits until the request is sent, which it is not while exchanges use all of the server's streams; or
    /// until that is in vain, as the response tells then. For ever, if it was asked for before.
    pub(crate) fn opened(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let mut send_request = self.send_request.take();
        std::future::poll_fn(move |cx| {
            let Some(waits) = &mut send_request else { return Poll::Pending };
            let _ = ready!(waits.poll_ready(cx)); // an error is the response's too
            send_request = None; // it would hold the connection open
            Poll::Ready(())
        })
    }

    /// Waits for the response.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn response(self) -> Result<Response<UncountedBody>, Failure> {
        let Self { response, send_request, slot } = self;
        drop(send_request);
        match response.await {
            Ok(response) => {
                Ok(response.map(|stream| UncountedBody { stream, is_data_over: false, is_over: false, slot }))
            }
            Err(error) => Err(Failure::before_response(&error, slot.0.close_reason())),
        }
    }
}

impl UncountedBody {
    /// Whether the head of the response was its end.
    pub(crate) fn is_empty(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Ends the body with an error of the stream.
    fn fail(&mut self, error: &h2::Error) -> Failure {
        self.is_over = true;
        Failure::in_response(error, self.slot.0.close_reason())
    }
}

impl Body for UncountedBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if !this.is_data_over {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    drop(this.stream.flow_control().release_capacity(data.len()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.fail(&error)))),
                None => this.is_data_over = true,
            }
        }
        let trailers = ready!(this.stream.poll_trailers(cx));
        this.is_over = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(this.fail(&error))),
        })
    }
}
