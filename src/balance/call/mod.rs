//! One call: it picks a server, makes an attempt, and retries on another server if that is allowed.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the loop of a call: pick or wait, attempt, again |
//! | `state/` | what a call keeps between attempts |
//! | `routing.rs` | the partition of a call with a route |
//! | `pick/` | a server from the ready set, or a wait in the queue |
//! | `attempt.rs` | one request to one server, up to the head of the response |
//! | `attempts/` | several attempts at once: hedges, and attempts that are given up after their time |
//! | `held_back.rs` | a response that is held back until its status is known |
//! | `outcome.rs` | the decision after an attempt: the end of the call, or another attempt |
//! | `retry.rs` | the retry policy and its budget |
//! | `transparent.rs` | when a call that no server has processed is sent again; a pure machine |
//! | `replay.rs` | the request's body, kept for a retry |
//! | `response_body.rs` | the response's body, which ends with the deadline |
//! | `reporter.rs` | what an attempt reports about its server |
//! | `spans/` | the spans of a call and of its attempts |
//! | `deadline/` | deadlines, their timer, and the text of `grpc-timeout` |
//!
//! ```text
//!            ┌──────────────── Retry(body, pause) ───────────────┐
//!            ▼                                                   │
//! state ─▶ pick ──Picked──▶ attempt ──head or failure──▶ outcome ┴─Done─▶ caller reads ResponseBody
//!            │ ▲
//!            ▼ │ a turn
//!          queue
//! ```
//!
//! Rare waits are boxed futures: without that each call would carry the memory of all of them.

mod attempt;
pub(super) mod attempts;
pub(crate) mod deadline;
mod held_back;
mod outcome;
pub(super) mod pick;
pub(super) mod replay;
pub(super) mod reporter;
pub(super) mod response_body;
pub(super) mod retry;
pub(super) mod routing;
pub(super) mod spans;
mod state;
mod transparent;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::balance::call::outcome::AfterHead;
use crate::balance::call::pick::{PickOutcome, PickRequest, PickedServer, WaitLimits};
use crate::balance::call::response_body::ResponseBody;
use crate::balance::call::spans::CallSpan;
use crate::balance::call::state::{AttemptOutcome, CallState};
use crate::balance::metrics::{Another, CallRecord, WaitingCall};
use crate::balance::partition::Partition;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::shared::ChannelHandle;
use crate::balance::{runtime, status};

/// Makes a call. It holds the channel until its response has begun: a call outlives the clone that it was made with.
///
/// The state is made outside of the future, which would otherwise hold the request twice. The future should stay below 1 032 bytes:
/// larger ones leave the fast path of glibc's allocator (its per-thread cache). A test holds that.
pub(super) fn call(
    channel: Arc<ChannelHandle>,
    request: Request<tonic::body::Body>,
) -> impl Future<Output = Result<Response<ResponseBody>, Status>> + Send {
    let mut state = CallState::new(channel.shared.clone(), request);
    async move {
        state.begin();
        let mut result = state.run().await;
        drop(channel);
        finish(&mut result, state.record, state.span, &state.shared);
        result
    }
}

/// Ends a call with what its caller gets, or leaves that to the body of the response.
fn finish(
    result: &mut Result<Response<ResponseBody>, Status>,
    mut record: CallRecord,
    mut span: CallSpan,
    partition: &Partition,
) {
    match result {
        Ok(response) if response.body().is_over() => {
            record.end_now(status::code_in(response.headers()).unwrap_or(Code::Unknown));
        }
        Ok(response) => response.body_mut().end_call_with(record),
        Err(status) => {
            partition.settings.finish_status(status);
            record.end_now(status.code());
        }
    }
    span.head(result);
}

impl Partition {
    /// Lets a runtime that stood still before this time read its sockets first.
    async fn catch_up(&self, before: Nanos) {
        if let Some(pause) = self.pause_detector.pause_before(before) {
            let servers = self.servers.load().len();
            let connections = self.ready.load().connections();
            self.pause_detector.catch_up(pause, servers.max(connections), self.epoch).await;
        }
    }
}

impl CallState {
    async fn run(&mut self) -> Result<Response<ResponseBody>, Status> {
        runtime::require_runtime()?;
        let has_waited = self.shared.config.is_awaited() && runtime::require_timers().is_ok();
        if has_waited {
            Box::pin(self.await_service_config()).await?;
        }
        let started = self.record.begun_at();
        // The time at which the attempt is sent. It is the start as long as the call has waited for nothing: to read the clock
        // costs more than the pick.
        let mut now = (!has_waited).then_some(started);
        match self.shared.pause_detector.pause_before(started) {
            None => self.shared.pause_detector.mark_running(started),
            // The call waits in any case, and the runtime runs meanwhile.
            Some(_) if self.shared.all_full() => {}
            Some(_) => {
                Box::pin(self.shared.catch_up(started)).await;
                now = None;
            }
        }
        if self.wait_limits.deadline.is_some_and(|deadline| deadline.timeout().is_zero()) {
            return Err(self.deadline_exceeded_unsent());
        }
        loop {
            let picked = match self.pick() {
                PickOutcome::Picked(picked) => picked,
                none => {
                    now = None;
                    match Box::pin(self.find_server(none)).await {
                        Ok(found) => found,
                        Err(status) => return self.last_result_or(status),
                    }
                }
            };
            let sent_at = now.take().unwrap_or_else(|| self.now());
            // The attempt is part of the state and not of this future, which would hold it more than once.
            let outcome = match self.begin_attempt(picked, sent_at) {
                Ok(()) => 'outcome: {
                    let waits = match std::future::poll_fn(|cx| self.poll_attempt(cx)).await {
                        AfterHead::Decided(outcome) => {
                            if self.is_timed() {
                                self.add_duration_of(&outcome, sent_at.time());
                            }
                            break 'outcome outcome;
                        }
                        after_head => self.outcome_of(after_head, sent_at.time()),
                    };
                    waits.await
                }
                Err(outcome) => *outcome,
            };
            // What lives across the pause makes the future of each call larger.
            match outcome {
                AttemptOutcome::Done(result) | AttemptOutcome::Failed(result) => return result,
                AttemptOutcome::Retry(body, pause) => {
                    self.body = Some(body);
                    if !pause.is_zero() {
                        runtime::require_timers()?;
                        // A server had the call: this pause is bounded by the deadline alone.
                        let limits = WaitLimits { wait_for_ready: true, ..self.wait_limits };
                        if let Err(status) = Box::pin(self.pause(pause, limits)).await {
                            return self.last_result_or(status);
                        }
                    }
                    self.begin_again(Another::Retry, sent_at);
                }
                AttemptOutcome::Unprocessed(body) => {
                    self.body = Some(body);
                    self.span.next_is_transparent();
                    self.begin_again(Another::TransparentRetry, sent_at);
                }
            }
        }
    }

    /// Begins another attempt, after the one that was sent then.
    fn begin_again(&mut self, why: Another, sent_at: Nanos) {
        self.restore_headers();
        let now = self.now();
        self.record.again(why, now);
        // Neither the attempt nor the pause is a wait for a server: the wait limit does not count them.
        self.wait_limits.started += now.since(sent_at).time();
    }

    /// Pauses before a retry.
    ///
    /// # Errors
    /// When the call's time to wait is over before.
    async fn pause(&mut self, pause: Duration, limits: WaitLimits) -> Result<(), Status> {
        self.record.begin_delay(self.now());
        let slept = self.shared.sleep(pause, limits).await;
        self.record.end_delay(self.now());
        slept
    }

    /// Returns the present time, since the channel's epoch.
    fn now(&self) -> Nanos {
        Nanos::new(self.shared.since_epoch(Instant::now()))
    }

    /// Picks a server, unless the call has to pause before: then it is as if all had failed.
    fn pick(&self) -> PickOutcome {
        if self.earlier.is_empty() {
            return self.shared.pick(&self.pick_request(), None);
        }
        if self.earlier.is_paused() {
            return PickOutcome::AllFailed;
        }
        self.pick_of(&self.shared, &self.pick_request())
    }

    /// Picks a server of a partition, and rather one that takes calls, if the call was refused before: it waits for those
    /// before it goes to others.
    fn pick_of(&self, partition: &Partition, request: &PickRequest<'_>) -> PickOutcome {
        if self.earlier.was_refused()
            && let outcome @ (PickOutcome::Picked(_) | PickOutcome::Full) =
                partition.pick(&PickRequest { avoids_refusing: true, ..*request }, None)
        {
            return outcome;
        }
        partition.pick(request, None)
    }

    /// Waits for a server that takes the call, after the first pick has found none.
    ///
    /// # Errors
    /// When waiting is pointless, or has lasted too long.
    async fn find_server(&mut self, mut outcome: PickOutcome) -> Result<PickedServer, Status> {
        let _waiting = WaitingCall::new(self.shared.channel().clone());
        loop {
            if !matches!(outcome, PickOutcome::Picked(_)) {
                runtime::require_timers()?; // each way of waiting needs one
            }
            outcome = match outcome {
                PickOutcome::Picked(picked) => return Ok(picked),
                PickOutcome::Fail(status) => return Err(status),
                PickOutcome::NoneReady | PickOutcome::AllFailed if self.may_fall_back() => self.find_either().await?,
                PickOutcome::Wait => self.shared.wait_for_picker(&self.pick_request(), self.wait_limits).await?,
                PickOutcome::Full | PickOutcome::NoneReady => {
                    let (limits, may_leave, pause) = (self.wait_limits, self.may_fall_back(), self.pause_for_room());
                    self.shared.wait_for_server(&self.pick_request(), limits, may_leave, pause).await?
                }
                PickOutcome::AllFailed => self.next_round().await?,
            };
        }
    }

    /// Until when a call that was refused waits for servers that do not refuse calls, before it goes to any: for as long
    /// as it would pause. `None` if none has refused it, or if there are no other servers.
    fn pause_for_room(&mut self) -> Option<Instant> {
        if !self.earlier.was_refused() || !self.shared.has_taking_server() {
            return None;
        }
        let now = self.wait_limits.started.elapsed();
        let pause = self.earlier.begun_transparent_retries()?.on_no_room(now);
        Some(Instant::now() + pause) // some seconds at most
    }

    /// The call pauses, because it was refused often, or because each ready server has failed it: those get another
    /// chance then.
    ///
    /// # Errors
    /// When the call's time to wait is over, or would be after the pause.
    async fn next_round(&mut self) -> Result<PickOutcome, Status> {
        let now = self.wait_limits.started.elapsed();
        let pause = self.earlier.take_pause().or_else(|| {
            self.failed_servers.clear();
            self.earlier.begun_transparent_retries().map(|retries| retries.on_all_refused(now))
        });
        if let Some(pause) = pause {
            let end = Instant::now() + pause; // some seconds at most
            if self.shared.wait_end(self.wait_limits).is_some_and(|wait_end| end >= wait_end)
                && let Some(refusal) = self.take_refusal()
            {
                return Err(refusal);
            }
            self.pause(pause, self.wait_limits).await?;
        }
        let picked = self.pick();
        if matches!(picked, PickOutcome::AllFailed) {
            self.failed_servers.clear(); // the pause before was long enough
            return Ok(self.pick());
        }
        Ok(picked)
    }
}

#[cfg(all(test, target_pointer_width = "64"))]
mod tests {
    use std::convert::Infallible;

    use tower::discover::Change;

    use super::*;
    use crate::balance::channel::BalancedChannel;
    use crate::instance::Instance;

    /// A field more, or a local that lives across a wait, costs each call some three hundred instructions once it is larger.
    #[tokio::test]
    async fn the_future_of_a_call_fits_into_the_allocators_cache() {
        let discover = tokio_stream::pending::<Result<Change<u8, Instance>, Infallible>>();
        let channel = BalancedChannel::builder().build_with_discovery("greeter", discover).unwrap();
        let future = call(channel.0.clone(), Request::new(tonic::body::Body::empty()));
        assert!(size_of_val(&future) <= 1_032, "{} bytes", size_of_val(&future));
    }
}
