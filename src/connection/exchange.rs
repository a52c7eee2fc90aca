//! One exchange: head and body out, and the head of the answer in.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{Request, Response};
use http_body::Body;

use super::answer::{AbortOnDrop, Answer};
use super::failure::{Failure, Kind};
use super::pump::{Pump, Sending};
use super::{Connection, Slot};

type BoxError = Box<dyn Error + Send + Sync>;

/// The answer is on its way; the request may be too. Dropping it cancels the exchange.
pub(crate) struct Exchange<B> {
    response: ResponseFuture,
    body: B,
    /// Until all of the body is h2's.
    sending: Option<Sending>,
    slot: Slot,
}

impl Connection {
    /// Starts an exchange in a place that was reserved.
    ///
    /// # Errors
    /// When the connection takes none: then the body was not touched and is given back.
    pub(crate) fn exchange<B>(&self, slot: Slot, head: Request<()>, body: B) -> Result<Exchange<B>, (Failure, B)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let ends = body.is_end_stream();
        // A clone of its own: `send_request` wants it alone, and whoever shares would queue.
        match self.0.send.clone().send_request(head, ends) {
            Ok((response, stream)) => {
                let sending = (!ends).then(|| Sending::over(stream));
                Ok(Exchange { response, body, sending, slot })
            }
            Err(error) => Err((Failure::not_sent(&error), body)),
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
            self.sending = None;
            match sent {
                Err(failure) if failure.kind == Kind::Body => return Poll::Ready(Err(failure)),
                // What the server says of it comes with the answer.
                Ok(()) | Err(_) => {}
            }
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx))
            .map_err(|error| self.slot.failure(self.response.stream_id(), &error))?;
        self.slot.progress();
        Poll::Ready(Ok(response))
    }

    /// The answer, once its head has come. What is left of the request goes on beside it, after a `last_look`; a body
    /// that has left as a whole is given back.
    pub(crate) fn answer(self, stream: RecvStream, last_look: impl FnOnce(&mut B)) -> (Answer, Option<B>) {
        let Self { mut body, sending, slot, .. } = self;
        let Some(sending) = sending else { return (Answer::new(stream, None, slot), Some(body)) };
        last_look(&mut body);
        let rest = AbortOnDrop(tokio::spawn(Pump { body, sending }).abort_handle());
        (Answer::new(stream, Some(rest), slot), None)
    }

    /// The body, as far as it has been read.
    pub(crate) fn into_body(self) -> B {
        self.body
    }

    /// The same, and the place, for whoever reads on without an [`Answer`].
    pub(crate) fn into_parts(self) -> (B, Slot) {
        (self.body, self.slot)
    }

    /// How many bytes of headers the answer may have, and its trailers.
    pub(crate) fn answer_limit(&self) -> u32 {
        self.slot.answer_limit()
    }
}
