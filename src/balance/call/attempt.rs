//! One attempt: what is sent to one server.

use std::task::Poll;
use std::time::Duration;

use http::{Request, Uri, Version};
use tonic::{Code, Status};

use crate::balance::call::deadline::GRPC_TIMEOUT;
use crate::balance::call::deadline_timer::DeadlineTimer;
use crate::balance::call::header_limits;
use crate::balance::call::pick::PickedServer;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::retry::PREVIOUS_ATTEMPTS;
use crate::balance::call::{Begun, CallState, Outcome};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::status;
use crate::connection::Kind;

impl CallState {
    pub(super) async fn attempt(&mut self, picked: PickedServer, sent: Duration) -> Outcome {
        let PickedServer { server: member, permit, picker } = picked;
        let Some(head) = self.head(&member) else {
            let status = self.too_late();
            return Outcome::Over(self.given_up(status));
        };
        if let Some(status) =
            header_limits::refuse(&head, self.size, member.connection.request_limit(), member.subchannel.address())
        {
            return Outcome::Over(self.given_up(status));
        }
        // Each attempt but the last gives it back.
        let Some(body) = self.body.take() else {
            return Outcome::Over(Err(Status::internal("the request is gone")));
        };
        let mut exchange = match member.connection.exchange(permit, head, body) {
            Ok(exchange) => exchange,
            Err((failure, body)) if failure.kind == Kind::NotSent => {
                return self.never_processed(member, failure, body);
            }
            Err((failure, _)) => {
                let status = status::of_failure(failure, member.subchannel.address());
                return Outcome::Over(self.given_up(status));
            }
        };
        let mut party = AttemptReporter::new(member, picker, self.inner.clone(), sent);
        let mut clock = DeadlineTimer::new(self.patience.deadline);
        let head = std::future::poll_fn(|cx| match exchange.poll_head(cx) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending if clock.poll_over(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        match head.await {
            Some(Ok(response)) => match self.answered(response, exchange, party, clock) {
                Begun::Known(outcome) => outcome,
                Begun::Later(outcome) => outcome.await,
            },
            Some(Err(failure)) => self.failed(failure, exchange.into_body(), &mut party, &clock),
            None => {
                party.judge(Code::DeadlineExceeded);
                Outcome::Over(Err(clock.exceeded(party.member.subchannel.address())))
            }
        }
    }

    /// The request's head for this server, with the time that remains; none where none does.
    fn head(&self, member: &ReadySubchannel) -> Option<Request<()>> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(member.scheme.clone());
        uri.authority = Some(member.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut head = Request::new(());
        *head.version_mut() = Version::HTTP_2;
        *head.method_mut() = self.method.clone();
        *head.uri_mut() = Uri::from_parts(uri).unwrap_or_default(); // all three parts are there
        *head.headers_mut() = self.headers.clone();
        if let Some(deadline) = &self.patience.deadline {
            head.headers_mut().insert(GRPC_TIMEOUT, deadline.header()?);
        }
        if self.attempts > 0 {
            head.headers_mut().insert(PREVIOUS_ATTEMPTS, self.attempts.into());
        }
        Some(head)
    }
}
