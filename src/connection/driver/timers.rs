//! The timer of a connection: one for keep-alive and for the idle timeout.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::PingPong;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::connection::driver::idle::{IdleTimer, PROBE_TIMEOUT};
use crate::connection::driver::keepalive::KeepAliveTimer;
use crate::connection::driver::pings::{PAUSE_IDLE, PAUSE_IN_FLIGHT, PingSender, PingTimeout};
use crate::connection::driver::read_tracking::IoActivity;
use crate::connection::driver::registered::RegisteredTimer;
use crate::connection::options::Options;
use crate::connection::shared::Shared;
use crate::connection::state::CloseReason;

/// The next check if nothing has to be timed. A day: tokio's timers take no infinite times.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

/// What a timer or a command decides about a connection. The driver carries it out.
pub(crate) enum Decision {
    /// Close it at once. Its streams fail.
    Close(CloseReason),
    /// Open no more streams. Those in flight may finish.
    Drain(CloseReason),
}

/// Keep-alive and the idle timeout over one tokio timer, which runs until the earlier of their next
/// checks. A read moves those checks without a reset of the timer: it fires early, finds nothing to
/// do, and is set anew.
pub(crate) struct Timers {
    timer: Pin<Box<Sleep>>,
    registered: RegisteredTimer,
    pings: PingSender,
    keep_alive: Option<KeepAliveTimer>,
    idle: Option<IdleTimer>,
    /// While the server has to prove that it lives.
    proof: Option<PingTimeout>,
    /// See [`KeepAlive::unthrottled`](crate::KeepAlive::unthrottled). Holds for probes too.
    unthrottled: bool,
}

impl Timers {
    /// Starts the timer.
    pub(crate) fn new(options: &Options, h2: PingPong, activity: Arc<IoActivity>) -> Self {
        let first_checks = [options.keep_alive.map(|keep_alive| keep_alive.interval), options.idle_timeout];
        let first_check = first_checks.into_iter().flatten().min().unwrap_or(FAR);
        let keep_alive = |keep_alive| KeepAliveTimer::new(keep_alive, options.keep_alive_while_idle);
        Self {
            timer: Box::pin(sleep_until(Instant::now() + first_check)),
            registered: RegisteredTimer::default(),
            pings: PingSender::new(h2, activity),
            keep_alive: options.keep_alive.map(keep_alive),
            idle: options.idle_timeout.map(IdleTimer::new),
            proof: None,
            unthrottled: options.keep_alive.is_some_and(|keep_alive| keep_alive.unthrottled),
        }
    }

    /// Whether the connection opens no stream until something is read.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.as_ref().is_some_and(IdleTimer::is_idle)
    }

    /// Called after each poll of h2, before anything else of this.
    pub(crate) fn observe(&mut self) {
        self.pings.observe();
        if let Some(idle) = &mut self.idle
            && idle.observe(&self.pings)
        {
            self.check_now();
        }
    }

    /// Sends a PING on request. Sends none if keep-alive is off: nothing would time its answer.
    pub(crate) fn ping(&mut self, cx: &mut Context<'_>) {
        if self.keep_alive.is_some() {
            self.pings.send_on_request(Instant::now(), cx);
            self.check_now();
        }
    }

    /// Sends a PING, unless one is unanswered, which the server has a second to answer: otherwise the
    /// connection drains. Returns what to do if servers would take one more PING for one too many.
    pub(crate) fn prove(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Decision> {
        let now = Instant::now();
        if self.pings.unanswered().is_none() {
            let pause = if shared.is_waited_for() { PAUSE_IN_FLIGHT } else { PAUSE_IDLE };
            if !self.pings.is_one_more_allowed(now, pause, shared) && !self.unthrottled {
                return Some(Decision::Drain(not_proven("it was pinged as often as servers permit")));
            }
            self.pings.send(now, cx);
        }
        self.proof = Some(PingTimeout::new(PROBE_TIMEOUT));
        self.check_now();
        None
    }

    /// Returns when to check again that the server has proven that it lives.
    ///
    /// # Errors
    /// It has not.
    fn check_proof(&mut self, now: Instant) -> Result<Option<Instant>, CloseReason> {
        let (Some(timeout), Some(ping)) = (&mut self.proof, self.pings.unanswered()) else {
            self.proof = None; // something was read
            return Ok(None);
        };
        if let Some(next) = timeout.deadline(now, ping) {
            return Ok(Some(next));
        }
        self.proof = None;
        Err(not_proven(&format!("no answer to a ping in {} ms", PROBE_TIMEOUT.as_millis())))
    }

    /// Probes an idle connection for a call. Returns what to do if that is not possible.
    pub(crate) fn probe(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Option<Decision> {
        let idle = self.idle.as_mut()?;
        let probed = idle.probe(Instant::now(), &mut self.pings, shared, self.unthrottled, cx);
        self.check_now();
        probed.err().map(Decision::Drain)
    }

    /// Lets the next poll check everything: something has happened that may move a deadline
    /// forward.
    pub(crate) fn check_now(&mut self) {
        self.reset(Instant::now());
    }

    fn reset(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
        self.registered.clear();
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_quiet = !self.timer.is_elapsed();
        self.registered.poll(cx, is_quiet, |cx| self.timer.as_mut().poll(cx))
    }

    /// Waits for a decision. Must be polled again after [`Decision::Drain`]: keep-alive still
    /// watches the streams in flight.
    pub(crate) fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Decision> {
        while self.poll_timer(cx).is_ready() {
            let now = Instant::now();
            let keep_alive = self.keep_alive.as_mut().map(|timer| timer.check(now, &mut self.pings, shared, cx));
            let idle = self.idle.as_mut().map(|timer| timer.check(now, &mut self.pings, shared, self.unthrottled, cx));
            let proof = self.check_proof(now);
            if let Some(Err(reason)) = keep_alive {
                return Poll::Ready(Decision::Close(reason));
            }
            let next_proof = proof.as_ref().ok().and_then(Option::as_ref);
            let next = [&keep_alive, &idle].into_iter().flatten().flatten().chain(next_proof).min();
            // No next check: there is no keep-alive, and the idle timeout has abandoned the
            // connection.
            self.reset(next.copied().unwrap_or(now + FAR));
            if let Some(Err(reason)) = idle {
                return Poll::Ready(Decision::Drain(reason));
            }
            if let Err(reason) = proof {
                return Poll::Ready(Decision::Drain(reason));
            }
        }
        Poll::Pending
    }
}

/// The reason of a connection that drains because the server has not proven that it lives.
fn not_proven(why: &str) -> CloseReason {
    CloseReason::silent(format!("asked whether the server lives, and {why}"))
}
