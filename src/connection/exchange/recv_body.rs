//! The body of a response: data and trailers. The window is released as the caller takes data.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};
use tokio::task::AbortHandle;

use crate::connection::exchange::body_guard::{BodyFailure, SentCounter};
use crate::connection::failure::Failure;
use crate::connection::shared::StreamPermit;

/// The body of a response. Dropping it before its end resets the stream and stops the request.
///
/// It yields data, then trailers, then nothing. An error ends it. The permit is released at the
/// end, before the caller sees it, so that the caller's next call finds the stream free.
pub(crate) struct RecvBody {
    /// `None` once the response has ended.
    stream: Option<RecvStream>,
    part: BodyPart,
    /// Sends the rest of the request, if its body had not ended at the head of the response. Stops
    /// with the response.
    request: Option<RequestTask>,
    /// Released at the end of the response.
    permit: Option<StreamPermit>,
    /// Bytes.
    trailer_limit: u32,
    /// Set together with the trailers.
    truncation: Option<Failure>,
}

/// What is read next. Each follows the one before it.
enum BodyPart {
    Data,
    Trailers,
    /// The end, or an error.
    End,
}

/// The task that sends the rest of a request.
pub(super) struct RequestTask {
    pub(super) failure: BodyFailure,
    pub(super) task: AbortHandle,
}

impl Drop for RequestTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RecvBody {
    /// From the stream of a response whose head was received.
    #[inline]
    pub(super) fn new(stream: RecvStream, request: Option<RequestTask>, permit: Option<StreamPermit>) -> Self {
        let trailer_limit = permit.as_ref().map_or(u32::MAX, |permit| permit.headers().response_limit());
        Self { stream: Some(stream), part: BodyPart::Data, request, permit, trailer_limit, truncation: None }
    }

    /// The limit for the trailers, in bytes. The caller measures them.
    #[inline]
    pub(crate) fn trailer_limit(&self) -> u32 {
        self.trailer_limit
    }

    /// What the request's body counts from now on, if a task sends the rest of it.
    pub(crate) fn sent_counter(&self) -> Option<SentCounter> {
        self.request.as_ref().map(|request| request.failure.counter())
    }

    /// Why the trailers may not be complete. Known once they were returned.
    #[inline]
    pub(crate) fn truncation(&self) -> Option<&Failure> {
        self.truncation.as_ref()
    }

    /// Ends the exchange with an error of the stream.
    fn fail(&mut self, error: &h2::Error) -> Failure {
        let failure = match (&self.permit, &self.stream) {
            (Some(permit), Some(stream)) => permit.failure(stream.stream_id(), error, Failure::in_response),
            _ => Failure::in_response(error, None),
        };
        self.end().unwrap_or(failure)
    }

    /// Ends the exchange. Returns why the request failed, if it did: the exchange has then failed,
    /// whatever the response says.
    #[inline]
    fn end(&mut self) -> Option<Failure> {
        self.part = BodyPart::End;
        self.permit = None;
        self.request.take().and_then(|request| request.failure.take())
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        if let BodyPart::Data = this.part {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.permit.iter().for_each(StreamPermit::record_progress);
                    // Released before the caller has processed it: tonic reads whole messages, and
                    // polls for no more than one.
                    drop(stream.flow_control().release_capacity(data.len()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.fail(&error)))),
                None => this.part = BodyPart::Trailers,
            }
        }
        if let BodyPart::Trailers = this.part {
            let trailers = match ready!(stream.poll_trailers(cx)) {
                Ok(trailers) => trailers,
                Err(error) => return Poll::Ready(Some(Err(this.fail(&error)))),
            };
            this.truncation =
                this.permit.as_ref().and_then(|permit| permit.headers().truncation(|| stream.stream_id()));
            if this.request.is_none()
                && let (Some(stream), Some(permit)) = (this.stream.take(), this.permit.take())
            {
                permit.finish(stream);
            }
            if let Some(failure) = this.end() {
                return Poll::Ready(Some(Err(failure)));
            }
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.part, BodyPart::End) || self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }
}
