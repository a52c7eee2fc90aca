//! The decision after an attempt: the end of the call, or another attempt.
//!
//! There are two kinds of retries. `retry_unprocessed` is gRPC's transparent retry, for calls that no server has processed.
//! `retry` is for calls that a server may have processed, and follows the retry policy.
//!
//! | attempt | reported | then |
//! |---|---|---|
//! | response with a status | its code | the retry policy decides, if the code is not OK |
//! | response that goes on | with its trailers | the caller reads it; `buffer` holds it back for the retry policy |
//! | response without a gRPC status | the code of its HTTP status | the retry policy decides |
//! | `NotSent`, `Refused` | not processed | another server |
//! | `GoAwayError`: a GOAWAY with an error | not processed | another server, once for each call |
//! | `Lost`, `Reset`, `LocalGoAway` | failure | the retry policy decides |
//! | `HeadersOverflow`: headers that HTTP/2 does not take | failure | the retry policy decides, once for each call |
//! | `TooLarge` | failure | the call ends |
//! | `RequestBody`, `RequestBodyPanic`, `InvalidRequest` | nothing | the call ends: the fault is the caller's |
//! | the deadline passed | failure | the call ends |

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Response, StatusCode};
use tonic::{Code, Status};

use crate::balance::call::deadline::DeadlineTimer;
use crate::balance::call::held_back::{HeldBack, ReadStatus};
use crate::balance::call::replay::{ReplayBody, RewindReason};
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::response_body::{BodyError, ResponseBody, ServedBy};
use crate::balance::call::retry::{Pushback, RetryScope};
use crate::balance::call::state::AttemptOutcome::{self, Done, Failed, Retry, Unprocessed};
use crate::balance::call::state::CallState;
use crate::balance::policy::AttemptResult;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::status;
use crate::balance::status::call_error::add_server_header;
use crate::balance::status::headers::ResponseHeaders;
use crate::balance::status::not_grpc;
use crate::connection::{Exchange, Failure, FailureKind, RecvStream};

/// What follows the head of a response.
pub(super) enum AfterHead {
    Decided(AttemptOutcome),
    /// There is none yet, and a further attempt is due.
    FurtherDue,
    /// The response goes on, and is held back until its status has come ([`CallState::on_held_back`]).
    HoldBack(HeldBack),
    /// The response is no gRPC. The call ends with a status that describes it, unless the flag says that another of its attempts
    /// may still succeed. Boxed, so that calls that need not wait do not carry its memory.
    Describe(Pin<Box<dyn Future<Output = Status> + Send>>, bool),
}

/// What follows an attempt that has ended.
enum Next {
    Retry(ReplayBody, Duration),
    /// The call would be retried, but attempts, budget, deadline or server allow no more.
    Exhausted,
    /// The call is over.
    End,
}

impl CallState {
    /// Decides after the head of a response has come.
    ///
    /// The response is of one of three kinds: it goes on (a caller reads it), it ended with its head (`Trailers-Only`, the code is
    /// there), or it is no response of a gRPC server. The exchange belongs to it from here on: its permit counts the stream until
    /// the response's body ends.
    pub(super) fn on_response(
        &mut self,
        response: Response<RecvStream>,
        exchange: Exchange<ReplayBody>,
        mut reporter: AttemptReporter,
        timer: DeadlineTimer,
        cx: &mut Context<'_>,
    ) -> AfterHead {
        let (mut head, stream) = response.into_parts();
        let subchannel = reporter.subchannel.clone();
        let address = subchannel.subchannel.address();
        if self.reports_server {
            head.extensions.insert(ServedBy(subchannel.subchannel.clone()));
        }
        let headers = ResponseHeaders::scan(&head.headers);
        if let Some(status) = headers.head_too_large(exchange.response_header_limit(), address) {
            reporter.head_received(false);
            reporter.report_as(headers.code_of_too_large(), status.code(), 0);
            return AfterHead::Decided(Done(Err(status)));
        }
        if headers.has_details && headers.code.is_some() {
            status::remove_invalid_details(&mut head.headers);
        }
        // OK in the head of a response that goes on is no status: the trailers have it.
        let final_code = headers.code.filter(|code| *code != Code::Ok || stream.is_end_stream());
        let is_grpc = headers.is_grpc || headers.code.is_some();
        let has_begun = final_code.is_none() && head.status == StatusCode::OK && is_grpc;
        reporter.head_received(has_begun || final_code == Some(Code::Ok));
        if has_begun {
            let (recv, body) = exchange.into_response_body(stream, ReplayBody::commit);
            let body_of_response = ResponseBody::new(recv, reporter, timer, self.max_response);
            let response = Response::from_parts(head, body_of_response);
            return match &self.retry {
                // Only where the request was sent as a whole: otherwise the caller may need the response to go on with it.
                Some(retry) if retry.scope == RetryScope::UntilComplete && body.is_some() => {
                    let mut held_back = HeldBack::new(response, body, subchannel);
                    match held_back.poll(cx) {
                        Poll::Ready(read) => AfterHead::Decided(self.on_held_back(read, held_back)),
                        Poll::Pending => AfterHead::HoldBack(held_back),
                    }
                }
                _ => AfterHead::Decided(Done(Ok(response))),
            };
        }
        let code = final_code.unwrap_or_else(|| not_grpc::code_of(head.status));
        // The server cancels a call when its deadline passes. Both ends see that at the same moment.
        if code == Code::Cancelled && timer.has_passed() {
            reporter.report(Code::DeadlineExceeded);
            return AfterHead::Decided(Done(Err(timer.exceeded(address))));
        }
        reporter.report(code);
        let (body, permit) = exchange.into_parts();
        let next = self.retry(code, Some(body), &subchannel, false, Pushback::from_headers(&head.headers));
        if final_code.is_none() {
            if let Next::Retry(..) = next {
                let status = not_grpc::status_of(&head, None, address);
                return AfterHead::Decided(self.retry_or_end(next, Err(status)));
            }
            let deadline = self.wait_limits.deadline.map(|deadline| deadline.at);
            let describe = async move {
                not_grpc::read_status(head, stream, permit, deadline, subchannel.subchannel.address()).await
            };
            return AfterHead::Describe(Box::pin(describe), matches!(next, Next::Exhausted));
        }
        let result = if code != Code::Ok && self.is_generated() {
            Err(status::from_server(&head.headers, address))
        } else {
            if code != Code::Ok && self.shared.settings.addresses_in_statuses {
                add_server_header(&mut head.headers, address);
            }
            Ok(Response::from_parts(head, ResponseBody::empty()))
        };
        AfterHead::Decided(self.retry_or_end(next, result))
    }

    /// Ends the call with `result`, or makes another attempt. If that finds no server, the call ends with `result` too.
    fn retry_or_end(&mut self, next: Next, result: Result<Response<ResponseBody>, Status>) -> AttemptOutcome {
        match next {
            Next::End => Done(result),
            Next::Exhausted => Failed(result),
            Next::Retry(body, pause) => {
                self.earlier.ended(result);
                Retry(body, pause)
            }
        }
    }

    /// Decides about a response that was held back, once its status is known.
    pub(super) fn on_held_back(&mut self, read: ReadStatus, held_back: HeldBack) -> AttemptOutcome {
        let HeldBack { response, request, server, .. } = held_back;
        match read {
            Ok((code, pushback)) => {
                let next = self.retry(code, request, &server, false, pushback);
                self.retry_or_end(next, Ok(response))
            }
            Err(BodyError::DeadlineExceeded(status) | BodyError::TooLarge(status)) => Done(Err(status)),
            Err(BodyError::Failed(failure)) => self.retry_failure(failure, request, &server),
        }
    }

    /// Decides after an exchange that failed before the head of a response.
    ///
    /// `body` is the request as far as it was read. If more was sent than is kept, it cannot be rewound, and even an unprocessed
    /// call ends with its failure.
    pub(super) fn on_failure(
        &mut self,
        failure: Failure,
        mut body: ReplayBody,
        reporter: &mut AttemptReporter,
        timer: &DeadlineTimer,
    ) -> AttemptOutcome {
        let subchannel = reporter.subchannel.clone();
        let address = subchannel.subchannel.address();
        let is_unprocessed = match failure.kind {
            FailureKind::NotSent | FailureKind::Refused => true,
            FailureKind::GoAwayError(_) => !self.is_suspect,
            FailureKind::Reset(_)
            | FailureKind::Lost
            | FailureKind::LocalGoAway(_)
            | FailureKind::TooLarge
            | FailureKind::HeadersOverflow => false,
            // The caller's own fault: it says nothing about the server.
            FailureKind::RequestBody | FailureKind::RequestBodyPanic | FailureKind::InvalidRequest => {
                reporter.discard(AttemptResult::Dropped, status::code_told(&failure), 0);
                return Done(Err(status::from_failure(failure, address)));
            }
        };
        if is_unprocessed && body.rewind(RewindReason::NeverProcessed).is_ok() {
            self.is_suspect |= matches!(failure.kind, FailureKind::GoAwayError(_));
            // A server that refuses calls must not look idle. One whose connection is over is not picked any more.
            if subchannel.connection.is_closing() {
                reporter.discard(AttemptResult::NotProcessed, status::code_of_failure(&failure), 0);
            } else {
                reporter.report_not_processed(status::code_of_failure(&failure));
            }
            return self.retry_unprocessed(subchannel, failure, body);
        }
        let code = status::code_of_failure(&failure);
        if code == Code::Cancelled && timer.has_passed() {
            reporter.report(Code::DeadlineExceeded);
            return Done(Err(timer.exceeded(address)));
        }
        reporter.report(code);
        self.retry_failure(failure, Some(body), &subchannel)
    }

    /// Retries a call that failed without a status if the policy allows it, before or after the head of its response.
    ///
    /// A call that was not processed comes here only if it has no transparent retry.
    fn retry_failure(
        &mut self,
        failure: Failure,
        body: Option<ReplayBody>,
        subchannel: &Arc<ReadySubchannel>,
    ) -> AttemptOutcome {
        let is_lost =
            matches!(failure.kind, FailureKind::Lost | FailureKind::HeadersOverflow | FailureKind::LocalGoAway(_));
        let code = status::code_of_failure(&failure);
        let next = match failure.kind {
            FailureKind::TooLarge => Next::End,
            // This call, or one that shares connections with it, may end every connection that it is sent over.
            FailureKind::GoAwayError(_) | FailureKind::HeadersOverflow
                if std::mem::replace(&mut self.is_suspect, true) =>
            {
                // An attempt that is in flight beside it may still succeed.
                if self.retry.as_ref().is_some_and(|retry| retry.has_code(code)) { Next::Exhausted } else { Next::End }
            }
            _ => self.retry(code, body, subchannel, is_lost, Pushback::None),
        };
        let is_unprocessed =
            matches!(failure.kind, FailureKind::NotSent | FailureKind::Refused | FailureKind::GoAwayError(_));
        let status = status::from_failure(failure, subchannel.subchannel.address());
        match next {
            // An earlier attempt may have been processed: its result says more than this one's.
            Next::Retry(body, pause) if is_unprocessed && self.earlier.has_result() => Retry(body, pause),
            Next::Exhausted if is_unprocessed => Failed(self.last_result_or(status)),
            Next::End if is_unprocessed => Done(self.last_result_or(status)),
            next => self.retry_or_end(next, Err(status)),
        }
    }

    /// Sends a call that no server has processed to another server (gRPC's transparent retry).
    ///
    /// It does not count as an attempt. A refusal takes a token of the budget, but the call's first one takes none, and
    /// neither does what was not sent. All calls that the GOAWAY of one connection leaves out take one token together,
    /// as all that are lost with one do.
    pub(super) fn retry_unprocessed(
        &mut self,
        subchannel: Arc<ReadySubchannel>,
        failure: Failure,
        body: ReplayBody,
    ) -> AttemptOutcome {
        let server = subchannel.subchannel.address();
        self.span.tell(|| {
            tracing::debug!(
                parent: self.span.id(), %server, error = %failure, "call not processed, trying another server"
            );
        });
        // Where the connection is over, the server's next connection is as good as any other.
        let is_closing = subchannel.connection.is_closing();
        if !is_closing {
            self.mark_tried(&subchannel.subchannel);
        }
        let retries = self.earlier.transparent_retries();
        let now = self.wait_limits.started.elapsed();
        if failure.kind == FailureKind::NotSent {
            retries.on_not_sent(now);
        } else {
            if !is_closing {
                subchannel.subchannel.cost.refused();
            }
            let budget = &self.shared.retry_budget;
            if retries.next_refusal_takes_token() && !(is_closing && subchannel.loss_paid.swap(true, Ordering::Relaxed))
            {
                budget.on_failure();
            }
            retries.on_refused(budget.allows_retry(), now);
        }
        self.earlier.refused(failure, subchannel);
        Unprocessed(body)
    }

    /// Decides whether a call that a server may have processed is retried, by policy, budget, deadline and the server's word.
    ///
    /// `is_lost` tells that the connection was lost, and other calls with it. The order of the checks follows gRFC A6: pushback
    /// and a failed attempt take their tokens even if the call is not retried.
    fn retry(
        &mut self,
        code: Code,
        body: Option<ReplayBody>,
        subchannel: &Arc<ReadySubchannel>,
        is_lost: bool,
        pushback: Pushback,
    ) -> Next {
        if code == Code::Ok {
            return Next::End;
        }
        let deadline = self.wait_limits.deadline;
        let pushback = if deadline.is_none() { pushback.without_deadline() } else { pushback };
        let declared = self.retry.as_ref().filter(|retry| retry.has_code(code));
        if self.pushback != Pushback::Never {
            self.pushback = pushback;
        }
        if pushback == Pushback::Never {
            self.shared.retry_budget.on_failure();
            return if declared.is_some() { Next::Exhausted } else { Next::End };
        }
        let Some(policy) = declared else { return Next::End };
        // All calls that are lost with one connection are one failure to the budget.
        if !is_lost || !subchannel.loss_paid.swap(true, Ordering::Relaxed) {
            self.shared.retry_budget.on_failure();
        }
        self.attempts += 1;
        let pause = match pushback {
            Pushback::After(millis) => Duration::from_millis(millis.into()),
            Pushback::None if is_lost && self.attempts == 1 => Duration::ZERO,
            Pushback::None | Pushback::Never => policy.pause(self.attempts, fastrand::f64()),
        };
        // A pause that ends too late would replace the server's status with a passed deadline.
        // What a server has forbidden holds for the attempts that were in flight beside its own too.
        if self.pushback == Pushback::Never
            || self.attempts >= policy.max_attempts
            || !self.shared.retry_budget.allows_retry()
            || deadline.is_some_and(|deadline| deadline.passes_within(pause))
        {
            return Next::Exhausted;
        }
        let Some(body) = body.and_then(|mut body| body.rewind(RewindReason::Retry).ok().map(|()| body)) else {
            return Next::Exhausted;
        };
        let (server, attempts) = (subchannel.subchannel.address(), self.attempts);
        self.span.tell(|| {
            tracing::debug!(parent: self.span.id(), %server, ?code, attempts, "call failed, repeating it");
        });
        self.mark_tried(&subchannel.subchannel);
        Next::Retry(body, pause)
    }
}
