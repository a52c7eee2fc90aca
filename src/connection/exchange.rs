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

use super::answer::{AbortOnDrop, Answer, Rest};
use super::failure::Failure;
use super::guarded::{self, BodyFailure};
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
    /// When the connection takes none: then the body was not touched and is given back. When the body panics.
    pub(crate) fn exchange<B>(&self, slot: Slot, head: Request<()>, body: B) -> Result<Exchange<B>, (Failure, B)>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let ends = match guarded::is_end_stream(&body) {
            Ok(ends) => ends,
            Err(failure) => return Err((failure, body)),
        };
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
            let sending = self.sending.take();
            match sent {
                Err(failure) if failure.is_of_body() => {
                    sending.into_iter().for_each(|mut sending| sending.break_off());
                    return Poll::Ready(Err(failure));
                }
                // What the server says of it comes with the answer.
                Ok(()) | Err(_) => {}
            }
        }
        let response = ready!(Pin::new(&mut self.response).poll(cx)).map_err(|error| Failure::of_stream(&error))?;
        self.slot.progress();
        Poll::Ready(Ok(response))
    }

    /// The answer, once its head has come. What is left of the request goes on beside it, after a `last_look`; a body
    /// that has left as a whole is given back.
    pub(crate) fn answer(self, stream: RecvStream, last_look: impl FnOnce(&mut B)) -> (Answer, Option<B>) {
        let Self { mut body, sending, slot, .. } = self;
        let Some(sending) = sending else { return (Answer::new(stream, None, slot), Some(body)) };
        last_look(&mut body);
        let failed = BodyFailure::default();
        let pump = Pump { body, sending, failed: failed.clone() };
        let rest = Rest { failed, _task: AbortOnDrop(tokio::spawn(pump).abort_handle()) };
        (Answer::new(stream, Some(rest), slot), None)
    }

    /// The body, as far as it has been read.
    pub(crate) fn into_body(self) -> B {
        self.body
    }
}
