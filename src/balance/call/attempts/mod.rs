//! A call with several attempts at once: hedges beside the attempts in flight, and attempts that take the place of one that was
//! given up after its time. Only for declared methods of a policy that asks for it, and only once something is due, or the end of
//! a response is awaited: before that, a call is as any other, with an earlier timer.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the call's turn: what has come, what is due, what is sent |
//! | `flight.rs` | the attempts in flight, and the timer, polled in the caller's task |
//! | `further.rs` | a further attempt: its server, its copy of the request, its token |
//! | `schedule.rs` | what is due when; a pure machine |
//! | `durations.rs` | pure too: how long calls take, for a delay that is a quantile |
//! | `timing.rs` | the settings |
//!
//! ```text
//!              ┌────────────────── one more attempt, if body, budget, deadline and servers allow ─┐
//!              ▼                                                                                  │
//! sent ───▶ flight ──an attempt has ended──▶ outcome ─┬─ the call is over ──▶ the others are dropped
//!              │ ▲                                    ├─ it was the last: retried by the call's loop
//!              │ │                                    ├─ no server has processed it: sent again
//!              ▼ │ timer                              └─ others are in flight: they go on
//!           schedule
//! ```
//!
//! Dropping the flight cancels each of its attempts: the exchange resets its stream, the reporter counts by age.

pub(in crate::balance) mod durations;
mod flight;
mod further;
mod schedule;
pub(in crate::balance) mod timing;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::{Code, Status};

use crate::balance::call::attempt::InFlight;
use crate::balance::call::attempts::flight::{Arrival, Attempt, Flight};
use crate::balance::call::attempts::further::SentBecause;
use crate::balance::call::attempts::schedule::{Action, Schedule};
use crate::balance::call::attempts::timing::HedgeDelay;
use crate::balance::call::deadline::{Deadline, DeadlineTimer};
use crate::balance::call::held_back::HeldBack;
use crate::balance::call::outcome::AfterHead;
use crate::balance::call::retry::Pushback;
use crate::balance::call::state::AttemptOutcome::{self, Done, Failed, Retry, Unprocessed};
use crate::balance::call::state::CallState;
use crate::balance::status;

/// How a flight ends.
enum FlightEnd {
    Outcome(AttemptOutcome),
    /// The call ends with a status that describes a response which is no gRPC.
    Describe(Pin<Box<dyn Future<Output = Status> + Send>>),
}

impl CallState {
    /// Whether the call may have a further attempt because of the time. One comparison if its method is not declared.
    #[inline]
    pub(super) fn is_timed(&self) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.timing.is_set())
    }

    /// Returns the call's deadline, or the time at which a further attempt is first due, if that is earlier.
    pub(super) fn earlier_deadline(&self, sent_at: Duration) -> Option<Deadline> {
        let deadline = self.wait_limits.deadline;
        let Some(retry) = &self.retry else { return deadline };
        let timeout = self.hedge_delay(sent_at).into_iter().chain(retry.timing.attempt_timeout).min();
        let due = timeout.filter(|_| self.attempts.saturating_add(1) < retry.max_attempts && !self.is_suspect);
        let Some(due) = due.and_then(|timeout| self.shared.epoch.checked_add(sent_at)?.checked_add(timeout)) else {
            return deadline;
        };
        Some(match deadline {
            Some(deadline) => deadline.at_latest(due),
            None => Deadline::at(due),
        })
    }

    /// Goes on with the attempt in flight, which has no head yet, and sends further ones when they are due, until the call is
    /// over or its last attempt in flight has failed.
    ///
    /// # Cancel safety
    /// Dropping the future cancels each attempt in flight, as a call with one attempt.
    pub(super) async fn attempts(&mut self, sent_at: Duration) -> AttemptOutcome {
        let mut flight = Flight::new(self.schedule(sent_at));
        if let Some(InFlight { exchange, reporter, .. }) = self.in_flight.take() {
            flight.push(exchange, reporter, sent_at);
        }
        self.finish_flight(flight, sent_at).await
    }

    /// As [`CallState::attempts`], for an attempt whose response has begun and is held back.
    pub(super) async fn attempts_while_held_back(&mut self, held_back: HeldBack, sent_at: Duration) -> AttemptOutcome {
        let mut flight = Flight::new(self.schedule(sent_at));
        flight.push_held_back(held_back, sent_at);
        self.finish_flight(flight, sent_at).await
    }

    fn schedule(&mut self, sent_at: Duration) -> Schedule {
        // A method that is not declared has one attempt, and is not timed.
        let (timeout, max_attempts) =
            self.retry.as_ref().map_or((None, 1), |retry| (retry.timing.attempt_timeout, retry.max_attempts));
        let mut schedule = Schedule::new(self.hedge_delay(sent_at), timeout, max_attempts);
        if self.pushback == Pushback::Never {
            schedule.forbid();
        } else {
            self.pushback = Pushback::None;
        }
        schedule
    }

    async fn finish_flight(&mut self, mut flight: Flight, sent_at: Duration) -> AttemptOutcome {
        let end = std::future::poll_fn(|cx| self.poll_flight(&mut flight, cx)).await;
        if flight.is_ok {
            self.add_duration(sent_at);
        }
        drop(flight); // before the description: the call is over for its other attempts
        match end {
            FlightEnd::Outcome(outcome) => outcome,
            FlightEnd::Describe(status) => Done(Err(status.await)),
        }
    }

    /// Polls the attempts, and sends further ones when they are due.
    fn poll_flight(&mut self, flight: &mut Flight, cx: &mut Context<'_>) -> Poll<FlightEnd> {
        loop {
            // The attempts first: a response that is there counts, whatever is due at the same moment.
            if let Poll::Ready(end) = self.poll_attempts(flight, cx) {
                return Poll::Ready(end);
            }
            let due = if self.is_suspect { None } else { flight.due_at(self.attempts) };
            let due = due.and_then(|due| self.shared.epoch.checked_add(due));
            let deadline = self.wait_limits.deadline;
            let Some(wake_at) = due.into_iter().chain(deadline.map(|deadline| deadline.at)).min() else {
                return Poll::Pending;
            };
            match flight.poll_timer(wake_at, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Pending => return Poll::Pending,
                // A runtime without timers: nothing would end the call with its deadline. Without one it only has no further attempt.
                Poll::Ready(Err(status)) if deadline.is_some() => {
                    return Poll::Ready(FlightEnd::Outcome(Done(Err(status))));
                }
                Poll::Ready(Err(_)) => {
                    flight.schedule.stop();
                    continue;
                }
            }
            if deadline.is_some_and(|deadline| deadline.has_passed()) {
                return self.deadline_passed(flight);
            }
            let now = self.now().time();
            match flight.action(now, self.attempts) {
                Action::Wait => {}
                Action::Resend => self.resend(flight, SentBecause::UnprocessedAll, now),
                Action::Hedge => self.hedge(flight, now),
                Action::Replace(index) => self.replace(flight, index, now),
            }
        }
    }

    /// Polls each attempt once, the oldest first. Ready if the call is over, or if its last attempt has failed.
    fn poll_attempts(&mut self, flight: &mut Flight, cx: &mut Context<'_>) -> Poll<FlightEnd> {
        let mut index = 0;
        while let Some((attempt, arrival)) = flight.poll_next(&mut index, self.wait_limits.deadline, cx) {
            let outcome = match arrival {
                Arrival::Failed(failure, exchange, mut reporter) => {
                    let timer = DeadlineTimer::new(self.wait_limits.deadline);
                    self.on_failure(failure, exchange.into_body(), &mut reporter, &timer)
                }
                Arrival::Head(response, exchange, reporter) => {
                    let timer = DeadlineTimer::new(self.wait_limits.deadline);
                    match self.on_response(response, exchange, reporter, timer, cx) {
                        AfterHead::Decided(outcome) => {
                            flight.is_ok = is_ok(&outcome);
                            outcome
                        }
                        AfterHead::HoldBack(held_back) => {
                            flight.hold_back(index, attempt, held_back); // it is polled next
                            continue;
                        }
                        AfterHead::Describe(_, true) if !flight.is_empty() => {
                            self.others_go_on(flight, &attempt);
                            continue;
                        }
                        AfterHead::Describe(status, _) => return Poll::Ready(FlightEnd::Describe(status)),
                        AfterHead::FurtherDue => continue, // said of an attempt without a head only
                    }
                }
                Arrival::Status(read, held_back) => {
                    flight.is_ok = matches!(read, Ok((Code::Ok, _)));
                    self.on_held_back(read, held_back)
                }
            };
            match outcome {
                Failed(result) if !flight.is_empty() => self.earlier.ended(result),
                Retry(..) if !flight.is_empty() => {}
                Unprocessed(_) if !flight.is_empty() => {
                    let pause = self.earlier.take_pause();
                    // Of a call that may end connections one is risked already: one that is in flight.
                    if !self.is_suspect {
                        let now = self.now().time();
                        match pause {
                            None => self.resend(flight, SentBecause::Unprocessed, now),
                            Some(pause) => flight.schedule.resend_at(now.checked_add(pause)),
                        }
                    }
                    continue;
                }
                outcome => return Poll::Ready(FlightEnd::Outcome(outcome)),
            }
            self.others_go_on(flight, &attempt);
        }
        Poll::Pending
    }

    /// An attempt has failed while others are in flight. Its server gets no further attempt, and may have a word in those to come.
    fn others_go_on(&mut self, flight: &mut Flight, attempt: &Attempt) {
        self.mark_tried(&attempt.server.subchannel);
        match std::mem::replace(&mut self.pushback, Pushback::None) {
            Pushback::None => {}
            Pushback::Never => {
                self.pushback = Pushback::Never;
                flight.schedule.forbid();
            }
            Pushback::After(millis) => {
                let pause = Duration::from_millis(millis.into());
                flight.schedule.delay(self.now().time().saturating_add(pause));
            }
        }
    }

    /// Returns after what time the call is hedged, if it is.
    fn hedge_delay(&self, now: Duration) -> Option<Duration> {
        let retry = self.retry.as_ref()?;
        match retry.timing.hedge? {
            HedgeDelay::After(delay) => Some(delay),
            HedgeDelay::Quantile(part, at_least) => {
                retry.durations.as_ref()?.quantile(part, now).map(|delay| delay.max(at_least))
            }
        }
    }

    /// Adds a call with this outcome, if that is OK and a quantile is asked for.
    pub(super) fn add_duration_of(&self, outcome: &AttemptOutcome, sent_at: Duration) {
        if is_ok(outcome) {
            self.add_duration(sent_at);
        }
    }

    /// Adds a call that has ended with OK, if a quantile is asked for.
    fn add_duration(&self, sent_at: Duration) {
        if let Some(durations) = self.retry.as_ref().and_then(|retry| retry.durations.as_ref()) {
            let now = self.now().time();
            // Milliseconds are exact enough for a call that was retried; any other counts from `sent_at`.
            let since_first = wrapping_ms(now).wrapping_sub(self.first_sent_ms).saturating_sub(1);
            let since_first = Duration::from_millis(since_first.into());
            durations.add(now.saturating_sub(sent_at).max(since_first), now);
        }
    }
}

/// Milliseconds, modulo 2^32, and never 0.
pub(super) fn wrapping_ms(time: Duration) -> u32 {
    ((time.as_millis() & u128::from(u32::MAX)) as u32).max(1)
}

/// Whether a response has begun, or was OK as a whole.
fn is_ok(outcome: &AttemptOutcome) -> bool {
    let Done(Ok(response)) = outcome else { return false };
    let code = response.body().code().or_else(|| status::code_in(response.headers()));
    code.is_none_or(|code| code == Code::Ok)
}
