//! A further attempt of a call that has one in flight: it needs a server that was not tried yet, a copy of the request, and a
//! token of the budget. It waits for none of them. One that takes the place of an attempt that no server has processed needs no
//! token: `call/transparent.rs` says when it is due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use crate::balance::call::attempts::FlightEnd;
use crate::balance::call::attempts::flight::Flight;
use crate::balance::call::deadline::DeadlineTimer;
use crate::balance::call::pick::{PickOutcome, PickRequest, PickedServer};
use crate::balance::call::replay::ReplayBody;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::call::state::AttemptOutcome::Done;
use crate::balance::call::state::CallState;
use crate::balance::metrics::Another;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::status::headers::request_too_large;
use crate::balance::subchannel::Subchannel;
use crate::connection::Exchange;

/// A further attempt that was sent.
struct Further {
    exchange: Exchange<ReplayBody>,
    reporter: AttemptReporter,
}

/// Why a further attempt is sent. It decides where it may go, and what it costs.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum SentBecause {
    /// A time has passed, and it is sent beside the others. It goes to a server that was not tried, for a token.
    Hedging,
    /// The time of another one has passed. The same.
    Timeout,
    /// No server has processed another one (gRPC's transparent retry). It goes to a server that was not tried, and
    /// takes no token: if one is due, the refusal has taken it.
    Unprocessed,
    /// The same, after a pause. If all servers were tried, it goes to one of those again.
    UnprocessedAll,
}

impl CallState {
    /// Sends a hedge, if that is possible.
    pub(super) fn hedge(&mut self, flight: &mut Flight, now: Duration) {
        match self.send_further(flight, SentBecause::Hedging, now) {
            Some(Further { exchange, reporter }) => {
                reporter.subchannel.subchannel.hedges.fetch_add(1, Ordering::Relaxed);
                let server = reporter.address();
                self.span.tell(|| {
                    tracing::debug!(parent: self.span.id(), %server, "call without a response, sending a hedge");
                });
                flight.push(exchange, reporter, now);
            }
            None if flight.awaits_request => {}
            None => flight.schedule.hedge_impossible(now),
        }
    }

    /// Gives an attempt up and sends another in its place, if that is possible. Otherwise it goes on.
    pub(super) fn replace(&mut self, flight: &mut Flight, index: usize, now: Duration) {
        let Some(Further { exchange, reporter }) = self.send_further(flight, SentBecause::Timeout, now) else {
            if !flight.awaits_request {
                flight.replacement_impossible(index, now);
            }
            return;
        };
        if let Some(server) = flight.give_up(index) {
            server.subchannel.attempt_timeouts.fetch_add(1, Ordering::Relaxed);
            let address = server.subchannel.address();
            self.span.tell(|| {
                tracing::debug!(parent: self.span.id(), server = %address, "attempt timed out, trying another server");
            });
            self.attempts += 1;
            self.mark_tried(&server.subchannel);
        }
        flight.push(exchange, reporter, now);
    }

    /// Sends an attempt in the place of one that no server has processed. If that is not possible now, it is due again after the
    /// pause that a call without another attempt in flight makes between its rounds over all servers.
    pub(super) fn resend(&mut self, flight: &mut Flight, because: SentBecause, now: Duration) {
        if let Some(Further { exchange, reporter }) = self.send_further(flight, because, now) {
            flight.push(exchange, reporter, now);
            return flight.schedule.resend_at(None);
        }
        let pause = self.earlier.transparent_retries().on_all_refused(self.wait_limits.started.elapsed());
        flight.schedule.resend_at(now.checked_add(pause));
    }

    /// Sends an attempt to another server. `None` if that is not possible now.
    fn send_further(&mut self, flight: &mut Flight, because: SentBecause, now: Duration) -> Option<Further> {
        let Some(body) = flight.copy_of_request() else {
            flight.awaits_request = true;
            return None;
        };
        let (takes_token, why) = match because {
            SentBecause::Hedging => (true, Another::Hedge),
            SentBecause::Timeout => (true, Another::Retry),
            SentBecause::Unprocessed | SentBecause::UnprocessedAll => (false, Another::TransparentRetry),
        };
        if takes_token && !self.shared.retry_budget.allows_retry()
            || self.wait_limits.deadline.is_some_and(|deadline| deadline.passes_within(Duration::ZERO))
        {
            return None;
        }
        let previous = self.attempts.saturating_add(u32::try_from(flight.count()).unwrap_or(u32::MAX));
        self.restore_headers();
        let untried = self.pick_except(&self.failed_servers, flight, previous);
        let any =
            || (because == SentBecause::UnprocessedAll).then(|| self.pick_except(&[], flight, previous)).flatten();
        let PickedServer { subchannel, permit, picker } = untried.or_else(any)?;
        let head = self.request_head(&subchannel, previous)?;
        let limit = subchannel.connection.request_limit();
        if request_too_large(&head, self.header_size as usize, limit, subchannel.subchannel.address()).is_some() {
            self.mark_tried(&subchannel.subchannel);
            return None;
        }
        // The connection has ended just now: the next look will find another server. It was no attempt.
        let exchange = subchannel.connection.exchange(permit, head, body).ok()?;
        let span = self.attempt_span(&subchannel.subchannel, previous, !takes_token);
        if takes_token {
            self.shared.retry_budget.on_failure();
        }
        let record = (self.record.beside(why), Nanos(0));
        let reporter = AttemptReporter::new(subchannel, picker, self.shared.clone(), Nanos::new(now), record, span);
        Some(Further { exchange, reporter })
    }

    /// Picks a server that has room, that is none of these, and that has no attempt in flight, without waiting for one.
    fn pick_except(&self, servers: &[Arc<Subchannel>], flight: &Flight, previous: u32) -> Option<PickedServer> {
        let in_flight = flight.servers().map(|server| &server.subchannel);
        let tried: Vec<_> = servers.iter().chain(in_flight).cloned().collect();
        let request =
            PickRequest { attempt: previous.saturating_add(1), failed_servers: &tried, ..self.pick_request() };
        match self.pick_of(&self.shared, &request) {
            PickOutcome::Picked(picked) => Some(picked),
            PickOutcome::AllFailed
            | PickOutcome::Full
            | PickOutcome::NoneReady
            | PickOutcome::Wait
            | PickOutcome::Fail(_) => None,
        }
    }

    /// Ends a call whose deadline has passed. One server is to blame: the one that had it longest.
    pub(super) fn deadline_passed(&self, flight: &mut Flight) -> Poll<FlightEnd> {
        let Some(server) = flight.report_deadline() else { return Poll::Pending };
        let timer = DeadlineTimer::new(self.wait_limits.deadline);
        Poll::Ready(FlightEnd::Outcome(Done(Err(timer.exceeded(server.subchannel.address())))))
    }
}
