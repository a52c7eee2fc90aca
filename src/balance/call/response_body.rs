//! The body of a response as callers read it: it ends with the deadline, and reports how the call ended.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::call::deadline::DeadlineTimer;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::spans::CallSpan;
use crate::balance::method_config::message_limit::{MessageLimit, MessageScanner, MessageTooLarge};
use crate::balance::metrics::{CallRecord, MessageSizes};
use crate::balance::policy::AttemptResult;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::runtime::timer::Timer;
use crate::balance::status;
use crate::balance::status::call_error::add_server_header;
use crate::balance::status::headers::ResponseHeaders;
use crate::balance::subchannel::Subchannel;
use crate::connection::{Failure, RecvBody, SentCounter};

/// The flag and the length before each message of gRPC.
const PREFIX_LEN: usize = 5;

/// How long one complete message is held back for its trailers. Those of a unary call come in the same packet or the next one; a
/// message that stays alone belongs to a stream, whose reader must not wait.
const TRAILERS_WAIT: Duration = Duration::from_millis(50);

/// The server that sent a response, in the response's extensions. The channel puts it there if
/// [`BalancedChannelBuilder::served_by`](crate::BalancedChannelBuilder::served_by) or the call's own
/// [`ReportServer`](crate::ReportServer) asks for it.
#[derive(Clone)]
pub struct ServedBy(pub(super) Arc<Subchannel>);

impl ServedBy {
    /// Returns the server's address.
    pub fn address(&self) -> &Address {
        self.0.address()
    }
}

impl fmt::Debug for ServedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServedBy").field(self.address()).finish()
    }
}

/// The body of a response.
///
/// Its frames are data and, at the end, trailers with the call's status. A status in the trailers is no error of the body: trailers
/// are passed on as the server sent them. Dropping the body before its end cancels the call.
///
/// # Errors
/// A [`Status`] with a source, [`CallError`](crate::CallError), that names the server; nothing follows it:
///
/// - `DEADLINE_EXCEEDED` when the call's deadline passes, also while the caller reads slower than the server sends;
/// - `UNAVAILABLE` when the connection is lost;
/// - `RESOURCE_EXHAUSTED` when the trailers are larger than
///   [`max_header_list_size`](crate::BalancedChannelBuilder::max_header_list_size), or a message is larger than
///   [`max_response_message_bytes`](crate::MethodConfig::max_response_message_bytes);
/// - the code of an HTTP/2 reset, after gRPC's table, when the server resets the stream.
#[derive(Default)]
#[must_use = "a body does nothing unless it is read"]
pub struct ResponseBody(Option<Box<OpenBody>>);

/// A body that has not ended. Boxed, because it is moved often: by the call's future, by tonic, by layers.
struct OpenBody {
    /// Frames that were read while the response was held back. They come out first.
    buffered: VecDeque<Frame<Bytes>>,
    /// Dropped at the end of the response. Dropping it earlier cancels the call.
    recv: Option<RecvBody>,
    reporter: AttemptReporter,
    timer: DeadlineTimer,
    /// Finds a message that is too large. `None` without a limit.
    messages: Option<Box<MessageScanner>>,
    /// What the trailers had, once they were read.
    code: Option<Code>,
    /// Finds messages in what is read, for metrics.
    sizes: MessageSizes,
    /// Bytes of messages that were read.
    received: u64,
    /// Counts what is sent of the request from the head of the response on, if that was not all of it.
    sent: Option<SentCounter>,
    /// The call, once its caller has the body: it ends with the attempt.
    call: Option<CallRecord>,
    /// The call's, once the caller has the response. Last, so that it is dropped after the attempt's.
    span: CallSpan,
}

/// The reason why a response ended before its end.
pub(crate) enum BodyError {
    DeadlineExceeded(Status),
    /// The trailers, or a message, are larger than the channel takes.
    TooLarge(Status),
    Failed(Failure),
}

impl ResponseBody {
    pub(crate) fn new(recv: RecvBody, reporter: AttemptReporter, timer: DeadlineTimer, limit: MessageLimit) -> Self {
        let (buffered, messages, sizes) = (VecDeque::new(), limit.scanner(), MessageSizes::default());
        let (sent, recv) = (recv.sent_counter(), Some(recv));
        let (code, call, span) = (None, None, CallSpan::default());
        Self(Some(Box::new(OpenBody {
            buffered,
            recv,
            reporter,
            timer,
            messages,
            code,
            sizes,
            received: 0,
            sent,
            call,
            span,
        })))
    }

    /// Lets the call end with the body, which its caller gets now.
    #[inline]
    pub(crate) fn end_call_with(&mut self, mut call: CallRecord) {
        match self.0.as_mut().map(|open| (open.code_of_whole(), open)) {
            Some((None, open)) => open.call = Some(call),
            Some((Some(code), _)) => call.end_now(code), // it was held back
            None => call.end_now(Code::Unknown),         // it has ended with its head, and is not asked
        }
    }

    /// Returns the code of a response that was read ahead to its end. One without trailers has none of its own.
    pub(crate) fn code_of_whole(&self) -> Option<Code> {
        self.0.as_ref()?.code_of_whole()
    }

    /// Makes the body of a response that ended with its head.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// Whether the response ended with its head.
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_none()
    }

    /// Takes the call's span, which ends with the response.
    pub(crate) fn set_span(&mut self, span: CallSpan) {
        if let Some(open) = &mut self.0 {
            open.span = span;
        }
    }

    /// Sets whether the channel waits for the end of the response. If it gives up, the server was at least so slow.
    pub(crate) fn set_end_awaited(&mut self, is_awaited: bool) {
        if let Some(open) = &mut self.0 {
            open.reporter.is_end_awaited = is_awaited;
        }
    }

    /// Reads ahead until the status is known, and keeps the frames, which come out of the body afterwards.
    ///
    /// It stops earlier when a second message begins, when more than `limit` bytes have come, and when one message has been
    /// complete for [`TRAILERS_WAIT`].
    ///
    /// # Errors
    /// When the response breaks off. That was reported already.
    pub(crate) fn poll_ahead(
        &mut self,
        ahead: &mut ReadAhead,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), BodyError>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(Ok(())) };
        while ahead.size <= limit && ahead.first_message().is_none_or(|message| ahead.size <= message) {
            match open.poll_recv(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let is_last = frame.is_trailers();
                    ahead.add(frame.data_ref().map_or(&[], |data| data));
                    open.buffered.push_back(frame);
                    if is_last {
                        break;
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => break,
                Poll::Pending if ahead.first_message() == Some(ahead.size) => {
                    let wait = || (Instant::now() + TRAILERS_WAIT, Timer::default());
                    let (end, timer) = ahead.trailers_wait.get_or_insert_with(wait);
                    let _ = ready!(timer.poll(*end, cx)); // where no timer can be made, the wait is over too
                    break;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns the code that the trailers have, once they were read.
    pub(crate) fn code(&self) -> Option<Code> {
        self.0.as_ref()?.code
    }

    /// Returns the trailers, if they were read ahead.
    pub(crate) fn read_trailers(&self) -> Option<&HeaderMap> {
        self.0.as_ref()?.buffered.back()?.trailers_ref()
    }
}

/// How far a response was read ahead.
#[derive(Default)]
pub(crate) struct ReadAhead {
    /// Bytes of data.
    size: usize,
    /// The first of them, which have the length of the first message.
    prefix: [u8; PREFIX_LEN],
    /// The end of the wait for the trailers, once one message is complete.
    trailers_wait: Option<(Instant, Timer)>,
}

impl ReadAhead {
    fn add(&mut self, data: &[u8]) {
        let rest = self.prefix.get_mut(self.size..).unwrap_or_default();
        rest.iter_mut().zip(data).for_each(|(place, byte)| *place = *byte);
        self.size = self.size.saturating_add(data.len());
    }

    /// Returns the size of the first message with its prefix, once the prefix has come.
    fn first_message(&self) -> Option<usize> {
        let [_, length @ ..] = self.prefix;
        (self.size >= PREFIX_LEN).then(|| (u32::from_be_bytes(length) as usize).saturating_add(PREFIX_LEN))
    }
}

impl OpenBody {
    #[inline]
    fn code_of_whole(&self) -> Option<Code> {
        self.recv.is_none().then(|| self.code.unwrap_or(Code::Unknown))
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(recv) = &mut self.recv else { return Poll::Ready(None) };
        if let Some(too_large) = self.messages.as_ref().and_then(|messages| messages.too_large()) {
            return Poll::Ready(Some(Err(self.message_too_large(too_large))));
        }
        Poll::Ready(match Pin::new(recv).poll_frame(cx) {
            Poll::Pending if self.timer.poll_expired(cx) => Some(Err(self.deadline_exceeded())),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(mut frame))) if frame.is_data() && !self.timer.has_passed() => {
                if let Some(data) = frame.data_ref() {
                    self.received += self.sizes.count(data);
                }
                Some(match self.check_messages(&mut frame) {
                    Ok(()) => Ok(frame),
                    Err(too_large) => Err(self.message_too_large(too_large)),
                })
            }
            Poll::Ready(Some(Ok(frame))) => Some(if let Ok(trailers) = frame.into_trailers() {
                self.end_with(trailers)
            } else {
                // A reader that is slower than the server always finds data, and never waits for the timer. The server is not
                // late, so that nothing is reported of it.
                self.recv = None;
                self.give_up(Code::DeadlineExceeded);
                Err(BodyError::DeadlineExceeded(self.timer.exceeded(self.reporter.address())))
            }),
            Poll::Ready(Some(Err(failure))) => Some(Err(self.fail(failure))),
            Poll::Ready(None) => {
                self.recv = None;
                self.report(Code::Unknown); // no trailers: no gRPC server ends a response so
                None
            }
        })
    }

    /// Cuts off a message that is too large: the caller gets those before it first.
    #[inline]
    fn check_messages(&mut self, frame: &mut Frame<Bytes>) -> Result<(), MessageTooLarge> {
        match (&mut self.messages, frame.data_mut()) {
            (Some(messages), Some(data)) => messages.admit(data),
            _ => Ok(()),
        }
    }

    /// Ends the call: its caller does not take such a message. That is no fault of the server's.
    fn message_too_large(&mut self, too_large: MessageTooLarge) -> BodyError {
        self.recv = None; // cancels the call
        self.discard(Code::ResourceExhausted);
        let (address, MessageTooLarge { length, limit }) = (self.reporter.address(), too_large);
        let text = format!(
            "{address}: a response message of {length} bytes is larger than max_response_message_bytes ({limit})"
        );
        BodyError::TooLarge(status::with_server(Code::ResourceExhausted, text, address))
    }

    fn fail(&mut self, failure: Failure) -> BodyError {
        self.recv = None;
        let code = status::code_of_failure(&failure);
        // The server cancels a call when its deadline passes. Both ends see that at the same moment.
        if code == Code::Cancelled && self.timer.has_passed() {
            return self.deadline_exceeded();
        }
        if failure.is_of_request() {
            self.discard(status::code_told(&failure)); // the caller's own request failed
        } else {
            self.report(code);
        }
        BodyError::Failed(failure)
    }

    fn deadline_exceeded(&mut self) -> BodyError {
        self.recv = None; // cancels the call
        self.report(Code::DeadlineExceeded);
        BodyError::DeadlineExceeded(self.timer.exceeded(self.reporter.address()))
    }

    /// Ends the response with its trailers. A status in them is not made an error: the reader would get it twice.
    fn end_with(&mut self, mut trailers: HeaderMap) -> Result<Frame<Bytes>, BodyError> {
        let recv = self.recv.take();
        let headers = ResponseHeaders::scan(&trailers);
        if let Some(recv) = &recv
            && let Some(status) =
                headers.trailers_too_large(recv.truncation(), recv.trailer_limit(), self.reporter.address())
        {
            self.report_as(headers.code_of_too_large(), status.code());
            return Err(BodyError::TooLarge(status));
        }
        if headers.has_details {
            status::remove_invalid_details(&mut trailers);
        }
        self.code = headers.code;
        let code = headers.code.unwrap_or(Code::Unknown);
        if code == Code::Cancelled && self.timer.has_passed() {
            return Err(self.deadline_exceeded());
        }
        self.report(code);
        let is_failure = headers.code.is_some_and(|code| code != Code::Ok);
        if is_failure && self.reporter.shared.settings.addresses_in_statuses {
            add_server_header(&mut trailers, self.reporter.address());
        }
        Ok(Frame::trailers(trailers))
    }

    fn report(&mut self, code: Code) {
        self.report_as(code, code);
    }

    fn report_as(&mut self, code: Code, told: Code) {
        self.add_sent();
        let ended = self.reporter.report_as(code, told, self.received);
        self.end_call(told, ended);
    }

    fn discard(&mut self, told: Code) {
        self.add_sent();
        let ended = self.reporter.discard(AttemptResult::Dropped, told, self.received);
        self.end_call(told, ended);
    }

    fn give_up(&mut self, told: Code) {
        self.add_sent();
        let ended = self.reporter.give_up(told, self.received);
        self.end_call(told, ended);
    }

    /// Adds what a task has sent of the request.
    fn add_sent(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.reporter.record.sent += sent.value();
        }
    }

    #[inline]
    fn end_call(&mut self, code: Code, ended: Nanos) {
        if let Some(call) = &mut self.call {
            call.end(code, ended);
        }
    }

    /// Makes the status that the caller gets.
    fn status(&self, error: BodyError) -> Status {
        let mut status = match error {
            BodyError::DeadlineExceeded(status) | BodyError::TooLarge(status) => status,
            BodyError::Failed(failure) => status::from_failure(failure, self.reporter.address()),
        };
        self.reporter.shared.settings.finish_status(&mut status);
        status
    }
}

impl Drop for OpenBody {
    /// The caller gives the call up, unless it is over.
    #[inline]
    fn drop(&mut self) {
        if !self.reporter.is_over {
            self.recv = None; // cancels the call
            self.give_up(Code::Cancelled);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(open) = &mut self.0 else { return Poll::Ready(None) };
        let frame = match open.buffered.pop_front() {
            Some(frame) => Some(Ok(frame)),
            None => ready!(open.poll_recv(cx)).map(|frame| frame.map_err(|error| open.status(error))),
        };
        open.span.frame(frame.as_ref(), open.code);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|open| open.buffered.is_empty() && open.recv.is_none())
    }
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").field("ended", &self.is_end_stream()).finish_non_exhaustive()
    }
}
