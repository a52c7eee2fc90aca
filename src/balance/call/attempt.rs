//! One attempt: a request to one server, up to the head of the response.
//!
//! The request's body is sent while the head of the response is awaited, in the caller's task. After the head, `Exchange::into_response_body`
//! moves the rest of the body into a task of its own, so that a caller that reads slowly does not stop the sending.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Uri, Version};
use tonic::{Code, Status};

use crate::balance::call::attempts::wrapping_ms;
use crate::balance::call::deadline::{DeadlineTimer, GRPC_TIMEOUT};
use crate::balance::call::outcome::AfterHead;
use crate::balance::call::pick::PickedServer;
use crate::balance::call::replay::ReplayBody;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::retry::PREVIOUS_ATTEMPTS;
use crate::balance::call::state::AttemptOutcome::{self, Done};
use crate::balance::call::state::CallState;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::status;
use crate::balance::status::headers::request_too_large;
use crate::connection::{Exchange, FailureKind};

/// A request that was sent, and waits for the head of its response. Dropping it cancels the call: the exchange resets its stream,
/// and the reporter counts a call that was given up.
pub(super) struct InFlight {
    pub(super) exchange: Exchange<ReplayBody>,
    pub(super) reporter: AttemptReporter,
    timer: DeadlineTimer,
}

impl CallState {
    /// Sends the request, and keeps it in `in_flight` for [`CallState::poll_attempt`].
    ///
    /// # Errors
    /// What becomes of the call if it was not sent.
    pub(super) fn begin_attempt(&mut self, picked: PickedServer, sent_at: Nanos) -> Result<(), Box<AttemptOutcome>> {
        let (exchange, reporter) = self.send(picked, sent_at)?;
        let watched = if self.is_timed() {
            if self.first_sent_ms == 0 {
                self.first_sent_ms = wrapping_ms(sent_at.time());
            }
            self.earlier_deadline(sent_at.time())
        } else {
            self.wait_limits.deadline
        };
        self.in_flight = Some(InFlight { exchange, reporter, timer: DeadlineTimer::new(watched) });
        Ok(())
    }

    /// Waits for the head of the response, for a failure, or for the deadline, or until a further attempt is due.
    pub(super) fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<AfterHead> {
        let is_timed = self.is_timed();
        let Some(InFlight { exchange, reporter, timer }) = &mut self.in_flight else { return Poll::Pending }; // it has ended
        // The exchange first: a response that is there counts, even if the deadline passes at the same moment.
        let head = exchange.poll_head(cx);
        reporter.record.sent = exchange.body().sent();
        let head = match head {
            Poll::Ready(head) => head,
            Poll::Pending if timer.poll_expired(cx) => {
                if is_timed && !self.wait_limits.deadline.is_some_and(|deadline| deadline.has_passed()) {
                    return Poll::Ready(AfterHead::FurtherDue);
                }
                reporter.report(Code::DeadlineExceeded);
                let status = timer.exceeded(reporter.address());
                self.in_flight = None; // cancels the call
                return Poll::Ready(AfterHead::Decided(Done(Err(status))));
            }
            Poll::Pending => return Poll::Pending,
        };
        let Some(InFlight { exchange, mut reporter, mut timer }) = self.in_flight.take() else { return Poll::Pending };
        if is_timed {
            timer = DeadlineTimer::new(self.wait_limits.deadline); // it may have been an earlier one
        }
        Poll::Ready(match head {
            Ok(response) => self.on_response(response, exchange, reporter, timer, cx),
            Err(failure) => AfterHead::Decided(self.on_failure(failure, exchange.into_body(), &mut reporter, &timer)),
        })
    }

    /// Waits for what the outcome depends on. Boxed, so that calls that need not wait do not carry its memory.
    pub(super) fn outcome_of(
        &mut self,
        after_head: AfterHead,
        sent_at: Duration,
    ) -> Pin<Box<dyn Future<Output = AttemptOutcome> + Send + '_>> {
        match after_head {
            AfterHead::Decided(outcome) => Box::pin(std::future::ready(outcome)),
            AfterHead::FurtherDue => Box::pin(self.attempts(sent_at)),
            AfterHead::HoldBack(held_back) if self.is_timed() => {
                Box::pin(self.attempts_while_held_back(held_back, sent_at))
            }
            AfterHead::HoldBack(mut held_back) => Box::pin(async move {
                let read = std::future::poll_fn(|cx| held_back.poll(cx)).await;
                self.on_held_back(read, held_back)
            }),
            AfterHead::Describe(status, _) => Box::pin(async move { Done(Err(status.await)) }),
        }
    }

    /// Sends the request of the first attempt, or of one that follows another.
    ///
    /// `sent_at` counts from the channel's epoch. A request that is not sent at all (its deadline has passed, its headers are too
    /// large) takes nothing from the server: the permit is dropped with it.
    ///
    /// # Errors
    /// What becomes of the call if it was not sent.
    #[inline]
    pub(super) fn send(
        &mut self,
        picked: PickedServer,
        sent_at: Nanos,
    ) -> Result<(Exchange<ReplayBody>, AttemptReporter), Box<AttemptOutcome>> {
        let PickedServer { subchannel, permit, picker } = picked;
        let Some(head) = self.request_head(&subchannel, self.attempts) else {
            let status = self.deadline_exceeded_unsent();
            return Err(Box::new(Done(self.last_result_or(status))));
        };
        let limit = subchannel.connection.request_limit();
        if let Some(status) =
            request_too_large(&head, self.header_size as usize, limit, subchannel.subchannel.address())
        {
            return Err(Box::new(Done(self.last_result_or(status))));
        }
        // `AttemptOutcome::Retry` gives it back after each attempt but the last.
        let Some(body) = self.body.take() else {
            return Err(Box::new(Done(Err(Status::internal("the request is gone")))));
        };
        let mut span = self.attempt_span(&subchannel.subchannel, self.attempts, false);
        let exchange = match subchannel.connection.exchange(permit, head, body) {
            Ok(exchange) => exchange,
            Err((failure, body)) if failure.kind == FailureKind::NotSent => {
                span.end(Code::Unavailable);
                return Err(Box::new(self.retry_unprocessed(subchannel, failure, body)));
            }
            Err((failure, _)) => {
                let status = status::from_failure(failure, subchannel.subchannel.address());
                span.end(status.code());
                return Err(Box::new(Done(self.last_result_or(status))));
            }
        };
        let record = self.record.sent(sent_at);
        Ok((exchange, AttemptReporter::new(subchannel, picker, self.shared.clone(), sent_at, record, span)))
    }

    /// Makes the request's head for a server, with the time that is left. `None` if none is. `previous` is the number of attempts
    /// that went before.
    pub(super) fn request_head(&mut self, subchannel: &ReadySubchannel, previous: u32) -> Option<Request<()>> {
        let timeout = match &self.wait_limits.deadline {
            Some(deadline) => Some(deadline.remaining_header()?),
            None => None,
        };
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(subchannel.scheme.clone());
        uri.authority = Some(subchannel.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut head = Request::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.method_mut() = self.method();
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default(); // valid: all three parts are there
        *head.headers_mut() = self.take_headers();
        if let Some(timeout) = timeout {
            head.headers_mut().insert(GRPC_TIMEOUT, timeout);
        }
        if previous > 0 {
            head.headers_mut().insert(PREVIOUS_ATTEMPTS, previous.into());
        }
        Some(head)
    }
}
