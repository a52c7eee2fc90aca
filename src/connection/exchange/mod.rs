//! One exchange: head and body out, and the head of the answer in.

pub(super) mod excerpt;
pub(super) mod frames;
pub(super) mod guarded;
pub(super) mod header_limits;
pub(super) mod recv_body;
pub(super) mod request_sender;

use std::error::Error;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{Request, Response};
use http_body::Body;

use crate::connection::exchange::guarded::BodyFailure;
use crate::connection::exchange::recv_body::{AbortOnDrop, RecvBody, Rest};
use crate::connection::exchange::request_sender::{RequestSender, Sending};
use crate::connection::failure::{Failure, Kind};
use crate::connection::resets::cancelled::Unanswered;
use crate::connection::{Connection, StreamPermit};

type BoxError = Box<dyn Error + Send + Sync>;

/// The answer is on its way; the request may be too. Dropping it cancels the exchange.
pub(crate) struct Exchange<B> {
    /// Until all of the body is h2's. Dropped before the stream, which is reset when nothing refers to it.
    sending: Option<Sending>,
    stream: Unanswered,
    body: B,
}

impl Connection {
    /// Starts an exchange in a place that was reserved.
    ///
    /// # Errors
    /// When the connection takes none: then the body was not touched and is given back. When the body panics.
    pub(crate) fn exchange<B>(
        &self,
        slot: StreamPermit,
        head: Request<()>,
        body: B,
    ) -> Result<Exchange<B>, (Failure, B)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let ends = match guarded::ask(|| body.is_end_stream()) {
            Ok(ends) => ends,
            Err(failure) => return Err((failure, body)),
        };
        let cancelled = &self.0.shared.cancelled;
        let before = cancelled.opened();
        // A clone of its own: `send_request` wants it alone, and whoever shares would queue.
        let sent = self.0.send.clone().send_request(head, ends);
        let order = cancelled.open(before);
        if order.number >= self.0.most_exchanges {
            self.retire();
        }
        match sent {
            Ok((response, stream)) => {
                let sending = (!ends).then(|| Sending::over(stream));
                Ok(Exchange { sending, stream: Unanswered::new(response, slot, order), body })
            }
            Err(error) => {
                let mut failure = Failure::not_sent(&error);
                // Whatever h2 minds, ids that are used up for one: another connection will tell.
                if failure.kind == Kind::Unsendable && self.is_over() {
                    failure.kind = Kind::NotSent;
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
    /// Sends what can be sent, and waits for the head of the answer.
    ///
    /// # Errors
    /// When there is none; [`Exchange::into_body`] then gives the body back.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<RecvStream>, Failure>> {
        if let Some(sending) = &mut self.sending
            && let Poll::Ready(sent) = sending.poll(&mut self.body, cx)
        {
            let sending = self.sending.take();
            match sent {
                // Its stream is reset as it is dropped, at the pace of those that are given up.
                Err(failure) if failure.is_of_body() => {
                    sending.into_iter().for_each(|sending| self.stream.break_off(sending.into_stream()));
                    return Poll::Ready(Err(failure));
                }
                // What the server says of it comes with the answer.
                Ok(()) | Err(_) => {}
            }
        }
        Poll::Ready(ready!(self.stream.poll(cx)).map_err(|error| self.stream.failure(&error)))
    }

    /// The answer, once its head has come. What is left of the request goes on beside it, after a `last_look`; a body
    /// that has left as a whole is given back.
    pub(crate) fn answer(self, stream: RecvStream, last_look: impl FnOnce(&mut B)) -> (RecvBody, Option<B>) {
        let Self { mut body, sending, stream: mut answered } = self;
        let slot = answered.end();
        let Some(sending) = sending else { return (RecvBody::new(stream, None, slot), Some(body)) };
        last_look(&mut body);
        let failed = BodyFailure::default();
        let pump = RequestSender { body, sending, failed: failed.clone() };
        let rest = Rest { failed, _task: AbortOnDrop(tokio::spawn(pump).abort_handle()) };
        (RecvBody::new(stream, Some(rest), slot), None)
    }

    /// The body, as far as it has been read.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The same, and the place, for whoever reads on without an [`RecvBody`]; no place where the exchange has failed.
    pub(crate) fn into_parts(mut self) -> (B, Option<StreamPermit>) {
        let slot = self.stream.end();
        (self.body, slot)
    }

    /// How many bytes of headers the answer may have.
    pub(crate) fn answer_limit(&self) -> u32 {
        self.stream.answer_limit()
    }
}
