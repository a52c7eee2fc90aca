//! HTTP/2 keep-alive that servers with ping enforcement tolerate: PINGs only while calls wait, only
//! after silence, and few while the server sends nothing but acknowledgements. Whatever is read is
//! a sign of life.
//!
//! With the defaults (interval 20 s, timeout 10 s), a server that freezes is detected like this:
//!
//! ```text
//!   0 s   the last frame is read; calls are in flight
//!  20 s   check: silent for the interval → PING is queued, and written at the next poll
//!  30 s   check: still nothing was read → `Unresponsive`, all calls fail
//!  40 s   the same, if the PING could not be written or the check at 30 s came too late
//! ```

use std::task::Context;

use tokio::time::Instant;

use crate::connection::driver::pings::{PAUSE_IN_FLIGHT, PingSender, PingTimeout};
use crate::connection::options::KeepAlive;
use crate::connection::shared::Shared;
use crate::connection::state::{CloseKind, CloseReason};

/// Decides when keep-alive sends a PING, and when the server is dead. Part of
/// [`Timers`](super::timers::Timers).
pub(crate) struct KeepAliveTimer {
    options: KeepAlive,
    /// PINGs are sent also while no call waits.
    while_idle: bool,
    timeout: PingTimeout,
    /// The number of streams that were opened at the last check.
    opened: u32,
}

impl KeepAliveTimer {
    /// Counts from the first check, one interval from now.
    pub(crate) fn new(options: KeepAlive, while_idle: bool) -> Self {
        Self { options, while_idle, timeout: PingTimeout::new(options.timeout), opened: 0 }
    }

    /// Returns when to check next. Sends a PING if one is due.
    ///
    /// # Errors
    /// Why the server is dead: a PING was not acknowledged in time, and nothing else was read
    /// either.
    pub(crate) fn check(
        &mut self,
        now: Instant,
        pings: &mut PingSender,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Result<Instant, CloseReason> {
        if let Some(ping) = pings.unanswered() {
            return self.timeout.deadline(now, ping).ok_or_else(|| self.dead());
        }
        let (interval, last_read) = (self.options.interval, pings.last_read());
        if now < last_read + interval {
            return Ok(last_read + interval);
        }
        // Not `PAUSE_IDLE` without calls: a user who sets `while_idle` says that the servers permit
        // PINGs then.
        if (self.is_in_use(shared) || self.while_idle)
            && (pings.is_allowed(now, PAUSE_IN_FLIGHT, shared) || self.options.unthrottled)
        {
            pings.send(now, cx);
            return Ok(now + self.options.timeout);
        }
        Ok(now + interval)
    }

    /// Whether calls are in flight, or have begun since the last check, or something else is waited
    /// for. So a dead server is also detected if its callers give up soon.
    fn is_in_use(&mut self, shared: &Shared) -> bool {
        let before = std::mem::replace(&mut self.opened, shared.streams.opened());
        before != self.opened || shared.is_waited_for()
    }

    /// The reason of the end.
    fn dead(&self) -> CloseReason {
        let (interval, timeout) = (self.options.interval.as_millis(), self.options.timeout.as_millis());
        let why = format!("keep-alive: silent for {interval} ms, and no answer to a ping in {timeout} ms");
        CloseReason::new(CloseKind::Unresponsive, why)
    }
}
