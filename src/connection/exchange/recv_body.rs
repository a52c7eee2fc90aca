//! The answer's body: data and trailers in, with the window released as they are taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame};
use tokio::task::AbortHandle;

use crate::connection::StreamPermit;
use crate::connection::exchange::guarded::BodyFailure;
use crate::connection::failure::Failure;

/// The answer's body. Dropping it before its end cancels the exchange, the rest of the request included.
pub(crate) struct RecvBody {
    stream: RecvStream,
    part: Part,
    /// What is left of the request is sent beside the answer, and ends with it.
    request: Option<Rest>,
    slot: Option<StreamPermit>,
    /// How many bytes its trailers may have.
    limit: u32,
    /// Why they may not be all, once they are here.
    cut: Option<Failure>,
}

enum Part {
    Data,
    Trailers,
    Over,
}

/// What is left of the request.
pub(crate) struct Rest {
    pub(crate) failed: BodyFailure,
    pub(crate) _task: AbortOnDrop,
}

pub(crate) struct AbortOnDrop(pub(crate) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RecvBody {
    #[inline]
    pub(crate) fn new(stream: RecvStream, request: Option<Rest>, slot: Option<StreamPermit>) -> Self {
        let limit = slot.as_ref().map_or(u32::MAX, StreamPermit::answer_limit);
        Self { stream, part: Part::Data, request, slot, limit, cut: None }
    }

    /// How many bytes of trailers it may have.
    #[inline]
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Why its trailers, which have come, may not be all of them.
    #[inline]
    pub(crate) fn cut(&self) -> Option<&Failure> {
        self.cut.as_ref()
    }

    fn broken(&mut self, error: &h2::Error) -> Failure {
        let failure = match &self.slot {
            Some(slot) => slot.failure_of_answer(self.stream.stream_id(), error),
            None => Failure::of_answer(error, None),
        };
        self.over().unwrap_or(failure)
    }

    /// The end. Gives why the request failed, if it did: that is then how the exchange has ended, whatever the server said.
    #[inline]
    fn over(&mut self) -> Option<Failure> {
        self.part = Part::Over;
        self.slot = None;
        self.request.take().and_then(|request| request.failed.take())
    }
}

impl Body for RecvBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        if let Part::Data = this.part {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    this.slot.iter().for_each(StreamPermit::progress);
                    // What the caller has, the window is free of: tonic reads whole messages, and asks for no more.
                    drop(this.stream.flow_control().release_capacity(data.len()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(this.broken(&error))));
                }
                None => this.part = Part::Trailers,
            }
        }
        if let Part::Trailers = this.part {
            let trailers = match ready!(this.stream.poll_trailers(cx)) {
                Ok(trailers) => trailers,
                Err(error) => return Poll::Ready(Some(Err(this.broken(&error)))),
            };
            this.cut = this.slot.as_ref().and_then(|slot| slot.cut(|| this.stream.stream_id()));
            if let Some(failure) = this.over() {
                return Poll::Ready(Some(Err(failure)));
            }
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.part, Part::Over) || self.stream.is_end_stream()
    }
}
