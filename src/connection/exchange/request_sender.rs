//! Sends a request's body into h2, under its flow control.
//!
//! [`BodyWriter`] is polled by the exchange until the head of the response is there, and by
//! [`RequestSender`], a task of its own, from then on: the caller may not poll the response while
//! it still produces requests. h2 takes only as much data as the windows of the stream and of the
//! connection have room for, so an unread request costs no memory beyond one frame of the body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::connection::exchange::body_guard::{BodyFailure, guard};
use crate::connection::failure::{BoxError, Failure, FailureKind};
use crate::connection::resets::cancelled::break_off;

/// The sending half of a stream. The body itself is passed to each poll, so that the exchange can
/// give it back.
pub(super) struct BodyWriter {
    stream: SendStream<Bytes>,
    /// Data that was taken from the body and is not sent yet.
    unsent: Option<Bytes>,
    /// What follows `unsent`.
    next: NextFrame,
    /// Data was given to h2.
    has_sent: bool,
}

/// Data up to this size is sent without waiting for capacity: the initial window of every stream
/// (RFC 9113, 6.9.2).
const INITIAL_WINDOW: usize = (64 << 10) - 1;

/// The next frame of the body, as far as the body was asked.
enum NextFrame {
    Unknown,
    Data(Bytes),
    /// Boxed: clients of gRPC send none.
    Trailers(Box<HeaderMap>),
    /// The body has ended.
    End,
}

impl BodyWriter {
    /// Nothing was sent yet but the head.
    pub(super) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, unsent: None, next: NextFrame::Unknown, has_sent: false }
    }

    /// Sends what can be sent. Ready when all is sent.
    ///
    /// # Errors
    /// When the server wants no more ([`FailureKind::Lost`]; the response says why), and when the
    /// request itself failed: its stream then has to be reset.
    pub(super) fn poll<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        loop {
            // Looks one frame ahead, so that the last DATA frame carries the end of the stream: a
            // unary request is then two frames.
            let is_known = self.look_ahead(body, cx)?.is_ready();
            if self.unsent.is_some() {
                let is_last = matches!(self.next, NextFrame::End);
                ready!(self.send_unsent(cx))?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            if !is_known {
                // The server may reset the stream while the body waits.
                let _ = ready!(self.stream.poll_reset(cx));
                return Poll::Ready(Err(stopped()));
            }
            match std::mem::replace(&mut self.next, NextFrame::Unknown) {
                NextFrame::Data(data) => self.unsent = Some(data),
                NextFrame::Trailers(trailers) => {
                    let Err(error) = self.stream.send_trailers(*trailers) else { return Poll::Ready(Ok(())) };
                    // Either the server has reset the stream, or HTTP/2 forbids these trailers.
                    return Poll::Ready(Err(match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => stopped(),
                        Poll::Pending => Failure::new(FailureKind::InvalidRequest, error.to_string()),
                    }));
                }
                NextFrame::End => return Poll::Ready(self.send(Bytes::new(), true)),
                NextFrame::Unknown => {}
            }
        }
    }

    /// The stream, for a reset.
    pub(super) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Takes the next frame from the body, if it is not known.
    fn look_ahead<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        while let NextFrame::Unknown = self.next {
            let frame =
                guard(|| if body.is_end_stream() { Poll::Ready(None) } else { Pin::new(&mut *body).poll_frame(cx) })?;
            self.next = match ready!(frame) {
                None => NextFrame::End,
                Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                    Ok(data) if data.is_empty() => NextFrame::Unknown,
                    Ok(data) => NextFrame::Data(data),
                    Err(Ok(trailers)) => NextFrame::Trailers(Box::new(trailers)),
                    Err(Err(_)) => NextFrame::Unknown, // a kind of frame that HTTP/2 has no name for
                },
                Some(Err(error)) => return Poll::Ready(Err(Failure::of_request_body(error.into()))),
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the unsent data as the windows permit. The last of it ends the stream if nothing
    /// follows.
    fn send_unsent(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(unsent) = &mut self.unsent {
            // h2 assigns a stream no capacity before it has written its head. Waiting for that
            // would cost a unary call a second turn of both tasks and a second write. h2 keeps the
            // data until it has capacity.
            let is_small_start = !self.has_sent && unsent.len() <= INITIAL_WINDOW;
            if !is_small_start {
                self.stream.reserve_capacity(unsent.len());
                let mut capacity = self.stream.capacity();
                if capacity == 0 {
                    capacity = match ready!(self.stream.poll_capacity(cx)) {
                        Some(Ok(capacity)) => capacity,
                        Some(Err(_)) | None => return Poll::Ready(Err(stopped())),
                    };
                }
                if capacity < unsent.len() {
                    let part = unsent.split_to(capacity);
                    if !part.is_empty() {
                        self.send(part, false)?;
                    }
                    continue;
                }
            }
            let data = std::mem::take(unsent);
            self.unsent = None;
            self.send(data, matches!(self.next, NextFrame::End))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives data to h2.
    fn send(&mut self, data: Bytes, is_last: bool) -> Result<(), Failure> {
        self.has_sent = true;
        self.stream.send_data(data, is_last).map_err(|_| stopped())
    }
}

/// The server has reset or ended the stream. The response says why.
fn stopped() -> Failure {
    Failure::new(FailureKind::Lost, "the server wants no more of the request")
}

/// Sends the rest of a request while its response comes, as a task of its own.
pub(super) struct RequestSender<B> {
    pub(super) body: B,
    pub(super) writer: BodyWriter,
    pub(super) failure: BodyFailure,
}

impl<B> Future for RequestSender<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(failure) = ready!(this.writer.poll(&mut this.body, cx))
            && failure.is_of_request()
        {
            // Before the reset, which wakes the reader of the response: it has to find the failure.
            this.failure.set(failure);
            break_off(&mut this.writer.stream);
        }
        Poll::Ready(())
    }
}
