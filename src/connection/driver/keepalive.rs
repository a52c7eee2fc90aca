//! HTTP/2 keep-alive that servers with ping enforcement forgive: pings only where calls wait for something, only after
//! silence, and seldom while the server answers nothing but pings. Whatever is read counts as a sign of life.

use std::task::Context;

use tokio::time::Instant;

use crate::connection::Shared;
use crate::connection::driver::pings::{Activity, PingTimeout, Pings};
use crate::connection::options::KeepAlive;

pub(crate) struct KeepAliveTimer {
    options: KeepAlive,
    /// Pings also where no call waits.
    while_idle: bool,
    answer: PingTimeout,
}

impl KeepAliveTimer {
    pub(crate) fn new(options: KeepAlive, while_idle: bool) -> Self {
        Self { options, while_idle, answer: PingTimeout::new(options.timeout) }
    }

    /// When to look next.
    ///
    /// # Errors
    /// The reason, when the server is taken for dead.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        pings: &mut Pings,
        shared: &Shared,
        cx: &mut Context<'_>,
    ) -> Result<Instant, String> {
        if let Some(ping) = pings.awaited() {
            return self.answer.until(now, ping).ok_or_else(|| self.reason());
        }
        let (interval, heard) = (self.options.interval, pings.heard());
        if now < heard + interval {
            return Ok(heard + interval);
        }
        if (shared.is_waited_for() || self.while_idle) && self.may_ping(pings, shared, now) {
            pings.send(now, cx);
            return Ok(now + self.answer.time());
        }
        Ok(now + interval)
    }

    /// Pings now, whatever was heard, unless a ping was sent a moment ago or its answer is awaited.
    pub(crate) fn ping(now: Instant, pings: &mut Pings, cx: &mut Context<'_>) {
        if pings.awaited().is_none() && !pings.is_just_sent(now) {
            pings.send(now, cx);
        }
    }

    fn may_ping(&self, pings: &mut Pings, shared: &Shared, now: Instant) -> bool {
        // Whoever wants idle connections pinged says that the servers permit pings without calls.
        pings.may_send(shared, now, Activity::InFlight) || self.options.unthrottled
    }

    fn reason(&self) -> String {
        let (silence, answer) = (self.options.interval.as_millis(), self.options.timeout.as_millis());
        format!("keep-alive: silent for {silence} ms, and no answer to a ping in {answer} ms")
    }
}
