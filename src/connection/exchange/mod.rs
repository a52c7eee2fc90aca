//! One exchange (RFC 9113, 8.1): a request and its response on one stream, in the caller's task.
//!
//! [`Connection::exchange`] opens the stream. [`Exchange::poll_head`] sends the request's body by
//! [`request_sender`] and waits for the head of the response. [`Exchange::into_response_body`] then
//! gives the [`recv_body`]; what is left of the request is sent by a task of its own. A small
//! request leaves in one write with its head, and its caller's task does everything: the driver
//! only moves frames. [`body_guard`] catches panics of the request's body, and [`excerpt`] reads
//! the beginning of a body that is no gRPC. [`uncounted`] is a stream that is none of these: no
//! caller's, and counted nowhere.
//!
//! An exchange is cancelled by dropping it:
//!
//! | dropped | what happens |
//! |---|---|
//! | [`Exchange`] before the head | the stream waits for its reset at the pace of [`resets`](crate::connection::resets), with its permit |
//! | [`Exchange`] after the head | the stream is reset with `CANCEL` at once |
//! | [`RecvBody`] before the end | the same, and the task that sends the request is aborted |
//!
//! A request whose body fails or panics is reset with `INTERNAL_ERROR`, so that the server does not
//! take it for complete.
//!
//! Limits of headers: [`frames`] finds the sizes of headers in the bytes that h2 reads, and
//! [`header_sizes`] keeps them for calls.

pub(super) mod body_guard;
pub(super) mod excerpt;
pub(crate) mod frames;
pub(super) mod header_sizes;
pub(super) mod recv_body;
mod request_sender;
pub(super) mod uncounted;
#[cfg(test)]
mod uncounted_tests;

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http::{Request, Response};
use http_body::Body;

use crate::connection::exchange::body_guard::{BodyFailure, SentCounter, guard};
use crate::connection::exchange::recv_body::{RecvBody, RequestTask};
use crate::connection::exchange::request_sender::{BodyWriter, RequestSender};
use crate::connection::failure::{BoxError, Failure, FailureKind};
use crate::connection::handle::Connection;
use crate::connection::resets::cancelled::PendingResponse;
use crate::connection::shared::StreamPermit;

/// A request that was sent, in whole or in part, and that waits for the head of its response.
/// Dropping it cancels the exchange.
pub(crate) struct Exchange<B> {
    /// Until the whole body is sent. Drops before `response`: the stream is reset when nothing
    /// refers to it any more.
    writer: Option<BodyWriter>,
    response: PendingResponse,
    body: B,
}

impl Connection {
    /// Starts an exchange on a stream that was reserved.
    ///
    /// # Errors
    /// When the connection opens no stream, or HTTP/2 forbids the head: the body was not polled,
    /// and is given back. When the body panics.
    pub(crate) fn exchange<B>(
        &self,
        permit: StreamPermit,
        head: Request<()>,
        body: B,
    ) -> Result<Exchange<B>, (Failure, B)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let is_empty = match guard(|| body.is_end_stream()) {
            Ok(is_empty) => is_empty,
            Err(failure) => return Err((failure, body)),
        };
        let streams = &self.0.shared.streams;
        let begun_after = streams.opened();
        // A clone for each request: a `SendRequest` keeps its last request until h2 has opened its
        // stream, and a shared one would make callers queue.
        let sent = self.0.send_request.clone().send_request(head, is_empty);
        self.0.shared.finished.release(); // the request has woken the driver
        let order = streams.open(begun_after);
        if order.number >= self.0.max_exchanges {
            self.retire();
        }
        match sent {
            Ok((response, stream)) => {
                let response = PendingResponse::new(response, permit, order, self.0.cancelled.clone());
                Ok(Exchange { writer: (!is_empty).then(|| BodyWriter::new(stream)), response, body })
            }
            Err(error) => {
                let mut failure = Failure::of_send_request(&error);
                // A closing connection refuses for reasons of its own, such as used up ids. Another
                // one will tell about the request.
                if failure.kind == FailureKind::InvalidRequest && self.is_closing() {
                    failure.kind = FailureKind::NotSent;
                }
                Err((failure, body))
            }
        }
    }
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Sends what can be sent of the body, and waits for the head of the response.
    ///
    /// # Errors
    /// When there is no response. [`Exchange::into_body`] then gives the body back.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Failure>> {
        if let Some(writer) = &mut self.writer
            && let Poll::Ready(sent) = writer.poll(&mut self.body, cx)
        {
            let writer = self.writer.take();
            if let Err(failure) = sent
                && failure.is_of_request()
            {
                // Dropped with this exchange, the stream is reset at the pace of cancelled ones.
                writer.into_iter().for_each(|writer| self.response.fail_request(writer.into_stream()));
                return Poll::Ready(Err(failure));
            }
            // If the server wants no more of the request, the response says why.
        }
        self.response.poll(cx)
    }

    /// Turns the exchange into the body of its response, after [`Exchange::poll_head`] was ready. A
    /// request body that was sent in whole is given back. Of one that was not, a task sends the
    /// rest; `before_send` is called with it before, and with a counter that the response's body has too.
    pub(crate) fn into_response_body(
        self,
        stream: RecvStream,
        before_send: impl FnOnce(&mut B, SentCounter),
    ) -> (RecvBody, Option<B>) {
        let Self { mut body, writer, mut response } = self;
        let permit = response.finish();
        let Some(writer) = writer else { return (RecvBody::new(stream, None, permit), Some(body)) };
        let failure = BodyFailure::default();
        before_send(&mut body, failure.counter());
        let sender = RequestSender { body, writer, failure: failure.clone() };
        let task = RequestTask { failure, task: tokio::spawn(sender).abort_handle() };
        (RecvBody::new(stream, Some(task), permit), None)
    }

    /// The request's body, as far as it was read.
    pub(crate) fn body(&self) -> &B {
        &self.body
    }

    /// The same, without the exchange.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The request's body, and the permit for a caller that reads the response without a
    /// [`RecvBody`]. No permit if the exchange has failed.
    pub(crate) fn into_parts(mut self) -> (B, Option<StreamPermit>) {
        let permit = self.response.finish();
        (self.body, permit)
    }

    /// The limit for the response's headers, in bytes. The caller measures them.
    pub(crate) fn response_header_limit(&self) -> u32 {
        self.response.response_header_limit()
    }
}
