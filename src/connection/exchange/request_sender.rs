//! The request's way out: from a body into h2, under its flow control.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};

use crate::connection::exchange::guarded::{self, BodyFailure};
use crate::connection::failure::{Failure, Kind};

type BoxError = Box<dyn Error + Send + Sync>;

/// What is still to be sent of a body, beside the body itself.
pub(crate) struct Sending {
    stream: SendStream<Bytes>,
    /// Taken from the body and not yet sent.
    held: Option<Bytes>,
    /// What follows it, as far as the body has said.
    next: Next,
    /// Something was sent already.
    begun: bool,
}

/// How much is sent first without asking for room: what every stream may send before the server gives it more.
const FIRST: usize = (64 << 10) - 1;

enum Next {
    Unknown,
    Data(Bytes),
    Trailers(HeaderMap),
    CloseReason,
}

impl Sending {
    pub(crate) fn over(stream: SendStream<Bytes>) -> Self {
        Self { stream, held: None, next: Next::Unknown, begun: false }
    }

    /// Ready when all is sent, or when the server wants no more of it, or when it cannot be sent: then the stream is to be reset.
    pub(crate) fn poll<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        loop {
            // One look ahead, so that the last frame of data carries the end: a unary call is then two frames.
            let known = self.look_ahead(body, cx)?.is_ready();
            if self.held.is_some() {
                let ended = matches!(self.next, Next::CloseReason);
                ready!(self.send_held(cx))?;
                if ended {
                    return Poll::Ready(Ok(()));
                }
            }
            if !known {
                // The server may still say that it wants no more.
                let _ = ready!(self.stream.poll_reset(cx));
                return Poll::Ready(Err(stopped()));
            }
            match std::mem::replace(&mut self.next, Next::Unknown) {
                Next::Data(data) => self.held = Some(data),
                Next::Trailers(trailers) => {
                    let Err(error) = self.stream.send_trailers(trailers) else { return Poll::Ready(Ok(())) };
                    // Either the server has ended the stream, or HTTP/2 forbids them.
                    return Poll::Ready(Err(match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => stopped(),
                        Poll::Pending => Failure::new(Kind::Unsendable, error.to_string()),
                    }));
                }
                Next::CloseReason => return Poll::Ready(self.send(Bytes::new(), true)),
                Next::Unknown => {}
            }
        }
    }

    /// The stream, for whoever ends it.
    pub(crate) fn into_stream(self) -> SendStream<Bytes> {
        self.stream
    }

    /// Asks the body what comes next, if that is not known.
    fn look_ahead<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Poll<Result<(), Failure>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        while let Next::Unknown = self.next {
            // Both questions under one guard.
            let frame = guarded::ask(|| {
                if body.is_end_stream() { Poll::Ready(None) } else { Pin::new(&mut *body).poll_frame(cx) }
            })?;
            self.next = match ready!(frame) {
                None => Next::CloseReason,
                Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                    Ok(data) if data.is_empty() => Next::Unknown,
                    Ok(data) => Next::Data(data),
                    Err(Ok(trailers)) => Next::Trailers(trailers),
                    Err(Err(_)) => Next::Unknown,
                },
                Some(Err(error)) => return Poll::Ready(Err(Failure::of_body(error.into()))),
            };
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what is held, as far as the windows let it pass; the last of it ends the stream where nothing follows.
    fn send_held(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while let Some(held) = &mut self.held {
            // h2 has no room for a stream before it has written its head: to wait for it would cost a unary call a
            // second turn of both tasks, and a second write. It keeps the data until there is.
            if !self.begun && held.len() <= FIRST {
                let data = std::mem::take(held);
                self.held = None;
                return Poll::Ready(self.send(data, matches!(self.next, Next::CloseReason)));
            }
            self.stream.reserve_capacity(held.len());
            let mut room = self.stream.capacity();
            if room == 0 {
                room = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(_)) | None => return Poll::Ready(Err(stopped())),
                };
            }
            if room >= held.len() {
                let data = std::mem::take(held);
                self.held = None;
                self.send(data, matches!(self.next, Next::CloseReason))?;
            } else if room > 0 {
                let part = held.split_to(room);
                self.send(part, false)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), Failure> {
        self.begun = true;
        self.stream.send_data(data, last).map_err(|_| stopped())
    }
}

/// Resets the stream of a body that failed. Not with `CANCEL`, which hyper's servers take for an orderly end of the request:
/// half of it would look whole.
pub(crate) fn break_off(stream: &mut SendStream<Bytes>) {
    stream.send_reset(Reason::INTERNAL_ERROR);
}

/// The server has ended the stream, or wants no more: what it has to say comes with the answer.
fn stopped() -> Failure {
    Failure::new(Kind::Lost, "the server wants no more of the request")
}

/// A body that is still being sent when its answer has begun.
pub(crate) struct RequestSender<B> {
    pub(crate) body: B,
    pub(crate) sending: Sending,
    pub(crate) failed: BodyFailure,
}

impl<B> Future for RequestSender<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if let Err(failure) = ready!(this.sending.poll(&mut this.body, cx))
            && failure.is_of_body()
        {
            // Before the reset, which wakes the answer's reader.
            this.failed.set(failure);
            break_off(&mut this.sending.stream);
        }
        Poll::Ready(())
    }
}
