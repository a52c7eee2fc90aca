//! The answer's body as callers see it: bounded by the deadline, and counted for its server.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::balance::call::deadline_timer::DeadlineTimer;
use crate::balance::call::header_limits::AnswerHeaders;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::policy::AttemptResult;
use crate::balance::runtime::timer::Timer;
use crate::balance::status;
use crate::connection::{Failure, RecvBody};

/// The body of an answer.
///
/// Its errors are statuses, whose source ([`CallError`](crate::balance::CallError)) names the server. A status in the trailers is no error:
/// trailers are passed on as the server sent them. Dropping it before its end cancels the call.
#[derive(Default)]
#[must_use = "a body does nothing unless it is read"]
pub struct ResponseBody(Option<Box<Open>>);

/// A body with something to come. Boxed, for it is moved often: by the call's future, by tonic, by layers.
struct Open {
    /// What was held back until the status had come.
    held: VecDeque<Frame<Bytes>>,
    answer: Option<RecvBody>,
    party: AttemptReporter,
    clock: DeadlineTimer,
}

/// How an answer ended before its end.
pub(crate) enum BodyError {
    Late(Status),
    /// Its trailers are not taken.
    TooLarge(Status),
    Failed(Failure),
}

impl ResponseBody {
    pub(crate) fn new(answer: RecvBody, party: AttemptReporter, clock: DeadlineTimer) -> Self {
        Self(Some(Box::new(Open { held: VecDeque::new(), answer: Some(answer), party, clock })))
    }

    /// Nothing follows the head.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// Reads on until the end, or until a second message begins, or until it is more than `limit` bytes, or until one message
    /// has been whole for [`WHOLE`]: its method streams, or the end is late. Those frames are then the first to come out. Gives
    /// the trailers, if they have come.
    ///
    /// # Errors
    /// When the answer breaks off. Its server is judged by that already.
    pub(crate) async fn hold(&mut self, limit: usize) -> Result<Option<&HeaderMap>, BodyError> {
        let Some(open) = &mut self.0 else { return Ok(None) };
        let (mut size, mut start, mut timer) = (0, Vec::with_capacity(PREFIX), None);
        while size <= limit && !is_more_than_one(&start, size) {
            let whole = is_one(&start, size);
            let next = std::future::poll_fn(|cx| match open.poll_answer(cx) {
                Poll::Pending if whole && timer.get_or_insert_with(Whole::new).is_over(cx) => Poll::Ready(None),
                next => next.map(Some),
            });
            let Some(next) = next.await else { break };
            match next {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    size += data.len();
                    start.extend(data.iter().take(PREFIX - start.len()));
                    open.held.push_back(frame);
                }
                Some(Err(broken)) => return Err(broken),
                None => break,
            }
        }
        Ok(open.held.back().and_then(Frame::trailers_ref))
    }
}

/// A flag and a length stand before each message.
const PREFIX: usize = 5;

/// How long one whole message is held for its trailers: those of a unary call come with it.
const WHOLE: Duration = Duration::from_millis(50);

/// Since when one message has been whole.
struct Whole {
    until: Instant,
    timer: Timer,
}

impl Whole {
    fn new() -> Self {
        Self { until: Instant::now() + WHOLE, timer: Timer::default() }
    }

    /// Whether that was for long enough. Without timers it was.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.poll(self.until, cx).is_ready()
    }
}

/// How many bytes the first message has, if so much of it is there.
fn message(start: &[u8]) -> Option<usize> {
    let [_, length @ ..] = <[u8; PREFIX]>::try_from(start).ok()?;
    Some(u32::from_be_bytes(length) as usize)
}

/// Whether so many bytes, which begin like this, are one message.
fn is_one(start: &[u8], size: usize) -> bool {
    message(start).is_some_and(|length| size - PREFIX >= length)
}

/// Whether they are more than one.
fn is_more_than_one(start: &[u8], size: usize) -> bool {
    message(start).is_some_and(|length| size - PREFIX > length)
}

impl Open {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        match Pin::new(answer).poll_frame(cx) {
            Poll::Pending if self.clock.poll_over(cx) => Poll::Ready(Some(Err(self.late()))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) if frame.is_data() && !self.clock.has_passed() => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(if let Ok(trailers) = frame.into_trailers() {
                self.end(trailers)
            } else {
                // A reader that is slower than the server never finds nothing to read.
                // That speaks against nobody.
                self.answer = None;
                Err(BodyError::Late(self.clock.exceeded(self.party.member.subchannel.address())))
            })),
            Poll::Ready(Some(Err(failure))) => {
                self.answer = None;
                let code = status::code_of(&failure);
                if code == Code::Cancelled && self.clock.has_passed() {
                    return Poll::Ready(Some(Err(self.late())));
                }
                // The caller's own stream speaks for nobody and against nobody.
                if failure.is_of_body() {
                    self.party.end(AttemptResult::Dropped);
                } else {
                    self.party.judge(code);
                }
                Poll::Ready(Some(Err(BodyError::Failed(failure))))
            }
            Poll::Ready(None) => {
                // Without a status, which no gRPC server does.
                self.answer = None;
                self.party.judge(Code::Unknown);
                Poll::Ready(None)
            }
        }
    }

    fn late(&mut self) -> BodyError {
        self.answer = None; // which cancels the call
        self.party.judge(Code::DeadlineExceeded);
        BodyError::Late(self.clock.exceeded(self.party.member.subchannel.address()))
    }

    /// What callers are told of how an answer broke off.
    fn told(&self, broken: BodyError) -> Status {
        let status = match broken {
            BodyError::Late(status) | BodyError::TooLarge(status) => status,
            BodyError::Failed(failure) => status::of_failure(failure, self.party.member.subchannel.address()),
        };
        self.party.inner.settings.tell(status)
    }

    fn end(&mut self, mut trailers: HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let answer = self.answer.take();
        let headers = AnswerHeaders::by(&trailers);
        let address = self.party.member.subchannel.address();
        if let Some(answer) = &answer
            && let Some(status) = headers.trailers_beyond(answer.cut(), answer.limit(), address)
        {
            self.party.judge(headers.verdict());
            return Err(BodyError::TooLarge(status));
        }
        if headers.has_details {
            status::check_details(&mut trailers);
        }
        let said = headers.code;
        let code = said.unwrap_or(Code::Unknown);
        if code == Code::Cancelled && self.clock.has_passed() {
            return Err(self.late());
        }
        self.party.judge(code);
        // Trailers are no error of the body: who reads it would be told the status twice.
        let failed = said.is_some() && code != Code::Ok;
        if failed && self.party.inner.settings.addresses_in_statuses {
            status::name(&mut trailers, self.party.member.subchannel.address());
        }
        Ok(Frame::trailers(trailers))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match open.held.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => ready!(open.poll_answer(cx)),
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(broken)) => Some(Err(open.told(broken))),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.held.is_empty() && open.answer.is_none())
    }
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody").field("ended", &self.is_end_stream()).finish_non_exhaustive()
    }
}
