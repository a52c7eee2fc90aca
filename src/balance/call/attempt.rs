//! One attempt: a request to one server, up to the head of the response.
//!
//! The request's body is sent while the head of the response is awaited, in the caller's task. After the head, `Exchange::into_response_body`
//! moves the rest of the body into a task of its own, so that a caller that reads slowly does not stop the sending.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, Uri, Version};
use tonic::{Code, Status};

use crate::balance::call::deadline::{DeadlineTimer, GRPC_TIMEOUT};
use crate::balance::call::outcome::{AfterHead, read_status};
use crate::balance::call::pick::PickedServer;
use crate::balance::call::replay::ReplayBody;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::retry::PREVIOUS_ATTEMPTS;
use crate::balance::call::state::AttemptOutcome::{self, Done};
use crate::balance::call::state::CallState;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::status;
use crate::balance::status::headers::request_too_large;
use crate::connection::{Exchange, FailureKind};

impl CallState {
    /// Sends the request and waits for the head of the response, a failure, or the deadline.
    ///
    /// `sent_at` counts from the channel's epoch. A request that is not sent at all (its deadline has passed, its headers are too
    /// large) takes nothing from the server: the permit is dropped with it.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: the exchange resets its stream, and the reporter counts a call that was given up.
    pub(super) async fn attempt(&mut self, picked: PickedServer, sent_at: Duration) -> AttemptOutcome {
        let (mut exchange, mut reporter) = match self.send(picked, sent_at) {
            Ok(sent) => sent,
            Err(outcome) => return *outcome,
        };
        let mut timer = DeadlineTimer::new(self.wait_limits.deadline);
        // The exchange first: a response that is there counts, even if the deadline passes at the same moment.
        let head = std::future::poll_fn(|cx| match exchange.poll_head(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending if timer.poll_expired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match head.await {
            Some(Ok(response)) => match self.on_response(response, exchange, reporter, timer) {
                AfterHead::Decided(outcome) => outcome,
                AfterHead::HoldBack(response, body, subchannel) => {
                    Box::pin(self.hold_back(response, body, subchannel)).await
                }
                AfterHead::Describe(status, _) => Done(Err(status.await)),
            },
            Some(Err(failure)) => self.on_failure(failure, exchange.into_body(), &mut reporter, &timer),
            None => {
                reporter.report(Code::DeadlineExceeded);
                Done(Err(timer.exceeded(reporter.address())))
            }
        }
    }

    /// Sends the request of the first attempt, or of one that follows another.
    ///
    /// # Errors
    /// What becomes of the call if it was not sent.
    #[inline]
    pub(super) fn send(
        &mut self,
        picked: PickedServer,
        sent_at: Duration,
    ) -> Result<(Exchange<ReplayBody>, AttemptReporter), Box<AttemptOutcome>> {
        let PickedServer { subchannel, permit, picker } = picked;
        let Some(head) = self.request_head(&subchannel, self.attempts) else {
            let status = self.deadline_exceeded_unsent();
            return Err(Box::new(Done(self.last_result_or(status))));
        };
        let limit = subchannel.connection.request_limit();
        if let Some(status) = request_too_large(&head, self.header_size, limit, subchannel.subchannel.address()) {
            return Err(Box::new(Done(self.last_result_or(status))));
        }
        // `AttemptOutcome::Retry` gives it back after each attempt but the last.
        let Some(body) = self.body.take() else {
            return Err(Box::new(Done(Err(Status::internal("the request is gone")))));
        };
        let exchange = match subchannel.connection.exchange(permit, head, body) {
            Ok(exchange) => exchange,
            Err((failure, body)) if failure.kind == FailureKind::NotSent => {
                return Err(Box::new(self.retry_unprocessed(subchannel, failure, body)));
            }
            Err((failure, _)) => {
                let status = status::from_failure(failure, subchannel.subchannel.address());
                return Err(Box::new(Done(self.last_result_or(status))));
            }
        };
        Ok((exchange, AttemptReporter::new(subchannel, picker, self.shared.clone(), sent_at)))
    }

    /// Holds a response back until its status is known, and decides then.
    async fn hold_back(
        &mut self,
        mut response: Response<ResponseBody>,
        body: Option<ReplayBody>,
        subchannel: Arc<ReadySubchannel>,
    ) -> AttemptOutcome {
        let read = read_status(&mut response).await;
        self.on_held_back(read, response, body, &subchannel)
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
        *head.method_mut() = self.method.clone();
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
