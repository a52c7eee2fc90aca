//! The wait for a server: in the queue, or for the policy.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};

use crate::balance::call::pick::{PickOutcome, PickRequest, WaitLimits};
use crate::balance::partition::Partition;
use crate::balance::pool::ready::PublishedServer;
use crate::balance::queue::WaiterKind;

impl Partition {
    /// Waits in the queue until a server has room. A call that may leave returns with [`PickOutcome::NoneReady`] when no server is
    /// ready any more. Until the time `avoids_until` it takes only servers that do not refuse calls, and afterwards any.
    ///
    /// # Errors
    /// When no server can come, or the call's time to wait is over.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the position in the queue, and passes its turn on.
    pub(crate) async fn wait_for_server(
        &self,
        request: &PickRequest<'_>,
        limits: WaitLimits,
        may_leave: bool,
        mut avoids_until: Option<Instant>,
    ) -> Result<PickOutcome, Status> {
        let mut request = PickRequest { avoids_refusing: avoids_until.is_some(), ..*request };
        let leaves = || may_leave && !self.ready.load().is_ready();
        if !leaves() {
            self.check_worth_waiting(limits)?;
        }
        let kind =
            WaiterKind { wait_for_ready: limits.wait_for_ready, may_leave, avoids_refusing: request.avoids_refusing };
        let mut ticket = self.queue.enter(kind);
        self.look_for_growth();
        loop {
            // Once more, after the call has entered the queue: a change from now on wakes it, and one from before is seen here.
            if leaves() {
                return Ok(PickOutcome::NoneReady);
            }
            self.check_worth_waiting(limits)?;
            self.look_for_room();
            let turn = if let Some(end) = avoids_until {
                let Ok(turn) = self.within_limits(limits, "", timeout_at(end, ticket.turn())).await? else {
                    (avoids_until, request.avoids_refusing, request.failed_servers) = (None, false, &[]);
                    ticket.take_any();
                    continue;
                };
                turn
            } else {
                self.within_limits(limits, "", ticket.turn()).await?
            };
            match self.pick(&request, Some(turn)) {
                PickOutcome::Picked(picked) => {
                    ticket.served();
                    self.look_for_room();
                    return Ok(PickOutcome::Picked(picked));
                }
                PickOutcome::Full if request.avoids_refusing && !self.has_room_beside(&request) => {
                    ticket.decline();
                    self.look_for_growth();
                }
                // Servers that have failed this call may have room for the calls behind it: it must not hold those up.
                PickOutcome::Full if !request.failed_servers.is_empty() => return Ok(PickOutcome::AllFailed),
                // The same holds for a call for which its picker has no server.
                none @ (PickOutcome::AllFailed | PickOutcome::Wait | PickOutcome::Fail(_)) => return Ok(none),
                PickOutcome::Full | PickOutcome::NoneReady => {
                    ticket.wait_again();
                    // What it was woken for may be no stream, but what kept a server from getting a further connection.
                    self.look_for_growth();
                }
            }
        }
    }

    /// Whether a server has room that takes calls, and has failed this one. It would be woken for that again and again.
    fn has_room_beside(&self, request: &PickRequest<'_>) -> bool {
        let failed = request.failed_servers;
        let ready = self.ready.load();
        ready.servers.iter().any(|server| !server.refuses() && server.has_capacity() && server.is_among(failed))
    }

    /// Whether a server is ready that has taken the last call that it got.
    pub(crate) fn has_taking_server(&self) -> bool {
        self.ready.load().servers.iter().any(|server| !server.refuses() && !server.is_closing())
    }

    /// Waits until the set changes or the policy notifies, after the picker has returned [`Pick::Wait`]. Meanwhile the call is
    /// not in the queue: it holds up no other.
    ///
    /// # Errors
    /// When the call's time to wait is over.
    pub(crate) async fn wait_for_picker(
        &self,
        request: &PickRequest<'_>,
        limits: WaitLimits,
    ) -> Result<PickOutcome, Status> {
        let mut notified = pin!(self.pick_notifier.notified());
        notified.as_mut().enable();
        // After it listens: this pick sees a change from before, and a later one wakes the call.
        let outcome = self.pick(request, None);
        if !matches!(outcome, PickOutcome::Wait) {
            return Ok(outcome);
        }
        self.within_limits(limits, "the policy picked none: ", notified).await?;
        Ok(PickOutcome::Wait)
    }

    /// Refuses to wait if the state of the channel says that no server can come.
    fn check_worth_waiting(&self, limits: WaitLimits) -> Result<(), Status> {
        // The status first: the pool stores servers before it publishes the status that speaks of them.
        let fails = self.status.borrow().fails_calls(limits.wait_for_ready);
        if fails && self.ready.load().servers.iter().all(PublishedServer::is_closing) {
            return Err(self.unavailable_status(Code::Unavailable, ""));
        }
        Ok(())
    }

    /// Sleeps, or fails when the call's time to wait is over before.
    pub(crate) async fn sleep(&self, pause: Duration, limits: WaitLimits) -> Result<(), Status> {
        self.within_limits(limits, "", tokio::time::sleep(pause)).await
    }

    /// Returns the time at which the call stops waiting: its deadline, or the end of the wait limit.
    pub(crate) fn wait_end(&self, limits: WaitLimits) -> Option<Instant> {
        let limit = (!limits.wait_for_ready).then(|| limits.started.checked_add(self.settings.wait_limit)).flatten();
        let deadline = limits.deadline.map(|deadline| deadline.at);
        limit.into_iter().chain(deadline).min()
    }

    /// Waits for `future`, and fails when the call's time to wait is over before. `reason` is added to the text.
    pub(crate) async fn within_limits<F: Future>(
        &self,
        limits: WaitLimits,
        reason: &str,
        future: F,
    ) -> Result<F::Output, Status> {
        let Some(end) = self.wait_end(limits) else { return Ok(future.await) };
        timeout_at(end, future).await.map_err(|_| {
            let is_late = limits.deadline.is_some_and(|deadline| deadline.has_passed());
            let code = if is_late { Code::DeadlineExceeded } else { Code::Unavailable };
            self.unavailable_status(code, &format!("waited {} ms: {reason}", limits.started.elapsed().as_millis()))
        })
    }
}
