//! The attempts of a call that are in flight, and the timer for what is due. No tasks: all are polled in the caller's.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::balance::call::attempts::schedule::{Action, Schedule, SentAttempt};
use crate::balance::call::deadline::Deadline;
use crate::balance::call::held_back::{HeldBack, ReadStatus};
use crate::balance::call::replay::ReplayBody;
use crate::balance::call::reporter::AttemptReporter;
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::runtime::timer::Timer;
use crate::connection::{Exchange, Failure, RecvStream};

/// The attempts in flight, the oldest first. Dropping it cancels them.
pub(super) struct Flight {
    attempts: Vec<(Attempt, Stage)>,
    pub(super) schedule: Schedule,
    /// Nothing is due before the request was read: it could not be sent a second time.
    pub(super) awaits_request: bool,
    /// The call ended with OK, or its response has begun.
    pub(super) is_ok: bool,
    timer: Timer,
    /// When the timer fires.
    timer_at: Option<Instant>,
}

/// What is known of an attempt in each of its stages.
pub(super) struct Attempt {
    pub(super) server: Arc<ReadySubchannel>,
    sent: SentAttempt,
}

#[allow(clippy::large_enum_variant)] // there are few of them
enum Stage {
    /// The request is being sent, and the head of the response awaited.
    Head(Exchange<ReplayBody>, AttemptReporter),
    /// The response is held back until its status has come.
    Status(HeldBack),
}

/// What a stage has waited for.
enum Polled {
    Head(Result<Response<RecvStream>, Failure>),
    Status(ReadStatus),
}

/// What has come of an attempt. It is not in flight any more.
pub(super) enum Arrival {
    Head(Response<RecvStream>, Exchange<ReplayBody>, AttemptReporter),
    Failed(Failure, Exchange<ReplayBody>, AttemptReporter),
    Status(ReadStatus, HeldBack),
}

impl Flight {
    pub(super) fn new(schedule: Schedule) -> Self {
        let (attempts, timer) = (Vec::new(), Timer::default());
        Self { attempts, schedule, awaits_request: false, is_ok: false, timer, timer_at: None }
    }

    /// Adds an attempt that was sent.
    pub(super) fn push(&mut self, exchange: Exchange<ReplayBody>, reporter: AttemptReporter, sent_at: Duration) {
        let attempt = Attempt { server: reporter.subchannel.clone(), sent: self.schedule.sent(sent_at) };
        self.attempts.push((attempt, Stage::Head(exchange, reporter)));
    }

    /// Adds an attempt whose response has begun and is held back.
    pub(super) fn push_held_back(&mut self, held_back: HeldBack, sent_at: Duration) {
        let attempt = Attempt { server: held_back.server.clone(), sent: self.schedule.sent(sent_at) };
        self.hold_back(self.attempts.len(), attempt, held_back);
    }

    /// Adds an attempt again, whose response has begun and is held back. Its server is what the call waits for.
    pub(super) fn hold_back(&mut self, index: usize, attempt: Attempt, mut held_back: HeldBack) {
        held_back.response.body_mut().set_end_awaited(true);
        self.attempts.insert(index, (attempt, Stage::Status(held_back)));
    }

    /// Polls the attempts from `index` on, and takes the first one out that something has come of. `index` is then that of the
    /// next one.
    pub(super) fn poll_next(
        &mut self,
        index: &mut usize,
        deadline: Option<Deadline>,
        cx: &mut Context<'_>,
    ) -> Option<(Attempt, Arrival)> {
        let awaits_head = self.attempts.iter().any(|(_, stage)| matches!(stage, Stage::Head(..)));
        while let Some((_, stage)) = self.attempts.get_mut(*index) {
            let polled = match stage {
                // It would end the call with its own timer, and an attempt without a head is to blame.
                Stage::Status(_) if awaits_head && deadline.is_some_and(|deadline| deadline.has_passed()) => {
                    Poll::Pending
                }
                Stage::Head(exchange, reporter) => {
                    let head = exchange.poll_head(cx);
                    reporter.record.sent = exchange.body().sent();
                    head.map(Polled::Head)
                }
                Stage::Status(held_back) => held_back.poll(cx).map(Polled::Status),
            };
            let Poll::Ready(polled) = polled else {
                *index += 1;
                continue;
            };
            let (attempt, stage) = self.attempts.remove(*index);
            let arrival = match (stage, polled) {
                (Stage::Head(exchange, reporter), Polled::Head(Ok(head))) => Arrival::Head(head, exchange, reporter),
                (Stage::Head(exchange, reporter), Polled::Head(Err(failure))) => {
                    Arrival::Failed(failure, exchange, reporter)
                }
                (Stage::Status(mut held_back), Polled::Status(read)) => {
                    held_back.response.body_mut().set_end_awaited(false);
                    Arrival::Status(read, held_back)
                }
                (Stage::Head(..), Polled::Status(_)) | (Stage::Status(_), Polled::Head(_)) => continue, // polled above as it is
            };
            return Some((attempt, arrival));
        }
        None
    }

    /// Whether no attempt is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn servers(&self) -> impl Iterator<Item = &Arc<ReadySubchannel>> {
        self.attempts.iter().map(|(attempt, _)| &attempt.server)
    }

    /// Returns when something is due. `ended` is the number of attempts that are over.
    pub(super) fn due_at(&mut self, ended: u32) -> Option<Duration> {
        if self.awaits_request {
            self.awaits_request = self.copy_of_request().is_none();
        }
        if self.awaits_request { None } else { self.schedule.due_at(ended, self.sent()) }
    }

    /// Returns what is due now.
    pub(super) fn action(&self, now: Duration, ended: u32) -> Action {
        self.schedule.action(now, ended, self.sent())
    }

    fn sent(&self) -> impl ExactSizeIterator<Item = &SentAttempt> + Clone {
        self.attempts.iter().map(|(attempt, _)| &attempt.sent)
    }

    /// No attempt could take the place of this one.
    pub(super) fn replacement_impossible(&mut self, index: usize, now: Duration) {
        if let Some((attempt, _)) = self.attempts.get_mut(index) {
            attempt.sent.replacement_impossible(now);
        }
    }

    /// Cancels an attempt, and returns its server.
    pub(super) fn give_up(&mut self, index: usize) -> Option<Arc<ReadySubchannel>> {
        (index < self.attempts.len()).then(|| self.attempts.remove(index).0.server)
    }

    /// Returns the request once more, if it was read and is kept.
    pub(super) fn copy_of_request(&self) -> Option<ReplayBody> {
        self.attempts.iter().find_map(|(_, stage)| match stage {
            Stage::Head(exchange, _) => exchange.body().copy(),
            Stage::Status(held_back) => held_back.request.as_ref()?.copy(),
        })
    }

    /// Is ready at this time.
    ///
    /// # Errors
    /// Where no timer can be made.
    pub(super) fn poll_timer(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if self.timer_at != Some(at) {
            (self.timer, self.timer_at) = (Timer::default(), Some(at));
        }
        self.timer.poll(at, cx)
    }

    /// Reports the passed deadline to the oldest attempt without a head, and returns its server. `None` if each has a head: they
    /// have timers of their own.
    pub(super) fn report_deadline(&mut self) -> Option<Arc<ReadySubchannel>> {
        let (attempt, reporter) = self.attempts.iter_mut().find_map(|(attempt, stage)| match stage {
            Stage::Head(_, reporter) => Some((attempt, reporter)),
            Stage::Status(_) => None,
        })?;
        reporter.report(Code::DeadlineExceeded);
        Some(attempt.server.clone())
    }
}
