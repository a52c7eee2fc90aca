//! What comes of an attempt: the call's end, or another attempt.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Response, StatusCode};
use tonic::Code;

use crate::backoff::Backoff;
use crate::balance::call::deadline_timer::DeadlineTimer;
use crate::balance::call::header_limits::AnswerHeaders;
use crate::balance::call::replay::{Replay, RewindReason};
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::response_body::{BodyError, ResponseBody};
use crate::balance::call::retry::{Pushback, Repeat};
use crate::balance::call::{Answered, Begun, Body, CallState, Outcome};
use crate::balance::policy::AttemptResult;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::status::not_grpc;
use crate::balance::{ServedBy, status};
use crate::connection::{Exchange, Failure, Incoming, Kind};

/// How much of an answer is held back at most until its status has come.
const HELD: usize = 4 << 20;

impl CallState {
    /// An answer has begun.
    pub(super) fn answered(
        &mut self,
        response: Response<Incoming>,
        exchange: Exchange<Body>,
        mut party: AttemptReporter,
        clock: DeadlineTimer,
    ) -> Begun<'_> {
        let (mut head, stream) = response.into_parts();
        let member = party.member.clone();
        let address = member.subchannel.address();
        head.extensions.insert(ServedBy(member.subchannel.clone()));
        let headers = AnswerHeaders::by(&head.headers);
        if let Some(status) = headers.head_beyond(exchange.answer_limit(), address) {
            party.head(false);
            party.judge(headers.verdict());
            return Begun::Known(Outcome::Over(Err(status)));
        }
        if headers.has_details && headers.code.is_some() {
            status::check_details(&mut head.headers);
        }
        let said = headers.code.filter(|code| *code != Code::Ok || stream.is_end_stream());
        let is_grpc = headers.is_grpc || headers.code.is_some();
        let begun = said.is_none() && head.status == StatusCode::OK && is_grpc;
        party.head(begun || said == Some(Code::Ok));
        if begun {
            let (answer, body) = exchange.answer(stream, Replay::commit);
            let response = Response::from_parts(head, ResponseBody::new(answer, party, clock));
            return match self.repeat {
                // Not while the request is still being sent: the caller may want the answer to go on with it.
                Repeat::Whole if body.is_some() => Begun::Later(Box::pin(self.held(response, body, member))),
                Repeat::Whole | Repeat::Never | Repeat::Begun => Begun::Known(Outcome::Over(Ok(response))),
            };
        }
        let code = said.unwrap_or_else(|| not_grpc::code_of(head.status));
        if code == Code::Cancelled && clock.has_passed() {
            party.judge(Code::DeadlineExceeded);
            return Begun::Known(Outcome::Over(Err(clock.exceeded(address))));
        }
        party.judge(code);
        let (body, slot) = exchange.into_parts();
        let again = self.repeated(code, Some(body), &member, false, Pushback::of(&head.headers));
        if said.is_none() {
            if let Some(again) = again {
                let page = Err(not_grpc::unread(&head, address));
                return Begun::Known(self.keep(again, page));
            }
            let deadline = self.patience.deadline;
            return Begun::Later(Box::pin(async move {
                Outcome::Over(Err(not_grpc::status(head, stream, slot, deadline, member.subchannel.address()).await))
            }));
        }
        let answered = if code != Code::Ok && self.generated {
            Err(status::sent(&head.headers, address))
        } else {
            if code != Code::Ok && self.inner.settings.addresses_in_statuses {
                status::name(&mut head.headers, address);
            }
            Ok(Response::from_parts(head, ResponseBody::empty()))
        };
        Begun::Known(match again {
            Some(again) => self.keep(again, answered),
            None => Outcome::Over(answered),
        })
    }

    /// A server had the call, and another attempt follows: what the call ends with if that finds no server.
    fn keep(&mut self, again: Outcome, answered: Answered) -> Outcome {
        self.last = Some(Box::new(answered));
        again
    }

    /// The answer of a method that may be repeated until all of it is there.
    async fn held(
        &mut self,
        mut response: Response<ResponseBody>,
        body: Option<Body>,
        member: Arc<ReadySubchannel>,
    ) -> Outcome {
        let again = match response.body_mut().hold(HELD).await {
            Ok(trailers) => {
                let pushback = trailers.map_or(Pushback::None, Pushback::of);
                let code = trailers.and_then(status::code_in).unwrap_or(Code::Ok);
                self.repeated(code, body, &member, false, pushback)
            }
            Err(BodyError::Late(status) | BodyError::TooLarge(status)) => return Outcome::Over(Err(status)),
            Err(BodyError::Failed(failure)) => return self.unanswered(failure, body, &member),
        };
        match again {
            Some(again) => self.keep(again, Ok(response)),
            None => Outcome::Over(Ok(response)),
        }
    }

    /// The exchange failed before an answer began.
    pub(super) fn failed(
        &mut self,
        failure: Failure,
        mut body: Body,
        party: &mut AttemptReporter,
        clock: &DeadlineTimer,
    ) -> Outcome {
        let member = party.member.clone();
        let address = member.subchannel.address();
        match failure.kind {
            Kind::NotSent | Kind::Refused if body.rewind(RewindReason::NeverProcessed).is_ok() => {
                Self::not_taken(party);
                return self.never_processed(member, failure, body);
            }
            Kind::Suspected(_) if !self.suspected && body.rewind(RewindReason::NeverProcessed).is_ok() => {
                self.suspected = true;
                Self::not_taken(party);
                return self.never_processed(member, failure, body);
            }
            Kind::Body | Kind::Panicked | Kind::Unsendable => {
                party.end(AttemptResult::Dropped);
                return Outcome::Over(Err(status::of_failure(failure, address)));
            }
            Kind::NotSent
            | Kind::Refused
            | Kind::Suspected(_)
            | Kind::Reset(_)
            | Kind::Lost
            | Kind::Violation(_)
            | Kind::TooLarge
            | Kind::Overrun => {}
        }
        let code = status::code_of(&failure);
        if code == Code::Cancelled && clock.has_passed() {
            party.judge(Code::DeadlineExceeded);
            return Outcome::Over(Err(clock.exceeded(address)));
        }
        party.judge(code);
        self.unanswered(failure, Some(body), &member)
    }

    fn unanswered(&mut self, failure: Failure, body: Option<Body>, member: &Arc<ReadySubchannel>) -> Outcome {
        let lost = matches!(failure.kind, Kind::Lost | Kind::Overrun | Kind::Violation(_));
        let code = status::code_of(&failure);
        let again = match failure.kind {
            Kind::TooLarge => None,
            // It may be this call, or one that shares connections with it, that no connection survives.
            Kind::Suspected(_) | Kind::Overrun if std::mem::replace(&mut self.suspected, true) => None,
            _ => self.repeated(code, body, member, lost, Pushback::None),
        };
        let unprocessed = matches!(failure.kind, Kind::NotSent | Kind::Refused | Kind::Suspected(_));
        let status = status::of_failure(failure, member.subchannel.address());
        match again {
            // An earlier attempt may have been processed, whatever became of this one.
            Some(again) if unprocessed && self.last.is_some() => again,
            Some(again) => self.keep(again, Err(status)),
            None if unprocessed => Outcome::Over(self.given_up(status)),
            None => Outcome::Over(Err(status)),
        }
    }

    /// A server that refuses must not look idle; one whose connection is over is picked no more.
    fn not_taken(party: &mut AttemptReporter) {
        if party.member.connection.is_over() {
            party.end(AttemptResult::NotProcessed);
        } else {
            party.refused();
        }
    }

    /// Nobody has seen the call: another server, always (gRPC's transparent retry).
    pub(super) fn never_processed(&mut self, member: Arc<ReadySubchannel>, failure: Failure, body: Body) -> Outcome {
        tracing::debug!(server = %member.subchannel.address(), %failure, "never processed: another server");
        // A connection that is over is picked no more; the server's next one is as good as any.
        if !member.connection.is_over() {
            self.tried.push(member.subchannel.clone());
        }
        self.rounds.get_or_insert_with(|| Box::new(Backoff::new(fastrand::u64(..))));
        self.refused = Some(Box::new((failure, member)));
        Outcome::Again(body, Duration::ZERO)
    }

    /// Another attempt of a call that may have been processed, where that is declared harmless.
    fn repeated(
        &mut self,
        code: Code,
        body: Option<Body>,
        member: &Arc<ReadySubchannel>,
        lost: bool,
        pushback: Pushback,
    ) -> Option<Outcome> {
        if code == Code::Ok {
            return None;
        }
        let pushback = if self.patience.deadline.is_none() { pushback.undated() } else { pushback };
        if pushback == Pushback::Never {
            self.inner.budget.failed();
            return None;
        }
        let policy = &self.inner.settings.retry;
        if self.repeat == Repeat::Never || !policy.has_code(code) {
            return None;
        }
        // All that one lost connection takes with it is one failure to the budget.
        if !lost || !member.loss_paid.swap(true, Ordering::Relaxed) {
            self.inner.budget.failed();
        }
        self.attempts += 1;
        let wait = match pushback {
            Pushback::After(wait) => wait,
            Pushback::None if lost && self.attempts == 1 => Duration::ZERO,
            Pushback::None | Pushback::Never => policy.wait(self.attempts, fastrand::f64()),
        };
        if self.attempts >= policy.attempts || !self.inner.budget.allows() {
            return None;
        }
        // A pause that ends too late would hide what the server has said.
        if self.patience.deadline.is_some_and(|deadline| deadline.is_before(wait)) {
            return None;
        }
        let mut body = body?;
        body.rewind(RewindReason::Declared).ok()?;
        tracing::debug!(server = %member.subchannel.address(), ?code, attempts = self.attempts, "repeated elsewhere");
        self.tried.push(member.subchannel.clone());
        Some(Outcome::Again(body, wait))
    }
}
