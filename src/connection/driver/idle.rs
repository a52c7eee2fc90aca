//! The idle timeout: a connection on which nothing was read for long opens no stream until it has
//! proven that it is alive. NATs and load balancers forget idle connections, and tell neither side.
//! A call over a forgotten connection would hang until keep-alive detects that, half a minute later.
//!
//! With the default of 5 min:
//!
//! ```text
//!  0 s          the last frame is read
//!  5 min        the stream limit becomes 0: calls go to other servers
//!  a call asks  `Connection::probe` → PING; calls without another server wait
//!  ≤ 1 s later  anything is read → the limit is back, waiting calls are woken
//!    1 s later  nothing was read → the connection drains, and a new one is made
//! ```
//!
//! An idle connection on which something is awaited that no call asks for, such as an unhealthy server's
//! word that it serves again, is probed at once, and then as often as servers permit.

use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::driver::pings::{PAUSE_IDLE, PAUSE_IN_FLIGHT, PingSender, PingTimeout};
use crate::connection::shared::Shared;
use crate::connection::state::CloseReason;

/// How long a probe may take. Calls wait for it, so it is as short as a round trip over a bad
/// network allows.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The next check if nothing has to be timed. A day: tokio's timers take no infinite times.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);
/// How soon a probe that servers would take for one too many is tried again.
const PROBE_AGAIN: Duration = Duration::from_secs(10);

/// Watches for idleness, and times the probe. Part of [`Timers`](super::timers::Timers), which
/// tells it of reads and of time.
pub(crate) struct IdleTimer {
    timeout: Duration,
    state: IdleState,
    probe: PingTimeout,
}

/// The driver's side of [`ConnectionState`](crate::connection::ConnectionState): it is compared
/// after each poll of the driver, so it holds what tells a read without a lock.
#[derive(Clone, Copy, PartialEq)]
enum IdleState {
    /// Something was read within the idle timeout. Becomes `Idle`.
    Active,
    /// Nothing was read for the idle timeout, since this number of bytes in all. A read makes it
    /// `Active`, a call `Probing`.
    Idle(u64),
    /// A PING was sent for a call, and nothing was read since this number of bytes. A read makes it
    /// `Active`, time `Abandoned`.
    Probing(u64),
    /// The probe failed or was not allowed: the connection drains. The last state.
    Abandoned,
}

impl IdleTimer {
    /// Starts as active: the handshake has just read something.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, state: IdleState::Active, probe: PingTimeout::new(PROBE_TIMEOUT) }
    }

    /// Whether the connection opens no stream until something is read.
    pub(crate) fn is_idle(&self) -> bool {
        self.state != IdleState::Active
    }

    /// Called after each poll of h2. Returns whether something was read that makes an idle
    /// connection active.
    pub(crate) fn observe(&mut self, pings: &PingSender) -> bool {
        let (IdleState::Idle(bytes) | IdleState::Probing(bytes)) = self.state else { return false };
        let is_read = pings.bytes_read() != bytes;
        if is_read {
            self.state = IdleState::Active;
        }
        is_read
    }

    /// Returns when to check next.
    ///
    /// # Errors
    /// Why the connection is abandoned: the probe was not acknowledged in time.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        pings: &mut PingSender,
        shared: &Shared,
        unthrottled: bool,
        cx: &mut Context<'_>,
    ) -> Result<Instant, CloseReason> {
        match self.state {
            IdleState::Active if now < pings.last_read() + self.timeout => Ok(pings.last_read() + self.timeout),
            IdleState::Active => {
                self.state = IdleState::Idle(pings.bytes_read());
                shared.become_idle();
                Ok(self.probe_if_awaited(now, pings, shared, unthrottled, cx))
            }
            IdleState::Probing(_) => match pings.unanswered().map(|ping| self.probe.deadline(now, ping)) {
                Some(Some(next)) => Ok(next),
                Some(None) => Err(self.abandon(&format!("no answer to a ping in {} ms", PROBE_TIMEOUT.as_millis()))),
                // Something was read just now: `observe` sees it after the next poll of h2.
                None => Ok(now + PROBE_TIMEOUT),
            },
            IdleState::Idle(_) => Ok(self.probe_if_awaited(now, pings, shared, unthrottled, cx)),
            IdleState::Abandoned => Ok(now + FAR),
        }
    }

    /// Probes the idle connection if something is awaited on it that no call asks for. Nobody waits for
    /// the answer as calls do: a probe that is not allowed is made later. Returns when to check next.
    fn probe_if_awaited(
        &mut self,
        now: Instant,
        pings: &mut PingSender,
        shared: &Shared,
        unthrottled: bool,
        cx: &mut Context<'_>,
    ) -> Instant {
        let IdleState::Idle(bytes) = self.state else { return now + FAR };
        if !shared.is_awaited.load(Ordering::Relaxed) {
            return now + FAR;
        }
        let is_sent = pings.unanswered().is_some();
        if !is_sent && !pings.is_allowed(now, PAUSE_IN_FLIGHT, shared) && !unthrottled {
            return now + PROBE_AGAIN;
        }
        // A call may just have begun the same, and is about to tell.
        if shared.begin_probe() {
            if !is_sent {
                pings.send(now, cx);
            }
            self.state = IdleState::Probing(bytes);
        }
        now + PROBE_TIMEOUT
    }

    /// A call wants the connection. Sends a PING, unless one is on its way. No limit of PINGs holds
    /// if they are `unthrottled`.
    ///
    /// # Errors
    /// Why the connection is abandoned: servers would take one more PING for one too many.
    pub(crate) fn probe(
        &mut self,
        now: Instant,
        pings: &mut PingSender,
        shared: &Shared,
        unthrottled: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), CloseReason> {
        let IdleState::Idle(bytes) = self.state else { return Ok(()) };
        if pings.unanswered().is_none() {
            let pause = if shared.is_waited_for() { PAUSE_IN_FLIGHT } else { PAUSE_IDLE };
            if !pings.is_allowed(now, pause, shared) && !unthrottled {
                return Err(self.abandon("pinged as often as servers permit"));
            }
            pings.send(now, cx);
        }
        self.state = IdleState::Probing(bytes);
        Ok(())
    }

    /// Leaves the connection for good, and returns the reason.
    fn abandon(&mut self, why: &str) -> CloseReason {
        self.state = IdleState::Abandoned;
        CloseReason::silent(format!("idle: silent for {} ms, and {why}", self.timeout.as_millis()))
    }
}
